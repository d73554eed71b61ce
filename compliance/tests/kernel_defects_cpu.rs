//! Defects of LXCFS in CPUs and their time, and what is right.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use cgview_compliance::{
    Container, Defect, Difference, Options, eventually, start,
    text::{self, Stat},
    truth,
};
use cgview_testkit::{Spawn, skip};

fn stat(container: &Container) -> Stat {
    Stat::new(&container.read("/proc/stat"))
}

/// CPUs of this machine that are online.
fn cpus() -> Vec<u32> {
    text::list(&fs::read_to_string("/sys/devices/system/cpu/online").unwrap())
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap() / 10
}

// host
// ├─ neighbour   burns a second of CPU time
// └─ container   <- reads, and else does nothing
//
// proc_stat(5): "The amount of time [...] that the system [...] spent in various states": the system is
// the container.
#[test]
fn w08_stat_is_the_work_of_the_container() {
    let Some((tree, server)) = start(&["cpu", "cpuset"], &Options::new()) else { return };
    let (neighbour, cgroup) = (tree.cgroup("neighbour"), tree.cgroup("container"));
    let container = Container::start(&server, &cgroup);
    // It starts at its own pace; and to look takes a process in it, whose time is counted too.
    let own = truth::cpu_used(&cgroup);
    let before = stat(&container);
    let busy = Spawn::new().cgroup(&neighbour).run(|| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            std::hint::spin_loop();
        }
        0
    });
    assert_eq!(busy.wait(), 0);
    let burnt = ticks(truth::cpu_used(&neighbour));
    let after = stat(&container);
    let seen = text::busy(&after.total) - text::busy(&before.total);
    let own = ticks(truth::cpu_used(&cgroup) - own);
    let text = format!("{seen} busy ticks, {own} of the container, {burnt} of the neighbour");
    if tree.is_v1("cpuacct") {
        assert!(seen <= own + 5, "{text}");
    } else {
        Defect::new("W8").judge(&text, seen <= own + 5, seen * 10 >= burnt * 8);
    }
}

// host (CPUs 0-1)
// └─ parent (CPU 0)
//    └─ container (CPUs 0-1 requested, 0 effective)   <- reads
//
// cgroup-v2.rst: "cpuset.cpus.effective: It lists the onlined CPUs that are actually granted to this
// cgroup by its parent."
#[test]
fn w10_only_effective_cpus_count() {
    let Some((tree, server)) = start(&["cpuset", "cpu"], &Options::new()) else { return };
    if tree.is_v1("cpuset") {
        return skip("cgroup v1 lets nobody ask for more than the parent has");
    }
    if cpus().len() < 2 {
        return skip("needs two CPUs");
    }
    let parent = tree.cgroup("parent");
    let cgroup = tree.cgroup("parent/container");
    parent.limit_cpus("0");
    cgroup.limit_cpus("0-1");
    assert_eq!(cgroup.read("cpuset", "", "cpuset.cpus.effective"), "0\n");
    let container = Container::start(&server, &cgroup);
    let online = container.read("/sys/devices/system/cpu/online");
    let processors = text::processors(&container.read("/proc/cpuinfo")).len();
    let lines = stat(&container).cpus.len();
    Defect::new("W10").judge(
        &format!("online {online:?}, {processors} processors, {lines} lines of stat, effective 0"),
        online == "0\n" && processors == 1 && lines == 1,
        online == "0-1\n" && processors == 2 && lines == 2,
    );
}

