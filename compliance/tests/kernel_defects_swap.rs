//! Defects of LXCFS in swap, and what is right.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs};

use cgview_compliance::{
    Container, Defect, Difference, Hold, MIB, Options, eventually, start, text,
};
use cgview_testkit::{Cgroup, skip};

fn meminfo(container: &Container) -> BTreeMap<String, u64> {
    text::numbers(&container.read("/proc/meminfo"))
}

/// The host's swap, in kB.
fn host_swap() -> u64 {
    let host = text::numbers(&fs::read_to_string("/proc/meminfo").unwrap());
    host.get("SwapTotal").copied().unwrap()
}

/// The rows of `/proc/swaps`: size and used, in kB.
fn rows(container: &Container) -> Vec<(u64, u64)> {
    let text = container.read("/proc/swaps");
    assert!(text.starts_with("Filename\t\t\t\tType\t\tSize"), "{text}");
    let rows = text.lines().skip(1).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, _, size, used, _] = words.as_slice() else { panic!("{text}") };
        (size.parse().unwrap(), used.parse().unwrap())
    });
    rows.collect()
}

fn put(cgroup: &Cgroup, file: &str, value: &str) {
    let path = cgroup.dir("memory").join(file);
    fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

// host (swap)
// └─ container (swap 128 MiB, later 0)   <- reads; 60 MiB, some of them swapped
//
// cgroup-v2.rst: "memory.swap.max: Swap usage hard limit. If a cgroup's swap usage reaches this limit,
// anonymous memory of the cgroup will not be swapped out": what is swapped stays there.
#[test]
fn w04_swap_free_never_underflows() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    if tree.is_v1("memory") {
        return skip("a limit of cgroup v1 is never below what is used");
    }
    if host_swap() < 128 * 1024 {
        return skip("needs swap");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    put(&cgroup, "memory.swap.max", &(128 * MIB).to_string());
    let container = Container::start(&server, &cgroup);
    let _memory = Hold::Anonymous.start(container.enter(), 60 * MIB);
    let used = || cgroup.read("memory", "", "memory.swap.current").trim().parse::<u64>().unwrap();
    eventually("memory is swapped", || {
        // Less than what was asked for is an error.
        let _ = fs::write(cgroup.dir("memory").join("memory.reclaim"), "20M");
        used() >= 10 * MIB
    });
    // 5.0 has no swap on v2 at all: W15.
    let has_swap = Defect::of("W4", |version| version >= (6, 0, 0));
    let seen = meminfo(&container);
    if has_swap.is_expected() || cgview_compliance::under_test().is_cgview() {
        assert_eq!(seen["SwapTotal"], 128 * 1024, "{seen:?}");
        let free = (128 * MIB - used()) / 1024;
        assert!(seen["SwapFree"].abs_diff(free) < 1024, "{free} {seen:?}");
    }
    put(&cgroup, "memory.swap.max", "0");
    // What was read last may be shown for a tenth of a second.
    eventually("the new limit is seen", || meminfo(&container)["SwapTotal"] < 100 * 1024);
    let (seen, used) = (meminfo(&container), used() / 1024);
    let (total, free) = (seen["SwapTotal"], seen["SwapFree"]);
    has_swap.judge(
        &format!("SwapTotal {total} kB, SwapFree {free} kB, {used} kB are swapped"),
        free <= total && (total == 0 || total.abs_diff(used) < 1024 && free < 1024),
        free > 1 << 40,
    );
    if cgview_compliance::under_test().is_cgview() {
        let rows = rows(&container);
        assert!(rows.iter().all(|(size, used)| used <= size), "{rows:?}");
        assert_eq!(rows.iter().map(|(size, _)| size).sum::<u64>(), total);
    }
}

// host (swap)
// └─ container (swap 96 MiB)   <- reads
//
// cgroup-v2.rst, memory.swap.max. A daemon that was started before there was any cgroup sees it too.
#[test]
fn w15_swap_is_seen() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    if tree.is_v1("memory") {
        return skip("see w15_swap_is_the_limit_of_swap");
    }
    if host_swap() < 128 * 1024 {
        return skip("needs swap");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    put(&cgroup, "memory.swap.max", &(96 * MIB).to_string());
    let container = Container::start(&server, &cgroup);
    let total = meminfo(&container)["SwapTotal"];
    Defect::of("W15", |version| version < (6, 0, 0)).judge(
        &format!("SwapTotal {total} kB, limit 98304 kB"),
        total == 96 * 1024 && rows(&container) == [(96 * 1024, 0)],
        total == 0,
    );
}

// host (swap)
// └─ container (64 MiB, with swap 96 MiB; swappiness 0)   <- reads
//
// Documentation/admin-guide/cgroup-v1/memory.rst: "memory.memsw.limit_in_bytes: set/show limit of
// memory+Swap usage": of swap alone it is the difference.
#[test]
fn w15_swap_is_the_limit_of_swap() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    if !tree.is_v1("memory") {
        return skip("see w15_swap_is_seen");
    }
    if host_swap() < 128 * 1024 {
        return skip("needs swap");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(64 * MIB);
    put(&cgroup, "memory.memsw.limit_in_bytes", &(96 * MIB).to_string());
    let container = Container::start(&server, &cgroup);
    let total = meminfo(&container)["SwapTotal"];
    Difference {
        lxcfs: "SwapTotal on v1 is the limit of memory and swap",
        cgview: "SwapTotal is what can be swapped, the difference of the limits",
    }
    .judge(&format!("SwapTotal {total} kB"), total == 32 * 1024, total == 96 * 1024);

    // "limit reclaim enforces that 0 swappiness really prevents from any swapping": but what is free
    // stays free.
    put(&cgroup, "memory.swappiness", "0");
    let seen = meminfo(&container);
    let (total, free) = (seen["SwapTotal"], seen["SwapFree"]);
    Defect::new("W15").judge(
        &format!("swappiness 0: SwapTotal {total} kB, SwapFree {free} kB, nothing is swapped"),
        free == total,
        free == 0,
    );
}
