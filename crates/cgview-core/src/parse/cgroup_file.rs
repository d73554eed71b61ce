//! Files of a cgroup that hold one value, or a quota and a period.

use super::{ParseError, number, words};
use crate::units::{Bytes, Limit, Usec};

/// Reads a file that holds one number, such as `memory.current`.
///
/// # Errors
///
/// [`ParseError`] if it holds anything else.
pub fn number_file(text: &[u8]) -> Result<u64, ParseError> {
    number(text.trim_ascii(), 1)
}

/// Reads a file that holds a number or `max`, such as `memory.max` or `pids.max`.
///
/// # Errors
///
/// [`ParseError`] if it holds anything else.
pub fn limit(text: &[u8]) -> Result<Limit<u64>, ParseError> {
    match text.trim_ascii() {
        b"max" => Ok(Limit::Max),
        value => Ok(Limit::At(number(value, 1)?)),
    }
}

/// Reads a v1 limit in bytes, such as `memory.limit_in_bytes`.
///
/// v1 has no word for "no limit": it shows `PAGE_COUNTER_MAX` in bytes, `LONG_MAX` rounded down to a
/// page on 64 bits and `LONG_MAX` pages on 32 (`include/linux/page_counter.h`). Whatever is that large
/// is no limit.
///
/// # Errors
///
/// [`ParseError`] if it does not hold a number.
pub fn memory_limit_v1(text: &[u8]) -> Result<Limit<Bytes>, ParseError> {
    // LONG_MAX pages of 4 KiB on 32 bits, the smallest of these numbers; no machine has 8 TiB there,
    // and no limit of that size is a limit that anyone sets by hand on 64 bits without meaning "none".
    const NONE_FROM: u64 = 0x7fff_ffff_0000_0000;
    const NONE_32: u64 = 0x7fff_ffff_f000;
    let value = number_file(text)?;
    Ok(if value >= NONE_FROM || value == NONE_32 { Limit::Max } else { Limit::At(Bytes(value)) })
}

/// Reads `cpu.max`: a quota or `max`, and a period, both in microseconds.
///
/// # Errors
///
/// [`ParseError`] if it holds anything else, or a period of zero.
pub fn cpu_max(text: &[u8]) -> Result<(Limit<Usec>, Usec), ParseError> {
    let mut words = words(text);
    let (Some(quota), Some(period), None) = (words.next(), words.next(), words.next()) else {
        return Err(ParseError::new(1, "a quota and a period", text));
    };
    let quota = match quota {
        b"max" => Limit::Max,
        quota => Limit::At(Usec(number(quota, 1)?)),
    };
    match number(period, 1)? {
        0 => Err(ParseError::new(1, "a period above zero", period)),
        period => Ok((quota, Usec(period))),
    }
}

/// Reads v1's `cpu.cfs_quota_us`: microseconds, or -1 for no limit.
///
/// # Errors
///
/// [`ParseError`] if it does not hold a number.
pub fn quota_v1(text: &[u8]) -> Result<Limit<Usec>, ParseError> {
    match text.trim_ascii() {
        b"-1" => Ok(Limit::Max),
        digits => Ok(Limit::At(Usec(number(digits, 1)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_has_many_spellings() {
        assert_eq!(limit(b"max\n").unwrap(), Limit::Max);
        assert_eq!(limit(b"4096\n").unwrap(), Limit::At(4096));
        assert_eq!(memory_limit_v1(b"9223372036854771712\n").unwrap(), Limit::Max);
        assert_eq!(memory_limit_v1(b"9223372036854710272\n").unwrap(), Limit::Max); // 64 KiB pages
        assert_eq!(memory_limit_v1(b"268435456\n").unwrap(), Limit::At(Bytes(268_435_456)));
        assert_eq!(quota_v1(b"-1\n").unwrap(), Limit::Max);
        assert_eq!(quota_v1(b"50000\n").unwrap(), Limit::At(Usec(50_000)));
        assert_eq!(cpu_max(b"max 100000\n").unwrap(), (Limit::Max, Usec(100_000)));
        assert_eq!(cpu_max(b"150000 100000\n").unwrap(), (Limit::At(Usec(150_000)), Usec(100_000)));
    }

    #[test]
    fn other_text_is_an_error() {
        assert!(limit(b"").is_err());
        assert!(limit(b"12 34\n").is_err());
        assert!(cpu_max(b"100000\n").is_err());
        assert!(cpu_max(b"1 0\n").is_err());
        assert!(quota_v1(b"-\n").is_err());
        assert!(number_file(b"18446744073709551616\n").is_err());
    }
}
