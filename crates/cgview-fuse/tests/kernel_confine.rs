//! What a running daemon may do, and what it may not, on a real kernel.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemon;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::{
        fd::AsFd as _,
        unix::{
            fs::PermissionsExt as _,
            net::UnixListener,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    panic::catch_unwind,
    path::Path,
    process::Command,
    thread,
};

use cgview_fuse::{
    confine::{self, InForce, Plan},
    settings::Settings,
};
use cgview_host::{Host, deputy};
use cgview_testkit::{Namespaces, Spawn, Tree, pause, skip};
use daemon::{Daemon, Dirs, eventually, run};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    process::Signal,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

const MIB: u64 = 1 << 20;

const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;

/// The process that answers: the one whose threads have a deputy among them, or the daemon itself.
fn worker(daemon: &Daemon) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let children = fs::read_to_string(children).unwrap_or_default();
    let mut pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
    pids.find(|pid| threads(*pid).contains_key("deputy")).unwrap_or(daemon.pid())
}

/// The `status` of each thread, by the thread's name.
fn threads(pid: u32) -> BTreeMap<String, String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut threads = BTreeMap::new();
    for task in tasks {
        // It may have ended meanwhile.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let (name, _) = status.strip_prefix("Name:\t").unwrap().split_once('\n').unwrap();
        threads.insert(name.to_owned(), status);
    }
    threads
}

/// A value of a `status`.
fn value<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

fn capabilities(status: &str, set: &str) -> u64 {
    u64::from_str_radix(value(status, set), 16).unwrap()
}

// docs/security.md, "What the daemon may do".
#[test]
fn each_thread_has_the_rights_that_are_documented() {
    if !Daemon::is_possible() {
        return;
    }
    for (options, more) in [(&[][..], 0), (&["--enable-psi-poll"][..], DAC_OVERRIDE)] {
        let daemon = Daemon::start(options);
        // Some are started by the first request.
        fs::read(daemon.path("proc/meminfo")).unwrap();
        let threads = threads(worker(&daemon));
        assert!(threads.len() > 5, "{:?}", threads.keys());
        for (name, status) in &threads {
            let kept = match name.as_str() {
                "deputy" => SYS_PTRACE | SYS_ADMIN | DAC_READ_SEARCH,
                _ => DAC_READ_SEARCH,
            };
            let permitted = if name == "deputy" { kept } else { kept | more };
            assert_eq!(capabilities(status, "CapEff"), kept, "{name}");
            assert_eq!(capabilities(status, "CapPrm"), permitted, "{name}");
            assert_eq!(capabilities(status, "CapBnd"), permitted, "{name}");
            assert_eq!(capabilities(status, "CapInh"), 0, "{name}");
            assert_eq!(capabilities(status, "CapAmb"), 0, "{name}");
            assert_eq!(value(status, "NoNewPrivs"), "1", "{name}");
            assert_eq!(value(status, "Seccomp"), "2", "{name}");
        }
        assert!(threads.contains_key("deputy"));
        assert!(daemon.log().contains("confined: capabilities cap_dac_"), "{}", daemon.log());
    }
}

#[test]
fn the_administrator_can_turn_it_off() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = Dirs::new();
    let config = dirs.path("cgview.toml");
    fs::write(&config, "confine = false\n").unwrap();
    let config = config.to_str().unwrap().to_owned();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    for (dirs, options) in [(dirs, ["--config", &config]), (Dirs::new(), ["--no-confine", "-s"])] {
        let daemon = Daemon::start_in(dirs, &options);
        for (name, status) in threads(worker(&daemon)) {
            assert_eq!(value(&status, "Seccomp"), value(&own, "Seccomp"), "{name}");
            assert_eq!(value(&status, "CapEff"), value(&own, "CapEff"), "{name}");
        }
        assert!(daemon.log().contains("WARN not confined, as the settings have it"));
        assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
    }
}

/// Runs something in a process that is confined as a daemon with that runtime directory would be, and gives
/// its exit status.
fn confined(runtime: &Path, body: impl FnOnce(InForce) -> i32) -> i32 {
    let settings = Settings { runtime_dir: runtime.into(), ..Settings::default() };
    let process = Spawn::new().run(|| {
        let host = Host::live().unwrap();
        let plan = Plan { settings: &settings, host: &host, unmounts: false };
        body(confine::apply(&plan))
    });
    process.wait()
}

