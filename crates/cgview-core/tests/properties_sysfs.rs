//! The laws of `docs/semantics.md`, sections 0 and 4, for `/proc/cpuinfo` and the CPUs and nodes of sysfs.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod machine;

use std::sync::Arc;

use cgview_core::{
    Bytes, HostFacts, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    host::HostNode,
    snapshot::{Cgroup, Cpuset, MemoryLevel, MemoryStat, Version},
    tree::{Entry, File, ProcFile},
};
use machine::{CPU, Machine, NODE, write};
use proptest::{collection::vec, prelude::*, sample::subsequence};

/// How a machine is made, and what a container on it has.
#[derive(Clone, Debug)]
struct Case {
    packages: u32,
    cores: u32,
    threads: u32,
    /// The number of each place: firmware enumerates CPUs in any order.
    numbers: Vec<u32>,
    /// Room for so many CPUs that are not there.
    spare: u32,
    online: Mask,
    visible: Mask,
    nodes: Mask,
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (1..4u32, 1..4u32, 1..3u32, 0..70u32, any::<bool>());
    shape.prop_flat_map(|(packages, cores, threads, spare, holes)| {
        let count = packages * cores * threads;
        let all: Vec<u32> = (0..count).collect();
        let online = if holes { 1..=all.len() } else { all.len()..=all.len() };
        let numbers = Just(all.clone()).prop_shuffle();
        let nodes = subsequence((0..packages).collect::<Vec<u32>>(), 1..=packages as usize);
        (numbers, subsequence(all, online), nodes).prop_flat_map(move |(numbers, online, nodes)| {
            let visible = subsequence(online.clone(), 1..=online.len());
            let (online, nodes): (Mask, Mask) =
                (online.into_iter().collect(), nodes.into_iter().collect());
            visible.prop_map(move |visible| Case {
                packages,
                cores,
                threads,
                numbers: numbers.clone(),
                spare,
                online: online.clone(),
                visible: visible.into_iter().collect(),
                nodes: nodes.clone(),
            })
        })
    })
}

/// Where a CPU is: package, core and thread.
type Place = [u32; 3];

impl Case {
    fn place(&self, cpu: u32) -> Place {
        let index = self.numbers.iter().position(|&number| number == cpu).unwrap();
        let index = u32::try_from(index).unwrap();
        let per_package = self.cores * self.threads;
        [index / per_package, index % per_package / self.threads, index % self.threads]
    }

    /// The online CPUs that are in the same package, or the same core of it.
    fn group(&self, cpu: u32, depth: usize) -> Mask {
        let same = |other: &u32| self.place(*other)[..depth] == self.place(cpu)[..depth];
        self.online.iter().filter(same).collect()
    }

