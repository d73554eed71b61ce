//! Numbers in a ledger's file that are written by a store to memory, and outlive the process all the same.

use std::{io, os::fd::BorrowedFd, ptr, slice, sync::atomic::AtomicU64};

use rustix::{
    fs::fstat,
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap},
};

/// `count` numbers of a file, of which the first is at `start`, a multiple of their size. They stay for as long as the
/// process does, and the file has to be as long for as long.
///
/// # Errors
///
/// What fstat(2) and mmap(2) say; `ENODATA` for a file that is shorter.
pub(crate) fn map(
    file: BorrowedFd<'_>,
    start: usize,
    count: usize,
) -> io::Result<&'static [AtomicU64]> {
    let first = start / size_of::<AtomicU64>();
    let all = first + count;
    let length = all * size_of::<AtomicU64>();
    if usize::try_from(fstat(file)?.st_size).is_ok_and(|there| there < length) {
        return Err(Errno::NODATA.into());
    }
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // From the start of the file, as pages are larger on some machines.
    // SAFETY: the kernel chooses where.
    #[expect(unsafe_code, reason = "memory that is shared with the next process")]
    let memory = unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0)? };
    // SAFETY: it is aligned as a page is, as long as was asked for, never unmapped, and any bits are a number. All
    // that is done to it is atomic.
    #[expect(unsafe_code, reason = "memory that is shared with the next process")]
    let numbers: &[AtomicU64] = unsafe { slice::from_raw_parts(memory.cast(), all) };
    Ok(numbers.get(first..).unwrap_or_default())
}
