//! `cgview attach`, `detach` and `status` on a real kernel, and what they are made of.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod attach;
mod daemon;

use std::{
    fs,
    io::Write as _,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use attach::{Container, cgview, refused, said};
use cgview_attach::{Bound, Files, Maker, View, bind};
use cgview_testkit::{
    Cgroup, Namespaces, Process, Spawn, Tree, is_guest, kernel_is_at_least, pause,
};
use daemon::{Daemon, eventually};
use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    process::{Pid, Signal, kill_process},
};

const MIB: u64 = 1 << 20;

/// One at a time: what is mounted in one test would be copied to the namespaces of another.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines of a `mountinfo` that are of a file of a view, and not of a view that is mounted on this machine.
fn files_in(mountinfo: &str) -> Vec<&str> {
    let is_file = |line: &&str| {
        line.contains(" - fuse.cgview ")
            && line.split(' ').any(|word| word.starts_with("/proc/") || word.starts_with("/sys/"))
    };
    mountinfo.lines().filter(is_file).collect()
}

/// The options of the mounts at a place, as a process sees them.
fn own_mounts(place: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words.filter(|words| words[4] == place).map(|words| words[5..].join(" ")).collect()
}

#[test]
fn a_hook_binds_all_files_below_a_root() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(daemon) = Daemon::start() else { return };
    let cgroup = tree.cgroup("ct");
    cgroup.limit_memory(64 * MIB);
    let mountpoint = daemon.mountpoint();
    let process = Spawn::new().cgroup(&cgroup).container().run(move || {
        let root = || OwnedFd::from(fs::File::open("/").unwrap());
        // What the container has put there itself stays.
        mount_bind("/dev/null", "/proc/swaps").unwrap();
        let view = View::open(&mountpoint).unwrap();
        let outcomes = bind(&view, &Files::all(), Maker::Runtime, root());
        for (entry, outcome) in outcomes {
            let path = entry.path();
            let expected = match path.as_str() {
                "/proc/swaps" => Bound::Left,
                path if fs::metadata(path).is_err() => Bound::Absent,
                _ => Bound::Bound,
            };
            assert_eq!(outcome, Ok(expected), "{path}");
        }
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        assert!(meminfo.starts_with("MemTotal:          65536 kB\n"), "{meminfo}");
        let [meminfo] = own_mounts("/proc/meminfo").try_into().unwrap();
        assert!(meminfo.starts_with("ro,nosuid,nodev,noexec,noatime - fuse.cgview "), "{meminfo}");
        assert_eq!(fs::read_to_string("/proc/swaps").unwrap(), "");
        assert!(fs::read_dir("/sys/devices/system/cpu").unwrap().count() > 3);

        // Once more does nothing, and what belongs to `cgview attach` is told apart.
        let files = "meminfo,stat".parse().unwrap();
        unmount("/proc/stat", UnmountFlags::DETACH).unwrap();
        let outcomes = bind(&view, &files, Maker::Attach, root());
        let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(outcomes, [Ok(Bound::Already), Ok(Bound::Bound)]);
        let [stat] = own_mounts("/proc/stat").try_into().unwrap();
        assert!(stat.starts_with("ro,nosuid,nodev,noexec,noatime,nodiratime "), "{stat}");
        0
    });
    assert_eq!(process.wait(), 0);
}

/// The worker of a daemon: the process that serves.
fn worker_of(daemon: &Daemon) -> Option<u32> {
    daemon.processes().into_iter().map(|pid| pid.as_raw_pid().unsigned_abs()).find(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.contains("worker"))
    })
}

