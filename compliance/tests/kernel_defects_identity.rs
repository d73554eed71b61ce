//! Defects of LXCFS in who is asking, and in the age of a container, and what is right.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs};

use cgview_compliance::{
    Container, Defect, Difference, Hold, MIB, Options, eventually, mount_proc, start, text, truth,
};
use cgview_testkit::{Namespaces, Spawn, pause, skip};

fn meminfo(container: &Container) -> BTreeMap<String, u64> {
    text::numbers(&container.read("/proc/meminfo"))
}

/// The first number of `/proc/uptime`, whatever it is.
fn uptime(container: &Container) -> f64 {
    let text = container.read("/proc/uptime");
    text.split_whitespace().next().unwrap().parse().unwrap()
}

// host
// └─ container   <- reads; its init calls itself "my) init"
//
// proc_pid_stat(5): "(2) comm  %s: The filename of the executable, in parentheses", whatever it contains.
#[test]
fn w09_a_name_does_not_change_the_age() {
    let Some((tree, server)) = start(&[], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    let spawn = Spawn::new().cgroup(&cgroup).container();
    let container = Container::prepared(&server, &cgroup, spawn, || {
        rustix::thread::set_name(c"my) init").unwrap();
    });
    let stat = fs::read_to_string(format!("/proc/{}/stat", container.init().pid())).unwrap();
    assert!(stat.contains("(my) init)"), "{stat}");
    let age = uptime(&container);
    Defect::new("W9").judge(
        &format!("uptime {age} s of a container that has just started"),
        (0.0..60.0).contains(&age),
        !(0.0..1e9).contains(&age),
    );
}

// host
// └─ pod
//    ├─ pause            the first process of the pid namespace
//    └─ app (300 MiB)    <- reads, in the same pid namespace
//
// Kubernetes' shareProcessNamespace: a container is its cgroup, whoever began the pid namespace.
#[test]
fn w12_a_shared_pid_namespace_is_not_a_container() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let (first, cgroup) = (tree.cgroup("pod/pause"), tree.cgroup("pod/app"));
    cgroup.limit_memory(300 * MIB);
    let pod = Spawn::new().cgroup(&first).container().run(pause);
    let spawn = Spawn::new()
        .cgroup(&cgroup)
        .join(&pod, &["pid"])
        .new_namespaces(Namespaces::NEWNS | Namespaces::NEWCGROUP);
    let app = Container::prepared(&server, &cgroup, spawn, mount_proc);
    let total = meminfo(&app)["MemTotal"];
    let host = text::numbers(&fs::read_to_string("/proc/meminfo").unwrap())["MemTotal"];
    Defect::new("W12").judge(
        &format!("MemTotal {total} kB, limit 307200 kB, the host's {host} kB"),
        total == 300 * 1024,
        total == host,
    );
}

// host
// └─ container (400 MiB)
//    ├─ init   <- reads
//    └─ app    100 MiB of memory
//
// docker-in-docker moves its init to /init, so that it may have controllers below: the container is what
// has the limit, and all that is in it.
#[test]
fn w13_the_cgroup_of_the_init_is_not_the_container() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(400 * MIB);
    let container = Container::start(&server, &cgroup);
    // In this order, or v2's rule of no internal processes is in the way.
    let init = tree.bare_cgroup("container/init");
    init.add(container.init().pid());
    let app = tree.cgroup("container/app");
    let _memory = Hold::Anonymous.start(container.enter_at(&app), 100 * MIB);
    eventually("the memory is there", || truth::memory_used(&app) >= 100 * MIB);
    let (seen, used) = (meminfo(&container), truth::memory_used(&cgroup));
    let (total, free) = (seen["MemTotal"], seen["MemFree"]);
    let left = (400 * MIB - used) / 1024;
    assert_eq!(total, 400 * 1024);
    Defect::new("W13").judge(
        &format!("MemFree {free} kB of {total} kB, truth {left} kB"),
        free.abs_diff(left) < 2048,
        free > left + 90 * 1024,
    );
}

