//! What the kernel said of one container at one moment, parsed.
//!
//! A snapshot has the same shape whatever the layout of the hierarchies: [`crate::parse`] brings the
//! names and units of cgroup v1 and v2 together. What this kernel, or this container, does not have is
//! `None` or empty, never zero.

use alloc::{string::String, sync::Arc, vec::Vec};

use crate::{
    mask::Mask,
    units::{Bytes, Limit, Usec},
};

/// One cgroup: where it is, and in which kind of hierarchy.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Cgroup {
    /// Its path in its hierarchy, `/` for the root.
    pub path: String,
    /// Whose file names it has.
    pub version: Version,
}

impl Cgroup {
    /// Whether it is the root of its hierarchy: what it holds is the host.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.path == "/"
    }
}

/// The version of a hierarchy, which decides its files' names.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Version {
    /// A hierarchy of cgroup v1.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What a controller says, each with the cgroup that said it. Levels go from the container (or its
/// nearest ancestor with the controller) up to the root's children; the root has no limits.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When it was taken: the host's `CLOCK_BOOTTIME`.
    pub taken: Usec,
    /// When the container's init started, on the same clock. `None` for what has no init of its own,
    /// such as an ordinary process of the host: its age is the host's.
    pub started: Option<Usec>,
    /// The memory controller, from the container outwards. Empty where the container is the root of
    /// the hierarchy, or where there is no such controller.
    pub memory: Vec<MemoryLevel>,
    /// The quota of the cpu controller, from the container outwards.
    pub cpu: Vec<CpuLevel>,
    /// CPU time of the container and all below it.
    pub cpu_usage: Option<CpuUsage>,
    /// The cpuset controller at the container or at its nearest ancestor that has it.
    pub cpuset: Option<Cpuset>,
    /// The pids controller, from the container outwards.
    pub pids: Vec<PidsLevel>,
    /// The hugetlb controller, from the container outwards, one entry for each level and page size.
    pub hugetlb: Vec<HugetlbLevel>,
    /// Block I/O of the container, one entry for each device it has used. `None` where the kernel keeps no
    /// account of its own for it: that of an ancestor holds the neighbours' I/O too.
    pub io: Option<Io>,
    /// Pressure files of the container, as the kernel wrote them.
    pub pressure: Pressures,
    /// The container's tasks, where they were counted.
    pub tasks: Option<Tasks>,
}

impl Snapshot {
    /// The cgroup that a controller's `level` was read from.
    #[must_use]
    pub fn cgroup(&self, controller: Controller, level: usize) -> Option<&Cgroup> {
        match controller {
            Controller::Memory => self.memory.get(level).map(|level| &*level.cgroup),
            Controller::Cpu => self.cpu.get(level).map(|level| &*level.cgroup),
            Controller::Cpuacct => self.cpu_usage.as_ref().map(|usage| &*usage.cgroup),
            Controller::Cpuset => self.cpuset.as_ref().map(|cpuset| &*cpuset.cgroup),
            Controller::Pids => self.pids.get(level).map(|level| &*level.cgroup),
            Controller::Hugetlb => self.hugetlb.get(level).map(|level| &*level.cgroup),
            Controller::Io => self.io.as_ref().map(|io| &*io.cgroup),
            Controller::Pressure => self.pressure.cgroup.as_deref(),
        }
    }
}

/// A source of a snapshot's numbers, by the name of the controller in cgroup v2. v1's `cpuacct` and
/// `blkio` stand for `cpu.stat` and `io`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Controller {
    /// `memory`.
    Memory,
    /// `cpu`: the quota.
    Cpu,
    /// v1 `cpuacct`, v2 `cpu.stat`: the usage.
    Cpuacct,
    /// `cpuset`.
    Cpuset,
    /// `pids`.
    Pids,
    /// `hugetlb`.
    Hugetlb,
    /// `io`, v1 `blkio`.
    Io,
    /// `*.pressure`, which needs no controller.
    Pressure,
}

