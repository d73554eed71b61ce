//! Putting live mounts in the place of dead ones, in one mount namespace.
//!
//! Each new mount is a clone of the live one, made where that is mounted and belonging nowhere yet
//! (`open_tree()` with `OPEN_TREE_CLONE`), so no path of the container leads to it, nothing propagates, and
//! it is moved as a whole. What then happens in the container's namespace depends on the kernel:
//!
//! - Since Linux 6.5, the new mount is put beneath the dead one (`MOVE_MOUNT_BENEATH`), which is unmounted
//!   then: at each moment a reader finds the one or the other, and the count of mounts stays.
//! - Before, and where the dead mount is locked (`MNT_LOCKED`: a user namespace got it from its parent
//!   together with what it covers, so that it cannot be unmounted), the new mount goes on top, and the dead
//!   one stays underneath, unseen. When the one on top dies in its turn, it is unmounted first: what shows
//!   then is the dead one underneath, so mounts do not pile up over several repairs.
//!
//! In no order is the file beneath, which is the host's, ever seen.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::OnceLock,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
    mount::{
        MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, move_mount, unmount,
    },
    process::fchdir,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    bind::clone_mount,
    helper::{Helper, Teller},
    mounts::{Mount, Propagation, relative},
    namespaces::Namespace,
    probe::open_mount,
    step::{Failure, Step},
    sys::mount_setattr,
};

/// A mount to be replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    /// The dead mount.
    pub(crate) mount: &'a Mount,
    /// The mount that is seen if it is unmounted, where that is of cgview too.
    pub(crate) beneath: Option<&'a Mount>,
}

/// What became of a mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Said {
    Swapped,
    Covered,
    Failed(Failure),
}

const SWAPPED: u32 = 100;
const COVERED: u32 = 101;

/// What a helper has said of each of its jobs, by their indices.
pub(crate) fn heard(helper: &Helper) -> impl Iterator<Item = (usize, Said)> {
    helper.words().filter_map(|word| {
        let said = match word.kind {
            SWAPPED => Said::Swapped,
            COVERED => Said::Covered,
            number => {
                let errno = Errno::from_raw_os_error(word.errno);
                Said::Failed(Failure { step: Step::numbered(number)?, errno })
            }
        };
        Some((usize::try_from(word.index).ok()?, said))
    })
}

