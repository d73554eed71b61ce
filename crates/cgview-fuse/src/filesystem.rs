//! The glue between fuser and the service: the one module that knows fuser's types.
//!
//! Requests are unwrapped, answered by the [`Service`], and the answers wrapped again. Those that take the
//! kernel to answer go by the [`Dispatcher`]. A panic on the way ends one request with `EIO`, and not the
//! thread that serves all others.

mod by_id;
mod connection;
mod drain;
mod entries;

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use cgview_core::tree::{Entry, File};
use fuser::{
    AccessFlags, BsdFileFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    Version, WriteFlags,
};
use rustix::io::Errno;

pub use self::connection::Which;
use self::entries::{HIDDEN_SIZE, SPLICES_BY_PAGE_CACHE, Sizes, dir, entry, file, kind, list};
pub(crate) use self::{
    connection::{Connection, resend},
    drain::Drain,
};
use crate::{
    dispatch::{Ask, Dispatcher, Told},
    handles::slice,
    metrics::Operation,
    service::{Caller, Service},
    triggers::{Ready, Wake},
};

/// For as long as the kernel likes: what this is said of never changes.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The longest trigger that is passed on to the kernel, which itself looks at 32 bytes.
const MOST_TRIGGER: usize = 4096;

/// What stat(2) tells of the size of a file below `sys/`: `PAGE_SIZE` as on the host (`sysfs_add_file_mode_ns()`).
const SYSFS_SIZE: u64 = 4096;

#[derive(Debug)]
struct ViewFilesystem {
    service: Arc<Service>,
    dispatcher: Dispatcher,
    since: SystemTime,
    sizes: Sizes,
    notifier: Arc<OnceLock<Notifier>>,
    drain: Arc<Drain>,
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

    /// Has a request answered that takes the kernel: perhaps by another thread, and not yet.
    fn dispatch(
        &self,
        request: &Request,
        ask: Ask,
        reply: impl FnOnce(Result<Told, fuser::Errno>) + Send + 'static,
    ) {
        let reply = |told: Result<Told, Errno>| {
            reply(told.map_err(|errno| fuser::Errno::from_i32(errno.raw_os_error())));
        };
        self.dispatcher.submit(request.unique().0, self.caller(request), ask, Box::new(reply));
    }

    fn caller(&self, request: &Request) -> Caller {
        // What a number means in another pid namespace, nobody here can tell.
        let tid = if self.service.host().shares_pids() { request.pid() } else { 0 };
        Caller { tid, uid: request.uid() }
    }

