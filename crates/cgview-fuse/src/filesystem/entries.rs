//! What the kernel is told of entries: their numbers, kinds and sizes.

use cgview_core::tree::{Dir, Entry, File};
use fuser::{FileType, INodeNo, ReplyDirectory};
use rustix::io::Errno;

/// The size that the kernel is told of each file when it looks it up, where [`Sizes::Hidden`] holds: any but
/// zero would do.
pub(super) const HIDDEN_SIZE: u64 = 4096;

/// How the kernel is kept from taking files for empty.
///
/// Files below `proc/` have size 0, as those of procfs. Since Linux 6.5, however, sendfile(2) and splice(2) go through the
/// page cache even of files that are opened for direct I/O (`filemap_splice_read()`): they find that the
/// file has no bytes, and `cat` of busybox writes nothing. So there the kernel's own idea of the size is
/// another one than what stat(2) tells, and then such a read comes to us. It is refused, since what it got
/// would be kept and given to other containers' readers; with `EINVAL`, which means to all programs that
/// they have to read(2). Since Linux 7.0 they get `EIO`, whatever we say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sizes {
    /// The kernel knows that files have size 0.
    Known,
    /// The kernel takes files for [`HIDDEN_SIZE`] bytes long, and has to ask for the size of each stat(2).
    Hidden,
}

/// The minor version of the protocol in Linux 6.2, and still in 6.5: 7.38.
pub(super) const SPLICES_BY_PAGE_CACHE: u32 = 38;

pub(super) fn entry(ino: INodeNo) -> Result<Entry, Errno> {
    Entry::from_id(ino.0).ok_or(Errno::STALE)
}

pub(super) fn dir(ino: INodeNo) -> Result<Dir, Errno> {
    match entry(ino)? {
        Entry::Dir(dir) => Ok(dir),
        _ => Err(Errno::NOTDIR),
    }
}

pub(super) fn file(ino: INodeNo) -> Result<File, Errno> {
    match entry(ino)? {
        Entry::File(file) => Ok(file),
        Entry::Dir(_) => Err(Errno::ISDIR),
        Entry::Link(_) => Err(Errno::LOOP),
    }
}

/// The children of a directory from `offset` on, as many as the kernel has room for.
pub(super) fn list(dir: Dir, children: Vec<Entry>, offset: u64, mut reply: ReplyDirectory) {
    let dots = [(dir, "."), (dir.parent(), "..")].map(|(dir, name)| (Entry::Dir(dir), name.into()));
    let all = dots.into_iter().chain(children.into_iter().map(|child| (child, child.name())));
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for (next, (entry, name)) in (1..).zip(all).skip(skip) {
        if reply.add(INodeNo(entry.id()), next, kind(entry), name) {
            break;
        }
    }
    reply.ok();
}

pub(super) fn kind(entry: Entry) -> FileType {
    match entry {
        Entry::Dir(_) => FileType::Directory,
        Entry::File(_) => FileType::RegularFile,
        Entry::Link(_) => FileType::Symlink,
    }
}
