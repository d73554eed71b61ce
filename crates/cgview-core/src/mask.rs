//! Sets of CPU or NUMA node numbers, and the kernel's two ways to write them.

use alloc::vec::Vec;

use crate::parse::ParseError;

/// A set of CPU or node numbers, such as `0-3,8`.
///
/// The kernel prints them as lists (`%*pbl` of `lib/vsprintf.c`) and as masks (`%*pb`).
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Mask {
    // No trailing zero words, so that equal sets are equal values.
    words: Vec<u64>,
}

/// One more than the largest number that a mask may hold: more than any kernel's `NR_CPUS`, so that a
/// hostile `0-4294967295` cannot make us allocate.
pub const MAX_NUMBERS: u32 = 1 << 16;

impl Mask {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Mask {
        Mask { words: Vec::new() }
    }

    /// The numbers from 0 to `count - 1`.
    #[must_use]
    pub fn first(count: u32) -> Mask {
        (0..count.min(MAX_NUMBERS)).collect()
    }

    /// Adds a number; one of [`MAX_NUMBERS`] or more is ignored.
    pub fn insert(&mut self, number: u32) {
        if number >= MAX_NUMBERS {
            return;
        }
        let word = number as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(bits) = self.words.get_mut(word) {
            *bits |= 1 << (number % 64);
        }
    }

    /// Whether it holds `number`.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }

    /// How many numbers it holds.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|bits| bits.count_ones()).sum()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Its numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.words).flat_map(|(index, &bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        })
    }

    /// The numbers that both hold.
    #[must_use]
    pub fn intersection(&self, other: &Mask) -> Mask {
        let mut words: Vec<u64> = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        while words.last() == Some(&0) {
            words.pop();
        }
        Mask { words }
    }

    /// Its `n`-th number, counted from 0: the physical CPU behind visible CPU `n`.
    #[must_use]
    pub fn nth(&self, n: u32) -> Option<u32> {
        self.iter().nth(n as usize)
    }

    /// How many of its numbers are below `number`: the visible CPU that stands for a physical one.
    #[must_use]
    pub fn rank(&self, number: u32) -> u32 {
        self.iter().take_while(|&n| n < number).fold(0, |count, _| count + 1)
    }

    /// Reads the kernel's list format, such as `0-3,8` (`cpuset.cpus.effective`, `cpu/online`).
    ///
    /// Blanks around it and an empty list are fine; so is a stride (`0-6:2/4`) as
    /// `bitmap_parselist()` takes it.
    ///
    /// # Errors
    ///
    /// [`ParseError`] if a part is not a number or a range, or too large.
    pub fn parse_list(text: &[u8]) -> Result<Mask, ParseError> {
        crate::parse::list::parse(text)
    }

    /// Writes the kernel's list format, without a newline.
    pub fn write_list(&self, out: &mut Vec<u8>) {
        let mut numbers = self.iter().peekable();
        let mut digits = itoa::Buffer::new();
        let mut separator: &[u8] = b"";
        while let Some(first) = numbers.next() {
            let mut last = first;
            while numbers.peek() == Some(&(last + 1)) {
                last += 1;
                numbers.next();
            }
            out.extend_from_slice(separator);
            out.extend_from_slice(digits.format(first).as_bytes());
            if last > first {
                out.push(b'-');
                out.extend_from_slice(digits.format(last).as_bytes());
            }
            separator = b",";
        }
    }

    /// Writes the kernel's mask format for a set of up to `bits` numbers, without a newline: groups of
    /// 32 bits in hexadecimal, highest first, the first group as wide as `bits` needs.
    pub fn write_hex(&self, bits: u32, out: &mut Vec<u8>) {
        let mut rest = bits.max(1);
        while rest > 0 {
            let width = if rest.is_multiple_of(32) { 32 } else { rest % 32 };
            rest -= width;
            for nibble in (0..width.div_ceil(4)).rev() {
                let at = rest + nibble * 4;
                let word = self.words.get(at as usize / 64).copied().unwrap_or(0);
                let value = (word >> (at % 64) & 0xf) as u32;
                out.push(char::from_digit(value, 16).unwrap_or('0') as u8);
            }
            if rest > 0 {
                out.push(b',');
            }
        }
    }
}

impl FromIterator<u32> for Mask {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Mask {
        let mut mask = Mask::new();
        for number in numbers {
            mask.insert(number);
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;

    fn list(mask: &Mask) -> String {
        let mut out = Vec::new();
        mask.write_list(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn hex(mask: &Mask, bits: u32) -> String {
        let mut out = Vec::new();
        mask.write_hex(bits, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lists_are_written_as_the_kernel_does() {
        let mask: Mask = [0, 1, 2, 3, 8, 64, 65].into_iter().collect();
        assert_eq!(list(&mask), "0-3,8,64-65");
        assert_eq!(list(&Mask::new()), "");
        assert_eq!((mask.nth(4), mask.nth(7), mask.rank(64), mask.len()), (Some(8), None, 5, 7));
    }

    #[test]
    fn masks_are_written_as_the_kernel_does() {
        assert_eq!(hex(&Mask::first(2), 2), "3");
        assert_eq!(hex(&Mask::first(2), 64), "00000000,00000003");
        assert_eq!(hex(&[0, 33].into_iter().collect(), 36), "2,00000001");
        assert_eq!(hex(&[71].into_iter().collect(), 72), "80,00000000,00000000");
    }

    #[test]
    fn an_empty_intersection_equals_the_empty_set() {
        let high: Mask = [70].into_iter().collect();
        assert_eq!(high.intersection(&Mask::first(2)), Mask::new());
        assert!(high.intersection(&Mask::first(2)).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(numbers: Vec<u16>) {
            let mask: Mask = numbers.into_iter().map(u32::from).collect();
            prop_assert_eq!(Mask::parse_list(list(&mask).as_bytes()).unwrap(), mask);
        }
    }
}