/// A container of 256 MiB and 1.5 CPUs of a runtime that was started without a view, from being attached to until it is
/// detached from.
fn a_running_container_gets_a_view(runtime: &str, options: &[&str]) {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory", "cpu"]) else { return };
    let Some(mut daemon) = Daemon::start() else { return };
    let mountpoint = daemon.mountpoint().to_str().unwrap().to_owned();
    let cgroup = tree.cgroup("");
    let all = [&["--memory", "256M", "--cpus", "1.5", "--rootfs", "host"], options].concat();
    // Its first process reads all the time, and would tell of a file that is missing.
    let pause = if is_guest() { "sleep 0.2" } else { ":" };
    let read = "cat /proc/meminfo /proc/stat /proc/uptime >/dev/null || echo missing";
    let script = format!("while {pause}; do {read}; done");
    let Some(container) = Container::start(&cgroup.path(), runtime, &all, &script) else { return };
    let name = container.name().to_owned();
    let before = container.mounts();
    let total = "grep MemTotal /proc/meminfo";
    let host = container.exec(total);
    assert!(!host.contains(" 262144 kB"), "{host}");
    let found = || {
        let status: serde_json::Value = serde_json::from_str(&said(["status", "--json"])).unwrap();
        let containers = status["containers"].as_array().unwrap();
        containers.iter().find(|found| found["id"] == name.as_str()).unwrap().clone()
    };
    eventually("it is listed", || said(["status"]).contains(&name));
    assert_eq!(found()["pid"], container.pid);
    assert_eq!(found()["attached"], serde_json::json!([]));

    let attach = ["attach", "--mountpoint", &mountpoint, &name];
    let text = said(attach);
    assert!(text.starts_with(&name) && text.ends_with(" files attached\n"), "{text}");
    let files = found()["attached"].as_array().unwrap().len();
    assert!(files >= 12, "{}", found());
    let attached = container.mounts();

    // What is executed in it from now on, and what ran before.
    assert_eq!(container.exec(total), "MemTotal:         262144 kB\n");
    let free = container.exec("free -m");
    assert!(free.lines().any(|line| line.split_whitespace().take(2).eq(["Mem:", "256"])), "{free}");
    let top = container.exec("top -b -n 1 | head -5");
    assert!(top.contains("MiB Mem :    256.0 total"), "{top}");
    assert!(container.exec("uptime").contains("load average"));
    let cpus = container.exec("grep -c ^processor /proc/cpuinfo");
    assert!(["1\n", "2\n"].contains(&cpus.as_str()), "{cpus}");
    // Pressure is a matter of the unified hierarchy, in which it may have no cgroup.
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", container.pid)).unwrap();
    let has_cgroup =
        membership.lines().any(|line| line.starts_with("0::/") && line.contains(&name));
    if has_cgroup && fs::metadata("/proc/pressure/cpu").is_ok() {
        let pressure = container.exec("cat /proc/pressure/cpu");
        assert!(pressure.starts_with("some avg10="), "{pressure}");
    }
    let vmstat = container.exec("cat /proc/vmstat");
    let pages = vmstat.lines().find_map(|line| line.strip_prefix("nr_free_pages ")).unwrap();
    assert!(pages.parse::<u64>().unwrap() <= 256 * MIB / 4096, "{vmstat}");
    for line in files_in(&attached) {
        let options = line.split(' ').nth(5).unwrap();
        assert!(options.starts_with("ro,nosuid,nodev,noexec,"), "{line}");
    }

    // Once more is nothing more.
    let text = said(attach);
    assert!(text.ends_with(&format!(": {files} files attached before\n")), "{text}");
    assert_eq!(container.mounts(), attached);

    // No file was missing.
    assert_eq!(container.log(), "");

    // The daemon's worker is killed, and then all of it.
    let worker = worker_of(&daemon).unwrap();
    kill_process(Pid::from_raw(i32::try_from(worker).unwrap()).unwrap(), Signal::KILL).unwrap();
    // Before Linux 6.9, what is being read at that moment fails.
    eventually("it reads on", || container.try_exec(total) == "MemTotal:         262144 kB\n");
    if kernel_is_at_least(6, 9) {
        assert_eq!(container.log(), "");
    }
    daemon.kill();
    assert!(found()["dead"].as_array().is_some_and(|dead| dead.len() == files), "{}", found());
    daemon.start_again(&[]);
    let text = said(attach);
    assert!(text.ends_with(&format!(": {files} files attached before\n")), "{text}");
    assert_eq!(container.exec(total), "MemTotal:         262144 kB\n");

    let text = said(["detach", &container.pid.to_string()]);
    assert!(text.starts_with(&name) && text.contains(" files detached"), "{text}");
    assert_eq!(container.mounts(), before);
    assert_eq!(container.exec(total), host);
    let text = said(["detach", &name]);
    assert!(text.ends_with(": nothing was attached\n"), "{text}");
}

#[test]
fn a_container_of_runc_gets_a_view() {
    a_running_container_gets_a_view("runc", &[]);
}

#[test]
fn a_container_of_crun_gets_a_view() {
    if is_guest() {
        return cgview_testkit::skip("is not worth the time of emulated CPUs");
    }
    a_running_container_gets_a_view("crun", &[]);
}

