//! The glue between fuser and the service: the one module that knows fuser's types.
//!
//! Requests are unwrapped, answered by the [`Service`], and the answers wrapped again. A panic on the way
//! ends one request with `EIO`, and not the thread that serves all others.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use cgview_core::tree::{Dir, Entry, File};
use fuser::{
    AccessFlags, BsdFileFlags, Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyWrite, ReplyXattr, Request,
    Session, SessionACL, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;

use crate::{
    handles::slice,
    metrics::Operation,
    service::{Caller, Service},
    triggers::{Ready, Wake},
};

/// For as long as the kernel likes: what this is said of never changes.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The largest read that is answered in one piece. fuser and the kernel derive the pages of a request
/// from the largest write; a machine of 512 CPUs has a `cpuinfo` of 700 KiB.
const MAX_REQUEST: u32 = 1 << 20;

/// The size of files that the kernel is left with, while readers are told 0 as of any file of procfs.
///
/// sendfile(2) and splice(2) of a file without a size end at once with nothing read: since Linux 6.5 they
/// go through the page cache (`filemap_splice_read()`), even where reads do not. BusyBox's `cat` uses
/// sendfile(2), and would show an empty file. With a size they ask for pages, are refused (see `read`),
/// and their callers fall back to read(2).
const KERNELS_SIZE: u64 = 1;

/// A connection on which the kernel and we have greeted each other.
#[derive(Debug)]
pub(crate) struct Connection(Session<ViewFilesystem>);

impl Connection {
    /// Answers the kernel's greeting, which comes once in the life of a connection (`FUSE_INIT`).
    pub(crate) fn greet(
        service: Arc<Service>,
        connection: OwnedFd,
        threads: usize,
    ) -> io::Result<Connection> {
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads.max(1));
        let notifier = Arc::new(OnceLock::new());
        let filesystem =
            ViewFilesystem { service, since: SystemTime::now(), notifier: Arc::clone(&notifier) };
        let session = Session::from_fd(filesystem, connection, SessionACL::All, config)?;
        // It is empty before, and requests come once the session runs.
        let _ = notifier.set(session.notifier());
        Ok(Connection(session))
    }

    /// Serves it until its last mount is gone.
    pub(crate) fn serve(self) -> io::Result<()> {
        self.0.run()
    }
}

#[derive(Debug)]
struct ViewFilesystem {
    service: Arc<Service>,
    since: SystemTime,
    notifier: Arc<OnceLock<Notifier>>,
}

impl ViewFilesystem {
    /// Runs the answer to one request: the one place where a panic ends.
    fn answer<T>(
        &self,
        operation: Operation,
        answer: impl FnOnce(&Service) -> Result<T, Errno>,
    ) -> Result<T, fuser::Errno> {
        self.service.metrics().request(operation);
        // The service's locks do not poison, and what they guard is replaced as a whole.
        match catch_unwind(AssertUnwindSafe(|| answer(&self.service))) {
            Ok(result) => result.map_err(|errno| fuser::Errno::from_i32(errno.raw_os_error())),
            Err(_) => {
                self.service.metrics().panics.inc();
                tracing::error!(operation = operation.name(), "a request ended in a panic");
                Err(fuser::Errno::EIO)
            }
        }
    }

