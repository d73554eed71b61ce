//! The glue between fuser and the fast mount: see [`by_id`](crate::by_id).
//!
//! The kernel opens files by itself, once it was told that there is nothing to be done (`ENOSYS`), and asks for a
//! file's attributes when those that it has are too old. The answer to that is what makes the text anew: another
//! time of change tells the kernel that its pages are of an older one.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgview_core::tree::{File, ProcFile};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::{Drain, FOREVER, connection};
use crate::{
    by_id::{FRESH, KEPT, Kind, Node, Page},
    dispatch::{Ask, Dispatcher, Told},
    handles::slice,
    metrics::Operation,
    service::Service,
};

/// What is added to the numbers of requests, to tell them from those of the other connection. The kernel counts each
/// connection's from 0, and has the highest bit for those that it sends again (`FUSE_UNIQUE_RESEND`).
const OF_THIS: u64 = 1 << 62;

#[derive(Debug)]
pub(super) struct ByIdFilesystem {
    pub(super) service: Arc<Service>,
    pub(super) dispatcher: Dispatcher,
    pub(super) since: SystemTime,
    pub(super) drain: Arc<Drain>,
}

impl ByIdFilesystem {
    /// Runs the answer to one request, which a panic ends, and nothing else.
    fn answer<T>(
        &self,
        operation: Operation,
        answer: impl FnOnce(&Service) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.service.metrics().request(operation);
        self.guarded(operation, answer)
    }

    fn guarded<T>(
        &self,
        operation: Operation,
        answer: impl FnOnce(&Service) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        catch_unwind(AssertUnwindSafe(|| answer(&self.service))).unwrap_or_else(|_| {
            self.service.metrics().panics.inc();
            tracing::error!(operation = operation.name(), "a request ended in a panic");
            Err(Errno::EIO)
        })
    }

    /// Has the text of a file made anew, or waits for whoever has.
    fn renew(
        &self,
        request: &Request,
        node: Node,
        file: ProcFile,
        then: impl FnOnce(Result<Page, Errno>) + Send + 'static,
    ) {
        let then = |told: Result<Page, rustix::io::Errno>| {
            then(told.map_err(|errno| Errno::from_i32(errno.raw_os_error())));
        };
        if !self.service.pages().wait(node, Box::new(then)) {
            return;
        }
        let who = self.guarded(Operation::Read, |service| match node {
            // What is said of a file that was removed while it is bound somewhere.
            Node::Of(slot, _) => {
                service.registry().by_slot(service.host(), slot).ok_or(Errno::ESTALE)
            }
            Node::Root => Err(Errno::EISDIR),
        });
        let who = match who {
            Ok((_, who)) => who,
            Err(errno) => {
                let errno = rustix::io::Errno::from_raw_os_error(errno.code());
                return self.service.pages().tell(node, Err(errno));
            }
        };
        let service = Arc::clone(&self.service);
        let reply = move |told: Result<Told, rustix::io::Errno>| {
            let pages = service.pages();
            let told = told.and_then(|told| match told {
                Told::Text(text) => Ok(pages.put(node, file, &text)),
                _ => Err(rustix::io::Errno::IO),
            });
            pages.tell(node, told);
        };
        let ask = Ask::Text { file: File::Proc(file), age: FRESH };
        let number = request.unique().0 | OF_THIS;
        self.dispatcher.submit_for(number, who, ask, Box::new(reply));
    }

    /// What stat(2) tells of a node, and for how long it may tell others so. That of a file is what its text is:
    /// whoever has it open is told so, too, and would be at its end with any less.
    fn look_at(
        &self,
        request: &Request,
        node: Node,
        then: impl FnOnce(Result<(FileAttr, Duration), Errno>) + Send + 'static,
    ) {
        let attributes = self.attributes(node);
        let Node::Of(_, Kind::File(file)) = node else { return then(Ok((attributes, FOREVER))) };
        let of = move |page: &Page| (Self::file_attributes(attributes, page), KEPT);
        match self.guarded(Operation::Getattr, |service| Ok(service.pages().fresh(node, FRESH))) {
            // Others were told so a moment ago: it is the same text for all.
            Ok(Some(page)) => then(Ok(of(&page))),
            Ok(None) => {
                self.renew(request, node, file, move |page| then(page.map(|page| of(&page))))
            }
            Err(errno) => then(Err(errno)),
        }
    }

