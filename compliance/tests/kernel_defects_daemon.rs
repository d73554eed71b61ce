//! Defects of LXCFS as a program: crashes, and what it does to the machine; and what is right.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    panic::catch_unwind,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cgview_compliance::{
    Container, Defect, MIB, Options, Server, eventually, run, start, text, under_test,
};
use cgview_testkit::{Spawn, Tree, is_guest, is_own_machine, kernel_is_at_least, skip};
use rustix::process::Signal;
use tempfile::TempDir;

/// The options with which triggers are taken.
fn triggers() -> Options {
    let lxcfs: &[&str] = match under_test().lxcfs() {
        Some(version) if version >= (7, 0, 0) => &["-l", "--enable-cfs", "--enable-psi-poll"],
        _ => &["-l", "--enable-cfs"],
    };
    Options::new().cgview(&["--enable-psi-poll"]).lxcfs(lxcfs)
}

/// Whether the server takes triggers for a container; if not, says that the test is skipped.
fn has_triggers(container: &Container) -> bool {
    if under_test().lxcfs().is_some_and(|version| version < (7, 0, 0)) {
        skip("lxcfs has no triggers before 7.0");
        return false;
    }
    let has = container.try_read("/proc/pressure/cpu").is_ok();
    if !has {
        skip("the kernel has no pressure");
    }
    has
}

/// What readers end with where a read has failed.
const CRASHED: i32 = 3;

/// Eight threads read the same descriptors at the same time, again and again while the file grows. What is no whole
/// text is written to `report`.
fn share_descriptors(path: &Path, growing: Option<&Growing>, report: &Path) -> i32 {
    let (crashed, torn) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    for _ in 0..if growing.is_some() { 8 } else { 1 } {
        let Ok(files) = (0..60).map(|_| File::open(path)).collect::<Result<Vec<_>, _>>() else {
            break;
        };
        if let Some(growing) = growing {
            growing.grow();
        }
        let barrier = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut buffer = vec![0; 1 << 16];
                    for file in &files {
                        barrier.wait();
                        match file.read_at(&mut buffer, 0) {
                            Ok(length) => {
                                let text = String::from_utf8_lossy(
                                    buffer.get(..length).unwrap_or_default(),
                                );
                                // Not a panic here: the others would wait for this thread.
                                let is_whole = text.is_empty() || text.ends_with('\n');
                                if !is_whole || catch_unwind(|| text::disks(&text)).is_err() {
                                    torn.lock().unwrap().push(text.into_owned());
                                }
                            }
                            Err(_) => crashed.store(true, Ordering::Relaxed),
                        }
                    }
                });
            }
        });
        if crashed.load(Ordering::Relaxed) {
            break;
        }
    }
    fs::write(report, torn.into_inner().unwrap().concat()).unwrap();
    if crashed.into_inner() { CRASHED } else { 0 }
}

// Law 6: "concurrent readers of one descriptor are safe", while the host's file grows.
#[test]
fn w01_threads_may_share_a_descriptor() {
    let Some((_tree, mut server)) = start(&[], &Options::new()) else { return };
    let growing = Growing::new();
    if growing.is_none() && under_test().lxcfs().is_some_and(|version| version >= (7, 0, 0)) {
        return skip("needs loop devices, for /proc/diskstats to grow");
    }
    let (path, report) = (server.path("proc/diskstats"), server.runtime().join("torn"));
    // In a process of their own: where another thread forks during a read past the page cache, the kernel may put what
    // was read into a page that the reader has no more (open(2), O_DIRECT), as other tests' threads do here.
    let readers = Spawn::new().run(|| share_descriptors(&path, growing.as_ref(), &report));
    let status = readers.wait();
    assert!([0, CRASHED].contains(&status), "{status}");
    if under_test().is_cgview() {
        assert_eq!(fs::read_to_string(&report).unwrap_or_default(), "");
    }
    // A crash takes its time, with the text of the crash.
    thread::sleep(Duration::from_millis(100));
    let crashed = status == CRASHED || !server.is_running();
    let seen = format!("eight readers of a growing file: crashed {crashed}");
    Defect::of("W1", |version| version >= (7, 0, 0)).judge(&seen, !crashed, crashed);
}

/// Loop devices, each of which is a line of `/proc/diskstats`.
struct Growing {
    made: std::cell::RefCell<Vec<u32>>,
}

impl Growing {
    fn new() -> Option<Growing> {
        if is_guest() {
            let _ = Command::new("modprobe").args(["loop", "max_loop=0"]).status();
        }
        fs::exists("/dev/loop-control").unwrap().then(|| Growing { made: Vec::new().into() })
    }

