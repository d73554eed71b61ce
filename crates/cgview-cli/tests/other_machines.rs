//! What a container on a machine of another architecture is told of its CPUs, by `cgview show --host-root`,
//! and that lscpu of util-linux finds no contradiction in it.
//!
//! The machines are those of [`machines`], and, where `CGVIEW_HOST_DUMPS` names a folder of them, `/proc` and
//! `/sys` trees of real ones, each `NAME.tar.gz` with a directory of that name: what util-linux collects for its
//! own tests (`tests/ts/lscpu/dumps` of its repository).
//!
//! ```text
//! /
//! └── ct     cpuset.cpus.effective: 1 or 3 CPUs of the machine, or cpu.max for one   <- process 300
//! ```
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod machines;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use cgview_testkit::{FakeHost, FakeProcess, skip};
use machines::{CPU, Machine, NODE, list};
use serde_json::Value;
use tempfile::TempDir;

const PID: u32 = 300;

/// Gives the host of each machine, with no container on it yet.
fn hosts() -> impl Iterator<Item = (String, FakeHost)> {
    let made = Machine::all().into_iter().map(|machine| {
        let host = FakeHost::new();
        machine.write(&host);
        (machine.name.to_owned(), host)
    });
    let folder = std::env::var_os("CGVIEW_HOST_DUMPS");
    let archives: Vec<_> = folder.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).collect();
    let dumps = archives.into_iter().filter_map(|archive| {
        let archive = archive.unwrap().path();
        let name = archive.file_name()?.to_str()?.strip_suffix(".tar.gz")?.to_owned();
        let host = FakeHost::new();
        host.remove("/sys/devices/system/cpu");
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&archive).arg("-C").arg(host.path());
        tar.args(["--no-same-owner", "--strip-components=1"]);
        assert!(tar.status().unwrap().success(), "{name}");
        complete(&host);
        Some((name, host))
    });
    made.chain(dumps)
}

/// Adds what every kernel has and lscpu has no need of.
fn complete(host: &FakeHost) {
    for number in nodes(host) {
        let dir = format!("{NODE}/node{number}");
        let at = |name: &str| host.path().join(&dir[1..]).join(name);
        if !at("cpulist").exists() {
            let cpus = parse_mask(&fs::read_to_string(at("cpumap")).unwrap());
            host.file(&format!("{dir}/cpulist"), &format!("{}\n", list(&cpus)));
        }
        if !at("meminfo").exists() {
            host.file(&format!("{dir}/meminfo"), &format!("Node {number} MemTotal: 524288 kB\n"));
        }
    }
}

/// The numbers of a host's nodes.
fn nodes(host: &FakeHost) -> Vec<u32> {
    let entries = fs::read_dir(host.path().join(&NODE[1..])).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let numbers = names.filter_map(|name| name.to_str()?.strip_prefix("node")?.parse().ok());
    let mut nodes: Vec<u32> = numbers.collect();
    nodes.sort_unstable();
    nodes
}

/// The numbers of a list of CPUs.
fn parse_list(text: &str) -> Vec<u32> {
    let ranges = text.trim().split(',').filter(|range| !range.is_empty());
    let bounds = ranges.map(|range| range.split_once('-').unwrap_or((range, range)));
    bounds.flat_map(|(first, last)| first.parse::<u32>().unwrap()..=last.parse().unwrap()).collect()
}

/// The numbers of a mask of CPUs.
fn parse_mask(text: &str) -> Vec<u32> {
    let words = text.trim().split(',').rev().map(|word| u32::from_str_radix(word, 16).unwrap());
    let bits = words.enumerate().flat_map(|(number, word)| {
        (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| (number, bit))
    });
    bits.map(|(number, bit)| u32::try_from(number).unwrap() * 32 + bit).collect()
}

/// A container with these CPUs, and so much time of each 100 ms.
struct Cgroup {
    cpus: Vec<u32>,
    quota: Option<u32>,
}

impl Cgroup {
    /// How many CPUs it shows: `docs/semantics.md`, section 2.
    fn visible(&self) -> u32 {
        let set = u32::try_from(self.cpus.len()).unwrap();
        self.quota.map_or(set, |quota| quota.div_ceil(100_000).min(set))
    }

