//! What takes next to nothing to answer: no question to the kernel, and no waiting.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use cgview_core::tree::{Entry, File};
use fuser::{
    AccessFlags, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, Notifier, OpenAccMode,
    OpenFlags, PollEvents, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyPoll,
};
use rustix::io::Errno;

use super::{
    FOREVER,
    entries::{HIDDEN_SIZE, Sizes, dir, entry, file, kind, list},
};
use crate::{
    metrics::Operation,
    service::{Caller, Service},
    triggers::{Ready, Wake},
};

/// What stat(2) tells of the size of a file below `sys/`: `PAGE_SIZE` as on the host (`sysfs_add_file_mode_ns()`).
const SYSFS_SIZE: u64 = 4096;

/// The files as they are opened and looked at.
#[derive(Debug)]
pub(super) struct View {
    pub(super) service: Arc<Service>,
    pub(super) since: SystemTime,
    pub(super) sizes: Sizes,
    pub(super) notifier: Arc<OnceLock<Notifier>>,
}

impl View {
    /// Runs the answer to one request: the one place where a panic ends.
    pub(super) fn answer<T>(
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

    /// Whether the kernel is not to know the size of an entry.
    fn hides_size(&self, entry: Entry) -> bool {
        self.sizes == Sizes::Hidden && matches!(entry, Entry::File(File::Proc(_)))
    }

    /// What the kernel keeps of an entry, and for how long it may tell others so.
    pub(super) fn kept_attributes(&self, entry: Entry) -> (FileAttr, Duration) {
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

    /// Looks up what is the same for all who ask.
    pub(super) fn lookup(&self, caller: Caller, parent: INodeNo, name: &[u8], reply: ReplyEntry) {
        let found =
            self.answer(Operation::Lookup, |service| service.lookup(caller, dir(parent)?, name));
        match found {
            Ok(found) => {
                let (attributes, kept) = self.kept_attributes(found);
                reply.entry_with_ttls(&kept, &FOREVER, &attributes, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn getattr(&self, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
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

    pub(super) fn readlink(&self, ino: INodeNo, reply: ReplyData) {
        let target = self.answer(Operation::Readlink, |_| match entry(ino)? {
            Entry::Link(link) => Ok(link.target()),
            _ => Err(Errno::INVAL),
        });
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn access(
        &self,
        caller: Caller,
        ino: INodeNo,
        mask: AccessFlags,
        reply: ReplyEmpty,
    ) {
        let allowed = self.answer(Operation::Access, |service| {
            let read = mask.contains(AccessFlags::R_OK);
            let write = mask.contains(AccessFlags::W_OK);
            let execute = mask.contains(AccessFlags::X_OK);
            service.access(caller, entry(ino)?, read, write, execute)
        });
        match allowed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn open(&self, caller: Caller, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let opened =
            self.answer(Operation::Open, |service| service.open(caller, file(ino)?, write));
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

    pub(super) fn opendir(&self, ino: INodeNo, reply: ReplyOpen) {
        // Answered, though there is nothing to do: without an answer the kernel would cache listings,
        // and they differ from caller to caller (fuse_dir_open()).
        match self.answer(Operation::Opendir, |_| dir(ino)) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    /// Lists what is the same for all who ask.
    pub(super) fn readdir(&self, caller: Caller, ino: INodeNo, offset: u64, reply: ReplyDirectory) {
        let listed = self.answer(Operation::Readdir, |service| {
            let dir = dir(ino)?;
            let children = service.list_for(caller, dir).map_err(|error| error.errno())?;
            Ok((dir, children))
        });
        match listed {
            Ok((dir, children)) => list(dir, children, offset, reply),
            Err(errno) => reply.error(errno),
        }
    }

    /// Refuses all changes but those that a file of procfs takes and forgets.
    pub(super) fn setattr(&self, caller: Caller, ino: INodeNo, change: Change, reply: ReplyAttr) {
        let changed = self.answer(Operation::Setattr, |service| {
            let file = file(ino)?;
            if change.rights {
                return Err(Errno::PERM);
            }
            service.change(caller, file, change.size, change.times).map(|()| file)
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

    pub(super) fn poll(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        wake: Option<Wake>,
        reply: ReplyPoll,
    ) {
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
}

/// What of a file is to be changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// Its mode or owner.
    pub(super) rights: bool,
    pub(super) size: bool,
    pub(super) times: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_one_request_and_is_counted() {
        let fake = cgview_testkit::FakeHost::new();
        let host = cgview_host::Host::at(fake.path()).unwrap();
        let service = Arc::new(Service::new(host, crate::settings::ViewSettings::default()));
        let view = View {
            service,
            since: SystemTime::now(),
            sizes: Sizes::Hidden,
            notifier: Arc::default(),
        };
        let panicking =
            view.answer(Operation::Read, |_| -> Result<(), Errno> { panic!("as a test") });
        assert_eq!(panicking.map_err(fuser::Errno::code), Err(Errno::IO.raw_os_error()));
        let answered = view.answer(Operation::Read, |_| Ok(7));
        assert_eq!(answered.map_err(fuser::Errno::code), Ok(7));
        let metrics = view.service.metrics();
        assert_eq!((metrics.panics.get(), metrics.requests(Operation::Read)), (1, 2));
    }
}
