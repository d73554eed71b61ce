//! The fast mount is read from outside while the process that serves dies, is replaced, or is lost with its keeper.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use cgview_faults::{
    Checker, Daemon, Dirs, Fault, Storm, Struck, Truth, alone, eventually, kernel_is_at_least,
    program, seconds, seed,
};
use cgview_testkit::{Process, Spawn, Tree, pause};
use rustix::{io::Errno, mount::UnmountFlags};

/// What is read: texts that change all the time, and some that do not.
const FILES: [&str; 5] =
    ["proc/meminfo", "proc/stat", "proc/uptime", "proc/loadavg", "proc/cpuinfo"];

const CONTAINERS: u64 = 3;

/// Of each container.
const READERS: usize = 3;

/// How long a reader rests after all files: attributes are kept for no longer.
const REST: Duration = Duration::from_millis(7);

/// What one reader saw.
#[derive(Debug, Default)]
struct Seen {
    /// How often it has read all files without an error.
    rounds: AtomicU64,
    failed: AtomicU64,
    /// Calls that ended with `ECONNABORTED`.
    aborted: AtomicU64,
    /// Texts that were not what they should be.
    wrong: Mutex<Vec<String>>,
    /// Which errors there were.
    errors: Mutex<BTreeSet<String>>,
    has_ended: AtomicBool,
}

/// A file, opened by its path or held open since long.
fn read(path: &Path, held: Option<&File>) -> io::Result<String> {
    // In one read, as who reads in pieces may get them from two texts.
    let mut text = vec![0; 64 << 10];
    let length = match held {
        Some(file) => file.read_at(&mut text, 0)?,
        None => File::open(path)?.read_at(&mut text, 0)?,
    };
    text.truncate(length);
    if text.is_empty() {
        // Seen once while a connection ended, for an unknown reason: no text, and so a failed call.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Lines have blanks at their ends.
    let text = String::from_utf8(text).unwrap();
    let ends = text.ends_with('\n');
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    Ok(lines.join("\n") + if ends { "\n" } else { "" })
}

/// Reads until it is told to end.
fn run(dir: &Path, mut checker: Checker, seen: &Seen, stop: &AtomicBool) {
    let mut held: [Option<File>; FILES.len()] = Default::default();
    for round in 0.. {
        if stop.load(SeqCst) {
            break;
        }
        let mut is_good = true;
        for (file, held) in FILES.into_iter().zip(&mut held) {
            let path = dir.join(file);
            let by_path = round % 2 == 0;
            match read(&path, held.as_ref().filter(|_| !by_path)) {
                Ok(text) => {
                    if let Err(wrong) = checker.check(file, text.as_bytes()) {
                        let mut all = seen.wrong.lock().unwrap();
                        all.push(format!("{}: {wrong}; it is {text:?}", path.display()));
                    }
                    if held.is_none() {
                        *held = File::open(&path).ok();
                    }
                }
                Err(error) => {
                    is_good = false;
                    let aborted = Some(Errno::CONNABORTED.raw_os_error());
                    let is_aborted = error.raw_os_error() == aborted;
                    let counter = if is_aborted { &seen.aborted } else { &seen.failed };
                    counter.fetch_add(1, SeqCst);
                    seen.errors.lock().unwrap().insert(format!("{file}: {error}"));
                    // One of a connection that is gone stays so.
                    *held = None;
                }
            }
        }
        if is_good {
            seen.rounds.fetch_add(1, SeqCst);
        }
        thread::sleep(REST);
    }
    seen.has_ended.store(true, SeqCst);
}

/// Where a daemon has both of its mounts. Dropping it unmounts the fast one.
struct Place {
    dirs: Arc<Dirs>,
    by_id: PathBuf,
}

impl Place {
    fn new() -> Place {
        let dirs = Arc::new(Dirs::new());
        let by_id = dirs.path("by-id");
        fs::create_dir(&by_id).unwrap();
        Place { dirs, by_id }
    }

    fn daemon(&self, tree: &Tree) -> Daemon {
        let arguments = self.arguments();
        Daemon::start_in(tree.cgroup("daemon"), Arc::clone(&self.dirs), &program(), &arguments[1..])
    }

    fn arguments(&self) -> [&str; 3] {
        ["--replace", "--by-id", self.by_id.to_str().unwrap()]
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(4) == self.by_id.to_str())
    }

    fn unmount(&self, flags: UnmountFlags) -> bool {
        rustix::mount::unmount(&self.by_id, flags).is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.is_mounted() && self.unmount(UnmountFlags::DETACH) {}
    }
}

/// Containers that do nothing, and who reads of them.
struct Readers<'a> {
    place: &'a Place,
    stop: Arc<AtomicBool>,
    seen: Vec<Arc<Seen>>,
    _containers: Vec<Process>,
}

