//! The mount outlives its workers, on a real kernel: they are killed, stopped, hung and replaced under readers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod daemon;

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{fs::FileExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cgview_testkit::{Spawn, Tree, kernel_is_at_least};
use daemon::{Daemon, eventually};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

/// Whether the kernel can be asked to send requests again that a dead process has read.
fn resends() -> bool {
    kernel_is_at_least(6, 9)
}

/// The worker of a keeper, which may be about to be replaced.
fn find_worker(keeper: u32) -> Option<u32> {
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let pid: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut rest = rest.split_whitespace();
        let (state, parent) = (rest.next()?, rest.next()?);
        (name == "cgview-worker" && state != "Z" && parent == keeper.to_string()).then_some(pid)
    })
}

fn worker(daemon: &Daemon) -> u32 {
    let mut found = None;
    eventually("there is a worker", || {
        found = find_worker(daemon.pid());
        found.is_some()
    });
    found.unwrap()
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // Somebody else may have been faster.
    let _ = kill_process(pid, signal);
}

/// How often a worker began to serve.
fn served(daemon: &Daemon) -> usize {
    daemon.log().matches("serving ").count()
}

/// Sends a signal to the worker, and waits until another one serves.
fn replace_worker(daemon: &Daemon, signal: Signal) {
    let before = served(daemon);
    let pid = worker(daemon);
    eventually("the next worker serves", || {
        let next = find_worker(daemon.pid());
        if next == Some(pid) {
            // More than once: the first SEGV is taken by the runtime, which looks for a stack that overflowed.
            send(pid, signal);
        }
        served(daemon) > before && next != Some(pid)
    });
}

/// Readers that read for as long as they are let.
struct Readers {
    threads: Vec<JoinHandle<Vec<io::Error>>>,
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
}

const FILES: [&str; 4] =
    ["proc/meminfo", "proc/stat", "proc/cpuinfo", "sys/devices/system/cpu/online"];

impl Readers {
    fn start(mountpoint: &Path, count: usize) -> Readers {
        let stop = Arc::new(AtomicBool::new(false));
        let reads = Arc::new(AtomicU64::new(0));
        let threads = (0..count)
            .map(|number| {
                let path = mountpoint.join(FILES[number % FILES.len()]);
                let (stop, reads) = (Arc::clone(&stop), Arc::clone(&reads));
                // Some of them take a text in many pieces.
                let room = if number % 3 == 0 { 64 } else { 64 << 10 };
                thread::spawn(move || {
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        match read_by(&path, room) {
                            Ok(text) => assert!(!text.is_empty(), "{}", path.display()),
                            Err(error) => failed.push(error),
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    failed
                })
            })
            .collect();
        Readers { threads, stop, reads }
    }

    /// Waits until some more have read.
    fn go_on(&self) {
        let before = self.reads.load(Ordering::Relaxed);
        eventually("readers go on", || self.reads.load(Ordering::Relaxed) > before + 20);
    }

    /// What failed. That it returns shows that nobody hangs.
    fn finish(self) -> Vec<io::Error> {
        self.stop.store(true, Ordering::Relaxed);
        eventually("no reader hangs", || self.threads.iter().all(JoinHandle::is_finished));
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

fn read_by(path: &Path, room: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut text = Vec::new();
    let mut piece = vec![0; room];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(text),
            length => text.extend_from_slice(&piece[..length]),
        }
    }
}

/// Nothing fails where requests can be sent again; elsewhere, at most what was being read then, with the error of
/// a connection that was aborted.
fn judge(failed: &[io::Error], readers: usize, deaths: usize) {
    if resends() {
        assert!(failed.is_empty(), "{failed:?}");
        return;
    }
    let aborted = Some(Errno::CONNABORTED.raw_os_error());
    assert!(failed.iter().all(|error| error.raw_os_error() == aborted), "{failed:?}");
    assert!(failed.len() <= readers * deaths, "{} of {readers} readers", failed.len());
}

#[test]
fn readers_outlive_workers_that_are_killed_crash_or_are_stopped() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let mut open = File::open(daemon.path("proc/meminfo")).unwrap();
    let mut start = [0; 16];
    open.read_exact(&mut start).unwrap();
    // Of a text that is another one each time, a reader has a part.
    let part = File::open(daemon.path("proc/stat")).unwrap();
    part.read_exact_at(&mut [0; 4], 0).unwrap();
    let mut rest = [[0; 64]; 2];
    part.read_exact_at(&mut rest[0], 4).unwrap();
    let readers = Readers::start(&daemon.mountpoint(), 12);
    let signals = [Signal::KILL, Signal::SEGV, Signal::STOP, Signal::ABORT, Signal::KILL];
    for signal in signals {
        readers.go_on();
        replace_worker(&daemon, signal);
    }
    readers.go_on();
    // On a slow machine a worker may have been taken to hang, too.
    judge(&readers.finish(), 12, served(&daemon) - 1);
    assert!(daemon.log().contains("took over from a worker that was ended by SIGSEGV"));

