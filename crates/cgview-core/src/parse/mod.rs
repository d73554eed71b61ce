//! The kernel's formats, one function for each: bytes in, values out.
//!
//! Parsers promise not to panic and not to use more memory than a small multiple of the text, whatever
//! the bytes. Keys and fields that they do not know are skipped, since kernels grow.

mod cgroup_file;
mod container;
mod cpuacct;
mod io_stat;
mod keyed;
pub(crate) mod list;
mod memory_stat;
mod process;

use alloc::{borrow::ToOwned, string::String};

pub use cgroup_file::{cpu_max, limit, memory_limit_v1, number_file, quota_v1};
pub use container::{ContainerPath, Runtime, container_path, is_unit};
pub use cpuacct::{cpu_stat, cpuacct_per_cpu, cpuacct_usage_all, cpuacct_usage_percpu};
pub use io_stat::{blkio, io_stat};
pub use keyed::flat_keyed;
pub use memory_stat::{memory_sizes_v1, memory_sizes_v2, memory_stat_v1, memory_stat_v2};
pub use process::{
    CgroupEntry, PidStat, TimensOffsets, cgroup_membership, pid_stat, status_nspid, timens_offsets,
};

/// Why a text could not be read.
///
/// It says where in the text and what was found there; whoever opened the file adds its path.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: expected {expected}, found \"{found}\"")]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// What should have been there.
    pub expected: &'static str,
    /// What was there, shortened.
    pub found: String,
}

impl ParseError {
    /// An error at `line`, which shows at most the first 40 characters of `found`.
    #[must_use]
    pub fn new(line: usize, expected: &'static str, found: &[u8]) -> ParseError {
        let shown = found.get(..found.len().min(40)).unwrap_or_default();
        ParseError { line, expected, found: String::from_utf8_lossy(shown).trim_end().to_owned() }
    }
}

/// Reads a decimal number that fills all of `word`.
///
/// A number larger than `u64::MAX` is an error, as is an empty word.
pub(crate) fn number(word: &[u8], line: usize) -> Result<u64, ParseError> {
    decimal(word).ok_or_else(|| ParseError::new(line, "a number", word))
}

/// The decimal number that fills all of `word`, if it is one.
pub(crate) fn decimal(word: &[u8]) -> Option<u64> {
    /// So many digits always fit.
    const FITTING: usize = 19;
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let (fitting, rest) = word.split_at_checked(FITTING).unwrap_or((word, b""));
    let mut value = None;
    for &byte in fitting {
        value = Some(value.unwrap_or(0u64).wrapping_mul(10).wrapping_add(digit(byte)?));
    }
    rest.iter().try_fold(value?, |value, &byte| value.checked_mul(10)?.checked_add(digit(byte)?))
}

/// The lines of a text without their newlines, each with its number from 1. Blank lines are skipped.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut rest = Some(text);
    let lines = core::iter::from_fn(move || {
        let text = rest?;
        let split = memchr::memchr(b'\n', text).and_then(|end| text.split_at_checked(end));
        rest = split.map(|(_, after)| after.get(1..).unwrap_or_default());
        Some(split.map_or(text, |(line, _)| line))
    });
    (1..)
        .zip(lines)
        .map(|(number, line)| (number, line.trim_ascii()))
        .filter(|(_, line)| !line.is_empty())
}

/// The words of a line.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}