impl<'a> Readers<'a> {
    fn start(tree: &Tree, place: &'a Place) -> Readers<'a> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut seen, mut containers) = (Vec::new(), Vec::new());
        for number in 0..CONTAINERS {
            let memory = (64 + number) << 20;
            let cgroup = tree.cgroup(&format!("c{number}"));
            cgroup.limit_memory(memory);
            containers.push(Spawn::new().cgroup(&cgroup).container().run(pause));
            let id = fs::metadata(cgroup.dir("memory")).unwrap().ino();
            let dir = place.by_id.join(id.to_string());
            let truth = Truth { memory: vec![memory >> 10], ..Truth::default() };
            for _ in 0..READERS {
                let one = Arc::new(Seen::default());
                seen.push(Arc::clone(&one));
                let (dir, stop) = (dir.clone(), Arc::clone(&stop));
                let checker = Checker::new(truth.clone());
                thread::spawn(move || run(&dir, checker, &one, &stop));
            }
        }
        let readers = Readers { place, stop, seen, _containers: containers };
        readers.all_read();
        readers
    }

    fn sum(&self, of: impl Fn(&Seen) -> u64) -> u64 {
        self.seen.iter().map(|seen| of(seen)).sum()
    }

    /// Waits until each reader has had all files twice since: by their paths, and by what it holds open.
    fn all_read(&self) {
        let rounds = || self.seen.iter().map(|seen| seen.rounds.load(SeqCst)).collect::<Vec<_>>();
        let before = rounds();
        eventually("each reader reads on", || {
            before.iter().zip(rounds()).all(|(before, now)| now > before + 1)
        });
    }

    /// Ends them. Returns how many calls failed, and how many were aborted.
    fn finish(self) -> (u64, u64) {
        self.stop.store(true, SeqCst);
        let end = Instant::now() + Duration::from_secs(60);
        let have_ended = || self.seen.iter().all(|seen| seen.has_ended.load(SeqCst));
        while !have_ended() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        if !have_ended() {
            // Whoever waits for an answer gets an error instead, and the process can end.
            self.place.unmount(UnmountFlags::FORCE);
            panic!("a reader hangs: {:?}", self.seen);
        }
        let wrong: Vec<_> =
            self.seen.iter().flat_map(|seen| seen.wrong.lock().unwrap().clone()).collect();
        let rounds = self.sum(|seen| seen.rounds.load(SeqCst));
        let (failed, aborted) =
            (self.sum(|seen| seen.failed.load(SeqCst)), self.sum(|seen| seen.aborted.load(SeqCst)));
        let errors: BTreeSet<_> =
            self.seen.iter().flat_map(|seen| seen.errors.lock().unwrap().clone()).collect();
        println!(
            "{rounds} times all files; {failed} calls failed, {aborted} were aborted: {errors:?}"
        );
        assert!(wrong.is_empty(), "{} texts were wrong: {:#?}", wrong.len(), wrong.first());
        (failed, aborted)
    }
}

/// What has to be there, or else `None`.
fn scene() -> Option<(Tree, Place)> {
    if !Daemon::is_possible() {
        return None;
    }
    Some((Tree::with(&["memory"])?, Place::new()))
}

/// How many calls may be aborted: before Linux 6.9 what was taken and not answered, one of each reader.
fn most_aborted(losses: u32) -> u64 {
    if kernel_is_at_least(6, 9) { 0 } else { u64::from(losses) * CONTAINERS * READERS as u64 }
}

// host                <- reads
// ├─ daemon           (its worker is killed, crashes or is stopped)
// └─ c0 ... c2
#[test]
fn a_worker_that_dies_is_not_missed() {
    let Some((tree, place)) = scene() else { return };
    let _alone = alone();
    let daemon = place.daemon(&tree);
    let storm =
        |faults, interval, seed| Storm { daemon: &daemon, faults, oom: None, interval, seed };
    // How long this machine takes to serve again.
    let began = Instant::now();
    let first = storm(&[], Duration::ZERO..=Duration::ZERO, 0);
    first.strike(Fault::Kill);
    assert!(fs::read_to_string(daemon.path("proc/uptime")).is_ok());
    let restart = began.elapsed();
    let readers = Readers::start(&tree, &place);
    let faults = [Fault::Kill, Fault::Segv, Fault::Abort, Fault::Stop];
    let interval = Duration::from_millis(50).max(2 * restart);
    let struck: Struck = storm(&faults, interval..=4 * interval, seed()).run(seconds());
    readers.all_read();
    let (failed, aborted) = readers.finish();
    println!("{struck}");
    assert_eq!(failed, 0, "{}", daemon.log());
    assert!(aborted <= most_aborted(struck.count()), "{aborted}: {}", daemon.log());
}

// host                <- reads
// ├─ daemon           (is replaced by the next one)
// └─ c0 ... c2
#[test]
fn a_program_that_is_replaced_is_not_missed() {
    let Some((tree, place)) = scene() else { return };
    let _alone = alone();
    let mut daemon = place.daemon(&tree);
    let readers = Readers::start(&tree, &place);
    for _ in 0..3 {
        daemon = daemon.replace(&program(), &place.arguments());
        readers.all_read();
    }
    let (failed, aborted) = readers.finish();
    assert_eq!(failed, 0, "{}", daemon.log());
    assert!(aborted <= most_aborted(3), "{aborted}: {}", daemon.log());
}

// host                <- reads
// ├─ daemon           (all of it is killed, and another one started)
// └─ c0 ... c2
#[test]
fn paths_are_good_again_after_a_loss_of_all() {
    let Some((tree, place)) = scene() else { return };
    let _alone = alone();
    let mut daemon = place.daemon(&tree);
    let readers = Readers::start(&tree, &place);
    for _ in 0..3 {
        daemon = daemon.lose(&place.arguments());
        readers.all_read();
    }
    // They had noticed.
    let (failed, aborted) = readers.finish();
    assert_ne!(failed + aborted, 0, "{}", daemon.log());
}
