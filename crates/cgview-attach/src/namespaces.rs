//! The mount namespaces of this machine, each once.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, openat, readlinkat},
    io::{Errno, retry_on_intr},
};

use crate::{
    Error, Result,
    mounts::{Table, mentions_view},
};

/// How long another process that changes mounts of the same namespace is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A mount namespace, by one of the processes in it.
#[derive(Debug)]
pub struct Namespace {
    /// Its number, as in `mnt:[4026531841]`.
    pub id: u64,
    /// The process that it was found by: the lowest pid whose root is that of the namespace, if there is
    /// one. It may have ended since.
    pub process: Process,
    /// How many processes are in it, or have threads that are.
    pub processes: usize,
    /// Whether the calling thread is in it.
    pub is_own: bool,
    /// What is mounted there. [`all()`] leaves it empty where no view is.
    pub table: Table,
    /// `ns/mnt` of the process.
    handle: OwnedFd,
    /// Its root, from which its mountpoints are to be understood.
    root: OwnedFd,
}

/// Who a process is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Process {
    /// Its id, or that of the thread that is in the namespace.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
}

impl Namespace {
    /// What to enter it by.
    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Where its mountpoints are found, without entering it.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Keeps others who use this from changing mounts there at the same time, until it is dropped. One
    /// who holds it for very long is not waited for: the lock is open to everybody.
    pub(crate) fn lock(&self) -> Lock<'_> {
        let end = Instant::now() + PATIENCE;
        // All who open the file of a namespace open the same one (ns_get_path() of fs/nsfs.c).
        while flock(&self.handle, FlockOperation::NonBlockingLockExclusive).is_err()
            && Instant::now() < end
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        Lock(self.handle())
    }

    /// That of a process or a thread, with all that is mounted there.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if it has ended, [`Error::Process`] if it may not be looked at.
    pub fn of(pid: u32) -> Result<Namespace> {
        let known = Namespace::open(&pid.to_string(), true).map_err(|errno| match errno {
            Errno::NOENT | Errno::SRCH => Error::Gone { pid },
            errno => Error::Process { pid, source: errno.into() },
        })?;
        let mut namespace = known.namespace;
        namespace.process.pid = pid;
        namespace.processes = 1;
        Ok(namespace)
    }

    /// That of the calling thread, with all that is mounted there.
    ///
    /// # Errors
    ///
    /// If there is no `/proc`.
    pub fn own() -> Result<Namespace> {
        let own = Namespace::open("thread-self", true);
        let mut own = own.map_err(|errno| Error::Processes(errno.into()))?.namespace;
        own.is_own = true;
        own.process.pid = std::process::id();
        own.processes = 1;
        Ok(own)
    }

    /// Opens the namespace of a process, by its directory's name in `/proc`. Its table has all mounts, or those of
    /// namespaces that have a view.
    fn open(name: &str, is_whole: bool) -> Result<Candidate, Errno> {
        let path = format!("/proc/{name}");
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // All is taken from one directory, which stays that of one process.
        let dir = rustix::fs::open(path, directory, Mode::empty())?;
        let handle = openat(&dir, "ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let root = openat(&dir, "root", directory, Mode::empty())?;
        let is_at_root = readlinkat(&dir, "root", Vec::new())?.as_bytes() == b"/";
        let mountinfo = read(&dir, "mountinfo")?;
        let comm = read(&dir, "comm")?;
        let is_wanted = is_whole || mentions_view(&mountinfo);
        let table = if is_wanted { Table::parse(&mountinfo) } else { Table::default() };
        let namespace = Namespace {
            id: rustix::fs::fstat(&handle)?.st_ino,
            process: Process {
                pid: 0,
                name: String::from_utf8_lossy(comm.trim_ascii_end()).into_owned(),
            },
            processes: 0,
            is_own: false,
            table,
            handle,
            root,
        };
        Ok(Candidate { namespace, is_at_root })
    }
}

/// Held while the mounts of a namespace are changed.
#[derive(Debug)]
pub(crate) struct Lock<'a>(BorrowedFd<'a>);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// A namespace as a process shows it.
#[derive(Debug)]
struct Candidate {
    namespace: Namespace,
    /// Whether the process sees all mounts of the namespace, not only those below a root of its own.
    is_at_root: bool,
}

