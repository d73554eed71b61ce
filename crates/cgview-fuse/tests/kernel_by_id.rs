//! The fast mount, on a real kernel: each container's files from outside, from the page cache.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemon;

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, Process, Spawn, Tree, pause};
use daemon::{Daemon, Dirs, eventually};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

const MIB: u64 = 1 << 20;

/// A daemon with a fast mount. Dropping it ends both.
struct Fast {
    daemon: Option<Daemon>,
    mountpoint: PathBuf,
}

impl Fast {
    fn start(arguments: &[&str]) -> Fast {
        let dirs = Dirs::new();
        let mountpoint = dirs.path("by-id");
        fs::create_dir(&mountpoint).unwrap();
        let by_id = ["--by-id", mountpoint.to_str().unwrap()];
        let daemon = Daemon::start_in(dirs, &[&by_id, arguments].concat());
        Fast { daemon: Some(daemon), mountpoint }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// The directory of a container.
    fn dir(&self, cgroup: &Cgroup) -> PathBuf {
        self.mountpoint.join(number(cgroup).to_string())
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            let (_, dirs) = daemon.end(Signal::INT);
            let _ = unmount(&self.mountpoint, UnmountFlags::DETACH);
            drop(dirs);
        }
    }
}

/// The number of a cgroup: in the hierarchy of the memory controller where that is one of v1.
fn number(cgroup: &Cgroup) -> u64 {
    fs::metadata(cgroup.dir("memory")).unwrap().ino()
}

fn container(cgroup: &Cgroup) -> Process {
    Spawn::new().cgroup(cgroup).container().run(pause)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A number behind a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The text without the blanks at the ends of lines.
fn trimmed(text: &str) -> String {
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

// host                                  <- reads
// ├─ small (64 MiB)
// └─ 0123.. (128 MiB), as a runtime names it
#[test]
fn each_container_has_a_directory_while_it_lives() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "cpu"]) else { return };
    let small = tree.cgroup("small");
    small.limit_memory(64 * MIB).limit_cpu(50_000);
    let id = format!("{:064x}", 0xfeed_0000_0000_u64 + u64::from(std::process::id()));
    let large = tree.cgroup(&format!("docker-{id}.scope"));
    large.limit_memory(128 * MIB);
    let fast = Fast::start(&[]);
    let (in_small, in_large) = (container(&small), container(&large));
    let total = |path: PathBuf| {
        let text = fs::read_to_string(path.join("proc/meminfo")).unwrap();
        field(&text, "MemTotal:")
    };
    assert_eq!(total(fast.dir(&small)), 64 << 10);
    assert_eq!(total(fast.dir(&large)), 128 << 10);
    assert_eq!(total(fast.mountpoint.join(&id)), 128 << 10);
    let listed = names(&fast.mountpoint);
    for name in [number(&small).to_string(), number(&large).to_string(), id.clone()] {
        assert!(listed.contains(&name), "{name} is not in {listed:?}");
    }
    let cpuinfo = fs::read_to_string(fast.dir(&small).join("proc/cpuinfo")).unwrap();
    assert_eq!(cpuinfo.lines().filter(|line| line.starts_with("processor")).count(), 1);
    // All of its files have texts that other programs take.
    for name in names(&fast.dir(&small).join("proc")) {
        let path = fast.dir(&small).join("proc").join(&name);
        if path.is_file() {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(text.len() as u64, fs::metadata(&path).unwrap().len(), "{name}");
            assert!(text.is_empty() || text.ends_with('\n'), "{name}: {text}");
        }
    }
    // Its own files say the same, without a line's blanks.
    let script = format!("cat {}/proc/swaps", fast.daemon().mountpoint().display());
    let shared = daemon::run(Spawn::new().cgroup(&small), &script);
    let swaps = fs::read_to_string(fast.dir(&small).join("proc/swaps")).unwrap();
    assert_eq!(trimmed(&swaps), trimmed(&shared));

    let held = File::open(fast.dir(&small).join("proc/meminfo")).unwrap();
    for name in ["nothing", "0", "01", "+1", "18446744073709551615"] {
        let error = fs::read_dir(fast.mountpoint.join(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOENT.raw_os_error()), "{name}");
    }
    let dir = fast.dir(&small);
    in_small.kill();
    small.remove();
    eventually("its directory is gone", || !dir.exists());
    eventually("its files are stale", || {
        let read = held.read_at(&mut [0; 16], 0).map_err(|error| error.raw_os_error());
        read == Err(Some(Errno::STALE.raw_os_error()))
    });
    assert!(!names(&fast.mountpoint).contains(&dir.file_name().unwrap().to_str().unwrap().into()));
    assert_eq!(total(fast.dir(&large)), 128 << 10);
    drop(in_large);
}

