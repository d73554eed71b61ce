//! The mount: a descriptor of `/dev/fuse` at a directory of the current mount namespace.
//!
//! Who mounts is not who serves: [`Mount::new`] gives the descriptor away, and nothing is unmounted by
//! dropping a value. So a process that only keeps the descriptor can hand it to one that serves.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

/// The type of the file system, as mount(8) and `/proc/mounts` show it.
const FSTYPE: &str = "fuse.cgview";

/// Why there is no mount. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Mounting needs `CAP_SYS_ADMIN`.
    #[error("cannot mount at {}: only root may mount; run it with sudo", path.display())]
    NotRoot {
        /// The mountpoint.
        path: PathBuf,
    },
    /// The kernel, or the container that this runs in, has no FUSE.
    #[error(
        "cannot open /dev/fuse; load the kernel module with `modprobe fuse`, or give this container the \
         device"
    )]
    NoDevice(#[source] io::Error),
    /// There is no directory of that name.
    #[error("cannot mount at {0}: there is no such directory; make it with `mkdir -p {0}`", path.display())]
    Missing {
        /// The mountpoint.
        path: PathBuf,
    },
    /// It is a file.
    #[error("cannot mount at {}: it is not a directory; name a directory", path.display())]
    NotDirectory {
        /// The mountpoint.
        path: PathBuf,
    },
    /// Another file system is there.
    #[error(
        "cannot mount at {0}: {fstype} is mounted there; end its daemon, or unmount it with `umount {0}`",
        path.display()
    )]
    Busy {
        /// The mountpoint.
        path: PathBuf,
        /// The type of the file system.
        fstype: String,
    },
    /// A FUSE mount is there whose daemon is gone.
    #[error(
        "cannot mount at {}: a FUSE mount without a daemon is left there; replace it with --replace",
        path.display()
    )]
    Dead {
        /// The mountpoint.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {what} {}", path.display())]
    Kernel {
        /// What was refused.
        what: &'static str,
        /// The mountpoint.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What may be chosen about a mount.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Options of SELinux (`context=...` and its like), which the kernel takes as they are.
    pub security: Vec<String>,
    /// Whether a dead FUSE mount at the mountpoint is unmounted first.
    pub replace: bool,
    /// Whether the mount takes writes: triggers of pressure files are set by writing to them.
    pub writable: bool,
}

/// A mount that [`Mount::new`] made.
#[derive(Clone, Debug)]
pub struct Mount {
    path: PathBuf,
    /// The kernel's number for it, by which it is told from one that somebody else put there.
    id: u64,
}

impl Mount {
    /// Mounts at the directory `path`, and returns the descriptor from which requests are read.
    ///
    /// The kernel translates callers' thread ids into the pid namespace of the process that calls
    /// this, for as long as the mount lives (`fuse_fill_super_common()`).
    ///
    /// # Errors
    ///
    /// [`Error`], if there is something at `path`, or the kernel refuses.
    pub fn new(path: &Path, options: &Options) -> Result<(OwnedFd, Mount), Error> {
        let path = resolve(path)?;
        check(&path, options.replace)?;
        let device = open_device()?;
        let mut data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        for option in &options.security {
            data.push(',');
            data.push_str(option);
        }
        // A read-only mount also keeps the kernel from forgetting the attributes at each read
        // (fuse_invalidate_atime()).
        let mut flags =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
        flags.set(MountFlags::RDONLY, !options.writable);
        let refused = |what, errno: Errno| match errno {
            Errno::PERM => Error::NotRoot { path: path.clone() },
            _ => Error::Kernel { what, path: path.clone(), source: errno.into() },
        };
        let data = CString::new(data).map_err(|_| refused("mount at", Errno::INVAL))?;
        rustix::mount::mount("cgview", &path, FSTYPE, flags, data.as_c_str())
            .map_err(|errno| refused("mount at", errno))?;
        let Some(entry) = topmost(&path) else {
            return Err(refused("find the mount at", Errno::NOENT));
        };
        Ok((device, Mount { path, id: entry.id }))
    }

    /// The mount at `path` that another process made for a connection that this one takes over.
    ///
    /// # Errors
    ///
    /// [`Error`], if there is none of ours.
    pub fn find(path: &Path) -> Result<Mount, Error> {
        let path = resolve(path)?;
        match topmost(&path) {
            Some(entry) if entry.fstype == FSTYPE => Ok(Mount { path, id: entry.id }),
            Some(entry) => Err(Error::Busy { path, fstype: entry.fstype }),
            None => {
                Err(Error::Kernel { what: "find the mount at", path, source: Errno::NOENT.into() })
            }
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends its connection, also for whoever waits for an answer and for files that are bound elsewhere.
    pub fn abort(&self) {
        // It may say that the mount is in use, but only after that (`fuse_umount_begin()`).
        let _ = unmount(&self.path, UnmountFlags::FORCE);
    }

    /// Unmounts it, at once if files are open in it: who holds them open keeps them. Does nothing if
    /// it is not there any more.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if something else is mounted over it, or [`Error::Kernel`].
    pub fn unmount(&self) -> Result<(), Error> {
        let mounts = mounts();
        if !mounts.iter().any(|mount| mount.id == self.id) {
            return Ok(());
        }
        if let Some(top) = mounts.iter().rfind(|mount| mount.path == self.path)
            && top.id != self.id
        {
            return Err(Error::Busy { path: self.path.clone(), fstype: top.fstype.clone() });
        }
        unmount(&self.path, UnmountFlags::empty())
            .or_else(|errno| match errno {
                Errno::BUSY => unmount(&self.path, UnmountFlags::DETACH),
                errno => Err(errno),
            })
            .map_err(|errno| Error::Kernel {
                what: "unmount",
                path: self.path.clone(),
                source: errno.into(),
            })
    }
}

fn unmount(path: &Path, flags: UnmountFlags) -> rustix::io::Result<()> {
    rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW)
}

/// Makes the path absolute and free of links, without touching its last component: that may be a
/// mount whose daemon is gone or does not answer.
fn resolve(path: &Path) -> Result<PathBuf, Error> {
    let missing = || Error::Missing { path: path.into() };
    let kernel = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => missing(),
        _ => Error::Kernel { what: "resolve", path: path.into(), source },
    };
    let absolute = std::path::absolute(path).map_err(kernel)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return fs::canonicalize(&absolute).map_err(kernel);
    };
    let resolved = fs::canonicalize(parent).map_err(kernel)?.join(name);
    if topmost(&resolved).is_none()
        && fs::symlink_metadata(&resolved).is_ok_and(|found| found.is_symlink())
    {
        return fs::canonicalize(&resolved).map_err(kernel);
    }
    Ok(resolved)
}

