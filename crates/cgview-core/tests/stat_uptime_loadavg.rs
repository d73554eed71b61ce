//! `/proc/stat`, `/proc/uptime` and `/proc/loadavg`, text for text: sections 5, 6 and 7 of
//! `docs/semantics.md`.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cpu_container;

use std::sync::Arc;

use cgview_core::{
    File, HostFacts, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    explain,
    loadavg::LoadAverage,
    parse::TimensOffsets,
    policy::UptimePolicy,
    snapshot::{Cgroup, CpuLevel, CpuTime, CpuUsage, Tasks, Version},
    tree::ProcFile,
};
use cpu_container::HOST_STAT;

const UPTIME: &[u8] = b"1604.33 2853.54\n";
const LOADAVG: &[u8] = b"0.11 0.37 0.25 1/102 14584\n";

struct Situation {
    snapshot: Snapshot,
    now: Usec,
    policy: Policy,
    offset: i64,
    load: Option<LoadAverage>,
}

impl Situation {
    /// 1.5 CPUs of two, for 100 seconds, of which 30 and 12 were used.
    fn limited() -> Situation {
        let cgroup = Arc::new(Cgroup { path: "/app".into(), version: Version::V2 });
        let total = CpuTime { user: Usec(30_000_000), nice: Usec::ZERO, system: Usec(12_000_000) };
        let (quota, period) = (Limit::At(Usec(150_000)), Usec(100_000));
        let snapshot = Snapshot {
            taken: Usec(1_604_330_000),
            started: Some(Usec(1_504_330_000)),
            cpu: vec![CpuLevel { cgroup: cgroup.clone(), quota, period }],
            cpu_usage: Some(CpuUsage { cgroup, total, per_cpu: Vec::new(), throttled: Usec::ZERO }),
            tasks: Some(Tasks { running: 2, blocked: 1, total: 7, last_pid: 42 }),
            ..Snapshot::default()
        };
        Situation { snapshot, now: Usec::ZERO, policy: Policy::default(), offset: 0, load: None }
    }

    /// A container in the root of the hierarchy.
    fn unlimited() -> Situation {
        let mut situation = Situation::limited();
        situation.snapshot.cpu.clear();
        let root = Arc::new(Cgroup { path: "/".into(), version: Version::V2 });
        situation.snapshot.cpu_usage.as_mut().unwrap().cgroup = root;
        situation
    }

    fn render(&self, file: ProcFile, host: &[u8]) -> String {
        self.explain(file, host).0
    }

    /// The text, and the reasons for what is in it.
    fn explain(&self, file: ProcFile, host: &[u8]) -> (String, String) {
        self.with_view(|view| {
            let mut text = Vec::new();
            let explanation = view.explain(File::Proc(file), host, &mut text).unwrap();
            let reasons = explain::join(explanation.within(0..text.len()), &self.snapshot);
            (String::from_utf8(text).unwrap(), reasons)
        })
    }

    fn with_view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let facts = HostFacts { online: Mask::first(2), ..HostFacts::default() };
        let cpus = CpuLimits::of(&self.snapshot, &facts, &self.policy);
        let mut cpu_view = CpuView::default();
        let started = self.snapshot.started.unwrap_or(Usec::ZERO);
        let usage = self.snapshot.cpu_usage.as_ref();
        cpu_view.step(self.snapshot.taken, started, &cpus, usage, self.policy.steal);
        let view = View {
            snapshot: &self.snapshot,
            now: self.now,
            host: &facts,
            policy: &self.policy,
            cpus: &cpus,
            cpu_view: &cpu_view,
            load: self.load.as_ref(),
            reader: Reader { timens: TimensOffsets { boottime: self.offset } },
        };
        look(&view)
    }
}

