//! The texts of a machine with eight CPUs on two nodes, for a container that has two to four of them.

use alloc::{string::String, sync::Arc, vec, vec::Vec};

use crate::{
    Bytes, File, HostFacts, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    host::{HostMemory, HostNode},
    parse::memory_stat_v2,
    snapshot::{Cgroup, CpuUsage, Cpuset, MemoryLevel, Version},
    tree::Entry,
    view::Error,
};

fn mask(list: &str) -> Mask {
    Mask::parse_list(list.as_bytes()).unwrap()
}

fn host() -> HostFacts {
    let node =
        |number, cpus, mib: u64| HostNode { number, cpus: mask(cpus), total: Bytes(mib << 20) };
    HostFacts {
        memory: HostMemory::parse(b"MemTotal: 4194304 kB\nMemFree: 1048576 kB\n"),
        online: mask("0-7"),
        // Node 1 went away.
        nodes: vec![node(0, "0-3", 1024), node(2, "4-7", 3072)],
        page_size: Bytes(4096),
    }
}

fn snapshot(cpus: &str, mems: &str) -> Snapshot {
    let cgroup = Arc::new(Cgroup { path: "/app".into(), version: Version::V2 });
    let cpuset = Cpuset { cgroup: cgroup.clone(), cpus: mask(cpus), mems: mask(mems) };
    let cpu_usage = CpuUsage {
        cgroup,
        total: Default::default(),
        per_cpu: vec![],
        throttled: Default::default(),
    };
    Snapshot { cpuset: Some(cpuset), cpu_usage: Some(cpu_usage), ..Snapshot::default() }
}

