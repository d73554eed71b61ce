//! Where a cgroup namespace begins.
//!
//! The kernel has no call that tells. It shows cgroups relative to the namespace of whoever reads, so a
//! thread that enters the namespace reads another path of the same process, and the difference is the
//! root. Where that is not allowed, or in a captured tree, the `root` fields of the process's own cgroup
//! mounts tell it, if it has mounted any.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    hierarchy::{Hierarchies, NamespaceRoots, below, cgroup_mounts, join, strip_suffix},
    host::Host,
    process::{Namespace, Process},
    root::Root,
};
use cgview_core::snapshot::Version;
use parking_lot::Mutex;

/// Where this process's cgroup namespace begins, if `first` is in the host's.
pub(crate) fn own_roots(root: &Root, own: &Process, first: &Process) -> NamespaceRoots {
    let mut relative = Vec::new();
    match (first.membership_of(own), own.read(root, "cgroup", &mut relative)) {
        (Ok(absolute), Ok(())) => NamespaceRoots::compare(&absolute, &relative),
        // Then paths stay relative to where this process is, and what is outside cannot be named.
        _ => NamespaceRoots::default(),
    }
}

/// The path of a cgroup in each hierarchy.
pub(crate) type Paths = Arc<[Option<String>]>;

/// Where the cgroup namespaces of some processes begin, as it was found last.
///
/// Processes of one container ask for the same over and over, and a thread is not cheap. What is known is
/// soon forgotten, since the number of a namespace is given to another one once it is gone.
#[derive(Debug, Default)]
pub(crate) struct KnownRoots(Mutex<HashMap<(Namespace, Paths), (Instant, Paths)>>);

/// How long a root is taken to be what it was. No namespace ends, and another one with its number and the
/// same cgroup begins elsewhere, in so short a time, except where a runtime fails over and over.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

impl Host {
    /// The cgroups that a text of `/proc/PID/cgroup` names, from the roots of their hierarchies.
    pub(crate) fn absolute_paths(&self, pid: u32, text: &[u8]) -> Result<Paths> {
        let paths = self
            .hierarchies
            .membership(text)
            .map_err(|source| Error::parse(format!("/proc/{pid}/cgroup"), source))?;
        paths
            .into_iter()
            .zip(self.hierarchies.all())
            .map(|(path, hierarchy)| {
                let Some(path) = path else { return Ok(None) };
                let base = self.own_cgroup_namespace.of(hierarchy.v1_controllers());
                join(base, path).map(Some).ok_or_else(|| Error::Outside { pid, path: path.into() })
            })
            .collect()
    }

    /// Where the cgroup namespace of a process begins, in each hierarchy. `paths` are the process's cgroups.
    ///
    /// `None` in hierarchies where the process is not below the root of its namespace, having been moved
    /// out of it, and where nothing tells.
    pub(crate) fn namespace_roots(
        &self,
        process: &Process,
        namespace: Namespace,
        paths: &Paths,
    ) -> Paths {
        let key = (namespace, paths.clone());
        if let Some((found, roots)) = self.known_roots.0.lock().get(&key)
            && found.elapsed() < TRUSTED_FOR
        {
            return roots.clone();
        }
        let roots = self.find_roots(process, paths);
        let mut known = self.known_roots.0.lock();
        if known.len() >= known.capacity() {
            known.retain(|_, (found, _)| found.elapsed() < TRUSTED_FOR);
        }
        known.insert(key, (Instant::now(), roots.clone()));
        roots
    }

    fn find_roots(&self, process: &Process, paths: &Paths) -> Paths {
        if self.procfs
            && let Ok(text) = process.membership_of(process)
            && let Ok(relative) = self.hierarchies.membership(&text)
        {
            let root = |(path, relative): (&Option<String>, Option<&str>)| {
                Some(strip_suffix(path.as_ref()?, relative?)?.to_owned())
            };
            return paths.iter().zip(relative).map(root).collect();
        }
        let mut mountinfo = Vec::new();
        if process.read(&self.root, "mountinfo", &mut mountinfo).is_err() {
            return paths.iter().map(|_| None).collect();
        }
        mounted_roots(&self.hierarchies, &self.own_cgroup_namespace, &mountinfo)
            .into_iter()
            .zip(paths.iter())
            .map(|(mounted, path)| {
                let path = path.as_ref()?;
                mounted.into_iter().find(|root| below(path, root).is_some())
            })
            .collect()
    }
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
