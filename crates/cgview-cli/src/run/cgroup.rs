//! The cgroups of a run: one in each hierarchy, made, limited and removed.
//!
//! They lie flat in the root of each hierarchy, as `cgview.run-PID`. Whoever answers for them holds a
//! lock on each, so that what a killed run left behind can be told from what is in use.

use std::{
    collections::BTreeMap,
    error::Error as _,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use cgroups_rs::{
    CgroupPid,
    fs::{
        Cgroup, ControllIdentifier, Controller, MaxValue, Subsystem, cpu::CpuController,
        cpuset::CpuSetController, memory::MemController, pid::PidController,
    },
};
use cgview_core::{mask::Mask, units::Bytes};
use rustix::{
    fs::{FlockOperation, flock},
    thread::{CpuSet, sched_getaffinity},
};

use super::{
    hierarchy::Tree,
    size::{PERIOD, Size},
};
use crate::report::Advice;

const PREFIX: &str = "cgview.run-";

/// How long a cgroup may stay busy after its last process was killed: the kernel lets go of it once
/// the process is reaped and its memory given back.
const PATIENCE: Duration = Duration::from_secs(5);

/// The cgroups of one run. They outlive the value: see [`RunCgroups::remove`].
#[derive(Debug)]
pub(super) struct RunCgroups {
    cgroups: Vec<Cgroup>,
    dirs: Vec<PathBuf>,
    /// Locks on the directories, shared with the processes forked from this one.
    locks: Vec<File>,
    /// The CPUs that the command has to be bound to by itself, for want of a cpuset controller.
    affinity: Option<Mask>,
}

impl RunCgroups {
    /// Makes the cgroups of process `pid` and sets their limits.
    pub(super) fn create(pid: u32, size: &Size) -> anyhow::Result<RunCgroups> {
        let trees = Tree::all()?;
        let mut made =
            RunCgroups { cgroups: Vec::new(), dirs: Vec::new(), locks: Vec::new(), affinity: None };
        let done =
            made.make(&trees, &format!("{PREFIX}{pid}")).and_then(|()| made.limit(size, &trees));
        if let Err(error) = done {
            // The first error is the one to tell.
            let _ = made.remove();
            return Err(error);
        }
        Ok(made)
    }

    fn make(&mut self, trees: &[Tree], name: &str) -> anyhow::Result<()> {
        for tree in trees {
            if tree.v2 {
                enable(tree);
            }
            let dir = tree.root.join(name);
            make_dir(&dir).with_context(|| format!("cannot create cgroup {}", dir.display()))?;
            self.dirs.push(dir.clone());
            let lock = File::open(&dir).and_then(|file| {
                flock(&file, FlockOperation::LockExclusive)?;
                Ok(file)
            });
            self.locks.push(lock.with_context(|| format!("cannot lock {}", dir.display()))?);
            let cgroup = tree.cgroup(name);
            if !tree.v2 {
                // Copies the parent's cpuset into the new one, which v1 starts empty.
                for subsystem in cgroup.subsystems() {
                    subsystem.to_controller().create().map_err(cause)?;
                }
            }
            self.cgroups.push(cgroup);
        }
        Ok(())
    }

    fn limit(&mut self, size: &Size, trees: &[Tree]) -> anyhow::Result<()> {
        if let Some(limit) = size.memory {
            let memory: &MemController = self.controller("memory")?;
            set(memory, ["memory.max", "memory.limit_in_bytes"], limit.0, |value| {
                memory.set_limit(value)
            })?;
        }
        if let Some(swap) = size.swap {
            self.limit_swap(size.memory, swap)?;
        }
        if let Some(quota) = size.quota() {
            let cpu: &CpuController = self.controller("cpu")?;
            set(cpu, ["cpu.max", "cpu.cfs_quota_us"], quota.0, |quota| {
                cpu.set_cfs_quota_and_period(None, Some(PERIOD.0))?;
                cpu.set_cfs_quota(quota)
            })?;
        }
        if let Some(limit) = size.pids {
            let pids: &PidController = self.controller("pids")?;
            set(pids, ["pids.max"; 2], limit, |value| pids.set_pid_max(MaxValue::Value(value)))?;
        }
        if size.cpus.is_some() || size.cpuset.is_some() {
            self.limit_cpuset(size, trees)?;
        }
        Ok(())
    }

    fn limit_swap(&self, memory_limit: Option<Bytes>, swap: Bytes) -> anyhow::Result<()> {
        let memory: &MemController = self.controller("memory")?;
        let names = ["memory.swap.max", "memory.memsw.limit_in_bytes"];
        if !memory.path().join(pick_name(memory, names)).exists() {
            return Err(anyhow!(Advice::new(
                "cannot limit swap: this kernel does not account for it",
                "boot it with swapaccount=1, or leave --swap out.",
            )));
        }
        let limit = match (memory.v2(), memory_limit) {
            (true, _) => swap,
            // v1 has one limit for both.
            (false, Some(memory)) => memory.saturating_add(swap),
            (false, None) => {
                return Err(anyhow!(Advice::new(
                    "cannot limit swap alone: cgroup v1 limits it together with memory",
                    "give --memory too.",
                )));
            }
        };
        set(memory, names, limit.0, |value| memory.set_memswap_limit(value))
    }

    /// Confines the run to so many CPUs as it is shown.
    fn limit_cpuset(&mut self, size: &Size, trees: &[Tree]) -> anyhow::Result<()> {
        let controller: Option<&CpuSetController> = self.controller("cpuset").ok();
        let tree = trees.iter().find(|tree| tree.has("cpuset"));
        let (Some(cpuset), Some(tree)) = (controller, tree) else {
            // The scheduler keeps to a process's affinity without any controller.
            let own = own_affinity()?;
            self.affinity = cpus_to_run_on(size, &own, &own, &BTreeMap::new())?;
            return Ok(());
        };
        let all = read_mask(&tree.root, ["cpuset.cpus.effective", "cpuset.effective_cpus"])?;
        let allowed = match own_affinity()?.intersection(&all) {
            none if none.is_empty() => all.clone(),
            allowed => allowed,
        };
        let Some(cpus) = cpus_to_run_on(size, &all, &allowed, &cpus_in_use(&tree.root))? else {
            return Ok(());
        };
        let mut list = Vec::new();
        cpus.write_list(&mut list);
        let list = String::from_utf8_lossy(&list);
        cpuset.set_cpus(&list).map_err(cause).with_context(|| {
            format!("cannot set cpuset.cpus of {} to {list}", cpuset.path().display())
        })
    }

    /// The controller of that type, wherever it is mounted.
    fn controller<'a, T>(&'a self, name: &str) -> anyhow::Result<&'a T>
    where
        &'a T: From<&'a Subsystem>,
        T: Controller + ControllIdentifier,
    {
        let found = self.cgroups.iter().find_map(Cgroup::controller_of::<T>);
        let Some(controller) = found else {
            return Err(anyhow!(Advice::new(
                format!("no {name} controller is mounted"),
                "`cgview doctor` tells which controllers there are.",
            )));
        };
        let enabled = fs::read_to_string(controller.path().join("cgroup.controllers"));
        if controller.v2()
            && !enabled.is_ok_and(|names| names.split(' ').any(|has| has.trim() == name))
        {
            let root = controller.path().parent().unwrap_or(controller.path());
            return Err(anyhow!(Advice::new(
                format!("cannot enable the {name} controller in {}", root.display()),
                format!(
                    "children of a cgroup that has processes itself get no controllers; move those \
                     of {} to one of its children.",
                    root.join("cgroup.procs").display()
                ),
            )));
        }
        Ok(controller)
    }

    /// Their directories.
    pub(super) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The CPUs that the command has to be bound to by its affinity, if any.
    pub(super) fn affinity(&self) -> Option<&Mask> {
        self.affinity.as_ref()
    }

    /// Moves process `pid` in.
    pub(super) fn add(&self, pid: u32) -> anyhow::Result<()> {
        for cgroup in &self.cgroups {
            cgroup.add_task_by_tgid(CgroupPid::from(u64::from(pid))).map_err(cause).with_context(
                || format!("cannot move process {pid} into cgroup {}", cgroup.path()),
            )?;
        }
        Ok(())
    }

    /// How many processes the kernel has killed because the memory limit was reached.
    pub(super) fn out_of_memory_kills(&self) -> u64 {
        let memory = self.controller::<MemController>("memory");
        let events = memory.ok().and_then(|memory| {
            let name = pick_name(memory, ["memory.events", "memory.oom_control"]);
            fs::read_to_string(memory.path().join(name)).ok()
        });
        events
            .iter()
            .flat_map(|events| events.lines())
            .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
            .unwrap_or(0)
    }

    /// Removes the cgroups, and those that the command made below them. What is gone already is fine.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for dir in &self.dirs {
            remove_dir(dir, deadline)?;
        }
        Ok(())
    }
}

