//! A machine's files in memory, and what a container on it is shown of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cgview_core::{
    File, HostFacts, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    host::HostMemory,
    snapshot::{Cgroup, Cpuset, Version},
    tree::{Dir, Entry},
    view::Parts,
};

pub(crate) const CPU: &str = "/sys/devices/system/cpu";
pub(crate) const NODE: &str = "/sys/devices/system/node";

/// A machine: its files and links by path, and what the core is told about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) facts: HostFacts,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) links: BTreeSet<String>,
}

/// What a container is shown: texts by path, and where links point.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) limits: CpuLimits,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) links: BTreeMap<String, String>,
    pub(crate) dirs: BTreeSet<String>,
}

impl Machine {
    pub(crate) fn has(&self, path: &str) -> bool {
        let below = format!("{}/", path.trim_end_matches('/'));
        let mut from = self.files.range(below.clone()..);
        self.files.contains_key(path)
            || self.links.contains(path)
            || from.next().is_some_and(|(path, _)| path.starts_with(&below))
    }

    /// Walks the view of a container that has these CPUs and nodes in its cpuset, as `ls -R` would, and
    /// reads everything.
    pub(crate) fn show(&self, cpus: &Mask, mems: &Mask) -> Shown {
        let cgroup = Arc::new(Cgroup { path: "/app".into(), version: Version::V2 });
        let cpuset = Cpuset { cgroup, cpus: cpus.clone(), mems: mems.clone() };
        let snapshot = Snapshot { cpuset: Some(cpuset), ..Snapshot::default() };
        let policy = Policy::default();
        let limits = CpuLimits::of(&snapshot, &self.facts, &policy);
        let view = View {
            snapshot: &snapshot,
            now: Usec::ZERO,
            host: &self.facts,
            policy: &policy,
            cpus: &limits,
            cpu_view: &CpuView::default(),
            load: None,
            reader: Reader::default(),
        };
        let mut shown = Shown { limits: limits.clone(), ..Shown::default() };
        self.walk(&view, Dir::Root, &mut shown);
        shown
    }

    fn walk(&self, view: &View<'_>, dir: Dir, shown: &mut Shown) {
        for entry in view.list(dir, |path| self.has(path)) {
            assert!(view.shows(entry), "{}", entry.path());
            match entry {
                Entry::Dir(dir) => {
                    shown.dirs.insert(entry.path());
                    self.walk(view, dir, shown);
                }
                Entry::Link(link) => {
                    shown.links.insert(entry.path(), link.target());
                }
                Entry::File(file) => {
                    let host = &self.files[&view.host_path(entry).unwrap()];
                    let (mut text, mut explained) = (Vec::new(), Vec::new());
                    view.render(file, host, &mut text).unwrap();
                    let explanation = view.explain(file, host, &mut explained).unwrap();
                    assert_eq!(text, explained);
                    assert_eq!(text, bare(view, file, host), "{}", entry.path());
                    assert!(explanation.notes.iter().all(|(range, _)| range.end <= text.len()));
                    assert!(text == *host || !explanation.notes.is_empty(), "{}", entry.path());
                    shown.files.insert(entry.path(), text);
                }
            }
        }
    }
}

/// The text of a file by what is among its parts alone.
fn bare(view: &View<'_>, file: File, host: &[u8]) -> Vec<u8> {
    let (mut facts, mut cpus) = (view.host.clone(), view.cpus.clone());
    if !file.parts().contain(Parts::MEMORY) {
        facts.memory = HostMemory::default();
    }
    if !file.parts().contain(Parts::NODES) {
        cpus.nodes = Mask::new();
    }
    let mut text = Vec::new();
    View { host: &facts, cpus: &cpus, ..*view }.render(file, host, &mut text).unwrap();
    text
}

