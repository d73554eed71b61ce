//! Cgroups for a test.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{is_root, skip};

/// The v1 hierarchies that a test's cgroups are made in, by a controller of each.
const CONTROLLERS: [&str; 7] = ["blkio", "cpu", "cpuacct", "cpuset", "hugetlb", "memory", "pids"];

/// How long removing a cgroup may take: its processes have to die first.
const PATIENCE: Duration = Duration::from_secs(10);

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A tree of cgroups, in all hierarchies that this machine has mounted. Dropping it kills what runs there,
/// and removes it.
#[derive(Debug)]
pub struct Tree {
    hierarchies: Vec<Mounted>,
    name: String,
}

/// A mounted hierarchy.
#[derive(Clone, Debug)]
struct Mounted {
    dir: PathBuf,
    /// Empty for the unified hierarchy.
    controllers: Vec<&'static str>,
}

impl Mounted {
    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }
}

impl Tree {
    /// An empty tree. Without root, or without cgroups, says that the test is skipped.
    #[must_use]
    pub fn new() -> Option<Tree> {
        if !is_root() {
            return None;
        }
        let hierarchies = mounted();
        if hierarchies.is_empty() {
            skip("needs cgroups");
            return None;
        }
        remove_leftovers(&hierarchies);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}", prefix(), std::process::id());
        let tree = Tree { hierarchies, name };
        tree.make("", true);
        Some(tree)
    }

    /// Like [`Tree::new`], for a test that needs all of `controllers`, by their names in v2.
    #[must_use]
    pub fn with(controllers: &[&str]) -> Option<Tree> {
        let tree = Tree::new()?;
        for controller in controllers {
            if !tree.has(controller) {
                skip(&format!("needs the {controller} controller"));
                return None;
            }
        }
        Some(tree)
    }

    /// Whether this machine has a controller, by its name in v2, on any hierarchy.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.v1(controller).is_some()
            || self.unified().is_some_and(|unified| {
                controller == "unified" || controllers_of(&unified.dir).contains(controller)
            })
    }

    /// Whether a controller is on a hierarchy of v1.
    #[must_use]
    pub fn is_v1(&self, controller: &str) -> bool {
        self.v1(controller).is_some()
    }

    fn v1(&self, controller: &str) -> Option<&Mounted> {
        let name = if controller == "io" { "blkio" } else { controller };
        self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.contains(&name))
    }

    fn unified(&self) -> Option<&Mounted> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.is_unified())
    }

    /// The cgroup at `path` of the tree, made if need be, with all controllers. Its ancestors may not have
    /// processes, as cgroup v2 has it.
    #[must_use]
    pub fn cgroup(&self, path: &str) -> Cgroup {
        self.make(path, true)
    }

    /// Like [`Tree::cgroup`], but on v2 without any controller of its own.
    #[must_use]
    pub fn bare_cgroup(&self, path: &str) -> Cgroup {
        self.make(path, false)
    }

    fn make(&self, path: &str, controllers: bool) -> Cgroup {
        for hierarchy in &self.hierarchies {
            let mut dir = hierarchy.dir.clone();
            let names = path.split('/').filter(|name| !name.is_empty());
            for name in [self.name.as_str()].into_iter().chain(names) {
                let parent = dir.clone();
                dir.push(name);
                let new = match fs::create_dir(&dir) {
                    Ok(()) => true,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                    Err(error) => panic!("{}: {error}", dir.display()),
                };
                if hierarchy.is_unified() {
                    if controllers {
                        for controller in controllers_of(&parent) {
                            put(&parent.join("cgroup.subtree_control"), &format!("+{controller}"));
                        }
                    }
                } else if new && hierarchy.controllers.contains(&"cpuset") {
                    // A new cgroup of v1 may run nowhere.
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        put(&dir.join(file), fs::read_to_string(parent.join(file)).unwrap().trim());
                    }
                }
            }
        }
        let relative = Path::new(&self.name).join(path);
        Cgroup {
            hierarchies: self.hierarchies.clone(),
            path: relative.to_str().unwrap().trim_end_matches('/').into(),
        }
    }
}

/// What the names of the trees begin with that tests of this pid namespace make; the pid of the test
/// follows, which says nothing to those of other namespaces.
fn prefix() -> String {
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    format!("cgview-tree-{namespace}-")
}

impl Drop for Tree {
    fn drop(&mut self) {
        for hierarchy in &self.hierarchies {
            remove(&hierarchy.dir.join(&self.name));
        }
    }
}

/// A cgroup, in all hierarchies.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchies: Vec<Mounted>,
    path: String,
}

