//! Whether somebody answers for a file system.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstatfs, openat2, statx},
    io::Errno,
};

use crate::{
    helper::{Helper, wait_for},
    mounts::{CGVIEW, Device, Mount},
};

/// How long a daemon may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// How many places are tried for one file system, where they are gone or hidden.
const TRIES: usize = 8;

/// How many file systems are asked at the same time.
const AT_ONCE: usize = 32;

/// What comes of asking a file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Health {
    /// It answers.
    Alive,
    /// It answers, and has no files that all share: it is the fast mount, with a directory for each container.
    ById,
    /// Nobody holds the other end of the connection any more: `ENOTCONN`, or `ECONNABORTED`.
    Dead,
    /// It does not answer in time.
    Silent,
    /// It answers with an error.
    Failing(Errno),
    /// It could not be asked: what was found of it went away meanwhile, or may not be looked at.
    Unknown(Errno),
}

impl Health {
    /// Judges by what a request to it has returned.
    pub(crate) fn of(result: Result<(), Errno>) -> Health {
        match result {
            Ok(()) => Health::Alive,
            Err(Errno::NOTCONN | Errno::CONNABORTED) => Health::Dead,
            Err(errno) => Health::Failing(errno),
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Alive => f.write_str("answers"),
            Health::ById => f.write_str("answers, with a directory for each container"),
            Health::Dead => f.write_str("is dead: its daemon is gone"),
            Health::Silent => write!(f, "does not answer within {} s", PATIENCE.as_secs()),
            Health::Failing(errno) => write!(f, "gives an error: {}", io::Error::from(*errno)),
            Health::Unknown(errno) => {
                write!(f, "may not be looked at from here: {}", io::Error::from(*errno))
            }
        }
    }
}

/// A place at which a file system can be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The root of a process that sees it.
    pub(crate) root: BorrowedFd<'a>,
    /// What is there.
    pub(crate) mount: &'a Mount,
}

/// Opens a mount without asking its file system anything: the path goes through no link, and what is
/// found there must be that very mount.
pub(crate) fn open_mount(
    root: BorrowedFd<'_>,
    mountpoint: &Path,
    id: u64,
    device: Device,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat2(root, mountpoint, flags, Mode::empty(), resolve)?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(&found, "", flags, StatxFlags::MNT_ID)?;
    let its = Device { major: stat.stx_dev_major, minor: stat.stx_dev_minor };
    if stat.stx_mnt_id != id || its != device {
        return Err(Errno::STALE);
    }
    Ok(found)
}

/// Asks file systems, each at the first of its places that is still there.
pub(crate) fn ask(filesystems: &[Vec<Place<'_>>]) -> Vec<Health> {
    let mut health = Vec::with_capacity(filesystems.len());
    for group in filesystems.chunks(AT_ONCE) {
        let started: Vec<_> = group.iter().map(|places| start(places)).collect();
        let mut helpers = Vec::new();
        let index_of: Vec<Result<usize, Errno>> = started
            .into_iter()
            .map(|started| {
                let helper = started
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
                helpers.push(helper);
                Ok(helpers.len() - 1)
            })
            .collect();
        wait_for(&mut helpers, PATIENCE);
        health.extend(index_of.into_iter().map(|index| match index {
            Ok(index) => helpers.get(index).map_or(Health::Unknown(Errno::AGAIN), heard),
            Err(errno) => Health::Unknown(errno),
        }));
    }
    health
}

/// What a word of a helper is about.
const ASKED: u32 = 1;
const NOT_FOUND: u32 = 2;
const BY_ID: u32 = 3;

fn heard(helper: &Helper) -> Health {
    match helper.words().last() {
        Some(word) if word.kind == ASKED => match word.errno {
            0 => Health::of(Ok(())),
            errno => Health::of(Err(Errno::from_raw_os_error(errno))),
        },
        Some(word) if word.kind == BY_ID => Health::ById,
        Some(word) => Health::Unknown(Errno::from_raw_os_error(word.errno)),
        None if helper.is_late() => Health::Silent,
        None => Health::Unknown(Errno::NOENT),
    }
}

fn start(places: &[Place<'_>]) -> io::Result<Helper> {
    let places = places.get(..places.len().min(TRIES)).unwrap_or_default();
    let roots: Vec<_> = places.iter().map(|place| place.root).collect();
    Helper::start(&roots, |teller| {
        let mut why = Errno::NOENT;
        for Place { root, mount } in places {
            match open_mount(*root, &mount.mountpoint, mount.id, mount.device) {
                Ok(found) => {
                    return match request(&found, *root, mount) {
                        Ok(Asked::ById) => teller.tell(0, BY_ID, Ok(())),
                        asked => teller.tell(0, ASKED, asked.map(drop)),
                    };
                }
                Err(errno) => why = errno,
            }
        }
        teller.tell(0, NOT_FOUND, Err(why));
    })
}

/// What kind of a file system has answered.
enum Asked {
    Shared,
    ById,
}

/// Asks for the figures of the file system, which no cache has, and reads a little if it is known what.
fn request(found: &OwnedFd, root: BorrowedFd<'_>, mount: &Mount) -> Result<Asked, Errno> {
    fstatfs(found)?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(found, "", flags, StatxFlags::TYPE)?;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let read_only = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => openat2(
            root,
            &mount.mountpoint,
            read_only,
            Mode::empty(),
            resolve | ResolveFlags::IN_ROOT,
        )?,
        FileType::Directory if mount.is_whole() => {
            let resolve = resolve | ResolveFlags::BENEATH;
            match openat2(found.as_fd(), "proc/meminfo", read_only, Mode::empty(), resolve) {
                // The root of a shared view has it whatever happens.
                Err(Errno::NOENT) if mount.fstype == CGVIEW => return Ok(Asked::ById),
                opened => opened?,
            }
        }
        _ => return Ok(Asked::Shared),
    };
    rustix::io::read(&file, &mut [0; 64][..]).map(|_| Asked::Shared)
}
