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
    fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    host::Host,
    running::is_at_or_below,
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
    /// The kernel's numbers, by the directories that are there.
    numbers: HashMap<String, i32>,
    roots: Vec<Root>,
    is_complete: bool,
}

/// A directory to begin with.
#[derive(Clone, Debug)]
struct Root {
    dir: String,
    /// Where its hierarchy is mounted.
    mount_point: String,
}

impl Root {
    /// The directories that lead to it, from the mount point on.
    fn above(&self) -> impl Iterator<Item = &str> {
        let from = self.mount_point.len();
        let rest = self.dir.get(from..).unwrap_or_default();
        rest.match_indices('/').filter_map(move |(slash, _)| self.dir.get(..from + slash))
    }
}

/// What is asked of a directory. One that is removed does not end the watch of itself (cgroupfs keeps its count of
/// links), so its parent has to tell of it.
const ASKED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

impl CgroupWatch {
    /// Begins to watch all cgroups of a host that are `below` one, or all there are. That one need not exist yet, and
    /// may be removed and made again.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if no more of inotify is to be had, or if no hierarchy that is mounted could have such a cgroup.
    pub fn begin(host: &Host, below: &str) -> Result<CgroupWatch> {
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| Error::read("/proc/sys/fs/inotify/max_user_instances", errno))?;
        let of_memory = host.hierarchies.of_v1("memory").or(Some(0));
        let mut indices: Vec<usize> =
            of_memory.into_iter().chain(host.hierarchies.unified()).collect();
        indices.dedup();
        let roots = indices.into_iter().filter_map(|index| {
            let hierarchy = host.hierarchies.get(index)?;
            let dir = hierarchy.dir(below)?.trim_end_matches('/').to_owned();
            Some(Root { dir, mount_point: hierarchy.mount_point().to_owned() })
        });
        let mut watch = CgroupWatch {
            inotify,
            dirs: HashMap::new(),
            numbers: HashMap::new(),
            roots: roots.collect(),
            is_complete: true,
        };
        watch.begin_again(host);
        if watch.dirs.is_empty() {
            let errno = if watch.is_complete { Errno::NOENT } else { Errno::NOSPC };
            let first = watch.roots.first();
            return Err(Error::read(first.map_or("/sys/fs/cgroup", |root| &root.dir), errno));
        }
        Ok(watch)
    }

    /// Whether there was room to watch all cgroups: `fs.inotify.max_user_watches` says how many may be watched.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether the cgroup exists that those to be told of are below.
    #[must_use]
    pub fn is_there(&self, host: &Host) -> bool {
        self.roots.iter().any(|root| host.has(&root.dir))
    }

    /// The directories of cgroups that are new since this was called last. The descriptor is readable when there are
    /// some. One that has ended since may be among them, and one may be there twice.
    #[must_use]
    pub fn new_dirs(&mut self, host: &Host) -> Vec<String> {
        let (mut made, mut removed) = (Vec::new(), Vec::new());
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
                let dir = format!("{dir}/{name}");
                if flags.contains(ReadFlags::DELETE) {
                    removed.push(dir);
                } else if self.roots.iter().any(|root| is_at_or_below(&dir, &root.dir)) {
                    made.push(dir);
                } else if self.roots.iter().any(|root| is_at_or_below(&root.dir, &dir)) {
                    // It leads to one.
                    is_lost = true;
                }
            }
        }
        for dir in removed {
            self.forget(&dir);
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
            // Each before the one below it: what is made meanwhile is told of.
            for dir in root.above() {
                match self.watch(dir) {
                    Ok(_) => {}
                    Err(Errno::NOENT | Errno::NODEV) => break,
                    Err(_) => self.is_complete = false,
                }
            }
            self.add(host, root.dir, &mut new);
        }
        new
    }

    /// Watches a directory, and those below that may have been made before it was watched.
    fn add(&mut self, host: &Host, dir: String, new: &mut Vec<String>) {
        let mut rest = vec![dir];
        while let Some(dir) = rest.pop() {
            match self.watch(&dir) {
                Ok(is_new) => {
                    let names = host.root.list_dirs(&dir).unwrap_or_default();
                    rest.extend(names.iter().map(|name| format!("{dir}/{name}")));
                    if is_new {
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

    /// Watches one directory; whether it was not watched before.
    fn watch(&mut self, dir: &str) -> rustix::io::Result<bool> {
        let number = add_watch(&self.inotify, dir, ASKED)?;
        self.numbers.insert(dir.to_owned(), number);
        Ok(self.dirs.insert(number, dir.to_owned()).is_none())
    }

    /// Gives up the watch of a directory that is removed, which would keep what the kernel has of it. If it was made
    /// again meanwhile, that is told of, too.
    fn forget(&mut self, dir: &str) {
        if let Some(number) = self.numbers.remove(dir) {
            let _ = remove_watch(&self.inotify, number);
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
