//! What the kernel itself says of a cgroup.

use std::{collections::BTreeMap, fs, time::Duration};

use cgview_testkit::Cgroup;

use crate::text::numbers;

/// Bytes that are charged to it and below: `memory.current`, or `memory.usage_in_bytes`.
#[must_use]
pub fn memory_used(cgroup: &Cgroup) -> u64 {
    cgroup.read("memory", "memory.usage_in_bytes", "memory.current").trim().parse().unwrap()
}

/// `memory.stat`; of v1 the `total_` lines without that prefix, since those are what v2 has.
#[must_use]
pub fn memory_stat(cgroup: &Cgroup) -> BTreeMap<String, u64> {
    let all = numbers(&cgroup.read("memory", "memory.stat", "memory.stat"));
    let total: BTreeMap<_, _> = all
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("total_")?.to_owned(), *value)))
        .collect();
    if total.is_empty() { all } else { total }
}

/// CPU time that it and all below used: `usage_usec` of `cpu.stat`, or `cpuacct.usage`.
#[must_use]
pub fn cpu_used(cgroup: &Cgroup) -> Duration {
    let v1 = cgroup.dir("cpuacct").join("cpuacct.usage");
    match fs::read_to_string(v1) {
        Ok(text) => Duration::from_nanos(text.trim().parse().unwrap()),
        Err(_) => {
            let text = fs::read_to_string(cgroup.dir("cpu").join("cpu.stat")).unwrap();
            Duration::from_micros(numbers(&text).get("usage_usec").copied().unwrap())
        }
    }
}

/// The boot clock, `CLOCK_BOOTTIME`.
#[must_use]
pub fn boottime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

/// How long a process has been there, by field 22 of its `stat` (proc_pid_stat(5)), which is on the boot clock.
#[must_use]
pub fn age(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let started: u64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
    let hertz = rustix::param::clock_ticks_per_second();
    boottime().saturating_sub(Duration::from_millis(started * 1000 / hertz))
}

/// The CPUs of the host that are online.
#[must_use]
pub fn online() -> Vec<u32> {
    crate::text::list(&fs::read_to_string("/sys/devices/system/cpu/online").unwrap())
}