    fn grow(&self) {
        let control = File::options().read(true).write(true).open("/dev/loop-control").unwrap();
        for number in 200..300_u32 {
            // SAFETY: it takes a number.
            #[expect(unsafe_code, reason = "there is no safe name")]
            let made =
                unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&control), 0x4C80, number) };
            if made >= 0 {
                self.made.borrow_mut().push(number);
                return;
            }
        }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        let control = File::options().read(true).write(true).open("/dev/loop-control").unwrap();
        for number in self.made.borrow().iter() {
            // SAFETY: it takes a number.
            #[expect(unsafe_code, reason = "there is no safe name")]
            unsafe {
                libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&control), 0x4C81, *number);
            }
        }
    }
}

// host
// └─ container   <- sets a trigger as a user without rights, and closes it
//
// Documentation/accounting/psi.rst: "The trigger is de-registered when the file descriptor used to define
// the trigger is closed."
#[test]
fn w02_a_trigger_that_is_closed_harms_nobody() {
    let Some((tree, mut server)) = start(&["unified"], &triggers()) else { return };
    let container = Container::start(&server, &tree.cgroup("container"));
    if !has_triggers(&container) {
        return;
    }
    for user in [0, 65534] {
        let set = "exec 3<>/proc/pressure/cpu && printf \"some 500000 2000000\" >&3; exec 3>&-";
        let output = container.try_run(&format!(
            "setpriv --reuid={user} --regid={user} --clear-groups sh -c '{set}'"
        ));
        if output.status == 127 {
            return skip("needs setpriv");
        }
        thread::sleep(Duration::from_millis(300));
    }
    let alive = server.is_running() && container.try_read("/proc/meminfo").is_ok();
    Defect::new("W2").judge(&format!("runs after a trigger was closed: {alive}"), alive, !alive);
}

// host
// └─ container (a fifth of a CPU)   <- burns, and polls a trigger
//
// A signal that has the daemon report, or load its code again, ends nothing.
#[test]
fn w03_a_signal_while_somebody_polls_harms_nobody() {
    let Some((tree, mut server)) = start(&["unified"], &triggers()) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpu(20_000);
    let container = Container::start(&server, &cgroup);
    if !has_triggers(&container) {
        return;
    }
    // What withholds time from itself has pressure.
    let _busy = container.burn();
    let polling = container.enter().run(|| {
        use std::io::Write as _;
        let file = File::options().read(true).write(true).open("/proc/pressure/cpu");
        let Ok(mut file) = file else { return 1 };
        if file.write_all(b"some 50000 2000000").is_err() {
            return 2;
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let mut poll = libc::pollfd { fd, events: libc::POLLPRI, revents: 0 };
        loop {
            // SAFETY: one entry, which is there.
            #[expect(unsafe_code, reason = "there is no need for a name")]
            unsafe {
                libc::poll(&raw mut poll, 1, -1)
            };
        }
    });
    thread::sleep(Duration::from_millis(500));
    for _ in 0..4 {
        server.signal(Signal::USR1);
        thread::sleep(Duration::from_millis(200));
        // LXCFS does it with the next request.
        let _ = container.try_read("/proc/uptime");
        if !server.is_running() {
            break;
        }
    }
    let alive = server.is_running() && container.try_read("/proc/meminfo").is_ok();
    Defect::sometimes("W3").judge(&format!("runs after a signal: {alive}"), alive, !alive);
    drop(polling);
}

// cgroup-v2.rst, "nsdelegate: Consider cgroup namespaces as delegation boundaries. This option is system
// wide". A machine's own.
#[test]
fn w16_the_machines_mounts_stay_as_they_are() {
    if !is_own_machine() {
        return;
    }
    if !fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        return skip("needs cgroup v2 at /sys/fs/cgroup");
    }
    let options = "nsdelegate,memory_recursiveprot";
    let remount = Command::new("mount")
        .args(["-o", &format!("remount,{options}"), "/sys/fs/cgroup"])
        .status()
        .unwrap();
    assert!(remount.success());
    let read = || {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let line = mounts.lines().find(|line| line.contains(" /sys/fs/cgroup cgroup2 ")).unwrap();
        line.split(' ').nth(3).unwrap().to_owned()
    };
    let before = read();
    if !before.contains("nsdelegate") && under_test().is_cgview() {
        panic!("{before}");
    }
    let Some((_tree, server)) = start(&[], &Options::new()) else { return };
    let after = read();
    Defect::of("W16", |version| version < (6, 0, 6)).judge(
        &format!("before {before}, after {after}"),
        after.contains(options),
        !after.contains("nsdelegate"),
    );
    drop(server);
}

