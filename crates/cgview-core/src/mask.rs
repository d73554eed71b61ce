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
        let mut mask = Mask::new();
        if let Some(last) = count.checked_sub(1) {
            mask.insert_range(0, last);
        }
        mask
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

    /// Adds all numbers from `first` to `last`; those of [`MAX_NUMBERS`] or more are ignored.
    pub fn insert_range(&mut self, first: u32, last: u32) {
        let last = last.min(MAX_NUMBERS - 1);
        if first > last {
            return;
        }
        let (start, end) = (first as usize / 64, last as usize / 64);
        if self.words.len() <= end {
            self.words.resize(end + 1, 0);
        }
        for (word, bits) in self.words.iter_mut().enumerate().take(end + 1).skip(start) {
            let from = if word == start { u64::MAX << (first % 64) } else { u64::MAX };
            let to = if word == end { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            *bits |= from & to;
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
            let without_lowest = |bits: &u64| Some(bits & (bits - 1)).filter(|&rest| rest != 0);
            let rests =
                core::iter::successors(Some(bits).filter(|&bits| bits != 0), without_lowest);
            rests.map(move |rest| index * 64 + rest.trailing_zeros())
        })
    }

    /// The lowest `count` of its numbers, or all where it has no more.
    #[must_use]
    pub fn lowest(&self, count: u64) -> Mask {
        if count >= u64::from(self.len()) {
            return self.clone();
        }
        self.iter().zip(0..count).map(|(number, _)| number).collect()
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
        let mut before = 0;
        for (index, &bits) in (0u32..).zip(&self.words) {
            let count = bits.count_ones();
            if n < before + count {
                let nth_bit = (0..n - before).fold(bits, |rest, _| rest & (rest - 1));
                return Some(index * 64 + nth_bit.trailing_zeros());
            }
            before += count;
        }
        None
    }

    /// How many of its numbers are below `number`: the visible CPU that stands for a physical one.
    #[must_use]
    pub fn rank(&self, number: u32) -> u32 {
        let word = number as usize / 64;
        let whole: u32 = self.words.iter().take(word).map(|bits| bits.count_ones()).sum();
        let below = (1u64 << (number % 64)) - 1;
        whole + self.words.get(word).map_or(0, |bits| (bits & below).count_ones())
    }

    /// Its numbers counted anew from 0 in the order of `visible`; those that `visible` does not hold are
    /// left out.
    #[must_use]
    pub fn renumbered(&self, visible: &Mask) -> Mask {
        let ranks = (0..).zip(visible.iter());
        ranks.filter(|&(_, number)| self.contains(number)).map(|(rank, _)| rank).collect()
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

    /// Reads the kernel's mask format, such as `ff,ffffffff` (`topology/core_cpus`), and says for how many
    /// numbers the text has room, which is what [`Mask::write_hex`] takes.
    ///
    /// Blanks around it are fine, and a group of more than eight digits is not.
    ///
    /// # Errors
    ///
    /// [`ParseError`] if a group is not a hexadecimal number of 32 bits, or if there are more groups than
    /// [`MAX_NUMBERS`] has.
    pub fn parse_hex(text: &[u8]) -> Result<(Mask, u32), ParseError> {
        let text = text.trim_ascii();
        let bad = |found| ParseError::new(1, "a mask of hexadecimal groups", found);
        let mut mask = Mask::new();
        let mut bits = 0;
        for group in text.rsplit(|&byte| byte == b',') {
            if group.is_empty() || group.len() > 8 || bits >= MAX_NUMBERS {
                return Err(bad(group));
            }
            // The last group read is the first of the text, and may be shorter.
            for (nibble, &digit) in (0..).zip(group.iter().rev()) {
                let value = char::from(digit).to_digit(16).ok_or_else(|| bad(group))?;
                (0..4).filter(|bit| value >> bit & 1 == 1).for_each(|bit| {
                    mask.insert(bits + nibble * 4 + bit);
                });
            }
            bits += 32;
        }
        let first_digits = text.iter().take_while(|&&byte| byte != b',').count().min(8);
        let unused = u32::try_from(8 - first_digits).unwrap_or(0) * 4;
        Ok((mask, bits - unused))
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

    #[test]
    fn masks_are_read_with_their_width() {
        let read =
            |text: &str| Mask::parse_hex(text.as_bytes()).map(|(mask, bits)| (list(&mask), bits));
        assert_eq!(read("3\n"), Ok(("0-1".into(), 4)));
        assert_eq!(read("00000000,0000003f"), Ok(("0-5".into(), 64)));
        assert_eq!(read("0000,22222222,00000000\n"), Ok(("33,37,41,45,49,53,57,61".into(), 80)));
        for text in ["", "\n", "3,", ",3", "g", "123456789", "+1", "(null)"] {
            assert!(read(text).is_err(), "{text}");
        }
        let long = [&b"00000000,".repeat(MAX_NUMBERS as usize / 32)[..], b"1"].concat();
        assert!(Mask::parse_hex(&long).is_err());
    }

    #[test]
    fn numbers_are_counted_anew_among_the_visible() {
        let visible: Mask = [2, 5, 70].into_iter().collect();
        let siblings: Mask = [1, 5, 70, 71].into_iter().collect();
        assert_eq!(siblings.renumbered(&visible), [1, 2].into_iter().collect());
    }

    proptest! {
        #[test]
        fn a_range_is_all_of_its_numbers(before: Vec<u16>, first in 0u32..300, length in 0u32..300) {
            let mut mask: Mask = before.into_iter().map(u32::from).collect();
            let mut one_by_one = mask.clone();
            mask.insert_range(first, first + length);
            (first..=first + length).for_each(|number| one_by_one.insert(number));
            prop_assert_eq!(&mask, &one_by_one);
            // Backwards there are none, and none beyond the largest.
            mask.insert_range(first + 1, first);
            mask.insert_range(MAX_NUMBERS, u32::MAX);
            prop_assert_eq!(mask, one_by_one);
        }

        #[test]
        fn the_lowest_are_the_first_that_are_listed(numbers: Vec<u16>, count in 0u64..20) {
            let mask: Mask = numbers.into_iter().map(u32::from).collect();
            let expected: Mask = mask.iter().take(usize::try_from(count).unwrap()).collect();
            prop_assert_eq!(mask.lowest(count), expected);
        }

        #[test]
        fn places_and_numbers_are_each_others_inverse(numbers: Vec<u16>) {
            let mask: Mask = numbers.into_iter().map(u32::from).collect();
            for (place, number) in (0..).zip(mask.iter()) {
                prop_assert_eq!(mask.nth(place), Some(number));
                prop_assert_eq!(mask.rank(number), place);
            }
            prop_assert_eq!(mask.nth(mask.len()), None);
            prop_assert_eq!(mask.renumbered(&mask), Mask::first(mask.len()));
        }

        #[test]
        fn masks_are_read_back(numbers: Vec<u16>, spare in 0u32..100) {
            let mask: Mask = numbers.into_iter().map(u32::from).collect();
            let bits = mask.iter().last().map_or(1, |last| last + 1).saturating_add(spare).min(MAX_NUMBERS);
            let text = hex(&mask, bits);
            let (read, room) = Mask::parse_hex(text.as_bytes()).unwrap();
            prop_assert_eq!(&read, &mask);
            prop_assert_eq!(hex(&read, room), text);
        }

        #[test]
        fn any_bytes_are_a_mask_or_an_error(text: Vec<u8>) {
            let _ = Mask::parse_hex(&text);
        }

        #[test]
        fn what_is_written_is_read_back(numbers: Vec<u16>) {
            let mask: Mask = numbers.into_iter().map(u32::from).collect();
            prop_assert_eq!(Mask::parse_list(list(&mask).as_bytes()).unwrap(), mask);
        }
    }
}