    // The rest is of the same text.
    part.read_exact_at(&mut rest[1], 4).unwrap();
    assert_eq!(rest[0], rest[1]);
    // What was opened before reads on, and anew.
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("MemFree:"), "{rest}");
    open.seek(SeekFrom::Start(0)).unwrap();
    open.read_exact(&mut start).unwrap();
    assert!(start.starts_with(b"MemTotal:"));

    let (status, dirs) = daemon.end(Signal::TERM);
    assert_eq!(status.code(), Some(0));
    drop(open);
    assert!(!dirs.is_mounted());
}

#[test]
fn what_was_opened_before_a_death_is_read_anywhere_and_what_was_read_out_has_an_end() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let open = || File::open(daemon.path("proc/meminfo")).unwrap();
    let (read_out, unread) = (open(), open());
    let read = |file: &File, offset| {
        let mut text = vec![0; 16 << 10];
        let length = file.read_at(&mut text, offset).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let whole = read(&read_out, 0);
    for _ in 0..3 {
        replace_worker(&daemon, Signal::KILL);
        assert_eq!(read(&read_out, whole.len() as u64 - 4), "");
        let rest = read(&unread, "MemTotal:".len() as u64);
        assert!(rest.trim_start().starts_with(|first: char| first.is_ascii_digit()), "{rest}");
        assert!(rest.contains("\nMemFree:"), "{rest}");
    }
}

#[test]
fn no_counter_goes_back_when_a_worker_is_killed() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::new() else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpu(150_000);
    let daemon = Daemon::start(&[]);
    // Neither all busy nor all idle.
    let script = "sh -c '(i=0; while test $i -lt 200; do i=$((i + 1)); cat /dev/null; done) & \
                  i=0; while test $i -lt 60; do i=$((i + 1)); \
                  cat /proc/uptime /proc/stat || echo FAILED; done; wait'";
    let output = thread::scope(|scope| {
        let reader = scope.spawn(|| daemon.in_container(&cgroup, script));
        let mut deaths = 0;
        // No more, so that a slow machine comes to an end.
        while !reader.is_finished() && deaths < 10 {
            replace_worker(&daemon, Signal::KILL);
            deaths += 1;
            thread::sleep(Duration::from_millis(30));
        }
        assert!(deaths > 1, "{deaths}");
        reader.join().unwrap()
    });
    if resends() {
        assert!(!output.contains("FAILED"), "{output}");
    }
    let mut last = std::collections::HashMap::<&str, Vec<f64>>::new();
    let mut seen = 0;
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers = |words: &[&str]| words.iter().map(|word| word.parse().ok()).collect();
        let (name, numbers): (&str, Option<Vec<f64>>) = match words.as_slice() {
            [name, rest @ ..] if name.starts_with("cpu") => (name, numbers(rest)),
            [_, _] => ("uptime", numbers(&words)),
            _ => continue,
        };
        let Some(numbers) = numbers else { continue };
        if let Some(before) = last.insert(name, numbers.clone()) {
            let back = before.iter().zip(&numbers).any(|(before, now)| now < before);
            assert!(!back, "{name}: {before:?}, then {numbers:?}");
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} in {output}");
}

/// Stops all threads of a process in a way that nobody but the caller knows of, and returns them.
fn hang(pid: u32) -> Vec<libc::pid_t> {
    let mut stopped = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let name = task.unwrap().file_name();
        let tid: libc::pid_t = name.to_str().unwrap().parse().unwrap();
        // SAFETY: no memory is given to the kernel.
        #[expect(unsafe_code, reason = "ptrace(2)")]
        unsafe {
            let none = std::ptr::null_mut::<libc::c_void>();
            libc::ptrace(libc::PTRACE_SEIZE, tid, none, none);
            libc::ptrace(libc::PTRACE_INTERRUPT, tid, none, none);
        }
        stopped.push(tid);
    }
    stopped
}

