//! The laws of `docs/semantics.md`, section 0, for the files about memory; and what real kernels'
//! texts become.
//!
//! `data/<kernel>-<cgroup version>/` holds what a kernel said while a container of 64 MiB, with 128
//! MiB of swap, used both.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use cgview_core::{
    Bytes, File, HostFacts, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::{CpuLimits, MemoryLimits},
    host::{HostMemory, HostNode},
    parse::{limit, memory_limit_v1, memory_stat_v1, memory_stat_v2, number_file},
    snapshot::{Cgroup, Cpuset, HugetlbLevel, MemoryLevel, MemoryStat, Swap, Version},
    tree::ProcFile,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

const FILES: [ProcFile; 4] =
    [ProcFile::Meminfo, ProcFile::Swaps, ProcFile::Vmstat, ProcFile::Slabinfo];
const KERNELS: [&str; 5] = ["6.1-v1", "6.1-v2", "6.12-v2", "6.18-v1", "7.3-v2"];

// --- what is rendered

fn read(kernel: &str, file: &str) -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    fs::read(data.join(kernel).join(file)).unwrap()
}

fn facts(meminfo: &[u8]) -> HostFacts {
    let memory = HostMemory::parse(meminfo);
    let half =
        |number| HostNode { number, total: Bytes(memory.total.0 / 2), ..HostNode::default() };
    let nodes = vec![half(0), half(1)];
    HostFacts { memory, nodes, page_size: Bytes(4096), ..HostFacts::default() }
}

/// The text of `file`; what is explained is the same.
fn render(
    snapshot: &Snapshot,
    host: &HostFacts,
    policy: &Policy,
    file: ProcFile,
    text: &[u8],
) -> Vec<u8> {
    let view = View {
        snapshot,
        now: Usec::ZERO,
        host,
        policy,
        cpus: &CpuLimits::default(),
        cpu_view: &CpuView::default(),
        load: None,
        reader: Reader::default(),
    };
    let (mut rendered, mut explained) = (Vec::new(), Vec::new());
    view.render(File::Proc(file), text, &mut rendered).unwrap();
    let explanation = view.explain(File::Proc(file), text, &mut explained).unwrap();
    assert_eq!(rendered, explained);
    // Whatever is not the host's has a reason.
    if matches!(file, ProcFile::Meminfo | ProcFile::Vmstat) {
        let mut start = 0;
        for (line, host) in lines(&rendered).into_iter().zip(lines(text)) {
            let range = start..start + line.len();
            assert!(line == host || explanation.within(range).next().is_some());
            start += line.len();
        }
    }
    rendered
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|&byte| byte == b'\n').collect()
}

/// The numbers of a text of names and numbers.
fn numbers(text: &[u8]) -> BTreeMap<String, u64> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().trim_end_matches(':').to_owned();
        (name, words.next().unwrap().parse().unwrap())
    };
    text.lines().map(pair).collect()
}

// --- what may be rendered from

fn bytes() -> impl Strategy<Value = Bytes> {
    // Around the size of the hosts, and anything.
    prop_oneof![3 => 0..2u64 << 30, 1 => any::<u64>()].prop_map(Bytes)
}

fn limit_of_bytes() -> impl Strategy<Value = Limit<Bytes>> {
    option::of(bytes()).prop_map(|limit| limit.map_or(Limit::Max, Limit::At))
}

/// The sizes that v1 and v2 both have, in the order of `V1` and `V2`.
const V1: [&str; 14] = [
    "rss",
    "cache",
    "shmem",
    "mapped_file",
    "dirty",
    "writeback",
    "swapcached",
    "rss_huge",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "pgfault",
];
const V2: [&str; 14] = [
    "anon",
    "file",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "swapcached",
    "anon_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "pgfault",
];
const V2_ONLY: [&str; 13] = [
    "kernel",
    "kernel_stack",
    "pagetables",
    "sec_pagetables",
    "percpu",
    "vmalloc",
    "zswap",
    "zswapped",
    "file_thp",
    "shmem_thp",
    "slab_reclaimable",
    "slab_unreclaimable",
    "pgscan_direct",
];

