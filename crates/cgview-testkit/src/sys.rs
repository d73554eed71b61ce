//! System calls that are not safe in general.
#![expect(unsafe_code, reason = "fork has no safe name")]

use rustix::{io::Errno, process::Pid, thread::UnshareFlags};

/// Which side of a fork this is.
pub(crate) enum Forked {
    Parent(Pid),
    Child,
}

/// Makes a copy of this process with one thread, the caller's.
///
/// The child may use all that it needs no other thread for. The C library makes `malloc` usable there;
/// locks that other threads held stay locked, such as that of the standard output.
pub(crate) fn fork() -> Result<Forked, Errno> {
    // SAFETY: the child calls no function that waits for a thread that is not there: it enters
    // namespaces, runs the body that a test gave it, and leaves by `exit`.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).filter(|_| pid > 0).map(Forked::Parent).ok_or_else(|| {
            Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
        }),
    }
}

/// Ends this process at once, running nothing of the parent's that is left to run.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` does not return, and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Moves this thread into new namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: the descriptor table is not among what the testkit unshares.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Sleeps until killed: the body of a process that only has to be there.
pub fn pause() -> i32 {
    loop {
        // SAFETY: it takes no memory.
        unsafe { libc::pause() };
    }
}

/// Sleeps until killed, without letting a signal wake it: the body of a process that has to be in state D.
pub fn block() -> i32 {
    // SAFETY: the child, which has the parent's memory, calls nothing but `pause`, and is killed by it; the
    // parent waits for it in the kernel (`wait_for_vfork_done()`), and never comes back.
    unsafe {
        #[expect(deprecated, reason = "its waiting is what is wanted")]
        if libc::vfork() == 0 {
            loop {
                libc::pause();
            }
        }
    }
    pause()
}