/// The memory controller at one level.
#[derive(Clone, Debug)]
pub struct MemoryLevel {
    /// Where it was read.
    pub cgroup: Arc<Cgroup>,
    /// `memory.current`, v1 `memory.usage_in_bytes`: all that is charged here and below.
    pub usage: Bytes,
    /// `memory.max`, v1 `memory.limit_in_bytes`.
    pub max: Limit<Bytes>,
    /// `memory.high`; v1 has none. A bound that the kernel enforces by throttling, not by the OOM killer.
    pub high: Limit<Bytes>,
    /// `memory.min`: never reclaimed from here.
    pub min: Bytes,
    /// `memory.low`: reclaimed only when nothing else is left.
    pub low: Bytes,
    /// Swap, where the kernel accounts for it.
    pub swap: Option<Swap>,
    /// `memory.stat` (v1: its `total_` fields). Read at the container and at each level that has a limit.
    pub stat: Option<MemoryStat>,
}

/// Swap at one level.
#[derive(Clone, Copy, Debug)]
pub struct Swap {
    /// `memory.swap.current`; v1: `memory.memsw.usage_in_bytes` less `memory.usage_in_bytes`.
    pub usage: Bytes,
    /// `memory.swap.max`; v1: `memory.memsw.limit_in_bytes` less `memory.limit_in_bytes`.
    pub max: Limit<Bytes>,
}

/// `memory.stat`, by v2's names; the parsers of v1 fill in what v1 has under other names. Sizes in
/// bytes of this cgroup and all below it, and counts of events since it was made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields have the kernel's names: cgroup-v2.rst, memory.stat")]
pub struct MemoryStat {
    pub anon: Option<Bytes>,
    pub file: Option<Bytes>,
    pub kernel: Option<Bytes>,
    pub kernel_stack: Option<Bytes>,
    pub pagetables: Option<Bytes>,
    pub sec_pagetables: Option<Bytes>,
    pub percpu: Option<Bytes>,
    pub sock: Option<Bytes>,
    pub vmalloc: Option<Bytes>,
    pub shmem: Option<Bytes>,
    pub zswap: Option<Bytes>,
    pub zswapped: Option<Bytes>,
    pub file_mapped: Option<Bytes>,
    pub file_dirty: Option<Bytes>,
    pub file_writeback: Option<Bytes>,
    pub swapcached: Option<Bytes>,
    pub anon_thp: Option<Bytes>,
    pub file_thp: Option<Bytes>,
    pub shmem_thp: Option<Bytes>,
    pub inactive_anon: Option<Bytes>,
    pub active_anon: Option<Bytes>,
    pub inactive_file: Option<Bytes>,
    pub active_file: Option<Bytes>,
    pub unevictable: Option<Bytes>,
    pub slab_reclaimable: Option<Bytes>,
    pub slab_unreclaimable: Option<Bytes>,
    pub slab: Option<Bytes>,
    /// Counters of events, by the kernel's own names, in the kernel's order: `pgfault`, `pgscan`, ... There are some
    /// fifty of them, so that they are there only where they were asked for.
    pub events: Vec<(String, u64)>,
}

impl MemoryStat {
    /// The counter of that name, if this kernel has it.
    #[must_use]
    pub fn event(&self, name: &[u8]) -> Option<u64> {
        self.events.iter().find(|(known, _)| known.as_bytes() == name).map(|&(_, count)| count)
    }
}

/// The quota of the cpu controller at one level.
#[derive(Clone, Debug)]
pub struct CpuLevel {
    /// Where it was read.
    pub cgroup: Arc<Cgroup>,
    /// CPU time in each period: `cpu.max`, v1 `cpu.cfs_quota_us`.
    pub quota: Limit<Usec>,
    /// The period: `cpu.max`, v1 `cpu.cfs_period_us`.
    pub period: Usec,
}

/// CPU time since the cgroup was made.
#[derive(Clone, Debug)]
pub struct CpuUsage {
    /// Where it was read.
    pub cgroup: Arc<Cgroup>,
    /// All of it. `user` does not hold `nice`, as in `/proc/stat`.
    pub total: CpuTime,
    /// By physical CPU, where the kernel tells (v1); `(CPU, time)`, ascending. Empty on v2.
    pub per_cpu: Vec<(u32, CpuTime)>,
    /// How long tasks were kept from running by the quota: `throttled_usec`, v1 `throttled_time`.
    pub throttled: Usec,
}