fn text(names: &[&str], sizes: &[Bytes]) -> String {
    names.iter().zip(sizes).map(|(name, size)| format!("{name} {}\n", size.0)).collect()
}

fn stat() -> impl Strategy<Value = MemoryStat> {
    vec(option::of(bytes()), V2.len() + V2_ONLY.len()).prop_map(|sizes| {
        let named = V2.iter().chain(&V2_ONLY).zip(sizes);
        let lines = named.filter_map(|(name, size)| Some(format!("{name} {}\n", size?.0)));
        memory_stat_v2(lines.collect::<String>().as_bytes()).unwrap()
    })
}

fn cgroup(version: Version) -> Arc<Cgroup> {
    Arc::new(Cgroup { path: "/pod/app".into(), version })
}

fn level(version: Version) -> impl Strategy<Value = MemoryLevel> {
    let swap = option::of((bytes(), limit_of_bytes()));
    let low = prop_oneof![Just(Bytes(0)), bytes()];
    (bytes(), limit_of_bytes(), limit_of_bytes(), low.clone(), low, swap, option::of(stat()))
        .prop_map(move |(usage, max, high, min, low, swap, stat)| MemoryLevel {
            cgroup: cgroup(version),
            usage,
            max,
            high,
            min,
            low,
            swap: swap.map(|(usage, max)| Swap { usage, max }),
            stat,
        })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let version = select(vec![Version::V1, Version::V2]);
    let levels = version.prop_flat_map(|version| vec(level(version), 0..4));
    let size = prop_oneof![Just(Bytes::from_kib(2048)), Just(Bytes(1 << 30)), bytes()];
    let huge = (size, bytes(), limit_of_bytes()).prop_map(|(page_size, usage, max)| HugetlbLevel {
        cgroup: cgroup(Version::V2),
        page_size,
        usage,
        max,
    });
    let mems = vec(0..3u32, 0..3).prop_map(|nodes| nodes.into_iter().collect::<Mask>());
    (levels, prop_oneof![2 => Just(vec![]), 1 => vec(huge, 0..4)], option::of(mems)).prop_map(
        |(memory, hugetlb, mems)| {
            let cpuset = |mems| Cpuset { cgroup: cgroup(Version::V2), cpus: Mask::new(), mems };
            Snapshot { memory, hugetlb, cpuset: mems.map(cpuset), ..Snapshot::default() }
        },
    )
}

