//! One cgroup's directory, and the descriptors that are kept of its files.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cgview_core::{
    snapshot::{Cgroup, Version},
    units::Usec,
};
use parking_lot::RwLock;
use rustix::{fs::fstat, io::Errno};

use crate::{
    budget::{Budget, Token},
    error::{Error, Result},
    hierarchy::Hierarchy,
    root::{Root, check_whole, has_no_dirs, read_all, read_once},
};

/// How long a file that was missing is taken to be so: a controller can be enabled at any time.
const ABSENT_FOR: Usec = Usec::from_secs(5);

/// A cgroup's directory.
///
/// It is of the cgroup that was there when it was opened. Another one that was made later under the same
/// name is not read: its inode is another.
#[derive(Debug)]
pub(crate) struct CgroupDir {
    cgroup: Arc<Cgroup>,
    path: String,
    bare_names: bool,
    inode: u64,
    dir: Option<(OwnedFd, Token)>,
    files: RwLock<Vec<(Box<str>, Slot)>>,
}

/// What is known of one file.
#[derive(Clone, Debug)]
enum Slot {
    Kept(Arc<Kept>),
    /// It is there, and opened for each read.
    Present,
    Absent {
        since: Usec,
    },
}

/// A file that is kept open. The kernel keeps a page of memory for it, which holds its text.
#[derive(Debug)]
struct Kept {
    file: OwnedFd,
    /// When it was read last, in microseconds on the host's boot clock.
    read: AtomicU64,
    _token: Token,
}

/// How the kernel makes a file's text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shape {
    /// In one piece, so that a read which did not fill its buffer has all of it.
    Whole,
    /// Item by item: lists of pids.
    List,
}

