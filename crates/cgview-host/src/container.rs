//! A container: which cgroups it is, and since when.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use cgview_core::{
    snapshot::Controller,
    units::{Ticks, Usec},
};
use parking_lot::Mutex;

use crate::{
    cgroup::CgroupDir,
    error::{Error, Result},
    hierarchy::{Hierarchy, parent},
    host::Host,
    init::Init,
    process::Namespace,
    tasks,
};

/// What a container is known by: the same for all its processes, and after a restart of whoever asks.
///
/// It is made from the container's pid namespace and the start of its init, or, where it has no init of
/// its own, from the paths of its cgroups. Its text is fit for a key of a map or of a file.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    pub(crate) fn of_init(namespace: Namespace, started: Usec) -> ContainerId {
        ContainerId(format!("pid:{}@{}", namespace.0, started.ticks().0).into())
    }

    pub(crate) fn of_cgroups(hierarchies: &[Hierarchy], paths: &[Option<String>]) -> ContainerId {
        let mut named: Vec<(&str, &String)> = hierarchies
            .iter()
            .zip(paths)
            .filter_map(|(hierarchy, path)| {
                Some((hierarchy.v1_controllers().next().unwrap_or("unified"), path.as_ref()?))
            })
            .collect();
        // The order of mounts may change with a boot.
        named.sort_unstable();
        let mut text = String::from("cgroup");
        let mut last = None;
        for (name, path) in named {
            // One path for most, with those that differ behind it.
            if last != Some(path) {
                // No name may look like another container's.
                let path = path.replace('\\', "\\x5c").replace(':', "\\x3a");
                text.push_str(&format!(":{name}={path}"));
            }
            last = Some(path);
        }
        ContainerId(text.into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// All that shares a pid namespace's init and its cgroup, or else a cgroup.
///
/// It keeps descriptors of its cgroups' files open, within what this process may open. When the cgroup is
/// removed, [`Container::sample`] gives [`Error::Vanished`], and it is time to let go of it.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    paths: Vec<Option<String>>,
    host: bool,
    init: Option<u32>,
    started: Option<Usec>,
    depth: usize,
    /// The levels of each hierarchy, from the container outwards; opened when they are read first.
    levels: Mutex<Vec<Option<Levels>>>,
    /// The task that was the newest when they were counted last, and its number in the container.
    pub(crate) newest: Mutex<Option<(Task, u64)>>,
    gone: AtomicBool,
}

/// What no other task has: when it started, and its number on the host.
pub(crate) type Task = (Ticks, u32);

/// The directories of a container and its ancestors in one hierarchy.
pub(crate) type Levels = Arc<[Arc<CgroupDir>]>;

/// Where a container's age and pids come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    init: Option<(u32, Usec)>,
    /// How many pid namespaces deep it is.
    depth: usize,
    /// Whether it is a container without an init, as old as its oldest process.
    aged: bool,
}

impl Origin {
    pub(crate) fn of_init(init: &Init) -> Origin {
        Origin { init: Some((init.pid(), init.started())), depth: init.depth(), aged: false }
    }

    pub(crate) fn of_member(depth: usize, aged: bool) -> Origin {
        Origin { init: None, depth, aged }
    }
}

impl Host {
    /// The one value for the container of these cgroups; `origin` is asked if it is a new one.
    pub(crate) fn container(
        &self,
        id: ContainerId,
        paths: Vec<Option<String>>,
        origin: impl FnOnce() -> Result<Origin>,
    ) -> Result<Arc<Container>> {
        let known = self.containers.lock().get(&id).and_then(Weak::upgrade);
        if let Some(known) = known
            && known.paths == paths
            && !known.is_gone()
        {
            return Ok(known);
        }
        let origin = origin()?;
        let started = match origin.init {
            Some((_, started)) => Some(started),
            None if origin.aged => tasks::oldest(self, &paths)?,
            None => None,
        };
        let host = self
            .hierarchies()
            .iter()
            .zip(&paths)
            .all(|(hierarchy, path)| path.as_ref().is_none_or(|path| hierarchy.is_top(path)));
        let container = Arc::new(Container {
            id: id.clone(),
            levels: Mutex::new(vec![None; paths.len()]),
            paths,
            host,
            init: origin.init.map(|(pid, _)| pid),
            started,
            depth: origin.depth,
            newest: Mutex::default(),
            gone: AtomicBool::new(false),
        });
        let mut containers = self.containers.lock();
        if containers.len() == containers.capacity() {
            containers.retain(|_, known| known.strong_count() > 0);
        }
        containers.insert(id, Arc::downgrade(&container));
        Ok(container)
    }
}

