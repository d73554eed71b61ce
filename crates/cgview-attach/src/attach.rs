//! Views for containers that run, and taking them away again.
//!
//! [`attach()`] puts files of a view over the kernel's in the mount namespace of a process, as
//! [`bind`](crate::bind()) does it below a root. [`detach()`] unmounts what it has put there and nothing else,
//! by attributes that the mounts carry themselves: there is no record that could be lost, or be of another
//! container.
//!
//! A mount of somebody else on top of one of ours is what the container wants to see. It is neither covered by
//! attaching once more, nor lost by detaching: a clone of it takes its place (`MOVE_MOUNT_BENEATH`, since
//! Linux 6.5; before, the kernel's file is seen in between).
//!
//! A container of a user namespace owns its mount namespace. The first user namespace owns all that are below it, so
//! root of the host may mount there; and what is mounted there by this is not locked, so root of the container may
//! unmount it. It is a view, not a boundary.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use cgview_core::tree::{Entry, File};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    process::{fchdir, geteuid},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    Bound, Copies, Error, Files, Maker, Result, Survey,
    bind::{Outcomes, View, open_plain},
    helper::{Helper, Teller, wait_for},
    mounts::{Device, LXCFS, Mount, Table},
    namespaces::{self, Namespace},
    outcome::{heard, tell},
    probe::open_mount,
    repair::{Report, Scope, repair},
    step::{Failure, Step},
    swap::{has_beneath, unmount_found},
    sys::mount_setattr,
};

/// How long a helper may be silent: it asks the view, of which it is known that it answers, and walks paths of the
/// container, whose processes may have left it little of a CPU.
const SILENCE: Duration = Duration::from_secs(30);

/// What attaching has come to.
#[derive(Debug)]
pub struct Attached {
    /// Where the view was taken from.
    pub mountpoint: PathBuf,
    /// What became of each file that the view has.
    pub outcomes: Outcomes,
    /// What was repaired before, of mounts whose daemon is gone.
    pub repaired: Report,
}

impl Attached {
    /// How many files became that.
    #[must_use]
    pub fn count(&self, bound: Bound) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| *outcome == Ok(bound)).count()
    }

    /// What could not be bound.
    pub fn failures(&self) -> impl Iterator<Item = (Entry, Failure)> {
        self.outcomes.iter().filter_map(|(entry, outcome)| Some((*entry, outcome.err()?)))
    }
}

/// Where the fast mount has the files of one container.
#[derive(Clone, Copy, Debug)]
pub struct ById<'a> {
    /// Where the fast mount is.
    pub mountpoint: &'a Path,
    /// The number of the container's cgroup, which is the name of its directory there.
    pub cgroup: u64,
}

/// Puts files of the view at `mountpoint` ([`Survey::live()`]) over the kernel's in the mount namespace of a process; or
/// those of the fast mount, of the files that this has, if it is told.
///
/// What shows a view of cgview already stays, and so does whatever else is mounted there, but for files of LXCFS:
/// those are covered. Mounts of cgview whose daemon is gone are repaired first.
///
/// # Errors
///
/// [`Error`], if nothing can be done. What goes wrong with one file is its outcome.
pub fn attach(
    mountpoint: Option<&Path>,
    by_id: Option<&ById<'_>>,
    files: &Files,
    pid: u32,
) -> Result<Attached> {
    may_mount()?;
    let target = enterable(pid)?;
    if namespaces::has_daemon(target.id)? {
        return Err(Error::Daemon { pid });
    }
    let own = Namespace::own()?;
    check_shared(&own, &target, files)?;
    let survey = Survey::of(vec![own, target])
        .until_live(mountpoint, || Ok(Survey::of(vec![Namespace::own()?, enterable(pid)?])))?;
    let live = survey.live(mountpoint)?.clone();
    let [own, target] = survey.namespaces.as_slice() else { return Err(Error::NoView) };
    let repaired = repair(&survey, Some(&live.mountpoint), &Scope::Only(vec![target.id]))?;
    let not_mounted = |_| Error::NotMounted { path: live.mountpoint.clone() };
    let root = open_mount(own.root(), &live.mountpoint, live.id, live.device);
    let view = View::new(root.map_err(not_mounted)?, live.device);
    let own_files = by_id.map(|by_id| OwnFiles::of(&survey, own, by_id)).transpose()?;

    let _lock = target.lock();
    // As it is now that nobody else of us changes it.
    let table = Namespace::of(pid)?.table;
    let is_attached = |entry: &Entry| attached_at(&table, *entry).is_some();
    let (known, rest): (Vec<_>, Vec<_>) =
        files.entries().iter().partition(|entry| is_attached(entry));
    let mut outcomes: Outcomes =
        known.into_iter().map(|entry| (entry, Ok(Bound::Already))).collect();
    let sources = Sources { view: &view, own: own_files.as_ref() };
    outcomes.extend(bind_in(&sources, Files::of(rest), target, &lxcfs(&table))?);
    outcomes.sort_by_key(|(entry, _)| entry.path());
    Ok(Attached { mountpoint: live.mountpoint, outcomes, repaired })
}