#[test]
fn a_worker_that_hangs_is_replaced() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&["--watchdog", "1000"]);
    let hung = worker(&daemon);
    let stopped = hang(hung);
    let begun = Instant::now();
    let path = daemon.path("proc/meminfo");
    let reader = thread::spawn(move || fs::read_to_string(path));
    // The tracer has to let go of the dead, or their parent does not hear of it.
    eventually("it is killed", || {
        for &tid in &stopped {
            // SAFETY: no memory is given to the kernel.
            #[expect(unsafe_code, reason = "waitpid(2) for threads of another process")]
            let _ =
                unsafe { libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
        }
        find_worker(daemon.pid()).is_some_and(|pid| pid != hung)
    });
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    eventually("it is answered", || reader.is_finished());
    match reader.join().unwrap() {
        Ok(text) => assert!(text.starts_with("MemTotal:")),
        Err(error) => judge(&[error], 1, 1),
    }
    assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
}

/// The state of a process, as `ps` shows it; `None` if there is none.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").unwrap().1.chars().next()
}

/// Whether a process waits, and does not run.
fn waits(pid: u32) -> bool {
    matches!(state(pid), Some('S' | 'D'))
}

/// Processes that were stopped; they go on when it is dropped.
struct Stopped([u32; 2]);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| send(*pid, Signal::CONT));
    }
}

// A name that was never looked up is looked up under a lock of its directory, unless the kernel was told that it need
// not be (`fuse_lock_inode()`): then it is one reader of all containers at a time, and nothing ends those behind it.
#[test]
fn readers_of_one_directory_do_not_wait_for_each_other() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let cpus = daemon.path("sys/devices/system/cpu");
    assert!(cpus.join("online").exists());
    // Nobody answers, and nobody does anything about it.
    let stopped = Stopped([daemon.pid(), worker(&daemon)]);
    stopped.0.iter().for_each(|pid| send(*pid, Signal::STOP));
    eventually("the daemon stands", || stopped.0.iter().all(|pid| state(*pid) == Some('T')));
    let looks = ["cpu0", "cpu1"].map(|name| {
        let path = cpus.join(name);
        let (mut told, tells) = io::pipe().unwrap();
        let look = Spawn::new().run(move || {
            let mut tells = tells;
            tells.write_all(&[1]).unwrap();
            i32::from(fs::metadata(path).is_err())
        });
        told.read_exact(&mut [0]).unwrap();
        eventually("it waits", || waits(look.pid()));
        look
    });
    let [first, second] = looks;
    // If this fails, it goes on before the readers are waited for.
    let stopped = stopped;
    send(second.pid(), Signal::KILL);
    eventually("it is killed", || matches!(state(second.pid()), None | Some('Z')));
    assert!(waits(first.pid()));
    drop(stopped);
    assert_eq!(first.wait(), 0);
}