/// Removes the cgroups that killed runs have left, and returns their directories.
pub(crate) fn sweep() -> anyhow::Result<Vec<PathBuf>> {
    /// A maker needs a moment from creating a directory to locking it.
    const YOUNG: Duration = Duration::from_secs(5);
    let mut swept = Vec::new();
    for tree in Tree::all()? {
        let Ok(entries) = fs::read_dir(&tree.root) else { continue };
        for entry in entries.flatten() {
            let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
            let age = entry.metadata().and_then(|data| data.modified()).map(|made| made.elapsed());
            if !is_ours || age.is_ok_and(|age| age.is_ok_and(|age| age < YOUNG)) {
                continue;
            }
            let path = entry.path();
            let Ok(dir) = File::open(&path) else { continue };
            let abandoned = flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok();
            if abandoned && remove_dir(&path, Instant::now()).is_ok() {
                swept.push(path);
            }
        }
    }
    Ok(swept)
}

/// Enables in a tree's root the controllers that a run has a use for. Failures show later, if the
/// controller is needed at all.
fn enable(tree: &Tree) {
    // In a container the root is a cgroup like others: while there are processes in it, the kernel
    // refuses most controllers, and the threaded ones would make the children unfit for processes
    // ("domain invalid").
    let is_inner = tree.root.join("cgroup.type").exists();
    let procs = fs::read(tree.root.join("cgroup.procs")).unwrap_or_default();
    if is_inner && !procs.is_empty() {
        return;
    }
    for controller in ["memory", "cpu", "pids", "io", "cpuset"] {
        if tree.has(controller) {
            // One at a time: the kernel takes all names of a write or none.
            let _ = fs::write(tree.root.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        // Left behind by a process that had our pid: nobody else takes this name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_dir(dir, Instant::now()).map_err(|_| error).and_then(|()| fs::create_dir(dir))
        }
        done => done,
    }
}

/// Removes a cgroup and all below it. Waits until `deadline` for processes that are being killed.
fn remove_dir(dir: &Path, deadline: Instant) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_dir(&entry.path(), deadline)?;
        }
    }
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done.with_context(|| format!("cannot remove cgroup {}", dir.display())),
        }
    }
}

