//! The mounted cgroup hierarchies, in the shape that cgroups-rs works with.

use std::path::{Path, PathBuf};

use cgroups_rs::fs::{
    Cgroup, Hierarchy, Subsystem, blkio::BlkIoController, cpu::CpuController,
    cpuacct::CpuAcctController, cpuset::CpuSetController, freezer::FreezerController,
    hugetlb::HugeTlbController, memory::MemController, pid::PidController,
};
use cgview_core::snapshot::Version;
use cgview_host::Host;

/// The controllers that say something of a container, by their names in v1 and in v2. blkio stands
/// before memory: in v1 a task that writes must not be in a memory cgroup without its blkio cgroup.
const CONTROLLERS: [&str; 8] =
    ["blkio", "io", "memory", "pids", "cpuset", "cpuacct", "cpu", "hugetlb"];

/// One mounted hierarchy: cgroup v2, or one of v1 with a controller that matters.
///
/// cgroups-rs finds hierarchies itself, but v2 only at `/sys/fs/cgroup`, and v1 or v2 but not both.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) v2: bool,
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// Its controllers.
    controllers: Vec<String>,
}

impl Tree {
    /// All that are mounted here, v1's blkio first.
    pub(super) fn all() -> anyhow::Result<Vec<Tree>> {
        let host = Host::live()?;
        let mut trees: Vec<Tree> = host
            .hierarchies()
            .iter()
            .map(|hierarchy| Tree {
                v2: hierarchy.version() == Version::V2,
                root: hierarchy.mount_point().into(),
                controllers: hierarchy.controllers().to_vec(),
            })
            .collect();
        trees.sort_by_key(|tree| !tree.has("blkio"));
        Ok(trees)
    }

    /// Whether it has that controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// The cgroup of that name in its root.
    pub(super) fn cgroup(&self, name: &str) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), name)
    }
}

impl Hierarchy for Tree {
    fn subsystems(&self) -> Vec<Subsystem> {
        let (path, base, v2) = (&self.root, Path::new("/"), self.v2);
        let mut subsystems = Vec::new();
        for name in CONTROLLERS.into_iter().filter(|name| self.has(name)) {
            let (path, base) = (path.clone(), base.to_path_buf());
            subsystems.push(match name {
                "blkio" | "io" => Subsystem::BlkIo(BlkIoController::new(path, base, v2)),
                "memory" => Subsystem::Mem(MemController::new(path, base, v2)),
                "pids" => Subsystem::Pid(PidController::new(path, base, v2)),
                "cpuset" => Subsystem::CpuSet(CpuSetController::new(path, base, v2)),
                "cpuacct" => Subsystem::CpuAcct(CpuAcctController::new(path, base)),
                "cpu" => Subsystem::Cpu(CpuController::new(path, base, v2)),
                _ => Subsystem::HugeTlb(HugeTlbController::new(path, base, v2)),
            });
        }
        if v2 {
            // Every cgroup of v2 can be frozen, controllers or not, and cgroups-rs moves a process
            // by way of the first subsystem.
            let freezer = FreezerController::new(path.clone(), base.to_path_buf(), v2);
            subsystems.push(Subsystem::Freezer(freezer));
        }
        subsystems
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        self.cgroup("")
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        let parent = Path::new(path).parent().and_then(Path::to_str).unwrap_or_default();
        self.cgroup(parent)
    }

    fn v2(&self) -> bool {
        self.v2
    }
}
