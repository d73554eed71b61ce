//! Containers in time and user namespaces of their own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cgview_compliance::{Container, Difference, MIB, Options, Server, text, truth};
use cgview_testkit::{Namespaces, Spawn, Tree};

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

// host
// └─ container (its boot clock is 100000 s ahead, or 3 s after its own boot)   <- reads
//
// time_namespaces(7): "CLOCK_BOOTTIME [...] /proc/uptime", and so "the boot time clock" of start times in
// /proc/PID/stat. docs/semantics.md, section 6: "the kernel tells that age already (in uptime, btime and start
// times), and its value is kept."
#[test]
fn a_boot_clock_of_its_own_is_kept() {
    if !Server::is_possible() {
        return;
    }
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        return cgview_testkit::skip("needs time namespaces");
    }
    let Some(tree) = Tree::with(&["cpu", "cpuset"]) else { return };
    let server = Server::start(&Options::new());
    let host = truth::boottime().as_secs();
    for (name, offset) in [("ahead", 100_000), ("young", 3 - i64::try_from(host).unwrap())] {
        let cgroup = tree.cgroup(name);
        let spawn = Spawn::new().cgroup(&cgroup).container().boottime_offset(offset);
        let container = Container::with(&server, &cgroup, spawn);
        let meant = || truth::boottime().as_secs_f64() + offset as f64;
        let least = meant();
        let (age, idle) = text::uptime(&container.read("/proc/uptime"));
        let most = meant();
        let (age, idle) = (age.as_secs_f64(), idle.as_secs_f64());
        // LXCFS tells the age of init by the host's clock.
        let is_kept = (least - 0.02..most + 0.02).contains(&age);
        Difference {
            lxcfs: "uptime by the host's clock in a time namespace",
            cgview: "uptime by the container's clock",
        }
        .judge(&format!("{age} s, clock {least} to {most} s"), is_kept, !is_kept);
        if !cgview_compliance::under_test().is_cgview() {
            continue;
        }
        let cpus = truth::online().len() as f64;
        assert!(idle <= age * cpus + 0.01, "{age} {idle}");

        // proc_stat(5): "btime: boot time, in seconds since the Epoch".
        let before = now();
        let stat = text::Stat::new(&container.read("/proc/stat"));
        let (age, _) = text::uptime(&container.read("/proc/uptime"));
        let sum = stat.others.get("btime").unwrap() + age.as_secs();
        assert!(before <= sum + 2 && sum <= now() + 2, "btime and uptime make {sum}, not {before}");
        // What started a moment ago is that old, in programs that subtract.
        let etimes = container.run("ps -o etimes= -p $$");
        let etimes: i64 = etimes.trim().parse().unwrap();
        assert!((0..30).contains(&etimes), "{etimes}");
        let pairs = container.run("for i in $(seq 100); do cat /proc/uptime /proc/self/stat; done");
        let lines: Vec<&str> = pairs.lines().collect();
        assert_eq!(lines.len(), 200, "{pairs}");
        for pair in lines.chunks(2) {
            // Both are cut off to hundredths of a second, by the same clock.
            let (up, _) = text::uptime(pair[0]);
            let started: u128 = pair[1].split(' ').nth(21).unwrap().parse().unwrap();
            assert!(started <= up.as_millis() / 10, "{pair:?}");
        }
        let started = container.run("date -d \"$(ps -o lstart= -p $$)\" +%s");
        assert!(started.trim().parse::<u64>().unwrap().abs_diff(now()) < 30, "{started}");
    }
}

// host
// └─ container (256 MiB, half a CPU), whose root is somebody else's user namespace's
//
// user_namespaces(7)
#[test]
fn a_user_namespace_changes_no_number() {
    if !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "cpu", "cpuset"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB).limit_cpu(50_000);
    let server = Server::start(&Options::new());
    let spawn = Spawn::new().cgroup(&cgroup).container().new_namespaces(Namespaces::NEWUSER);
    let container = Container::with(&server, &cgroup, spawn);
    let inside = fs::read_link(format!("/proc/{}/ns/user", container.init().pid())).unwrap();
    assert_ne!(inside, fs::read_link("/proc/self/ns/user").unwrap());
    let meminfo = text::numbers(&container.read("/proc/meminfo"));
    assert_eq!(meminfo.get("MemTotal"), Some(&(256 * 1024)));
    assert_eq!(text::processors(&container.read("/proc/cpuinfo")), [0]);
    assert_eq!(text::Stat::new(&container.read("/proc/stat")).cpus.len(), 1);
    assert_eq!(container.read("/sys/devices/system/cpu/online"), "0\n");
    let (age, idle) = text::uptime(&container.read("/proc/uptime"));
    let meant = truth::age(container.init().pid());
    assert!(age.abs_diff(meant).as_secs() < 5, "{age:?} {meant:?}");
    // The idle time of a CPU that comes is a tick ahead (docs/semantics.md).
    assert!(idle <= age + Duration::from_millis(10), "{age:?} {idle:?}");
    // The programs of a user without rights on the host.
    let said = container.run("LC_ALL=C free -k");
    assert!(said.contains(" 262144 "), "{said}");
}
