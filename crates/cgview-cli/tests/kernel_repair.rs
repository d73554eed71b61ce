//! `cgview doctor --repair` on a real kernel: mounts whose daemon was killed, in containers of all kinds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod daemon;
mod repair;

use std::{
    ffi::CString,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cgview_testkit::{Spawn, Tree, is_guest, is_own_machine, kernel_is_at_least, pause};
use daemon::{Daemon, eventually};
use repair::{
    Container, Found, bind_files, container, doctor, is_ours, leave_others, mounts_of, propagate,
    ran, user_container,
};
use rustix::{
    fs::{Mode, OFlags},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount,
    },
    process::Signal,
};

/// On a machine of the tests' own all namespaces are repaired, also those of a test beside.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Repairs the mount namespaces of some processes; on a machine of the tests' own, all there are.
fn repair_all(daemon: &Daemon, pids: &[u32]) -> serde_json::Value {
    let mut arguments = ["--repair", "--json", "--mountpoint"].map(str::to_owned).to_vec();
    arguments.push(daemon.mountpoint().to_str().unwrap().into());
    // In a guest all mount namespaces are the test's.
    if !is_guest() {
        arguments.extend(pids.iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]));
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ran = doctor(&arguments);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// How each mount of the process's namespace was repaired: `swapped`, `covered`.
fn outcomes(report: &serde_json::Value, pid: u32, daemon: &Daemon) -> Vec<String> {
    let id = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let id: u64 = id.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    report["repair"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|namespace| namespace["namespace"] == id)
        .flat_map(|namespace| namespace["mounts"].as_array().unwrap())
        .filter(|mount| is_ours(mount["mountpoint"].as_str().unwrap(), daemon))
        .map(|mount| mount["outcome"].as_str().unwrap().to_owned())
        .collect()
}

const MIB: u64 = 1 << 20;