#[test]
fn a_container_of_another_user_namespace_gets_a_view() {
    a_running_container_gets_a_view("runc", &["--userns"]);
}

/// A process with a mount namespace of its own, which obeys: each line is a command for `sh`.
struct Obedient {
    process: Process,
    input: std::io::PipeWriter,
    output: std::io::PipeReader,
}

impl Obedient {
    fn start(spawn: Spawn) -> Obedient {
        let (input_end, input) = std::io::pipe().unwrap();
        let (output, output_end) = std::io::pipe().unwrap();
        let process = spawn.run(move || {
            rustix::stdio::dup2_stdin(&input_end).unwrap();
            rustix::stdio::dup2_stdout(&output_end).unwrap();
            let error = std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/sh"));
            panic!("{error}");
        });
        Obedient { process, input, output }
    }

    /// Runs a command in it, and gives what that said.
    fn run(&mut self, command: &str) -> String {
        writeln!(self.input, "{{ {command}; }} 2>&1; echo; echo '#end'").unwrap();
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with("\n#end\n") {
            std::io::Read::read_exact(&mut self.output, &mut byte).unwrap();
            text.push(char::from(byte[0]));
        }
        text.trim_end_matches("\n#end\n").to_owned()
    }

    /// What it has mounted at and below `/proc` and `/sys`. The rest is a copy of the machine's, where others come and go.
    fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.process.pid())).unwrap();
        // Numbers of mounts are given anew.
        let lines = text.lines().map(|line| line.split(' ').skip(2).collect::<Vec<_>>());
        let is_kernels = |words: &Vec<&str>| {
            ["/proc", "/sys"]
                .iter()
                .any(|dir| words[2] == *dir || words[2].starts_with(&format!("{dir}/")))
        };
        lines.filter(is_kernels).map(|words| words.join(" ")).collect()
    }
}

#[test]
fn what_a_container_mounts_itself_stays() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(daemon) = Daemon::start() else { return };
    let mountpoint = daemon.mountpoint().to_str().unwrap().to_owned();
    let cgroup = tree.cgroup("ct");
    cgroup.limit_memory(64 * MIB);
    let mut container = Obedient::start(Spawn::new().cgroup(&cgroup).container());
    container.run(&format!("umount -l {mountpoint}; mount -t tmpfs tmpfs /mnt"));
    container.run("echo one >/mnt/one; echo two >/mnt/two; mount --bind /mnt/two /proc/swaps");
    let pid = container.process.pid().to_string();
    let own = container.mounts();
    let attach = || said(["attach", "--mountpoint", &mountpoint, "--files", "proc", &pid]);

    // What was there before is not covered.
    let text = attach();
    assert!(text.ends_with("; the container's own stays at /proc/swaps\n"), "{text}");
    assert_eq!(container.run("cat /proc/swaps"), "two\n");
    // Two above one of ours, of which one is read-only; attached again, they stay.
    container.run("mount --bind /mnt/one /proc/meminfo; mount --bind /mnt/two /proc/meminfo");
    container.run("mount -o remount,bind,ro /proc/meminfo; mount --bind /mnt/one /proc/stat");
    let with_own = container.mounts();
    let text = attach();
    assert!(!text.contains(" attached, "), "{text}");
    assert_eq!(container.mounts(), with_own);
    assert_eq!(container.run("cat /proc/meminfo /proc/stat"), "two\none\n");

    let text = said(["detach", &pid]);
    assert!(text.contains(" files detached"), "{text}");
    assert_eq!(container.run("cat /proc/meminfo /proc/stat"), "two\none\n");
    let mounts = container.mounts();
    assert_eq!(files_in(&mounts.join("\n")), Vec::<&str>::new());
    let mut top = || container.run("umount /proc/meminfo; head -c 4 /proc/meminfo");
    assert_eq!((top().as_str(), top().as_str()), ("one\n", "MemT"));
    container.run("umount /proc/stat");
    assert_eq!(container.mounts(), own);
}

/// A container with a process that is called like cgview's daemon.
fn of_the_daemon_s_name(cgroup: &Cgroup) -> Process {
    let process = Spawn::new().cgroup(cgroup).container().run(|| {
        rustix::thread::set_name(c"cgview-fuse").unwrap();
        pause()
    });
    let name = format!("/proc/{}/comm", process.pid());
    eventually("it has its name", || fs::read_to_string(&name).unwrap() == "cgview-fuse\n");
    process
}

