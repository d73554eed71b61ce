//! What the standard library and rustix leave to libc: forking, and taking signals as data.
#![expect(unsafe_code, reason = "fork, sigmasks and signalfd have no safe interface")]

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd},
    os::unix::process::CommandExt,
    process::Command,
    ptr,
};

use rustix::{
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus, waitpid},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Starts a process that runs `child` and exits with the status that it returns. It closes its copies
/// of `parents_only` first, such as the parent's end of a pipe.
///
/// Must be called while this process has one thread only: a lock that another thread holds would
/// stay locked for ever in the child.
pub(super) fn fork(
    parents_only: &[BorrowedFd<'_>],
    child: impl FnOnce() -> i32,
) -> io::Result<Pid> {
    // SAFETY: `fork` has no preconditions. The child of a process with one thread can do whatever
    // its parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            for fd in parents_only {
                // SAFETY: their owners are in frames that this process never returns to.
                unsafe { libc::close(fd.as_raw_fd()) };
            }
            // A panic must end the child here, not unwind into a copy of its parent's frames.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: it does not return, and runs nothing that was registered by the parent.
            unsafe { libc::_exit(result.unwrap_or(101)) }
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::from(Errno::CHILD)),
    }
}

/// Closes what this process was given beside the standard streams. All that Rust opens itself is
/// closed on exec, and so can be told from it.
pub(super) fn close_inherited() -> io::Result<()> {
    let names: Vec<_> = fs::read_dir("/proc/self/fd")?.flatten().map(|fd| fd.file_name()).collect();
    for fd in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()) {
        // SAFETY: nothing in this program owns a descriptor that is not closed on exec.
        unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFD);
            if fd > libc::STDERR_FILENO && flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
                libc::close(fd);
            }
        }
    }
    Ok(())
}

/// Puts this process, or its future children, into new namespaces.
pub(super) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: only unsharing the table of file descriptors would matter to memory safety.
    Ok(unsafe { unshare_unsafe(namespaces) }?)
}

/// The exit status of a shell for a process that ended so, or `None` if it has not ended.
pub(super) fn exit_status(status: WaitStatus) -> Option<i32> {
    let killed_by = status.terminating_signal().map(|signal| signal + 128);
    status.exit_status().or(killed_by)
}

/// Waits for `pid`, or asks only, by [`WaitOptions::NOHANG`]. `None` if it has not ended.
pub(super) fn wait_for(pid: Pid, options: WaitOptions) -> io::Result<Option<i32>> {
    rustix::io::retry_on_intr(|| waitpid(Some(pid), options))
        .map(|ended| ended.and_then(|(_, status)| exit_status(status)))
        .map_err(io::Error::from)
}

/// A signal that was sent to this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Received {
    /// Its number.
    pub(super) signal: i32,
    /// Whether the terminal sent it, to the whole foreground process group: whoever is to be told by
    /// us knows it already.
    pub(super) from_terminal: bool,
}

/// Sends a signal by its number, which may be that of a realtime signal.
pub(super) fn send(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: a system call on numbers.
    match unsafe { libc::kill(pid.as_raw_pid(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signals that a process can be asked by to end or to do something, taken as data from now on.
///
/// Works in processes forked from this one too, for their own signals: signalfd(2) reads those of
/// whoever reads.
pub(super) struct Signals {
    file: File,
    /// What was blocked before.
    before: libc::sigset_t,
}

impl Signals {
    /// Blocks them, for this process and for what it forks.
    pub(super) fn take() -> io::Result<Signals> {
        let mut blocked = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: sigfillset and pthread_sigmask initialise the sets that are read after them. The
        // descriptor that signalfd returns is ours alone.
        unsafe {
            libc::sigfillset(blocked.as_mut_ptr());
            // Faults of this process are not to be put off, and those of the terminal stop it.
            for signal in [
                libc::SIGABRT,
                libc::SIGBUS,
                libc::SIGFPE,
                libc::SIGILL,
                libc::SIGSEGV,
                libc::SIGSYS,
                libc::SIGTRAP,
                libc::SIGTSTP,
                libc::SIGTTIN,
            ] {
                libc::sigdelset(blocked.as_mut_ptr(), signal);
            }
            set_mask(blocked.as_ptr(), before.as_mut_ptr())?;
            match libc::signalfd(-1, blocked.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Signals { file: File::from_raw_fd(fd), before: before.assume_init() }),
            }
        }
    }

    /// Makes a command start with the signals blocked that were so before: the standard library lets
    /// it inherit this process's.
    pub(super) fn give_back(&self, command: &mut Command) {
        let before = self.before;
        // SAFETY: pthread_sigmask may be called between fork and exec.
        unsafe { command.pre_exec(move || set_mask(&raw const before, ptr::null_mut())) };
    }

    /// The next signal that has arrived, if any.
    pub(super) fn next(&self) -> io::Result<Option<Received>> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut bytes = [0; SIZE];
        match (&self.file).read(&mut bytes) {
            Ok(SIZE) => {
                // SAFETY: the kernel has filled in the whole structure, and any bytes are one.
                let info: libc::signalfd_siginfo =
                    unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) };
                let signal = i32::try_from(info.ssi_signo).unwrap_or_default();
                Ok(Some(Received { signal, from_terminal: info.ssi_code == libc::SI_KERNEL }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// # Safety
///
/// `new` points to a signal set, and `old` to room for one or nowhere.
unsafe fn set_mask(new: *const libc::sigset_t, old: *mut libc::sigset_t) -> io::Result<()> {
    // SAFETY: by the caller's promise.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, new, old) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("file", &self.file).finish_non_exhaustive()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_child_is_its_closure_s() {
        // The test runner has other threads; this child takes no lock.
        let pid = fork(&[], || 7).unwrap();
        assert_eq!(wait_for(pid, WaitOptions::empty()).unwrap(), Some(7));
    }
}