/// Whether files of cgview are mounted over those of a process, by [`attach()`] or by its runtime.
///
/// # Errors
///
/// If it has ended, or may not be looked at.
pub fn has_view(pid: u32) -> Result<bool> {
    let table = Namespace::of(pid)?.table;
    let is_ours = |mount: &Mount| mount.fstype == crate::mounts::CGVIEW && !mount.is_whole();
    Ok(table.mounts().iter().any(is_ours))
}

/// Whether a cgview-fuse runs in the mount namespace of a process, by the names of its processes. It would read its own
/// files where it asks for the kernel's, and wait for itself, so [`attach()`] refuses.
///
/// # Errors
///
/// If `/proc` cannot be listed.
pub fn has_daemon(pid: u32) -> Result<bool> {
    match namespaces::number_of(pid) {
        Some(id) => namespaces::has_daemon(id),
        None => Ok(false),
    }
}

/// Whether this process may attach at all.
fn may_mount() -> Result<()> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let none = MountAttrFlags::empty();
    // It changes nothing, of nothing.
    if mount_setattr(CWD, none, none, 0) == Err(Errno::NOSYS) {
        return Err(Error::OldKernel);
    }
    Ok(())
}

/// The namespace of a process, which is neither this one's nor the first one's.
fn enterable(pid: u32) -> Result<Namespace> {
    let target = Namespace::of(pid)?;
    let first = namespaces::number_of(1);
    if first == Some(target.id) || namespaces::number_of(std::process::id()) == Some(target.id) {
        return Err(Error::Host { pid });
    }
    Ok(target)
}

/// Whether what is mounted in one namespace would show up in the other.
fn check_shared(own: &Namespace, target: &Namespace, files: &Files) -> Result<()> {
    let groups: HashSet<u64> = own.table.mounts().iter().filter_map(|mount| mount.peers).collect();
    for entry in files.entries() {
        let path = PathBuf::from(entry.path());
        let peers = target.table.at(&path).and_then(|mount| mount.peers);
        if peers.is_some_and(|group| groups.contains(&group)) {
            return Err(Error::Shared { pid: target.process.pid, path });
        }
    }
    Ok(())
}

/// What [`attach()`] has mounted over a file, whether it is seen or not.
fn attached_at(table: &Table, entry: Entry) -> Option<&Mount> {
    let path = PathBuf::from(entry.path());
    table.mounts().iter().find(|mount| mount.mountpoint == path && mount.is_attached())
}

/// The file systems of LXCFS.
fn lxcfs(table: &Table) -> Vec<Device> {
    let mounts = table.mounts().iter().filter(|mount| mount.fstype == LXCFS);
    mounts.map(|mount| mount.device).collect()
}

/// The fast mount, and a container's directory in it.
struct OwnFiles {
    root: OwnedFd,
    device: Device,
    cgroup: u64,
}

impl OwnFiles {
    fn of(survey: &Survey, own: &Namespace, by_id: &ById<'_>) -> Result<OwnFiles> {
        let mount = survey.by_id(by_id.mountpoint)?;
        let root = open_mount(own.root(), &mount.mountpoint, mount.id, mount.device);
        let root = root.map_err(|_| Error::NotMounted { path: mount.mountpoint.clone() })?;
        Ok(OwnFiles { root, device: mount.device, cgroup: by_id.cgroup })
    }

    /// The container's files, like those of a view.
    fn view(&self) -> Result<View, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.root, self.cgroup.to_string(), flags, Mode::empty());
        Ok(View::new(dir.map_err(Failure::at(Step::Open))?, self.device))
    }
}