/// One whose container is limited for certain.
fn limited() -> impl Strategy<Value = Snapshot> {
    (snapshot(), level(Version::V2), bytes()).prop_map(|(mut snapshot, level, max)| {
        snapshot.memory.insert(0, MemoryLevel { max: Limit::At(max), ..level });
        snapshot
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let shown = || prop_oneof![3 => Just(true), 1 => Just(false)];
    (shown(), shown()).prop_map(|(swap, zswap)| Policy { swap, zswap, ..Policy::default() })
}

fn size() -> impl Strategy<Value = u64> {
    0..1u64 << 40
}

fn kernel() -> impl Strategy<Value = &'static str> {
    select(KERNELS.to_vec())
}

proptest! {
    #[test]
    fn any_bytes_render(
        snapshot in snapshot(), policy in policy(), memory in vec(bytes(), 5),
        page_size in bytes(), noise: Vec<u8>,
        lines in vec("(MemTotal|Mlocked|Huge.{0,9}|nr_mlock|x)?:?.{0,30}", 0..9),
    ) {
        let memory = HostMemory {
            total: memory[0], free: memory[1], available: memory[2],
            swap_total: memory[3], swap_free: memory[4], ..HostMemory::default()
        };
        let host = HostFacts { memory, page_size, ..HostFacts::default() };
        for text in [noise, lines.join("\n").into_bytes()] {
            for file in FILES {
                let rendered = render(&snapshot, &host, &policy, file, &text);
                let lines = text.split(|&byte| byte == b'\n').count();
                prop_assert!(rendered.len() <= text.len() + 100 + lines * 20);
            }
        }
    }

    #[test]
    fn any_bytes_parse(
        text: Vec<u8>, lines in vec("(total_)?(rss|cache|anon|swap)? ?[0-9]{0,25}", 0..9),
    ) {
        for text in [text, lines.join("\n").into_bytes()] {
            let _ = memory_stat_v1(&text);
            let _ = memory_stat_v2(&text);
        }
    }

    // Law 2
    #[test]
    fn limits_are_possible(snapshot in snapshot(), policy in policy(), kernel in kernel()) {
        let host = facts(&read(kernel, "meminfo"));
        let limits = MemoryLimits::of(&snapshot, &host, &policy);
        if limits.memory_limited {
            prop_assert!(Bytes(0) < limits.total.0 && limits.total.0 <= host.memory.total);
            prop_assert!(limits.free.0 <= limits.available.0);
            prop_assert!(limits.available.0 <= limits.total.0);
            prop_assert!(limits.free.0 <= host.memory.available);
            prop_assert!(limits.available.0 <= host.memory.available);
        } else {
            prop_assert_eq!(limits.total.0, host.memory.total);
            prop_assert_eq!(limits.free.0, host.memory.free);
            prop_assert_eq!(limits.available.0, host.memory.available);
        }
        prop_assert!(limits.swap_free.0 <= limits.swap_total.0);
        prop_assert!(limits.swap_free.0 <= host.memory.swap_free);
        prop_assert!(limits.swap_total.0 <= host.memory.swap_total);
        prop_assert!(policy.swap || limits.swap_total.0 == Bytes(0));
    }

    #[test]
    fn one_more_limit_never_gives_more(
        mut snapshot in snapshot(), more in level(Version::V2), kernel in kernel(),
    ) {
        let host = facts(&read(kernel, "meminfo"));
        // A first memory.max takes the place of all memory.high as the total.
        snapshot.memory.iter_mut().for_each(|level| level.high = Limit::Max);
        let of = |snapshot: &Snapshot| MemoryLimits::of(snapshot, &host, &Policy::default());
        let before = of(&snapshot);
        let mut tighter = snapshot.clone();
        tighter.memory.push(MemoryLevel { min: Bytes(0), low: Bytes(0), ..more });
        let after = of(&tighter);
        prop_assert!(after.total.0 <= before.total.0.max(Bytes(4096)));
        // Without any limit it is the host's own MemFree, which page cache keeps small.
        prop_assert!(!before.memory_limited || after.free.0 <= before.free.0);
        prop_assert!(after.available.0 <= before.available.0);
    }

    // Law 2
    #[test]
    fn no_part_is_larger_than_its_whole(
        snapshot in limited(), policy in policy(), kernel in kernel(),
    ) {
        let text = read(kernel, "meminfo");
        let host = facts(&text);
        let meminfo = numbers(&render(&snapshot, &host, &policy, ProcFile::Meminfo, &text));
        let at = |name: &str| meminfo[name];
        let (total, free) = (at("MemTotal"), at("MemFree"));
        prop_assert!(0 < total && total <= numbers(&text)["MemTotal"]);
        prop_assert!(free <= at("MemAvailable") && at("MemAvailable") <= total);
        // What procps, htop and busybox compute as used.
        prop_assert!(free + at("Buffers") + at("Cached") + at("SReclaimable") <= total);
        prop_assert!(at("Shmem") <= at("Cached"));
        prop_assert_eq!(at("Active"), at("Active(anon)") + at("Active(file)"));
        prop_assert_eq!(at("Inactive"), at("Inactive(anon)") + at("Inactive(file)"));
        prop_assert!(at("Active") + at("Inactive") + at("Unevictable") <= total - free);
        prop_assert!(at("Mlocked") <= at("Unevictable"));
        prop_assert_eq!(at("Slab"), at("SReclaimable") + at("SUnreclaim"));
        prop_assert_eq!(at("KReclaimable"), at("SReclaimable"));
        prop_assert!(at("AnonHugePages") <= at("AnonPages"));
        prop_assert!(at("ShmemHugePages") <= at("Shmem"));
        prop_assert!(at("FileHugePages") <= at("Cached"));
        prop_assert!(at("SwapFree") <= at("SwapTotal"));
        let swapped = at("SwapTotal") - at("SwapFree");
        prop_assert!(at("SwapCached") <= swapped);
        prop_assert!(at("Zswapped") <= swapped);
        prop_assert!(at("HugePages_Free") <= at("HugePages_Total"));
        prop_assert!(at("Committed_AS") <= numbers(&text)["Committed_AS"]);
        // What is in zswap takes less memory than it holds.
        let machine = ["Zswapped", "SwapTotal", "SwapFree", "CommitLimit", "Committed_AS",
            "VmallocTotal", "DirectMap4k", "DirectMap2M", "DirectMap1G", "Hugepagesize"];
        for (name, &size) in &meminfo {
            prop_assert!(size <= total || machine.contains(&name.as_str()), "{} {}", name, size);
        }
    }

    // Law 5
    #[test]
    fn no_limit_is_the_hosts_bytes(
        mut snapshot in snapshot(), kernel in kernel(), noise: Vec<u8>, root: bool,
    ) {
        let meminfo = read(kernel, "meminfo");
        let host = facts(&meminfo);
        snapshot.hugetlb.iter_mut().for_each(|level| level.max = Limit::Max);
        for level in &mut snapshot.memory {
            (level.max, level.high) = (Limit::Max, Limit::Max);
            level.swap = level.swap.map(|swap| Swap { max: Limit::Max, ..swap });
        }
        if let Some(cpuset) = &mut snapshot.cpuset {
            cpuset.mems = [0, 1].into_iter().collect();
        }
        if root {
            snapshot.memory.clear();
        }
        let policy = Policy::default();
        let is_root = snapshot.memory.is_empty();
        for (file, name) in FILES.into_iter().zip(["meminfo", "swaps", "vmstat", "slabinfo"]) {
            for text in [&read(kernel, name), &noise] {
                let is_container = matches!(file, ProcFile::Slabinfo | ProcFile::Vmstat);
                if !is_container || is_root {
                    prop_assert_eq!(&render(&snapshot, &host, &policy, file, text), text);
                }
            }
        }
    }

    // Law 5
    #[test]
    fn lines_and_columns_are_the_hosts(
        snapshot in snapshot(), policy in policy(), kernel in kernel(), whole: bool,
    ) {
        let host = facts(&read(kernel, "meminfo"));
        for (file, name) in [(ProcFile::Meminfo, "meminfo"), (ProcFile::Vmstat, "vmstat")] {
            let mut text = read(kernel, name);
            if !whole {
                text.pop();
            }
            let rendered = render(&snapshot, &host, &policy, file, &text);
            prop_assert_eq!(lines(&rendered).len(), lines(&text).len());
            for (line, host) in lines(&rendered).into_iter().zip(lines(&text)) {
                let name = |line: &[u8]| line.split(|&byte| byte == b' ').next().unwrap().to_vec();
                prop_assert_eq!(name(line), name(host));
                let skeleton = |line: &[u8]| -> Vec<u8> {
                    line.iter().copied().filter(|byte| !b" 0123456789".contains(byte)).collect()
                };
                prop_assert_eq!(skeleton(line), skeleton(host));
                if file == ProcFile::Meminfo {
                    prop_assert_eq!(line.len(), host.len());
                }
            }
        }
    }

    // Law 4
    #[test]
    fn swaps_and_vmstat_agree_with_meminfo(
        snapshot in limited(), policy in policy(), kernel in kernel(),
    ) {
        let text = read(kernel, "meminfo");
        let host = facts(&text);
        let shown = |file, text: &[u8]| render(&snapshot, &host, &policy, file, text);
        let meminfo = numbers(&shown(ProcFile::Meminfo, &text));

        let swaps = String::from_utf8(shown(ProcFile::Swaps, &read(kernel, "swaps"))).unwrap();
        let mut rows = swaps.lines();
        prop_assert!(rows.next().unwrap().starts_with("Filename\t"));
        let (mut size, mut used) = (0, 0);
        for row in rows {
            let words: Vec<_> = row.split_whitespace().collect();
            prop_assert_eq!(words.len(), 5);
            size += words[2].parse::<u64>().unwrap();
            used += words[3].parse::<u64>().unwrap();
        }
        prop_assert_eq!(size, meminfo["SwapTotal"]);
        prop_assert_eq!(used, meminfo["SwapTotal"] - meminfo["SwapFree"]);

        let vmstat = numbers(&shown(ProcFile::Vmstat, &read(kernel, "vmstat")));
        for (pages, size) in [
            ("nr_free_pages", "MemFree"), ("nr_anon_pages", "AnonPages"), ("nr_mapped", "Mapped"),
            ("nr_inactive_file", "Inactive(file)"), ("nr_active_anon", "Active(anon)"),
            ("nr_shmem", "Shmem"), ("nr_slab_reclaimable", "SReclaimable"),
            ("nr_page_table_pages", "PageTables"), ("nr_dirty", "Dirty"),
        ] {
            prop_assert_eq!(vmstat[pages], meminfo[size] / 4, "{}", pages);
        }
        prop_assert_eq!(vmstat["nr_kernel_stack"], meminfo["KernelStack"]);
        prop_assert_eq!(vmstat["nr_anon_transparent_hugepages"], meminfo["AnonHugePages"] / 2048);
    }

    // Law 3: a limit that is set, or taken away, changes no counter.
    #[test]
    fn counters_do_not_depend_on_limits(limited in limited(), kernel in kernel()) {
        let host = facts(&read(kernel, "meminfo"));
        let mut free = limited.clone();
        for level in &mut free.memory {
            (level.max, level.high) = (Limit::Max, Limit::Max);
        }
        let shown = |snapshot| {
            let text = read(kernel, "vmstat");
            numbers(&render(snapshot, &host, &Policy::default(), ProcFile::Vmstat, &text))
        };
        let (limited, free) = (shown(&limited), shown(&free));
        for (name, count) in limited.iter().filter(|(name, _)| !name.starts_with("nr_")) {
            prop_assert_eq!(count, &free[name], "{}", name);
        }
    }

    // Law 3: of two moments, no counter of the later is smaller.
    #[test]
    fn counters_do_not_go_back(
        snapshot in limited(), more in vec(0..u64::MAX / 4, 30), kernel in kernel(),
    ) {
        let host = facts(&read(kernel, "meminfo"));
        let shown = |snapshot| {
            let text = read(kernel, "vmstat");
            numbers(&render(snapshot, &host, &Policy::default(), ProcFile::Vmstat, &text))
        };
        let mut later = snapshot.clone();
        if let Some(stat) = &mut later.memory[0].stat {
            for ((_, count), more) in stat.events.iter_mut().zip(more) {
                *count = count.saturating_add(more);
            }
        }
        let (before, after) = (shown(&snapshot), shown(&later));
        for (name, count) in before.iter().filter(|(name, _)| !name.starts_with("nr_")) {
            prop_assert!(*count <= after[name], "{}", name);
        }
    }

    // The same situation on v1 and on v2 is the same text.
    #[test]
    fn the_version_does_not_show(
        sizes in vec(bytes(), V2.len()), kernel in kernel(),
        levels in vec((size(), size(), option::of((size(), size()))), 1..4),
    ) {
        // But what is in the swap cache: v1 charges that as memory alone.
        let sizes: Vec<Bytes> = V2
            .into_iter()
            .zip(sizes)
            .map(|(name, size)| if name == "swapcached" { Bytes(0) } else { size })
            .collect();
        let stat = memory_stat_v2(text(&V2, &sizes).as_bytes()).unwrap();
        let totals = V1.map(|name| format!("total_{name}"));
        let own = text(&V1, &[Bytes(1); V1.len()]);
        let v1 = own + &text(&totals.each_ref().map(|name| name.as_str()), &sizes);
        prop_assert_eq!(&stat, &memory_stat_v1(v1.as_bytes()).unwrap());

        // v1 has one limit for memory and swap; where the container's tightest limit of memory is
        // `least`, one of `least + swap` leaves it as much swap as v2's limit of `swap`.
        let least = levels.iter().map(|level| level.0).min().unwrap();
        let of = |version: Version| {
            let memory = levels.iter().map(|&(max, usage, swap)| {
                // A limit of both is never less than one of memory.
                let swap = swap.map(|(usage, beyond)| (usage, max - least + beyond));
                MemoryLevel {
                    cgroup: cgroup(version),
                    usage: Bytes(usage),
                    max: Limit::At(Bytes(max)),
                    high: Limit::Max,
                    min: Bytes(0),
                    low: Bytes(0),
                    swap: swap.map(|(usage, swap)| Swap {
                        usage: Bytes(usage),
                        max: Limit::At(Bytes(match version {
                            Version::V1 => least + swap - max,
                            Version::V2 => swap,
                        })),
                    }),
                    stat: Some(stat.clone()),
                }
            });
            Snapshot { memory: memory.collect(), ..Snapshot::default() }
        };
        let host = facts(&read(kernel, "meminfo"));
        for (file, name) in FILES.into_iter().zip(["meminfo", "swaps", "vmstat"]) {
            let shown = |version| {
                render(&of(version), &host, &Policy::default(), file, &read(kernel, name))
            };
            prop_assert_eq!(shown(Version::V1), shown(Version::V2));
        }
    }

    // Law 9: slabs are the business of the host's root.
    #[test]
    fn no_slab_of_the_host_is_shown(level in level(Version::V2), kernel in kernel()) {
        let text = read(kernel, "slabinfo");
        let snapshot = Snapshot { memory: vec![level], ..Snapshot::default() };
        let host = HostFacts::default();
        let shown = render(&snapshot, &host, &Policy::default(), ProcFile::Slabinfo, &text);
        prop_assert_eq!(lines(&shown), &lines(&text)[..2]);
    }
}

// --- real containers

/// The container of `data/`.
fn captured(kernel: &str) -> Snapshot {
    let number = |file: &str| Bytes(number_file(&read(kernel, file)).unwrap());
    let stat = read(kernel, "memory.stat");
    let (version, max, usage, swap, stat) = if kernel.ends_with("v1") {
        let bytes = |file: &str| memory_limit_v1(&read(kernel, file)).unwrap().at().unwrap();
        let max = bytes("memory.limit_in_bytes");
        let usage = number("memory.usage_in_bytes");
        let swap = Swap {
            usage: number("memory.memsw.usage_in_bytes").saturating_sub(usage),
            max: Limit::At(bytes("memory.memsw.limit_in_bytes").saturating_sub(max)),
        };
        (Version::V1, max, usage, swap, memory_stat_v1(&stat).unwrap())
    } else {
        let bytes = |file: &str| Bytes(limit(&read(kernel, file)).unwrap().at().unwrap());
        let swap =
            Swap { usage: number("memory.swap.current"), max: Limit::At(bytes("memory.swap.max")) };
        let stat = memory_stat_v2(&stat).unwrap();
        (Version::V2, bytes("memory.max"), number("memory.current"), swap, stat)
    };
    let level = MemoryLevel {
        cgroup: cgroup(version),
        usage,
        max: Limit::At(max),
        high: Limit::Max,
        min: Bytes(0),
        low: Bytes(0),
        swap: Some(swap),
        stat: Some(stat),
    };
    Snapshot { memory: vec![level], ..Snapshot::default() }
}

/// What a captured container reads, and its lines of `memory.stat` (v1: the `total_` ones).
fn shown(kernel: &str) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let text = read(kernel, "meminfo");
    let (host, policy) = (facts(&text), Policy::default());
    let rendered = render(&captured(kernel), &host, &policy, ProcFile::Meminfo, &text);
    (numbers(&rendered), numbers(&read(kernel, "memory.stat")))
}

