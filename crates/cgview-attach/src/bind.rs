//! Binding the files of a view over the kernel's, below any root.
//!
//! First the files are cloned where the view is mounted ([`Copies::make()`]), and then the clones are put
//! over the files of a root directory ([`Copies::bind()`]), which may be in another mount namespace that
//! the caller has entered meanwhile. A runtime's hook has both in one namespace, and one call does it:
//!
//! ```no_run
//! use std::path::Path;
//! use cgview_attach::{Files, Maker, View, bind};
//!
//! # fn hook(rootfs: std::os::fd::OwnedFd) -> cgview_attach::Result<()> {
//! let view = View::open(Path::new("/var/lib/lxcfs"))?;
//! // `rootfs` is the container's root directory, in the mount namespace of this process.
//! for (entry, result) in bind(&view, &Files::all(), Maker::Runtime, &rootfs) {
//!     if let Err(failure) = result {
//!         eprintln!("{}: {failure}", entry.path());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Each clone is a mount of its own that is not mounted anywhere yet (`open_tree()` with
//! `OPEN_TREE_CLONE`, since Linux 5.2), is made read-only, `nosuid`, `nodev` and `noexec` there
//! (`mount_setattr()`, since 5.12), and goes over the file as a whole (`move_mount()`), so that at each
//! moment a reader finds the one or the other. Files that take triggers of pressure stay writable.
//!
//! Only what is the kernel's own is covered. What a runtime or its user has mounted over a file, such as a mask,
//! stays as it is.
//!
//! Everything here asks the view's daemon, and may wait for as long as that does not answer.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use cgview_core::tree::{Dir, Entry, File, ProcFile};
use rustix::{
    fs::{
        AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, RawDir, ResolveFlags, StatxAttributes, StatxFlags,
        fstatfs, openat2, statx,
    },
    io::Errno,
    mount::{
        MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree,
    },
};

use crate::{
    Error, Files, Health, Result,
    mounts::Device,
    step::{Failure, Step},
    sys::mount_setattr,
};

/// The file system type of sysfs, as in `linux/magic.h`.
const SYSFS_MAGIC: u32 = 0x6265_6572;

/// That of FUSE.
const FUSE_SUPER_MAGIC: u32 = 0x6573_5546;

/// Attributes by which mounts are known that [`Maker::Attach`] made: they mean nothing on files that are
/// read through FUSE, and no runtime gives them.
pub(crate) const MARK: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOATIME.union(MountAttrFlags::MOUNT_ATTR_NODIRATIME);

/// The root of a view that is mounted in the mount namespace of this process.
#[derive(Debug)]
pub struct View {
    root: OwnedFd,
    device: Device,
}

impl View {
    /// Opens the view that is mounted at a directory, and asks its daemon whether it answers.
    ///
    /// # Errors
    ///
    /// [`Error::NotMounted`] if no FUSE file system is mounted there, [`Error::NotServed`] if its daemon does not
    /// answer.
    pub fn open(path: &Path) -> Result<View> {
        let not_mounted = |_| Error::NotMounted { path: path.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let served = |errno| Error::NotServed {
            path: path.into(),
            state: Health::of(Err(errno)).to_string(),
        };
        let root = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(errno @ (Errno::NOTCONN | Errno::CONNABORTED)) => return Err(served(errno)),
            root => root.map_err(not_mounted)?,
        };
        let stat = stat(&root, StatxFlags::TYPE).map_err(not_mounted)?;
        if !stat.is_mount_root {
            return Err(not_mounted(Errno::INVAL));
        }
        // What no cache has.
        if u64::try_from(fstatfs(&root).map_err(served)?.f_type) != Ok(FUSE_SUPER_MAGIC.into()) {
            return Err(not_mounted(Errno::INVAL));
        }
        Ok(View { root, device: stat.device })
    }

