//! Block I/O of a cgroup: v2's `io.stat`, v1's `blkio.*`.

use alloc::vec::Vec;

use super::ParseError;
use crate::snapshot::IoDevice;

/// Reads v2's `io.stat` (nested keyed).
///
/// # Errors
///
/// [`ParseError`] at the first malformed line.
pub fn io_stat(text: &[u8]) -> Result<Vec<IoDevice>, ParseError> {
    let _ = text;
    Ok(Vec::new())
}

/// Reads a v1 file such as `blkio.throttle.io_serviced_recursive` and hands each device's reads, writes
/// and discards to `visit`.
///
/// # Errors
///
/// [`ParseError`] at the first malformed line.
pub fn blkio(text: &[u8], visit: impl FnMut(u32, u32, &[u8], u64)) -> Result<(), ParseError> {
    let _ = (text, visit);
    Ok(())
}