#[test]
fn stat_has_the_containers_times_in_the_hosts_lines() {
    let (text, reasons) = Situation::limited().explain(ProcFile::Stat, HOST_STAT);
    assert_eq!(
        text,
        "cpu  3000 0 1200 10800 0 0 0 0 0 0\n\
         cpu0 2000 0 800 7200 0 0 0 0 0 0\n\
         cpu1 1000 0 400 3600 0 0 0 0 0 0\n\
         intr 0 0 0 0 0\n\
         ctxt 0\n\
         btime 1795401513\n\
         processes 42\n\
         procs_running 2\n\
         procs_blocked 1\n\
         softirq 0 0 0\n"
    );
    for reason in [
        "cpu.stat of /app: time used, within the entitlement",
        "cpu.max of /app: time entitled to and not used",
        "not known of a container: the kernel does not count it by cgroup",
        "host /proc/stat: start times in /proc/PID/stat count from it",
        "tasks of the container: pids handed out so far",
    ] {
        assert!(reasons.contains(reason), "{reason} in {reasons}");
    }
}

#[test]
fn stat_has_this_kernels_columns_and_lines() {
    let host = b"cpu 1 2 3 4\ncpu0 1 2 3 4\npage 5741 1808\ndisk_io: (3,0):(10,5)\nnew 1 x2 3";
    assert_eq!(
        Situation::limited().render(ProcFile::Stat, host),
        "cpu  3000 0 1200 10800\ncpu0 2000 0 800 7200\ncpu1 1000 0 400 3600\n\
         page 0 0\ndisk_io: (0,0):(0,0)\nnew 0 x0 0"
    );
    assert_eq!(
        Situation::limited().render(ProcFile::Stat, b"cpu 1"),
        "cpu  3000\ncpu0 2000\ncpu1 1000"
    );
    assert_eq!(Situation::limited().render(ProcFile::Stat, b""), "");
}

#[test]
fn tasks_that_are_not_counted_are_not_the_hosts() {
    let mut situation = Situation::limited();
    situation.snapshot.tasks = None;
    let text = situation.render(ProcFile::Stat, b"processes 14584\nprocs_running 3\n");
    assert_eq!(text, "processes 0\nprocs_running 1\n");
    situation.snapshot.tasks = Some(Tasks { running: 0, blocked: 0, total: 7, last_pid: 0 });
    let text = situation.render(ProcFile::Stat, b"processes 14584\nprocs_running 3\n");
    assert_eq!(text, "processes 7\nprocs_running 1\n");
}

#[test]
fn processes_are_a_counter() {
    let mut view = CpuView::default();
    let tasks = |total, last_pid| Tasks { running: 0, blocked: 0, total, last_pid };
    let seen =
        [(tasks(7, 42), true), (tasks(6, 41), false), (tasks(9, 0), false), (tasks(2, 50), true)];
    for (tasks, is_more) in seen {
        assert_eq!(view.count_forks(&tasks), is_more, "{tasks:?}");
    }
    assert_eq!(view.forks(), 50);
}

#[test]
fn without_an_account_of_the_time_used_all_is_idle() {
    let mut situation = Situation::limited();
    situation.snapshot.cpu_usage = None;
    let text = situation.render(ProcFile::Stat, b"cpu 1 2 3 4 5\n");
    assert_eq!(text, "cpu  0 0 0 15000 0\ncpu0 0 0 0 10000 0\ncpu1 0 0 0 5000 0\n");
}

#[test]
fn uptime_is_the_containers_age_and_the_idle_time_of_all_its_cpus() {
    let (text, reasons) = Situation::limited().explain(ProcFile::Uptime, UPTIME);
    assert_eq!(text, "100.00 108.00\n");
    assert_eq!(
        reasons,
        "start of the container's init: time since then; cpu view: idle time of all visible CPUs"
    );
}

/// An ordinary process of the host in a cgroup with limits: it is as old as the host.
#[test]
fn without_an_init_of_its_own_the_age_is_the_hosts() {
    let mut situation = Situation::limited();
    situation.snapshot.started = None;
    // 1.5 CPUs for 1604.33 s, less 42 s.
    assert_eq!(situation.render(ProcFile::Uptime, UPTIME), "1604.33 2364.49\n");
}

#[test]
fn by_policy_the_age_is_the_hosts_and_the_idle_time_is_not() {
    let mut situation = Situation::limited();
    situation.policy.uptime = UptimePolicy::Host;
    assert_eq!(situation.render(ProcFile::Uptime, UPTIME), "1604.33 108.00\n");
}