    fn put(&self, host: &mut FakeHost) {
        let nodes = nodes(host);
        host.mount_v2("/sys/fs/cgroup");
        let max = self.quota.map_or("max".into(), |quota| quota.to_string());
        host.files(
            "/sys/fs/cgroup/ct",
            &[
                ("cgroup.procs", "300\n"),
                ("memory.current", "1048576\n"),
                ("memory.max", "268435456\n"),
                ("memory.stat", "anon 524288\nfile 524288\n"),
                ("cpu.max", &format!("{max} 100000\n")),
                ("cpu.stat", "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n"),
                ("cpuset.cpus.effective", &format!("{}\n", list(&self.cpus))),
                ("cpuset.mems.effective", &format!("{}\n", list(&nodes))),
            ],
        );
        host.process(&FakeProcess {
            pid: PID,
            ppid: 1,
            nspid: &[PID, 1],
            cgroup: "0::/ct\n",
            pid_namespace: 4_026_532_100,
            cgroup_namespace: 4_026_532_200,
            mountinfo: "50 1 0:38 /ct /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ..FakeProcess::default()
        });
    }
}

fn show(host: &FakeHost, arguments: &[String]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgview"));
    command
        .args(["show", "--json", "--pid", "300", "--host-root"])
        .arg(host.path())
        .args(arguments);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the container is told, by path.
struct Shown {
    files: BTreeMap<String, String>,
}

impl Shown {
    fn of(host: &FakeHost) -> Shown {
        let summary = show(host, &[]);
        let path = |file: &Value| file["path"].as_str().unwrap().to_owned();
        let paths: Vec<String> = summary["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(path)
            .filter(|path| path == "/proc/cpuinfo" || path.starts_with("/sys/"))
            .collect();
        let texts = show(host, &paths);
        let files = texts["files"].as_array().unwrap().iter();
        let files =
            files.map(|file| (path(file), file["text"].as_str().unwrap().to_owned())).collect();
        Shown { files }
    }

    /// The files, for lscpu.
    fn write(&self) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in &self.files {
            let path = root.path().join(&path[1..]);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// The groups of CPUs that the files of that name below each CPU's directory tell of, each once, in place
    /// of the file. A group holds the CPU whose file it is, and all CPUs in it tell of the same one.
    fn groups(&self, name: &str, visible: u32) -> BTreeSet<Vec<u32>> {
        let mut groups = BTreeSet::new();
        for cpu in 0..visible {
            let Some(text) = self.files.get(&format!("{CPU}/cpu{cpu}/{name}")) else { continue };
            let group = if name.ends_with("list") { parse_list(text) } else { parse_mask(text) };
            assert!(group.contains(&cpu), "{name} of {cpu}: {group:?}");
            assert!(group.iter().all(|cpu| *cpu < visible), "{name} of {cpu}: {group:?}");
            groups.insert(group);
        }
        let members: Vec<u32> = groups.iter().flatten().copied().collect();
        let distinct: BTreeSet<u32> = members.iter().copied().collect();
        assert_eq!(members.len(), distinct.len(), "{name}: a CPU in two groups: {groups:?}");
        groups
    }

    /// The names of files below the CPUs' directories that tell of groups.
    fn group_names(&self) -> BTreeSet<String> {
        let below = format!("{CPU}/cpu0/");
        let names = self.files.keys().filter_map(|path| path.strip_prefix(&below));
        let is_group = |name: &&str| {
            name.starts_with("topology/") && !name.ends_with("_id") || name.contains("shared_cpu_")
        };
        names.filter(is_group).map(str::to_owned).collect()
    }
}

fn lscpu(root: &Path, arguments: &[&str]) -> String {
    let mut lscpu = Command::new("lscpu");
    lscpu.arg("--sysroot").arg(root).args(arguments).env("LC_ALL", "C");
    let output = lscpu.output().unwrap();
    assert!(output.status.success(), "lscpu: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The values of lscpu's table, by name. A name that is there several times, once for each model of CPUs, has
/// several values.
fn table(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in lscpu(root, &[]).lines().filter_map(|line| line.split_once(':')) {
        values.entry(name.trim().into()).or_default().push(value.trim().into());
    }
    values
}

/// Whether this lscpu knows the CPUs of a machine as it is, without a container; before 2.39 it does not know
/// those of RISC-V, and only counts them.
fn is_understood(host: &FakeHost) -> bool {
    let rows = lscpu(host.path(), &["--parse=CPU", "--all"]);
    let mut rows = rows.lines().filter(|line| !line.starts_with('#')).peekable();
    rows.peek().is_some() && rows.all(|row| row.parse::<u32>().is_ok())
}

fn check(case: &str, shown: &Shown, visible: u32, is_understood: bool) {
    let root = shown.write();
    let all: Vec<u32> = (0..visible).collect();

    // What is told, by itself.
    for name in ["online", "possible", "present"] {
        let Some(text) = shown.files.get(&format!("{CPU}/{name}")) else { continue };
        assert_eq!(parse_list(text), all, "{case}: {name}");
    }
    for name in shown.group_names() {
        let groups = shown.groups(&name, visible);
        let covered: BTreeSet<u32> = groups.iter().flatten().copied().collect();
        assert_eq!(covered.into_iter().collect::<Vec<_>>(), all, "{case}: {name}");
        // The list, where there is one, tells what the mask does.
        let twin = match name.strip_suffix("_map") {
            Some(name) => format!("{name}_list"),
            None => format!("{name}_list"),
        };
        if shown.files.contains_key(&format!("{CPU}/cpu0/{twin}")) {
            assert_eq!(shown.groups(&twin, visible), groups, "{case}: {name}");
        }
    }
    // Threads of a core are in one package.
    let packages = shown.groups("topology/core_siblings_list", visible);
    for core in shown.groups("topology/thread_siblings_list", visible) {
        let holds = |package: &&Vec<u32>| core.iter().all(|cpu| package.contains(cpu));
        assert_eq!(packages.iter().filter(holds).count(), 1, "{case}: {core:?} in {packages:?}");
    }

    // What lscpu makes of it.
    let table = table(root.path());
    let one = |name: &str| match table.get(name).map(Vec::as_slice) {
        Some([value]) => Some(value.as_str()),
        _ => None,
    };
    assert_eq!(one("CPU(s)"), Some(visible.to_string().as_str()), "{case}: {table:?}");
    assert_eq!(parse_list(one("On-line CPU(s) list").unwrap()), all, "{case}: {table:?}");
    assert!(!table.contains_key("Off-line CPU(s) list"), "{case}: {table:?}");
    if !is_understood {
        return;
    }
    let rows = lscpu(root.path(), &["--parse=CPU,NODE", "--all"]);
    let rows = rows.lines().filter(|line| !line.starts_with('#'));
    let rows: BTreeMap<u32, String> = rows
        .map(|row| row.split_once(',').unwrap())
        .map(|(cpu, node)| (cpu.parse().unwrap(), node.to_owned()))
        .collect();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), all, "{case}");
    check_product(case, shown, &table, visible);
    check_caches(case, shown, &table, visible);
    check_nodes(case, shown, &table, &rows, visible);
}

/// Threads, cores and sockets: none of them more than there are CPUs, and their product all CPUs where each
/// part has as many parts as any other.
fn check_product(case: &str, shown: &Shown, table: &BTreeMap<String, Vec<String>>, visible: u32) {
    let names = ["Thread(s) per core", "Core(s) per socket", "Socket(s)", "Socket(s) per book"];
    let names = names.into_iter().chain(["Book(s)", "Book(s) per drawer", "Drawer(s)"]);
    let values: Vec<&Vec<String>> = names.filter_map(|name| table.get(name)).collect();
    let models = values.iter().map(|values| values.len()).max().unwrap_or_default();
    let mut sum = 0;
    for model in 0..models {
        let numbers = values.iter().filter_map(|values| values.get(model)?.parse::<u32>().ok());
        sum += numbers.product::<u32>();
    }
    let sizes = |name: &str| -> BTreeSet<usize> {
        shown.groups(name, visible).iter().map(Vec::len).collect()
    };
    let even = ["thread_siblings", "core_siblings", "book_siblings"]
        .iter()
        .all(|name| sizes(&format!("topology/{name}")).len() <= 1);
    if models == 1 && even {
        assert_eq!(sum, visible, "{case}: {table:?}");
    }
    for value in values.into_iter().flatten().filter_map(|value| value.parse::<u32>().ok()) {
        assert!(value <= visible, "{case}: {table:?}");
    }
}

/// As many caches as there are groups of CPUs that share one.
fn check_caches(case: &str, shown: &Shown, table: &BTreeMap<String, Vec<String>>, visible: u32) {
    for index in 0..10 {
        let dir = format!("cache/index{index}");
        let file = |name: &str| shown.files.get(&format!("{CPU}/cpu0/{dir}/{name}"));
        let (Some(level), Some(kind), Some(_)) = (file("level"), file("type"), file("size")) else {
            continue;
        };
        let kind = match kind.trim() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        let name = format!("L{}{kind} cache", level.trim());
        let Some(values) = table.get(&name) else { continue };
        let count = shown.groups(&format!("{dir}/shared_cpu_map"), visible).len();
        let instances = if count == 1 { "instance" } else { "instances" };
        let expected = format!("({count} {instances})");
        assert!(values[0].ends_with(&expected), "{case}: {name} {values:?}, not {expected}");
    }
}

/// Each CPU is in one node, which lscpu and the node's own files agree on.
fn check_nodes(
    case: &str,
    shown: &Shown,
    table: &BTreeMap<String, Vec<String>>,
    rows: &BTreeMap<u32, String>,
    visible: u32,
) {
    let name = |path: &str| {
        let (node, file) = path.strip_prefix(&format!("{NODE}/node"))?.split_once('/')?;
        (file == "cpumap").then(|| node.parse::<u32>().unwrap())
    };
    let nodes: Vec<u32> = shown.files.keys().filter_map(|path| name(path)).collect();
    if nodes.is_empty() {
        return;
    }
    let mut cpus = Vec::new();
    for node in &nodes {
        let own = parse_mask(&shown.files[&format!("{NODE}/node{node}/cpumap")]);
        if let Some(text) = shown.files.get(&format!("{NODE}/node{node}/cpulist")) {
            assert_eq!(parse_list(text), own, "{case}: node {node}");
        }
        let value =
            table.get(&format!("NUMA node{node} CPU(s)")).map(|values| parse_list(&values[0]));
        assert_eq!(value.as_ref(), Some(&own), "{case}: {table:?}");
        for cpu in &own {
            assert_eq!(rows[cpu], node.to_string(), "{case}: CPU {cpu}");
        }
        cpus.extend(own);
    }
    cpus.sort_unstable();
    assert_eq!(cpus, (0..visible).collect::<Vec<_>>(), "{case}");
    assert_eq!(table["NUMA node(s)"], [nodes.len().to_string()], "{case}");
}

// docs/semantics.md, section 4: "One renumbering: visible CPUs are 0..n-1"; "Works on x86-64, arm64, armv7, s390x,
// ppc64, riscv64, loongarch64, sparc64 texts".
#[test]
fn lscpu_finds_no_contradiction_on_any_architecture() {
    if Command::new("lscpu").arg("--version").output().is_err() {
        return skip("needs lscpu");
    }
    let mut understood = 0;
    for (name, mut host) in hosts() {
        let is_understood = is_understood(&host);
        understood += u32::from(is_understood);
        let online = fs::read_to_string(host.path().join("sys/devices/system/cpu/online")).unwrap();
        let online = parse_list(&online);
        let at = |part: usize| online[(online.len() - 1) * part / 2];
        let mut cgroups = vec![
            Cgroup { cpus: vec![at(0)], quota: None },
            Cgroup { cpus: vec![at(2)], quota: None },
            Cgroup { cpus: online.clone(), quota: Some(100_000) },
        ];
        if online.len() >= 3 {
            cgroups.push(Cgroup { cpus: online[..3].to_vec(), quota: None });
            cgroups.push(Cgroup { cpus: vec![at(0), at(1), at(2)], quota: None });
            cgroups.push(Cgroup { cpus: online.clone(), quota: Some(250_000) });
        }
        for cgroup in cgroups {
            cgroup.put(&mut host);
            let case = format!("{name}, CPUs {}, quota {:?}", list(&cgroup.cpus), cgroup.quota);
            check(&case, &Shown::of(&host), cgroup.visible(), is_understood);
        }
    }
    assert!(understood >= 3, "{understood}");
}
