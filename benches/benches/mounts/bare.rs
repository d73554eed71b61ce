//! The least that a FUSE server can do: it answers a text that it read at its start.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Result;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
    SessionACL,
};

use crate::FILES;

const FOREVER: Duration = Duration::from_secs(1 << 30);

/// The directories, by their numbers: [`FILES`] come after them.
const DIRS: [(u64, &str); 3] = [(1, ""), (2, "proc"), (3, "proc/pressure")];
const FIRST_FILE: u64 = 4;

struct Bare {
    texts: BTreeMap<u64, Vec<u8>>,
}

pub(crate) fn serve(mountpoint: &Path) -> Result<()> {
    let texts = FILES.iter().map(|file| fs::read(Path::new("/").join(file)).unwrap_or_default());
    let mut config = fuser::Config::default();
    config.acl = SessionACL::All;
    config.mount_options = vec![MountOption::RO, MountOption::FSName("cgview-bare".into())];
    fuser::mount(Bare { texts: (FIRST_FILE..).zip(texts).collect() }, mountpoint, &config)?;
    Ok(())
}

fn attributes(ino: u64) -> FileAttr {
    let is_dir = ino < FIRST_FILE;
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_dir { FileType::Directory } else { FileType::RegularFile },
        perm: if is_dir { 0o555 } else { 0o444 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Bare {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let dir = DIRS.into_iter().find(|(ino, _)| *ino == parent.0).map(|(_, path)| path);
        let path = Path::new(dir.unwrap_or_default()).join(name);
        let all = DIRS.into_iter().chain((FIRST_FILE..).zip(FILES));
        let found = all.into_iter().find(|(_, known)| Path::new(known) == path);
        match found {
            Some((ino, _)) => reply.entry(&FOREVER, &attributes(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attributes(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let text = self.texts.get(&ino.0).map(Vec::as_slice).unwrap_or_default();
        let rest = text.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        reply.data(rest.get(..size as usize).unwrap_or(rest));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
