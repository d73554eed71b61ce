//! What `/proc/meminfo`, `/proc/swaps` and free(1) tell of swap and huge pages of known size.
//!
//! These take from the whole machine, so they run where that is the test's own: CGVIEW_TEST_VM=1.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use cgview_compliance::{
    Container, MIB, Options, Server, eventually, meminfo::Look, memory::Mapping, text, truth,
    worker::Worker,
};
use cgview_testkit::{Cgroup, Tree, is_own_machine, skip};

/// Whether this machine has swap; if not, says that the test is skipped.
fn has_swap() -> bool {
    let swap = text::numbers(&fs::read_to_string("/proc/meminfo").unwrap())["SwapTotal"];
    if swap == 0 {
        skip("needs swap");
    }
    swap > 0
}

fn limit_swap(cgroup: &Cgroup, memory: u64, swap: u64) {
    cgroup.limit_memory(memory);
    // cgroup-v1/memory.rst: memory and swap together.
    let v1 = cgroup.dir("memory").join("memory.memsw.limit_in_bytes");
    if v1.exists() {
        fs::write(v1, (memory + swap).to_string()).unwrap();
    } else {
        fs::write(cgroup.dir("memory").join("memory.swap.max"), swap.to_string()).unwrap();
    }
}

/// What the container has in swap: `memory.swap.current`, "The total amount of swap currently being used by
/// the cgroup and its descendants", or v1's `total_swap`, which is without what is in the swap cache.
fn swapped(cgroup: &Cgroup) -> u64 {
    match fs::read_to_string(cgroup.dir("memory").join("memory.swap.current")) {
        Ok(text) => text.trim().parse().unwrap(),
        Err(_) => truth::memory_stat(cgroup)["swap"],
    }
}

/// How much of a process's memory is resident, and how much in swap: proc_pid_smaps(5).
fn places(pid: u32) -> (u64, u64) {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let smaps = text::numbers(&smaps);
    (smaps["Anonymous"] * 1024, smaps["Swap"] * 1024)
}

// host (512 MiB of swap)
// └─ container (64 MiB, and 128 MiB of swap)   <- takes 96 MiB
#[test]
fn swap() {
    if !is_own_machine() || !has_swap() || !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("container");
    limit_swap(&cgroup, 64 * MIB, 128 * MIB);
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let mut worker = Worker::start(container.enter(), |steps| {
        let memory = steps.step(|| Mapping::anonymous(96 * MIB));
        steps.step(|| drop(memory));
    });
    let look = || Look::new(&container);
    let before = look();
    assert_eq!(before.sum("SwapTotal"), 128 * MIB);
    assert!(before.sum("SwapFree") > 126 * MIB, "{before:?}");
    worker.step();

    let agrees = || {
        let (is_resident, is_swapped) = places(worker.process().pid());
        let now = look();
        let (anon, cached) = (now.sum("AnonPages"), now.sum("SwapCached"));
        let used = now.sum("SwapTotal") - now.sum("SwapFree");
        println!(
            "resident {is_resident}, seen {anon}; swapped {is_swapped}, seen {used}, cached {cached}"
        );
        // A page that was read again may keep its place in swap, and is in the swap cache then. The others' that are
        // swapped are few.
        (is_resident + is_swapped).abs_diff(96 * MIB) < 2 * MIB
            && anon.abs_diff(is_resident) < 3 * MIB
            && (is_swapped.saturating_sub(MIB)..is_swapped + cached + 3 * MIB).contains(&used)
            && (swapped(&cgroup).saturating_sub(MIB)..=swapped(&cgroup) + cached + MIB)
                .contains(&used)
            && now.differences().is_empty()
    };
    eventually("memory and swap hold what was written", agrees);
    let now = look();
    let in_use = now.sum("SwapTotal") - now.sum("SwapFree");
    assert!(now.sum("SwapTotal") == 128 * MIB && now.sum("SwapFree") < 98 * MIB, "{now:?}");
    assert!(now.sum("MemFree") < 4 * MIB, "{now:?}");
    assert!(now.sum("AnonPages") <= 64 * MIB, "{now:?}");

    // proc_swaps(5), and free(1).
    let swaps = container.read("/proc/swaps");
    let row: Vec<&str> = swaps.lines().nth(1).unwrap().split_whitespace().collect();
    let &[_, _, size, used, _] = row.as_slice() else { panic!("{swaps}") };
    let (size, used): (u64, u64) = (size.parse().unwrap(), used.parse().unwrap());
    assert_eq!((size, swaps.lines().count()), (128 * 1024, 2), "{swaps}");
    assert!((used * 1024).abs_diff(in_use) < 2 * MIB, "{swaps}");
    let said = container.run("LC_ALL=C free -k");
    let line = said.lines().find_map(|line| line.strip_prefix("Swap:")).unwrap();
    let words: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let &[total, used, free] = words.as_slice() else { panic!("{said}") };
    assert_eq!((total, used + free), (128 * 1024, 128 * 1024), "{said}");
    assert!((used * 1024).abs_diff(in_use) < 2 * MIB, "{said}");

    // The limit goes below what is used: there is still as much, and none of it free.
    if !tree.is_v1("memory") {
        limit_swap(&cgroup, 64 * MIB, 16 * MIB);
        let now = look();
        assert!(now.sum("SwapTotal") > 28 * MIB && now.sum("SwapFree") < MIB, "{now:?}");
    }
    worker.step();
    eventually("swap is free again", || {
        let now = look();
        let total = now.sum("SwapTotal");
        total - now.sum("SwapFree") < MIB && now.sum("AnonPages") < 4 * MIB
    });
}

