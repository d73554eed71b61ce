//! A container with CPU times as the kernel accounts for them, and what its readers see.
#![allow(dead_code, reason = "each program uses a part of it")]

use std::sync::Arc;

use cgview_core::{
    File, HostFacts, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    snapshot::{Cgroup, CpuLevel, CpuTime, CpuUsage, Cpuset, Version},
    tree::ProcFile,
};

pub(crate) const SECOND: u64 = 1_000_000;

pub(crate) const HOST_STAT: &[u8] = b"cpu  27160 0 6204 285354 672 0 139 72 0 0\n\
    cpu0 16056 0 2835 140779 110 0 39 38 0 0\n\
    cpu1 11103 0 3369 144574 561 0 100 33 0 0\n\
    intr 617398 0 0 25 1\n\
    ctxt 1286504\n\
    btime 1795401513\n\
    processes 14584\n\
    procs_running 3\n\
    procs_blocked 0\n\
    softirq 770952 0 83758\n";

pub(crate) fn cgroup(path: &str, version: Version) -> Arc<Cgroup> {
    Arc::new(Cgroup { path: path.into(), version })
}

/// A container on a host of 8 CPUs, as the kernel accounts for it.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) version: Version,
    pub(crate) path: String,
    /// In hundredths of a CPU.
    pub(crate) quota: Limit<u64>,
    pub(crate) set: Mask,
    pub(crate) now: u64,
    pub(crate) started: u64,
    /// By physical CPU: user, nice and system time.
    pub(crate) used: Vec<[u64; 3]>,
    pub(crate) throttled: u64,
    pub(crate) policy: Policy,
}

impl Container {
    pub(crate) fn new(version: Version, quota: Limit<u64>, cpus: u32) -> Container {
        Container {
            version,
            path: "/app".into(),
            quota,
            set: Mask::first(cpus),
            now: 100 * SECOND,
            started: 100 * SECOND,
            used: vec![[0; 3]; 8],
            throttled: 0,
            policy: Policy::default(),
        }
    }

    pub(crate) fn host() -> HostFacts {
        HostFacts { online: Mask::first(8), ..HostFacts::default() }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let cgroup = cgroup(&self.path, self.version);
        let time = |kinds: &[u64; 3]| CpuTime {
            user: Usec(kinds[0]),
            nice: Usec(kinds[1]),
            system: Usec(kinds[2]),
        };
        let total = self.used.iter().fold([0; 3], |sum: [u64; 3], kinds| {
            [0, 1, 2].map(|kind| sum[kind].saturating_add(kinds[kind]))
        });
        let per_cpu = match self.version {
            Version::V1 => (0..).zip(self.used.iter().map(time)).collect(),
            Version::V2 => Vec::new(),
        };
        let quota = match self.quota {
            Limit::At(hundredths) => Limit::At(Usec(hundredths * 1000)),
            Limit::Max => Limit::Max,
        };
        Snapshot {
            taken: Usec(self.now),
            started: Some(Usec(self.started)),
            cpu: vec![CpuLevel { cgroup: cgroup.clone(), quota, period: Usec(100_000) }],
            cpuset: Some(Cpuset {
                cgroup: cgroup.clone(),
                cpus: self.set.clone(),
                mems: Mask::new(),
            }),
            cpu_usage: Some(CpuUsage {
                cgroup,
                total: time(&total),
                per_cpu,
                throttled: Usec(self.throttled),
            }),
            ..Snapshot::default()
        }
    }

    pub(crate) fn limits(&self) -> CpuLimits {
        CpuLimits::of(&self.snapshot(), &Self::host(), &self.policy)
    }

    pub(crate) fn usage(&self) -> u64 {
        self.used.iter().flatten().fold(0, |sum: u64, &time| sum.saturating_add(time))
    }

    /// What a reader sees now.
    pub(crate) fn read(&self, state: &mut CpuView) -> Stat {
        let stat = self.read_late(state);
        let visible = self.limits().visible.len() as usize;
        assert_eq!(stat.cpus.len(), visible, "one line for each visible CPU");
        stat
    }

