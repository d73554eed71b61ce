//! What is done to the process that serves.

use std::{
    collections::BTreeMap,
    fs,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, Spawn, pause};
use fastrand::Rng;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::Signal,
};

use crate::daemon::{Daemon, PATIENCE, eventually, send};

/// A way to lose the process that serves.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// `SIGKILL`.
    Kill,
    /// `SIGSEGV`, as after a wild access.
    Segv,
    /// `SIGABRT`, as a failed allocation or a double panic ends it.
    Abort,
    /// `SIGSTOP`, which its parent is told of.
    Stop,
    /// It is frozen by its cgroup: it is there, runs by all accounts, and does not answer.
    Freeze,
    /// The kernel kills it, as its cgroup has no memory left.
    Oom,
}

/// The cgroup of the daemon, in which memory can be made to run out.
#[derive(Debug)]
pub struct Oom<'a>(pub &'a Cgroup);

/// How much memory a daemon has, with a process beside it that takes all that is left.
const MEMORY: u64 = 64 << 20;

impl Oom<'_> {
    /// Limits the memory of the daemon's cgroup.
    pub fn prepare(&self) {
        self.0.limit_memory(MEMORY);
        // Nothing is to be had from a swap device.
        let dir = self.0.dir("memory");
        for (file, value) in
            [("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", &*MEMORY.to_string())]
        {
            if dir.join(file).exists() {
                fs::write(dir.join(file), value).unwrap();
            }
        }
    }

    /// How many processes were killed in the cgroup for want of memory.
    fn kills(&self) -> Option<String> {
        let text = self.0.read("memory", "memory.oom_control", "memory.events");
        text.lines().find(|line| line.starts_with("oom_kill ")).map(str::to_owned)
    }

    /// Takes all memory there is until a process is killed for it.
    fn strike(&self, worker: u32) {
        // A file in memory, which is no process's own, so that the worker is the largest process by far.
        let hog = Spawn::new().cgroup(self.0).run(|| {
            // After the worker, who has 200, but before the keeper, who may be the largest while there is no worker.
            fs::write("/proc/self/oom_score_adj", "100").unwrap();
            let file = memfd_create(c"hog", MemfdFlags::CLOEXEC).unwrap();
            let chunk = vec![1; CHUNK];
            let before = self.kills();
            // It is killed itself, if that takes too long.
            while self.kills() == before {
                if rustix::io::write(&file, &chunk).is_err() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            drop(file);
            pause()
        });
        eventually("memory runs out", || has_ended(worker) || has_ended(hog.pid()));
        hog.kill();
        if !has_ended(worker) {
            // The kernel chose otherwise.
            self.strike(worker);
        }
    }
}

const CHUNK: usize = 64 << 10;

/// Whether a process is gone, or dead and not waited for.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// Faults one after the other, at random times.
#[derive(Debug)]
pub struct Storm<'a> {
    /// What is hit.
    pub daemon: &'a Daemon,
    /// What happens; each time one of these.
    pub faults: &'a [Fault],
    /// For [`Fault::Oom`].
    pub oom: Option<Oom<'a>>,
    /// How long after the one before.
    pub interval: RangeInclusive<Duration>,
    /// What the choices begin with.
    pub seed: u64,
}

/// What a storm did.
#[derive(Clone, Debug, Default)]
pub struct Struck {
    /// How often each fault.
    pub faults: BTreeMap<Fault, u32>,
    /// How long it took at most until there was another process.
    pub longest: Duration,
}

impl Struck {
    /// How often in all.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.faults.values().sum()
    }
}

impl std::fmt::Display for Struck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (fault, count) in &self.faults {
            write!(f, "{fault:?} {count}, ")?;
        }
        write!(f, "a new worker after {} ms at most", self.longest.as_millis())
    }
}

impl Storm<'_> {
    /// Goes on for some time, and then leaves a worker that serves.
    #[must_use]
    pub fn run(self, time: Duration) -> Struck {
        println!("seed of the faults: {}", self.seed);
        let mut rng = Rng::with_seed(self.seed);
        let mut struck = Struck::default();
        if let Some(oom) = &self.oom {
            oom.prepare();
        }
        let end = Instant::now() + time;
        while Instant::now() < end {
            let (least, most) = (self.interval.start(), self.interval.end());
            let rest = rng.u64(0..=u64::try_from((*most - *least).as_micros()).unwrap());
            thread::sleep(*least + Duration::from_micros(rest));
            let fault = *rng.choice(self.faults).unwrap();
            struck.longest = struck.longest.max(self.strike(fault));
            *struck.faults.entry(fault).or_default() += 1;
        }
        struck
    }

    /// Puts the worker into a cgroup of its own, in the unified hierarchy alone, and freezes that.
    fn freeze(&self, worker: u32) {
        let dir = self.daemon.cgroup().dir("unified").join(format!("frozen-{worker}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), worker.to_string()).unwrap();
        fs::write(dir.join("cgroup.freeze"), "1").unwrap();
    }

    /// Lets one fault happen, and tells how long it took until there was another
    /// process.
    pub fn strike(&self, fault: Fault) -> Duration {
        let worker = self.daemon.next_worker();
        let began = Instant::now();
        match fault {
            Fault::Kill => send(worker, Signal::KILL),
            Fault::Segv => {
                // The first only takes away the handler by which Rust's library tells of stack overflows:
                // it expects the instruction to fail again.
                while !has_ended(worker) && began.elapsed() < PATIENCE {
                    send(worker, Signal::SEGV);
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Fault::Abort => send(worker, Signal::ABORT),
            Fault::Stop => send(worker, Signal::STOP),
            Fault::Freeze => self.freeze(worker),
            Fault::Oom => self.oom.as_ref().unwrap().strike(worker),
        }
        loop {
            match self.daemon.worker() {
                Some(now) if now != worker => return began.elapsed(),
                _ if began.elapsed() > PATIENCE => {
                    panic!("no worker after {fault:?} of {worker}:\n{}", self.daemon.log())
                }
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}
