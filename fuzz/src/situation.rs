//! A container, a host, a policy and a reader, made of arbitrary bytes.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use cgview_core::{
    Bytes, HostFacts, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    host::{HostMemory, HostNode},
    loadavg::LoadAverage,
    parse::{TimensOffsets, memory_stat_v2},
    policy::{CpuPolicy, FileSet, StealPolicy, UptimePolicy},
    snapshot::{
        Cgroup, CpuLevel, CpuTime, CpuUsage, Cpuset, HugetlbLevel, Io, IoDevice, MemoryLevel,
        PidsLevel, Pressures, Swap, Tasks, Version,
    },
    tree::ProcFile,
};

/// All that a view borrows.
#[derive(Debug)]
pub struct Situation {
    pub snapshot: Snapshot,
    pub host: HostFacts,
    pub policy: Policy,
    pub cpus: CpuLimits,
    pub cpu_view: CpuView,
    pub load: Option<LoadAverage>,
    pub reader: Reader,
}

impl Situation {
    /// A situation on a host whose `/proc/meminfo` is `text`, if that is what the text is.
    pub fn arbitrary(u: &mut Unstructured<'_>, text: &[u8]) -> Result<Situation> {
        let policy = policy(u)?;
        let host = host(u, text)?;
        let snapshot = snapshot(u)?;
        let cpus = CpuLimits::of(&snapshot, &host, &policy);
        let mut cpu_view = CpuView::default();
        let started = snapshot.started.unwrap_or(Usec::ZERO);
        let usage = snapshot.cpu_usage.as_ref();
        cpu_view.step(snapshot.taken, started, &cpus, usage, policy.steal);
        let load = match u.arbitrary()? {
            true => Some(LoadAverage::seeded(snapshot.taken, [number(u)?, number(u)?, number(u)?])),
            false => None,
        };
        let boottime = i64::arbitrary_scaled(u)?;
        let reader = Reader { timens: TimensOffsets { boottime } };
        Ok(Situation { snapshot, host, policy, cpus, cpu_view, load, reader })
    }

    pub fn view(&self) -> View<'_> {
        View {
            snapshot: &self.snapshot,
            now: Usec::ZERO,
            host: &self.host,
            policy: &self.policy,
            cpus: &self.cpus,
            cpu_view: &self.cpu_view,
            load: self.load.as_ref(),
            reader: self.reader,
        }
    }
}

trait Scaled: Sized {
    fn arbitrary_scaled(u: &mut Unstructured<'_>) -> Result<Self>;
}

impl Scaled for i64 {
    fn arbitrary_scaled(u: &mut Unstructured<'_>) -> Result<i64> {
        Ok(u.arbitrary::<i64>()? >> u.int_in_range(0..=63)?)
    }
}

/// A number of any size: small ones are as likely as large ones.
pub fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(u.arbitrary::<u64>()? >> u.int_in_range(0..=63)?)
}

/// A set of CPUs or nodes below `end`.
pub fn mask(u: &mut Unstructured<'_>, end: u32) -> Result<Mask> {
    let mut mask = Mask::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let first = u.int_in_range(0..=end - 1)?;
        let last = u.int_in_range(first..=end - 1)?;
        (first..=last).for_each(|number| mask.insert(number));
    }
    Ok(mask)
}

pub fn policy(u: &mut Unstructured<'_>) -> Result<Policy> {
    let mut passthrough = FileSet::default();
    if u.ratio(1, 8)? {
        passthrough.insert(*u.choose(&ProcFile::ALL)?);
    }
    Ok(Policy {
        cpu_view: *u.choose(&[CpuPolicy::Quota, CpuPolicy::Cpuset])?,
        uptime: *u.choose(&[UptimePolicy::Container, UptimePolicy::Host])?,
        steal: *u.choose(&[StealPolicy::Zero, StealPolicy::Throttled])?,
        swap: !u.arbitrary::<bool>()?,
        zswap: !u.arbitrary::<bool>()?,
        loadavg: !u.arbitrary::<bool>()?,
        passthrough,
    })
}

pub fn host(u: &mut Unstructured<'_>, text: &[u8]) -> Result<HostFacts> {
    let mut memory = HostMemory::parse(text);
    if memory == HostMemory::default() {
        memory = HostMemory {
            total: bytes(u)?,
            free: bytes(u)?,
            available: bytes(u)?,
            swap_total: bytes(u)?,
            swap_free: bytes(u)?,
            ..HostMemory::default()
        };
    }
    let mut online = mask(u, 300)?;
    if online.is_empty() {
        online = Mask::first(4);
    }
    let mut nodes = Vec::new();
    let mut node = 0;
    for _ in 0..u.int_in_range(0..=3)? {
        nodes.push(HostNode { number: node, cpus: mask(u, 300)?, total: bytes(u)? });
        node += u.int_in_range(1..=5)?;
    }
    let page_size = Bytes(*u.choose(&[4096, 16384, 65536, 0])?);
    Ok(HostFacts { memory, online, nodes, page_size })
}

