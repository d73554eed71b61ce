//! The root of a host: a directory below which its files are opened.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use cgview_core::parse::ParseError;
use rustix::{
    fs::{Access, AtFlags, Dir, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags},
    io::Errno,
};

/// How often an `openat2` that raced with a rename is tried again.
const RACES: usize = 16;

/// A directory that holds a host's `proc` and `sys`.
///
/// Paths are the host's own, absolute ones. Below a root other than `/` they stay inside of it, symbolic
/// links too, by `RESOLVE_IN_ROOT` of `openat2` (since Linux 5.6). On `/` plain `openat` does the same
/// on any kernel.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
    path: PathBuf,
    confined: bool,
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Root { dir, path: path.into(), confined: path != Path::new("/") })
    }

    /// Where it is, as this process names it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file for reading.
    pub(crate) fn open_file(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open_with(path, OFlags::RDONLY | OFlags::CLOEXEC)
    }

    /// Opens a directory, to open others below it.
    pub(crate) fn open_dir(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open_with(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    /// Opens a pressure file to set a trigger on it.
    pub(crate) fn open_trigger(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open_with(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC)
    }

    fn open_with(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve(self.dir.as_fd(), path, flags, ResolveFlags::IN_ROOT)
    }

    /// Opens a file by its name relative to `dir`, a directory of this host.
    pub(crate) fn open_at(&self, dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        // Files of processes and cgroups are no links.
        self.resolve(dir, name, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    fn resolve(
        &self,
        dir: BorrowedFd<'_>,
        path: &str,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        if !self.confined {
            return retry(|| rustix::fs::openat(dir, path, flags, Mode::empty()));
        }
        for _ in 0..RACES {
            match retry(|| rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve)) {
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Reads a whole file into `text`, in place of what it held.
    pub(crate) fn read(&self, path: &str, text: &mut Vec<u8>) -> Result<(), Errno> {
        let file = self.open_file(path)?;
        let read = if is_made_whole(path) { read_once } else { read_all };
        read(file.as_fd(), text)
    }

    /// The text of a symbolic link.
    pub(crate) fn read_link(&self, path: &str) -> Result<String, Errno> {
        let link = self.open_with(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        let text = rustix::fs::readlinkat(link, "", Vec::new())?;
        text.into_string().map_err(|_| Errno::ILSEQ)
    }

    /// Whether there is an entry at `path`.
    pub(crate) fn has(&self, path: &str) -> bool {
        if self.confined {
            self.open_with(path, OFlags::PATH | OFlags::CLOEXEC).is_ok()
        } else {
            rustix::fs::accessat(&self.dir, path, Access::EXISTS, AtFlags::empty()).is_ok()
        }
    }

    /// The names in a directory, without `.` and `..`. Names that are not UTF-8 are left out: no file of
    /// the kernel's is named so, and cgroups that are cannot be shown.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<String>, Errno> {
        let dir = self.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        let mut names = Vec::new();
        for entry in Dir::new(dir)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// The names of the directories in a directory. Empty, without reading it, where the number of its
    /// links says that there are none.
    pub(crate) fn list_dirs(&self, path: &str) -> Result<Vec<String>, Errno> {
        let dir = self.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        let mut names = Vec::new();
        if has_no_dirs(&dir)? {
            return Ok(names);
        }
        for entry in Dir::new(dir)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) if entry.file_type() == FileType::Directory => names.push(name.to_owned()),
                Ok(_) => {}
            }
        }
        Ok(names)
    }

    /// Whether `path` is a mounted `/proc`, not a copy of its files.
    pub(crate) fn is_procfs(&self, path: &str) -> bool {
        self.open_dir(path)
            .and_then(rustix::fs::fstatfs)
            .is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC)
    }
}

/// Whether a directory has none in it for sure, by the number of its links: `kernfs` counts them as most file systems do.
pub(crate) fn has_no_dirs(dir: impl AsFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fstat(dir)?.st_nlink == 2)
}

/// Reads a file from its start into `text`, in place of what it held, by a descriptor that may be shared.
///
/// Files of `/proc` are longer than they say (`st_size` 0), so the end is where a read gives nothing.
pub(crate) fn read_all(file: BorrowedFd<'_>, text: &mut Vec<u8>) -> Result<(), Errno> {
    text.clear();
    loop {
        make_room(text)?;
        let offset = text.len() as u64;
        let read = retry(|| rustix::io::pread(file, rustix::buffer::spare_capacity(text), offset))?;
        if read == 0 {
            return Ok(());
        }
    }
}

/// Reads a file whose text the kernel makes in one piece (`single_open()`, most files of cgroupfs), with
/// one system call where the text is shorter than [`READ_SIZE`].
pub(crate) fn read_once(file: BorrowedFd<'_>, text: &mut Vec<u8>) -> Result<(), Errno> {
    text.clear();
    loop {
        make_room(text)?;
        let room = text.capacity() - text.len();
        let offset = text.len() as u64;
        let read = retry(|| rustix::io::pread(file, rustix::buffer::spare_capacity(text), offset))?;
        if read < room {
            return Ok(());
        }
    }
}

/// Whether the kernel makes the text of that file in one piece (`single_open()`), as it does those of `/proc` that are
/// read most, and all of sysfs.
fn is_made_whole(path: &str) -> bool {
    const NAMES: [&str; 6] = ["cgroup", "loadavg", "meminfo", "stat", "status", "uptime"];
    let name = || path.rsplit('/').next().unwrap_or_default();
    path.starts_with("/sys/devices/") || path.starts_with("/proc/") && NAMES.contains(&name())
}

fn make_room(text: &mut Vec<u8>) -> Result<(), Errno> {
    if text.len() > MOST_TEXT {
        // Whoever keeps the buffer is not to keep all that memory.
        *text = Vec::new();
        return Err(Errno::FBIG);
    }
    if text.capacity() - text.len() < READ_SIZE {
        text.try_reserve(READ_SIZE).map_err(|_| Errno::NOMEM)?;
    }
    Ok(())
}

/// Whether a text ends where the kernel ended it: all lines of its files end.
///
/// # Errors
///
/// [`ParseError`] for one that was cut off.
pub(crate) fn check_whole(text: &[u8]) -> Result<(), ParseError> {
    if text.last().is_none_or(|&byte| byte == b'\n') {
        return Ok(());
    }
    let last = text.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    let lines = text.iter().filter(|&&byte| byte == b'\n').count();
    Err(ParseError::new(lines + 1, "a line that ends", last))
}

/// The most that is read of a file: `tasks` of a cgroup with four million of them has less, and so has
/// `cpuinfo` of thousands of CPUs.
const MOST_TEXT: usize = 64 << 20;

/// The least room that a read is given: more than any single file of a cgroup needs, as a rule.
const READ_SIZE: usize = 8192;

/// Repeats a system call that a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
