//! What can be done to a file without harm to anybody, and which answers other than the kernel's are excused.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use cgview_testkit::Spawn;
use rustix::{
    event::{PollFd, PollFlags, epoll, poll},
    fs::{Access, AtFlags, FlockOperation, Mode, OFlags, SeekFrom, Timestamps, XattrFlags},
    io::Errno,
    time::Timespec,
};

/// Something that is done to a file, by the name of it, and what came of it: the name of an errno, or a word or
/// number of its own.
pub(crate) type Action = (&'static str, fn(&Path) -> String);

/// All of them.
pub(crate) const ACTIONS: &[Action] = &[
    ("open O_RDONLY", |path| open_and_close(path, OFlags::RDONLY)),
    ("open O_WRONLY", |path| open_and_close(path, OFlags::WRONLY)),
    ("open O_RDWR", |path| open_and_close(path, OFlags::RDWR)),
    ("open O_APPEND", |path| open_and_close(path, OFlags::WRONLY | OFlags::APPEND)),
    ("open O_TRUNC to read", |path| open_and_close(path, OFlags::RDONLY | OFlags::TRUNC)),
    ("open O_TRUNC to write", |path| open_and_close(path, OFlags::WRONLY | OFlags::TRUNC)),
    ("open O_CREAT to read", |path| open_and_close(path, OFlags::RDONLY | OFlags::CREATE)),
    ("open O_CREAT to write", |path| open_and_close(path, OFlags::WRONLY | OFlags::CREATE)),
    ("open O_EXCL", |path| open_and_close(path, OFlags::CREATE | OFlags::EXCL)),
    ("open O_DIRECTORY", |path| open_and_close(path, OFlags::DIRECTORY)),
    ("open O_NOFOLLOW", |path| open_and_close(path, OFlags::NOFOLLOW)),
    ("open O_NONBLOCK", |path| open_and_close(path, OFlags::NONBLOCK)),
    ("open O_PATH", |path| open_and_close(path, OFlags::PATH)),
    ("open O_DIRECT", |path| open_and_close(path, OFlags::DIRECT)),
    ("open below", |path| open_and_close(&path.join("x"), OFlags::RDONLY)),
    ("access R_OK", |path| access(path, Access::READ_OK)),
    ("access W_OK", |path| access(path, Access::WRITE_OK)),
    ("access X_OK", |path| access(path, Access::EXEC_OK)),
    ("write", |path| {
        // The host's sysfs is not to be tried with.
        if rustix::process::geteuid().is_root()
            && path.components().any(|it| it.as_os_str() == "sys")
        {
            return "not by root".into();
        }
        let file = rustix::fs::open(path, OFlags::RDWR, Mode::empty());
        say(file.and_then(|file| rustix::io::write(file, b"x")).map(|written| written.to_string()))
    }),
    ("write to what is open to read", |path| {
        with(path, |file| rustix::io::write(file, b"x").map(|_| "ok".into()))
    }),
    ("pread of nothing", |path| {
        with(path, |file| rustix::io::pread(file, &mut [0; 0], 0).map(|read| read.to_string()))
    }),
    ("pread at the largest offset", |path| {
        let at = u64::try_from(i64::MAX).unwrap();
        with(path, |file| rustix::io::pread(file, &mut [0; 1], at).map(|read| read.to_string()))
    }),
    ("readv", |path| {
        with(path, |file| {
            let (mut one, mut rest) = ([0; 1], [0; 4096]);
            let mut parts =
                [one.as_mut_slice(), rest.as_mut_slice()].map(rustix::io::IoSliceMut::new);
            let read = rustix::io::readv(file, &mut parts)?;
            Ok(if read > 1 { "more than one".into() } else { read.to_string() })
        })
    }),
    ("lseek SEEK_END", |path| seek(path, SeekFrom::End(0))),
    ("lseek SEEK_DATA", |path| seek(path, SeekFrom::Data(0))),
    ("lseek SEEK_HOLE", |path| seek(path, SeekFrom::Hole(0))),
    ("lseek before the start", |path| seek(path, SeekFrom::Current(-1))),
    ("lseek SEEK_CUR", |path| seek(path, SeekFrom::Current(3))),
    ("read after lseek", |path| {
        let mut text = Vec::new();
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return error_name(Errno::from_io_error(&error).unwrap()),
        };
        let read = file.seek(std::io::SeekFrom::Start(1)).and_then(|_| file.read_to_end(&mut text));
        match read {
            Ok(_) => "ok".into(),
            Err(error) => error_name(Errno::from_io_error(&error).unwrap()),
        }
    }),
    ("stat of fields", |path| match fs::metadata(path) {
        Ok(found) => format!("{:?} {}", found.file_type(), found.len()),
        Err(error) => error.to_string(),
    }),
    ("readlink", |path| say(rustix::fs::readlink(path, Vec::new()).map(|_| "ok".into()))),
    ("rmdir", |path| say(rustix::fs::rmdir(path).map(|()| "ok".into()))),
    ("mkdir", |path| say(rustix::fs::mkdir(path, Mode::RWXU).map(|()| "ok".into()))),
    ("chdir", |path| {
        let dir = rustix::fs::open(path, OFlags::PATH, Mode::empty());
        say(dir.and_then(rustix::process::fchdir).map(|()| "ok".into()))
    }),
    ("getxattr", |path| {
        let mut value = [0_u8; 100];
        say(rustix::fs::getxattr(path, "user.cgview", &mut value).map(|_| "ok".into()))
    }),
    ("listxattr", |path| {
        let mut names = [0_u8; 100];
        say(rustix::fs::listxattr(path, &mut names).map(|length| length.to_string()))
    }),
    ("setxattr", |path| {
        let set = rustix::fs::setxattr(path, "user.cgview", b"1", XattrFlags::empty());
        say(set.map(|()| "ok".into()))
    }),
    ("poll", |path| {
        with(path, |file| {
            let mut waited = [PollFd::new(&file, PollFlags::IN | PollFlags::OUT | PollFlags::PRI)];
            poll(&mut waited, Some(&Timespec::default()))?;
            let [waited] = waited;
            let named = [
                (PollFlags::IN, "IN"),
                (PollFlags::OUT, "OUT"),
                (PollFlags::PRI, "PRI"),
                (PollFlags::ERR, "ERR"),
            ];
            let names = named.iter().filter(|(flag, _)| waited.revents().contains(*flag));
            Ok(names.map(|(_, name)| *name).collect::<Vec<_>>().join("|"))
        })
    }),
    ("epoll_ctl", |path| {
        with(path, |file| {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(&epoll, file, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
            Ok("ok".into())
        })
    }),
    ("sendfile", |path| {
        with(path, |file| {
            let copy = memfd()?;
            let sent = rustix::fs::sendfile(&copy, file, None, 1 << 16)?;
            Ok(if sent > 0 { "text".into() } else { "nothing".into() })
        })
    }),
    ("splice", |path| {
        with(path, |file| {
            let (_out, into) = rustix::pipe::pipe()?;
            let flags = rustix::pipe::SpliceFlags::empty();
            let moved = rustix::pipe::splice(file, None, &into, None, 4096, flags)?;
            Ok(if moved > 0 { "text".into() } else { "nothing".into() })
        })
    }),
    ("copy_file_range", |path| {
        with(path, |file| {
            let copied = rustix::fs::copy_file_range(file, None, memfd()?, None, 4096)?;
            Ok(if copied > 0 { "text".into() } else { "nothing".into() })
        })
    }),
    ("mmap MAP_SHARED", |path| with(path, |file| map(file, libc::MAP_SHARED))),
    ("mmap MAP_PRIVATE", |path| with(path, |file| map(file, libc::MAP_PRIVATE))),
    ("ioctl TCGETS", |path| {
        with(path, |file| rustix::termios::tcgetwinsize(file).map(|_| "ok".into()))
    }),
    ("ioctl FIONREAD", |path| {
        with(path, |file| rustix::io::ioctl_fionread(file).map(|count| count.to_string()))
    }),
    ("fsync", |path| with(path, |file| rustix::fs::fsync(file).map(|()| "ok".into()))),
    ("flock", |path| {
        with(path, |file| {
            rustix::fs::flock(file, FlockOperation::NonBlockingLockShared).map(|()| "ok".into())
        })
    }),
    ("fallocate", |path| {
        with(path, |file| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(file, flags, 0, 1).map(|()| "ok".into())
        })
    }),
    ("posix_fadvise", |path| {
        with(path, |file| {
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::WillNeed).map(|()| "ok".into())
        })
    }),
    ("utimes of another's file", |path| {
        if rustix::process::geteuid().is_root() {
            return "not by root".into();
        }
        let time = Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        say(rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::empty())
            .map(|()| "ok".into()))
    }),
];

