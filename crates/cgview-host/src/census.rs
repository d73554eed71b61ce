//! Which containers there are, without anybody who asks: by the cgroups that have processes.

use std::collections::HashMap;

use cgview_core::{parse::container_path, snapshot::Controller};
use rustix::fs::{Dir, FileType, Mode, OFlags};

use crate::{
    caller::KeptCaller, container::Container, error::Error, error::Result, hierarchy::Layout,
    host::Host, init::numbers, root::Root,
};

/// How many cgroups are visited.
const MOST: usize = 65_536;

/// All cgroups at one moment, in the hierarchy that they are numbered by: the unified one, and the memory
/// controller's where that is one of v1, since not all runtimes use the unified one beside it.
#[derive(Clone, Debug, Default)]
pub struct Census {
    ids: HashMap<String, CgroupId>,
    /// Those that have processes of their own, with one of these.
    pub populated: Vec<Populated>,
}

/// The number of a cgroup: the inode of its directory, which on v2 is what the kernel calls its id
/// (`cgroup_id()`). Another cgroup of the same name has another one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CgroupId(pub u64);

/// A cgroup that has processes of its own.
#[derive(Clone, Debug)]
pub struct Populated {
    /// Its number.
    pub id: CgroupId,
    /// The process with the lowest number, in the pid namespace of the host's `/proc`.
    pub pid: u32,
}

impl Census {
    /// The number of the cgroup of a container.
    #[must_use]
    pub fn id_of(&self, host: &Host, container: &Container) -> Option<CgroupId> {
        let path = container.paths().get(host.numbering()?)?.as_deref()?;
        self.ids.get(path).copied()
    }
}

impl Host {
    /// The hierarchy that cgroups are numbered by.
    fn numbering(&self) -> Option<usize> {
        match self.layout() {
            Layout::Unified => self.hierarchies.unified(),
            _ => self.hierarchies.of(Controller::Memory),
        }
    }

    /// Looks at all cgroups.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], if the hierarchy cannot be read at all. What vanishes meanwhile is left out.
    pub fn census(&self) -> Result<Census> {
        let mut census = Census::default();
        let Some(hierarchy) = self.numbering().and_then(|index| self.hierarchies.get(index)) else {
            return Ok(census);
        };
        let top = hierarchy.mount_root().trim_end_matches('/').to_owned();
        let mut below = vec![top];
        let mut text = Vec::new();
        while let Some(path) = below.pop() {
            let Some(dir) = hierarchy.dir(if path.is_empty() { "/" } else { &path }) else {
                continue;
            };
            let children = match children(&self.root, &dir) {
                Err(errno) if census.ids.is_empty() => return Err(Error::read(&dir, errno)),
                children => children.unwrap_or_default(),
            };
            for (name, id) in children {
                let child = format!("{path}/{name}");
                let procs = format!("{}/{name}/cgroup.procs", dir.trim_end_matches('/'));
                if self.root.read(&procs, &mut text).is_ok()
                    && let Some(pid) = numbers(&text).filter(|&pid| pid > 0).min()
                {
                    census.populated.push(Populated { id, pid });
                }
                census.ids.insert(child.clone(), id);
                below.push(child);
            }
            if census.ids.len() >= MOST {
                break;
            }
        }
        Ok(census)
    }

    /// The container of a cgroup's process, to be asked again and again; `None` for the host's own.
    ///
    /// # Errors
    ///
    /// Those of [`Host::keep`].
    pub fn resident(&self, pid: u32) -> Result<Option<KeptCaller>> {
        let kept = self.keep(pid)?;
        Ok((!kept.caller().0.container.is_host()).then_some(kept))
    }
}

/// The directories in a directory, with their inodes.
fn children(root: &Root, path: &str) -> rustix::io::Result<Vec<(String, CgroupId)>> {
    let dir = root.open_dir(path)?;
    let dir = rustix::fs::openat(
        dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut found = Vec::new();
    for entry in Dir::new(dir)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) if entry.file_type() == FileType::Directory => {
                found.push((name.to_owned(), CgroupId(entry.ino())));
            }
            Ok(_) => {}
        }
    }
    Ok(found)
}

impl Container {
    /// The number of its cgroup, by which the fast mount knows it. `None` if it has none of its own where cgroups are
    /// numbered.
    ///
    /// # Errors
    ///
    /// [`Error::Vanished`] if its cgroup was removed, and [`Error::Read`].
    pub fn cgroup_id(&self, host: &Host) -> Result<Option<CgroupId>> {
        let Some(index) = host.numbering() else { return Ok(None) };
        Ok(self.levels(host, index)?.first().map(|own| CgroupId(own.inode())))
    }

    /// The id that its runtime gave it, or the name where the runtime goes by names: [`container_path`].
    #[must_use]
    pub fn runtime_id(&self) -> Option<String> {
        container_path(self.path()).map(|found| found.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgview_testkit::{FakeHost, FakeProcess};

    #[test]
    fn cgroups_with_processes_are_found_at_any_depth() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        for (pid, path) in [(100, "/a"), (200, "/a/b/c")] {
            let cgroup = format!("0::{path}\n");
            fake.process(&FakeProcess { pid, cgroup: &cgroup, ..FakeProcess::default() });
            fake.file(&format!("/sys/fs/cgroup{path}/cgroup.procs"), &format!("{pid}\n900\n"));
        }
        fake.file("/sys/fs/cgroup/a/b/cgroup.procs", "");
        let host = Host::at(fake.path()).unwrap();
        let census = host.census().unwrap();
        let mut pids: Vec<u32> = census.populated.iter().map(|found| found.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [100, 200]);
        for found in &census.populated {
            let kept = host.resident(found.pid).unwrap().unwrap();
            let container = kept.caller().0.container;
            assert_eq!(census.id_of(&host, &container), Some(found.id));
            assert_eq!(container.cgroup_id(&host).unwrap(), Some(found.id));
        }
    }
}