#[test]
fn containers_on_v2_as_kernels_tell_of_them() {
    for kernel in ["6.1-v2", "6.12-v2", "7.3-v2"] {
        let (meminfo, stat) = shown(kernel);
        let container = captured(kernel).memory.remove(0);
        assert_eq!(meminfo["MemTotal"], 65_536, "{kernel}");
        assert_eq!(meminfo["MemFree"], (65_536 * 1024 - container.usage.0) / 1024, "{kernel}");
        assert_eq!(meminfo["SwapTotal"], 131_072, "{kernel}");
        let left = (131_072 * 1024 - container.swap.unwrap().usage.0) / 1024;
        assert_eq!(meminfo["SwapFree"], left, "{kernel}");
        for (line, field) in [
            ("AnonPages", "anon"),
            ("AnonHugePages", "anon_thp"),
            ("Shmem", "shmem"),
            ("Active(anon)", "active_anon"),
            ("Inactive(anon)", "inactive_anon"),
            ("SReclaimable", "slab_reclaimable"),
            ("SwapCached", "swapcached"),
            ("PageTables", "pagetables"),
            ("KernelStack", "kernel_stack"),
            ("Dirty", "file_dirty"),
        ] {
            assert_eq!(meminfo[line], stat[field] / 1024, "{kernel} {line}");
        }
    }
}

