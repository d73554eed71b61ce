//! Machines of two sizes, and a container that is limited in every way.

use std::sync::Arc;

use cgview_core::{
    Bytes, File, HostFacts, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    host::{HostMemory, HostNode},
    loadavg::LoadAverage,
    parse::memory_stat_v2,
    snapshot::{
        Cgroup, CpuLevel, CpuTime, CpuUsage, Cpuset, Io, IoDevice, MemoryLevel, PidsLevel,
        Pressures, Swap, Tasks, Version,
    },
    tree::ProcFile,
};
use cgview_testkit::{FakeHost, FakeProcess};

/// Texts of a real kernel: the seeds of the fuzz targets.
macro_rules! seed {
    ($target:literal) => {
        include_str!(concat!("../../fuzz/corpus/", $target))
    };
}

/// `memory.stat` of a container on Linux 6.12.
pub const MEMORY_STAT: &str = include_str!("memory.stat");

/// The files that most programs read.
pub const FILES: [ProcFile; 6] = [
    ProcFile::Meminfo,
    ProcFile::Stat,
    ProcFile::Cpuinfo,
    ProcFile::Uptime,
    ProcFile::Loadavg,
    ProcFile::Diskstats,
];

/// A host, and one container on it.
#[derive(Debug)]
pub struct Machine {
    /// `2-cpus`.
    pub name: String,
    /// The host's CPUs.
    pub cpus: u32,
    /// The host.
    pub host: HostFacts,
    /// The container: half of the CPUs, limits at two of three levels.
    pub snapshot: Snapshot,
    limits: CpuLimits,
    cpu_view: CpuView,
    load: LoadAverage,
    policy: Policy,
}

impl Machine {
    /// The small and the large one.
    #[must_use]
    pub fn both() -> [Machine; 2] {
        [2, 64].map(Machine::new)
    }

    /// A machine with so many CPUs.
    #[must_use]
    pub fn new(cpus: u32) -> Machine {
        let policy = Policy::default();
        let half = Mask::first(cpus / 2);
        let nodes = [(0, half.clone()), (1, (cpus / 2..cpus).collect())];
        let memory = HostMemory::parse(seed!("render_meminfo/host").as_bytes());
        let host = HostFacts {
            memory,
            online: Mask::first(cpus),
            nodes: nodes
                .map(|(number, cpus)| HostNode { number, cpus, total: memory.total.scale(1, 2) })
                .into(),
            page_size: Bytes(4096),
        };
        let snapshot = container(cpus, half);
        let limits = CpuLimits::of(&snapshot, &host, &policy);
        let mut machine = Machine {
            name: format!("{cpus}-cpus"),
            cpus,
            host,
            snapshot,
            limits,
            cpu_view: CpuView::default(),
            load: LoadAverage::seeded(Usec::from_secs(1000), [150, 120, 80]),
            policy,
        };
        let mut cpu_view = CpuView::default();
        machine.step(&mut cpu_view, machine.snapshot.taken);
        machine.cpu_view = cpu_view;
        machine
    }