fn errno(result: std::io::Result<impl Sized>) -> Option<Errno> {
    result.err().as_ref().and_then(Errno::from_io_error)
}

fn enter(name: &str, kind: LinkNameSpaceType) -> Result<(), Errno> {
    let own = File::open(format!("/proc/self/ns/{name}")).unwrap();
    move_into_link_name_space(own.as_fd(), Some(kind))
}

const SIGSYS: i32 = 31;

#[test]
fn calls_that_only_an_intruder_makes_end_the_process() {
    if !cgview_testkit::is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let calls: [(&str, &dyn Fn()); 7] = [
        ("execve", &|| drop(Command::new("/bin/true").exec())),
        ("fork", &|| drop(Spawn::new().run(|| 0))),
        ("mount", &|| _ = mount_bind("/", "/")),
        ("umount", &|| _ = unmount("/nowhere", UnmountFlags::empty())),
        ("setns", &|| _ = enter("cgroup", LinkNameSpaceType::ControlGroup)),
        ("chroot", &|| _ = rustix::process::chroot("/")),
        // By the deputy too.
        ("another namespace", &|| {
            let kind = LinkNameSpaceType::InterProcessCommunication;
            let _ = deputy::run(move || enter("ipc", kind));
        }),
    ];
    for (name, call) in calls {
        let status = confined(dir.path(), |in_force| {
            assert!(in_force.calls);
            call();
            0
        });
        assert_eq!(status, 128 + SIGSYS, "{name}");
    }
}

#[test]
fn other_calls_are_as_if_the_kernel_did_not_have_them() {
    if !cgview_testkit::is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = confined(dir.path(), |_| {
        let tcp = errno(std::net::TcpListener::bind("127.0.0.1:0"));
        assert_eq!(tcp, Some(Errno::NOSYS));
        assert_eq!(rustix::fs::chown("/proc", None, None), Err(Errno::NOSYS));
        let signal = Signal::TERM;
        let kill = rustix::process::kill_process(rustix::process::getpid(), signal);
        assert_eq!(kill, Err(Errno::NOSYS));
        // The deputy writes nothing.
        let written = deputy::run(|| errno(File::create("/proc/self/comm"))).unwrap();
        assert_eq!(written, Some(Errno::NOSYS));
        let socket = deputy::run(|| errno(std::os::unix::net::UnixStream::pair())).unwrap();
        assert_eq!(socket, Some(Errno::NOSYS));
        0
    });
    assert_eq!(status, 0);
}

#[test]
fn only_the_kernels_files_are_read_and_only_own_ones_written() {
    if !cgview_testkit::is_root() {
        return;
    }
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(elsewhere.path().join("file"), "").unwrap();
    let (own, other) = (dir.path(), elsewhere.path());
    let status = confined(own, |in_force| {
        if !in_force.paths {
            return 7;
        }
        // Another process, of the same user.
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero();
        let namespace = format!("/proc/{parent}/ns/pid");
        fs::read("/proc/1/status").unwrap();
        fs::read_dir("/sys/devices/system/cpu").unwrap();
        fs::write(own.join("file"), "text").unwrap();
        fs::remove_file(own.join("file")).unwrap();
        let _socket = UnixListener::bind(own.join("socket")).unwrap();
        fs::remove_file(own.join("socket")).unwrap();

        for result in [
            errno(fs::read("/etc/passwd")),
            errno(fs::read_dir("/")),
            errno(fs::read(other.join("file"))),
            errno(OpenOptions::new().write(true).open(other.join("file"))),
            errno(OpenOptions::new().write(true).open("/proc/self/comm")),
            errno(OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern")),
            errno(File::create(other.join("new"))),
            errno(fs::remove_file(other.join("file"))),
            errno(fs::create_dir(own.join("dir"))),
            errno(fs::read_link(&namespace)),
        ] {
            assert!(matches!(result, Some(Errno::ACCESS | Errno::PERM)), "{result:?}");
        }
        // What Landlock keeps from all others, the deputy may know.
        let link = move || rustix::fs::readlinkat(rustix::fs::CWD, namespace, Vec::new());
        let found = deputy::run(link).unwrap().unwrap();
        assert!(found.as_bytes().starts_with(b"pid:["));
        0
    });
    if status == 7 {
        skip("needs Landlock");
        return;
    }
    assert_eq!(status, 0);
    assert!(other.join("file").exists());
}

#[test]
fn panics_and_aborts_end_as_ever() {
    const CHILD: &str = "CGVIEW_TEST_ABORTS";
    if !cgview_testkit::is_root() {
        return;
    }
    let Some(dir) = std::env::var_os(CHILD) else {
        // In a program of its own, for it is to take no lock that a thread of this one holds.
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "panics_and_aborts_end_as_ever", "--nocapture"]);
        let output = child.env(CHILD, dir.path()).env("RUST_BACKTRACE", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{said}");
        assert!(said.contains("in a thread") && said.contains("stack backtrace"), "{said}");
        return;
    };
    let settings = Settings { runtime_dir: dir.into(), ..Settings::default() };
    let host = Host::live().unwrap();
    let in_force = confine::apply(&Plan { settings: &settings, host: &host, unmounts: false });
    assert!(in_force.calls);
    assert!(thread::spawn(|| panic!("in a thread")).join().is_err());
    assert!(catch_unwind(|| panic!("caught")).is_err());
    let large: Vec<u8> = vec![7; 64 << 20];
    std::hint::black_box(&large);
    std::process::abort()
}