#[test]
fn containers_read_on_without_ever_seeing_the_host() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(mut daemon) = Daemon::start() else { return };
    let view = daemon.mountpoint();
    let walk = Duration::from_millis(3);
    // As fast as it can; emulated CPUs are slow enough.
    let spin = if is_guest() { walk } else { Duration::ZERO };
    let cgroup = |name: &str, limit: u64| {
        let cgroup = tree.cgroup(name);
        cgroup.limit_memory(limit * MIB);
        cgroup
    };

    let plain = cgroup("plain", 64);
    let plain = Container::start(container(&plain), &view, 64 << 10, spin, || bind_files(&view));

    // Mounts of all that can be mounted, with attributes and propagation of all kinds.
    let varied = cgroup("varied", 65);
    let (dir, inner) = (daemon.dir().join("varied"), view.clone());
    fs::create_dir(&dir).unwrap();
    let varied = Container::start(container(&varied), &view, 65 << 10, walk, || {
        let path = bind_files(&inner);
        let change = |path: &str, flags| mount_remount(path, MountFlags::BIND | flags, "").unwrap();
        let strict = MountFlags::STRICTATIME;
        change("/proc/meminfo", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOATIME);
        change("/proc/stat", MountFlags::NODEV | MountFlags::NODIRATIME | strict);
        propagate("/proc/stat", MountPropagationFlags::SHARED);
        propagate("/sys/devices/system/cpu", MountPropagationFlags::UNBINDABLE);
        path
    });

    // The whole view, bound by one who shares all mounts with others; and a slave of those.
    let whole = cgroup("whole", 66);
    let (place, inner) = (daemon.dir().join("whole"), view.clone());
    fs::create_dir(&place).unwrap();
    let whole = Container::start(container(&whole), &view, 66 << 10, walk, || {
        propagate("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC);
        mount_bind(&inner, &place).unwrap();
        unmount(&inner, UnmountFlags::DETACH).unwrap();
        place.join("proc/meminfo")
    });

    let user = cgroup("user", 67);
    let inner = view.clone();
    let user = Container::start(user_container(&user), &view, 67 << 10, spin, || {
        // That of its parent is locked here, and the binds are its own.
        mount_bind(inner.join("proc/meminfo"), "/proc/meminfo").unwrap();
        "/proc/meminfo".into()
    });

    // Its user namespace got the binds from its parent: nobody can unmount them.
    let locked = cgroup("locked", 68);
    let inner = view.clone();
    let locked = Container::start(container(&locked), &view, 68 << 10, walk, || {
        let path = bind_files(&inner);
        isolate();
        path
    });

    // All that is in the namespace has another root.
    let jailed = cgroup("jailed", 69);
    let (root, inner) = (daemon.dir().join("jail"), view.clone());
    fs::create_dir(&root).unwrap();
    fs::write(root.join("meminfo"), "the file beneath\n").unwrap();
    let jailed = Container::start(container(&jailed), &view, 69 << 10, walk, || {
        mount_bind(inner.join("proc/meminfo"), root.join("meminfo")).unwrap();
        unmount(&inner, UnmountFlags::DETACH).unwrap();
        std::os::unix::fs::chroot(&root).unwrap();
        std::env::set_current_dir("/").unwrap();
        "/meminfo".into()
    });

    let mut all = [plain, varied, whole, user, locked, jailed];
    for container in &mut all {
        container.wait_for(Found::Own);
    }
    let pids: Vec<_> = all.iter().map(|container| container.process.pid()).collect();
    let before: Vec<_> = all.iter().map(|container| container.mounts(&daemon)).collect();
    assert!(
        before[1].iter().any(|line| line == "/proc/stat /proc/stat rw,nodev,nodiratime shared")
    );

    daemon.kill();
    for container in &mut all {
        container.wait_for(Found::Dead);
    }
    let ran = doctor(&[]);
    assert_eq!(ran.status, Some(1));
    let line = ran.stdout.lines().find(|line| line.contains(view.to_str().unwrap())).unwrap();
    assert!(line.starts_with("broken ") && line.contains("its daemon is gone"), "{line}");
    assert!(line.contains("namespaces of "), "{line}");
    assert!(ran.stdout.contains("then run `cgview doctor --repair`"), "{}", ran.stdout);

    // Those that got mounts from another user namespace, which cannot be unmounted there.
    let (user, locked) = (3, 4);
    let has_beneath = kernel_is_at_least(6, 5);
    let mut after_first = Vec::new();
    for round in 1..=2 {
        daemon.start_again(&[]);
        for container in &mut all {
            assert_eq!(container.found().last(), Some(&Found::Dead), "{}", container.text());
        }
        let report = repair_all(&daemon, &pids);
        for container in &mut all {
            container.wait_for(Found::Own);
            let expected = [vec![Found::Own], [Found::Dead, Found::Own].repeat(round)].concat();
            assert_eq!(container.found(), expected, "{}", container.text());
        }
        for (index, (pid, before)) in pids.iter().zip(&before).enumerate() {
            let mut outcomes = outcomes(&report, *pid, &daemon);
            outcomes.sort();
            outcomes.dedup();
            let expected: &[&str] = match index {
                _ if !has_beneath => &["covered"],
                index if index == user && round == 1 => &["covered", "swapped"],
                index if index == locked && round == 1 => &["covered"],
                _ => &["swapped"],
            };
            assert_eq!(outcomes, expected, "{report:#}");
            if has_beneath && ![user, locked].contains(&index) {
                assert_eq!(&mounts_of(*pid, &daemon), before);
            }
        }
        // Dead ones that had to stay are covered once: mounts do not pile up.
        let after: Vec<_> = all.iter().map(|container| container.mounts(&daemon)).collect();
        if round == 1 {
            for (before, after) in before.iter().zip(&after) {
                assert!(after.len() <= before.len() * 2, "{after:?}");
                let mut distinct = after.clone();
                distinct.dedup();
                assert_eq!(&distinct, before);
            }
            after_first = after;
        } else {
            assert_eq!(after, after_first);
        }

        // There is nothing left to do.
        let again = repair_all(&daemon, &pids);
        assert!(pids.iter().all(|pid| outcomes(&again, *pid, &daemon).is_empty()), "{again:#}");
        let ran = doctor(&[]);
        let line = ran.stdout.lines().find(|line| line.contains(view.to_str().unwrap())).unwrap();
        assert!(line.starts_with("ok "), "{line}");
        if round == 1 {
            daemon.kill();
            for container in &mut all {
                container.wait_for(Found::Dead);
            }
        }
    }
}

/// Moves the calling process into a user and a mount namespace of its own, where all mounts are locked.
fn isolate() {
    // SAFETY: descriptors stay shared with nobody.
    #[expect(unsafe_code, reason = "there is no safe way to unshare")]
    unsafe {
        let flags = rustix::thread::UnshareFlags::NEWUSER | rustix::thread::UnshareFlags::NEWNS;
        rustix::thread::unshare_unsafe(flags).unwrap();
    }
}

/// What `ci/container` does with these arguments.
fn ci_container(arguments: &[&str]) -> repair::Ran {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/container");
    ran(Command::new(script).args(arguments))
}