impl CgroupDir {
    /// Opens the cgroup at `path` of `hierarchy`. `None` if it is not below what is mounted.
    pub(crate) fn open(
        root: &Root,
        budget: &Budget,
        hierarchy: &Hierarchy,
        path: &str,
    ) -> Result<Option<CgroupDir>> {
        let Some(dir_path) = hierarchy.dir(path) else { return Ok(None) };
        let (dir, inode) = open_dir(root, &dir_path).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV => Error::Vanished { path: path.into() },
            errno => Error::read(&dir_path, errno),
        })?;
        Ok(Some(CgroupDir {
            cgroup: Arc::new(Cgroup { path: path.into(), version: hierarchy.version() }),
            path: dir_path,
            bare_names: hierarchy.bare_names,
            inode,
            dir: budget.dir().map(|token| (dir, token)),
            files: RwLock::default(),
        }))
    }

    pub(crate) fn cgroup(&self) -> &Arc<Cgroup> {
        &self.cgroup
    }

    /// The inode of its directory.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    pub(crate) fn version(&self) -> Version {
        self.cgroup.version
    }

    /// Where a file is, as the host names it.
    pub(crate) fn path_of(&self, name: &str) -> String {
        format!("{}/{}", self.path, self.bare(name))
    }

    /// A file's name here: without the controller where the hierarchy was mounted with `noprefix`.
    fn bare<'n>(&self, name: &'n str) -> &'n str {
        match name.split_once('.') {
            Some((controller, bare)) if self.bare_names && controller != "cgroup" => bare,
            _ => name,
        }
    }

    /// Where the directory is, as the host names it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether the cgroup still exists.
    pub(crate) fn is_alive(&self, root: &Root) -> bool {
        open_dir(root, &self.path).is_ok_and(|(_, inode)| inode == self.inode)
    }

    /// Whether there may be cgroups below it: by the number of links of its directory, where that is kept open.
    pub(crate) fn may_have_children(&self) -> bool {
        let kept = self.dir.as_ref();
        !kept.is_some_and(|(dir, _)| has_no_dirs(dir).unwrap_or_default())
    }

    fn vanished(&self) -> Error {
        Error::Vanished { path: self.cgroup.path.clone() }
    }

    /// Reads a file that holds one text into `text`. False if this cgroup has no such file, or if the
    /// kernel does not support it here.
    pub(crate) fn read(&self, at: &Access<'_>, name: &str, text: &mut Vec<u8>) -> Result<bool> {
        self.read_shaped(at, name, Shape::Whole, text)
    }

    /// Reads a list of pids, `cgroup.procs` or the like, into `text`. False if this cgroup has no such
    /// file, or may not tell (`cgroup.procs` of a threaded cgroup).
    pub(crate) fn read_list(
        &self,
        at: &Access<'_>,
        name: &str,
        text: &mut Vec<u8>,
    ) -> Result<bool> {
        self.read_shaped(at, name, Shape::List, text)
    }

    fn read_shaped(
        &self,
        at: &Access<'_>,
        name: &str,
        shape: Shape,
        text: &mut Vec<u8>,
    ) -> Result<bool> {
        let known = self.slot(name);
        match &known {
            Some(Slot::Absent { since }) if at.now.saturating_sub(*since) < ABSENT_FOR => {
                return Ok(false);
            }
            Some(Slot::Kept(kept)) => match shape.read(&kept.file, text) {
                // The file is gone: with its cgroup, or because its controller was disabled.
                Err(Errno::NODEV) => self.forget(name),
                result => {
                    kept.read.store(at.now.0, Ordering::Relaxed);
                    return self.readable(name, result, text);
                }
            },
            Some(Slot::Absent { .. } | Slot::Present) | None => {}
        }
        let file = match self.open_file(at.root, name) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NODEV) if !self.is_alive(at.root) => {
                return Err(self.vanished());
            }
            Err(Errno::NOENT) => {
                self.remember(name, Slot::Absent { since: at.now });
                return Ok(false);
            }
            Err(errno) => return Err(Error::read(self.path_of(name), errno)),
        };
        let result = shape.read(&file, text);
        if result == Err(Errno::NODEV) {
            return Err(self.vanished());
        }
        match self.keeps(shape).then(|| at.budget.file()).flatten() {
            Some(token) => {
                let kept = Kept { file, read: AtomicU64::new(at.now.0), _token: token };
                self.remember(name, Slot::Kept(Arc::new(kept)));
            }
            None if matches!(known, Some(Slot::Present)) => {}
            None => self.remember(name, Slot::Present),
        }
        self.readable(name, result, text)
    }

    /// Whether a descriptor may be read twice. v1 makes a list of pids when it is opened, and shows the same
    /// one for as long as it is read at least once a second (`cgroup_pidlist_start()`).
    fn keeps(&self, shape: Shape) -> bool {
        shape == Shape::Whole || self.version() == Version::V2
    }

    fn readable(&self, name: &str, result: Result<(), Errno>, text: &[u8]) -> Result<bool> {
        match result {
            Ok(()) => {
                let whole = check_whole(text);
                whole.map(|()| true).map_err(|source| Error::parse(self.path_of(name), source))
            }
            // Such as pressure that was turned off, or blkio files of another I/O scheduler.
            Err(Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(Error::read(self.path_of(name), errno)),
        }
    }

    /// The names of its files that begin with `prefix`. Where there are none, its directory, in which there may be
    /// thousands of other cgroups, is not listed again soon.
    pub(crate) fn names(&self, at: &Access<'_>, prefix: &str) -> Vec<String> {
        if let Some(Slot::Absent { since }) = self.slot(prefix)
            && at.now.saturating_sub(since) < ABSENT_FOR
        {
            return Vec::new();
        }
        let mut names = at.root.list(&self.path).unwrap_or_default();
        names.retain(|name| name.starts_with(prefix));
        if names.is_empty() {
            self.remember(prefix, Slot::Absent { since: at.now });
        }
        names
    }

    fn open_file(&self, root: &Root, name: &str) -> Result<OwnedFd, Errno> {
        let name = self.bare(name);
        if let Some((dir, _)) = &self.dir {
            return root.open_at(dir.as_fd(), name);
        }
        let (dir, inode) = open_dir(root, &self.path)?;
        if inode != self.inode {
            return Err(Errno::NODEV);
        }
        root.open_at(dir.as_fd(), name)
    }

    /// Closes the files that nobody has read since `then`; they are opened when they are read again.
    pub(crate) fn close_files(&self, then: Usec) {
        let mut files = self.files.write();
        let mut closed = Vec::new();
        for (_, slot) in files.iter_mut() {
            if matches!(slot, Slot::Kept(kept) if kept.read.load(Ordering::Relaxed) < then.0) {
                closed.push(std::mem::replace(slot, Slot::Present));
            }
        }
        // After the lock is released.
        drop(files);
        drop(closed);
    }

    /// The names of the files that were read, and were there.
    pub(crate) fn known_files(&self) -> Vec<String> {
        let files = self.files.read();
        let there = files.iter().filter(|(_, slot)| !matches!(slot, Slot::Absent { .. }));
        there.map(|(name, _)| String::from(&**name)).collect()
    }

    fn slot(&self, name: &str) -> Option<Slot> {
        let files = self.files.read();
        files.iter().find(|(known, _)| **known == *name).map(|(_, slot)| slot.clone())
    }

    fn remember(&self, name: &str, slot: Slot) {
        let mut files = self.files.write();
        match files.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, known)) => *known = slot,
            None => files.push((name.into(), slot)),
        }
    }

    fn forget(&self, name: &str) {
        self.files.write().retain(|(known, _)| **known != *name);
    }
}

impl Shape {
    fn read(self, file: &OwnedFd, text: &mut Vec<u8>) -> Result<(), Errno> {
        match self {
            Shape::Whole => read_once(file.as_fd(), text),
            Shape::List => read_all(file.as_fd(), text),
        }
    }
}

fn open_dir(root: &Root, path: &str) -> Result<(OwnedFd, u64), Errno> {
    let dir = root.open_dir(path)?;
    let inode = fstat(&dir)?.st_ino;
    Ok((dir, inode))
}

