//! Defects of LXCFS in memory, and what is right.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs};

use cgview_compliance::{Container, Defect, Hold, MIB, Options, eventually, start, text, truth};
use cgview_testkit::{Spawn, skip};

/// `/proc/meminfo` of a container, in kB.
fn meminfo(container: &Container) -> BTreeMap<String, u64> {
    text::numbers(&container.read("/proc/meminfo"))
}

/// Whether two numbers of kB are within 2 MiB of each other.
fn near(left: u64, right: u64) -> bool {
    left.abs_diff(right) <= 2048
}

fn host() -> BTreeMap<String, u64> {
    text::numbers(&fs::read_to_string("/proc/meminfo").unwrap())
}

// host
// └─ container (256 MiB)   <- reads; 60 MiB of locked shared memory
//
// memory.stat in Documentation/admin-guide/cgroup-v2.rst: "anon: Amount of memory used in anonymous
// mappings", while shared memory is on the anonymous lists too, or, locked, on the unevictable one: what
// the lists hold less all shared memory is less than nothing.
#[test]
fn w05_anon_pages_never_underflow() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    let container = Container::start(&server, &cgroup);
    let _shared = Hold::LockedShared.start(container.enter(), 60 * MIB);
    eventually("the memory is locked", || {
        truth::memory_stat(&cgroup).get("unevictable").is_some_and(|&bytes| bytes >= 60 * MIB)
    });
    let (seen, stat) = (meminfo(&container), truth::memory_stat(&cgroup));
    let anon = stat.get("anon").or(stat.get("rss")).unwrap() / 1024;
    Defect::new("W5").judge(
        &format!("AnonPages {} kB of {} kB, truth {anon} kB", seen["AnonPages"], seen["MemTotal"]),
        near(seen["AnonPages"], anon),
        seen["AnonPages"] > 1 << 40,
    );
    if seen["AnonPages"] < 1 << 40 {
        assert!(near(seen["Shmem"], 60 * 1024), "{seen:?}");
        // The host's count of locked pages is behind by what each CPU has in its batch (mm/mlock.c).
        let locked = seen["Mlocked"];
        assert!(near(locked, 60 * 1024) && locked <= seen["Unevictable"], "{seen:?}");
    }
}

// host
// └─ container (256 MiB)   <- reads; 32 MiB in huge pages
//
// memory.stat: "anon_thp: Amount of memory used in anonymous mappings backed by transparent hugepages";
// v1: "rss_huge # of bytes of anonymous transparent hugepages".
#[test]
fn w06_huge_pages_are_seen() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if !enabled.is_ok_and(|text| !text.contains("[never]")) {
        return skip("needs transparent huge pages");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    let container = Container::start(&server, &cgroup);
    let _huge = Hold::Huge.start(container.enter(), 32 * MIB);
    let truth = || {
        let stat = truth::memory_stat(&cgroup);
        stat.get("anon_thp").or(stat.get("rss_huge")).copied().unwrap() / 1024
    };
    eventually("the memory is there", || truth::memory_used(&cgroup) >= 32 * MIB);
    if truth() == 0 {
        return skip("the kernel had no huge page left");
    }
    let seen = meminfo(&container)["AnonHugePages"];
    Defect::new("W6").judge(
        &format!("AnonHugePages {seen} kB, truth {} kB", truth()),
        near(seen, truth()),
        seen == 0,
    );
}

// host
// └─ container (256 MiB)   <- reads; maps 32 MiB of shared memory
//
// memory.stat: "file_mapped: Amount of cached filesystem data mapped with mmap()".
#[test]
fn w06_mapped_files_are_seen() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    let container = Container::start(&server, &cgroup);
    let _mapped = Hold::Shared.start(container.enter(), 32 * MIB);
    let truth = || {
        let stat = truth::memory_stat(&cgroup);
        stat.get("file_mapped").or(stat.get("mapped_file")).copied().unwrap() / 1024
    };
    eventually("the memory is mapped", || truth() >= 32 * 1024);
    let seen = meminfo(&container)["Mapped"];
    let is_v1 = tree.is_v1("memory");
    let seen_text = format!("Mapped {seen} kB, truth {} kB", truth());
    if is_v1 {
        // The names of v1 are known to it.
        assert!(near(seen, truth()), "{seen_text}");
    } else {
        Defect::new("W6").judge(&seen_text, near(seen, truth()), seen == 0);
    }
}