#[test]
fn the_program_is_replaced_under_readers_and_nothing_fails() {
    if !Daemon::is_possible() {
        return;
    }
    let first = Daemon::start(&[]);
    let dirs = first.dirs();
    let readers = Readers::start(&first.mountpoint(), 12);
    readers.go_on();
    // One that cannot serve changes nothing.
    let bad = first.dirs().path("bad");
    fs::write(&bad, "").unwrap();
    let (status, said) = dirs.fail(&["--replace", "--metrics", bad.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(said.contains("cannot serve metrics on "), "{said}");
    readers.go_on();
    let pid = || fs::read_to_string(first.dirs().path("cgview-fuse.pid")).unwrap();
    assert_eq!(pid(), format!("{}\n", first.pid()));

    // There and back again: the one that takes over is the version of before for the next.
    let mut last = Successor::start(&first);
    eventually("the first one ends", || has_ended(first.pid()));
    for _ in 0..2 {
        readers.go_on();
        let next = Successor::start(&first);
        assert_eq!(last.wait(), Some(0));
        assert_eq!(pid(), format!("{}\n", next.0.id()));
        last = next;
    }
    readers.go_on();
    let failed = readers.finish();
    assert!(failed.is_empty(), "{failed:?}");
    // It has a worker of its own.
    let begun = served(&first);
    send(find_worker(last.0.id()).unwrap(), Signal::KILL);
    eventually("the next worker serves", || served(&first) > begun);
    assert!(fs::read_to_string(first.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
    send(last.0.id(), Signal::TERM);
    assert_eq!(last.wait(), Some(0));
    assert!(!first.dirs().is_mounted());
    assert!(!first.dirs().path("cgview-fuse.pid").exists());
    assert!(!first.dirs().path("cgview-fuse.keeper").exists());
}

/// A daemon that has taken over from another one.
struct Successor(Child);

impl Successor {
    fn start(daemon: &Daemon) -> Successor {
        let log = fs::OpenOptions::new().append(true).open(daemon.dirs().path("log")).unwrap();
        let mut command = daemon.dirs().command();
        command.arg("--replace").stdout(log.try_clone().unwrap()).stderr(log);
        let before = served(daemon);
        let mut child = Successor(command.spawn().unwrap());
        eventually("it takes over", || {
            assert!(child.0.try_wait().unwrap().is_none(), "{}", daemon.log());
            served(daemon) > before
                && fs::read_to_string(daemon.dirs().path("cgview-fuse.pid")).unwrap()
                    == format!("{}\n", child.0.id())
        });
        child
    }

    fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("it ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_worker_ends_with_its_keeper() {
    if !Daemon::is_possible() {
        return;
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let daemon = Daemon::start(&[]);
        let pid = worker(&daemon);
        let (_, dirs) = daemon.end(signal);
        eventually("the worker has ended", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.contains("(cgview-worker)") || stat.contains(") Z ")
        });
        assert_eq!(dirs.is_mounted(), signal == Signal::KILL);
    }
}

#[test]
fn a_worker_goes_on_with_the_settings_of_before_if_the_file_is_broken() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = daemon::Dirs::new();
    let config = dirs.path("cgview.toml");
    fs::write(&config, "threads = 3\n").unwrap();
    let daemon = Daemon::start_in(dirs, &["--config", config.to_str().unwrap()]);
    fs::write(&config, "threads = 'many'\n").unwrap();
    replace_worker(&daemon, Signal::KILL);
    let log = daemon.log();
    assert!(log.contains("went on with the settings of before: "), "{log}");
    assert_eq!(log.matches("with 3 threads").count(), 2, "{log}");
    assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
}

#[test]
fn a_first_worker_that_cannot_serve_leaves_nothing() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let other = daemon::Dirs::new();
    // In use by somebody who is alive.
    let socket: PathBuf = daemon.dirs().path("cgview-fuse.sock");
    let (status, said) = other.fail(&["--metrics", socket.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(said.starts_with("cgview-fuse: cannot serve metrics on "), "{said}");
    assert!(!other.is_mounted());
}

/// What the unit says.
fn unit(key: &str) -> &'static str {
    let unit = include_str!("../../../packaging/systemd/cgview-fuse.service");
    unit.lines().find_map(|line| line.strip_prefix(key)).unwrap()
}

#[test]
fn the_unit_says_how_many_descriptors_are_kept_as_systemd_254_would() {
    assert_eq!(unit("Environment=FDSTORE="), unit("FileDescriptorStoreMax="));
}

/// A service manager that keeps what it is given.
struct FakeManager {
    socket: std::os::unix::net::UnixDatagram,
    path: PathBuf,
    device: Option<std::os::fd::OwnedFd>,
    ledger: Option<std::os::fd::OwnedFd>,
}

impl FakeManager {
    fn new(dir: &Path) -> FakeManager {
        let path = dir.join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        FakeManager { socket, path, device: None, ledger: None }
    }

    /// Takes all that was sent.
    fn hear(&mut self) {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        loop {
            let mut text = [0; 1024];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [io::IoSliceMut::new(&mut text)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let Ok(heard) = recvmsg(&self.socket, &mut parts, &mut control, flags) else { return };
            let descriptor = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            let text = std::str::from_utf8(&text[..heard.bytes]).unwrap();
            let place = match text.lines().find_map(|line| line.strip_prefix("FDNAME=")) {
                Some("cgview-device") => &mut self.device,
                Some("cgview-ledger") => &mut self.ledger,
                _ => continue,
            };
            if text.contains("FDSTORE=1") {
                assert!(text.contains("FDPOLL=0"), "{text}");
                *place = Some(descriptor.unwrap());
            } else if text.contains("FDSTOREREMOVE=1") {
                *place = None;
            }
        }
    }

    /// A daemon as it is started, with what was kept of the one before.
    fn command(&self, dirs: &daemon::Dirs, arguments: &[&str]) -> Command {
        use std::os::fd::AsRawFd as _;
        let daemon = dirs.command();
        let mut command = Command::new("sh");
        // Only there its pid is known.
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(daemon.get_program());
        command.args(daemon.get_args()).args(arguments);
        command.env("NOTIFY_SOCKET", &self.path).env("FDSTORE", unit("Environment=FDSTORE="));
        if let (Some(device), Some(ledger)) = (&self.device, &self.ledger) {
            command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "cgview-ledger:cgview-device");
            let kept = [ledger.as_raw_fd(), device.as_raw_fd()];
            // So that these numbers are not in use for something else then.
            let taken: Vec<File> = (0..8).map(|_| File::open("/dev/null").unwrap()).collect();
            // SAFETY: system calls alone.
            #[expect(unsafe_code, reason = "descriptors are left by their numbers")]
            unsafe {
                command.pre_exec(move || {
                    let _ = &taken;
                    let high = kept.map(|number| libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 100));
                    for (place, number) in (3..).zip(high) {
                        libc::dup2(number, place);
                    }
                    Ok(())
                });
            }
        }
        command
    }
}

#[test]
fn a_service_manager_keeps_the_connection_over_a_restart() {
    if !Daemon::is_possible() {
        return;
    }
    for arguments in [&[][..], &["--no-keeper"]] {
        let dirs = daemon::Dirs::new();
        let mut manager = FakeManager::new(dirs.runtime());
        let command = manager.command(&dirs, arguments);
        let mut daemon = Daemon::run(dirs, command);
        manager.hear();
        assert!(manager.device.is_some() && manager.ledger.is_some(), "{}", daemon.log());
        let mut open = File::open(daemon.path("proc/meminfo")).unwrap();
        for signal in [Signal::TERM, Signal::KILL] {
            let (status, dirs) = daemon.end(signal);
            assert_eq!(status.code(), (signal == Signal::TERM).then_some(0));
            assert!(dirs.is_mounted());
            manager.hear();
            let path = dirs.mountpoint().join("proc/uptime");
            let waiting = thread::spawn(move || fs::read_to_string(path));
            let command = manager.command(&dirs, arguments);
            daemon = Daemon::run(dirs, command);
            eventually("who waited is answered", || waiting.is_finished());
            assert!(waiting.join().unwrap().is_ok());
            let mut text = String::new();
            open.seek(SeekFrom::Start(0)).unwrap();
            open.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("MemTotal:"), "{text}");
            manager.hear();
        }
        // What has ended is not kept.
        rustix::mount::unmount(daemon.mountpoint(), rustix::mount::UnmountFlags::DETACH).unwrap();
        drop(open);
        eventually("the daemon ends", || daemon.log().ends_with("stopped\n"));
        manager.hear();
        assert!(manager.device.is_none(), "{}", daemon.log());
    }
}

#[test]
fn a_connection_with_a_ledger_of_another_layout_is_begun_anew() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = daemon::Dirs::new();
    let mut manager = FakeManager::new(dirs.runtime());
    let command = manager.command(&dirs, &[]);
    let daemon = Daemon::run(dirs, command);
    manager.hear();
    let open = File::open(daemon.path("proc/meminfo")).unwrap();
    let (_, dirs) = daemon.end(Signal::KILL);
    let ledger = File::from(manager.ledger.as_ref().unwrap().try_clone().unwrap());
    ledger.write_all_at(b"cgview-ledger 9 ", 0).unwrap();
    let command = manager.command(&dirs, &[]);
    let daemon = Daemon::run(dirs, command);
    let log = daemon.log();
    assert!(log.contains("left aside a connection that was handed over: "), "{log}");
    assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
    // It keeps the new one, and the old one ends.
    manager.hear();
    eventually("the old connection has ended", || {
        let read = open.read_at(&mut [0; 64], 0);
        read.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    let (_, dirs) = daemon.end(Signal::KILL);
    let command = manager.command(&dirs, &[]);
    let daemon = Daemon::run(dirs, command);
    assert_eq!(daemon.log().matches("left aside").count(), 1, "{}", daemon.log());
    daemon.signal(Signal::INT);
}

/// As the unit's `ExecStop=` does it, where the connection is not kept over a stop.
#[test]
fn int_ends_a_connection_that_a_service_manager_keeps() {
    if !Daemon::is_possible() {
        return;
    }
    for arguments in [&[][..], &["--no-keeper"]] {
        let dirs = daemon::Dirs::new();
        let mut manager = FakeManager::new(dirs.runtime());
        let command = manager.command(&dirs, arguments);
        let daemon = Daemon::run(dirs, command);
        manager.hear();
        assert!(manager.device.is_some() && manager.ledger.is_some(), "{}", daemon.log());
        let open = File::open(daemon.path("proc/meminfo")).unwrap();
        daemon.signal(Signal::INT);
        // What systemd sends then changes nothing.
        let (status, dirs) = daemon.end(Signal::TERM);
        assert_eq!(status.code(), Some(0));
        assert!(!dirs.is_mounted());
        manager.hear();
        assert!(manager.device.is_none() && manager.ledger.is_none());
        // What is read at the moment of the end is aborted.
        eventually("the connection has ended", || {
            let error = open.read_at(&mut [0; 64], 0).unwrap_err().raw_os_error();
            assert!(matches!(error, Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error:?}");
            error == Some(libc::ENOTCONN)
        });
    }
}
