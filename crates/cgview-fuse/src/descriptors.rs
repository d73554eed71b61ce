//! Descriptors by their number, which the compiler cannot vouch for: those that this process was started
//! with, and the one that fuser holds.

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{Mode, OFlags},
    io::{DupFlags, FdFlags},
    ioctl::{Setter, opcode},
};

/// The first descriptor that a process may be started with, beside the three that all have:
/// `SD_LISTEN_FDS_START` of sd-daemon(3).
pub(crate) const FIRST: RawFd = 3;

/// Whether the descriptors that this process was started with are owned by somebody already.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The `count` descriptors that this process was started with. The second time there are none.
pub(crate) fn take_inherited(count: usize) -> io::Result<Vec<OwnedFd>> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let numbers = (FIRST..).take(count);
    for number in numbers.clone() {
        // SAFETY: only its number is used, and a wrong one is an error of fcntl(2).
        #[expect(unsafe_code, reason = "a number has to be asked about before it is owned")]
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        // Not for those that this process starts.
        rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    let owned = numbers.map(|number| {
        // SAFETY: it is open, and whoever started this process left it to it ($LISTEN_FDS). Nobody
        // else takes it: this is done once.
        #[expect(unsafe_code, reason = "an inherited descriptor is nothing but a number")]
        unsafe {
            OwnedFd::from_raw_fd(number)
        }
    });
    Ok(owned.collect())
}

/// Makes the number of `place` stand for what `with` stands for.
pub(crate) fn replace(place: BorrowedFd<'_>, with: &OwnedFd) -> io::Result<()> {
    // SAFETY: it is not closed, neither here nor by dup3(2), which puts another file in its place.
    #[expect(unsafe_code, reason = "dup3(2) takes a number")]
    let mut target = unsafe { mem::ManuallyDrop::new(OwnedFd::from_raw_fd(place.as_raw_fd())) };
    rustix::io::dup3(with, &mut target, DupFlags::CLOEXEC)?;
    Ok(())
}

/// Another descriptor of the connection of `device`, with requests of its own: what was read from it and not
/// answered fails with `ECONNABORTED` when it is closed (`fuse_dev_release()`).
pub(crate) fn clone_device(device: &OwnedFd) -> io::Result<OwnedFd> {
    let clone = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let source = u32::try_from(device.as_fd().as_raw_fd()).unwrap_or(u32::MAX);
    // SAFETY: `FUSE_DEV_IOC_CLONE` of linux/fuse.h reads the 32 bits that it is given.
    #[expect(unsafe_code, reason = "an ioctl")]
    unsafe {
        rustix::ioctl::ioctl(&clone, Setter::<{ opcode::read::<u32>(229, 0) }, u32>::new(source))?;
    }
    Ok(clone)
}
