//! Where a cgroup namespace begins.
//!
//! The kernel has no call that tells. It shows cgroups relative to the namespace of whoever reads, so a
//! thread that enters the namespace reads another path of the same process, and the difference is the
//! root. Where that is not allowed, or in a captured tree, the `root` fields of the process's own cgroup
//! mounts tell it, if it has mounted any.

use std::{io, os::fd::AsFd, thread};

use cgview_core::snapshot::Version;
use rustix::{
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    hierarchy::{Hierarchies, NamespaceRoots, below, cgroup_mounts, join, strip_suffix},
    process::Process,
    root::{Root, read_all},
};

/// The text of `of`'s `cgroup`, as read from the cgroup namespace of `from`.
///
/// A namespace is a thread's own affair, so a short-lived thread enters it and nothing else of this
/// process is changed.
fn read_from_namespace(root: &Root, from: &Process, of: &Process) -> io::Result<Vec<u8>> {
    let namespace = from.open_namespace("cgroup")?;
    let read = || -> Result<Vec<u8>, Errno> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
        let mut text = Vec::new();
        let file = of.open_file(root, "cgroup").map_err(|error| error.errno())?;
        read_all(file.as_fd(), &mut text)?;
        Ok(text)
    };
    thread::scope(|scope| {
        let reader = thread::Builder::new()
            .name("cgroup-namespace".into())
            .stack_size(128 << 10)
            .spawn_scoped(scope, read)?;
        reader
            .join()
            .map_err(|_| io::Error::other("the reading thread panicked"))?
            .map_err(Into::into)
    })
}

/// Where this process's cgroup namespace begins, if `first` is in the host's.
pub(crate) fn own_roots(root: &Root, own: &Process, first: &Process) -> NamespaceRoots {
    let mut relative = Vec::new();
    match (read_from_namespace(root, first, own), own.read(root, "cgroup", &mut relative)) {
        (Ok(absolute), Ok(())) => NamespaceRoots::compare(&absolute, &relative),
        // Then paths stay relative to where this process is, and what is outside cannot be named.
        _ => NamespaceRoots::default(),
    }
}

/// Where the cgroup namespace of `process` begins, in each hierarchy. `paths` are its cgroups.
///
/// `None` in hierarchies where the process is not below the root of its namespace, having been moved out
/// of it, and where nothing tells.
pub(crate) fn roots(
    root: &Root,
    procfs: bool,
    hierarchies: &Hierarchies,
    own: &NamespaceRoots,
    process: &Process,
    paths: &[Option<String>],
) -> Vec<Option<String>> {
    if procfs
        && let Ok(text) = read_from_namespace(root, process, process)
        && let Ok(relative) = hierarchies.membership(&text)
    {
        let pairs = paths.iter().zip(relative);
        return pairs
            .map(|(path, relative)| Some(strip_suffix(path.as_ref()?, relative?)?.to_owned()))
            .collect();
    }
    let mut mountinfo = Vec::new();
    if process.read(root, "mountinfo", &mut mountinfo).is_err() {
        return vec![None; paths.len()];
    }
    let mounted = mounted_roots(hierarchies, own, &mountinfo);
    mounted
        .into_iter()
        .zip(paths)
        .map(|(mounted, path)| {
            let path = path.as_ref()?;
            mounted.into_iter().find(|root| below(path, root).is_some())
        })
        .collect()
}

/// The cgroups that a process has mounted, for each hierarchy; first those in the usual place. The
/// hierarchy's own root is left out: it tells nothing of a namespace.
fn mounted_roots(
    hierarchies: &Hierarchies,
    own: &NamespaceRoots,
    mountinfo: &[u8],
) -> Vec<Vec<String>> {
    let mut roots = vec![Vec::new(); hierarchies.all().len()];
    for mount in cgroup_mounts(mountinfo) {
        let index = match mount.version {
            Version::V1 => mount.controllers.iter().find_map(|name| hierarchies.of_v1(name)),
            Version::V2 => hierarchies.unified(),
        };
        let root = join(own.of(mount.controllers.iter().map(String::as_str)), &mount.root);
        if let (Some(roots), Some(root)) = (index.and_then(|index| roots.get_mut(index)), root)
            && root != "/"
        {
            let usual = mount.mount_point.starts_with("/sys/fs/cgroup");
            roots.insert(if usual { 0 } else { roots.len() }, root);
        }
    }
    roots
}
