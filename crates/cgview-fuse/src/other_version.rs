//! What another version may do otherwise, within the rules of `docs/architecture.md`: for tests of upgrades and
//! downgrades, and of crashes. Only the feature `other-version` brings it in, which nobody ships.

use std::env;

use cgview_core::tree::{File, ProcFile};
use serde::Serialize;

/// A descriptor that the released version does not know.
pub(crate) const LATER: &str = "cgview-later";

/// The number of the ledger's layout, unless a test wants another one.
pub(crate) fn layout(number: &'static str) -> &'static str {
    if env::var_os("CGVIEW_TEST_LAYOUT").is_some() { "later" } else { number }
}

/// A record with more fields than the released version knows.
#[derive(Debug, Serialize)]
pub(crate) struct Later<'a, T> {
    later: [&'static str; 2],
    #[serde(flatten)]
    record: &'a T,
    latest: Option<u64>,
}

/// Encodes a record.
pub(crate) fn encode<T: Serialize>(record: &T) -> serde_json::Result<Vec<u8>> {
    let later = ["a field", "of another version"];
    serde_json::to_vec(&Later { later, record, latest: Some(7) })
}

/// Ends the process whenever a container's `/proc/diskstats` is read, in the way that a test wants.
pub(crate) fn fault() -> Option<fn(File)> {
    match env::var("CGVIEW_TEST_CRASH").ok()?.as_str() {
        "abort" => Some(|file| {
            if file == File::Proc(ProcFile::Diskstats) {
                std::process::abort();
            }
        }),
        "overflow" => Some(|file| {
            if file == File::Proc(ProcFile::Diskstats) {
                std::hint::black_box(overflow(u64::MAX));
            }
        }),
        "exhaust" => Some(|file| {
            if file == File::Proc(ProcFile::Diskstats) {
                exhaust();
            }
        }),
        _ => None,
    }
}

/// Takes more memory than there is.
fn exhaust() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1_u8; 16 << 20]);
        std::hint::black_box(&hoard);
    }
}

/// Takes more stack than there is.
fn overflow(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 64]);
    if depth == 0 { 0 } else { overflow(depth - 1).wrapping_add(room.iter().sum()) }
}