#[test]
fn containers_of_a_runtime_read_on() {
    let _alone = alone();
    if Tree::with(&["memory"]).is_none() {
        return;
    }
    if Command::new("runc").arg("--version").output().is_err() {
        return cgview_testkit::skip("needs runc");
    }
    let Some(mut daemon) = Daemon::start() else { return };
    let view = daemon.mountpoint();
    let name = format!("repair-{}", std::process::id());
    let names = [(name.clone() + "-a", None), (name + "-b", Some("--userns"))];
    let mut containers = Vec::new();
    for (name, option) in &names {
        let mut arguments = vec!["--detach", "--name", name, "--memory", "96M"];
        arguments.extend(["--views", view.to_str().unwrap()]);
        arguments.extend(*option);
        arguments.extend(["--", "sleep", "1000"]);
        let ran = ci_container(&arguments);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        containers.push(RunContainer { name, pid: ran.stdout.trim().parse().unwrap() });
    }
    let pids: Vec<_> = containers.iter().map(|container| container.pid).collect();
    let before: Vec<_> = pids.iter().map(|&pid| mounts_of(pid, &daemon)).collect();
    for container in &containers {
        assert_eq!(container.total(), "MemTotal:          98304 kB\n");
    }
    daemon.kill();
    assert_eq!(containers[0].total(), "");
    daemon.start_again(&[]);
    repair_all(&daemon, &pids);
    for (container, before) in containers.iter().zip(before) {
        assert_eq!(container.total(), "MemTotal:          98304 kB\n");
        if kernel_is_at_least(6, 5) {
            assert_eq!(mounts_of(container.pid, &daemon), before);
        }
    }
}

/// A container of a runtime. Dropping it removes it.
struct RunContainer<'a> {
    name: &'a str,
    pid: u32,
}

impl RunContainer<'_> {
    fn total(&self) -> String {
        ci_container(&["exec", self.name, "--", "grep", "MemTotal", "/proc/meminfo"]).stdout
    }
}

impl Drop for RunContainer<'_> {
    fn drop(&mut self) {
        ci_container(&["delete", self.name]);
    }
}