/// Starts a helper that does the jobs in a namespace. `live` is the root of the live view, as mounted in
/// the namespace of the caller.
pub(crate) fn start(
    namespace: &Namespace,
    live: BorrowedFd<'_>,
    jobs: &[Job<'_>],
) -> io::Result<Helper> {
    // By which a descriptor can be named to unmount what it stands for, whatever /proc is elsewhere.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    // Known before there are helpers.
    has_beneath();
    let keep = [namespace.handle(), namespace.root(), live, proc.as_fd()];
    Helper::start(&keep, |teller| run(namespace, live, &proc, jobs, teller))
}

fn run(
    namespace: &Namespace,
    live: BorrowedFd<'_>,
    proc: &OwnedFd,
    jobs: &[Job<'_>],
    teller: &Teller,
) {
    // Clones can be made of what is mounted in one's own namespace only.
    let clones: Vec<_> = jobs.iter().map(|job| clone(live, job.mount)).collect();
    let entered = move_into_link_name_space(namespace.handle(), Some(LinkNameSpaceType::Mount));
    // Entering sets the working directory too.
    let entered = entered.and_then(|()| fchdir(proc));
    for ((job, clone), index) in jobs.iter().zip(clones).zip(0..) {
        let result = clone.and_then(|clone| {
            entered.map_err(Failure::at(Step::Enter))?;
            place(namespace.root(), job, &clone)
        });
        match result {
            Ok(kind) => teller.tell(index, kind, Ok(())),
            Err(Failure { step, errno }) => teller.tell(index, step.number(), Err(errno)),
        }
    }
}

/// A mount of the same file of the live view, like the dead one in all else.
fn clone(live: BorrowedFd<'_>, dead: &Mount) -> Result<OwnedFd, Failure> {
    let path = relative(dead.file());
    let path = if path == Path::new("") { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Whatever the name is, it is one of the live view or none.
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(live, path, flags, Mode::empty(), resolve);
    let file = file.map_err(Failure::at(Step::Open))?;
    let clone = clone_mount(&file).map_err(Failure::at(Step::Clone))?;
    let all = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR__ATIME
        | MountAttrFlags::MOUNT_ATTR_NODIRATIME
        | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW;
    let [first, second] = propagation(dead.propagation);
    let none = MountAttrFlags::empty();
    mount_setattr(&clone, dead.attributes, all, first)
        .and_then(|()| if second == 0 { Ok(()) } else { mount_setattr(&clone, none, none, second) })
        .map_err(Failure::at(Step::Attributes))?;
    Ok(clone)
}

/// The changes that make what becomes of mounts below a clone, which is a peer of the live mount if that
/// has any, what becomes of those below another mount.
fn propagation(like: Propagation) -> [u64; 2] {
    let types = match like {
        Propagation { unbindable: true, .. } => [MountPropagationFlags::UNBINDABLE, NO_CHANGE],
        Propagation { slave: true, shared: true, .. } => {
            [MountPropagationFlags::DOWNSTREAM, MountPropagationFlags::SHARED]
        }
        Propagation { slave: true, .. } => [MountPropagationFlags::DOWNSTREAM, NO_CHANGE],
        // Not in the group of the live mount: what is mounted in a container stays there.
        Propagation { shared: true, .. } => {
            [MountPropagationFlags::PRIVATE, MountPropagationFlags::SHARED]
        }
        _ => [MountPropagationFlags::PRIVATE, NO_CHANGE],
    };
    types.map(|kind| kind.bits().into())
}

const NO_CHANGE: MountPropagationFlags = MountPropagationFlags::empty();

const MOVE: MoveMountFlags =
    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);

/// Puts a clone in the place of a mount. Called within the namespace.
fn place(root: BorrowedFd<'_>, job: &Job<'_>, clone: &OwnedFd) -> Result<u32, Failure> {
    let find = |mount: &Mount| {
        open_mount(root, &mount.mountpoint, mount.id, mount.device).map_err(Failure::at(Step::Find))
    };
    let on = |target: &OwnedFd| {
        move_mount(clone, "", target, "", MOVE).map(|()| COVERED).map_err(Failure::at(Step::Attach))
    };
    let dead = find(job.mount)?;
    let refused = if has_beneath() {
        move_mount(clone, "", &dead, "", MOVE | MoveMountFlags::MOVE_MOUNT_BENEATH)
    } else {
        Err(Errno::INVAL)
    };
    match refused {
        Ok(()) => unmount_found(&dead).map(|()| SWAPPED).map_err(Failure::at(Step::Unmount)),
        Err(Errno::INVAL) => match job.beneath {
            // What is seen now is dead too, and not the host's.
            Some(beneath) if unmount_found(&dead).is_ok() => on(&find(beneath)?),
            _ => on(&dead),
        },
        Err(errno) => Err(Failure { step: Step::Attach, errno }),
    }
}

/// Unmounts what a descriptor stands for, although files of it may be open. The working directory is a
/// `/proc`.
pub(crate) fn unmount_found(mount: &OwnedFd) -> Result<(), Errno> {
    unmount(format!("self/fd/{}", mount.as_raw_fd()), UnmountFlags::DETACH)
}

/// Whether the kernel has `MOVE_MOUNT_BENEATH`.
pub(crate) fn has_beneath() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        // Flags are judged before paths are (move_mount() of fs/namespace.c), and right after whether one
        // may mount at all.
        let flags = MoveMountFlags::MOVE_MOUNT_BENEATH;
        move_mount(CWD, "", CWD, "", flags) == Err(Errno::NOENT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_is_taken_over() {
        let of = |shared, slave, unbindable| propagation(Propagation { shared, slave, unbindable });
        let bits = |flags: MountPropagationFlags| u64::from(flags.bits());
        let (private, shared) =
            (bits(MountPropagationFlags::PRIVATE), bits(MountPropagationFlags::SHARED));
        let slave = bits(MountPropagationFlags::DOWNSTREAM);
        assert_eq!(of(false, false, false), [private, 0]);
        assert_eq!(of(true, false, false), [private, shared]);
        assert_eq!(of(true, true, false), [slave, shared]);
        assert_eq!(of(false, true, false), [slave, 0]);
        assert_eq!(of(false, false, true), [bits(MountPropagationFlags::UNBINDABLE), 0]);
    }
}
