//! The process that serves dies or hangs, again and again, and nobody notices.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use cgview_faults::{
    Daemon, Fault, Load, Oom, Scale, Shape, Stalls, Storm, Struck, Totals, alone, eventually,
    is_guest, kernel_is_at_least, seconds, seed,
};
use cgview_testkit::{Tree, skip};

/// How many requests the daemon works on at a time.
const THREADS: &str = "4";

/// How long after the fault before.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(500);

/// No read may take longer, whatever happens to the daemon, on a machine that is fast enough.
const LONGEST: Duration = Duration::from_secs(1);

/// How long the keeper waits for an answer before it takes a worker for stuck (`--watchdog`), and how often it
/// asks.
const WATCHDOG: Duration = Duration::from_millis(2000 + 500);

/// A worker that serves for this long was no slow one: the keeper has its first patience again.
const SETTLED: Duration = Duration::from_secs(62);

/// A daemon, readers, and how fast this machine starts a worker when nothing else is to do.
struct Scene {
    // Dropped in this order.
    load: Load,
    daemon: Daemon,
    restart: Duration,
    slow: bool,
}

impl Scene {
    fn set(tree: &Tree) -> Scene {
        let slow = is_guest() || others_are_busy();
        let daemon = Daemon::start(tree, &["--threads", THREADS]);
        // Both are on disk by then, as they are when one has been killed before.
        let (_, restart) = (restart(&daemon), restart(&daemon));
        println!(
            "without load a killed worker's successor answers after {} ms",
            restart.as_millis()
        );
        Scene { load: Load::start(tree, &daemon), daemon, restart, slow }
    }