    /// What stat(2) tells of a node, but of a file its size and times.
    fn attributes(&self, node: Node) -> FileAttr {
        let (kind, perm) = match node {
            Node::Of(_, Kind::Link) => (FileType::Symlink, 0o777),
            Node::Of(_, Kind::File(file)) => (FileType::RegularFile, file.mode()),
            _ => (FileType::Directory, 0o555),
        };
        FileAttr {
            ino: INodeNo(node.number()),
            size: 0,
            blocks: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn file_attributes(since: FileAttr, page: &Page) -> FileAttr {
        FileAttr { size: page.text.len() as u64, mtime: page.changed, ctime: page.changed, ..since }
    }
}

fn node(ino: INodeNo) -> Result<Node, Errno> {
    Node::of_number(ino.0).ok_or(Errno::ESTALE)
}

impl Filesystem for ByIdFilesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        connection::agree(connection::Which::ById, config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.answer(Operation::Lookup, |service| {
            let name = name.as_bytes();
            match node(parent)? {
                Node::Root => {
                    let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
                    let resident = service.registry().by_name(service.host(), name);
                    let resident = resident.ok_or(Errno::ENOENT)?;
                    let is_number = name.parse() == Ok(resident.id.0);
                    let kind = if is_number { Kind::Container } else { Kind::Link };
                    // Its end is to be noticed.
                    Ok((Node::Of(resident.slot(), kind), KEPT))
                }
                Node::Of(slot, kind) => {
                    let child = kind.child(name).ok_or(Errno::ENOENT)?;
                    Ok((Node::Of(slot, child), FOREVER))
                }
            }
        });
        match found {
            Ok((node, kept)) => self.look_at(request, node, move |attributes| match attributes {
                Ok((attributes, known)) => {
                    reply.entry_with_ttls(&known, &kept, &attributes, Generation(0));
                }
                Err(errno) => reply.error(errno),
            }),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.answer(Operation::Getattr, |_| node(ino)) {
            Ok(node) => self.look_at(request, node, move |attributes| match attributes {
                Ok((attributes, known)) => reply.attr(&known, &attributes),
                Err(errno) => reply.error(errno),
            }),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.answer(Operation::Readlink, |service| match node(ino)? {
            Node::Of(slot, Kind::Link) => {
                let found = service.registry().by_slot(service.host(), slot);
                let (resident, _) = found.ok_or(Errno::ENOENT)?;
                Ok(resident.id.0.to_string())
            }
            _ => Err(Errno::EINVAL),
        });
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.service.metrics().request(Operation::Open);
        // The kernel remembers that, and never asks again.
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let found = self.answer(Operation::Read, |service| match node(ino)? {
            node @ Node::Of(_, Kind::File(file)) => Ok((node, file, service.pages().get(node))),
            _ => Err(Errno::EISDIR),
        });
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        match found {
            Ok((_, _, Some(page))) => reply.data(slice(&page.text, offset, size)),
            // The process before this one told of its attributes.
            Ok((node, file, None)) => self.renew(request, node, file, move |page| match page {
                Ok(page) => reply.data(slice(&page.text, offset, size)),
                Err(errno) => reply.error(errno),
            }),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Answered, though there is nothing to do: without an answer the kernel would cache listings
        // (`fuse_dir_open()`).
        match self.answer(Operation::Opendir, |_| node(ino)) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.answer(Operation::Readdir, |service| {
            let mut entries: Vec<(Node, String)> = Vec::new();
            match node(ino)? {
                Node::Root => {
                    for resident in service.registry().list(service.host()) {
                        let slot = resident.slot();
                        entries.push((Node::Of(slot, Kind::Container), resident.id.0.to_string()));
                        if let Some(name) = resident.runtime_id() {
                            entries.push((Node::Of(slot, Kind::Link), name));
                        }
                    }
                }
                Node::Of(slot, kind) => {
                    let children = kind.children().into_iter();
                    entries.extend(children.map(|(name, kind)| (Node::Of(slot, kind), name)));
                }
            }
            Ok(entries)
        });
        let entries = match listed {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        let dots = [".", ".."].map(|name| (ino.0, FileType::Directory, name.to_owned()));
        let named = entries.into_iter().map(|(node, name)| {
            let attributes = self.attributes(node);
            (attributes.ino.0, attributes.kind, name)
        });
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (ino, kind, name)) in (1..).zip(dots.into_iter().chain(named)).skip(skip) {
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 0);
        self.drain.pass(|| self.dispatcher.is_answered());
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}