    /// The view of the container.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            snapshot: &self.snapshot,
            now: Usec::ZERO,
            host: &self.host,
            policy: &self.policy,
            cpus: &self.limits,
            cpu_view: &self.cpu_view,
            load: Some(&self.load),
            reader: Reader::default(),
        }
    }

    /// The container's CPU limits.
    #[must_use]
    pub fn limits(&self) -> CpuLimits {
        CpuLimits::of(&self.snapshot, &self.host, &self.policy)
    }

    /// One step of a CPU view of the container.
    pub fn step(&self, cpu_view: &mut CpuView, now: Usec) {
        let usage = self.snapshot.cpu_usage.as_ref();
        cpu_view.step(now, Usec::ZERO, &self.limits, usage, self.policy.steal);
    }

    /// The host's text of a file, as large as that of a machine with so many CPUs.
    #[must_use]
    pub fn text(&self, file: ProcFile) -> Vec<u8> {
        let text = match file {
            ProcFile::Cpuinfo => return self.cpuinfo(),
            ProcFile::Stat => return self.stat(),
            ProcFile::Diskstats => seed!("render_diskstats/host"),
            ProcFile::Loadavg => seed!("render_loadavg/host"),
            ProcFile::Meminfo => seed!("render_meminfo/host"),
            ProcFile::Partitions => seed!("render_partitions/host"),
            ProcFile::PressureCpu
            | ProcFile::PressureIo
            | ProcFile::PressureIrq
            | ProcFile::PressureMemory => seed!("render_pressure/host"),
            ProcFile::Slabinfo => seed!("render_slabinfo/host"),
            ProcFile::Swaps => seed!("render_swaps/host"),
            ProcFile::Uptime => seed!("render_uptime/host"),
            ProcFile::Vmstat => seed!("render_vmstat/host"),
        };
        text.as_bytes().to_vec()
    }

    fn cpuinfo(&self) -> Vec<u8> {
        let text = seed!("render_cpuinfo/host");
        let block = text.split_inclusive("\n\n").next().unwrap_or_default();
        let block_of = |cpu| block.replacen(": 0\n", &format!(": {cpu}\n"), 1);
        (0..self.cpus).map(block_of).collect::<String>().into_bytes()
    }

    fn stat(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for line in seed!("render_stat/host").split_inclusive('\n') {
            if let Some(times) = line.strip_prefix("cpu0") {
                for cpu in 0..self.cpus {
                    text.extend_from_slice(format!("cpu{cpu}{times}").as_bytes());
                }
            } else if !line.starts_with("cpu") || line.starts_with("cpu ") {
                text.extend_from_slice(line.as_bytes());
            }
        }
        text
    }

    /// A file below `/sys/devices/system/cpu`, with the host's text.
    #[must_use]
    pub fn sys_text(&self, file: File) -> Vec<u8> {
        let mut text = Vec::new();
        if matches!(file, File::Sys(file) if file.name().ends_with("_list")) {
            Mask::first(self.cpus).write_list(&mut text);
        } else {
            Mask::first(self.cpus).write_hex(self.cpus, &mut text);
        }
        text.push(b'\n');
        text
    }
}

/// As files, for a service.
impl Machine {
    /// The only process of a container: they are counted from 0.
    #[must_use]
    pub fn pid(container: u32) -> u32 {
        10_000 + container
    }

    /// A host with cgroup v2 and so many containers, which may all use 1.5 of its CPUs.
    #[must_use]
    pub fn host_with_containers(&self, count: u32) -> FakeHost {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        for file in ProcFile::ALL {
            fake.file(file.path(), &String::from_utf8_lossy(&self.text(file)));
        }
        let last = self.cpus.saturating_sub(1);
        let devices = "/sys/devices/system";
        fake.files(
            devices,
            &[
                ("cpu/online", &format!("0-{last}\n")),
                ("cpu/possible", &format!("0-{last}\n")),
                ("cpu/kernel_max", "8191\n"),
                ("node/online", "0\n"),
                ("node/node0/cpulist", &format!("0-{last}\n")),
                ("node/node0/meminfo", "Node 0 MemTotal:       32658292 kB\n"),
            ],
        );
        for cpu in 0..self.cpus {
            fake.file(&format!("{devices}/cpu/cpu{cpu}/topology/core_id"), &format!("{cpu}\n"));
        }
        for container in 0..count {
            self.add_container(&fake, container);
        }
        fake
    }