impl Container {
    /// What it is known by.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Whether its cgroups are the roots of all hierarchies, so that it is the host itself.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.host
    }

    /// The pid of its init, in the pid namespace of the host's `/proc`, if it has one of its own.
    #[must_use]
    pub fn init(&self) -> Option<u32> {
        self.init
    }

    /// When it started, on the host's boot clock: its init, or its oldest process where it has a cgroup
    /// namespace or shares a pid namespace. `None` for processes of the host.
    #[must_use]
    pub fn started(&self) -> Option<Usec> {
        self.started
    }

    /// Its cgroup in the hierarchy that a controller's numbers come from.
    #[must_use]
    pub fn cgroup(&self, host: &Host, controller: Controller) -> Option<&str> {
        self.paths.get(host.hierarchies.of(controller)?)?.as_deref()
    }

    /// How many pid namespaces deep its processes are: the place of its own pids in `NSpid`.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    pub(crate) fn paths(&self) -> &[Option<String>] {
        &self.paths
    }

    /// The directories of its levels in a hierarchy, from the container up to, and without, the root.
    /// For a container that is the root: the root alone.
    pub(crate) fn levels(&self, host: &Host, hierarchy: usize) -> Result<Levels> {
        if let Some(Some(levels)) = self.levels.lock().get(hierarchy) {
            return Ok(levels.clone());
        }
        let levels = self.open_levels(host, hierarchy)?;
        if let Some(place) = self.levels.lock().get_mut(hierarchy) {
            *place = Some(levels.clone());
        }
        Ok(levels)
    }

    fn open_levels(&self, host: &Host, hierarchy: usize) -> Result<Levels> {
        let (Some(mounted), Some(Some(path))) =
            (host.hierarchies.get(hierarchy), self.paths.get(hierarchy))
        else {
            return Ok(Arc::new([]));
        };
        let mut levels = Vec::new();
        let mut at = Some(path.as_str());
        while let Some(path) = at {
            if mounted.is_top(path) && !levels.is_empty() {
                break;
            }
            // What is above the mount's root is out of reach.
            match host.cgroup(hierarchy, path)? {
                Some(dir) => levels.push(dir),
                None => break,
            }
            at = parent(path);
        }
        Ok(levels.into())
    }

    /// Whether its cgroup was found to be removed. Another one of the same name is another container.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Looks whether its cgroup was removed meanwhile, in one hierarchy that it was read in.
    #[must_use]
    pub fn was_removed(&self, host: &Host) -> bool {
        let own = {
            let levels = self.levels.lock();
            levels.iter().flatten().find_map(|levels| levels.first().map(Arc::clone))
        };
        if own.is_some_and(|own| !own.is_alive(&host.root)) {
            self.set_gone();
        }
        self.is_gone()
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Its cgroup in the hierarchy where it is named by the longest path: what people know it by.
    #[must_use]
    pub fn path(&self) -> &str {
        self.paths.iter().flatten().max_by_key(|path| path.len()).map_or("/", String::as_str)
    }

    pub(crate) fn vanished(&self) -> Error {
        Error::Vanished { path: self.path().into() }
    }

    /// Whether its own cgroups are all there.
    pub(crate) fn exists(&self, host: &Host) -> bool {
        self.paths
            .iter()
            .enumerate()
            .all(|(index, path)| path.as_ref().is_none_or(|path| host.cgroup(index, path).is_ok()))
    }

    /// Forgets the directories, which are then opened anew. Ancestors' may be those of cgroups that were
    /// removed and made again.
    pub(crate) fn close_levels(&self) {
        self.levels.lock().fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgview_core::snapshot::Version;

    fn hierarchy(controller: Option<&str>) -> Hierarchy {
        Hierarchy {
            version: if controller.is_some() { Version::V1 } else { Version::V2 },
            controllers: controller.map(str::to_owned).into_iter().collect(),
            mount_point: String::new(),
            mount_root: "/".into(),
            top: true,
            bare_names: false,
        }
    }

    fn id(cgroups: &[(Option<&str>, &str)]) -> String {
        let hierarchies: Vec<_> = cgroups.iter().map(|(name, _)| hierarchy(*name)).collect();
        let paths: Vec<_> = cgroups.iter().map(|(_, path)| Some((*path).to_owned())).collect();
        ContainerId::of_cgroups(&hierarchies, &paths).to_string()
    }

    #[test]
    fn ids_name_each_path_once_whatever_the_order_of_mounts() {
        let (memory, cpu) = ((Some("memory"), "/a"), (Some("cpu"), "/a"));
        assert_eq!(id(&[memory, cpu]), "cgroup:cpu=/a");
        assert_eq!(id(&[cpu, memory]), "cgroup:cpu=/a");
        assert_eq!(id(&[memory, cpu, (None, "/")]), "cgroup:cpu=/a:unified=/");
        assert_ne!(id(&[(Some("cpu"), "/a:memory=/b")]), id(&[cpu, (Some("memory"), "/b")]));
    }
}