/// Where files are taken from.
struct Sources<'a> {
    view: &'a View,
    own: Option<&'a OwnFiles>,
}

impl Sources<'_> {
    /// Clones of the container's own files, as far as there are any, and of those of the view.
    fn copies(&self, files: &Files) -> Result<Vec<Copies>, Failure> {
        let mut copies = Vec::new();
        let mut rest = files.entries().to_vec();
        if let Some(own) = self.own {
            let is_file = |entry: &Entry| matches!(entry, Entry::File(File::Proc(_)));
            let wanted = Files::of(rest.iter().copied().filter(is_file).collect());
            let found = Copies::make(&own.view()?, &wanted, Maker::Attach);
            rest.retain(|entry| !found.entries().any(|known| known == *entry));
            copies.push(found);
        }
        copies.push(Copies::make(self.view, &Files::of(rest), Maker::Attach));
        Ok(copies)
    }
}

/// Binds files in a namespace, in a process that enters it.
fn bind_in(
    sources: &Sources<'_>,
    files: Files,
    target: &Namespace,
    over: &[Device],
) -> Result<Outcomes> {
    let mut keep = vec![target.handle(), target.root(), sources.view.root()];
    keep.extend(sources.own.map(|own| own.root.as_fd()));
    let helper = Helper::start(&keep, |teller| bind_there(sources, &files, target, over, teller))
        .map_err(|source| Error::Helper { pid: target.process.pid, source })?;
    let mut helpers = [helper];
    wait_for(&mut helpers, SILENCE);
    let is_late = helpers.iter().any(Helper::is_late);
    let mut outcomes: Outcomes = helpers.iter().flat_map(Helper::words).filter_map(heard).collect();
    if is_late {
        let silent = |entry: &&Entry| !outcomes.iter().any(|(told, _)| told == *entry);
        let late = Failure { step: Step::Wait, errno: Errno::TIMEDOUT };
        let silent: Vec<_> = files.entries().iter().filter(silent).collect();
        outcomes.extend(silent.into_iter().map(|&entry| (entry, Err(late))));
    }
    Ok(outcomes)
}

fn bind_there(
    sources: &Sources<'_>,
    files: &Files,
    target: &Namespace,
    over: &[Device],
    teller: &Teller,
) {
    // Clones can be made of what is mounted in one's own namespace only.
    let copies = sources.copies(files).and_then(|copies| {
        let entered = move_into_link_name_space(target.handle(), Some(LinkNameSpaceType::Mount));
        entered.map(|()| copies).map_err(Failure::at(Step::Enter))
    });
    let outcomes: Outcomes = match copies {
        Ok(copies) => {
            copies.into_iter().flat_map(|copies| copies.bind(target.root(), over)).collect()
        }
        Err(failure) => files.entries().iter().map(|&entry| (entry, Err(failure))).collect(),
    };
    for (entry, outcome) in outcomes {
        tell(teller, entry, outcome);
    }
}

/// What became of a mount that [`attach()`] had made.
#[derive(Debug)]
pub struct Detached {
    /// Where it was.
    pub mountpoint: PathBuf,
    /// Why it is there still, if it is.
    pub result: Result<(), Kept>,
}

/// Why a mount is still there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Kept {
    /// No path leads to it.
    #[error(
        "cannot find it: something is mounted over the directory that it is in; unmount that first"
    )]
    Hidden,
    /// It came to this namespace together with what it covers, from one of another user namespace.
    #[error("cannot unmount it: it is locked in this mount namespace, and goes with it")]
    Locked,
    /// The kernel refused.
    #[error("cannot unmount it: {}", std::io::Error::from(*.0))]
    Kernel(Errno),
    /// A file system of the container does not answer.
    #[error("cannot unmount it in time: a file system of the container does not answer")]
    Late,
}

/// Unmounts what [`attach()`] has mounted in the mount namespace of a process, and nothing else.
///
/// # Errors
///
/// [`Error`], if nothing can be done. What goes wrong with one mount is its result.
pub fn detach(pid: u32) -> Result<Vec<Detached>> {
    may_mount()?;
    detach_from(&enterable(pid)?)
}