// host
// └─ parent (swap 48 MiB)
//    └─ container (64 MiB, swap 200 MiB)
#[test]
fn the_tightest_limit_of_swap_holds() {
    if !is_own_machine() || !has_swap() || !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let (parent, cgroup) = (tree.cgroup("parent"), tree.cgroup("parent/container"));
    limit_swap(&parent, 64 * MIB, 48 * MIB);
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let total = || Look::new(&container).sum("SwapTotal");
    assert_eq!(total(), 48 * MIB);
    if tree.is_v1("memory") {
        // It may not allow more than its parent.
        limit_swap(&cgroup, 32 * MIB, 20 * MIB);
        assert_eq!(total(), 20 * MIB);
        return;
    }
    limit_swap(&cgroup, 64 * MIB, 200 * MIB);
    assert_eq!(total(), 48 * MIB);
    limit_swap(&parent, 64 * MIB, 1 << 40);
    assert_eq!(total(), 200 * MIB);
    limit_swap(&cgroup, 64 * MIB, 0);
    assert_eq!((total(), container.read("/proc/swaps").lines().count()), (0, 1));
    let host = text::numbers(&fs::read_to_string("/proc/meminfo").unwrap())["SwapTotal"];
    limit_swap(&cgroup, 64 * MIB, 1 << 40);
    assert_eq!(total(), host * 1024);
}

// cgroup-v2.rst: "zswap: Amount of memory consumed by the zswap compression backend", "zswapped: Amount of
// application memory swapped out to zswap".
#[test]
fn compressed_swap() {
    let enabled = fs::read_to_string("/sys/module/zswap/parameters/enabled").unwrap_or_default();
    if enabled.trim() != "Y" {
        return skip("needs zswap");
    }
    if !is_own_machine() || !has_swap() || !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    if tree.is_v1("memory") {
        return skip("v1 has no account of zswap");
    }
    let cgroup = tree.cgroup("container");
    limit_swap(&cgroup, 64 * MIB, 128 * MIB);
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let mut worker =
        Worker::start(container.enter(), |steps| steps.step(|| Mapping::anonymous(112 * MIB)));
    let before = Look::new(&container);
    assert_eq!(before.sum("Zswap+Zswapped"), 0);
    worker.step();
    eventually("zswap holds what does not fit", || {
        let now = Look::new(&container);
        let (stat, used) =
            (truth::memory_stat(&cgroup), now.sum("SwapTotal") - now.sum("SwapFree"));
        let (zswap, zswapped) = (now.sum("Zswap"), now.sum("Zswapped"));
        println!("{zswap} {zswapped} {used}");
        zswap > 0
            && zswapped > 40 * MIB
            && zswap.abs_diff(stat["zswap"]) < MIB
            && zswapped.abs_diff(stat["zswapped"]) < MIB
            && zswapped <= used
            && now.differences().is_empty()
    });
}

// host (16 huge pages of 2 MiB)
// └─ container (8 of them)   <- takes 3
#[test]
fn huge_pages() {
    if !is_own_machine() || !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "hugetlb"]) else { return };
    fs::write("/proc/sys/vm/nr_hugepages", "16").unwrap();
    let host = text::numbers(&fs::read_to_string("/proc/meminfo").unwrap())["HugePages_Total"];
    assert_eq!(host, 16, "the kernel gives no huge pages");
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(128 * MIB);
    cgroup.write("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max", "16777216");
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let mut worker =
        Worker::start(container.enter(), |steps| steps.step(|| Mapping::hugetlb(6 * MIB)));
    let pages = || {
        let lines = Look::new(&container).lines;
        ["HugePages_Total", "HugePages_Free", "Hugetlb", "Hugepagesize"].map(|line| lines[line])
    };
    assert_eq!(pages(), [8, 8, 16 * 1024, 2048]);
    worker.step();
    assert_eq!(pages(), [8, 5, 16 * 1024, 2048]);
    worker.kill();
    eventually("they are free again", || pages()[1] == 8);
    fs::write("/proc/sys/vm/nr_hugepages", "0").unwrap();
}