    /// Whether the kernel is not to know the size of an entry.
    fn hides_size(&self, entry: Entry) -> bool {
        self.sizes == Sizes::Hidden && matches!(entry, Entry::File(File::Proc(_)))
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
        let (perm, nlink) = match entry {
            Entry::Dir(_) => (0o555, 2),
            Entry::File(file) => (self.service.mode(file), 1),
            Entry::Link(_) => (0o777, 1),
        };
        let size = if matches!(entry, Entry::File(File::Sys(_))) { SYSFS_SIZE } else { 0 };
        FileAttr {
            ino: INodeNo(entry.id()),
            size,
            blocks: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind: kind(entry),
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

impl Filesystem for ViewFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        connection::agree(connection::Which::Shared, config);
        if config.kernel_abi() < Version(7, SPLICES_BY_PAGE_CACHE) {
            self.sizes = Sizes::Known;
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Ok(dir) = dir(parent)
            && let Some(found) = dir.child(name.as_bytes())
            && !Service::is_fixed(found)
        {
            self.service.metrics().request(Operation::Lookup);
            // The answer depends on who asks, so the kernel has to ask each time.
            let (attributes, kept) = self.kept_attributes(found);
            let ask = Ask::Lookup { dir, name: name.as_bytes().into() };
            return self.dispatch(request, ask, move |told| match told {
                Ok(_) => {
                    reply.entry_with_ttls(&kept, &Duration::ZERO, &attributes, Generation(0));
                }
                Err(errno) => reply.error(errno),
            });
        }
        let found = self.answer(Operation::Lookup, |service| {
            service.lookup(self.caller(request), dir(parent)?, name.as_bytes())
        });
        match found {
            Ok(found) => {
                let (attributes, kept) = self.kept_attributes(found);
                reply.entry_with_ttls(&kept, &FOREVER, &attributes, Generation(0));
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
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if let Some(text) = self.service.held(handle.0, offset) {
            self.service.metrics().request(Operation::Read);
            return reply.data(slice(&text, offset, size));
        }
        if self.service.is_read_out(handle.0, offset) {
            self.service.metrics().request(Operation::Read);
            return reply.data(&[]);
        }
        let file = match self.answer(Operation::Read, |_| file(ino)) {
            Ok(file) => file,
            Err(errno) => return reply.error(errno),
        };
        let ask = Ask::Read { file, handle: handle.0, offset };
        let service = Arc::clone(&self.service);
        self.dispatch(request, ask, move |told| match told {
            Ok(Told::Text(text)) => {
                service.keep_text(handle.0, &text, offset, size);
                reply.data(slice(&text, offset, size));
            }
            Ok(_) => reply.error(fuser::Errno::EIO),
            Err(errno) => reply.error(errno),
        });
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let released = self.answer(Operation::Release, |service| {
            let has_trigger = service.has_trigger(handle.0);
            if !has_trigger {
                service.release(handle.0);
            }
            Ok(has_trigger)
        });
        match released {
            Ok(true) => {
                let ask = Ask::Release { handle: handle.0 };
                self.dispatch(request, ask, move |_| reply.ok());
            }
            Ok(false) => reply.ok(),
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
        reply: ReplyDirectory,
    ) {
        let listed = self.answer(Operation::Readdir, |service| {
            let dir = dir(ino)?;
            let list = || service.list_for(self.caller(request), dir);
            let fixed = Service::is_fixed_list(dir).then(list).transpose();
            Ok((dir, fixed.map_err(|error| error.errno())?))
        });
        match listed {
            Ok((dir, Some(children))) => list(dir, children, offset, reply),
            Ok((dir, None)) => self.dispatch(request, Ask::List { dir }, move |told| match told {
                Ok(Told::Entries(children)) => list(dir, children, offset, reply),
                Ok(_) => reply.error(fuser::Errno::EIO),
                Err(errno) => reply.error(errno),
            }),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // As procfs: no blocks at all, and names as long as any (`simple_statfs()`).
        match self.answer(Operation::Statfs, |_| Ok(())) {
            Ok(()) => reply.statfs(0, 0, 0, 0, 0, 4096, 255, 0),
            Err(errno) => reply.error(errno),
        }
        self.drain.pass(|| self.dispatcher.is_answered());
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
        let file = match self.answer(Operation::Write, |_| file(ino)) {
            Ok(file) => file,
            Err(errno) => return reply.error(errno),
        };
        // No more than the kernel gave in one request: see MAX_REQUEST.
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        // Of more, the kernel takes the start (`psi_write()`).
        let text = data.get(..MOST_TRIGGER).unwrap_or(data).into();
        let ask = Ask::Write { file, handle: handle.0, text };
        self.dispatch(request, ask, move |told| match told {
            Ok(_) => reply.written(size),
            Err(errno) => reply.error(errno),
        });
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
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.answer(Operation::Setattr, |service| {
            let file = file(ino)?;
            if mode.is_some() || uid.is_some() || gid.is_some() {
                return Err(Errno::PERM);
            }
            let times = atime.is_some() || mtime.is_some();
            service.change(self.caller(request), file, size.is_some(), times).map(|()| file)
        });
        match changed {
            // Nothing did.
            Ok(file) => {
                let (attributes, kept) = self.kept_attributes(Entry::File(file));
                reply.attr(&kept, &attributes);
            }
            Err(errno) => reply.error(errno),
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
        let service = Arc::new(Service::new(host, crate::settings::ViewSettings::default()));
        let filesystem = ViewFilesystem {
            dispatcher: Dispatcher::start(Arc::clone(&service), 1).unwrap(),
            service,
            since: SystemTime::now(),
            sizes: Sizes::Hidden,
            notifier: Arc::default(),
            drain: Arc::default(),
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