/// As [`detach()`], in all mount namespaces of this machine but the host's. Gives those that had something
/// to be unmounted.
///
/// # Errors
///
/// As [`detach()`].
pub fn detach_all() -> Result<Vec<(Namespace, Vec<Detached>)>> {
    may_mount()?;
    let mut all = Vec::new();
    for namespace in namespaces::all()? {
        if namespace.is_own || namespaces::number_of(1) == Some(namespace.id) {
            continue;
        }
        if !namespace.table.mounts().iter().any(Mount::is_attached) {
            continue;
        }
        let detached = detach_from(&namespace)?;
        all.push((namespace, detached));
    }
    Ok(all)
}

fn detach_from(target: &Namespace) -> Result<Vec<Detached>> {
    let pid = target.process.pid;
    let _lock = target.lock();
    let table = match Namespace::of(pid) {
        Ok(now) if now.id == target.id => now.table,
        // With its last process the namespace ends, and all mounts in it.
        Err(Error::Gone { .. }) => return Ok(Vec::new()),
        Ok(_) => return Err(Error::Gone { pid }),
        Err(error) => return Err(error),
    };
    let mut ours: Vec<&Mount> = table.mounts().iter().filter(|mount| mount.is_attached()).collect();
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    // A repair may have put one on top of another: from the top down.
    ours.sort_by_key(|mount| table.above(mount).len());
    let start = || {
        // By which a descriptor can be named to unmount what it stands for, whatever /proc is elsewhere.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
        has_beneath();
        let keep = [target.handle(), target.root(), proc.as_fd()];
        Helper::start(&keep, |teller| {
            let entered =
                move_into_link_name_space(target.handle(), Some(LinkNameSpaceType::Mount));
            let entered = entered.and_then(|()| fchdir(&proc));
            for (mount, index) in ours.iter().zip(0..) {
                let removed = entered.and_then(|()| remove(target, &table, mount));
                teller.tell(index, 0, removed);
            }
        })
    };
    let helper = start().map_err(|source| Error::Helper { pid, source })?;
    let mut helpers = [helper];
    wait_for(&mut helpers, SILENCE);
    let told: Vec<_> = helpers.iter().flat_map(Helper::words).collect();
    let result = |index| match told.iter().find(|word| word.index == index) {
        None => Err(Kept::Late),
        Some(word) if word.errno == 0 => Ok(()),
        Some(word) => Err(match Errno::from_raw_os_error(word.errno) {
            Errno::STALE => Kept::Hidden,
            // What unmounting a locked mount says (`can_umount()`).
            Errno::INVAL => Kept::Locked,
            errno => Kept::Kernel(errno),
        }),
    };
    let ours = ours.iter().zip(0..);
    Ok(ours
        .map(|(mount, index)| Detached {
            mountpoint: mount.mountpoint.clone(),
            result: result(index),
        })
        .collect())
}

/// Unmounts a mount, whatever is on top of it. Called within the namespace, in a `/proc`.
fn remove(target: &Namespace, table: &Table, mount: &Mount) -> Result<(), Errno> {
    let find = |mount: &Mount| open_mount(target.root(), &mount.mountpoint, mount.id, mount.device);
    let move_to = |clone: &OwnedFd, place: &OwnedFd, how: MoveMountFlags| {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(clone, "", place, "", flags | how)
    };
    // What is on top, from there down: each as a clone, with all that is mounted in it.
    let mut above: Vec<OwnedFd> = Vec::new();
    let mut lift = |cover: &Mount| {
        let cover = find(cover)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let clone = open_tree(&cover, "", flags)?;
        unmount_found(&cover)?;
        above.push(clone);
        Ok(())
    };
    // Those of our own have been unmounted.
    let covers = table.above(mount).into_iter().rev().filter(|cover| !cover.is_attached());
    let lifted = covers.into_iter().try_for_each(&mut lift);
    let removed = lifted.and_then(|()| {
        let ours = find(mount)?;
        // Each goes between ours and what is there already, the lowest first.
        while let Some(clone) = above.last().filter(|_| has_beneath())
            && move_to(clone, &ours, MoveMountFlags::MOVE_MOUNT_BENEATH).is_ok()
        {
            above.pop();
        }
        unmount_found(&ours)
    });
    // The others go on top again, of whatever is there.
    while let Some(clone) = above.pop() {
        let place = open_plain(target.root(), &mount.mountpoint)?;
        move_to(&clone, &place, MoveMountFlags::empty())?;
    }
    removed
}