// Two daemons are not to share a pid file; the first one's stays.
#[test]
fn w17_a_second_one_leaves_the_pid_file() {
    let Some((_tree, server)) = start(&[], &Options::new()) else { return };
    eventually("the pid file is there", || server.pid_file().exists());
    let other = TempDir::new().unwrap();
    let status = server.command(other.path()).stdin(Stdio::null()).output().unwrap().status;
    assert!(!status.success(), "{status}");
    let there = server.pid_file().exists();
    Defect::new("W17").judge(
        &format!("the pid file is there after a second one failed: {there}"),
        there,
        !there,
    );
}

// host (cgroup v1 or hybrid)
// └─ container (256 MiB)   <- reads
//
// What cannot be served is an error when the daemon starts, not the host's numbers.
#[test]
fn w27_cgroup_v1_is_served_or_refused() {
    if !cgview_testkit::is_root() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    if !tree.is_v1("memory") {
        return skip("needs cgroup v1");
    }
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    let server = Server::start(&Options::new());
    // By hand: what cannot be listed cannot be bound file by file.
    let proc = server.path("proc");
    let script = format!(
        "mount --bind {0}/meminfo /proc/meminfo && cat /proc/meminfo; ls {0} >/dev/null",
        proc.display()
    );
    let output = run(Spawn::new().cgroup(&cgroup).container(), &script);
    let total = text::numbers(&output.text).get("MemTotal").copied();
    let is_right = total == Some(256 * 1024);
    Defect::of("W27", |version| version >= (7, 0, 0)).judge(
        &format!("MemTotal {total:?} kB, limit 262144 kB; ls: exit status {}", output.status),
        is_right && output.status == 0,
        !is_right && output.status != 0,
    );
}

// host
// ├─ server (no further task may start)
// └─ container   <- reads
//
// What tells one container from the next is a question to the kernel, not a process for each.
#[test]
fn w28_no_process_is_needed_to_tell_who_asks() {
    let Some((tree, server)) = start(&["pids"], &Options::new()) else { return };
    let own = tree.cgroup("server");
    // Its threads are there.
    fs::read(server.path("proc/uptime")).unwrap();
    for pid in server.pids() {
        own.add(pid);
    }
    let container = Container::start(&server, &tree.cgroup("container"));
    let count = || own.read("pids", "pids.current", "pids.current").trim().parse::<u64>().unwrap();
    eventually("no task starts any more", || {
        own.limit_pids(count());
        own.read("pids", "pids.max", "pids.max").trim() == count().to_string()
    });
    thread::sleep(Duration::from_millis(1500));
    let age = container.run("cat /proc/uptime");
    let age: f64 = age.split_whitespace().next().unwrap().parse().unwrap();
    Defect::new("W28").judge(
        &format!("uptime {age} of a container of at least 1.5 s"),
        (1.5..60.0).contains(&age),
        !(1.0..60.0).contains(&age),
    );
}

// daemon(7): "If SIGHUP is received, reload the configuration files, if this applies."
#[test]
fn w29_hangup_ends_nothing() {
    let Some((_tree, mut server)) = start(&[], &Options::new()) else { return };
    server.signal(Signal::HUP);
    let lxcfs = under_test().lxcfs().is_some();
    if lxcfs {
        eventually("it has ended", || !server.is_running());
    } else {
        eventually("the signal was seen", || server.log().contains("configuration"));
    }
    let (alive, served) = (server.is_running(), server.path("proc/uptime").exists());
    Defect::new("W29").judge(&format!("runs after SIGHUP: {alive}"), alive && served, !alive);
}

// host
// └─ container   <- reads, while the daemon dies
//
// A crash is to be survived by those who have its files.
#[test]
fn w29_a_crash_is_seen_by_nobody() {
    let Some((tree, server)) = start(&["memory"], &Options::new()) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB);
    let container = Container::start(&server, &cgroup);
    let _ = container.read("/proc/meminfo");
    let file = "/proc/meminfo";
    let mut results = Vec::new();
    for _ in 0..3 {
        server.crash();
        // The first finds it gone; another one, who serves again.
        results.extend([container.try_read(file), container.try_read(file)]);
        thread::sleep(Duration::from_millis(300));
    }
    let is_whole = |text: &String| text.starts_with("MemTotal:         262144 kB");
    let errors: Vec<_> =
        results.iter().filter_map(|result| result.as_ref().err()?.raw_os_error()).collect();
    // What is being read at that moment cannot be sent anew before Linux 6.9.
    let aborted = errors.iter().filter(|&&error| error == libc::ECONNABORTED).count();
    let resends = kernel_is_at_least(6, 9);
    Defect::new("W29").judge(
        &format!("errors of six reads after three crashes: {errors:?}"),
        results.iter().flatten().all(is_whole)
            && aborted == errors.len()
            && aborted <= if resends { 0 } else { 3 },
        // The first may have been under way.
        errors.ends_with(&[libc::ENOTCONN; 4]),
    );
}
