//! The servers that are compared.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(30);

/// Something that has files to be read.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// Below which its `proc` is.
    pub(crate) root: PathBuf,
    /// The process that was started, and who ends it.
    pid: Option<u32>,
    process: Option<Child>,
    dir: Option<TempDir>,
}

impl Server {
    /// The kernel's own files.
    pub(crate) fn native() -> Server {
        Server { name: "native", root: "/".into(), pid: None, process: None, dir: None }
    }

    pub(crate) fn bare() -> Result<Server> {
        let program = std::env::current_exe()?;
        Server::start("bare", |mountpoint, _| {
            let mut command = Command::new(program);
            command.arg("--serve-bare").arg(mountpoint);
            command
        })
    }

    /// LXCFS with all that it can, if it is installed.
    pub(crate) fn lxcfs() -> Result<Option<Server>> {
        if Command::new("lxcfs").arg("--version").output().is_err() {
            return Ok(None);
        }
        Server::start("lxcfs", |mountpoint, dir| {
            let mut command = Command::new("lxcfs");
            command.args(["-f", "-l", "--enable-cfs", "--enable-pidfd", "-p"]);
            command.arg(dir.join("pid")).arg(mountpoint);
            command
        })
        .map(Some)
    }

    /// cgview with both of its mounts.
    pub(crate) fn cgview() -> Result<Server> {
        let program = program()?;
        Server::start("cgview", |mountpoint, dir| {
            let mut command = Command::new(program);
            command.arg("--runtime-dir").arg(dir).args(["--log-level", "warn"]);
            command.arg("--by-id").arg(dir.join("by-id")).arg(mountpoint);
            command
        })
    }

    /// The directory of a container in the fast mount of the same process.
    pub(crate) fn by_id(&self, cgroup: u64) -> Server {
        let by_id = self.dir.as_ref().map(|dir| dir.path().join("by-id"));
        let root = by_id.unwrap_or_default().join(cgroup.to_string());
        Server { name: "by-id", root, pid: self.pid, process: None, dir: None }
    }

    fn start(name: &'static str, command: impl FnOnce(&Path, &Path) -> Command) -> Result<Server> {
        let dir = tempfile::tempdir()?;
        let root = dir.path().join("mnt");
        fs::create_dir(&root)?;
        fs::create_dir(dir.path().join("by-id"))?;
        let mut command = command(&root, dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if name == "lxcfs" {
            // It tells what it finds, whoever asks.
            command.stderr(Stdio::null());
        }
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = Some(process.id());
        let mut server = Server { name, root, pid, process: Some(process), dir: Some(dir) };
        let end = Instant::now() + START;
        while !server.root.join("proc/uptime").exists() {
            let ended = server.process.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > end {
                bail!("{name} does not serve: {ended:?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.pid.into_iter().collect();
        let mut seen = 0;
        while let Some(pid) = pids.get(seen).copied() {
            seen += 1;
            for task in tasks(pid) {
                let children = fs::read_to_string(format!("/proc/{pid}/task/{task}/children"));
                pids.extend(
                    children.unwrap_or_default().split_whitespace().flat_map(str::parse::<u32>),
                );
            }
        }
        pids
    }

    /// The CPU time that they have used.
    pub(crate) fn cpu_time(&self) -> Duration {
        let of = |pid: u32, task: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat"));
            text.ok()?.split_whitespace().next()?.parse().ok()
        };
        let times = self.pids().into_iter().flat_map(|pid| {
            tasks(pid).into_iter().filter_map(move |task| of(pid, task)).collect::<Vec<u64>>()
        });
        Duration::from_nanos(times.sum())
    }

    /// Their resident memory, in KiB.
    pub(crate) fn rss(&self) -> u64 {
        let of = |pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.pids().into_iter().filter_map(of).sum()
    }
}

fn tasks(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The daemon that was built with this benchmark.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.ancestors().nth(2).context("cannot find the directory of what was built")?;
    let program = dir.join("cgview-fuse");
    anyhow::ensure!(program.exists(), "cannot find {}: run ci/bench", program.display());
    Ok(program)
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(process) = &mut self.process else { return };
        // What ends it in the usual way.
        let _ = Command::new("kill").args(["-INT", &process.id().to_string()]).status();
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if matches!(process.try_wait(), Ok(Some(_))) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
        let _ = process.wait();
        let by_id = self.dir.iter().map(|dir| dir.path().join("by-id"));
        for mount in by_id.chain([self.root.clone()]) {
            let _ = Command::new("umount").arg("-l").arg(mount).stderr(Stdio::null()).status();
        }
    }
}
