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
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, Session, SessionACL, TimeOrNow, Version, WriteFlags,
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
        let filesystem = ViewFilesystem {
            service,
            since: SystemTime::now(),
            sizes: Sizes::Hidden,
            notifier: Arc::clone(&notifier),
        };
        let session = Session::from_fd(filesystem, connection, SessionACL::All, config)?;
        // It was empty.
        let _ = notifier.set(session.notifier());
        Ok(Connection(session))
    }

    /// Serves it until its last mount is gone.
    pub(crate) fn serve(self) -> io::Result<()> {
        self.0.run()
    }
}

/// The size that the kernel is told of each file when it looks it up, where [`Sizes::Hidden`] holds: any but
/// zero would do.
const HIDDEN_SIZE: u64 = 4096;

/// How the kernel is kept from taking files for empty.
///
/// Files have size 0, as those of procfs. Since Linux 6.5, however, sendfile(2) and splice(2) go through the
/// page cache even of files that are opened for direct I/O (`filemap_splice_read()`): they find that the
/// file has no bytes, and `cat` of busybox writes nothing. So there the kernel's own idea of the size is
/// another one than what stat(2) tells, and then such a read comes to us. It is refused, since what it got
/// would be kept and given to other containers' readers; with `EINVAL`, which means to all programs that
/// they have to read(2). Since Linux 7.0 they get `EIO`, whatever we say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sizes {
    /// The kernel knows that files have size 0.
    Known,
    /// The kernel takes files for [`HIDDEN_SIZE`] bytes long, and has to ask for the size of each stat(2).
    Hidden,
}

/// The minor version of the protocol in Linux 6.2, and still in 6.5: 7.38.
const SPLICES_BY_PAGE_CACHE: u32 = 38;

#[derive(Debug)]
struct ViewFilesystem {
    service: Arc<Service>,
    since: SystemTime,
    sizes: Sizes,
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

    fn caller(&self, request: &Request) -> Caller {
        // What a number means in another pid namespace, nobody here can tell.
        let tid = if self.service.host().shares_pids() { request.pid() } else { 0 };
        Caller { tid, uid: request.uid() }
    }

    /// Whether the kernel is not to know the size of an entry.
    fn hides_size(&self, entry: Entry) -> bool {
        self.sizes == Sizes::Hidden && matches!(entry, Entry::File(_))
    }

    /// What the kernel keeps of an entry, and for how long it may tell others so.
    fn kept_attributes(&self, entry: Entry) -> (FileAttr, Duration) {
        let attributes = self.attributes(entry);
        if self.hides_size(entry) {
            (FileAttr { size: HIDDEN_SIZE, ..attributes }, Duration::ZERO)
        } else {
            (attributes, FOREVER)
        }
    }

    /// What stat(2) tells of an entry.
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
        if config.kernel_abi() < Version(7, SPLICES_BY_PAGE_CACHE) {
            self.sizes = Sizes::Known;
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.answer(Operation::Lookup, |service| {
            service.lookup(self.caller(request), dir(parent)?, name.as_bytes())
        });
        match found {
            Ok(found) => {
                // Where the answer depends on who asks, the kernel has to ask each time.
                let ttl = if Service::is_fixed(found) { FOREVER } else { Duration::ZERO };
                let (attributes, kept) = self.kept_attributes(found);
                reply.entry_with_ttls(&kept, &ttl, &attributes, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let entry = match self.answer(Operation::Getattr, |_| entry(ino)) {
            Ok(entry) => entry,
            Err(errno) => return reply.error(errno),
        };
        if !self.hides_size(entry) {
            return reply.attr(&FOREVER, &self.attributes(entry));
        }
        if handle.is_some() {
            // Not stat(2) but lseek(2) to the end, which files of procfs do not know.
            return reply.error(fuser::Errno::EINVAL);
        }
        // What we answer is older then than what the kernel knows, and so it is told to whoever asked, but
        // not kept (`fuse_change_attributes()`).
        let told = self.notifier.get().map(|notifier| notifier.inval_inode(ino, -1, 0));
        if let Some(Err(error)) = told {
            tracing::debug!("cannot keep the kernel from learning a size: {error}");
        }
        reply.attr(&Duration::ZERO, &self.attributes(entry));
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
            service.access(self.caller(request), entry(ino)?, read, write, execute)
        });
        match allowed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let opened = self.answer(Operation::Open, |service| {
            service.open(self.caller(request), file(ino)?, write)
        });
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
        // Only reads for a process have one, and not those for the page cache (`fuse_send_read()`): see
        // `Sizes`.
        if lock_owner.is_none() {
            return reply.error(fuser::Errno::EINVAL);
        }
        let text = self.answer(Operation::Read, |service| {
            service.read(self.caller(request), file(ino)?, handle.0, offset)
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
            Ok((dir, service.list_for(self.caller(request), dir)))
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

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // As procfs: no blocks at all, and names as long as any (`simple_statfs()`).
        match self.answer(Operation::Statfs, |_| Ok(())) {
            Ok(()) => reply.statfs(0, 0, 0, 0, 0, 4096, 255, 0),
            Err(errno) => reply.error(errno),
        }
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
            service.write(self.caller(request), file(ino)?, handle.0, data)
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
                let (attributes, kept) = self.kept_attributes(entry);
                reply.attr(&kept, &attributes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_one_request_and_is_counted() {
        let fake = cgview_testkit::FakeHost::new();
        let host = cgview_host::Host::at(fake.path()).unwrap();
        let filesystem = ViewFilesystem {
            service: Arc::new(Service::new(host, crate::settings::ViewSettings::default())),
            since: SystemTime::now(),
            sizes: Sizes::Hidden,
            notifier: Arc::default(),
        };
        let panicking =
            filesystem.answer(Operation::Read, |_| -> Result<(), Errno> { panic!("as a test") });
        assert_eq!(panicking.map_err(fuser::Errno::code), Err(Errno::IO.raw_os_error()));
        let answered = filesystem.answer(Operation::Read, |_| Ok(7));
        assert_eq!(answered.map_err(fuser::Errno::code), Ok(7));
        let metrics = filesystem.service.metrics();
        assert_eq!((metrics.panics.get(), metrics.requests(Operation::Read)), (1, 2));
    }
}