/// Whether an error tells of a mount whose daemon is gone, or is going at this moment: `fuse_abort_conn()` ends
/// what waits in another way than `fuse_get_req()` what comes after.
fn is_dead(error: &io::Error) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether a mount can be put at `path`.
fn check(path: &Path, replace: bool) -> Result<(), Error> {
    let there = topmost(path);
    let found = match fs::metadata(path) {
        Err(error) if is_dead(&error) => {
            if !replace {
                return Err(Error::Dead { path: path.into() });
            }
            unmount(path, UnmountFlags::DETACH).map_err(|errno| Error::Kernel {
                what: "unmount",
                path: path.into(),
                source: errno.into(),
            })?;
            // There may be another one beneath.
            return check(path, replace);
        }
        found => found,
    };
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::Missing { path: path.into() })
        }
        Err(source) => Err(Error::Kernel { what: "look at", path: path.into(), source }),
        Ok(found) if !found.is_dir() => Err(Error::NotDirectory { path: path.into() }),
        Ok(_) => match there {
            // A volume that a pod has there for the purpose is a mount too, but an empty one.
            Some(there) if there.is_fuse() || !is_empty(path) => {
                Err(Error::Busy { path: path.into(), fstype: there.fstype })
            }
            _ => Ok(()),
        },
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn open_device() -> Result<OwnedFd, Error> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::NoDevice(errno.into()))
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Eq, PartialEq)]
struct Entry {
    id: u64,
    path: PathBuf,
    fstype: String,
}

impl Entry {
    fn is_fuse(&self) -> bool {
        self.fstype == "fuse" || self.fstype.starts_with("fuse.")
    }
}

/// The mount that is seen at `path`, if one begins there.
fn topmost(path: &Path) -> Option<Entry> {
    mounts().into_iter().rfind(|mount| mount.path == path)
}

fn mounts() -> Vec<Entry> {
    // Read as bytes: a mountpoint may have any name.
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|&byte| byte == b'\n').filter_map(parse_entry).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - FSTYPE SOURCE OPTIONS`: proc(5).
fn parse_entry(line: &[u8]) -> Option<Entry> {
    let mut words = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let path = OsString::from_vec(cgview_attach::mounts::unescape(words.nth(3)?));
    let fstype = words.skip_while(|&word| word != b"-").nth(1)?;
    Some(Entry { id, path: path.into(), fstype: String::from_utf8_lossy(fstype).into() })
}

/// Whether an option is one that the kernel's security modules take (mount(8), "context=").
pub(crate) fn is_security_option(option: &str) -> bool {
    let known = ["context", "fscontext", "defcontext", "rootcontext"];
    let named = option.split_once('=').is_some_and(|(name, _)| known.contains(&name));
    named && !option.bytes().any(|byte| byte.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo() {
        let line =
            b"36 35 0:44 / /mnt/a\\040b rw,nosuid shared:7 master:2 - fuse.lxcfs lxcfs rw,allow_other";
        let entry = parse_entry(line).unwrap();
        assert_eq!(entry, Entry { id: 36, path: "/mnt/a b".into(), fstype: "fuse.lxcfs".into() });
        assert!(entry.is_fuse());
        assert!(!Entry { fstype: "fuseblk".into(), ..entry }.is_fuse());
        assert_eq!(parse_entry(b"36 35 0:44 / /mnt"), None);
        assert_eq!(parse_entry(b""), None);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named_with_its_remedy() {
        let error = Mount::new(Path::new("/nonexistent/x"), &Options::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot mount at /nonexistent/x: there is no such directory; make it with \
             `mkdir -p /nonexistent/x`"
        );
    }

    #[test]
    fn a_file_is_no_mountpoint() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Mount::new(file.path(), &Options::default()).unwrap_err();
        assert!(matches!(error, Error::NotDirectory { .. }), "{error}");
    }

    #[test]
    fn security_options_are_known_by_name() {
        assert!(is_security_option("context=system_u:object_r:proc_t:s0"));
        assert!(!is_security_option("context"));
        assert!(!is_security_option("fd=3"));
    }
}
