//! The glue between fuser and the service: the one module that knows fuser's types.
//!
//! Requests are unwrapped, answered by the [`Service`], and the answers wrapped again. Those that take the
//! kernel to answer go by the [`Dispatcher`]. A panic on the way ends one request with `EIO`, and not the
//! thread that serves all others.

mod by_id;
mod connection;
mod drain;
mod entries;
mod view;

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    AccessFlags, BsdFileFlags, FileHandle, Filesystem, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, Version, WriteFlags,
};
use rustix::io::Errno;

pub use self::connection::Which;
pub(crate) use self::{
    connection::{Connection, resend},
    drain::Drain,
};
use self::{
    entries::{SPLICES_BY_PAGE_CACHE, Sizes, dir, file, list},
    view::{Change, View},
};
use crate::{
    dispatch::{Ask, Dispatcher, Told},
    handles::slice,
    metrics::Operation,
    service::{Caller, Service},
    triggers::Wake,
};

/// For as long as the kernel likes: what this is said of never changes.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The longest trigger that is passed on to the kernel, which itself looks at 32 bytes.
const MOST_TRIGGER: usize = 4096;

#[derive(Debug)]
struct ViewFilesystem {
    view: Arc<View>,
    dispatcher: Dispatcher,
    drain: Arc<Drain>,
}

impl ViewFilesystem {
    fn service(&self) -> &Arc<Service> {
        &self.view.service
    }

    /// Has a request answered that takes next to nothing: at once, or when it is its turn, if its container has
    /// too many.
    fn in_turn(&self, request: &Request, answer: impl FnOnce(&View, Caller) + Send + 'static) {
        let caller = self.caller(request);
        if self.dispatcher.pass(caller) {
            return answer(&self.view, caller);
        }
        let view = Arc::clone(&self.view);
        let reply = Box::new(move |_| answer(&view, caller));
        self.dispatcher.submit(request.unique().0, caller, Ask::Turn, reply);
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
        let tid = if self.service().host().shares_pids() { request.pid() } else { 0 };
        Caller { tid, uid: request.uid() }
    }
}

impl Filesystem for ViewFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        connection::agree(connection::Which::Shared, config);
        if config.kernel_abi() < Version(7, SPLICES_BY_PAGE_CACHE) {
            // Nobody has asked for anything yet.
            if let Some(view) = Arc::get_mut(&mut self.view) {
                view.sizes = Sizes::Known;
            }
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let dir = dir(parent);
        let found = dir.ok().and_then(|dir| Some((dir, dir.child(name.as_bytes())?)));
        let name: Box<[u8]> = name.as_bytes().into();
        match found {
            // The answer depends on who asks, so the kernel has to ask each time.
            Some((dir, found)) if !Service::is_fixed(found) => {
                self.service().metrics().request(Operation::Lookup);
                let (attributes, kept) = self.view.kept_attributes(found);
                self.dispatch(request, Ask::Lookup { dir, name }, move |told| match told {
                    Ok(_) => {
                        reply.entry_with_ttls(&kept, &Duration::ZERO, &attributes, Generation(0));
                    }
                    Err(errno) => reply.error(errno),
                });
            }
            _ => {
                self.in_turn(request, move |view, caller| view.lookup(caller, parent, &name, reply))
            }
        }
    }

    fn getattr(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        self.in_turn(request, move |view, _| view.getattr(ino, handle, reply));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.in_turn(request, move |view, _| view.readlink(ino, reply));
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.in_turn(request, move |view, caller| view.access(caller, ino, mask, reply));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.in_turn(request, move |view, caller| view.open(caller, ino, flags, reply));
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
        let held = self.service().held(handle.0, offset);
        // After what was read out, there is nothing.
        let is_read_out = || self.service().is_read_out(handle.0, offset).then(|| [].into());
        if let Some(text) = held.or_else(is_read_out) {
            return self.in_turn(request, move |view, _| {
                view.service.metrics().request(Operation::Read);
                reply.data(slice(&text, offset, size));
            });
        }
        let file = match self.view.answer(Operation::Read, |_| file(ino)) {
            Ok(file) => file,
            Err(errno) => return reply.error(errno),
        };
        let ask = Ask::Read { file, handle: handle.0, offset };
        let service = Arc::clone(self.service());
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
        let released = self.view.answer(Operation::Release, |service| {
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

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.in_turn(request, move |view, _| view.opendir(ino, reply));
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        match dir(ino) {
            Ok(dir) if !Service::is_fixed_list(dir) => {
                self.service().metrics().request(Operation::Readdir);
                self.dispatch(request, Ask::List { dir }, move |told| match told {
                    Ok(Told::Entries(children)) => list(dir, children, offset, reply),
                    Ok(_) => reply.error(fuser::Errno::EIO),
                    Err(errno) => reply.error(errno),
                });
            }
            _ => {
                self.in_turn(request, move |view, caller| view.readdir(caller, ino, offset, reply))
            }
        }
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.in_turn(request, move |view, _| {
            // As procfs: no blocks at all, and names as long as any (`simple_statfs()`).
            match view.answer(Operation::Statfs, |_| Ok(())) {
                Ok(()) => reply.statfs(0, 0, 0, 0, 0, 4096, 255, 0),
                Err(errno) => reply.error(errno),
            }
        });
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
        let file = match self.view.answer(Operation::Write, |_| file(ino)) {
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
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        if !self.service().has_triggers() {
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
        self.in_turn(request, move |view, _| view.poll(ino, handle, wake, reply));
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
        let change = Change {
            rights: mode.is_some() || uid.is_some() || gid.is_some(),
            size: size.is_some(),
            times: atime.is_some() || mtime.is_some(),
        };
        self.in_turn(request, move |view, caller| view.setattr(caller, ino, change, reply));
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
        request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Whether a file is a terminal is asked in this way.
        self.in_turn(request, move |_, _| reply.error(fuser::Errno::ENOTTY));
    }
}