    fn attributes(&self, entry: Entry) -> FileAttr {
        let (kind, perm, nlink) = match entry {
            Entry::Dir(_) => (FileType::Directory, 0o555, 2),
            Entry::File(file) => (FileType::RegularFile, self.service.mode(file), 1),
            Entry::Link(_) => (FileType::Symlink, 0o777, 1),
        };
        FileAttr {
            ino: INodeNo(entry.id()),
            size: 0,
            blocks: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// For how long the kernel may keep attributes. What it keeps of a file is not what it may show: see
/// [`KERNELS_SIZE`].
fn attributes_ttl(entry: Entry) -> Duration {
    match entry {
        Entry::Dir(_) | Entry::Link(_) => FOREVER,
        Entry::File(_) => Duration::ZERO,
    }
}

fn caller(request: &Request) -> Caller {
    Caller { tid: request.pid(), uid: request.uid() }
}

fn entry(ino: INodeNo) -> Result<Entry, Errno> {
    Entry::from_id(ino.0).ok_or(Errno::STALE)
}

fn dir(ino: INodeNo) -> Result<Dir, Errno> {
    match entry(ino)? {
        Entry::Dir(dir) => Ok(dir),
        _ => Err(Errno::NOTDIR),
    }
}

fn file(ino: INodeNo) -> Result<File, Errno> {
    match entry(ino)? {
        Entry::File(file) => Ok(file),
        Entry::Dir(_) => Err(Errno::ISDIR),
        Entry::Link(_) => Err(Errno::LOOP),
    }
}

impl Filesystem for ViewFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Refused only where fuser's own bound is lower, and then that one stays.
        let _ = config.set_max_write(MAX_REQUEST);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.answer(Operation::Lookup, |service| {
            service.lookup(caller(request), dir(parent)?, name.as_bytes())
        });
        match found {
            Ok(found) => {
                // Where the answer depends on who asks, the kernel has to ask each time.
                let ttl = if Service::is_fixed(found) { FOREVER } else { Duration::ZERO };
                let mut attributes = self.attributes(found);
                if matches!(found, Entry::File(_)) {
                    attributes.size = KERNELS_SIZE;
                }
                let attributes_ttl = attributes_ttl(found);
                reply.entry_with_ttls(&attributes_ttl, &ttl, &attributes, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.answer(Operation::Getattr, |_| entry(ino)) {
            Ok(entry) => {
                if let (Entry::File(_), Some(notifier)) = (entry, self.notifier.get()) {
                    // Attributes that were asked for before an invalidation are shown to whoever asked,
                    // and not kept (fuse_change_attributes()): so the size stays what LOOKUP said. An
                    // error says that the kernel does not hold the inode, and so nothing of it.
                    let _ = notifier.inval_inode(ino, -1, 0);
                }
                reply.attr(&attributes_ttl(entry), &self.attributes(entry));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.answer(Operation::Readlink, |_| match entry(ino)? {
            Entry::Link(link) => Ok(link.target()),
            _ => Err(Errno::INVAL),
        });
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let allowed = self.answer(Operation::Access, |service| {
            let read = mask.contains(AccessFlags::R_OK);
            let write = mask.contains(AccessFlags::W_OK);
            let execute = mask.contains(AccessFlags::X_OK);
            service.access(caller(request), entry(ino)?, read, write, execute)
        });
        match allowed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let opened = self
            .answer(Operation::Open, |service| service.open(caller(request), file(ino)?, write));
        match opened {
            // Read by each opener anew, never from the page cache, which all would share; and nothing
            // is to be done when a descriptor is closed, only when the last one is.
            Ok(handle) => reply.opened(
                FileHandle(handle),
                FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if lock_owner.is_none() {
            // It is not a read(2), which names its owner (fuse_direct_io()), but wants to fill the page
            // cache, for a page fault or a splice. All containers would share what is in there.
            return reply.error(fuser::Errno::EIO);
        }
        let text = self.answer(Operation::Read, |service| {
            service.read(caller(request), file(ino)?, handle.0, offset)
        });
        match text {
            Ok(text) => {
                reply.data(slice(&text, offset, usize::try_from(size).unwrap_or(usize::MAX)))
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        match self.answer(Operation::Release, |service| {
            service.release(handle.0);
            Ok(())
        }) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Answered, though there is nothing to do: without an answer the kernel would cache listings,
        // and they differ from caller to caller (fuse_dir_open()).
        match self.answer(Operation::Opendir, |_| dir(ino)) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.answer(Operation::Readdir, |service| {
            let dir = dir(ino)?;
            Ok((dir, service.list_for(caller(request), dir)))
        });
        let (dir, children) = match listed {
            Ok(listed) => listed,
            Err(errno) => return reply.error(errno),
        };
        let dots =
            [(dir, "."), (dir.parent(), "..")].map(|(dir, name)| (Entry::Dir(dir), name.into()));
        let all = dots.into_iter().chain(children.into_iter().map(|child| (child, child.name())));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (entry, name)) in (1..).zip(all).skip(skip) {
            if reply.add(INodeNo(entry.id()), next, self.attributes(entry).kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.answer(Operation::Write, |service| {
            service.write(caller(request), file(ino)?, handle.0, data)
        });
        match written {
            // No more than the kernel gave in one request: see MAX_REQUEST.
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn poll(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        if !self.service.has_triggers() {
            // Then the kernel takes all files to be ready, and asks no more.
            return reply.error(fuser::Errno::ENOSYS);
        }
        let wake = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY).then(|| {
            let wake: Wake = Box::new(move || {
                if let Err(error) = notifier.notify() {
                    tracing::debug!("cannot wake a poll: {error}");
                }
            });
            wake
        });
        let ready =
            self.answer(Operation::Poll, |service| Ok(service.poll(file(ino)?, handle.0, wake)));
        // As `psi_trigger_poll()` has it.
        let always = PollEvents::POLLIN
            | PollEvents::POLLOUT
            | PollEvents::POLLRDNORM
            | PollEvents::POLLWRNORM;
        match ready {
            Ok(None | Some(Ready::Waiting)) => reply.poll(always),
            Ok(Some(Ready::Fired)) => reply.poll(always | PollEvents::POLLPRI),
            Ok(Some(Ready::Broken)) => {
                reply.poll(always | PollEvents::POLLPRI | PollEvents::POLLERR);
            }
            Err(errno) => reply.error(errno),
        }
    }

    // A mount that takes triggers is not read-only, so what else changes files is refused here.

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Opening with O_TRUNC sets the size, which is 0 anyway.
        match entry(ino) {
            Ok(entry @ Entry::File(_)) if mode.is_none() && uid.is_none() && gid.is_none() => {
                reply.attr(&attributes_ttl(entry), &self.attributes(entry));
            }
            _ => reply.error(fuser::Errno::EPERM),
        }
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    // The kernel remembers that these have no answer, and asks no more.

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Whether a file is a terminal is asked in this way.
        reply.error(fuser::Errno::ENOTTY);
    }
}