fn say(result: Result<String, Errno>) -> String {
    result.unwrap_or_else(error_name)
}

fn error_name(errno: Errno) -> String {
    let names = [
        (Errno::ACCESS, "EACCES"),
        (Errno::BADF, "EBADF"),
        (Errno::BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (Errno::INVAL, "EINVAL"),
        (Errno::IO, "EIO"),
        (Errno::NODATA, "ENODATA"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::NXIO, "ENXIO"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::PERM, "EPERM"),
        (Errno::ROFS, "EROFS"),
    ];
    let name = names.iter().find(|(known, _)| *known == errno);
    name.map_or_else(|| errno.to_string(), |(_, name)| (*name).into())
}

fn open_and_close(path: &Path, flags: OFlags) -> String {
    say(rustix::fs::open(path, flags, Mode::RUSR).map(|_| "ok".into()))
}

fn access(path: &Path, access: Access) -> String {
    say(rustix::fs::access(path, access).map(|()| "ok".into()))
}

fn with(path: &Path, action: impl FnOnce(BorrowedFd<'_>) -> Result<String, Errno>) -> String {
    let file = rustix::fs::open(path, OFlags::RDONLY, Mode::empty());
    say(file.and_then(|file| action(file.as_fd())))
}

fn seek(path: &Path, to: SeekFrom) -> String {
    with(path, |file| rustix::fs::seek(file, to).map(|at| at.to_string()))
}

fn memfd() -> Result<OwnedFd, Errno> {
    rustix::fs::memfd_create("copy", rustix::fs::MemfdFlags::CLOEXEC)
}

fn map(file: BorrowedFd<'_>, flags: i32) -> Result<String, Errno> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the kernel chooses an address where nothing is; nothing is read there.
    #[expect(unsafe_code, reason = "a mapping is not safe in general")]
    unsafe {
        let at =
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap());
        }
        libc::munmap(at, 4096);
    }
    Ok("ok".into())
}

