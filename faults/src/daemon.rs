//! The daemon as a program, and where it runs.

use std::{
    env,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, Tree, is_root, skip};
use rustix::{
    fs::{Mode, OFlags},
    mount::UnmountFlags,
    process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit},
};
use tempfile::TempDir;

use crate::is_guest;
use crate::meter::Resources;

/// How long anything may take on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The program under test: `CGVIEW_FAULTS_PROGRAM`, or what cargo built beside the tests.
#[must_use]
pub fn program() -> PathBuf {
    env::var_os("CGVIEW_FAULTS_PROGRAM").map_or_else(|| built("cgview-fuse"), PathBuf::from)
}

/// The command `cgview`, as cargo built it beside the tests.
#[must_use]
pub fn command() -> Command {
    Command::new(built("cgview"))
}

/// Another version of the program under test, as `ci/test` builds it: it writes and hands over more than this one
/// knows, and crashes if told so. If there is none, says that the test is skipped.
#[must_use]
pub fn other_program() -> Option<PathBuf> {
    let path = beside_tests("cgview-fuse-other");
    if !path.exists() {
        skip("needs cgview-fuse-other beside cgview-fuse, which ci/other-version builds");
        return None;
    }
    Some(path)
}

fn built(name: &str) -> PathBuf {
    let path = beside_tests(name);
    assert!(path.exists(), "cannot find {name}: run `cargo build --workspace` first");
    path
}

fn beside_tests(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    // target/debug/deps/TEST
    test.ancestors().nth(2).unwrap().join(name)
}

/// The directories of a daemon. Dropping them unmounts what is left of it.
#[derive(Debug)]
pub struct Dirs {
    dir: TempDir,
}

impl Default for Dirs {
    fn default() -> Self {
        Dirs::new()
    }
}

impl Dirs {
    /// A mountpoint and a runtime directory.
    #[must_use]
    pub fn new() -> Dirs {
        let dirs = Dirs { dir: TempDir::new().unwrap() };
        // Other users may pass.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dirs.dir.path(), mode).unwrap();
        fs::create_dir(dirs.mountpoint()).unwrap();
        fs::create_dir(dirs.runtime()).unwrap();
        dirs
    }

    /// Where the view is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> PathBuf {
        self.path("mnt")
    }

    /// Its runtime directory.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// A file beside them.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mountpoint = self.mountpoint();
        mounts.lines().any(|line| line.split(' ').nth(4) == mountpoint.to_str())
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        while self.is_mounted()
            && rustix::mount::unmount(self.mountpoint(), UnmountFlags::DETACH).is_ok()
        {}
    }
}

/// A running daemon, in a cgroup of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    cgroup: Cgroup,
    dirs: Arc<Dirs>,
}

impl Daemon {
    /// Whether this machine can run one; if not, says that the test is skipped.
    #[must_use]
    pub fn is_possible() -> bool {
        if !is_root() {
            return false;
        }
        let fuse = File::options().read(true).write(true).open("/dev/fuse");
        if let Err(error) = fuse {
            skip(&format!("needs /dev/fuse: {error}"));
            return false;
        }
        true
    }

    /// Starts one in the cgroup `daemon` of a tree, and waits until it serves.
    #[must_use]
    pub fn start(tree: &Tree, arguments: &[&str]) -> Daemon {
        Daemon::start_in(tree.cgroup("daemon"), Arc::default(), &program(), arguments)
    }

    /// Starts a program as a daemon, in directories that it may find in use.
    #[must_use]
    pub fn start_in(cgroup: Cgroup, dirs: Arc<Dirs>, program: &Path, arguments: &[&str]) -> Daemon {
        Daemon::start_with(cgroup, dirs, program, arguments, &[])
    }

    /// The same with variables in its environment.
    #[must_use]
    pub fn start_with(
        cgroup: Cgroup,
        dirs: Arc<Dirs>,
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Daemon {
        let begun = fs::metadata(dirs.path("log")).map_or(0, |log| log.len());
        let child = spawn(&cgroup, &dirs, program, arguments, variables);
        let mut daemon = Daemon { child, cgroup, dirs };
        eventually("the daemon serves", || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", daemon.log());
            let begun = usize::try_from(begun).unwrap();
            daemon.log().get(begun..).unwrap_or_default().contains("serving ")
        });
        daemon
    }

    /// The process that was started: the keeper of the mount.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that serves: the keeper's child of that name. Nobody, between two of them. Where the mount
    /// is kept by somebody else, the process that was started.
    #[must_use]
    pub fn worker(&self) -> Option<u32> {
        let keeper = self.pid();
        let procs = fs::read_to_string(self.cgroup.dirs().first().unwrap().join("cgroup.procs"));
        let pids = procs.unwrap_or_default();
        let mut pids = pids.lines().filter_map(|line| line.parse().ok());
        let child = pids.find(|pid| is_worker(*pid, keeper));
        // Who only keeps has one thread.
        child.or_else(|| {
            Resources::of(keeper).is_some_and(|keeper| keeper.threads > 1).then_some(keeper)
        })
    }