// host
// └─ outer (64 MiB)       cgroup, pid; nothing of it is mounted inside
//    └─ app (32 MiB)      <- the init moved there
#[test]
fn where_a_cgroup_namespace_begins_is_known_without_a_mount() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let outer = tree.cgroup("outer");
    outer.limit_memory(64 * MIB);
    let init = Spawn::new().cgroup(&outer).container().run(pause);
    tree.bare_cgroup("outer/app").add(init.pid());
    // Now that there are no processes above.
    let app = tree.cgroup("outer/app");
    app.limit_memory(32 * MIB);
    let daemon = Daemon::start(&[]);
    let script = format!("cat {}", daemon.path("proc/meminfo").display());
    let meminfo = run(Spawn::new().cgroup(&app).join(&init, &["pid", "cgroup"]), &script);
    let total = meminfo.lines().next().unwrap();
    assert!(total.ends_with(" 65536 kB"), "{total}");
}

// A container's user to whom the cgroup was given keeps all others from it.
#[test]
fn a_cgroup_that_belongs_to_its_user_is_read_and_takes_triggers() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "unified"]) else { return };
    let cgroup = tree.cgroup("container");
    let pressure = cgroup.dir("unified").join("memory.pressure");
    if !pressure.exists() {
        skip("needs pressure of cgroups");
        return;
    }
    cgroup.limit_memory(64 * MIB);
    let daemon = Daemon::start(&["--enable-psi-poll"]);
    let own = |path: &Path, mode| {
        std::os::unix::fs::chown(path, Some(100_000), Some(100_000)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for dir in [cgroup.dir("memory"), cgroup.dir("unified")] {
        for entry in fs::read_dir(&dir).unwrap() {
            own(&entry.unwrap().path(), 0o600);
        }
        own(&dir, 0o700);
    }
    let (meminfo, pressure) = (daemon.path("proc/meminfo"), daemon.path("proc/pressure/memory"));
    let process = Spawn::new().cgroup(&cgroup).container().run(|| {
        let text = fs::read_to_string(&meminfo).unwrap();
        assert!(text.lines().next().unwrap().ends_with(" 65536 kB"), "{text}");
        let mut file = OpenOptions::new().read(true).write(true).open(&pressure).unwrap();
        std::io::Write::write_all(&mut file, b"some 100000 2000000").unwrap();
        0
    });
    assert_eq!(process.wait(), 0);
    assert!(daemon.log().lines().all(|line| !line.contains("WARN")), "{}", daemon.log());
}

#[test]
fn where_proc_hides_processes_it_says_what_is_left_out() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(64 * MIB);
    let dirs = Dirs::new();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("mount -t proc -o hidepid=2 proc /proc && exec \"$@\"").arg("sh");
    let daemon = dirs.command();
    command.arg(daemon.get_program()).args(daemon.get_args());
    let daemon = Daemon::run(dirs, command);
    assert!(daemon.log().contains("not confined by Landlock: /proc is mounted with hidepid"));
    let worker = worker(&daemon);
    let status = &threads(worker)["deputy"];
    assert_eq!(value(status, "Seccomp"), "2");
    // Its mount is in its own mount namespace.
    let meminfo = format!("/proc/{worker}/root{}", daemon.path("proc/meminfo").display());
    let process = Spawn::new().cgroup(&cgroup).run(|| {
        let text = fs::read_to_string(&meminfo).unwrap();
        assert!(text.lines().next().unwrap().ends_with(" 65536 kB"), "{text}");
        0
    });
    assert_eq!(process.wait(), 0);
}