// host
// └─ parent (300 MiB)
//    ├─ neighbour   150 MiB of memory
//    └─ container   <- reads
//
// cgroup-v2.rst: "memory.max: Memory usage hard limit" of "the cgroup and its descendants": what the
// neighbour uses, the container cannot.
#[test]
fn w11_free_memory_counts_the_neighbours() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let parent = tree.cgroup("parent");
    let (neighbour, cgroup) = (tree.cgroup("parent/neighbour"), tree.cgroup("parent/container"));
    if tree.is_v1("memory") {
        // It has to be there before there are children with memory of their own.
        parent.limit_memory(300 * MIB);
    }
    parent.limit_memory(300 * MIB);
    let _memory = Hold::Anonymous.start(Spawn::new().cgroup(&neighbour), 150 * MIB);
    eventually("the memory is there", || truth::memory_used(&neighbour) >= 150 * MIB);
    let container = Container::start(&server, &cgroup);
    let seen = meminfo(&container);
    let left = (300 * MIB - truth::memory_used(&parent)) / 1024;
    let (free, total) = (seen["MemFree"], seen["MemTotal"]);
    assert_eq!(total, 300 * 1024, "{seen:?}");
    Defect::new("W11").judge(
        &format!("MemFree {free} kB of {total} kB, truth {left} kB"),
        near(free, left) && seen["MemAvailable"] >= free && seen["MemAvailable"] <= total,
        free > 280 * 1024,
    );
}

// host
// └─ container   <- reads
//
// proc_meminfo(5), "MemFree: The sum of LowFree+HighFree": a container without a limit has no more than
// the host.
#[test]
fn w11_an_unlimited_container_has_what_the_host_has() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let container = Container::start(&server, &tree.cgroup("container"));
    let (before, seen, after) = (host(), meminfo(&container), host());
    let (free, total) = (seen["MemFree"], after["MemTotal"]);
    let (before, after) = (before["MemFree"], after["MemFree"]);
    assert_eq!(seen["MemTotal"], total);
    // Others use memory at the same time, and what is shown may be a tenth of a second old.
    let near = before.min(after).saturating_sub(128 << 10)..before.max(after) + (128 << 10);
    let own = total - truth::memory_used(container.cgroup()) / 1024;
    Defect::new("W11").judge(
        &format!("MemFree {free} kB, the host's {after} kB of {total} kB"),
        near.contains(&free),
        free.abs_diff(own) < 2048,
    );
}

// host
// └─ parent (300 MiB)
//    └─ leaf (no memory controller)   <- reads
//
// cgroup-v2.rst, "Top-down Constraint": a controller that is not enabled for a cgroup is its ancestor's.
#[test]
fn w14_a_leaf_without_the_controller_is_its_parents() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    if tree.is_v1("memory") {
        return skip("cgroup v1 has each controller in all cgroups of its hierarchy");
    }
    let parent = tree.cgroup("parent");
    let leaf = tree.bare_cgroup("parent/leaf");
    parent.limit_memory(300 * MIB);
    let container = Container::start(&server, &leaf);
    let (total, host) = (meminfo(&container)["MemTotal"], host()["MemTotal"]);
    Defect::new("W14").judge(
        &format!("MemTotal {total} kB, limit 307200 kB, the host's {host} kB"),
        total == 300 * 1024,
        total == host,
    );
}

// host
// └─ container (32 MiB)   <- reads
//
// Law 2: no part is larger than its whole.
#[test]
fn w20_no_line_is_larger_than_the_total() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(32 * MIB);
    let container = Container::start(&server, &cgroup);
    let seen = meminfo(&container);
    assert_eq!(seen["MemTotal"], 32 * 1024);
    // Of the machine, of address spaces, of what is promised, or of disks.
    let others = ["VmallocTotal", "Commit", "DirectMap", "Swap"];
    let larger = seen.iter().filter(|(name, value)| {
        **value > 32 * 1024 && !others.iter().any(|other| name.starts_with(other))
    });
    let larger: Vec<String> = larger.map(|(name, value)| format!("{name} {value} kB")).collect();
    let hosts = host()["KReclaimable"];
    let reclaimable = seen["KReclaimable"];
    Defect::new("W20").judge(
        &format!(
            "KReclaimable {reclaimable} kB, the host's {hosts} kB; above MemTotal: {larger:?}"
        ),
        larger.is_empty() && reclaimable < 4096,
        reclaimable.abs_diff(hosts) < hosts / 8,
    );
}

