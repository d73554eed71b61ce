//! The server that is under test, as a program.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, skip};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

use crate::{Subject, eventually, under_test};

/// How a server is started.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    cgview: Vec<String>,
    lxcfs: Option<Vec<String>>,
    mount: Mount,
    freshness: Option<Duration>,
}

/// Where containers have the files of `/proc` from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mount {
    /// The mountpoint, in the layout of LXCFS.
    #[default]
    Shared,
    /// Their directory of cgview's fast mount (`--by-id`), which has no files of `/sys`: those are from the
    /// mountpoint.
    Fast,
}

impl Options {
    /// cgview as it comes; LXCFS with all that it can (`-l --enable-cfs --enable-pidfd`).
    #[must_use]
    pub fn new() -> Options {
        Options::default()
    }

    /// Further arguments of cgview-fuse.
    #[must_use]
    pub fn cgview(mut self, arguments: &[&str]) -> Options {
        self.cgview.extend(arguments.iter().map(|&word| word.to_owned()));
        self
    }

    /// Which of its mounts containers have the files of `/proc` from.
    #[must_use]
    pub fn mount(self, mount: Mount) -> Options {
        Options { mount, ..self }
    }

    /// How old a number may be (cgview's `--freshness`).
    #[must_use]
    pub fn freshness(self, freshness: Duration) -> Options {
        Options { freshness: Some(freshness), ..self }
    }

    /// The arguments of LXCFS, in place of those above.
    #[must_use]
    pub fn lxcfs(mut self, arguments: &[&str]) -> Options {
        self.lxcfs = Some(arguments.iter().map(|&word| word.to_owned()).collect());
        self
    }
}

/// A running server with a mountpoint and a runtime directory of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    options: Options,
    dir: TempDir,
}

impl Server {
    /// Whether this machine can run what is under test; if not, says that the test is skipped.
    #[must_use]
    pub fn is_possible() -> bool {
        if !cgview_testkit::is_root() {
            return false;
        }
        let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
        if let Err(error) = fuse {
            skip(&format!("needs /dev/fuse: {error}"));
            return false;
        }
        if let Some((major, ..)) = under_test().lxcfs() {
            let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
            if major >= 7 && !is_v2 {
                skip("lxcfs 7 needs a machine with cgroup v2 alone");
                return false;
            }
            let personality = fs::read_to_string("/proc/1/personality");
            assert!(
                personality.is_ok(),
                "lxcfs has to read /proc/1/personality: run this below `unshare --fork --pid \
                 --mount-proc --kill-child`"
            );
        }
        true
    }

    /// Starts it, and waits until it serves.
    #[must_use]
    pub fn start(options: &Options) -> Server {
        let dir = TempDir::new().unwrap();
        // Other users may pass.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), mode).unwrap();
        for mountpoint in ["mnt", "by-id"] {
            fs::create_dir(dir.path().join(mountpoint)).unwrap();
        }
        let mut server = Server { child: None, options: options.clone(), dir };
        server.run();
        server
    }

    /// The command line of another one with the same runtime directory and pid file.
    #[must_use]
    pub fn command(&self, mountpoint: &Path) -> Command {
        let runtime = self.dir.path();
        match under_test() {
            Subject::Cgview => {
                let mut command = Command::new(cgview_fuse());
                command.arg("--runtime-dir").arg(runtime).args(&self.options.cgview);
                if self.options.mount == Mount::Fast {
                    command.arg("--by-id").arg(self.by_id());
                }
                if let Some(freshness) = self.options.freshness {
                    command.args(["--freshness", &freshness.as_millis().to_string()]);
                }
                // An emulated machine takes longer than a reader is to wait.
                if !self.options.cgview.iter().any(|word| word == "--request-deadline") {
                    command.args(["--request-deadline", "30000"]);
                }
                command.arg(mountpoint);
                command
            }
            Subject::Lxcfs { program, version } => {
                let mut command = Command::new(program);
                command.arg("-f").arg("-p").arg(runtime.join("lxcfs.pid"));
                if *version >= (6, 0, 1) {
                    command.arg(format!("--runtime-dir={}", runtime.display()));
                }
                match &self.options.lxcfs {
                    Some(arguments) => command.args(arguments),
                    None => command.args(["-l", "--enable-cfs", "--enable-pidfd"]),
                };
                command.arg(mountpoint);
                command
            }
        }
    }