    /// Lets faults happen, and then ends the readers.
    fn strike(
        self,
        faults: &[Fault],
        storms: &dyn Fn(Storm<'_>) -> Struck,
    ) -> (Struck, Totals, Allowed) {
        let Scene { load, daemon, restart, slow } = self;
        // As often as the machine can start workers: one that is killed before it has answered is no better
        // than one that was not there.
        let (least, most) = INTERVAL.into_inner();
        let interval = least.max(2 * restart)..=most.max(6 * restart);
        let stalls = Stalls::measure();
        // What the machine takes for the same reads while nothing goes wrong.
        thread::sleep(seconds() / 4);
        let calm = load.totals().longest;
        load.forget_longest();
        let oom = faults.contains(&Fault::Oom).then(|| Oom(daemon.cgroup()));
        let storm = Storm { daemon: &daemon, faults, oom, interval, seed: seed() };
        let struck = storms(storm);
        // Each gets an answer of the last worker, too.
        load.all_read();
        let stall = stalls.longest();
        let (totals, complaints) = load.finish(&daemon);
        println!(
            "{struck}; {totals}; before, the longest call took {} ms; the machine's own longest stall {} ms",
            calm.as_millis(),
            stall.as_millis()
        );
        if !complaints.is_empty() {
            println!("{complaints}");
        }
        let start = if faults.contains(&Fault::Freeze) { Duration::ZERO } else { struck.longest };
        let allowed = Allowed { restart, stall, calm, start, slow };
        (struck, totals, allowed)
    }
}

/// Kills the worker of a daemon that nobody reads; how long until one reads again.
fn restart(daemon: &Daemon) -> Duration {
    let worker = daemon.next_worker();
    let began = Instant::now();
    let storm = Storm {
        daemon,
        faults: &[Fault::Kill],
        oom: None,
        interval: Duration::ZERO..=Duration::ZERO,
        seed: 0,
    };
    storm.strike(Fault::Kill);
    assert!(fs::read_to_string(daemon.path("proc/uptime")).is_ok());
    assert_ne!(daemon.next_worker(), worker);
    began.elapsed()
}

/// What the machine itself takes.
struct Allowed {
    restart: Duration,
    stall: Duration,
    calm: Duration,
    start: Duration,
    slow: bool,
}

/// Whether far more wants to run on this machine than it has CPUs for, before the test begins: then it says nothing
/// about the daemon how long a read takes.
fn others_are_busy() -> bool {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = text.split(' ').next().unwrap().parse().unwrap();
    let cpus = thread::available_parallelism().unwrap().get();
    load > 3.0 * f64::from(u32::try_from(cpus).unwrap())
}

/// That nobody noticed.
fn assert_unnoticed(struck: &Struck, totals: &Totals, longest: Duration) {
    assert_ne!(struck.count(), 0);
    assert_eq!((totals.failed, totals.wrong, totals.back), (0, 0, 0));
    if kernel_is_at_least(6, 9) {
        assert_eq!(totals.aborted, 0);
    } else {
        // What was taken and not answered: one call of each reader, at most.
        let most = u64::from(struck.count()) * totals.readers as u64;
        println!("{} of at most {most} requests were aborted", totals.aborted);
        assert!(totals.aborted <= most);
    }
    assert!(totals.longest <= longest, "{totals}, of at most {} ms", longest.as_millis());
}

impl Allowed {
    /// The longest that a read may take when the worker is lost, and `more` passes until that is known: a
    /// second, or where a program takes long to start, some starts; and that a reader waits for CPUs, as it did
    /// before, and a new worker for its first one. Where CPUs are emulated, or are others', it only has to come back.
    fn longest(&self, more: Duration) -> Duration {
        let slow = if self.slow { Duration::from_secs(30) } else { Duration::ZERO };
        LONGEST.max(5 * self.restart) + slow + more + 2 * self.calm + 4 * (self.stall + self.start)
    }
}

/// Runs a scenario, where that is possible.
fn scenario(
    faults: &[Fault],
    controllers: &[&str],
    more: Duration,
    storms: &dyn Fn(Storm<'_>) -> Struck,
) {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(controllers) else { return };
    let _alone = alone();
    let scene = Scene::set(&tree);
    let (struck, totals, allowed) = scene.strike(faults, storms);
    assert_unnoticed(&struck, &totals, allowed.longest(more));
}

// host
// ├─ daemon (its worker is killed every 50 to 500 ms)
// └─ c0 ... c49   <- four readers each
#[test]
fn a_worker_that_dies_is_not_missed() {
    let faults = [Fault::Kill, Fault::Segv, Fault::Abort, Fault::Stop];
    scenario(&faults, &[], Duration::ZERO, &|storm| storm.run(seconds()));
}

// host
// ├─ daemon (its worker is frozen, and has to be found out)
// └─ c0 ... c49   <- four readers each
#[test]
fn a_worker_that_hangs_is_replaced() {
    scenario(&[Fault::Freeze], &["unified"], WATCHDOG, &|storm| {
        let mut struck = Struck::default();
        let end = Instant::now() + seconds();
        loop {
            struck.longest = struck.longest.max(storm.strike(Fault::Freeze));
            *struck.faults.entry(Fault::Freeze).or_default() += 1;
            if Instant::now() + SETTLED > end {
                return struck;
            }
            thread::sleep(SETTLED);
        }
    });
}

// host
// ├─ daemon (64 MiB, which another process there takes)
// └─ c0 ... c49   <- four readers each
#[test]
fn a_worker_that_is_killed_for_memory_is_not_missed() {
    scenario(&[Fault::Oom], &["memory"], Duration::ZERO, &|storm| storm.run(seconds()));
}

/// A cgroup of the v1 freezer, whose processes cannot even be killed. Dropping it lets them go.
struct Freezer(PathBuf);

impl Freezer {
    /// `None` where there is no such hierarchy.
    fn new() -> Option<Freezer> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| {
            let mut rest = line.split(" - cgroup ").skip(1);
            rest.any(|rest| rest.split([' ', ',']).any(|option| option == "freezer"))
        })?;
        let dir = Path::new(line.split(' ').nth(4)?);
        let dir = dir.join(format!("cgview-frozen-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Some(Freezer(dir))
    }

    fn freeze(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        fs::write(self.0.join("freezer.state"), "FROZEN").unwrap();
    }

    fn thaw(&self) {
        fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
    }

    fn is_empty(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.procs")).unwrap().is_empty()
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        eventually("what was frozen has ended", || fs::remove_dir(&self.0).is_ok());
    }
}

// host
// ├─ daemon (its worker is stuck in the kernel, and does not end when it is killed)
// └─ c0 ...   <- readers
#[test]
fn a_worker_that_cannot_die_is_replaced() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::new() else { return };
    let Some(freezer) = Freezer::new() else {
        return skip("needs the freezer of cgroup v1");
    };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &["--threads", THREADS]);
    let scale = Scale { containers: 3, readers: 2, ..Scale::of_machine() };
    let load = Load::with(&tree, &daemon, &Shape { scale, ..Shape::default() });
    freezer.freeze(daemon.next_worker());
    eventually("another one takes over", || {
        daemon.log().contains("took over from a worker that was ended by SIGKILL")
    });
    load.all_read();
    let frozen = !freezer.is_empty();
    freezer.thaw();
    eventually("it ends at last", || freezer.is_empty());
    load.all_read();
    let (totals, complaints) = load.finish(&daemon);
    println!("{totals}");
    assert!(frozen, "it was killed: {}", daemon.log());
    assert_eq!((totals.failed, totals.wrong, totals.back), (0, 0, 0), "{complaints}");
    let most = if kernel_is_at_least(6, 9) { 0 } else { totals.readers as u64 };
    assert!(totals.aborted <= most, "{complaints}");
}
