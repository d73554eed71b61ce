//! cgview with real container runtimes, each configured as `docs/runtimes.md` says.
//!
//! A [`Rig`] is a daemon of cgview with a mountpoint of its own, and a [`Sandbox`] in which an engine runs: mount and
//! pid namespaces of its own, with which all that it started goes. Containers have 256 MiB and 1.5 CPUs, and run
//! [`LOOK`]; [`Seen`] is what they print.
#![expect(clippy::missing_panics_doc, reason = "a test fails by panicking")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attached;
mod dockerd;
mod image;
mod package;
mod sandbox;
mod seen;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

pub use attached::{Host, attach_and_detach, status};
use cgview_compliance::{Options, Server, eventually};
use cgview_testkit::skip;
pub use dockerd::{DOCKER, dockerd};
pub use image::Image;
pub use package::{MOUNTPOINT, Package, SERVICE};
pub use sandbox::Sandbox;
pub use seen::{LOOK, Seen};
use tempfile::TempDir;

/// What containers are given, in bytes.
pub const MEMORY: u64 = 256 << 20;

/// The same with the unit that most engines understand.
pub const MEMORY_OPTION: &str = "256m";

/// And CPUs.
pub const CPUS: &str = "1.5";

/// A daemon, and a place for an engine.
#[derive(Debug)]
pub struct Rig {
    /// What the engine runs in. Its end comes first.
    pub sandbox: Sandbox,
    server: Server,
    successors: Vec<Child>,
    dir: TempDir,
    /// For the names of containers and cgroups, so that tests that run at the same time have others.
    pub name: String,
}

impl Rig {
    /// Starts all. Says that the test is skipped where one of `programs` is not there, or nothing can be mounted.
    #[must_use]
    pub fn start(programs: &[&str]) -> Option<Rig> {
        if !Server::is_possible() {
            return None;
        }
        if !are_there(programs) {
            return None;
        }
        let server = Server::start(&Options::new());
        let dir = tempfile::Builder::new().prefix("cgview-runtimes.").tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), mode).unwrap();
        let random = dir.path().extension().unwrap().to_str().unwrap().to_lowercase();
        let name = format!("cgview-{random}");
        let sandbox = Sandbox::start();
        Some(Rig { sandbox, server, successors: Vec::new(), dir, name })
    }

    /// A file for this test alone.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Kills the daemon with its keeper: the mounts are dead from then on.
    pub fn kill_daemon(&mut self) {
        self.server.kill();
    }

    /// The pids of the daemon.
    #[must_use]
    pub fn daemon(&self) -> Vec<u32> {
        self.server.pids()
    }

    /// Runs `cgview install --runtime ENGINE` for a root of this test's own, which is given back.
    #[must_use]
    pub fn install(&self, engine: &str) -> PathBuf {
        let root = self.path("root");
        let mut command = self.cgview(&["install", "--runtime", engine, "--root"]);
        command.arg(&root).arg("--mountpoint").arg(self.mountpoint());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        root
    }

    /// How often the view is mounted where this test's processes see it: once by the daemon, and nowhere else, unless a
    /// container has left something.
    #[must_use]
    pub fn mounts(&self) -> usize {
        let own = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mountpoint = self.mountpoint();
        let device = |line: &str| line.split(' ').nth(2).map(str::to_owned);
        let daemon = own.lines().find(|line| line.split(' ').nth(4) == mountpoint.to_str());
        let daemon = daemon.and_then(device).unwrap();
        let inside = self.sandbox.run("cat /proc/self/mountinfo");
        let count =
            |text: &str| text.lines().filter(|line| device(line).as_ref() == Some(&daemon)).count();
        assert_eq!(count(&own), 1, "{own}");
        count(&inside)
    }
}

impl Host for Rig {
    fn cgview(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("cgview"));
        command.args(arguments);
        command
    }

    fn mountpoint(&self) -> PathBuf {
        self.server.mountpoint()
    }

    /// Kills what serves, the first time, and then has another daemon take over: what is read meanwhile waits.
    fn replace_daemon(&mut self) {
        if self.successors.is_empty() {
            self.server.crash();
        }
        // Answered by the next worker.
        eventually("it serves again", || {
            fs::read_to_string(self.server.path("proc/uptime")).is_ok()
        });
        let log = fs::File::create(self.path("successor.log")).unwrap();
        let mut command = self.server.command(&self.mountpoint());
        command.arg("--replace").stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.successors.push(child);
        let path = self.path("successor.log");
        eventually("the successor serves", || {
            let text = fs::read_to_string(&path).unwrap();
            let ended = self.successors.last_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{text}");
            text.contains("serving ")
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.sandbox.end();
        for child in &mut self.successors {
            let _ = child.kill();
            let _ = child.wait();
        }
        remove_cgroups(&self.name);
    }
}

/// Whether these programs are there; if not, says that the test is skipped.
fn are_there(programs: &[&str]) -> bool {
    for name in programs {
        let is_there = Path::new(name).exists()
            || ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(name).exists());
        if !is_there {
            skip(&format!("needs {name}"));
            return false;
        }
    }
    true
}

/// A program that is built beside the tests.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found =
        test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name} beside {}: run `cargo build`", test.display()))
}

/// Removes the cgroups whose name has `name` in it, which an engine that was killed has left.
fn remove_cgroups(name: &str) {
    fn walk(dir: &Path, name: &str, is_ours: bool) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let is_ours = is_ours || entry.file_name().to_string_lossy().contains(name);
            walk(&entry.path(), name, is_ours);
            if is_ours {
                // What was killed in it may still be ending.
                for _ in 0..200 {
                    if fs::remove_dir(entry.path()).is_ok() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
        }
    }
    walk(Path::new("/sys/fs/cgroup"), name, false);
}