#[test]
fn uptime_tells_when_it_is_read_and_idle_time_when_the_snapshot_was_taken() {
    let host = b"1604.34 3000.00\n";
    let mut situation = Situation::limited();
    let at_once = situation.render(ProcFile::Uptime, host);
    let (up, idle) = at_once.split_once(' ').unwrap();
    situation.now = situation.snapshot.taken.saturating_add(Usec(1_250_000));
    let up = up.parse::<f64>().unwrap() + 1.25;
    assert_eq!(situation.render(ProcFile::Uptime, host), format!("{up:.2} {idle}"));
    // It is the same text until it is said to be another one.
    for offset in [0, 1_500_000, -7] {
        for part in [0, 1, 4999, 9999] {
            situation.offset = offset;
            situation.now = situation.snapshot.taken.saturating_add(Usec(part));
            let text = situation.render(ProcFile::Uptime, host);
            let next = situation.with_view(|view| view.next_tick());
            assert!(next > situation.now);
            situation.now = next.saturating_sub(Usec(1));
            assert_eq!(situation.render(ProcFile::Uptime, host), text);
            situation.now = next;
            assert_ne!(situation.render(ProcFile::Uptime, host), text);
        }
    }
    situation.offset = 0;
    // No clock is behind what was seen.
    situation.now = situation.snapshot.taken.saturating_sub(Usec(1_250_000));
    assert_eq!(situation.render(ProcFile::Uptime, host), at_once);
}

/// W22: in a time namespace the kernel shifts start times, and uptime and btime go with them.
#[test]
fn in_a_time_namespace_the_kernels_clock_holds() {
    let mut situation = Situation::limited();
    situation.offset = -1_504_000_000;
    assert_eq!(situation.render(ProcFile::Uptime, UPTIME), "100.33 108.00\n");
    assert_eq!(situation.render(ProcFile::Stat, b"btime 1795401513\n"), "btime 1795403017\n");
    situation.offset = 1_500_000;
    assert_eq!(situation.render(ProcFile::Uptime, UPTIME), "1605.83 108.00\n");
    assert_eq!(situation.render(ProcFile::Stat, b"btime 1795401513\n"), "btime 1795401511\n");
    situation.offset = i64::MIN;
    assert_eq!(situation.render(ProcFile::Uptime, UPTIME), "0.00 108.00\n");
}

#[test]
fn the_root_of_the_hierarchy_has_the_hosts_text() {
    let mut situation = Situation::unlimited();
    for (file, host) in [(ProcFile::Stat, HOST_STAT), (ProcFile::Uptime, UPTIME)] {
        assert_eq!(situation.render(file, host).as_bytes(), host);
        assert_eq!(situation.render(file, b"any \xc3\xa9\n"), "any \u{e9}\n");
    }
    // A reader in a time namespace sees the host as the kernel shows it there.
    situation.offset = -1_000_000_000;
    assert_eq!(situation.render(ProcFile::Uptime, UPTIME), "604.33 2853.54\n");
    let stat = situation.render(ProcFile::Stat, HOST_STAT);
    let host = String::from_utf8_lossy(HOST_STAT);
    assert_eq!(stat, host.replace("btime 1795401513", "btime 1795402513"));
}

#[test]
fn loadavg_has_the_containers_load_and_tasks() {
    let mut situation = Situation::limited();
    situation.load = Some(LoadAverage::seeded(Usec::ZERO, [200, 7, 1234]));
    let (text, reasons) = situation.explain(ProcFile::Loadavg, LOADAVG);
    assert_eq!(text, "2.00 0.07 12.34 2/7 42\n");
    assert!(reasons.contains("load of the container: tasks in R and D, averaged"), "{reasons}");
}

#[test]
fn a_container_without_a_load_of_its_own_has_the_hosts() {
    let mut situation = Situation::limited();
    assert_eq!(situation.render(ProcFile::Loadavg, LOADAVG).as_bytes(), LOADAVG);
    situation.load = Some(LoadAverage::default());
    situation.policy.loadavg = false;
    let (text, reasons) = situation.explain(ProcFile::Loadavg, LOADAVG);
    assert_eq!(text.as_bytes(), LOADAVG);
    assert_eq!(reasons, "host /proc/loadavg: the container has no load of its own");
}
