//! The servers that are compared.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// How long a server may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that has files to be read. Dropping it ends and unmounts it.
#[derive(Debug)]
pub struct Server {
    /// In records.
    pub name: &'static str,
    /// Below which its `proc` is.
    pub root: PathBuf,
    /// The process that was started; and what is to be ended, by whom started it.
    pid: Option<u32>,
    process: Option<Child>,
    dir: Option<TempDir>,
}

impl Server {
    /// The kernel's own files.
    #[must_use]
    pub fn native() -> Server {
        Server { name: "native", root: "/".into(), pid: None, process: None, dir: None }
    }

    /// A server that this program is when it is started with `--serve-bare=MOUNTPOINT`.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn bare() -> Result<Server> {
        let program = std::env::current_exe()?;
        Server::start("bare", |mountpoint, _| {
            let mut command = Command::new(program);
            command.arg(format!("--serve-bare={}", mountpoint.display()));
            command
        })
    }

    /// LXCFS with all that it can. It does not start where it cannot read `/proc/1/personality`, as in some virtual
    /// machines; so it gets another one to read there, and is to be started in a mount namespace of its own.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not start.
    pub fn lxcfs() -> Result<Server> {
        const PERSONALITY: &str = "/proc/1/personality";
        if fs::read(PERSONALITY).is_err() {
            let own = tempfile::NamedTempFile::new()?;
            fs::write(own.path(), fs::read("/proc/self/personality")?)?;
            let mut mount = Command::new("mount");
            let status = mount.arg("--bind").arg(own.path()).arg(PERSONALITY).status()?;
            ensure!(status.success(), "cannot mount a file at {PERSONALITY}");
        }
        Server::start("lxcfs", |mountpoint, dir| {
            let mut command = Command::new("lxcfs");
            command.args(["-f", "-l", "--enable-cfs", "--enable-pidfd", "-p"]);
            command.arg(dir.join("pid")).arg(mountpoint);
            // It tells what it finds, whoever asks.
            command.stderr(Stdio::null());
            command
        })
    }

    /// cgview with both of its mounts, as it was built beside this program.
    ///
    /// # Errors
    ///
    /// If it was not built, or does not start.
    pub fn cgview() -> Result<Server> {
        Server::cgview_with(&[])
    }

    /// The same, with more arguments.
    ///
    /// # Errors
    ///
    /// Those of [`Server::cgview`].
    pub fn cgview_with(arguments: &[&str]) -> Result<Server> {
        let own = std::env::current_exe()?;
        let built = own.ancestors().nth(2).context("cannot find where this was built")?;
        let program = built.join("cgview-fuse");
        ensure!(program.exists(), "cannot find {} (ci/bench builds it)", program.display());
        Server::start("shared", |mountpoint, dir| {
            let mut command = Command::new(program);
            command.arg("--runtime-dir").arg(dir).args(["--log-level", "warn"]);
            // Who has to wait for a CPU on a busy machine is measured all the same.
            command.args(["--request-deadline", "60000", "--watchdog", "0"]).args(arguments);
            command.arg("--by-id").arg(dir.join("by-id")).arg(mountpoint);
            command
        })
    }

    /// The directory of a container in the fast mount of the same process.
    #[must_use]
    pub fn by_id(&self, cgroup: u64) -> Server {
        let by_id = self.dir.as_ref().map(|dir| dir.path().join("by-id"));
        let root = by_id.unwrap_or_default().join(cgroup.to_string());
        Server { name: "fast", root, pid: self.pid, process: None, dir: None }
    }

    fn start(name: &'static str, command: impl FnOnce(&Path, &Path) -> Command) -> Result<Server> {
        // What cgview writes down is in memory, as /run is.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        let root = dir.path().join("mnt");
        fs::create_dir(&root)?;
        fs::create_dir(dir.path().join("by-id"))?;
        let mut command = command(&root, dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = Some(process.id());
        let mut server = Server { name, root, pid, process: Some(process), dir: Some(dir) };
        let end = Instant::now() + PATIENCE;
        while !server.root.join("proc/uptime").exists() {
            let ended = server.process.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > end {
                bail!("{name} does not serve: {ended:?}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    /// Whether it is expected to have a file: LXCFS knows fewer than the others.
    #[must_use]
    pub fn has(&self, file: &str) -> bool {
        self.name != "lxcfs" || self.root.join(file).exists()
    }

    /// Its processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.pid.into_iter().collect();
        let mut seen = 0;
        while let Some(pid) = pids.get(seen).copied() {
            seen += 1;
            for task in tasks(pid) {
                let children = fs::read_to_string(format!("/proc/{pid}/task/{task}/children"));
                let children = children.unwrap_or_default();
                pids.extend(children.split_whitespace().flat_map(str::parse::<u32>));
            }
        }
        pids
    }

    /// The threads of its processes.
    #[must_use]
    pub fn threads(&self) -> Vec<u32> {
        self.pids().into_iter().flat_map(tasks).collect()
    }

    /// The CPU time that they have taken.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let of = |tid: u32| {
            let text = fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(self.threads().into_iter().filter_map(of).sum())
    }

    /// The resident memory of its processes, in KiB: what they share is counted for each of them.
    #[must_use]
    pub fn rss_kib(&self) -> u64 {
        self.memory("Rss:")
    }

    /// The same, and what they share is counted once.
    #[must_use]
    pub fn pss_kib(&self) -> u64 {
        self.memory("Pss:")
    }

    fn memory(&self, field: &str) -> u64 {
        let of = |pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.pids().into_iter().filter_map(of).sum()
    }
}

fn tasks(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(process) = &mut self.process else { return };
        // Which ends it in the usual way.
        let _ = Command::new("kill").args(["-INT", &process.id().to_string()]).status();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && matches!(process.try_wait(), Ok(None)) {
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
