//! A daemon that is killed with all its processes, and started again.
use std::{
    fs,
    io::ErrorKind,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::skip;
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

/// How long anything may take on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A mountpoint and a runtime directory, with a daemon or without.
pub(crate) struct Daemon {
    child: Option<Child>,
    dir: TempDir,
}

impl Daemon {
    /// Starts one, or says why the test is skipped.
    pub(crate) fn start() -> Option<Daemon> {
        if !cgview_testkit::is_root() {
            return None;
        }
        if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            skip(&format!("needs /dev/fuse: {error}"));
            return None;
        }
        if !program().exists() {
            skip("needs cgview-fuse, built beside cgview");
            return None;
        }
        let mut daemon = Daemon { child: None, dir: TempDir::new().unwrap() };
        // Root of another user namespace passes too.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(daemon.dir.path(), mode).unwrap();
        fs::create_dir(daemon.mountpoint()).unwrap();
        // On a slow machine, to be late is not what is tested.
        let config = "request_deadline_ms = 60000\n";
        fs::write(daemon.dir.path().join("cgview.toml"), config).unwrap();
        daemon.start_again(&[]);
        Some(daemon)
    }

    /// Starts another one at the same mountpoint, after [`Daemon::kill`].
    pub(crate) fn start_again(&mut self, arguments: &[&str]) {
        let log = self.dir.path().join("log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(program());
        command.args(["-f", "--replace", "--runtime-dir"]).arg(self.dir.path());
        command.args(["--watchdog", "0", "--config"]).arg(self.dir.path().join("cgview.toml"));
        command.args(arguments).arg(self.mountpoint());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.process_group(0).spawn().unwrap());
        eventually("the daemon serves", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", self.log());
            fs::read(self.mountpoint().join("proc/meminfo")).is_ok()
        });
    }

    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Where the fast mount is, if there is one.
    pub(crate) fn by_id(&self) -> PathBuf {
        self.dir.path().join("by-id")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The process that was started and its descendants, parents first.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let Some(child) = &self.child else { return Vec::new() };
        let mut found = vec![child.id()];
        loop {
            let more: Vec<u32> = fs::read_dir("/proc")
                .unwrap()
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
                .filter(|pid| !found.contains(pid))
                .filter(|pid| parent(*pid).is_some_and(|parent| found.contains(&parent)))
                .collect();
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        found.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).unwrap())).collect()
    }

    /// Sends a signal to all its processes: to those first that would start others again.
    pub(crate) fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills the daemon and whoever holds its connection.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::STOP);
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
        let file = self.mountpoint().join("proc/meminfo");
        eventually("the mount is dead", || {
            fs::read(&file).is_err_and(|error| error.kind() == ErrorKind::NotConnected)
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(Signal::STOP);
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        for mountpoint in [self.mountpoint(), self.by_id()] {
            while unmount(&mountpoint, UnmountFlags::DETACH).is_ok() {}
        }
    }
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_cgview")).with_file_name("cgview-fuse")
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
