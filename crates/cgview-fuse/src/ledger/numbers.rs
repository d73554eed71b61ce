//! Numbers in a ledger's file that are written by a store to memory, and outlive the process all the same.

use std::{io, os::fd::BorrowedFd, ptr, slice, sync::atomic::AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// `count` numbers of a file, from `start` on, which is a multiple of the page size. They stay for as long as the
/// process does.
///
/// # Errors
///
/// What mmap(2) says.
pub(crate) fn map(
    file: BorrowedFd<'_>,
    start: u64,
    count: usize,
) -> io::Result<&'static [AtomicU64]> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let length = count * size_of::<AtomicU64>();
    // SAFETY: the kernel chooses where.
    #[expect(unsafe_code, reason = "memory that is shared with the next process")]
    let memory =
        unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, file, start)? };
    // SAFETY: it is aligned as a page is, as long as was asked for, never unmapped, and any bits are a number. All
    // that is done to it is atomic.
    #[expect(unsafe_code, reason = "memory that is shared with the next process")]
    Ok(unsafe { slice::from_raw_parts(memory.cast(), count) })
}