/// What the container's memory is limited to, in MiB: in kB, numbers of five and of six digits.
const LIMITS: [u64; 3] = [32, 64, 500];

/// The buffers of readers: of perverse ones, of musl, glibc and `cat`.
const SIZES: [usize; 10] = [1, 7, 16, 100, 512, 1000, 1024, 4096, 8192, 131_072];

// Names and numbers of lines, which change while they are read.
#[test]
fn no_reader_gets_a_torn_text() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "cpu"]) else { return };
    let app = tree.cgroup("app");
    app.limit_memory(64 * MIB);
    let fast = Fast::start(&[]);
    // It uses CPU time, and its limit has now as many digits and then others.
    let busy = Spawn::new().cgroup(&app).container().run(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    for name in ["meminfo", "stat", "uptime"] {
        let path = fast.dir(&app).join("proc").join(name);
        let first = fs::read(&path).unwrap();
        let words = |text: &[u8]| -> Vec<String> {
            let text = std::str::from_utf8(text).unwrap();
            text.lines().map(|line| line.split_whitespace().next().unwrap_or("").into()).collect()
        };
        let is_named = matches!(name, "meminfo" | "stat");
        let lines = words(&first);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let mut readers = Vec::new();
            for _ in 0..4 {
                let (path, first, lines, stop) = (&path, &first, &lines, &stop);
                readers.push(scope.spawn(move || {
                    let mut last = 0;
                    for (read, &size) in SIZES.iter().cycle().enumerate() {
                        if stop.load(Ordering::Relaxed) && read >= SIZES.len() {
                            break;
                        }
                        let mut buffer = vec![0; size];
                        let mut text = Vec::new();
                        let mut file = File::open(path).unwrap();
                        loop {
                            let count = file.read(&mut buffer).unwrap();
                            if count == 0 {
                                break;
                            }
                            text.extend_from_slice(buffer.get(..count).unwrap());
                        }
                        let shown = String::from_utf8_lossy(&text).into_owned();
                        assert_eq!(text.len(), first.len(), "{size} bytes at a time: {shown}");
                        assert!(!text.contains(&0) && text.ends_with(b"\n"), "{size}: {shown}");
                        if is_named {
                            assert_eq!(&words(&text), lines, "{size} bytes at a time: {shown}");
                        }
                        // What one read gets is of one moment.
                        if size < first.len() {
                            continue;
                        }
                        if name == "meminfo" {
                            let total = field(&shown, "MemTotal:");
                            assert!(LIMITS.contains(&(total >> 10)), "{shown}");
                            let free = field(&shown, "MemFree:");
                            let parts = ["Buffers:", "Cached:", "SReclaimable:"];
                            let rest: u64 = parts.iter().map(|name| field(&shown, name)).sum();
                            assert!(free + rest <= total, "{shown}");
                            let slab = ["SReclaimable:", "SUnreclaim:"];
                            let slab: u64 = slab.iter().map(|name| field(&shown, name)).sum();
                            assert_eq!(field(&shown, "Slab:"), slab, "{shown}");
                        }
                        if name == "stat" {
                            let now = field(&shown, "cpu");
                            assert!(now >= last, "{now} after {last}");
                            last = now;
                        }
                    }
                }));
            }
            // Until the text has changed often enough while all were reading.
            let mut seen = std::collections::BTreeSet::new();
            let end = Instant::now() + Duration::from_secs(60);
            let mut tries = 0;
            while (seen.len() < 3 || tries < 30)
                && Instant::now() < end
                && !readers.iter().any(|one| one.is_finished())
            {
                seen.insert(String::from_utf8(fs::read(&path).unwrap()).unwrap());
                tries += 1;
                for limit in LIMITS.iter().skip(tries % LIMITS.len()).take(1) {
                    app.limit_memory(limit * MIB);
                }
                thread::sleep(Duration::from_millis(5));
            }
            stop.store(true, Ordering::Relaxed);
            assert!(seen.len() >= 3, "{name}: {} texts of {tries}: {seen:?}", seen.len());
        });
    }
    drop(busy);
}