// host   <- reads, in the root cgroup
//
// Law 2: MemAvailable is part of MemTotal.
#[test]
fn w20_available_memory_is_part_of_the_total() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    if tree.is_v1("memory") {
        return skip("the root cgroup of v1 has a usage");
    }
    let script = format!(
        "echo $$ >/sys/fs/cgroup/cgroup.procs && cat {}",
        server.path("proc/meminfo").display()
    );
    let output = cgview_compliance::run(Spawn::new(), &script);
    let seen = text::numbers(&output.text);
    let [total, free, available] = ["MemTotal", "MemFree", "MemAvailable"].map(|name| seen[name]);
    Defect::new("W20").judge(
        &format!("MemTotal {total} kB, MemFree {free} kB, MemAvailable {available} kB"),
        // The kernel counts neither what it holds back nor all that is free as available.
        free < total && available < total,
        free >= total && available > total,
    );
}

// host
// └─ container (memory.high 128 MiB)   <- reads
//
// cgroup-v2.rst: "memory.high: Memory usage throttle limit. If a cgroup's usage goes over the high
// boundary, the processes of the cgroup are throttled": it is all that there is to use.
#[test]
fn w21_a_throttle_limit_counts() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    if tree.is_v1("memory") {
        return skip("cgroup v1 has no memory.high");
    }
    let cgroup = tree.cgroup("container");
    fs::write(cgroup.dir("memory").join("memory.high"), (128 * MIB).to_string()).unwrap();
    let container = Container::start(&server, &cgroup);
    let (total, host) = (meminfo(&container)["MemTotal"], host()["MemTotal"]);
    Defect::new("W21").judge(
        &format!("MemTotal {total} kB, memory.high 131072 kB, the host's {host} kB"),
        total == 128 * 1024,
        total == host,
    );
}

// host (two nodes)
// └─ container (cpuset.mems 0)   <- reads
//
// cpuset(7): memory of other nodes is not to be had.
#[test]
fn w21_memory_of_other_nodes_does_not_count() {
    let Some((tree, server)) = start(&["memory", "cpuset"], &Options::new()) else { return };
    let node = fs::read_to_string("/sys/devices/system/node/node0/meminfo").unwrap_or_default();
    if !fs::exists("/sys/devices/system/node/node1/meminfo").unwrap() {
        return skip("needs two memory nodes");
    }
    let line = node.lines().find(|line| line.contains("MemTotal:")).unwrap();
    let node: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    let cgroup = tree.cgroup("container");
    fs::write(cgroup.dir("cpuset").join("cpuset.mems"), "0").unwrap();
    let container = Container::start(&server, &cgroup);
    let (total, host) = (meminfo(&container)["MemTotal"], host()["MemTotal"]);
    Defect::new("W21").judge(
        &format!("MemTotal {total} kB, node 0 has {node} kB, the host {host} kB"),
        total == node,
        total == host,
    );
}

// host
// └─ container (256 MiB)   <- reads
//
// meminfo_proc_show() prints each line as a name of 16 columns and a number of at least 8.
#[test]
fn w26_each_line_has_the_columns_of_the_kernel() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    let container = Container::start(&server, &cgroup);
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    let seen = container.read("/proc/meminfo");
    let names = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&seen), names(&host));
    let wrong: Vec<_> = seen
        .lines()
        .filter(|line| line.strip_suffix(" kB").is_some_and(|line| line.len() < 24))
        .collect();
    let is_there = host.contains("Zswap:");
    let defect = Defect::of("W26", |version| version >= (7, 0, 0));
    if defect.is_expected() && (tree.is_v1("memory") || !is_there) {
        return skip("the kernel tells nothing of zswap here");
    }
    defect.judge(
        &format!("lines that are not aligned: {wrong:?}"),
        wrong.is_empty(),
        wrong.iter().any(|line| line.starts_with("Zswap:")),
    );
}
