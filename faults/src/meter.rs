//! What a machine takes of its own accord, and what a process has.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Measures how long a thread that asks nobody for anything waits for a CPU: so much of a reader's waiting is
/// not the daemon's doing.
#[derive(Debug)]
pub struct Stalls {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Stalls {
    /// Begins to measure.
    #[must_use]
    pub fn measure() -> Stalls {
        const NAP: Duration = Duration::from_millis(5);
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !ended.load(SeqCst) {
                let began = Instant::now();
                thread::sleep(NAP);
                longest = longest.max(began.elapsed().saturating_sub(NAP));
            }
            longest
        });
        Stalls { end, thread }
    }

    /// The longest since.
    #[must_use]
    pub fn longest(self) -> Duration {
        self.end.store(true, SeqCst);
        self.thread.join().unwrap()
    }
}

/// What a process has of what must not grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Resources {
    /// Memory of its own and shared that is resident, in KiB: `VmRSS` of `/proc/PID/status`.
    pub rss: u64,
    /// Memory that is its own, in KiB: `RssAnon`.
    pub anonymous: u64,
    /// Descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: u64,
}

impl Resources {
    /// What a process has now. `None` if it has ended.
    #[must_use]
    pub fn of(pid: u32) -> Option<Resources> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Resources {
            rss: value("VmRSS:")?,
            anonymous: value("RssAnon:")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: value("Threads:")?,
        })
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Resources { rss, anonymous, descriptors, threads } = self;
        write!(
            f,
            "{rss} KiB resident ({anonymous} of its own), {descriptors} descriptors, {threads} threads"
        )
    }
}