impl Shown {
    pub(crate) fn count(&self) -> u32 {
        self.limits.visible.len()
    }

    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.files[path].clone()).unwrap()
    }

    /// The list in the file at `path`, if there is one.
    pub(crate) fn list(&self, path: &str) -> Option<Mask> {
        self.files.get(path).map(|text| Mask::parse_list(text).unwrap())
    }

    /// Checks that no two files contradict each other.
    pub(crate) fn check(&self, machine: &Machine) {
        let all = Mask::first(self.count());
        let list = format!("{all_list}\n", all_list = write(&all));
        for name in ["online", "possible", "present", "enabled"] {
            if let Some(text) = self.files.get(&format!("{CPU}/{name}")) {
                assert_eq!(String::from_utf8_lossy(text), list, "{name}");
            }
        }
        if let Some(text) = self.files.get(&format!("{CPU}/offline")) {
            assert_eq!(text, b"\n");
        }
        let is_cpu = |path: &&String| {
            let name = path.strip_prefix(&format!("{CPU}/cpu")).unwrap_or_default();
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
        };
        assert_eq!(self.dirs.iter().filter(is_cpu).count(), all.len() as usize);
        self.check_groups(&all);
        self.check_nodes(machine, &all);
        self.check_cpuinfo(machine);
    }

    /// Every list and mask of CPUs: within the visible CPUs, with the CPU itself, the same for all that
    /// are in it, and the list as the mask.
    fn check_groups(&self, all: &Mask) {
        for (path, text) in &self.files {
            let Some((cpu, name)) =
                path.strip_prefix(&format!("{CPU}/cpu")).and_then(|rest| rest.split_once('/'))
            else {
                continue;
            };
            let own: u32 = match cpu.parse() {
                Ok(own) => own,
                Err(_) => continue,
            };
            let mask_name = match name.strip_suffix("_list") {
                Some(name) if name.contains("shared_cpu") => format!("{name}_map"),
                Some(name) => name.into(),
                None => continue,
            };
            let group = Mask::parse_list(text).unwrap();
            assert_eq!(group.intersection(all), group, "{path}");
            assert!(group.contains(own), "{path}: {}", write(&group));
            for other in group.iter() {
                let theirs = self.list(&format!("{CPU}/cpu{other}/{name}"));
                assert_eq!(theirs.as_ref(), Some(&group), "{path} of {other}");
            }
            if let Some(text) = self.files.get(&format!("{CPU}/cpu{cpu}/{mask_name}")) {
                assert_eq!(Mask::parse_hex(text).unwrap().0, group, "{path}");
            }
        }
    }

    fn check_nodes(&self, machine: &Machine, all: &Mask) {
        let mut covered = Mask::new();
        for number in self.limits.nodes.iter() {
            let dir = format!("{NODE}/node{number}");
            let mask = self.files.get(&format!("{dir}/cpumap"));
            let mask = mask.map(|text| Mask::parse_hex(text).unwrap().0);
            let list = self.list(&format!("{dir}/cpulist"));
            let Some(cpus) = list.clone().or(mask.clone()) else { continue };
            assert_eq!(list.unwrap_or(cpus.clone()), mask.unwrap_or(cpus.clone()));
            assert_eq!(cpus.intersection(all), cpus);
            assert!(cpus.intersection(&covered).is_empty(), "a CPU on two nodes");
            cpus.iter().for_each(|cpu| covered.insert(cpu));
            for cpu in all.iter() {
                let links = [format!("{CPU}/cpu{cpu}/node{number}"), format!("{dir}/cpu{cpu}")];
                for link in links.iter().filter(|link| self.links.contains_key(*link)) {
                    assert!(cpus.contains(cpu), "{link}");
                }
            }
        }
        if self.limits.nodes.len() as usize == machine.facts.nodes.len() && !covered.is_empty() {
            assert_eq!(covered, *all);
        }
        for (link, target) in &self.links {
            let mut path = link.rsplit_once('/').unwrap().0;
            let mut target = target.as_str();
            while let Some(rest) = target.strip_prefix("../") {
                (path, target) = (path.rsplit_once('/').unwrap().0, rest);
            }
            assert!(self.dirs.contains(&format!("{path}/{target}")), "{link}");
        }
    }

    /// One block for each CPU that the host's text has one for, numbered as everywhere, with numbers of
    /// siblings and cores that are those of the topology.
    fn check_cpuinfo(&self, machine: &Machine) {
        let Some(text) = self.files.get("/proc/cpuinfo") else { return };
        let text = String::from_utf8_lossy(text);
        let host = String::from_utf8_lossy(&machine.files["/proc/cpuinfo"]);
        let expected: Vec<u32> = (0..self.count()).collect();
        let numbers = numbers(&text);
        if numbers_of(&host, &self.limits.visible) {
            assert_eq!(numbers, expected, "{text}");
        }
        for block in text.split("\n\n") {
            let field = |name: &str| -> Option<u32> {
                let line = block.lines().find(|line| line.starts_with(name))?;
                line.split_once(':')?.1.trim().parse().ok()
            };
            let (Some(cpu), Some(siblings)) = (field("processor"), field("siblings")) else {
                continue;
            };
            let package = self.list(&format!("{CPU}/cpu{cpu}/topology/core_siblings_list"));
            let Some(package) = package else { continue };
            assert_eq!(siblings, package.len(), "siblings of {cpu}");
            let cores: BTreeSet<String> = package
                .iter()
                .map(|cpu| self.text(&format!("{CPU}/cpu{cpu}/topology/thread_siblings_list")))
                .collect();
            assert_eq!(
                field("cpu cores").map(|cores| cores as usize),
                Some(cores.len()),
                "of {cpu}"
            );
        }
    }
}

/// The CPUs that a text of `/proc/cpuinfo` has a block or a line for.
fn numbers(text: &str) -> Vec<u32> {
    let number = |line: &str| {
        let rest = line.strip_prefix("processor")?;
        let rest = rest.trim_start_matches([' ', '\t']).trim_start_matches(':').trim();
        rest.split(':').next()?.parse().ok()
    };
    text.lines().filter_map(number).collect()
}

fn numbers_of(host: &str, visible: &Mask) -> bool {
    let numbers = numbers(host);
    !numbers.is_empty() && visible.iter().all(|cpu| numbers.contains(&cpu))
}

pub(crate) fn write(mask: &Mask) -> String {
    let mut text = Vec::new();
    mask.write_list(&mut text);
    String::from_utf8(text).unwrap()
}