/// What it takes to read a cgroup's files, and when it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access<'a> {
    pub(crate) root: &'a Root,
    pub(crate) budget: &'a Budget,
    pub(crate) now: Usec,
}

#[cfg(test)]
mod tests {
    use cgview_core::{Snapshot, Usec, view::Parts};
    use cgview_testkit::{FakeHost, FakeProcess};

    use super::Slot;
    use crate::Host;

    #[test]
    fn without_descriptors_to_keep_everything_is_read_all_the_same() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        fake.process(&FakeProcess { pid: 100, cgroup: "0::/app\n", ..FakeProcess::default() });
        fake.file("/sys/fs/cgroup/app/pids.current", "3\n");
        fake.file("/sys/fs/cgroup/app/pids.max", "10\n");
        fake.file("/sys/fs/cgroup/app/cgroup.threads", "100\n");
        let sample = |budget| {
            let host = Host::at(fake.path()).unwrap().keeping(budget);
            let kept = host.keep(100).unwrap();
            let mut snapshot = Snapshot::default();
            for _ in 0..2 {
                kept.check(&host)
                    .unwrap()
                    .container
                    .sample(&host, Parts::ALL, &mut snapshot)
                    .unwrap();
            }
            format!("{snapshot:?}")
        };
        let expected = sample(1000);
        assert!(expected.contains("current: 3") && expected.contains("total: 1"), "{expected}");
        for budget in 0..8 {
            assert_eq!(sample(budget), expected, "{budget}");
        }
    }

    #[test]
    fn files_that_nobody_reads_are_closed_and_opened_again() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        fake.process(&FakeProcess { pid: 100, cgroup: "0::/app\n", ..FakeProcess::default() });
        fake.file("/sys/fs/cgroup/app/pids.current", "3\n");
        fake.file("/sys/fs/cgroup/app/pids.max", "10\n");
        let host = Host::at(fake.path()).unwrap().keeping(1000);
        let container = host.caller(100).unwrap().container;
        let own = container.levels(&host, 0).unwrap()[0].clone();
        let sample = || {
            container.sample(&host, Parts::PIDS, &mut Snapshot::default()).unwrap();
            let files = own.files.read();
            files.iter().filter(|(_, slot)| matches!(slot, Slot::Kept(_))).count()
        };
        let known = || own.known_files().len();
        assert_eq!((sample(), known()), (2, 2));
        let now = host.boottime().unwrap();
        own.close_files(now);
        assert_eq!(sample(), 2, "they were read just now");
        own.close_files(now.saturating_add(Usec(1)));
        let open = own.files.read().iter().any(|(_, slot)| matches!(slot, Slot::Kept(_)));
        assert!(!open && known() == 2);
        assert_eq!(sample(), 2);
    }

    #[test]
    fn names_that_are_not_there_are_not_looked_for_again_soon() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        fake.process(&FakeProcess { pid: 100, cgroup: "0::/app\n", ..FakeProcess::default() });
        fake.file("/sys/fs/cgroup/app/memory.current", "4096\n");
        let host = Host::at(fake.path()).unwrap();
        let container = host.caller(100).unwrap().container;
        let sizes = || {
            let mut snapshot = Snapshot::default();
            container.sample(&host, Parts::ALL.without(Parts::TASKS), &mut snapshot).unwrap();
            snapshot.hugetlb.len()
        };
        assert_eq!(sizes(), 0);
        fake.file("/sys/fs/cgroup/app/hugetlb.2MB.current", "0\n");
        assert_eq!(sizes(), 0);
        let later = host.boottime().unwrap().0 / 1_000_000 + 6;
        fake.file("/proc/uptime", &format!("{later}.00 0.00\n"));
        assert_eq!(sizes(), 1);
    }

    #[test]
    fn a_cgroup_of_the_same_name_is_another_one() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        fake.process(&FakeProcess { pid: 100, cgroup: "0::/app\n", ..FakeProcess::default() });
        fake.file("/sys/fs/cgroup/app/pids.current", "3\n");
        for budget in [0, 1000] {
            let host = Host::at(fake.path()).unwrap().keeping(budget);
            let container = host.caller(100).unwrap().container;
            let levels = container.levels(&host, 0).unwrap();
            let at = host.access().unwrap();
            assert!(levels[0].read(&at, "pids.current", &mut Vec::new()).unwrap());
            // The old one is kept, so that its inode is not given to the new one.
            let app = fake.path().join("sys/fs/cgroup/app");
            let old = fake.path().join(format!("old-{budget}"));
            std::fs::rename(&app, &old).unwrap();
            fake.file("/sys/fs/cgroup/app/pids.current", "4\n");
            assert!(!levels[0].is_alive(&host.root));
            assert!(levels[0].read(&at, "pids.max", &mut Vec::new()).is_err());
        }
    }
}