// host
// └─ container   <- ps, in a time namespace of its own, 100000 s ahead
//
// time_namespaces(7): the kernel shifts /proc/uptime and the start times of processes alike.
#[test]
fn w22_ps_is_right_in_a_time_namespace() {
    let Some((tree, server)) = start(&[], &Options::new()) else { return };
    if !fs::exists("/proc/self/ns/time").unwrap() {
        return skip("needs time namespaces");
    }
    let cgroup = tree.cgroup("container");
    let spawn = Spawn::new().cgroup(&cgroup).container().boottime_offset(100_000);
    let container = Container::with(&server, &cgroup, spawn);
    let output = container.try_run("ps -o etimes= -p 1");
    if output.status == 127 {
        return skip("needs ps");
    }
    let elapsed = output.text.trim().parse::<i64>().unwrap_or(-1);
    let age = uptime(&container);
    Defect::new("W22").judge(
        &format!("ps: 1 runs for {:?} s; uptime {age} s", output.text.trim()),
        (0..60).contains(&elapsed) && age > 100_000.0,
        !(0..60).contains(&elapsed),
    );
}

// host
// └─ container   <- ps
//
// Without a time namespace, either uptime or start times are the container's. `uptime = "host"` chooses.
#[test]
fn w22_ps_is_right_where_uptime_is_the_hosts() {
    let options = Options::new().cgview(&["--uptime", "host"]);
    let Some((tree, server)) = start(&[], &options) else { return };
    let container = Container::start(&server, &tree.cgroup("container"));
    let output = container.try_run("ps -o etimes= -p 1");
    if output.status == 127 {
        return skip("needs ps");
    }
    let elapsed = output.text.trim().parse::<i64>().unwrap_or(-1);
    let since_boot = fs::read_to_string("/proc/uptime").unwrap();
    let since_boot: f64 = since_boot.split(' ').next().unwrap().parse().unwrap();
    let age = uptime(&container);
    Defect::new("W22").judge(
        &format!(
            "ps: 1 runs for {:?} s; uptime {age} s, the host's {since_boot} s",
            output.text.trim()
        ),
        (0..60).contains(&elapsed) && (since_boot - age).abs() < 60.0,
        // A machine that has just started is as young as its containers.
        !(0..60).contains(&elapsed) || since_boot < 120.0,
    );
    let lines = container.read("/proc/stat");
    let host = fs::read_to_string("/proc/stat").unwrap();
    let btime = |text: &str| text.lines().find(|line| line.starts_with("btime")).map(str::to_owned);
    assert_eq!(btime(&lines), btime(&host));
}

// host
// └─ container   <- reads
//
// proc_stat(5): "btime: boot time". Start times in /proc/PID/stat count from it, and the kernel shifts them
// in a time namespace alone.
#[test]
fn w22_the_age_is_that_of_the_init() {
    let Some((tree, server)) = start(&[], &Options::new()) else { return };
    let container = Container::start(&server, &tree.cgroup("container"));
    let age = uptime(&container);
    assert!((0.0..60.0).contains(&age), "{age}");
    let btime = |text: &str| text::Stat::new(text).others["btime"];
    let (seen, host) =
        (btime(&container.read("/proc/stat")), btime(&fs::read_to_string("/proc/stat").unwrap()));
    assert!(seen.abs_diff(host) <= 1, "{seen} {host}");
}

// host   <- reads: not in a container, but in a limited cgroup
// └─ slice (300 MiB)
//
// A shell of a limited systemd slice, and `--pid=host`: the cgroup of who reads.
#[test]
fn w12_a_process_of_the_host_is_in_its_own_cgroup() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let cgroup = tree.cgroup("slice");
    cgroup.limit_memory(300 * MIB);
    let script = format!("cat {}", server.path("proc/meminfo").display());
    let output = cgview_compliance::run(Spawn::new().cgroup(&cgroup), &script);
    let total = text::numbers(&output.text)["MemTotal"];
    Difference { lxcfs: "the same", cgview: "the reader's own cgroup" }.judge(
        &format!("MemTotal {total} kB"),
        total == 300 * 1024,
        total == 300 * 1024,
    );
}

// host
// └─ container (boot clock 100000 s ahead)   <- reads
//
// time_namespaces(7): "This affects various APIs that measure against these clocks, including: [...]
// /proc/uptime."
#[test]
fn w22_a_time_namespace_is_seen() {
    let Some((tree, server)) = start(&[], &Options::new()) else { return };
    if !fs::exists("/proc/self/ns/time").unwrap() {
        return skip("needs time namespaces");
    }
    let cgroup = tree.cgroup("container");
    let spawn = Spawn::new().cgroup(&cgroup).container().boottime_offset(100_000);
    let container = Container::with(&server, &cgroup, spawn);
    let age = uptime(&container);
    Defect::new("W22").judge(
        &format!("uptime {age} s, boot clock at least 100000 s"),
        age >= 100_000.0,
        age < 100_000.0,
    );
}
