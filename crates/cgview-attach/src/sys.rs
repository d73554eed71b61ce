//! The system calls that have no safe name.
#![expect(unsafe_code, reason = "fork, close_range and mount_setattr have no safe interface")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use rustix::{io::Errno, mount::MountAttrFlags, process::Pid};

/// Which side of a fork this is.
pub(crate) enum Forked {
    Parent(Pid),
    Child,
}

/// Makes a copy of this process with one thread, the caller's.
///
/// The child must not wait for anything that another thread of the parent may have held. The C library
/// makes its allocator usable there (`__malloc_fork_unlock_child()` of glibc, `fork()` of musl).
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: `fork` has no preconditions. What the child of `helper` runs takes no lock but the
    // allocator's, and ends by `exit`.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .map(Forked::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Ends this process at once, running nothing that its parent registered.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` does not return, and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Has signals do in this process what they do by default: handlers of the parent may write to descriptors that are
/// something else here.
pub(crate) fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is set; for the signals that have no other action, nothing happens.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Closes the descriptors from `first` to `last`. Does nothing before Linux 5.9.
///
/// # Safety
///
/// Nothing that owns one of them may be used afterwards, nor dropped.
pub(crate) unsafe fn close_range(first: u32, last: u32) {
    // SAFETY: a system call on numbers; the caller answers for what they stand for.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Changes the attributes in `clear` to those in `set` for a mount, and what becomes of mounts below it
/// (`MS_PRIVATE` and its like; 0: as it is). Since Linux 5.12.
pub(crate) fn mount_setattr(
    mount: impl AsFd,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    propagation: u64,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: set.bits().into(),
        attr_clr: clear.bits().into(),
        propagation,
        userns_fd: 0,
    };
    // SAFETY: the path is a string that ends, and the kernel reads as many bytes of `attributes` as it
    // is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
