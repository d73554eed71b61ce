//! The daemon as a program, started for a test.
#![expect(dead_code, reason = "each test program uses a part of it")]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, Spawn, is_guest, skip};
use rustix::{
    mount::UnmountFlags,
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

/// How long anything may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running daemon, with a mountpoint and a runtime directory of its own. Dropping it kills it.
pub(crate) struct Daemon {
    child: Option<Child>,
    dir: Dirs,
}

/// The directories of a daemon.
pub(crate) struct Dirs {
    dir: TempDir,
}

impl Dirs {
    pub(crate) fn new() -> Dirs {
        let dirs = Dirs { dir: TempDir::new().unwrap() };
        fs::create_dir(dirs.mountpoint()).unwrap();
        // Other users may pass.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dirs.dir.path(), mode).unwrap();
        dirs
    }

    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub(crate) fn runtime(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A daemon that would mount here.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgview-fuse"));
        command.arg("--runtime-dir").arg(self.runtime()).arg(self.mountpoint());
        if is_guest() {
            // An emulated CPU is slow by itself.
            command.args(["--request-deadline", "30000"]);
        }
        command
    }

    /// Runs a daemon that is to fail, and gives its exit status and what it said.
    pub(crate) fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command().args(arguments).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        // What is logged comes first.
        let last = said.lines().last().unwrap_or_default().to_owned();
        (output.status.code().unwrap(), last)
    }

    pub(crate) fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mountpoint = self.mountpoint();
        mounts.lines().any(|line| line.split(' ').nth(4) == mountpoint.to_str())
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        // What a daemon left that was killed, so that the directory can be removed.
        while self.is_mounted()
            && rustix::mount::unmount(self.mountpoint(), UnmountFlags::DETACH).is_ok()
        {}
    }
}

impl Daemon {
    /// Whether this machine can run one; if not, says that the test is skipped.
    pub(crate) fn is_possible() -> bool {
        if !cgview_testkit::is_root() {
            return false;
        }
        let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
        if let Err(error) = fuse {
            skip(&format!("needs /dev/fuse: {error}"));
            return false;
        }
        true
    }

    /// Starts one, and waits until it serves.
    pub(crate) fn start(arguments: &[&str]) -> Daemon {
        Daemon::start_in(Dirs::new(), arguments)
    }

    pub(crate) fn start_in(dir: Dirs, arguments: &[&str]) -> Daemon {
        let mut command = dir.command();
        command.args(arguments);
        Daemon::run(dir, command)
    }

    /// Runs a command line that ends in a daemon in `dir`.
    pub(crate) fn run(dir: Dirs, mut command: Command) -> Daemon {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Not left behind if the test is killed.
        let parent = rustix::process::getpid();
        // SAFETY: both are system calls that take no memory.
        #[expect(unsafe_code, reason = "there is no safe way to be killed with the parent")]
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                assert_eq!(rustix::process::getppid(), Some(parent));
                Ok(())
            });
        }
        let begun = dir.path("log");
        let before = fs::read_to_string(&begun).unwrap_or_default().len();
        let child = command.spawn().unwrap();
        let mut daemon = Daemon { child: Some(child), dir };
        eventually("the daemon serves", || {
            let ended = daemon.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", daemon.log());
            daemon.log().get(before..).unwrap().contains("serving ")
        });
        daemon
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn dirs(&self) -> &Dirs {
        &self.dir
    }

    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.dir.mountpoint()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mountpoint().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path("log")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Sends a signal that ends it, and gives its directories back.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, Dirs) {
        self.signal(signal);
        let mut child = self.child.take().unwrap();
        eventually("the daemon ends", || child.try_wait().unwrap().is_some());
        let dirs = std::mem::replace(&mut self.dir, Dirs { dir: TempDir::new().unwrap() });
        (child.wait().unwrap(), dirs)
    }

    /// A counter of its metrics: `cgview_requests_total{operation="read"}`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("{name} in {text}"));
        value.trim().parse().unwrap()
    }

    pub(crate) fn requests(&self, operation: &str) -> u64 {
        self.metric(&format!("cgview_requests_total{{operation=\"{operation}\"}} "))
    }

    pub(crate) fn metrics(&self) -> String {
        let mut client = UnixStream::connect(self.dir.path("cgview-fuse.sock")).unwrap();
        client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        reply
    }

    /// Runs a shell script in a container of that cgroup, in which the files of the view are bound over their
    /// namesakes, and gives what it wrote.
    pub(crate) fn in_container(&self, cgroup: &Cgroup, script: &str) -> String {
        let bind = format!(
            "cd {} && for file in $(find proc sys -type f); do \
             if test -e /$file; then mount --bind $file /$file; fi; done; \
             cd / && exec {script}",
            self.mountpoint().display(),
        );
        // The CPUs' directory as a whole: which CPUs it has is for the view to say.
        let bind = bind.replace(
            "find proc sys -type f",
            "find proc -type f; echo sys/devices/system/cpu; echo sys/devices/system/node",
        );
        run(Spawn::new().cgroup(cgroup).container(), &bind)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a shell script in a process, and gives what it wrote.
pub(crate) fn run(spawn: Spawn, script: &str) -> String {
    let output = tempfile::NamedTempFile::new().unwrap();
    let into = output.path().to_str().unwrap().to_owned();
    let script = format!("exec >{into} 2>&1; set -e; {script}");
    let process = spawn.run(|| {
        let error = Command::new("sh").arg("-c").arg(&script).stdin(Stdio::null()).exec();
        error.raw_os_error().unwrap_or(101)
    });
    let status = process.wait();
    let text = fs::read_to_string(output.path()).unwrap();
    assert_eq!(status, 0, "{script}: {text}");
    text
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