    fn run(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path_of_log());
        let log = log.unwrap();
        let mut command = self.command(&self.mountpoint());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Not left behind if the test is killed.
        // SAFETY: system calls that take no memory.
        #[expect(unsafe_code, reason = "there is no safe way to be killed with the parent")]
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // Ignored by all that nohup(1) runs.
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            });
        }
        let before = self.log().len();
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        eventually("the server serves", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", self.log());
            match under_test() {
                Subject::Cgview => self.log().get(before..).unwrap().contains("serving "),
                Subject::Lxcfs { .. } => self.path("proc/uptime").exists(),
            }
        });
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn by_id(&self) -> PathBuf {
        self.dir.path().join("by-id")
    }

    /// The directory that has the files of `/proc` of a running container, by the cgroup that makes it.
    #[must_use]
    pub fn proc(&self, container: &Cgroup) -> PathBuf {
        match self.options.mount {
            Mount::Shared => self.path("proc"),
            Mount::Fast => {
                let cgroup = fs::metadata(container.dir("memory")).unwrap();
                self.by_id().join(cgroup.ino().to_string()).join("proc")
            }
        }
    }

    /// How old a text may be that a container reads: one tick of the kernel's clock more where it keeps them.
    #[must_use]
    pub fn age(&self) -> Duration {
        let default = Duration::from_millis(5);
        self.options.freshness.unwrap_or(default) + Duration::from_millis(35)
    }

    /// A file of it, such as `proc/meminfo`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint().join(name)
    }

    /// Its runtime directory.
    #[must_use]
    pub fn runtime(&self) -> &Path {
        self.dir.path()
    }

    /// The pid of what was started. Others may serve on its behalf.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The pids of what was started and of all that it started.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        [vec![self.pid()], descendants(self.pid())].concat()
    }

    /// The bytes that they read so far: `rchar` of proc_pid_io(5).
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        let texts = self.pids().into_iter().map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            crate::text::numbers(&text).get("rchar").copied().unwrap_or(0)
        });
        texts.sum()
    }

    /// Its pid file.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        let name = if under_test().is_cgview() { "cgview-fuse.pid" } else { "lxcfs.pid" };
        self.dir.path().join(name)
    }

    fn path_of_log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.path_of_log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the process that was started still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Sends a signal to the process that was started.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(pid_of(self.pid()), signal);
    }

    /// Kills it as a crash would, with all the processes that it started.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // They are found before they lose their parent, which dies first, so that it starts no others.
        let others = descendants(child.id());
        let _ = child.kill();
        let _ = child.wait();
        for pid in others {
            let _ = kill_process(pid_of(pid), Signal::KILL);
        }
    }

    /// Kills what serves, as a fault in it would; what watches over it lives.
    pub fn crash(&self) {
        let serving = if under_test().is_cgview() {
            eventually("a worker is there", || self.pids().len() > 1);
            self.pids().split_off(1)
        } else {
            self.pids()
        };
        for pid in serving {
            let _ = kill_process(pid_of(pid), Signal::KILL);
        }
    }

    /// Ends it, and starts it again in the same place. Binds that containers have may be dead then.
    pub fn restart(&mut self) {
        self.end();
        self.unmount();
        self.run();
    }

    fn end(&mut self) {
        let Some(child) = self.child.as_mut() else { return };
        let _ = kill_process(pid_of(child.id()), Signal::TERM);
        let end = Instant::now() + Duration::from_secs(8);
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    fn unmount(&self) {
        for mountpoint in [self.mountpoint(), self.by_id()] {
            let is_mounted = || {
                let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
                mounts.lines().any(|line| line.split(' ').nth(4) == mountpoint.to_str())
            };
            while is_mounted() && unmount(&mountpoint, UnmountFlags::DETACH).is_ok() {}
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log());
        }
        // No answer is waited for any more: a crash is as good an end as any, and faster.
        self.kill();
        self.unmount();
    }
}

/// The program of cgview, which is built beside the tests.
fn cgview_fuse() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let dirs = test.ancestors().skip(1).take(2);
    let program = dirs.map(|dir| dir.join("cgview-fuse")).find(|path| path.exists());
    program.unwrap_or_else(|| {
        panic!("no cgview-fuse beside {}: run `cargo build -p cgview-fuse`", test.display())
    })
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// All that descends from a process.
fn descendants(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.flat_map(|task| {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u32>>()
    });
    children.flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}
