//! One process, by its directory in `/proc`.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    thread,
};

use cgview_core::{
    parse::{PidStat, TimensOffsets, pid_stat, timens_offsets},
    units::Usec,
};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    process::{Pid, test_kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    deputy,
    error::{Error, Result},
    root::{Root, check_whole, read_all, read_once},
};

/// A process or a thread of the host.
///
/// It holds the directory, so that everything read by it is of one process: when that ends and its pid is
/// given to another, reads fail with `ESRCH` (a directory of `/proc` is bound to a `struct pid`).
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    /// Shared with the deputy.
    dir: Arc<OwnedFd>,
}

/// A namespace, by the inode number that the kernel gives it while it exists.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Namespace(pub(crate) u64);

impl Namespace {
    /// The first pid namespace: `PROC_PID_INIT_INO` of `linux/proc_ns.h`.
    pub(crate) const FIRST_PID: Namespace = Namespace(0xefff_fffc);
    /// The first cgroup namespace: `PROC_CGROUP_INIT_INO`.
    pub(crate) const FIRST_CGROUP: Namespace = Namespace(0xefff_fffb);
    /// The first time namespace: `PROC_TIME_INIT_INO`.
    pub(crate) const FIRST_TIME: Namespace = Namespace(0xefff_fffa);

    /// Reads the text of a link in `/proc/PID/ns`, such as `pid:[4026531836]`.
    fn parse(link: &[u8]) -> Option<Namespace> {
        let text = std::str::from_utf8(link).ok()?;
        let number = text.split_once(":[")?.1.strip_suffix(']')?;
        number.parse().ok().map(Namespace)
    }
}

/// The namespaces of a process that a view depends on; `None` for kinds that the kernel does not have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespaces {
    pub(crate) pid: Option<Namespace>,
    pub(crate) cgroup: Option<Namespace>,
    pub(crate) time: Option<Namespace>,
}

impl Process {
    /// Opens a process by its pid, or a thread by its thread id, as the host's `/proc` numbers them.
    pub(crate) fn open(root: &Root, pid: u32) -> Result<Process> {
        match root.open_dir(&format!("/proc/{pid}")) {
            Ok(dir) => Ok(Process { pid, dir: Arc::new(dir) }),
            Err(Errno::NOENT | Errno::SRCH) => Err(missing(root, pid)),
            Err(errno) => Err(Error::read(format!("/proc/{pid}"), errno)),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The path of one of its files, for errors.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }

    fn error(&self, name: &str, errno: Errno) -> Error {
        match errno {
            Errno::SRCH => Error::Gone { pid: self.pid },
            errno => Error::read(self.path(name), errno),
        }
    }

    /// Opens one of its files.
    pub(crate) fn open_file(&self, root: &Root, name: &str) -> Result<OwnedFd> {
        // What every process has is missing only when there is no process: the directory of one that
        // ended is empty.
        root.open_at(self.dir.as_fd(), name).map_err(|errno| match errno {
            Errno::NOENT => missing(root, self.pid),
            errno => self.error(name, errno),
        })
    }

    /// Reads a file that every process has.
    pub(crate) fn read(&self, root: &Root, name: &str, text: &mut Vec<u8>) -> Result<()> {
        let file = self.open_file(root, name)?;
        // All but the list of mounts are made in one piece (`proc_single_file_operations`).
        let read = if name == "mountinfo" { read_all } else { read_once };
        read(file.as_fd(), text).map_err(|errno| self.error(name, errno))?;
        check_whole(text).map_err(|source| Error::parse(self.path(name), source))
    }

    /// Reads `stat`.
    pub(crate) fn stat(&self, root: &Root, text: &mut Vec<u8>) -> Result<PidStat> {
        self.read(root, "stat", text)?;
        pid_stat(text).map_err(|source| Error::parse(self.path("stat"), source))
    }

    /// The namespace behind a link in its `ns` directory; `None` if the kernel has no such namespaces.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if the kernel does not let this process know: that takes `PTRACE_MODE_READ`, for
    /// most processes `CAP_SYS_PTRACE`.
    pub(crate) fn namespace(&self, name: &'static str) -> Result<Option<Namespace>> {
        let dir = Arc::clone(&self.dir);
        self.known(name, deputed(move || read_link(&dir, name)))
    }

    /// Those namespaces at once, since each question to the deputy has its price.
    ///
    /// # Errors
    ///
    /// Those of [`Process::namespace`].
    pub(crate) fn namespaces(&self) -> Result<Namespaces> {
        let dir = Arc::clone(&self.dir);
        let names = ["pid", "cgroup", "time"];
        let [pid, cgroup, time] = deputed(move || Ok(names.map(|name| read_link(&dir, name))))
            .map_err(|errno| self.error("ns", errno))?;
        Ok(Namespaces {
            pid: self.known("pid", pid)?,
            cgroup: self.known("cgroup", cgroup)?,
            time: self.known("time", time)?,
        })
    }

    fn known(&self, name: &str, link: Result<CString, Errno>) -> Result<Option<Namespace>> {
        match link {
            Ok(link) => Ok(Namespace::parse(link.as_bytes())),
            // For the dead, the kernel has neither a task to ask nor an error of its own.
            Err(Errno::SRCH) => Err(Error::Gone { pid: self.pid }),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.error(&format!("ns/{name}"), errno)),
        }
    }