// The runtime did not give the daemon's container the right to set a bound to its rights.
#[test]
fn with_few_rights_of_its_own_it_goes_on() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = Dirs::new();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all,+sys_admin,+sys_ptrace,+dac_read_search,+dac_override"]);
    let daemon = dirs.command();
    command.arg(daemon.get_program()).args(daemon.get_args());
    let daemon = Daemon::run(dirs, command);
    assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
    assert!(daemon.log().contains("(within the bound that was there)"), "{}", daemon.log());
    for (name, status) in threads(worker(&daemon)) {
        if name != "deputy" {
            assert_eq!(capabilities(&status, "CapEff"), DAC_READ_SEARCH, "{name}");
        }
        assert_eq!(value(&status, "Seccomp"), "2", "{name}");
    }
}

// An installation may keep its configuration anywhere.
#[test]
fn the_configuration_is_read_again_from_where_it_is() {
    if !Daemon::is_possible() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let config = elsewhere.path().join("cgview.toml");
    fs::write(&config, "").unwrap();
    let daemon = Daemon::start(&["--config", config.to_str().unwrap()]);
    // As editors do.
    let next = elsewhere.path().join("new");
    fs::write(&next, "log_level = 'debug'\n").unwrap();
    fs::rename(next, &config).unwrap();
    let worker = worker(&daemon);
    let pid = rustix::process::Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    eventually("it is read", || daemon.log().contains("read the configuration again"));
}

#[test]
fn a_user_namespace_and_its_users_are_served() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(64 * MIB);
    let daemon = Daemon::start(&[]);
    let spawn = Spawn::new().cgroup(&cgroup).new_namespaces(Namespaces::NEWUSER).container();
    let script = format!("cat {}", daemon.path("proc/meminfo").display());
    let meminfo = run(spawn, &script);
    assert!(meminfo.lines().next().unwrap().ends_with(" 65536 kB"), "{meminfo}");
}

// A call that the daemon makes and the filter does not have would go by unseen where it does no harm at once.
#[test]
fn no_call_that_the_daemon_makes_is_missing() {
    if !Daemon::is_possible() {
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        skip("needs strace");
        return;
    }
    let Some(tree) = Tree::with(&["memory", "cpu"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(64 * MIB).limit_cpu(50_000);
    let dirs = Dirs::new();
    let trace = dirs.path("trace");
    let mut command = Command::new("strace");
    // Its child is not to outlive it.
    command.args(["-f", "-qq", "-o"]).arg(&trace).args(["setpriv", "--pdeathsig", "KILL"]);
    let line = dirs.command();
    command.arg(line.get_program()).args(line.get_args()).arg("--enable-psi-poll");
    let daemon = Daemon::run(dirs, command);

    let script = "sh -c 'cat /proc/meminfo /proc/stat /proc/cpuinfo /proc/uptime /proc/loadavg \
                  /proc/diskstats /proc/vmstat /proc/swaps >/dev/null; ls -R /sys/devices/system/cpu'";
    daemon.in_container(&cgroup, script);
    let pressure = daemon.path("proc/pressure/memory");
    let process = Spawn::new().cgroup(&cgroup).container().run(|| {
        if let Ok(mut file) = OpenOptions::new().read(true).write(true).open(&pressure) {
            let _ = std::io::Write::write_all(&mut file, b"some 100000 2000000");
        }
        0
    });
    assert_eq!(process.wait(), 0);
    daemon.metrics();
    let pid = fs::read_to_string(daemon.dirs().path("cgview-fuse.pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    for (signal, said) in
        [(Signal::HUP, "read the configuration again"), (Signal::USR1, "containers known")]
    {
        rustix::process::kill_process(pid, signal).unwrap();
        eventually(said, || daemon.log().contains(said));
    }
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    eventually("it ends", || !daemon.dirs().path("cgview-fuse.pid").exists());

    let text = fs::read(&trace).unwrap();
    let text = String::from_utf8_lossy(&text);
    let begin = text.find("SECCOMP_SET_MODE_FILTER").expect("the filter is set");
    let refused: Vec<&str> = text[begin..]
        .lines()
        // The C library takes clone in its place.
        .filter(|line| line.contains("= -1 ENOSYS") && !line.contains("clone3"))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}