// host
// └─ container (CPUs 0-1)   <- burns on both
//
// proc_uptime(5): "the amount of time spent in the idle process": the sum over all CPUs.
#[test]
fn w18_idle_time_is_capacity_less_usage() {
    let Some((tree, server)) = start(&["cpu", "cpuset"], &Options::new()) else { return };
    if cpus().len() < 2 {
        return skip("needs two CPUs");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpus("0-1");
    let container = Container::start(&server, &cgroup);
    let tasks: Vec<_> = (0..2).map(|_| container.burn()).collect();
    eventually("the tasks have burnt", || truth::cpu_used(&cgroup) > Duration::from_millis(700));
    drop(tasks);
    // An idle time that is the age, or that less the usage, is told from the right one.
    thread::sleep(Duration::from_millis(1500));
    let used = truth::cpu_used(&cgroup).as_secs_f64();
    let (age, idle) = text::uptime(&container.read("/proc/uptime"));
    let (age, idle) = (age.as_secs_f64(), idle.as_secs_f64());
    let right = 2.0 * age - used;
    Defect::new("W18").judge(
        &format!("uptime {age:.2} idle {idle:.2}, used {used:.2}, truth {right:.2}"),
        (idle - right).abs() < 0.25,
        // The age less the usage, or the age.
        (idle - right).abs() > 0.5
            && ((idle - age).abs() < 0.02 || (idle - (age - used)).abs() < 0.25),
    );
}

// host
// └─ container
//    └─ 1/2/3/4/5   three tasks
//
// proc_loadavg(5): "the number of currently runnable kernel scheduling entities" and of those "that
// currently exist": at whatever depth.
#[test]
fn w23_tasks_at_any_depth_count() {
    let Some((tree, server)) = start(&["cpu"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    let container = Container::start(&server, &cgroup);
    let deep = tree.bare_cgroup("container/1/2/3/4/5");
    // The init of a container is not in the way of cgroup v2's rule: there is no controller below.
    let start = || container.enter_at(&deep).run(cgview_testkit::pause);
    let _tasks = [start(), start(), start()];
    let read = || text::Loadavg::new(&container.read("/proc/loadavg"));
    let first = read();
    if let Some(version) = cgview_compliance::under_test().lxcfs() {
        // It looks every five seconds at those who have asked; before, it makes up "0/1".
        eventually("the tasks were counted", || version < (6, 0, 0) || read().last_pid > 0);
        thread::sleep(Duration::from_secs(6));
    }
    let seen = read();
    Defect::new("W23").judge(
        &format!("{} tasks of 4, at first {}", seen.total, first.total),
        seen.total == 4 && first.total == 4,
        seen.total == 1,
    );
}

// host
// └─ container   <- reads
//
// proc_loadavg(5): "the PID of the process that was most recently created on the system".
#[test]
fn w23_the_last_pid_is_one_of_the_container() {
    let Some((tree, server)) = start(&["cpu"], &Options::new()) else { return };
    let container = Container::start(&server, &tree.cgroup("container"));
    assert_eq!(container.run("echo $$").trim().parse::<u32>().ok(), Some(2));
    let seen = text::Loadavg::new(&container.read("/proc/loadavg")).last_pid;
    let init = u64::from(container.init().pid());
    Defect::new("W23").judge(
        &format!("last pid {seen}, truth 2, the host's {init}"),
        seen == 2 || seen == 1,
        seen >= init,
    );
}

// host
// └─ container (CPU 0, half of it)   <- burns all that it may
//
// Law 3: counters never go backwards.
#[test]
fn w24_idle_time_never_goes_backwards() {
    let Some((tree, server)) = start(&["cpu", "cpuset"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpus("0").limit_cpu(50_000);
    let container = Container::start(&server, &cgroup);
    let _busy = container.burn();
    let end = Instant::now() + Duration::from_millis(if tree.is_v1("cpu") { 3500 } else { 1000 });
    let mut reads = vec![stat(&container)];
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
        reads.push(stat(&container));
    }
    for pair in reads.windows(2) {
        let grows = pair[1].total.iter().zip(&pair[0].total).all(|(after, before)| after >= before);
        assert!(grows || cgview_compliance::under_test().lxcfs().is_some(), "{pair:?}");
    }
    let idle: Vec<u64> = reads.iter().map(|stat| stat.total[3]).collect();
    let backwards = idle.windows(2).filter(|pair| pair[1] < pair[0]).count();
    let zeros = reads[0].total.iter().all(|&ticks| ticks == 0);
    let seen = format!(
        "idle {} .. {}, {backwards} of {} steps go backwards; first read all zeros: {zeros}",
        idle[0],
        idle[idle.len() - 1],
        idle.len() - 1
    );
    // It counts the host's time on v2, which is W8; 7.0 knows nothing else.
    let is_v1 = tree.is_v1("cpuacct");
    if is_v1 || cgview_compliance::under_test().is_cgview() {
        Defect::new("W24").judge(&seen, backwards == 0 && !zeros, backwards > 0 || zeros);
    } else {
        skip("has no CPU times of containers on cgroup v2: W8");
    }
}

// host (CPUs 0-1)
// └─ container (CPU 1)   <- reads
//
// Law 4: one numbering, in all files.
#[test]
fn w25_all_files_number_the_cpus_alike() {
    let Some((tree, server)) = start(&["cpuset", "cpu"], &Options::new().lxcfs(&["-l"])) else {
        return;
    };
    if cpus().len() < 2 {
        return skip("needs two CPUs");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpus("1");
    let container = Container::start(&server, &cgroup);
    let list = |name: &str| text::list(&container.read(&format!("/sys/devices/system/cpu/{name}")));
    let (online, possible, present) = (list("online"), list("possible"), list("present"));
    let processors = text::processors(&container.read("/proc/cpuinfo"));
    let lines: Vec<u32> = stat(&container).cpus.into_keys().collect();
    let names = container.run("ls /sys/devices/system/cpu");
    let mut dirs: Vec<u32> =
        names.lines().filter_map(|name| name.strip_prefix("cpu")?.parse().ok()).collect();
    dirs.sort_unstable();
    let seen = format!(
        "cpuinfo {processors:?}, stat {lines:?}, online {online:?}, possible {possible:?}, \
         present {present:?}, directories {dirs:?}"
    );
    let all = [&processors, &lines, &online, &possible, &present, &dirs];
    Defect::new("W25").judge(
        &seen,
        all.iter().all(|numbers| **numbers == [0]),
        processors == [0] && lines == [1] && online == [1] && possible.len() > 1,
    );
}

// host (CPUs 0-1)
// └─ parent (one CPU)
//    └─ container   <- reads
//
// cgroup-v2.rst: "cpu.max: The maximum bandwidth limit" of the cgroup and all below.
#[test]
fn w30_the_quota_of_an_ancestor_counts() {
    let Some((tree, server)) = start(&["cpu", "cpuset"], &Options::new()) else { return };
    if cpus().len() < 2 {
        return skip("needs two CPUs");
    }
    let parent = tree.cgroup("parent");
    let cgroup = tree.cgroup("parent/container");
    parent.limit_cpu(100_000);
    let container = Container::start(&server, &cgroup);
    let seen = text::processors(&container.read("/proc/cpuinfo")).len();
    Defect::of("W30", |version| version < (7, 0, 0)).judge(
        &format!("{seen} processors, the quota is one CPU of {}", cpus().len()),
        seen == 1,
        seen == cpus().len(),
    );
}

// host (CPUs 0-1)
// └─ container (one CPU)   <- reads
//
// cgroup-v2.rst, "cpu.max: [...] $MAX $PERIOD which indicates that the group may consume up to $MAX in each
// $PERIOD duration": who may use one CPU has one.
#[test]
fn w30_quotas_count_by_default() {
    let options = Options::new().lxcfs(&["-l"]);
    let Some((tree, server)) = start(&["cpu", "cpuset"], &options) else { return };
    if cpus().len() < 2 {
        return skip("needs two CPUs");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpu(100_000);
    let container = Container::start(&server, &cgroup);
    let seen = text::processors(&container.read("/proc/cpuinfo")).len();
    Difference {
        lxcfs: "quotas count with --enable-cfs",
        cgview: "quotas count, but with --cpu-view cpuset",
    }
    .judge(
        &format!("{seen} processors, the quota is one CPU"),
        seen == 1,
        seen == cpus().len(),
    );
}

// host (CPUs 0-1)
// └─ container (a CPU and a half)   <- reads
//
// Section 5 of the semantics: capacity advances with what the quota entitles to.
#[test]
fn w30_capacity_is_what_the_quota_gives() {
    let Some((tree, server)) = start(&["cpu", "cpuset"], &Options::new()) else { return };
    if cpus().len() < 2 {
        return skip("needs two CPUs");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpu(150_000);
    let container = Container::start(&server, &cgroup);
    let age = || text::uptime(&container.read("/proc/uptime")).0.as_secs_f64();
    // A read may take its time where CPUs are emulated, so the age is taken before and after.
    let read = || (age(), stat(&container).total.iter().sum::<u64>(), age());
    let before = read();
    thread::sleep(Duration::from_secs(2));
    let after = read();
    let grown = after.1.saturating_sub(before.1) as f64 / 100.0;
    let (most, least) = (grown / (after.0 - before.2), grown / (after.2 - before.0));
    let seen = format!("{least:.2} to {most:.2} CPUs of capacity in stat, the quota is 1.50");
    // 1.5, or near enough.
    let is_within = |off: f64| least < 1.5 + off && most > 1.5 - off;
    if tree.is_v1("cpuacct") {
        assert!(is_within(0.15), "{seen}");
    } else {
        Defect::new("W30").judge(&seen, is_within(0.1), !is_within(0.1));
    }
}