/// Runs something as user and group 65534, and gives the text that it makes.
pub(crate) fn as_nobody(body: impl FnOnce() -> String) -> String {
    use rustix::{
        process::{Gid, Uid},
        thread::{set_thread_gid, set_thread_groups, set_thread_uid},
    };
    let mut file = tempfile::tempfile().unwrap();
    let into = file.try_clone().unwrap();
    let process = Spawn::new().run(|| {
        set_thread_groups(&[]).unwrap();
        set_thread_gid(Gid::from_raw(65534)).unwrap();
        set_thread_uid(Uid::from_raw(65534)).unwrap();
        { into }.write_all(body().as_bytes()).unwrap();
        0
    });
    assert_eq!(process.wait(), 0);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// An answer other than the kernel's that cgview gives on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuse {
    /// The start of the action's name.
    action: &'static str,
    /// The answers.
    here: &'static [&'static str],
    /// The start of the files' paths.
    files: &'static str,
    pub(crate) why: &'static str,
}

impl Excuse {
    pub(crate) fn is_for(&self, action: &str, here: &str, file: &Path) -> bool {
        action.starts_with(self.action) && self.here.contains(&here) && file.starts_with(self.files)
    }
}

/// What is excused, with triggers on pressure and without.
pub(crate) fn excuses(triggers: bool) -> Vec<Excuse> {
    let excuse = |action, here, files, why| Excuse { action, here, files, why };
    let read_only = "nothing can be written, not by root either (law 9)";
    let mut excuses = vec![
        excuse(
            "open O_DIRECT",
            &["ok"][..],
            "",
            "nothing is cached, so all reads are direct, and it is FUSE that says so",
        ),
        excuse(
            "lseek SEEK_",
            &["EINVAL", "ENXIO", "0", "4096"],
            "",
            "FUSE's own, by the size that stat(2) tells",
        ),
        excuse(
            "sendfile",
            &["EINVAL", "EIO"],
            "",
            "it would go through a page cache that all containers share",
        ),
        excuse(
            "splice",
            &["EINVAL", "EIO"],
            "",
            "it would go through a page cache that all containers share",
        ),
        excuse("copy_file_range", &["EINVAL", "EIO", "nothing"], "", "as sendfile"),
        excuse("mmap MAP_PRIVATE", &["ok"], "", "FUSE's own; what is mapped cannot be read"),
        excuse("mmap MAP_SHARED", &["ENODEV"], "", "FUSE's own errno"),
        excuse(
            "ioctl FIONREAD",
            &["4096"],
            "sys",
            "lists and masks of CPUs have a page, as small machines' have",
        ),
        excuse(
            "stat of fields",
            &[
                "FileType(FileType { mode: 33060 }) 4096",
                "FileType { is_file: true, is_dir: false, is_symlink: false, .. } 4096",
            ],
            "sys",
            "as FIONREAD",
        ),
        excuse(
            "ioctl FIONREAD",
            &["4096"],
            "proc",
            "the size that the kernel is told, to keep sendfile from \
            taking files for empty",
        ),
        excuse("fsync", &["ok"], "", "FUSE's own: nothing is to be written, so all of it is"),
        excuse("getxattr", &["EOPNOTSUPP"], "", "there are none, which the kernel is told once"),
        excuse("listxattr", &["EOPNOTSUPP"], "", "there are none, which the kernel is told once"),
        excuse("setxattr", &["EROFS", "EOPNOTSUPP"], "", read_only),
        excuse("poll", &["IN|OUT"], "proc/swaps", "a change of swaps is told to nobody"),
        excuse(
            "poll",
            &["IN|OUT"],
            "sys",
            "what is constant does not change; CPUs come and go without a word",
        ),
        excuse("access W_OK", &["EROFS", "EACCES"], "", read_only),
        excuse("mkdir", &["EROFS"], "", read_only),
        excuse("rmdir", &["EROFS", "ENOTDIR"], "", read_only),
        excuse("utimes", &["EROFS"], "", read_only),
        excuse("fallocate", &["EBADF", "EOPNOTSUPP", "EROFS"], "", "FUSE's own order of refusals"),
    ];
    for action in [
        "open O_WRONLY",
        "open O_RDWR",
        "open O_APPEND",
        "open O_TRUNC",
        "open O_CREAT to write",
        "write",
    ] {
        excuses.push(excuse(action, &["EROFS", "EACCES"], "", read_only));
    }
    if !triggers {
        excuses.push(excuse(
            "poll",
            &["IN|OUT"],
            "proc/pressure",
            "there are no triggers without --enable-psi-poll",
        ));
    }
    excuses
}