pub fn snapshot(u: &mut Unstructured<'_>) -> Result<Snapshot> {
    let version = *u.choose(&[Version::V2, Version::V1])?;
    let taken = Usec(number(u)?);
    let started = match u.arbitrary()? {
        true => Some(Usec(number(u)?)),
        false => None,
    };
    Ok(Snapshot {
        taken,
        started,
        memory: levels(u, |u, level| memory_level(u, cgroup(level, version)))?,
        cpu: levels(u, |u, level| {
            Ok(CpuLevel {
                cgroup: cgroup(level, version),
                quota: limit(u)?.map(Usec),
                period: Usec(number(u)?),
            })
        })?,
        cpu_usage: option(u, |u| cpu_usage(u, cgroup(0, version)))?,
        cpuset: option(u, |u| {
            Ok(Cpuset { cgroup: cgroup(0, version), cpus: mask(u, 300)?, mems: mask(u, 16)? })
        })?,
        pids: levels(u, |u, level| {
            Ok(PidsLevel { cgroup: cgroup(level, version), current: number(u)?, max: limit(u)? })
        })?,
        hugetlb: levels(u, |u, level| {
            Ok(HugetlbLevel {
                cgroup: cgroup(level, version),
                page_size: Bytes(*u.choose(&[2 << 20, 1 << 30, 64 << 10, 0])?),
                usage: bytes(u)?,
                max: limit(u)?.map(Bytes),
            })
        })?,
        io: option(u, |u| io(u, version))?,
        pressure: pressures(u)?,
        tasks: option(u, |u| {
            Ok(Tasks {
                running: number(u)?,
                blocked: number(u)?,
                total: number(u)?,
                last_pid: number(u)?,
            })
        })?,
    })
}

pub fn cpu_usage(u: &mut Unstructured<'_>, cgroup: Arc<Cgroup>) -> Result<CpuUsage> {
    let mut per_cpu = Vec::new();
    let mut cpu = 0;
    for _ in 0..u.int_in_range(0..=4)? {
        per_cpu.push((cpu, cpu_time(u)?));
        cpu += u.int_in_range(1..=80)?;
    }
    Ok(CpuUsage { cgroup, total: cpu_time(u)?, per_cpu, throttled: Usec(number(u)?) })
}

pub fn cgroup(level: usize, version: Version) -> Arc<Cgroup> {
    let path = ["/a/b/c/d", "/a/b/c", "/a/b", "/a"].get(level).copied().unwrap_or("/");
    Arc::new(Cgroup { path: path.into(), version })
}

fn bytes(u: &mut Unstructured<'_>) -> Result<Bytes> {
    number(u).map(Bytes)
}

fn cpu_time(u: &mut Unstructured<'_>) -> Result<CpuTime> {
    Ok(CpuTime { user: Usec(number(u)?), nice: Usec(number(u)?), system: Usec(number(u)?) })
}

fn limit(u: &mut Unstructured<'_>) -> Result<Limit<u64>> {
    Ok(match u.arbitrary()? {
        true => Limit::At(number(u)?),
        false => Limit::Max,
    })
}

fn option<T>(
    u: &mut Unstructured<'_>,
    some: impl FnOnce(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Option<T>> {
    match u.arbitrary()? {
        true => some(u).map(Some),
        false => Ok(None),
    }
}

fn levels<T>(
    u: &mut Unstructured<'_>,
    mut level: impl FnMut(&mut Unstructured<'_>, usize) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=4)?).map(|number| level(u, number)).collect()
}

fn memory_level(u: &mut Unstructured<'_>, cgroup: Arc<Cgroup>) -> Result<MemoryLevel> {
    Ok(MemoryLevel {
        cgroup,
        usage: bytes(u)?,
        max: limit(u)?.map(Bytes),
        high: limit(u)?.map(Bytes),
        min: bytes(u)?,
        low: bytes(u)?,
        swap: option(u, |u| Ok(Swap { usage: bytes(u)?, max: limit(u)?.map(Bytes) }))?,
        stat: option(u, |u| {
            let mut text = String::new();
            for key in MEMORY_STAT {
                if u.ratio(3, 4)? {
                    text += &format!("{key} {}\n", number(u)?);
                }
            }
            Ok(memory_stat_v2(text.as_bytes()).unwrap_or_default())
        })?,
    })
}

/// Keys of `memory.stat`.
const MEMORY_STAT: [&str; 32] = [
    "anon",
    "file",
    "kernel",
    "kernel_stack",
    "pagetables",
    "sec_pagetables",
    "percpu",
    "vmalloc",
    "shmem",
    "zswap",
    "zswapped",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "swapcached",
    "anon_thp",
    "file_thp",
    "shmem_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab_reclaimable",
    "slab_unreclaimable",
    "slab",
    "pgfault",
    "pgmajfault",
    "pgscan",
    "pgsteal",
    "pgrefill",
    "thp_fault_alloc",
];

fn io(u: &mut Unstructured<'_>, version: Version) -> Result<Io> {
    let mut devices = Vec::new();
    for _ in 0..u.int_in_range(0..=4)? {
        devices.push(IoDevice {
            // Those of the seeds.
            major: *u.choose(&[254, 253, 259, 8, 7, 0])?,
            minor: u.int_in_range(0..=16)?,
            rbytes: bytes(u)?,
            wbytes: bytes(u)?,
            dbytes: bytes(u)?,
            rios: number(u)?,
            wios: number(u)?,
            dios: number(u)?,
            read_time: Usec(number(u)?),
            write_time: Usec(number(u)?),
        });
    }
    Ok(Io { cgroup: cgroup(u.int_in_range(0..=4)?, version), devices })
}

fn pressures(u: &mut Unstructured<'_>) -> Result<Pressures> {
    let mut text = || {
        option(u, |u| {
            let length = u.int_in_range(0..=100)?.min(u.len());
            Ok(u.bytes(length)?.to_vec())
        })
    };
    let (cpu, memory, io, irq) = (text()?, text()?, text()?, text()?);
    let level = u.int_in_range(0..=4)?;
    let cgroup = option(u, |_| Ok(cgroup(level, Version::V2)))?;
    Ok(Pressures { cgroup, cpu, memory, io, irq })
}