#[test]
fn a_repair_in_the_background_waits_for_the_view_and_leaves_the_caller_s_mounts() {
    let _alone = alone();
    if !is_own_machine() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(mut daemon) = Daemon::start() else { return };
    let cgroup = tree.cgroup("ct");
    cgroup.limit_memory(64 * MIB);
    let view = daemon.mountpoint();
    let walk = Duration::from_millis(3);
    let mut reader =
        Container::start(container(&cgroup), &view, 64 << 10, walk, || bind_files(&view));
    reader.wait_for(Found::Own);
    let own = daemon.dir().join("bound");
    fs::create_dir(&own).unwrap();
    mount_bind(&view, &own).unwrap();
    daemon.kill();
    daemon.start_again(&[]);
    daemon.signal(Signal::STOP);

    let (mut heard, mut told) = std::io::pipe().unwrap();
    let from = view.clone();
    // The end of the pipe is closed in that process as all else, so it is told by a file.
    let result = daemon.dir().join("result");
    let file = result.clone();
    cgview_attach::repair_in_background(&from, |report| {
        let report = report.unwrap();
        fs::write(file, format!("{} {}", report.namespaces.len(), report.is_complete())).unwrap();
    })
    .unwrap();
    told.write_all(b"+").unwrap();
    drop(told);
    // It holds nothing of this process: this is the end of the pipe.
    let mut rest = Vec::new();
    heard.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"+");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!result.exists());
    assert_eq!(reader.found(), [Found::Own, Found::Dead], "{}", reader.text());

    daemon.signal(Signal::CONT);
    reader.wait_for(Found::Own);
    eventually("it has told", || fs::read_to_string(&result).is_ok_and(|text| text == "1 true"));
    let error = fs::read(own.join("proc/meminfo")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);

    // What a daemon does at its start.
    daemon.kill();
    reader.wait_for(Found::Dead);
    daemon.start_again(&["--repair"]);
    reader.wait_for(Found::Own);
    let expected = [vec![Found::Own], [Found::Dead, Found::Own].repeat(2)].concat();
    assert_eq!(reader.found(), expected, "{}", reader.text());
    unmount(&own, UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_daemon_that_is_stopped_is_neither_waited_for_nor_replaced() {
    let _alone = alone();
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(stopped) = Daemon::start() else { return };
    let Some(live) = Daemon::start() else { return };
    let cgroup = tree.cgroup("ct");
    cgroup.limit_memory(64 * MIB);
    let view = stopped.mountpoint();
    let walk = Duration::from_millis(3);
    let mut reader =
        Container::start(container(&cgroup), &view, 64 << 10, walk, || bind_files(&view));
    reader.wait_for(Found::Own);
    let before = device(reader.process.pid());
    stopped.signal(Signal::STOP);

    let start = Instant::now();
    let ran = doctor(&[]);
    assert_eq!(ran.status, Some(1), "{}", ran.stdout);
    let place = stopped.mountpoint();
    let line = ran.stdout.lines().find(|line| line.contains(place.to_str().unwrap())).unwrap();
    assert!(line.starts_with("broken ") && line.contains("does not answer within 2 s"), "{line}");
    let report = repair_all(&live, &[reader.process.pid()]);
    assert!(outcomes(&report, reader.process.pid(), &live).is_empty(), "{report:#}");
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(device(reader.process.pid()), before);

    // Where it is the one to take mounts from, it is asked again.
    let pid = reader.process.pid().to_string();
    let asked = std::thread::spawn(move || {
        doctor(&["--repair", "--mountpoint", place.to_str().unwrap(), "--pid", &pid])
    });
    std::thread::sleep(Duration::from_millis(2500));
    stopped.signal(Signal::CONT);
    let ran = asked.join().unwrap();
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    // It was slow, but never wrong.
    let cgroup = tree.cgroup("other");
    cgroup.limit_memory(64 * MIB);
    let mut other =
        Container::start(container(&cgroup), &view, 64 << 10, walk, || bind_files(&view));
    other.wait_for(Found::Own);
    assert_eq!(reader.found(), [Found::Own], "{}", reader.text());
}

/// The file system that is mounted over `/proc/meminfo` of a process.
fn device(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let line = text.lines().rfind(|line| line.contains(" /proc/meminfo ")).unwrap();
    line.split(' ').nth(2).unwrap().to_owned()
}

#[test]
fn a_dead_lxcfs_is_reported_and_left_alone() {
    let _alone = alone();
    let Some(live) = Daemon::start() else { return };
    let place = live.dir().join("lxcfs");
    fs::create_dir(&place).unwrap();
    let inner = place.clone();
    let process = Spawn::new().container().run(|| {
        leave_others(&inner);
        mount_dead("fuse.lxcfs", &inner);
        pause()
    });
    let pid = process.pid();
    let dead = || {
        let path = format!("/proc/{pid}/root{}", place.display());
        fs::metadata(path).unwrap_err().kind() == ErrorKind::NotConnected
    };
    eventually("it is mounted", || {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        mounts.contains(" - fuse.lxcfs ")
    });
    assert!(dead());
    let report = repair_all(&live, &[pid]);
    assert!(outcomes(&report, pid, &live).is_empty(), "{report:#}");
    assert!(dead());
    let ran = doctor(&[]);
    assert_eq!(ran.status, Some(1));
    let mend = format!("restart the containers of processes {pid}");
    let lines: Vec<_> = ran.stdout.lines().collect();
    let index = lines
        .iter()
        .position(|line| line.contains(&mend))
        .unwrap_or_else(|| panic!("{mend}: {}", ran.stdout));
    assert!(lines[index - 1].starts_with("broken  fuse.lxcfs in containers"), "{}", ran.stdout);
}

/// Mounts a file system that nobody serves, and that nobody can.
fn mount_dead(kind: &str, place: &Path) {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty()).unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let data = CString::new(data).unwrap();
    mount("lxcfs", place, kind, MountFlags::empty(), data.as_c_str()).unwrap();
}

#[test]
fn what_is_in_the_way_is_said_in_one_sentence() {
    let _alone = alone();
    let Some(mut daemon) = Daemon::start() else { return };
    let view = daemon.mountpoint();
    let path = view.to_str().unwrap();
    let repair = |path: &str| doctor(&["--repair", "--mountpoint", path]);
    let empty = daemon.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let ran = repair(empty);
    assert_eq!(ran.status, Some(1));
    assert_eq!(
        ran.stderr,
        format!(
            "cgview: cannot take the view from {empty}: no cgview is mounted there; start \
             cgview-fuse {empty} first\n"
        )
    );
    daemon.kill();
    assert_eq!(
        repair(path).stderr,
        format!(
            "cgview: cannot take the view from {path}: it is dead: its daemon is gone; start \
             cgview-fuse {path} first\n"
        )
    );
    assert_eq!(doctor(&["--mountpoint", path]).status, Some(2));

    let mut command = Command::new(env!("CARGO_BIN_EXE_cgview"));
    let command = command.args(["doctor", "--repair"]).uid(65_534).gid(65_534);
    match command.output() {
        Ok(output) => {
            assert_eq!(output.status.code(), Some(1));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("only root may; run it with sudo"), "{said}");
        }
        // Other users may not pass to where it is.
        Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
    }
}