/// Sets a limit by `write`, and says which file could not be written.
fn set(
    controller: &dyn Controller,
    names: [&str; 2],
    value: u64,
    write: impl FnOnce(i64) -> cgroups_rs::fs::error::Result<()>,
) -> anyhow::Result<()> {
    // The command line refuses what is larger.
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    write(value).map_err(cause).with_context(|| {
        let name = pick_name(controller, names);
        format!("cannot set {name} of {} to {value}", controller.path().display())
    })
}

/// The file's name in v2 or in v1.
fn pick_name<'a>(controller: &dyn Controller, [v2, v1]: [&'a str; 2]) -> &'a str {
    if controller.v2() { v2 } else { v1 }
}

/// What the kernel said. cgroups-rs repeats it in its own words.
fn cause(error: cgroups_rs::fs::error::Error) -> anyhow::Error {
    let kernel = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match kernel.and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno).into(),
        None => error.into(),
    }
}

/// Which CPUs to confine the run to, of `all` that there are; `None` for all of them.
///
/// `allowed` are those to take where none were asked for.
fn cpus_to_run_on(
    size: &Size,
    all: &Mask,
    allowed: &Mask,
    in_use: &BTreeMap<u32, u32>,
) -> anyhow::Result<Option<Mask>> {
    let pool = size.cpuset.as_ref().unwrap_or(allowed);
    if let Some(missing) = pool.iter().find(|&cpu| !all.contains(cpu)) {
        let mut list = Vec::new();
        all.write_list(&mut list);
        return Err(anyhow!(Advice::new(
            format!("cannot run on CPU {missing}"),
            format!("these CPUs can be used: {}", String::from_utf8_lossy(&list)),
        )));
    }
    let count = size.cpus.map_or(u64::MAX, |cpus| cpus.ceil());
    let mut by_use: Vec<u32> = pool.iter().collect();
    by_use.sort_by_key(|cpu| in_use.get(cpu).copied().unwrap_or(0));
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let chosen: Mask = by_use.into_iter().take(count).collect();
    Ok((chosen != *all).then_some(chosen))
}