    /// What a reader sees whose snapshot may be older than the state.
    pub(crate) fn read_late(&self, state: &mut CpuView) -> Stat {
        let snapshot = self.snapshot();
        let cpus = self.limits();
        let usage = snapshot.cpu_usage.as_ref();
        state.step(snapshot.taken, Usec(self.started), &cpus, usage, self.policy.steal);
        let host = Self::host();
        let view = View {
            snapshot: &snapshot,
            now: Usec::ZERO,
            host: &host,
            policy: &self.policy,
            cpus: &cpus,
            cpu_view: state,
            load: None,
            reader: Reader::default(),
        };
        let text = render(&view, ProcFile::Stat, HOST_STAT);
        let uptime = render(&view, ProcFile::Uptime, b"1604.33 2853.54\n");
        Stat::parse(&text, &uptime)
    }
}

pub(crate) fn render(view: &View<'_>, file: ProcFile, host: &[u8]) -> String {
    let (mut text, mut explained) = (Vec::new(), Vec::new());
    view.render(File::Proc(file), host, &mut text).unwrap();
    view.explain(File::Proc(file), host, &mut explained).unwrap();
    assert_eq!(text, explained);
    String::from_utf8(text).unwrap()
}

/// `/proc/stat` and `/proc/uptime` as a reader understands them.
#[derive(Clone, Debug)]
pub(crate) struct Stat {
    pub(crate) cpus: Vec<Vec<u64>>,
    pub(crate) uptime: u64,
}

pub(crate) const IDLE: usize = 3;

impl Stat {
    /// Checks what holds for every text.
    pub(crate) fn parse(text: &str, uptime: &str) -> Stat {
        let of_host = String::from_utf8_lossy(HOST_STAT);
        let names = |text: &str| -> Vec<String> {
            let name = |line: &str| line.split(' ').next().unwrap().to_owned();
            text.lines()
                .map(name)
                .filter(|name| name == "cpu" || !name.starts_with("cpu"))
                .collect()
        };
        assert_eq!(names(text), names(&of_host), "the host's lines in their order");
        let mut sum = None;
        let mut cpus = Vec::new();
        for line in text.lines() {
            let (name, times) = line.split_once(' ').unwrap();
            let numbers = || times.split_ascii_whitespace().map(|word| word.parse().unwrap());
            match name.strip_prefix("cpu") {
                Some("") => sum = Some(numbers().collect::<Vec<u64>>()),
                Some(number) => {
                    assert_eq!(number.parse(), Ok(cpus.len()), "numbered from 0");
                    cpus.push(numbers().collect());
                }
                None => {}
            }
        }
        let sum = sum.unwrap();
        assert_eq!(sum.len(), 10, "the host's columns");
        for (column, &sum) in sum.iter().enumerate() {
            let of_cpus: u64 = cpus.iter().map(|cpu: &Vec<u64>| cpu[column]).sum();
            assert_eq!(sum, of_cpus, "column {column} of cpu is the sum of cpuN");
        }
        let idle_ticks: u64 = cpus.iter().map(|cpu| cpu[IDLE]).sum();
        let hundredths = |word: &str| -> u64 {
            let (whole, part) = word.split_once('.').unwrap();
            assert_eq!(part.len(), 2);
            whole.parse::<u64>().unwrap() * 100 + part.parse::<u64>().unwrap()
        };
        let (up, idle) = uptime.trim_end().split_once(' ').unwrap();
        assert_eq!(hundredths(idle), idle_ticks, "uptime and stat agree on idle time");
        Stat { cpus, uptime: hundredths(up) }
    }

    pub(crate) fn sum(&self, columns: &[usize]) -> u64 {
        self.cpus.iter().flat_map(|cpu| columns.iter().map(|&column| cpu[column])).sum()
    }

    /// Lines that both have, and the sum, do not go back.
    pub(crate) fn assert_not_before(&self, before: &Stat) {
        for (now, before) in self.cpus.iter().zip(&before.cpus) {
            assert!(
                now.iter().zip(before).all(|(now, before)| now >= before),
                "{before:?} {now:?}"
            );
        }
        for column in 0..10 {
            let (before, now) = (before.sum(&[column]), self.sum(&[column]));
            assert!(now >= before, "column {column} of cpu: {before} {now}");
        }
    }
}

/// User, nice and system time of all visible CPUs together.
pub(crate) fn kinds(view: &CpuView) -> [u64; 3] {
    let sum =
        |kind: fn(&CpuTime) -> Usec| view.cpus().iter().map(|cpu| kind(&cpu.busy).0).sum::<u64>();
    [sum(|time| time.user), sum(|time| time.nice), sum(|time| time.system)]
}