#[test]
fn containers_on_v1_as_kernels_tell_of_them() {
    // In 6.1 43,444 KiB are in swap alone, and 2,112 in the swap cache: on the lists, and neither of rss nor shmem.
    let swaps = [("6.1-v1", [131_072, 131_072 - 43_444 - 2112, 2112]), ("6.18-v1", [0; 3])];
    for (kernel, swap) in swaps {
        let (meminfo, stat) = shown(kernel);
        assert_eq!(meminfo["MemTotal"], 65_536, "{kernel}");
        // The machine with 6.18 has no swap.
        let lines = ["SwapTotal", "SwapFree", "SwapCached"].map(|line| meminfo[line]);
        assert_eq!(lines, swap, "{kernel}");
        for (line, field) in [
            ("AnonPages", "total_rss"),
            ("AnonHugePages", "total_rss_huge"),
            ("Mapped", "total_mapped_file"),
            ("Dirty", "total_dirty"),
            ("Shmem", "total_shmem"),
            ("Inactive(file)", "total_inactive_file"),
            ("Cached", "total_cache"),
        ] {
            assert_eq!(meminfo[line], stat[field] / 1024, "{kernel} {line}");
        }
    }
}

// Zswap of incompressible pages fills the whole container there.
#[test]
fn zswap_is_memory_in_use() {
    let (meminfo, stat) = shown("7.3-v2");
    assert_eq!(meminfo["Zswap"], stat["zswap"] / 1024);
    assert_eq!(meminfo["Zswapped"], stat["zswapped"] / 1024);
    assert!(meminfo["Zswap"] + meminfo["MemFree"] <= meminfo["MemTotal"]);
}
