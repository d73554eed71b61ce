//! The mounts of a run's own mount namespace: a fresh `/proc`, the cgroups as seen from within, and
//! the view's files over the kernel's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, move_mount,
        open_tree, unmount,
    },
};

/// Mounts the `/proc` of this pid namespace.
pub(super) fn mount_proc() -> anyhow::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).context("cannot mount /proc")
}

/// Puts each cgroup in the place of the root of its hierarchy, which is what a container's
/// `/sys/fs/cgroup` shows: programs that read their own limits find them there.
pub(super) fn mount_cgroups(dirs: &[PathBuf]) -> anyhow::Result<()> {
    dirs.iter().try_for_each(|dir| {
        let root = dir.parent().unwrap_or(dir);
        // In the place of the host's mount, not over it: many programs go by the first mount that they
        // find in /proc/self/mountinfo.
        let cgroup =
            open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
                .with_context(|| format!("cannot clone the mount of {}", dir.display()))?;
        unmount(root, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", root.display()))?;
        move_mount(cgroup, "", CWD, root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .with_context(|| format!("cannot mount {}", root.display()))
    })
}

/// Binds the files below `mountpoint` over the kernel's, and takes `own_mounts` mounts away from
/// there: in this mount namespace only.
pub(super) fn bind_view(mountpoint: &Path, own_mounts: u32) -> anyhow::Result<()> {
    let mut count = 0;
    bind_files(&mountpoint.join("proc"), Path::new("/proc"), &mut count)?;
    for name in ["cpu", "node"] {
        let (source, target) = (
            mountpoint.join("sys/devices/system").join(name),
            Path::new("/sys/devices/system").join(name),
        );
        if !source.is_dir() || !target.is_dir() {
            continue;
        }
        // A view without the directories of CPUs, as LXCFS had for long, would hide the kernel's.
        if source.join(format!("{name}0")).is_dir() {
            bind(&source, &target)?;
            count += 1;
        } else {
            bind_files(&source, &target, &mut count)?;
        }
    }
    if count == 0 {
        bail!("no view is mounted at {}", mountpoint.display());
    }
    for _ in 0..own_mounts {
        unmount(mountpoint, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", mountpoint.display()))?;
    }
    Ok(())
}

/// Binds all files below `source` over those of the same path below `target`, if there are such.
fn bind_files(source: &Path, target: &Path, count: &mut u32) -> anyhow::Result<()> {
    let entries = match fs::read_dir(source) {
        Ok(entries) => entries,
        // LXCFS has a directory for nodes that it does not let anyone list.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(format!("cannot list {}", source.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", source.display()))?;
        let place: PathBuf = target.join(entry.file_name());
        let kind =
            entry.file_type().with_context(|| format!("cannot stat {}", entry.path().display()))?;
        if kind.is_dir() {
            bind_files(&entry.path(), &place, count)?;
        } else if kind.is_file() && place.exists() {
            bind(&entry.path(), &place)?;
            *count += 1;
        }
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> anyhow::Result<()> {
    mount_bind(source, target)
        .with_context(|| format!("cannot bind {} over {}", source.display(), target.display()))
}
