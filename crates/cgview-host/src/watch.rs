//! Cgroups that are new: how a container is noticed when it starts.
//!
//! Whatever starts a container makes a cgroup for it first, and moves its first process there. inotify tells of new
//! directories of cgroupfs, which costs nothing while none are made, however many processes start and end. The other
//! ways were: the kernel's process connector, which wakes its listener for each process of the machine that forks or
//! executes, and is only there for the first pid and network namespace; fanotify on the whole file system, which
//! cgroupfs has since Linux 6.6; and polling.

use std::{
    collections::HashMap,
    ffi::OsStr,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use rustix::{
    fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    host::Host,
};

/// Tells of new cgroups.
///
/// It watches the hierarchy of the memory controller, or the first one that is mounted, and the unified one: in these
/// every runtime makes the cgroups of its containers.
#[derive(Debug)]
pub struct CgroupWatch {
    inotify: OwnedFd,
    /// The directories that are watched, by the kernel's numbers.
    dirs: HashMap<i32, String>,
    /// The directories to begin with.
    roots: Vec<String>,
    is_complete: bool,
}

/// What is asked of a directory.
const ASKED: WatchFlags =
    WatchFlags::CREATE.union(WatchFlags::ONLYDIR).union(WatchFlags::EXCL_UNLINK);

impl CgroupWatch {
    /// Begins to watch all cgroups of a host that are `below` one, or all there are.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if no more of inotify is to be had, or if there is no such cgroup.
    pub fn begin(host: &Host, below: &str) -> Result<CgroupWatch> {
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| Error::read("/proc/sys/fs/inotify/max_user_instances", errno))?;
        let of_memory = host.hierarchies.of_v1("memory").or(Some(0));
        let mut indices: Vec<usize> =
            of_memory.into_iter().chain(host.hierarchies.unified()).collect();
        indices.dedup();
        let dirs = indices.into_iter().filter_map(|index| host.hierarchies.get(index)?.dir(below));
        let roots: Vec<_> = dirs.map(|dir| dir.trim_end_matches('/').to_owned()).collect();
        let mut watch = CgroupWatch { inotify, dirs: HashMap::new(), roots, is_complete: true };
        watch.begin_again(host);
        if watch.dirs.is_empty() {
            let errno = if watch.is_complete { Errno::NOENT } else { Errno::NOSPC };
            return Err(Error::read(
                watch.roots.first().map_or("/sys/fs/cgroup", |dir| dir),
                errno,
            ));
        }
        Ok(watch)
    }

    /// Whether there was room to watch all cgroups: `fs.inotify.max_user_watches` says how many may be watched.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The directories of cgroups that are new since this was called last. The descriptor is readable when there are
    /// some. One that has ended since may be among them, and one may be there twice.
    #[must_use]
    pub fn new_dirs(&mut self, host: &Host) -> Vec<String> {
        let mut made = Vec::new();
        let mut is_lost = false;
        let mut buffer = [MaybeUninit::uninit(); 8 << 10];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        // Until there is nothing to read (EAGAIN).
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                is_lost = true;
            } else if flags.contains(ReadFlags::IGNORED) {
                self.dirs.remove(&event.wd());
            } else if flags.contains(ReadFlags::ISDIR)
                && let Some(dir) = self.dirs.get(&event.wd())
                && let Some(name) = event.file_name()
                && let Ok(name) = OsStr::from_bytes(name.to_bytes()).to_os_string().into_string()
            {
                made.push(format!("{dir}/{name}"));
            }
        }
        let mut new = Vec::new();
        for dir in made {
            self.add(host, dir, &mut new);
        }
        if is_lost {
            new.extend(self.begin_again(host));
        }
        new
    }

    /// Watches all directories that there are, and gives those that were not watched before.
    fn begin_again(&mut self, host: &Host) -> Vec<String> {
        let mut new = Vec::new();
        for root in self.roots.clone() {
            self.add(host, root, &mut new);
        }
        new
    }

    /// Watches a directory, and those below that may have been made before it was watched.
    fn add(&mut self, host: &Host, dir: String, new: &mut Vec<String>) {
        let mut rest = vec![dir];
        while let Some(dir) = rest.pop() {
            match add_watch(&self.inotify, &dir, ASKED) {
                Ok(number) => {
                    let names = host.root.list_dirs(&dir).unwrap_or_default();
                    rest.extend(names.iter().map(|name| format!("{dir}/{name}")));
                    if self.dirs.insert(number, dir.clone()).is_none() {
                        new.push(dir);
                    }
                }
                // It has ended.
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(_) => {
                    self.is_complete = false;
                    new.push(dir);
                }
            }
        }
    }
}

impl AsFd for CgroupWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Host {
    /// The processes in a cgroup, by its directory. Empty if it has ended.
    #[must_use]
    pub fn processes_in(&self, dir: &str) -> Vec<u32> {
        let mut text = Vec::new();
        if self.root.read(&format!("{dir}/cgroup.procs"), &mut text).is_err() {
            return Vec::new();
        }
        String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).collect()
    }
}