/// The worker of a keeper.
fn worker(keeper: u32) -> Option<u32> {
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let pid: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut rest = rest.split_whitespace();
        let (state, parent) = (rest.next()?, rest.next()?);
        (name == "cgview-worker" && state != "Z" && parent == keeper.to_string()).then_some(pid)
    })
}

/// A container that may use 64 MiB, and a daemon with a fast mount. `None` where that is not possible.
fn app() -> Option<(Tree, Cgroup, Fast, Process)> {
    if !Daemon::is_possible() {
        return None;
    }
    let tree = Tree::with(&["memory"])?;
    let app = tree.cgroup("app");
    app.limit_memory(64 * MIB);
    let fast = Fast::start(&[]);
    let init = container(&app);
    Some((tree, app, fast, init))
}

#[test]
fn it_outlives_its_workers() {
    let Some((_tree, app, fast, init)) = app() else { return };
    let path = fast.dir(&app).join("proc/meminfo");
    let held = File::open(&path).unwrap();
    let read = || {
        let mut text = vec![0; 8192];
        let length = held.read_at(&mut text, 0)?;
        text.truncate(length);
        std::io::Result::Ok(field(&String::from_utf8_lossy(&text), "MemTotal:"))
    };
    assert_eq!(read().unwrap(), 64 << 10);
    let keeper = fast.daemon().pid();
    for _ in 0..3 {
        let mut before = None;
        eventually("there is a worker", || {
            before = worker(keeper);
            before.is_some()
        });
        let before = before.unwrap();
        let pid = Pid::from_raw(i32::try_from(before).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        eventually("another one serves", || worker(keeper).is_some_and(|next| next != before));
        // Before Linux 6.9 a request that the dead one had read fails.
        eventually("it is read on", || read().is_ok_and(|total| total == 64 << 10));
        eventually("it is read anew", || fs::read_to_string(&path).is_ok());
    }
    drop(init);
}

#[test]
fn the_daemon_is_asked_now_and_then_however_many_read() {
    let Some((_tree, app, fast, init)) = app() else { return };
    let path = fast.dir(&app).join("proc/meminfo");
    // The first one tells the kernel that there is nothing to be done about it.
    fs::read(&path).unwrap();
    let before = fast.daemon().requests("open");
    for _ in 0..200 {
        fs::read(&path).unwrap();
    }
    assert_eq!(fast.daemon().requests("open"), before);
    assert_eq!(fast.daemon().requests("release"), 0);
    drop(init);
}

/// A process that is killed with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_is_replaced_and_files_that_are_open_read_on() {
    let Some((_tree, app, fast, inside)) = app() else { return };
    let path = fast.dir(&app).join("proc/meminfo");
    let held = File::open(&path).unwrap();
    let total = |file: &File| {
        let mut text = [0; 4096];
        let length = file.read_at(&mut text, 0).unwrap();
        field(&String::from_utf8_lossy(text.get(..length).unwrap()), "MemTotal:")
    };
    assert_eq!(total(&held), 64 << 10);

    let stop = AtomicBool::new(false);
    let mut next = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(total(&held), 64 << 10);
                assert_eq!(total(&File::open(&path).unwrap()), 64 << 10);
                // For as long as attributes are kept, nobody is asked.
                thread::sleep(Duration::from_millis(1));
            }
        });
        let dirs = fast.daemon().dirs();
        let log = fs::OpenOptions::new().append(true).open(dirs.path("log")).unwrap();
        let mut command = dirs.command();
        command.arg("--replace").arg("--by-id").arg(&fast.mountpoint);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut next = Killed(command.spawn().unwrap());
        let pid = format!("{}\n", next.0.id());
        eventually("it takes over", || {
            assert!(next.0.try_wait().unwrap().is_none(), "{}", fast.daemon().log());
            fs::read_to_string(dirs.path("cgview-fuse.pid")).unwrap() == pid
        });
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        next
    });
    let keeper = fast.daemon().pid();
    eventually("the first one ends", || {
        let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('Z')
    });
    // The next one answers for what the first one opened, and for what is new.
    app.limit_memory(32 * MIB);
    eventually("an open file has the new limit", || total(&held) == 32 << 10);
    assert_eq!(total(&File::open(&path).unwrap()), 32 << 10);
    assert!(names(&fast.mountpoint).contains(&number(&app).to_string()));

    let pid = Pid::from_raw(i32::try_from(next.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    eventually("it ends", || next.0.try_wait().unwrap().is_some());
    eventually("its mount is gone", || names(&fast.mountpoint).is_empty());
    drop(inside);
}