#[test]
fn only_containers_are_attached_to() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(daemon) = Daemon::start() else { return };
    let mountpoint = daemon.mountpoint().to_str().unwrap().to_owned();
    let cgroup = |name: &str| {
        let cgroup = tree.cgroup(name);
        cgroup.limit_memory(64 * MIB);
        cgroup
    };
    let start = |name: &str, namespaces: Option<Namespaces>| {
        let spawn = Spawn::new().cgroup(&cgroup(name));
        let mut process = Obedient::start(match namespaces {
            Some(namespaces) => spawn.new_namespaces(namespaces),
            None => spawn.container(),
        });
        process.run(&format!("umount -l {mountpoint}"));
        process
    };
    let mut container = start("web", None);
    let mut excluded = start("web-not", None);
    // A service with mounts of its own, and one with a pid namespace too.
    let service = start("private.service", Some(Namespaces::NEWNS));
    let sandbox = start("sandbox.service", None);
    // It is a container with the view of its runtime already.
    let mut with_view = Obedient::start(Spawn::new().cgroup(&cgroup("viewed")).container());
    with_view.run(&format!(
        "mount --bind {mountpoint}/proc/uptime /proc/uptime; umount -l {mountpoint}"
    ));
    let _daemon = of_the_daemon_s_name(&cgroup("daemon"));
    let before = [&service, &sandbox, &excluded, &with_view].map(Obedient::mounts);

    let below = tree.cgroup("").path();
    let all = ["attach", "--all", "--below", &below, "--exclude", "*-not"];
    let text = said(all.iter().chain(&["--mountpoint", &mountpoint]));
    assert!(text.contains("web (other): ") && text.contains(" files attached\n"), "{text}");
    assert!(text.contains("viewed (other): ") && !text.contains("daemon"), "{text}");
    assert_eq!(container.run("grep MemTotal /proc/meminfo"), "MemTotal:          65536 kB\n");
    let after = [&service, &sandbox, &excluded].map(Obedient::mounts);
    assert_eq!(after[..], before[..3]);

    // The container's own processes with mounts of their own are detached from as well.
    let inner = Spawn::new()
        .join(&container.process, &["mnt", "pid"])
        .cgroup(&tree.cgroup("web"))
        .new_namespaces(Namespaces::NEWNS)
        .run(pause);
    let mounts = || fs::read_to_string(format!("/proc/{}/mountinfo", inner.pid())).unwrap();
    assert!(!files_in(&mounts()).is_empty());
    let text = said(["detach", "--all", "--below", &below]);
    assert!(text.contains("viewed (other): ") && text.contains("web (other): "), "{text}");
    assert_eq!(files_in(&mounts()), Vec::<&str>::new());
    let host = container.run("grep MemTotal /proc/meminfo");
    assert_ne!(host, "MemTotal:          65536 kB\n");
    let (text, kept) = (with_view.mounts(), before[3].clone());
    assert_eq!(text, kept);
    assert_eq!(excluded.run("grep MemTotal /proc/meminfo"), host);
}

#[test]
fn a_container_gets_its_own_files_of_the_fast_mount() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(mut daemon) = Daemon::start() else { return };
    daemon.kill();
    let [mountpoint, by_id] =
        [daemon.mountpoint(), daemon.by_id()].map(|path| path.to_str().unwrap().to_owned());
    fs::create_dir(&by_id).unwrap();
    daemon.start_again(&["--by-id", &by_id]);
    let cgroup = tree.cgroup("ct");
    cgroup.limit_memory(64 * MIB);
    let mut container = Obedient::start(Spawn::new().cgroup(&cgroup).container());
    container.run(&format!("umount -l {mountpoint}; umount -l {by_id}"));
    let before = container.mounts();
    let pid = container.process.pid().to_string();
    let attach = ["attach", "--mountpoint", &mountpoint, "--by-id", &by_id, &pid];
    let text = said(attach);
    assert!(text.ends_with(" files attached\n"), "{text}");
    // Those of one directory of the fast mount, and the rest of the view that all share.
    let number = std::os::unix::fs::MetadataExt::ino(&fs::metadata(cgroup.dir("memory")).unwrap());
    let mounts = container.mounts().join("\n");
    for line in files_in(&mounts) {
        let words: Vec<_> = line.split(' ').collect();
        let (root, place) = (words[1], words[2]);
        let is_fast = place.starts_with("/proc/") && place != "/proc/slabinfo";
        let expected = if is_fast { format!("/{number}{place}") } else { place.to_owned() };
        assert_eq!(root, expected, "{line}");
        assert!(words[3].starts_with("ro,nosuid,nodev,noexec,noatime,nodiratime"), "{line}");
    }
    let files = files_in(&mounts).len();
    assert!(files >= 8, "{mounts}");
    let mut total = || container.run("grep MemTotal /proc/meminfo");
    assert_eq!(total(), "MemTotal:          65536 kB\n");
    let again = |files| format!(": {files} files attached before\n");
    assert!(said(attach).ends_with(&again(files)));
    let text = refused(["attach", "--by-id", &mountpoint, "--mountpoint", &mountpoint, &pid]);
    assert!(text.contains("it has no directory for each container"), "{text}");

    // What is lost is made good by files that all share: those of the container's directory say the same.
    daemon.kill();
    daemon.start_again(&["--by-id", &by_id]);
    assert!(said(attach).ends_with(&again(files)));
    assert_eq!(total(), "MemTotal:          65536 kB\n");
    assert!(said(["detach", &pid]).contains(" files detached"));
    assert_ne!(total(), "MemTotal:          65536 kB\n");
    assert_eq!(container.mounts(), before);
}