/// All mount namespaces that a process or a thread is in, that of the caller first. Without root, those
/// that may be looked at.
///
/// One that is only held by an open descriptor or a bound file, and has nobody in it, is not found.
///
/// # Errors
///
/// If `/proc` cannot be listed.
pub fn all() -> Result<Vec<Namespace>> {
    let mut found: BTreeMap<u64, Candidate> = BTreeMap::new();
    let mut own = Namespace::own()?;
    let mut pids: Vec<u32> = numbers("/proc").map_err(Error::Processes)?;
    pids.sort_unstable();
    for pid in pids {
        for (id, tid) in namespaces_of(pid) {
            let is_better = match found.get_mut(&id) {
                Some(known) => {
                    known.namespace.processes += 1;
                    !known.is_at_root
                }
                None => true,
            };
            if !is_better {
                continue;
            }
            // It may have ended, or not be ours to look at.
            let Ok(mut new) = Namespace::open(&tid.to_string(), false) else { continue };
            new.namespace.process.pid = tid;
            if new.namespace.id != id {
                continue;
            }
            let known = found.get(&id).map(|known| known.namespace.processes);
            if known.is_none() || new.is_at_root {
                new.namespace.processes = known.unwrap_or(1);
                found.insert(id, new);
            }
        }
    }
    // For the caller, paths mean what they mean to it.
    own.processes = found.remove(&own.id).map_or(1, |found| found.namespace.processes);
    let others = found.into_values().map(|candidate| candidate.namespace);
    Ok([own].into_iter().chain(others).collect())
}

/// The mount namespaces of the threads of a process, each with one thread.
fn namespaces_of(pid: u32) -> BTreeMap<u64, u32> {
    let first = number_of(pid).map(|id| (id, pid));
    let mut found: BTreeMap<u64, u32> = first.into_iter().collect();
    let mut tids = numbers(&format!("/proc/{pid}/task")).unwrap_or_default();
    tids.sort_unstable();
    for tid in tids.into_iter().filter(|&tid| tid != pid) {
        if let Some(id) = number_of(tid) {
            found.entry(id).or_insert(tid);
        }
    }
    found
}

/// The number of the mount namespace that a process or a thread is in. `None` if it has ended, or may not
/// be looked at.
#[must_use]
pub fn number_of(tid: u32) -> Option<u64> {
    // mnt:[4026531841]
    let link = fs::read_link(format!("/proc/{tid}/ns/mnt")).ok()?;
    link.to_str()?.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

/// What the processes of cgview-fuse are called.
const DAEMON: [&[u8]; 3] = [b"cgview-fuse\n", b"cgview-worker\n", b"cgview-prober\n"];

/// Whether a cgview-fuse runs in the mount namespace of that number.
pub(crate) fn has_daemon(id: u64) -> Result<bool> {
    let is_daemon = |pid: &u32| {
        fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| DAEMON.contains(&&*name))
    };
    let mut pids = numbers("/proc").map_err(Error::Processes)?.into_iter().filter(is_daemon);
    Ok(pids.any(|pid| number_of(pid) == Some(id)))
}

/// Whether there is a process, or a thread, of that id.
#[must_use]
pub fn exists(tid: u32) -> bool {
    fs::metadata(format!("/proc/{tid}")).is_ok()
}

fn numbers(dir: &str) -> io::Result<Vec<u32>> {
    let names = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.file_name()));
    Ok(names.filter_map(|name| std::str::from_utf8(name.as_bytes()).ok()?.parse().ok()).collect())
}

fn read(dir: &OwnedFd, name: &str) -> Result<Vec<u8>, Errno> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(8 << 10);
    loop {
        text.reserve(4 << 10);
        let length =
            retry_on_intr(|| rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text)))?;
        if length == 0 {
            return Ok(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_s_own_is_first_and_each_is_there_once() {
        let all = all().unwrap();
        assert!(all[0].is_own && all[0].processes >= 1);
        assert_eq!(all[0].process.pid, std::process::id());
        assert_eq!(Some(all[0].id), number_of(std::process::id()));
        let mut ids: Vec<_> = all.iter().map(|namespace| namespace.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
        assert_eq!(all.iter().filter(|namespace| namespace.is_own).count(), 1);
    }
}
