//! Hosts with many CPUs and more than one memory node.

use std::{collections::BTreeSet, fs};

use cgview_compliance::{Container, Options, Server, text, truth, under_test};
use cgview_testkit::{Tree, skip};

/// The numbers of the directories `NAMEn` in a directory of a container.
fn numbered(container: &Container, dir: &str, name: &str) -> BTreeSet<u32> {
    let names = container.run(&format!("ls {dir}"));
    names.lines().filter_map(|entry| entry.strip_prefix(name)?.parse().ok()).collect()
}

// host (many CPUs)
// ├─ ends (the first CPU and the last two)
// ├─ middle (eight CPUs around the boundary of two nodes)
// ├─ quota (2.5 CPUs of all)
// └─ all
//
// docs/semantics.md, section 4: "Visible CPUs are 0 to n-1, taken from the set in order, in all of these files."
#[test]
fn any_part_of_many_cpus_is_a_machine() {
    let online = truth::online();
    if online.len() < 4 {
        return skip("needs four CPUs");
    }
    if !Server::is_possible() {
        return;
    }
    if !under_test().is_cgview() {
        return skip("lxcfs renumbers in one file of many: W25");
    }
    let Some(tree) = Tree::with(&["cpu", "cpuset"]) else { return };
    let server = Server::start(&Options::new());
    let count = online.len();
    let (first, last, half) = (online.first().unwrap(), online.last().unwrap(), count / 2);
    let around = half.saturating_sub(4)..(half + 4).min(count);
    let around: Vec<String> = online.get(around).unwrap().iter().map(u32::to_string).collect();
    for (name, set, quota, meant) in [
        ("ends", format!("{first},{}-{last}", last - 1), None, 3),
        ("middle", around.join(","), None, around.len()),
        ("quota", format!("{first}-{last}"), Some(250_000), 3),
        ("all", format!("{first}-{last}"), None, count),
    ] {
        let cgroup = tree.cgroup(name);
        cgroup.limit_cpus(&set);
        if let Some(quota) = quota {
            cgroup.limit_cpu(quota);
        }
        let container = Container::start(&server, &cgroup);
        let numbers: Vec<u32> = (0..u32::try_from(meant).unwrap()).collect();
        let meant: BTreeSet<u32> = numbers.iter().copied().collect();
        let stat = text::Stat::new(&container.read("/proc/stat"));
        assert_eq!(stat.cpus.keys().copied().collect::<BTreeSet<_>>(), meant, "{name}");
        for (column, total) in stat.total.iter().enumerate() {
            let sum: u64 = stat.cpus.values().filter_map(|times| times.get(column)).sum();
            assert_eq!(*total, sum, "column {column} of {name}");
        }
        assert_eq!(text::processors(&container.read("/proc/cpuinfo")), numbers, "{name}");
        let cpu = "/sys/devices/system/cpu";
        for file in ["online", "possible", "present"] {
            assert_eq!(text::list(&container.read(&format!("{cpu}/{file}"))), numbers, "{name}");
        }
        assert_eq!(numbered(&container, cpu, "cpu"), meant, "{name}");

        // Each CPU is of one node, and each node's memory is a part of the container's.
        let node = "/sys/devices/system/node";
        let mut cpus = BTreeSet::new();
        let mut total = 0;
        for number in numbered(&container, node, "node") {
            let list = text::list(&container.read(&format!("{node}/node{number}/cpulist")));
            for cpu in list {
                assert!(cpus.insert(cpu), "CPU {cpu} is of two nodes of {name}");
            }
            let meminfo = container.read(&format!("{node}/node{number}/meminfo"));
            let line = meminfo.lines().find(|line| line.contains("MemTotal:")).unwrap();
            total += line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap();
        }
        assert_eq!(cpus, meant, "{name}");
        let meminfo = text::numbers(&container.read("/proc/meminfo"));
        assert_eq!(total, *meminfo.get("MemTotal").unwrap(), "{name}");
        // Topology names visible CPUs only.
        for cpu_number in [0, meant.len() - 1] {
            let siblings = format!("{cpu}/cpu{cpu_number}/topology/core_siblings_list");
            let siblings: BTreeSet<u32> =
                text::list(&container.read(&siblings)).into_iter().collect();
            assert!(siblings.is_subset(&meant), "{siblings:?} of {name}");
        }
        // lscpu(1) reads some thirty files of each CPU, which takes its time where all is emulated.
        let lscpu = if meant.len() < 8 { "lscpu | sed -n 's/^CPU(s): *//p';" } else { "" };
        let said = container.run(&format!("export LC_ALL=C; {lscpu} getconf _NPROCESSORS_ONLN"));
        assert!(said.lines().all(|line| line == meant.len().to_string()), "{name}: {said}");
    }
}

// host (two nodes)
// └─ container (memory of the second only)
//
// cgroup-v2.rst: "cpuset.mems.effective: lists the onlined memory nodes that are actually granted to this cgroup".
#[test]
fn memory_of_one_node_is_all_there_is() {
    let nodes = text::list(&fs::read_to_string("/sys/devices/system/node/online").unwrap());
    if nodes.len() < 2 {
        return skip("needs two memory nodes");
    }
    if !Server::is_possible() {
        return;
    }
    if !under_test().is_cgview() {
        return skip("lxcfs has no nodes: W21, W32");
    }
    let Some(tree) = Tree::with(&["cpuset", "memory"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.write("cpuset", "cpuset.mems", "cpuset.mems", "1");
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let of_node = |text: &str| -> u64 {
        let line = text.lines().find(|line| line.contains("MemTotal:")).unwrap();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    };
    let host = of_node(&fs::read_to_string("/sys/devices/system/node/node1/meminfo").unwrap());
    assert_eq!(numbered(&container, "/sys/devices/system/node", "node"), [1].into());
    assert_eq!(of_node(&container.read("/sys/devices/system/node/node1/meminfo")), host);
    assert_eq!(text::numbers(&container.read("/proc/meminfo")).get("MemTotal"), Some(&host));
}