    fn add_container(&self, fake: &FakeHost, container: u32) {
        let pid = Machine::pid(container);
        let path = format!("/pods/pod-{container}/app");
        fake.process(&FakeProcess {
            pid,
            start: 100_000,
            nspid: &[pid, 1],
            cgroup: &format!("0::{path}\n"),
            pid_namespace: 4_026_540_000 + u64::from(container),
            ..FakeProcess::default()
        });
        let last = self.cpus.saturating_sub(1);
        let pressure = seed!("render_pressure/host");
        let memory = [
            ("memory.current", "104857600\n"),
            ("memory.max", "536870912\n"),
            ("memory.high", "max\n"),
            ("memory.low", "0\n"),
            ("memory.min", "0\n"),
            ("memory.swap.current", "1048576\n"),
            ("memory.swap.max", "67108864\n"),
            ("memory.stat", MEMORY_STAT),
            ("cpu.max", "150000 100000\n"),
            ("pids.current", "42\n"),
            ("pids.max", "1000\n"),
        ];
        let own = [
            ("cgroup.procs", &*format!("{pid}\n")),
            ("cgroup.threads", &format!("{pid}\n")),
            ("cpu.stat", "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n"),
            ("cpuset.cpus.effective", &format!("0-{last}\n")),
            ("cpuset.mems.effective", "0\n"),
            (
                "io.stat",
                "254:0 rbytes=1073741824 wbytes=268435456 rios=4000 wios=300 dbytes=0 dios=0\n",
            ),
            ("cpu.pressure", pressure),
            ("io.pressure", pressure),
            ("memory.pressure", pressure),
        ];
        let cgroup = format!("/sys/fs/cgroup{path}");
        fake.files(&cgroup, &memory).files(&cgroup, &own);
        fake.files(cgroup.trim_end_matches("/app"), &memory);
    }
}

/// How many levels, from the container outwards, have limits.
const LIMITED: usize = 2;

fn at<T>(index: usize, limit: T) -> Limit<T> {
    if index < LIMITED { Limit::At(limit) } else { Limit::Max }
}

fn container(cpus: u32, half: Mask) -> Snapshot {
    let levels = ["/pods/pod/app", "/pods/pod", "/pods"].map(|path| {
        let version = Version::V2;
        Arc::new(Cgroup { path: path.into(), version })
    });
    let [own, ..] = levels.clone();
    let stat = memory_stat_v2(MEMORY_STAT.as_bytes()).ok();
    let memory = levels.iter().enumerate().map(|(index, cgroup)| MemoryLevel {
        cgroup: Arc::clone(cgroup),
        usage: Bytes(100 << 20),
        max: at(index, Bytes(512 << 20)),
        high: Limit::Max,
        min: Bytes::ZERO,
        low: Bytes::ZERO,
        swap: Some(Swap { usage: Bytes(1 << 20), max: at(index, Bytes(64 << 20)) }),
        stat: stat.clone().filter(|_| index < LIMITED),
    });
    let cpu = levels.iter().enumerate().map(|(index, cgroup)| CpuLevel {
        cgroup: Arc::clone(cgroup),
        quota: at(index, Usec(u64::from(cpus) * 45_000)),
        period: Usec(100_000),
    });
    let pids = levels.iter().enumerate().map(|(index, cgroup)| PidsLevel {
        cgroup: Arc::clone(cgroup),
        current: 42,
        max: at(index, 1000),
    });
    let device = |minor| IoDevice {
        major: 254,
        minor,
        rbytes: Bytes(1 << 30),
        wbytes: Bytes(1 << 28),
        rios: 4000,
        wios: 300,
        ..IoDevice::default()
    };
    let pressure = Some(seed!("render_pressure/host").as_bytes().to_vec());
    Snapshot {
        taken: Usec::from_secs(5000),
        started: Some(Usec::from_secs(1000)),
        memory: memory.collect(),
        cpu: cpu.collect(),
        cpu_usage: Some(CpuUsage {
            cgroup: Arc::clone(&own),
            total: CpuTime { user: Usec(90_000_000), nice: Usec(0), system: Usec(20_000_000) },
            per_cpu: Vec::new(),
            throttled: Usec(5_000_000),
        }),
        cpuset: Some(Cpuset { cgroup: Arc::clone(&own), cpus: half, mems: Mask::first(1) }),
        pids: pids.collect(),
        hugetlb: Vec::new(),
        io: Some(Io { cgroup: Arc::clone(&own), devices: vec![device(0), device(16)] }),
        pressure: Pressures {
            cgroup: Some(own),
            cpu: pressure.clone(),
            memory: pressure.clone(),
            io: pressure.clone(),
            irq: pressure,
        },
        tasks: Some(Tasks { running: 3, blocked: 1, total: 42, last_pid: 4711 }),
    }
}
