//! Defects of LXCFS in block I/O, pressure and counts of the system, and what is right.

use std::fs;

use cgview_compliance::{Container, Defect, Options, start, text};
use cgview_testkit::skip;

// host, which has used its disks
// └─ container   <- reads, and has done no I/O
//
// Documentation/admin-guide/iostats.rst: what each disk did; for the container, what it did for it.
#[test]
fn w19_diskstats_are_those_of_the_container() {
    let Some((tree, server)) = start(&["io"], &Options::new()) else { return };
    let sum = |text: &str| -> u64 {
        text::disks(text).into_values().map(|(_, columns)| columns.iter().sum::<u64>()).sum()
    };
    let host = sum(&fs::read_to_string("/proc/diskstats").unwrap());
    if host == 0 {
        return skip("needs a disk that was used");
    }
    let container = Container::start(&server, &tree.cgroup("container"));
    let seen = sum(&container.read("/proc/diskstats"));
    Defect::new("W19").judge(
        &format!("the columns add up to {seen}, truth 0, the host's {host}"),
        seen == 0,
        seen >= host,
    );
}

// host
// └─ container   <- reads; no pressure
//
// Documentation/accounting/psi.rst, "Cgroup2 interface": each cgroup has an io.pressure "for tasks grouped
// into cgroups".
#[test]
fn w19_io_pressure_is_that_of_the_container() {
    let Some((tree, server)) = start(&["unified"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    let file = cgroup.dir("unified").join("io.pressure");
    if !file.exists() {
        return skip("the kernel has no pressure of cgroups");
    }
    let container = Container::start(&server, &cgroup);
    let total = |text: &str| text::pressure(text)["some"];
    let host = total(&fs::read_to_string("/proc/pressure/io").unwrap());
    let seen = total(&container.read("/proc/pressure/io"));
    let truth = total(&fs::read_to_string(file).unwrap());
    let text = format!("some total={seen}, truth {truth}, the host's {host}");
    if host < 10_000 {
        assert!(seen <= truth || !cgview_compliance::under_test().is_cgview(), "{text}");
        return skip("the machine had no I/O pressure yet");
    }
    Defect::new("W19").judge(&text, seen <= truth, seen >= host);
}

// host
// └─ container   <- reads
//
// Section 5 of the semantics: ctxt, intr and processes are never the host's.
#[test]
fn w32_counts_of_the_system_are_not_the_hosts() {
    let Some((tree, server)) = start(&[], &Options::new()) else { return };
    let container = Container::start(&server, &tree.cgroup("container"));
    let host = text::Stat::new(&fs::read_to_string("/proc/stat").unwrap()).others;
    let seen = text::Stat::new(&container.read("/proc/stat")).others;
    assert_eq!(seen.keys().collect::<Vec<_>>(), host.keys().collect::<Vec<_>>());
    let names = ["ctxt", "intr", "processes", "softirq"];
    let text: Vec<_> = names.map(|name| format!("{name} {} of {}", seen[name], host[name])).into();
    Defect::new("W32").judge(
        &text.join(", "),
        names.iter().all(|name| seen[*name] < host[*name] / 2),
        names.iter().all(|name| seen[*name] >= host[*name]),
    );
    let running = seen["procs_running"] + seen["procs_blocked"];
    assert!(running <= 1 || !cgview_compliance::under_test().is_cgview(), "{seen:?}");
}

// host (CPUs 0-1)
// └─ container (CPU 0)   <- reads
//
// Documentation/ABI/stable/sysfs-devices-node, "cpumap: The node's cpumap": of CPUs that are there.
#[test]
fn w32_nodes_have_the_cpus_of_the_container() {
    let Some((tree, server)) = start(&["cpuset"], &Options::new()) else { return };
    let path = "/sys/devices/system/node/node0/cpulist";
    let Ok(host) = fs::read_to_string(path) else { return skip("the kernel has no nodes") };
    if text::list(&host).len() < 2 {
        return skip("needs two CPUs");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpus("0");
    let container = Container::start(&server, &cgroup);
    let seen = container.read(path);
    Defect::new("W32").judge(
        &format!("node0/cpulist {seen:?}, the container has one CPU of {host:?}"),
        seen == "0\n",
        seen == host,
    );
}

// host
// └─ parent
//    └─ container (no io controller)   <- reads, again and again, while cgroups below come and go
//
// A cgroup of v2 without the controller has no io.stat, and one that is removed has no file at all.
#[test]
fn w31_missing_numbers_of_disks_harm_nobody() {
    let Some((tree, mut server)) = start(&["io"], &Options::new()) else { return };
    let _parent = tree.cgroup("parent");
    let cgroup = tree.bare_cgroup("parent/container");
    let container = Container::start(&server, &cgroup);
    for round in 0..20 {
        let below = tree.bare_cgroup(&format!("parent/container/{round}"));
        let process = container.enter_at(&below).run(cgview_testkit::pause);
        let first = cgview_compliance::run(container.enter_at(&below), "cat /proc/diskstats");
        assert_eq!(first.status, 0, "{}", first.text);
        drop(process);
        below.remove();
        let _ = text::disks(&container.read("/proc/diskstats"));
    }
    assert!(server.is_running());
}