    /// The process that serves, once there is one.
    #[must_use]
    pub fn next_worker(&self) -> u32 {
        let mut found = None;
        eventually("there is a worker", || {
            found = self.worker();
            found.is_some()
        });
        found.unwrap()
    }

    /// The cgroup that it runs in.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Its directories.
    #[must_use]
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Where the view is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> PathBuf {
        self.dirs.mountpoint()
    }

    /// A file of the view.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint().join(name)
    }

    /// What it said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dirs.path("log")).unwrap_or_default()
    }

    /// Sends its first process a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Whether its first process still runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills its processes, so that nobody holds the connection any more, and starts a new one in its place.
    #[must_use]
    pub fn lose(mut self, arguments: &[&str]) -> Daemon {
        let worker = self.worker();
        send(self.pid(), Signal::KILL);
        worker.inspect(|worker| send(*worker, Signal::KILL));
        eventually("the keeper ends", || !self.is_running());
        eventually("the worker ends", || self.worker().is_none());
        Daemon::start_in(self.cgroup.clone(), Arc::clone(&self.dirs), &program(), arguments)
    }

    /// Starts a program that takes the mount over from this one, and waits until it serves and this one has
    /// ended.
    #[must_use]
    pub fn replace(mut self, program: &Path, arguments: &[&str]) -> Daemon {
        let new = Daemon::start_in(self.cgroup.clone(), Arc::clone(&self.dirs), program, arguments);
        eventually("the daemon before it ends", || !self.is_running());
        new
    }

    /// Starts a program that is to take the mount over and refuses to, and waits until it has ended. Returns what
    /// was said meanwhile.
    #[must_use]
    pub fn fail_to_replace(
        &self,
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> String {
        let begun = self.log().len();
        let mut child = spawn(&self.cgroup, &self.dirs, program, arguments, variables);
        eventually("the other one gives up", || child.try_wait().unwrap().is_some());
        assert!(!child.wait().unwrap().success());
        self.log().get(begun..).unwrap_or_default().to_owned()
    }

    /// All its metrics, as text; nothing, if nobody answers now.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut reply = String::new();
        if let Ok(mut client) = UnixStream::connect(self.dirs.runtime().join("cgview-fuse.sock")) {
            let _ = client.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
            let _ = client.read_to_string(&mut reply);
        }
        reply
    }

    /// Gives up the connection: whoever waits for an answer gets an error instead.
    pub fn abort_connection(&self) {
        // It fails, as the mount is in use, but only after that.
        let _ = rustix::mount::unmount(self.mountpoint(), UnmountFlags::FORCE);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let worker = self.worker();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What the keeper left behind.
        if let Some(worker) = worker {
            send(worker, Signal::KILL);
        }
    }
}

fn spawn(
    cgroup: &Cgroup,
    dirs: &Dirs,
    program: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Child {
    let log = File::options().create(true).append(true).open(dirs.path("log")).unwrap();
    let mut command = Command::new(program);
    command.arg("--runtime-dir").arg(dirs.runtime()).arg(dirs.mountpoint());
    if is_guest() {
        // An emulated CPU is slow by itself.
        command.args(["--request-deadline", "30000"]);
    }
    command.args(arguments).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let procs: Vec<OwnedFd> = cgroup
        .dirs()
        .iter()
        .map(|dir| {
            let path = dir.join("cgroup.procs");
            rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        })
        .collect();
    let parent = rustix::process::getpid();
    // SAFETY: all are system calls that take no memory.
    #[expect(unsafe_code, reason = "there is no safe way to be killed with the parent")]
    unsafe {
        command.pre_exec(move || {
            for procs in &procs {
                rustix::io::write(procs, b"0")?;
            }
            // It is killed often enough without a picture of each time.
            let none = Rlimit { current: Some(0), maximum: Some(0) };
            setrlimit(Resource::Core, none)?;
            // Not left behind if the test is killed.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            assert_eq!(rustix::process::getppid(), Some(parent));
            Ok(())
        });
    }
    command.spawn().unwrap()
}

/// Sends a process a signal, if it is still there.
pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    let _ = kill_process(pid, signal);
}

/// Whether a process is a running worker of that keeper.
fn is_worker(pid: u32, keeper: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((name, rest)) = stat.rsplit_once(") ") else { return false };
    let mut words = rest.split(' ');
    let runs = !matches!(words.next(), Some("Z" | "X"));
    runs && name.ends_with("(cgview-worker") && words.next() == Some(&keeper.to_string())
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