#[test]
fn the_fast_mount_is_no_view_to_attach_from() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(mut daemon) = Daemon::start() else { return };
    daemon.kill();
    let by_id = daemon.by_id().to_str().unwrap().to_owned();
    fs::create_dir(&by_id).unwrap();
    daemon.start_again(&["--by-id", &by_id]);
    let listed = |line: String| {
        eventually("it is listed as what it is", || {
            said(["status"]).lines().any(|other| other == line)
        });
    };
    listed(format!("fuse.cgview at {}: answers", daemon.mountpoint().display()));
    listed(format!("fuse.cgview at {by_id}: answers, with a directory for each container"));

    let container = Spawn::new().cgroup(&tree.cgroup("app")).container().run(pause);
    let text = refused(["attach", "--mountpoint", &by_id, &container.pid().to_string()]);
    assert!(text.contains("name the other mountpoint of its cgview-fuse"), "{text}");
}

#[test]
fn an_error_says_what_to_do() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(mut daemon) = Daemon::start() else { return };
    let mountpoint = daemon.mountpoint().to_str().unwrap().to_owned();
    let cgroup = tree.cgroup("database");
    let container = Spawn::new().cgroup(&cgroup).container().run(pause);
    let pid = container.pid().to_string();
    let attach = |words: &[&str]| refused(["attach"].iter().chain(words));

    let own = std::process::id().to_string();
    let text = attach(&["--mountpoint", &mountpoint, &own]);
    assert!(text.contains("it has the mounts of the host, which stay as they are"), "{text}");
    let text = attach(&["no-such-container"]);
    assert!(text.contains("no container and no process is called no-such-container"), "{text}");
    assert!(text.contains("hint: "), "{text}");
    let text = attach(&["--mountpoint", "/proc", &pid]);
    assert!(text.contains("no cgview is mounted there; start cgview-fuse /proc first"), "{text}");
    let ran = cgview(["attach", "--files", "version", &pid]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("the view has no file \"version\""), "{}", ran.stderr);
    let ran = cgview(["attach", "--watch", "--below", "kubepods"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("a cgroup's path begins with a /"), "{}", ran.stderr);
    let served = of_the_daemon_s_name(&cgroup);
    let text = attach(&["--mountpoint", &mountpoint, &served.pid().to_string()]);
    assert!(text.contains("a cgview-fuse runs there, which would read its own files"), "{text}");
    // What is mounted for that process would be mounted for all.
    let script = "unshare --mount --propagation unchanged sleep 1000 & \
        until [ $(readlink /proc/$!/ns/mnt) != $(readlink /proc/self/ns/mnt) ]; do :; done; \
        \"$0\" attach --mountpoint \"$1\" $!; status=$?; kill $!; exit $status";
    let shared = attach::ran(
        Command::new("unshare")
            .args(["--mount", "--propagation", "shared", "sh", "-c", script])
            .args([env!("CARGO_BIN_EXE_cgview"), &mountpoint]),
    );
    assert_eq!(shared.status, Some(1), "{}", shared.stdout);
    assert!(
        shared.stderr.contains("is seen on the host too, as their mounts"),
        "{}",
        shared.stderr
    );
    daemon.kill();
    let text = attach(&["--mountpoint", &mountpoint, &pid]);
    assert!(text.contains("its daemon is gone"), "{text}");
    drop(container);
}