fn try_render(snapshot: &Snapshot, path: &str, text: &str) -> Result<String, Error> {
    let (host, policy) = (host(), Policy::default());
    let cpus = CpuLimits::of(snapshot, &host, &policy);
    let view = View {
        snapshot,
        now: Usec::ZERO,
        host: &host,
        policy: &policy,
        cpus: &cpus,
        cpu_view: &CpuView::default(),
        load: None,
        reader: Reader::default(),
    };
    let path = ["/sys/devices/system/", path].concat();
    let Some(Entry::File(File::Sys(file))) = Entry::at(&path) else { panic!("no {path}") };
    let mut out = Vec::new();
    view.render(File::Sys(file), text.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn render(snapshot: &Snapshot, path: &str, text: &str) -> String {
    try_render(snapshot, path, text).unwrap()
}

#[test]
fn cpus_are_counted_from_0() {
    let container = snapshot("2,5-6", "0,2");
    for (name, text, shown) in [
        ("online", "0-7\n", "0-2\n"),
        ("possible", "0-63\n", "0-2\n"),
        ("present", "0-7\n", "0-2\n"),
        ("offline", "8-63\n", "\n"),
        ("isolated", "1,6-7\n", "2\n"),
        ("isolated", "1,7\n", "\n"),
        ("isolated", "\n", "\n"),
        ("nohz_full", "(null)\n", "(null)\n"),
        ("kernel_max", "8191\n", "8191\n"),
    ] {
        assert_eq!(render(&container, &["cpu/", name].concat(), text), shown, "{name}");
    }
    assert_eq!(render(&snapshot("3", "0"), "cpu/online", "0-7\n"), "0\n");
}

#[test]
fn topology_is_that_of_the_physical_cpus() {
    let container = snapshot("2,5-6", "0,2");
    let topology = |file: &str, text: &str| render(&container, &["cpu/cpu1/", file].concat(), text);
    assert_eq!(topology("topology/core_id", "5\n"), "5\n");
    assert_eq!(topology("topology/core_siblings_list", "4-7\n"), "1-2\n");
    assert_eq!(topology("topology/core_siblings", "f0\n"), "06\n");
    // The width is that of the host's CPUs.
    assert_eq!(
        topology("topology/core_cpus", "000,00000000,00000020\n"),
        "000,00000000,00000002\n"
    );
    assert_eq!(
        topology("cache/index2/shared_cpu_map", "00000000,00000024\n"),
        "00000000,00000003\n"
    );
    assert_eq!(topology("cache/index2/shared_cpu_list", "2,5\n"), "0-1\n");
    // Whatever the text, a CPU is its own sibling.
    assert_eq!(topology("topology/core_siblings_list", "0-3\n"), "0-1\n");
    assert_eq!(topology("topology/core_siblings_list", "3-1\n"), "1\n");
    assert_eq!(topology("topology/core_siblings", "x4\n"), "2\n");
    // Kernels without such a level write none.
    assert_eq!(topology("topology/cluster_cpus", "00\n"), "00\n");
    assert_eq!(topology("topology/cluster_cpus_list", "\n"), "\n");
    let gone = try_render(&container, "cpu/cpu3/topology/core_id", "3\n");
    assert_eq!(gone, Err(Error::NotShown));
}

#[test]
fn nodes_keep_their_numbers() {
    let container = snapshot("2,5-6", "2");
    assert_eq!(render(&container, "node/online", "0,2\n"), "2\n");
    assert_eq!(render(&container, "node/possible", "0-3\n"), "2\n");
    assert_eq!(render(&container, "node/has_cpu", "0,2\n"), "2\n");
    assert_eq!(render(&container, "node/node2/cpulist", "4-7\n"), "1-2\n");
    assert_eq!(render(&container, "node/node2/cpumap", "f0\n"), "06\n");
    assert_eq!(render(&container, "node/node2/distance", "21 10\n"), "10\n");
    assert_eq!(try_render(&container, "node/node0/distance", "10 21\n"), Err(Error::NotShown));

    // All nodes, but CPUs of one alone: the other is there for its memory.
    let container = snapshot("5-6", "0,2");
    assert_eq!(render(&container, "node/possible", "0-3\n"), "0-3\n");
    assert_eq!(render(&container, "node/has_cpu", "0,2\n"), "2\n");
    assert_eq!(render(&container, "node/has_memory", "0,2\n"), "0,2\n");
    assert_eq!(render(&container, "node/node0/cpulist", "0-3\n"), "\n");
    assert_eq!(render(&container, "node/node0/cpumap", "0f\n"), "00\n");
    assert_eq!(render(&container, "node/node0/distance", "10 21\n"), "10 21\n");
}

#[test]
fn numastat_is_the_hosts_for_the_host_alone() {
    let text = "numa_hit 4711\nnuma_miss 12\n";
    let zeros = "numa_hit 0\nnuma_miss 0\n";
    assert_eq!(render(&snapshot("0-7", "0,2"), "node/node0/numastat", text), zeros);
    assert_eq!(render(&snapshot("0", "0"), "node/node0/numastat", text), zeros);
    assert_eq!(render(&Snapshot::default(), "node/node0/numastat", text), text);
}

/// As the kernel writes it, shortened: 1 GiB, of which 256 MiB are free.
const NODE_0: &str = "\
Node 0 MemTotal:        1048576 kB
Node 0 MemFree:          262144 kB
Node 0 MemUsed:          786432 kB
Node 0 SwapCached:            3 kB
Node 0 Active(anon):     500000 kB
Node 0 Mlocked:              16 kB
Node 0 FilePages:        200000 kB
Node 0 Bounce:                4 kB
Node 0 NewSmall:             12 kB
Node 0 NewLarge:         600000 kB
Node 0 HugePages_Total:     2
";

fn limited(mems: &str) -> Snapshot {
    let stat = memory_stat_v2(b"anon 41943043\nactive_anon 41943043\nfile 10489856\n").unwrap();
    let level = MemoryLevel {
        cgroup: Arc::new(Cgroup { path: "/app".into(), version: Version::V2 }),
        usage: Bytes(100 << 20),
        max: Limit::At(Bytes(512 << 20)),
        high: Limit::Max,
        min: Bytes::ZERO,
        low: Bytes::ZERO,
        swap: None,
        stat: Some(stat),
    };
    Snapshot { memory: vec![level], ..snapshot("0-3", mems) }
}

#[test]
fn node_meminfo_is_the_hosts_without_a_limit() {
    assert_eq!(render(&snapshot("0-3", "0,2"), "node/node0/meminfo", NODE_0), NODE_0);
}

#[test]
fn node_meminfo_is_the_nodes_part_of_the_containers() {
    // A quarter of the memory is on node 0.
    assert_eq!(
        render(&limited("0,2"), "node/node0/meminfo", NODE_0),
        "\
Node 0 MemTotal:         131072 kB
Node 0 MemFree:          105472 kB
Node 0 MemUsed:           25600 kB
Node 0 SwapCached:            0 kB
Node 0 Active(anon):      10240 kB
Node 0 Mlocked:               0 kB
Node 0 FilePages:          2561 kB
Node 0 Bounce:                0 kB
Node 0 NewSmall:             12 kB
Node 0 NewLarge:              0 kB
Node 0 HugePages_Total:     2
"
    );
    // All of it is there if there is no other.
    let alone = render(&limited("0"), "node/node0/meminfo", NODE_0);
    assert!(alone.starts_with("Node 0 MemTotal:         524288 kB\n"), "{alone}");
}