/// How many runs are confined to each CPU.
fn cpus_in_use(root: &Path) -> BTreeMap<u32, u32> {
    let mut in_use = BTreeMap::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            let cpus = read_mask(&entry.path(), ["cpuset.cpus"; 2]).unwrap_or_default();
            cpus.iter().for_each(|cpu| *in_use.entry(cpu).or_default() += 1);
        }
    }
    in_use
}

/// Reads a list of CPUs from the file of that name in v2 or in v1.
fn read_mask(dir: &Path, [v2, v1]: [&str; 2]) -> anyhow::Result<Mask> {
    let (path, text) = match fs::read(dir.join(v2)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (dir.join(v1), fs::read(dir.join(v1)))
        }
        text => (dir.join(v2), text),
    };
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    Mask::parse_list(&text).with_context(|| format!("cannot parse {}", path.display()))
}

/// The CPUs that this process may run on.
fn own_affinity() -> anyhow::Result<Mask> {
    let set = sched_getaffinity(None).context("cannot read the CPU affinity")?;
    let numbers = (0u32..).zip(0..CpuSet::MAX_CPU);
    Ok(numbers.filter(|&(_, cpu)| set.is_set(cpu)).map(|(number, _)| number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgview_core::units::Cpus;

    fn size(cpus: Option<u64>, cpuset: Option<&str>) -> Size {
        Size {
            cpus: cpus.map(Cpus),
            cpuset: cpuset.map(|list| Mask::parse_list(list.as_bytes()).unwrap()),
            ..Size::default()
        }
    }

    fn chosen(size: &Size, allowed: u32, in_use: &[u32]) -> Option<Mask> {
        let in_use = in_use.iter().map(|&cpu| (cpu, 1)).collect();
        let all = Mask::first(allowed);
        cpus_to_run_on(size, &all, &all, &in_use).unwrap()
    }

    #[test]
    fn a_run_is_confined_to_as_many_cpus_as_it_is_shown() {
        assert_eq!(chosen(&size(Some(1_500_000), None), 8, &[]), Some(Mask::first(2)));
        assert_eq!(chosen(&size(Some(100_000), None), 8, &[]), Some(Mask::first(1)));
        assert_eq!(chosen(&size(Some(8_000_000), None), 8, &[]), None);
        assert_eq!(chosen(&size(Some(9_000_000), None), 8, &[]), None);
    }

    #[test]
    fn runs_share_out_the_cpus() {
        let second = chosen(&size(Some(2_000_000), None), 4, &[0, 1]).unwrap();
        assert_eq!(second, [2, 3].into_iter().collect());
    }

    #[test]
    fn a_quota_chooses_from_the_given_cpus() {
        let both = size(Some(1_500_000), Some("2-5"));
        assert_eq!(chosen(&both, 8, &[2]), Some([3, 4].into_iter().collect()));
        assert_eq!(chosen(&size(None, Some("0-7")), 8, &[]), None);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named() {
        let all = Mask::first(2);
        let error = cpus_to_run_on(&size(None, Some("1,9")), &all, &all, &BTreeMap::new());
        assert_eq!(error.unwrap_err().to_string(), "cannot run on CPU 9");
    }
}