/// `cgview attach --watch`. Dropping it ends it.
struct Watch(Child);

impl Watch {
    fn start(arguments: &[&str], log: &std::path::Path) -> Watch {
        let log = fs::File::create(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgview"));
        command.args(["attach", "--watch"]).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Watch(command.spawn().unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn each_container_that_is_started_gets_a_view() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(daemon) = Daemon::start() else { return };
    let mountpoint = daemon.mountpoint().to_str().unwrap().to_owned();
    let parent = tree.cgroup("").path();
    let log = daemon.dir().join("watch.log");
    let list = daemon.dir().join("exclude");
    fs::write(&list, "# nobody yet\n").unwrap();
    // It waits until it sees its own memory.
    let script =
        "until grep -q ' 65536 kB' /proc/meminfo; do usleep 10000; done; echo seen; sleep 10000";
    let start = || Container::start(&parent, "runc", &["--memory", "64M"], script);
    // One that runs already.
    let Some(first) = start() else { return };
    let watch = Watch::start(
        &[
            "--below",
            &parent,
            "--mountpoint",
            &mountpoint,
            "--exclude-from",
            list.to_str().unwrap(),
        ],
        &log,
    );
    let said = || fs::read_to_string(&log).unwrap();
    eventually("the first one has a view", || first.log() == "seen\n");
    // Emulated CPUs take seconds for each.
    let count = if is_guest() { 3 } else { 20 };
    let containers: Vec<_> = (0..count).map(|_| start().unwrap()).collect();
    for container in &containers {
        eventually("it has a view", || container.log() == "seen\n");
        let line = format!("cgview: {} (other): ", container.name());
        eventually("it is told of", || said().contains(&line));
        assert_eq!(said().matches(&line).count(), 1, "{}", said());
    }

    // Those that are left out from now on.
    fs::write(&list, "*/left/*  # whatever is below\n").unwrap();
    let options = ["--memory", "64M"];
    let left = Container::start(&format!("{parent}/left"), "runc", &options, script).unwrap();
    let last = start().unwrap();
    eventually("the last one has a view", || last.log() == "seen\n");
    drop(watch);
    assert_eq!(left.log(), "");
    assert_eq!(
        containers[count - 1].exec("grep MemTotal /proc/meminfo"),
        "MemTotal:          65536 kB\n"
    );
}

/// How many directories are watched.
fn watches(watch: &Watch) -> usize {
    let dir = format!("/proc/{}/fdinfo", watch.0.id());
    let texts = fs::read_dir(dir).unwrap().flatten();
    let texts = texts.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.map(|text| text.matches("inotify wd:").count()).sum()
}

#[test]
fn a_cgroup_is_waited_for() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(daemon) = Daemon::start() else { return };
    let mountpoint = daemon.mountpoint().to_str().unwrap().to_owned();
    let log = daemon.dir().join("watch.log");
    let said = || fs::read_to_string(&log).unwrap();
    let top = tree.cgroup("");
    // Two that are not there, one in the other, and one beside it that is nobody's business.
    let below = format!("{}/pods/of-one", top.path());
    let waits = format!("cgview: waiting for the cgroup {below}: there is none\n");
    let watch = Watch::start(&["--below", &below, "--mountpoint", &mountpoint], &log);
    eventually("it waits", || said() == waits);
    let before = watches(&watch);
    let Some(other) =
        Container::start(&format!("{}/other", top.path()), "runc", &[], "sleep 10000")
    else {
        return;
    };
    // What is removed and made again is waited for again.
    let dirs: Vec<_> = top.dirs().iter().map(|dir| dir.join("pods/of-one")).collect();
    let script =
        "until grep -q ' 65536 kB' /proc/meminfo; do usleep 10000; done; echo seen; sleep 10000";
    for times in 2..=3 {
        let container = Container::start(&below, "runc", &["--memory", "64M"], script).unwrap();
        eventually("it has a view", || container.log() == "seen\n");
        drop(container);
        eventually("all of it is removed", || {
            dirs.iter().rev().for_each(|dir| {
                let _ = fs::remove_dir(dir);
                let _ = fs::remove_dir(dir.parent().unwrap());
            });
            !dirs.iter().any(|dir| dir.exists())
        });
        eventually("it waits again", || said().matches(&waits).count() == times);
        eventually("nothing that is gone is watched", || watches(&watch) == before);
    }
    assert!(!said().contains(other.name()), "{}", said());
}