    /// Opens the namespace behind a link in its `ns` directory.
    ///
    /// The caller knows that `/proc` is the kernel's: this follows a magic link, whose copy in a captured
    /// tree leads nowhere.
    pub(crate) fn open_namespace(&self, name: &'static str) -> Result<OwnedFd, Errno> {
        let dir = Arc::clone(&self.dir);
        deputed(move || open_plain(&*dir, &format!("ns/{name}")))
    }

    /// The text of `of`'s `cgroup`, as read from the cgroup namespace of this process: see
    /// [`deputy`](crate::deputy) for who enters that.
    ///
    /// The caller knows that `/proc` is the kernel's. A namespace is a thread's own affair, so nothing of the
    /// others is changed.
    pub(crate) fn membership_of(&self, of: &Process) -> Result<Vec<u8>, Errno> {
        let (from, of) = (Arc::clone(&self.dir), Arc::clone(&of.dir));
        let read = move || {
            let namespace = open_plain(&*from, "ns/cgroup")?;
            let kind = Some(LinkNameSpaceType::ControlGroup);
            let home = open_plain(CWD, "/proc/thread-self/ns/cgroup")?;
            move_into_link_name_space(namespace.as_fd(), kind)?;
            let mut text = Vec::new();
            let read =
                open_plain(&*of, "cgroup").and_then(|file| read_all(file.as_fd(), &mut text));
            // A namespace that this thread stayed in would outlive its container. If it has to stay, no
            // harm is done: whatever else it reads is the same from everywhere.
            let _ = move_into_link_name_space(home.as_fd(), kind);
            read.map(|()| text)
        };
        if deputy::exists() {
            return deputed(read);
        }
        let reader = thread::Builder::new()
            .name("cgroup-namespace".into())
            .stack_size(128 << 10)
            .spawn(read);
        let reader =
            reader.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
        reader.join().unwrap_or(Err(Errno::IO))
    }

    /// The offsets of its time namespace, relative to the first one.
    ///
    /// `timens_offsets` tells those of the namespace that its children will be in
    /// (`timens_for_children_get()`), so it says nothing of a process that only made one.
    pub(crate) fn timens_offsets(&self, root: &Root, text: &mut Vec<u8>) -> Result<TimensOffsets> {
        if self.namespace("time")? != self.namespace("time_for_children")? {
            return Ok(TimensOffsets::default());
        }
        match root.open_at(self.dir.as_fd(), "timens_offsets") {
            // Before Linux 5.6 there are no time namespaces.
            Err(Errno::NOENT) => Ok(TimensOffsets::default()),
            Err(errno) => Err(self.error("timens_offsets", errno)),
            Ok(file) => {
                read_all(file.as_fd(), text)
                    .map_err(|errno| self.error("timens_offsets", errno))?;
                timens_offsets(text)
                    .map_err(|source| Error::parse(self.path("timens_offsets"), source))
            }
        }
    }

    /// When it started, on the boot clock.
    pub(crate) fn started(&self, root: &Root, text: &mut Vec<u8>) -> Result<Usec> {
        Ok(self.stat(root, text)?.starttime.usec())
    }
}

/// Has the deputy make a system call.
fn deputed<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Errno> + Send + 'static,
) -> Result<T, Errno> {
    deputy::run(call).unwrap_or(Err(Errno::IO))
}

/// Reads a link in the `ns` directory of a process.
fn read_link(dir: &OwnedFd, name: &str) -> Result<CString, Errno> {
    rustix::fs::readlinkat(dir, format!("ns/{name}"), Vec::new())
}

fn open_plain(dir: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Why there is nothing of a process in `/proc`.
fn missing(root: &Root, pid: u32) -> Error {
    // With hidepid=2 its directory seems to be empty (`proc_pid_permission()`), though signals reach it.
    // If the directory of that pid has files, then it was another one's that is empty.
    let hidden = root.path() == Path::new("/") && !root.has(&format!("/proc/{pid}/stat"));
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match number {
        Some(number) if hidden && test_kill_process(number) != Err(Errno::SRCH) => {
            Error::Hidden { pid }
        }
        _ => Error::Gone { pid },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_numbers_in_brackets() {
        assert_eq!(Namespace::parse(b"pid:[4026531836]"), Some(Namespace::FIRST_PID));
        assert_eq!(Namespace::parse(b"cgroup:[4026531835]"), Some(Namespace::FIRST_CGROUP));
        assert_eq!(Namespace::parse(b"pid:[]"), None);
        assert_eq!(Namespace::parse(b"/etc/passwd"), None);
    }
}