impl Cgroup {
    /// Its path in all hierarchies.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.path)
    }

    /// Its directories.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.dir.join(&self.path)).collect()
    }

    /// Its directory in the hierarchy that a controller is on, by its name in v2, or `unified`.
    #[must_use]
    pub fn dir(&self, controller: &str) -> PathBuf {
        let name = if controller == "io" { "blkio" } else { controller };
        let v1 = self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.contains(&name));
        let unified = || self.hierarchies.iter().find(|hierarchy| hierarchy.is_unified());
        v1.or_else(unified).unwrap().dir.join(&self.path)
    }

    fn is_v1(&self, controller: &str) -> bool {
        let name = if controller == "io" { "blkio" } else { controller };
        self.hierarchies.iter().any(|hierarchy| hierarchy.controllers.contains(&name))
    }

    /// Writes to a file of a controller, which has one name in v1 and another in v2.
    pub fn write(&self, controller: &str, v1: &str, v2: &str, value: &str) -> &Cgroup {
        let file = if self.is_v1(controller) { v1 } else { v2 };
        put(&self.dir(controller).join(file), value);
        self
    }

    /// Reads a file of a controller.
    #[must_use]
    pub fn read(&self, controller: &str, v1: &str, v2: &str) -> String {
        let file = if self.is_v1(controller) { v1 } else { v2 };
        let path = self.dir(controller).join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Limits its memory, in bytes.
    pub fn limit_memory(&self, bytes: u64) -> &Cgroup {
        self.write("memory", "memory.limit_in_bytes", "memory.max", &bytes.to_string())
    }

    /// Limits its CPU time, in microseconds of each 100 ms.
    pub fn limit_cpu(&self, quota: u64) -> &Cgroup {
        if self.is_v1("cpu") {
            put(&self.dir("cpu").join("cpu.cfs_period_us"), "100000");
            put(&self.dir("cpu").join("cpu.cfs_quota_us"), &quota.to_string());
        } else {
            put(&self.dir("cpu").join("cpu.max"), &format!("{quota} 100000"));
        }
        self
    }

    /// Limits its CPUs to a list.
    pub fn limit_cpus(&self, list: &str) -> &Cgroup {
        self.write("cpuset", "cpuset.cpus", "cpuset.cpus", list)
    }

    /// Limits its tasks.
    pub fn limit_pids(&self, count: u64) -> &Cgroup {
        self.write("pids", "pids.max", "pids.max", &count.to_string())
    }

    /// Moves a process into it, in all hierarchies.
    pub fn add(&self, pid: u32) -> &Cgroup {
        for dir in self.dirs() {
            put(&dir.join("cgroup.procs"), &pid.to_string());
        }
        self
    }

    /// Kills what runs in it and below, and removes it.
    pub fn remove(self) {
        for dir in self.dirs() {
            remove(&dir);
        }
    }
}

fn put(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{value} > {}: {error}", path.display()));
}

/// The controllers that a cgroup of v2 may hand on.
fn controllers_of(dir: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The hierarchies that are mounted, with their roots.
fn mounted() -> Vec<Mounted> {
    let mut found: Vec<Mounted> = Vec::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let Some(dash) = words.iter().position(|&word| word == "-") else { continue };
        let (Some(&"/"), Some(&dir), Some(&kind), Some(options)) =
            (words.get(3), words.get(4), words.get(dash + 1), words.get(dash + 3))
        else {
            continue;
        };
        let has = |controller: &&str| options.split(',').any(|option| option == *controller);
        let controllers: Vec<_> = match kind {
            "cgroup" => CONTROLLERS.into_iter().filter(has).collect(),
            "cgroup2" => Vec::new(),
            _ => continue,
        };
        // A named hierarchy of v1 has nothing to say.
        let known = found.iter().any(|known| known.controllers == controllers);
        if !known && (kind == "cgroup2" || !controllers.is_empty()) {
            found.push(Mounted { dir: dir.into(), controllers });
        }
    }
    found
}

/// Removes the trees of tests that were killed.
fn remove_leftovers(hierarchies: &[Mounted]) {
    let prefix = prefix();
    for hierarchy in hierarchies {
        for entry in fs::read_dir(&hierarchy.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix))
                .and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove(&entry.path());
            }
        }
    }
}

/// Kills what runs in a cgroup and below, and removes it.
fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let start = Instant::now();
    loop {
        let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        match fs::remove_dir(dir) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            // A drop must not panic: the next test that finds it tries again.
            Err(_) if start.elapsed() > PATIENCE => return,
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
