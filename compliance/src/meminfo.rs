//! What `/proc/meminfo` is to say of memory of known size.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{Container, MIB, PATIENCE, memory::Mapping, text, truth, under_test};

/// How far a line may be from the truth: 1 % of it, or 1 MiB.
const PARTS: u64 = 100;

/// Lines that LXCFS leaves as the host's (W6 and others of `docs/compatibility.md`), or makes by another rule.
const NOT_OF_LXCFS: [&str; 16] = [
    "AnonHugePages",
    "Committed_AS",
    "Dirty",
    "HugePages_Free",
    "HugePages_Total",
    "Hugetlb",
    "KReclaimable",
    "KernelStack",
    "Mapped",
    "MemAvailable",
    "Mlocked",
    "PageTables",
    "SReclaimable",
    "SUnreclaim",
    "Slab",
    "Writeback",
];

/// The lines that are a field of `memory.stat`, with what that is called in v2 and in v1.
/// `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst` say what they are.
const FIELDS: [(&str, &str, &str); 24] = [
    ("Active(anon)", "active_anon", "active_anon"),
    ("Active(file)", "active_file", "active_file"),
    ("AnonHugePages", "anon_thp", "rss_huge"),
    ("AnonPages", "anon", "rss"),
    ("Cached", "file", "cache"),
    ("Dirty", "file_dirty", "dirty"),
    ("FileHugePages", "file_thp", ""),
    ("Inactive(anon)", "inactive_anon", "inactive_anon"),
    ("Inactive(file)", "inactive_file", "inactive_file"),
    ("KReclaimable", "slab_reclaimable", ""),
    ("KernelStack", "kernel_stack", ""),
    ("Mapped", "file_mapped", "mapped_file"),
    ("PageTables", "pagetables", ""),
    ("Percpu", "percpu", ""),
    ("SReclaimable", "slab_reclaimable", ""),
    ("SUnreclaim", "slab_unreclaimable", ""),
    ("SecPageTables", "sec_pagetables", ""),
    ("Shmem", "shmem", "shmem"),
    ("ShmemHugePages", "shmem_thp", ""),
    ("Unevictable", "unevictable", "unevictable"),
    ("VmallocUsed", "vmalloc", ""),
    ("Writeback", "file_writeback", "writeback"),
    ("Zswap", "zswap", ""),
    ("Zswapped", "zswapped", ""),
];

/// Some of the kernel's `FLUSH_TIME`.
const FLUSH_TIMES: Duration = Duration::from_secs(6);

/// A look at a container's `/proc/meminfo`.
#[derive(Debug)]
pub struct Look<'a> {
    container: &'a Container,
    /// Its lines, by name.
    pub lines: BTreeMap<String, u64>,
}

impl<'a> Look<'a> {
    /// Looks now.
    #[must_use]
    pub fn new(container: &'a Container) -> Look<'a> {
        let lines = text::numbers(&container.read("/proc/meminfo"));
        Look { container, lines }
    }

    /// The lines, named as in `Active+Inactive`, added up, in bytes.
    #[must_use]
    pub fn sum(&self, names: &str) -> u64 {
        let one = |name| self.lines.get(name).copied().unwrap_or_default() * 1024;
        names.split('+').map(one).sum()
    }

    /// Waits until each line has grown by so many bytes since this look, and until all lines are what
    /// `memory.stat` says. The kernel brings that up to date every two seconds (`FLUSH_TIME`).
    pub fn has_grown(&self, by: &[(&str, i128)]) {
        let mut wrong = Vec::new();
        let end = Instant::now() + PATIENCE;
        let mut stirred = Instant::now();
        loop {
            if stirred.elapsed() > FLUSH_TIMES {
                stir(self.container);
                stirred = Instant::now();
            }
            let now = Look::new(self.container);
            wrong.clear();
            for &(names, by) in by {
                let known = under_test().is_cgview()
                    || !names.split('+').any(|name| NOT_OF_LXCFS.contains(&name));
                let grown = i128::from(now.sum(names)) - i128::from(self.sum(names));
                if known && (grown - by).unsigned_abs() > allowed(by.unsigned_abs()) {
                    wrong.push(format!("{names}: grown by {grown} and not {by}"));
                }
            }
            if under_test().is_cgview() {
                wrong.extend(now.differences());
            }
            if wrong.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{wrong:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What differs from the cgroup's own files.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let cgroup = self.container.cgroup();
        let (stat, used) = (truth::memory_stat(cgroup), truth::memory_used(cgroup));
        let mut differences = Vec::new();
        let mut judge = |line: &str, truth: u64| {
            let seen = self.sum(line);
            if self.lines.contains_key(line) && seen.abs_diff(truth) as u128 > allowed(truth.into())
            {
                differences.push(format!("{line}: {seen} and not {truth}"));
            }
        };
        for (line, v2, v1) in FIELDS {
            if let Some(&value) = stat.get(v2).or_else(|| stat.get(v1)) {
                judge(line, value);
            }
        }
        judge("MemFree", self.sum("MemTotal").saturating_sub(used));
        differences
    }
}

/// Changes a number of the container's on each CPU, and changes it back.
///
/// The kernel may leave a change out of `memory.stat` until there is another one on the same CPU: "Speculative
/// already-on-list test. This may race leading to temporary inaccuracies, which is fine." (`kernel/cgroup/rstat.c`)
fn stir(container: &Container) {
    for cpu in truth::online() {
        let stirs = container.enter().run(move || {
            let mut cpus = CpuSet::new();
            cpus.set(usize::try_from(cpu).unwrap());
            // Not every CPU is the container's.
            if sched_setaffinity(None, &cpus).is_ok() {
                drop(Mapping::anonymous(MIB / 4));
            }
            0
        });
        assert_eq!(stirs.wait(), 0);
    }
}

fn allowed(truth: u128) -> u128 {
    (truth / u128::from(PARTS)).max(u128::from(MIB))
}
