//! Where and with which priority servers and readers run.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use cgview_testkit::Tree;

/// Where processes run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Placement {
    /// All on the first CPU, and before all others where that is permitted.
    Pinned,
    /// As the scheduler likes.
    Free,
}

impl Placement {
    /// In records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Placement::Pinned => "pinned",
            Placement::Free => "free",
        }
    }

    /// Has all threads of these processes run so; what they start later does so too. Returns whether they have
    /// real-time priority.
    ///
    /// # Errors
    ///
    /// If they may not run there.
    pub fn place(self, pids: &[u32]) -> Result<bool> {
        let cpus = match self {
            Placement::Pinned => "0",
            Placement::Free => "0-4095",
        };
        for &pid in pids {
            let placed = run("taskset", &["--all-tasks", "--cpu-list", "--pid", cpus], pid)?;
            ensure!(placed, "cannot have process {pid} run on CPUs {cpus}");
        }
        if self == Placement::Pinned {
            let all = |&pid| run("chrt", &["--all-tasks", "--fifo", "--pid", "10"], pid);
            if pids.iter().map(all).collect::<Result<Vec<_>>>()?.into_iter().all(|done| done) {
                return Ok(true);
            }
        }
        for &pid in pids {
            ensure!(
                run("chrt", &["--all-tasks", "--other", "--pid", "0"], pid)?,
                "cannot give process {pid} normal priority"
            );
        }
        Ok(false)
    }
}

/// Runs a tool of util-linux on a process.
fn run(program: &str, arguments: &[&str], pid: u32) -> Result<bool> {
    let mut command = Command::new(program);
    command.args(arguments).arg(pid.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    Ok(status.success())
}

/// Lets the processes of cgroups have real-time priority: where the kernel gives out its time by cgroups
/// (`CONFIG_RT_GROUP_SCHED`, v1), a new one has none. Outer cgroups come first.
pub fn permit_real_time(tree: &Tree, paths: &[&str]) {
    for path in paths {
        let file = tree.cgroup(path).dir("cpu").join("cpu.rt_runtime_us");
        // What is not there need not be permitted; what is refused is seen when it is asked for.
        if file.exists() {
            let _ = std::fs::write(file, "900000");
        }
    }
}
