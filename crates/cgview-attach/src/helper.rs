//! Processes that do what may block, and are left behind when they take too long.
//!
//! A request to a daemon that is stuck cannot be taken back once the daemon has read it, not even by
//! `SIGKILL` (`request_wait_answer()` of `fs/fuse/dev.c`). A thread in that state would keep its whole
//! process from ending; a process keeps nothing but itself, and ends when the daemon does. A process of
//! its own is also what entering a mount namespace takes: `mntns_install()` refuses whoever shares its
//! root and working directory with others, as threads do.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::{Errno, retry_on_intr},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};

use crate::sys::{self, Forked};

/// How long a helper that has said all is waited for. It has nothing left to do but to end.
const END: Duration = Duration::from_millis(200);

/// What a helper says: two numbers and the number of an error, 0 if there was none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Word {
    pub(crate) index: u32,
    pub(crate) kind: u32,
    pub(crate) errno: i32,
}

impl Word {
    const LENGTH: usize = 12;

    fn to_bytes(self) -> [u8; Word::LENGTH] {
        let mut bytes = [0; Word::LENGTH];
        let words = [self.index.to_ne_bytes(), self.kind.to_ne_bytes(), self.errno.to_ne_bytes()];
        for (place, byte) in bytes.iter_mut().zip(words.as_flattened()) {
            *place = *byte;
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Word> {
        let (index, rest) = bytes.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (errno, _) = rest.split_first_chunk()?;
        Some(Word {
            index: u32::from_ne_bytes(*index),
            kind: u32::from_ne_bytes(*kind),
            errno: i32::from_ne_bytes(*errno),
        })
    }
}

/// The helper's end of its pipe.
#[derive(Debug)]
pub(crate) struct Teller(OwnedFd);

impl Teller {
    /// Says one word.
    pub(crate) fn tell(&self, index: u32, kind: u32, result: Result<(), Errno>) {
        let errno = result.err().map_or(0, Errno::raw_os_error);
        // Nobody listens any more: no matter. It is short enough to be written as a whole.
        let _ = rustix::io::write(&self.0, &Word { index, kind, errno }.to_bytes());
    }
}

/// A process at work.
#[derive(Debug)]
pub(crate) struct Helper {
    pid: Pid,
    output: OwnedFd,
    said: Vec<u8>,
    is_done: bool,
}

impl Helper {
    /// Starts one that runs `body`. It has the descriptors in `keep`, the standard streams lead nowhere,
    /// and all else is closed: one that is left behind holds nothing of ours, such as a pipe that
    /// somebody waits for the end of, or a connection to the kernel.
    pub(crate) fn start(keep: &[BorrowedFd<'_>], body: impl FnOnce(&Teller)) -> io::Result<Helper> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC)?;
        match sys::fork()? {
            Forked::Parent(pid) => Ok(Helper { pid, output, said: Vec::new(), is_done: false }),
            Forked::Child => {
                let run = || {
                    sys::reset_signals();
                    let teller = Teller(input);
                    let kept = keep.iter().copied().chain([teller.0.as_fd()]);
                    close_all_but(kept.map(|fd| fd.as_raw_fd().unsigned_abs()).collect());
                    body(&teller);
                };
                // A panic must end the child here, not unwind into a copy of its parent's frames.
                let status = if catch_unwind(AssertUnwindSafe(run)).is_ok() { 0 } else { 101 };
                sys::exit(status);
            }
        }
    }

    /// What it said, in its words.
    pub(crate) fn words(&self) -> impl Iterator<Item = Word> + '_ {
        self.said.chunks_exact(Word::LENGTH).filter_map(Word::parse)
    }

    /// Whether it was left behind.
    pub(crate) fn is_late(&self) -> bool {
        !self.is_done
    }

    /// Reads what there is to read.
    fn listen(&mut self) {
        let mut bytes = [0; 64 * Word::LENGTH];
        match retry_on_intr(|| rustix::io::read(&self.output, &mut bytes[..])) {
            Ok(0) | Err(_) => self.is_done = true,
            Ok(length) => self.said.extend_from_slice(bytes.get(..length).unwrap_or_default()),
        }
    }

    fn is_reaped(&self) -> bool {
        // With SIGCHLD ignored, there is no child to wait for.
        !matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It is not reaped yet, so the pid is still its own.
        let _ = kill_process(self.pid, Signal::KILL);
        let end = Instant::now() + END;
        while !self.is_reaped() && Instant::now() < end {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Waits until all have ended, or none of them has said anything for as long as `patience`.
pub(crate) fn wait_for(helpers: &mut [Helper], patience: Duration) {
    let mut last = Instant::now();
    while helpers.iter().any(|helper| !helper.is_done) {
        let left = patience.saturating_sub(last.elapsed());
        if left.is_zero() {
            return;
        }
        let busy = helpers.iter().filter(|helper| !helper.is_done);
        let mut fds: Vec<_> =
            busy.map(|helper| PollFd::new(&helper.output, PollFlags::IN)).collect();
        let timeout = Timespec::try_from(left).ok();
        if retry_on_intr(|| poll(&mut fds, timeout.as_ref())).is_err() {
            return;
        }
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let busy = helpers.iter_mut().filter(|helper| !helper.is_done);
        for (helper, _) in busy.zip(ready).filter(|(_, ready)| *ready) {
            helper.listen();
            last = Instant::now();
        }
    }
}

/// Leads the standard streams nowhere, and closes all other descriptors but these.
fn close_all_but(mut keep: Vec<u32>) {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
        // Closed below; dropping it would close another one of that number.
        std::mem::forget(null);
    }
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if first < fd {
            // SAFETY: this process runs nothing but the body of a helper, which has what is kept, and
            // leaves without dropping anything of its parent's.
            #[expect(unsafe_code, reason = "the child gives up what it inherited")]
            unsafe {
                sys::close_range(first, fd - 1);
            }
        }
        first = first.max(fd.saturating_add(1));
    }
    close_all_from(first);
}

/// Closes all descriptors from a number on. Only for a process that uses none of them, nor drops their owners.
pub(crate) fn close_all_from(first: u32) {
    // SAFETY: as the caller says.
    #[expect(unsafe_code, reason = "the child gives up what it inherited")]
    unsafe {
        sys::close_range(first, u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(body: impl FnOnce(&Teller)) -> Helper {
        Helper::start(&[], body).unwrap()
    }

    #[test]
    fn what_helpers_say_is_heard() {
        let mut helpers: Vec<_> = (0..3)
            .map(|index| {
                start(move |teller| {
                    teller.tell(index, 7, Ok(()));
                    teller.tell(index, 8, Err(Errno::NOTCONN));
                })
            })
            .collect();
        wait_for(&mut helpers, Duration::from_secs(60));
        for (index, helper) in (0..).zip(&helpers) {
            assert!(!helper.is_late());
            let expected = [
                Word { index, kind: 7, errno: 0 },
                Word { index, kind: 8, errno: Errno::NOTCONN.raw_os_error() },
            ];
            assert!(helper.words().eq(expected), "{helper:?}");
        }
    }

    #[test]
    fn one_that_takes_too_long_is_left_behind() {
        let mut helpers = [start(|teller| {
            teller.tell(1, 2, Ok(()));
            loop {
                thread::sleep(Duration::from_secs(60));
            }
        })];
        wait_for(&mut helpers, Duration::from_millis(500));
        assert!(helpers[0].is_late());
        assert_eq!(helpers[0].words().count(), 1);
        let pid = helpers[0].pid;
        drop(helpers);
        assert!(rustix::process::test_kill_process(pid).is_err(), "it still runs");
    }

    #[test]
    fn a_panic_is_the_end_of_the_helper_only() {
        let mut helpers = [start(|_| panic!("on purpose"))];
        wait_for(&mut helpers, Duration::from_secs(60));
        assert!(!helpers[0].is_late() && helpers[0].words().next().is_none());
    }

    #[test]
    fn a_helper_has_nothing_that_it_was_not_given() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (other, _held) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let given = other.as_raw_fd();
        let not_given = write.as_raw_fd();
        let mut helpers = [Helper::start(&[other.as_fd()], |teller| {
            let is_open = |fd: i32| {
                let path = format!("/proc/self/fd/{fd}");
                rustix::fs::readlink(path, Vec::new()).is_ok()
            };
            teller.tell(is_open(given).into(), is_open(not_given).into(), Ok(()));
        })
        .unwrap()];
        wait_for(&mut helpers, Duration::from_secs(60));
        assert_eq!(helpers[0].words().next(), Some(Word { index: 1, kind: 0, errno: 0 }));
        drop((read, write));
    }
}
