//! The list format of CPU and node sets.

use super::{ParseError, decimal};
use crate::mask::{MAX_NUMBERS, Mask};

/// Reads `0-3,8` or `0-6:2/4`; see [`Mask::parse_list`].
pub(crate) fn parse(text: &[u8]) -> Result<Mask, ParseError> {
    let mut mask = Mask::new();
    for part in text.trim_ascii().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        if part.is_empty() {
            continue;
        }
        let bad = || ParseError::new(1, "a list of numbers and ranges", part);
        let (range, stride) = split(part, b':');
        let (first, last) = split(range, b'-');
        let first = bounded(first).ok_or_else(bad)?;
        let last = last.map_or(Some(first), bounded).ok_or_else(bad)?;
        if last < first {
            return Err(bad());
        }
        let Some((used, group)) = stride.map(|stride| split(stride, b'/')) else {
            mask.insert_range(first, last);
            continue;
        };
        // `first-last:used/group`: of each group, the first `used`.
        let used = bounded(used).ok_or_else(bad)?;
        let group = group.and_then(bounded).filter(|&group| group > 0 && used <= group);
        let group = group.ok_or_else(bad)?;
        for number in (first..=last).filter(|number| (number - first) % group < used) {
            mask.insert(number);
        }
    }
    Ok(mask)
}

fn split(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(at, text) {
        None => (text, None),
        Some(index) => (text.get(..index).unwrap_or_default(), text.get(index + 1..)),
    }
}

fn bounded(word: &[u8]) -> Option<u32> {
    decimal(word).and_then(|value| u32::try_from(value).ok()).filter(|&value| value < MAX_NUMBERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let set = |text: &str| parse(text.as_bytes()).unwrap();
        assert_eq!(set("0-3,8\n"), [0, 1, 2, 3, 8].into_iter().collect());
        assert_eq!(set("\n"), Mask::new());
        assert_eq!(set("0-6:2/4"), [0, 1, 4, 5].into_iter().collect());
    }

    #[test]
    fn says_which_part_is_wrong() {
        for (text, found) in
            [("0-3,x", "x"), ("3-1", "3-1"), ("0-4294967295", "0-4294967295"), ("1:2", "1:2")]
        {
            assert_eq!(parse(text.as_bytes()).unwrap_err().found, found);
        }
    }
}