/// CPU time by kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuTime {
    /// In user mode at normal or higher priority.
    pub user: Usec,
    /// In user mode at lower priority.
    pub nice: Usec,
    /// In the kernel.
    pub system: Usec,
}

impl CpuTime {
    /// All kinds together.
    #[must_use]
    pub fn sum(self) -> Usec {
        self.user.saturating_add(self.nice).saturating_add(self.system)
    }
}

/// The cpuset controller.
#[derive(Clone, Debug)]
pub struct Cpuset {
    /// Where it was read.
    pub cgroup: Arc<Cgroup>,
    /// `cpuset.cpus.effective`, v1 `cpuset.effective_cpus`: what the kernel really allows.
    pub cpus: Mask,
    /// `cpuset.mems.effective`, v1 `cpuset.effective_mems`; empty without [`Parts::NODES`](crate::view::Parts::NODES).
    pub mems: Mask,
}

/// The pids controller at one level.
#[derive(Clone, Debug)]
pub struct PidsLevel {
    /// Where it was read.
    pub cgroup: Arc<Cgroup>,
    /// `pids.current`.
    pub current: u64,
    /// `pids.max`.
    pub max: Limit<u64>,
}

/// The hugetlb controller at one level, for one page size.
#[derive(Clone, Debug)]
pub struct HugetlbLevel {
    /// Where it was read.
    pub cgroup: Arc<Cgroup>,
    /// The page size: 2 MiB for `hugetlb.2MB.max`.
    pub page_size: Bytes,
    /// `hugetlb.*.current`, v1 `usage_in_bytes`.
    pub usage: Bytes,
    /// `hugetlb.*.max`, v1 `limit_in_bytes`.
    pub max: Limit<Bytes>,
}

/// Block I/O.
#[derive(Clone, Debug)]
pub struct Io {
    /// Where it was read.
    pub cgroup: Arc<Cgroup>,
    /// One entry for each device that the container has used.
    pub devices: Vec<IoDevice>,
}

/// Block I/O on one device since the cgroup was made: a line of `io.stat`, or the device's lines of v1's
/// `blkio.throttle.io_service_bytes_recursive` and `io_serviced_recursive` (or their `bfq` twins).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields have the kernel's names: cgroup-v2.rst, io.stat")]
pub struct IoDevice {
    pub major: u32,
    pub minor: u32,
    pub rbytes: Bytes,
    pub wbytes: Bytes,
    pub dbytes: Bytes,
    pub rios: u64,
    pub wios: u64,
    pub dios: u64,
    /// Time that requests took, where the kernel tells (v1 with bfq: service and wait time).
    pub read_time: Usec,
    /// The same for writes.
    pub write_time: Usec,
}

/// The text of the container's pressure files. `None` where this kernel has no such file.
#[derive(Clone, Debug, Default)]
pub struct Pressures {
    /// Where they were read. `None` where the container has no cgroup of its own in the unified hierarchy
    /// (cgroup v1): the pressure of the root is the host's, and of an ancestor, its neighbours' too.
    pub cgroup: Option<Arc<Cgroup>>,
    /// `cpu.pressure`.
    pub cpu: Option<Vec<u8>>,
    /// `memory.pressure`.
    pub memory: Option<Vec<u8>>,
    /// `io.pressure`.
    pub io: Option<Vec<u8>>,
    /// `irq.pressure`, since Linux 6.1.
    pub irq: Option<Vec<u8>>,
}

/// The tasks of the container and all below it, counted at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tasks {
    /// In state R.
    pub running: u64,
    /// In state D.
    pub blocked: u64,
    /// All of them, threads too.
    pub total: u64,
    /// The newest one's pid in the container's pid namespace.
    pub last_pid: u64,
}

impl Tasks {
    /// The pid of the newest one, or where that is not known, as many as there are.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        if self.last_pid > 0 { self.last_pid } else { self.total }
    }
}