    fn machine(&self) -> Machine {
        let bits = u32::try_from(self.numbers.len()).unwrap() + self.spare;
        let mut machine = Machine::default();
        let mut put = |path: String, text: String| {
            machine.files.insert(path, text.into_bytes());
        };
        let list = |mask: &Mask| write(mask) + "\n";
        let hex = |mask: &Mask| {
            let mut text = Vec::new();
            mask.write_hex(bits, &mut text);
            String::from_utf8(text).unwrap() + "\n"
        };
        put(format!("{CPU}/online"), list(&self.online));
        put(format!("{CPU}/possible"), list(&Mask::first(bits)));
        put(format!("{CPU}/present"), list(&self.numbers.iter().copied().collect()));
        put(format!("{CPU}/offline"), "\n".into());
        put(format!("{CPU}/kernel_max"), "8191\n".into());
        put(format!("{CPU}/isolated"), list(&self.group(self.online.nth(0).unwrap(), 1)));
        put(format!("{CPU}/nohz_full"), "(null)\n".into());
        let mut cpuinfo = String::new();
        for cpu in self.online.iter() {
            let [package, core, _] = self.place(cpu);
            let (siblings, threads) = (self.group(cpu, 1), self.group(cpu, 2));
            let dir = format!("{CPU}/cpu{cpu}");
            put(format!("{dir}/topology/core_id"), format!("{core}\n"));
            put(format!("{dir}/topology/physical_package_id"), format!("{package}\n"));
            for (names, group) in [
                (["core_siblings", "package_cpus"], &siblings),
                (["thread_siblings", "core_cpus"], &threads),
            ] {
                for name in names {
                    put(format!("{dir}/topology/{name}"), hex(group));
                    put(format!("{dir}/topology/{name}_list"), list(group));
                }
            }
            for (index, group) in [(0, &threads), (3, &siblings)] {
                put(format!("{dir}/cache/index{index}/shared_cpu_map"), hex(group));
                put(format!("{dir}/cache/index{index}/shared_cpu_list"), list(group));
            }
            let mut cores: Vec<u32> = siblings.iter().map(|cpu| self.place(cpu)[1]).collect();
            cores.sort_unstable();
            cores.dedup();
            cpuinfo += &format!(
                "processor\t: {cpu}\nphysical id\t: {package}\nsiblings\t: {}\ncore id\t\t: {core}\n\
                 cpu cores\t: {}\nflags\t\t: fpu\n\n",
                siblings.len(),
                cores.len(),
            );
        }
        put("/proc/cpuinfo".into(), cpuinfo);
        let nodes: Vec<u32> = (0..self.packages).collect();
        for name in ["online", "possible", "has_cpu", "has_memory"] {
            put(format!("{NODE}/{name}"), list(&nodes.iter().copied().collect()));
        }
        let mut facts = Vec::new();
        for number in nodes {
            let on_node = |cpu: &u32| self.place(*cpu)[0] == number;
            let cpus: Mask = self.online.iter().filter(on_node).collect();
            let dir = format!("{NODE}/node{number}");
            put(format!("{dir}/cpulist"), list(&cpus));
            put(format!("{dir}/cpumap"), hex(&cpus));
            let distances = (0..self.packages).map(|to| if to == number { "10" } else { "21" });
            put(format!("{dir}/distance"), distances.collect::<Vec<_>>().join(" ") + "\n");
            put(format!("{dir}/numastat"), "numa_hit 4711\nnuma_miss 7\n".into());
            for cpu in cpus.iter() {
                machine.links.insert(format!("{dir}/cpu{cpu}"));
                machine.links.insert(format!("{CPU}/cpu{cpu}/node{number}"));
            }
            facts.push(HostNode { number, cpus, total: Bytes(1 << 30) });
        }
        let online = list(&self.online);
        machine.facts = HostFacts::parse(b"", online.as_bytes(), facts, Bytes(4096)).unwrap();
        machine
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_two_files_contradict_each_other(case in case()) {
        let machine = case.machine();
        let shown = machine.show(&case.visible, &case.nodes);
        prop_assert_eq!(&shown.limits.visible, &case.visible);
        prop_assert_eq!(&shown.limits.nodes, &case.nodes);
        shown.check(&machine);
        // The topology is that of the physical CPUs: together here just if together there.
        for (a, physical_a) in (0..).zip(case.visible.iter()) {
            let cores = shown.list(&format!("{CPU}/cpu{a}/topology/core_cpus_list")).unwrap();
            let package = shown.list(&format!("{CPU}/cpu{a}/topology/package_cpus_list")).unwrap();
            for (b, physical_b) in (0..).zip(case.visible.iter()) {
                let (place_a, place_b) = (case.place(physical_a), case.place(physical_b));
                prop_assert_eq!(cores.contains(b), place_a[..2] == place_b[..2]);
                prop_assert_eq!(package.contains(b), place_a[0] == place_b[0]);
            }
        }
    }

    #[test]
    fn nodes_are_those_of_the_container(case in case()) {
        let machine = case.machine();
        let shown = machine.show(&case.visible, &case.nodes);
        for name in ["online", "possible", "has_memory"] {
            prop_assert_eq!(shown.list(&format!("{NODE}/{name}")), Some(case.nodes.clone()));
        }
        let has_cpu = shown.list(&format!("{NODE}/has_cpu")).unwrap();
        for number in 0..case.packages {
            let dir = format!("{NODE}/node{number}");
            prop_assert_eq!(shown.dirs.contains(&dir), case.nodes.contains(number));
            if !case.nodes.contains(number) {
                continue;
            }
            let cpus = shown.list(&format!("{dir}/cpulist")).unwrap();
            prop_assert_eq!(has_cpu.contains(number), !cpus.is_empty());
            for cpu in 0..shown.count() {
                let links = [format!("{dir}/cpu{cpu}"), format!("{CPU}/cpu{cpu}/node{number}")];
                for link in links {
                    prop_assert_eq!(shown.links.contains_key(&link), cpus.contains(cpu));
                }
            }
            let distances = shown.text(&format!("{dir}/distance"));
            prop_assert_eq!(distances.split(' ').count(), case.nodes.len() as usize);
            prop_assert_eq!(distances.matches("10").count(), 1);
        }
    }

    #[test]
    fn all_cpus_and_nodes_are_the_hosts_bytes(case in case()) {
        prop_assume!(case.online == Mask::first(case.packages * case.cores * case.threads));
        let machine = case.machine();
        let shown = machine.show(&case.online, &Mask::first(case.packages));
        for (path, text) in &shown.files {
            // A container has no CPUs to plug in.
            if path != &format!("{CPU}/possible") {
                prop_assert_eq!(text, &machine.files[path], "{}", path);
            }
        }
        prop_assert!(shown.files.keys().eq(machine.files.keys()));
        prop_assert!(shown.links.keys().eq(machine.links.iter()));
    }

    #[test]
    fn any_bytes_render(case in case(), host in text(), path in 0usize..400) {
        let machine = case.machine();
        let paths: Vec<&String> = machine.files.keys().collect();
        let shown = machine.show(&case.visible, &case.nodes);
        let view = View {
            snapshot: &Snapshot::default(),
            now: Usec::ZERO,
            host: &machine.facts,
            policy: &Policy::default(),
            cpus: &shown.limits,
            cpu_view: &CpuView::default(),
            load: None,
            reader: Reader::default(),
        };
        let Some(Entry::File(file)) = Entry::at(paths[path % paths.len()]) else { return Ok(()) };
        let mut out = Vec::new();
        let _ = view.render(file, &host, &mut out);
        prop_assert!(out.len() <= 16 * (host.len() + 1024));
        out.clear();
        view.render(File::Proc(ProcFile::Cpuinfo), &host, &mut out).unwrap();
        prop_assert!(out.len() <= 16 * (host.len() + 1));
    }
}

proptest! {
    #[test]
    fn node_meminfo_adds_up_to_meminfo(
        sizes in vec(0u64..1 << 30, 1..5),
        limit in prop_oneof![Just(None), (0u64..1 << 41).prop_map(Some)],
        numbers in vec(0u64..1 << 41, 6),
        visible in any::<u8>(),
    ) {
        const LINES: [&str; 8] =
            ["MemTotal", "MemFree", "Mlocked", "AnonPages", "Active(anon)", "Slab", "Bounce", "SwapCached"];
        let kib: u64 = sizes.iter().sum();
        let text = |prefix: &str, size: u64| -> String {
            let line = |(place, name): (u64, &&str)| format!("{prefix}{name}: {} kB\n", size / (place + 1));
            (0..).zip(&LINES).map(line).collect()
        };
        let nodes: Vec<String> =
            (0..).zip(&sizes).map(|(node, &size): (u32, _)| text(&format!("Node {node} "), size)).collect();
        // The machine's numbers are the sums of its nodes'.
        let total = |name: &str| nodes.iter().map(|text| field(text, name)).sum::<u64>();
        let meminfo: String = LINES.map(|name| format!("{name}: {} kB\n", total(name))).concat();
        let facts = (0..).zip(&nodes).map(|(number, text)| {
            HostNode::parse(number, b"", text.as_bytes()).unwrap()
        });
        let host = HostFacts::parse(meminfo.as_bytes(), b"0", facts.collect(), Bytes(4096)).unwrap();
        let mems: Mask = (0..u32::try_from(sizes.len()).unwrap()).filter(|node| visible >> node & 1 == 1).collect();

        let bytes = |place: usize| Some(Bytes(numbers[place]));
        let stat = MemoryStat {
            anon: bytes(0),
            active_anon: bytes(1),
            unevictable: bytes(2),
            slab_reclaimable: bytes(3),
            slab_unreclaimable: bytes(4),
            ..MemoryStat::default()
        };
        let cgroup = Arc::new(Cgroup { path: "/app".into(), version: Version::V2 });
        let level = MemoryLevel {
            cgroup: cgroup.clone(),
            usage: Bytes(numbers[5]),
            max: limit.map_or(Limit::Max, |limit| Limit::At(Bytes(limit))),
            high: Limit::Max,
            min: Bytes::ZERO,
            low: Bytes::ZERO,
            swap: None,
            stat: Some(stat),
        };
        let cpuset = Cpuset { cgroup, cpus: Mask::first(1), mems };
        let snapshot = Snapshot { memory: vec![level], cpuset: Some(cpuset), ..Snapshot::default() };
        let policy = Policy::default();
        let cpus = CpuLimits::of(&snapshot, &host, &policy);
        let view = View {
            snapshot: &snapshot,
            now: Usec::ZERO,
            host: &host,
            policy: &policy,
            cpus: &cpus,
            cpu_view: &CpuView::default(),
            load: None,
            reader: Reader::default(),
        };
        let render = |path: &str, host: &str| {
            let Some(Entry::File(file)) = Entry::at(path) else { panic!("no {path}") };
            let mut text = Vec::new();
            view.render(file, host.as_bytes(), &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        let whole = render("/proc/meminfo", &meminfo);
        let shown: Vec<String> = cpus
            .nodes
            .iter()
            .map(|node| render(&format!("{NODE}/node{node}/meminfo"), &nodes[node as usize]))
            .collect();
        for name in LINES {
            let sum: u64 = shown.iter().map(|text| field(text, name)).sum();
            prop_assert_eq!(sum, field(&whole, name), "{} of {} kB: {}", name, kib, whole);
        }
        for text in &shown {
            for name in LINES {
                prop_assert!(field(text, name) <= field(text, "MemTotal"), "{}: {}", name, text);
            }
        }
    }
}

/// The number of KiB in the line of that name.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.contains(&format!("{name}:"))).unwrap();
    line.split_once(':').unwrap().1.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Any bytes, and bytes that look like something.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(b"processor\t: ".to_vec()),
        Just(b"processor 7: version = FF\n".to_vec()),
        Just(b"\ncpu number      : 1\n".to_vec()),
        Just(b"siblings\t: ".to_vec()),
        Just(b"cpu cores\t: ".to_vec()),
        Just(b"# processors : ".to_vec()),
        Just(b"cpu active mask : ".to_vec()),
        Just(b"CPU1: online\n".to_vec()),
        Just(b"Node 0 MemTotal: ".to_vec()),
        Just(b"ffffffff,".to_vec()),
        Just(b"\n".to_vec()),
        any::<u8>().prop_map(|number| number.to_string().into_bytes()),
        vec(any::<u8>(), 0..8),
    ];
    vec(word, 0..40).prop_map(|words| words.concat())
}

#[test]
fn a_cpu_or_node_that_is_not_the_containers_has_no_text() {
    let facts = HostFacts {
        online: Mask::first(4),
        nodes: vec![HostNode { number: 0, cpus: Mask::first(4), total: Bytes(1) }],
        ..HostFacts::default()
    };
    let cpus = CpuLimits { set: Mask::first(2), visible: Mask::first(2), ..CpuLimits::default() };
    let view = View {
        snapshot: &Snapshot::default(),
        now: Usec::ZERO,
        host: &facts,
        policy: &Policy::default(),
        cpus: &cpus,
        cpu_view: &CpuView::default(),
        load: None,
        reader: Reader::default(),
    };
    for path in ["/cpu/cpu2/topology/core_id", "/node/node0/distance", "/cpu/cpu3/online"] {
        let entry = Entry::at(&format!("/sys/devices/system{path}")).unwrap();
        let Entry::File(file) = entry else { panic!("{path}") };
        assert!(!view.shows(entry) && view.host_path(entry).is_none());
        assert!(view.render(file, b"0\n", &mut Vec::new()).is_err());
    }
    // Readable by root only on the host.
    for name in ["topology/ppin", "crash_notes", "cpufreq/cpuinfo_cur_freq"] {
        assert_eq!(Entry::at(&format!("{CPU}/cpu0/{name}")), None);
    }
}