    /// One whose root has been opened already.
    pub(crate) fn new(root: OwnedFd, device: Device) -> View {
        View { root, device }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Who makes mounts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Maker {
    /// `cgview attach`: `cgview detach` knows them by their attributes.
    Attach,
    /// A runtime, or a hook of one: they are the container's own, and end with it.
    Runtime,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bound {
    /// The view's is over the kernel's now.
    Bound,
    /// The view's was there already.
    Already,
    /// The container has no such file.
    Absent,
    /// Something else was mounted over it, and stays.
    Left,
}

/// What became of each file.
pub type Outcomes = Vec<(Entry, Result<Bound, Failure>)>;

/// Binds files of a view over those of the same name below `root`, the root directory of a container, in
/// the mount namespace of the caller. That takes `CAP_SYS_ADMIN` in the user namespace that owns it.
#[must_use]
pub fn bind(view: &View, files: &Files, maker: Maker, root: impl AsFd) -> Outcomes {
    Copies::make(view, files, maker).bind(root, &[])
}

/// Clones of a view's files, mounted nowhere.
#[derive(Debug)]
pub struct Copies {
    device: Device,
    copies: Vec<(Entry, Result<OwnedFd, Failure>)>,
}

impl Copies {
    /// Clones files of a view that is mounted in the mount namespace of the caller. Those that the view does not have
    /// are left out.
    #[must_use]
    pub fn make(view: &View, files: &Files, maker: Maker) -> Copies {
        let root = view.root.as_fd();
        let of = |&entry: &Entry| match entry {
            // A view without the directories of CPUs, as LXCFS had for long, would hide the kernel's.
            Entry::Dir(dir @ (Dir::Cpu | Dir::Node)) if !has_numbered(root, dir) => {
                let children = dir.fixed_children().into_iter();
                children.filter(|child| matches!(child, Entry::File(_))).collect()
            }
            entry => vec![entry],
        };
        let entries = files.entries().iter().flat_map(of);
        let copies = entries
            .filter_map(|entry| Some((entry, copy(root, entry, maker).transpose()?)))
            .collect();
        Copies { device: view.device, copies }
    }

    /// What has been cloned, or could not be.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.copies.iter().map(|(entry, _)| *entry)
    }

    /// Puts the clones over the files below `root`, and over those of the file systems `over` if one of these is
    /// in a file's place. To be called in the mount namespace of `root`.
    #[must_use]
    pub fn bind(self, root: impl AsFd, over: &[Device]) -> Outcomes {
        let root = root.as_fd();
        let device = self.device;
        let place = |(entry, copy): (Entry, Result<OwnedFd, Failure>)| {
            (entry, copy.and_then(|copy| place(root, entry, &copy, device, over)))
        };
        self.copies.into_iter().map(place).collect()
    }
}

/// How a path of the view, or of a container, is opened: it leads nowhere else.
const PLAIN: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// Opens a path of the view, beside which there is nothing.
fn open_in_view(root: BorrowedFd<'_>, entry: Entry, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = PLAIN | ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    let path = entry.path();
    openat2(root, path.trim_start_matches('/'), flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens a path of a container, to mount there.
pub(crate) fn open_plain(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), PLAIN | ResolveFlags::IN_ROOT)
}

/// A mount of what a descriptor stands for, which is mounted in the mount namespace of the caller. It is mounted nowhere.
pub(crate) fn clone_mount(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(file, "", flags)
}

/// Whether the view has directories of CPUs, or nodes.
fn has_numbered(root: BorrowedFd<'_>, dir: Dir) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let Ok(opened) = open_in_view(root, Entry::Dir(dir), flags) else { return false };
    let mut buffer = Vec::with_capacity(8 << 10);
    let mut entries = RawDir::new(opened, buffer.spare_capacity_mut());
    while let Some(Ok(child)) = entries.next() {
        if matches!(
            dir.child(child.file_name().to_bytes()),
            Some(Entry::Dir(Dir::CpuN(_) | Dir::NodeN(_)))
        ) {
            return true;
        }
    }
    false
}

/// A clone of what the view has; `None` if it has no such file.
fn copy(root: BorrowedFd<'_>, entry: Entry, maker: Maker) -> Result<Option<OwnedFd>, Failure> {
    let file = match open_in_view(root, entry, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        file => file.map_err(Failure::at(Step::Open))?,
    };
    let clone = clone_mount(&file).map_err(Failure::at(Step::Clone))?;
    let mut set = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let is_pressure = matches!(
        entry,
        Entry::File(File::Proc(
            ProcFile::PressureCpu
                | ProcFile::PressureIo
                | ProcFile::PressureIrq
                | ProcFile::PressureMemory
        ))
    );
    // Triggers are set by writing.
    let takes_triggers =
        is_pressure && stat(&file, StatxFlags::MODE).is_ok_and(|stat| stat.is_writable);
    if !takes_triggers {
        set |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let mut clear = MountAttrFlags::empty();
    if maker == Maker::Attach {
        set |= MARK;
        clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
    }
    // What is mounted over it in a container stays there, and what is mounted where the view is comes not.
    let private = MountPropagationFlags::PRIVATE.bits().into();
    mount_setattr(&clone, set, clear, private).map_err(Failure::at(Step::Attributes))?;
    Ok(Some(clone))
}

/// Puts a clone over its namesake.
fn place(
    root: BorrowedFd<'_>,
    entry: Entry,
    clone: &OwnedFd,
    view: Device,
    over: &[Device],
) -> Result<Bound, Failure> {
    let target = match open_plain(root, Path::new(&entry.path())) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Bound::Absent),
        target => target.map_err(Failure::at(Step::Find))?,
    };
    // Without asking a file system that may be the container's, or dead.
    let device = stat(&target, StatxFlags::TYPE).map_err(Failure::at(Step::Find))?.device;
    if device == view {
        return Ok(Bound::Already);
    }
    if !over.contains(&device) {
        let kernel = match entry {
            Entry::File(File::Proc(_)) => i128::from(PROC_SUPER_MAGIC),
            _ => i128::from(SYSFS_MAGIC),
        };
        let fstype = fstatfs(&target).map_err(Failure::at(Step::Find))?.f_type;
        if i128::from(fstype) != kernel {
            return Ok(Bound::Left);
        }
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(clone, "", &target, "", flags).map_err(Failure::at(Step::Attach))?;
    Ok(Bound::Bound)
}

/// What is asked of an open file.
struct Stat {
    device: Device,
    is_mount_root: bool,
    is_writable: bool,
}

fn stat(file: &OwnedFd, mask: StatxFlags) -> Result<Stat, Errno> {
    // The mode is the daemon's to tell; nothing else is.
    let sync =
        if mask.contains(StatxFlags::MODE) { AtFlags::empty() } else { AtFlags::STATX_DONT_SYNC };
    let stat = statx(file, "", AtFlags::EMPTY_PATH | sync, mask)?;
    Ok(Stat {
        device: Device { major: stat.stx_dev_major, minor: stat.stx_dev_minor },
        is_mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        is_writable: stat.stx_mode & 0o222 != 0,
    })
}
