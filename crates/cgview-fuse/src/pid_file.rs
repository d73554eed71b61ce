//! The pid file: one daemon for each, told by a lock.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::ledger::DYING;

/// Why there is no pid file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A running daemon holds it.
    #[error(
        "cannot lock {}: the daemon with pid {pid} holds it; stop that one, or give this one another \
         --runtime-dir", path.display()
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// What is written in the file.
        pid: String,
    },
    /// It cannot be written.
    #[error("cannot write the pid file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A pid file that this process holds. Dropping it removes the file.
///
/// Only the holder of the lock removes a file, and only the very file that it locked: a second daemon
/// that fails to start leaves the first one's alone.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
    /// Whether it goes with this process: it does not if another one has it, too.
    own: bool,
}

impl PidFile {
    /// One that another process holds, and has handed over. It is its own until it takes over.
    #[must_use]
    pub fn left(path: &Path, file: OwnedFd) -> PidFile {
        PidFile { path: path.into(), file: file.into(), own: false }
    }

    /// Makes it this process's. The other one has to [`leave`](Self::leave) it.
    pub(crate) fn take_over(&mut self) {
        self.own = true;
        // The lock is what counts.
        let pid = format!("{}\n", std::process::id());
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all_at(pid.as_bytes(), 0));
    }

    /// Makes it another process's, which has it, too.
    pub(crate) fn leave(&mut self) {
        self.own = false;
    }

    /// Locks `path` and writes this process's pid to it. Those that a killed holder has started, and that end with
    /// it, have the lock for some moments longer: they are waited for.
    ///
    /// # Errors
    ///
    /// [`Error`], if another process holds it, or it cannot be written.
    pub fn new(path: &Path) -> Result<PidFile, Error> {
        let failed = |source| Error::Write { path: path.into(), source };
        let end = Instant::now() + DYING;
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                // Whoever can put a link there is not to choose which file is overwritten.
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(path)
                .map_err(failed)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let mut pid = String::new();
                    // Best effort: the holder may be about to write it.
                    let _ = (&file).take(20).read_to_string(&mut pid);
                    if has_ended(pid.trim()) && Instant::now() < end {
                        thread::sleep(Duration::from_millis(2));
                        continue;
                    }
                    return Err(Error::Held { path: path.into(), pid: pid.trim().into() });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            // The holder before may have removed it between our open and our lock.
            if !is_same(&file, path) {
                continue;
            }
            file.set_len(0).map_err(failed)?;
            file.rewind().map_err(failed)?;
            writeln!(file, "{}", std::process::id()).map_err(failed)?;
            return Ok(PidFile { path: path.into(), file, own: true });
        }
    }
}

/// Whether there is no such process any more, or nothing left of it but its status.
fn has_ended(pid: &str) -> bool {
    let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) else { return false };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => {
            let mut polled = [PollFd::new(&process, PollFlags::IN)];
            let none = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut polled, Some(&none)).is_ok_and(|ready| ready > 0)
        }
        Err(errno) => errno == Errno::SRCH,
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.own && is_same(&self.file, &self.path) {
            // Nothing is lost if it stays: the lock goes with the process.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_leaves_the_file_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.pid");
        let first = PidFile::new(&path).unwrap();
        let error = PidFile::new(&path).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(matches!(&error, Error::Held { pid: held, .. } if *held == pid), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{pid}\n"));
        drop(first);
        assert!(!path.exists());
        PidFile::new(&path).unwrap();
    }

    #[test]
    fn a_file_that_a_dead_daemon_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.pid");
        fs::write(&path, "1234567890\n").unwrap();
        let _held = PidFile::new(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_file_of_somebody_else_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.pid");
        let held = PidFile::new(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
        drop(held);
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
    }
}
