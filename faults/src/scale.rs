//! How long and how hard.

use std::{
    env,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cgview_testkit::is_guest;

/// How many read, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Containers.
    pub containers: usize,
    /// Readers in each.
    pub readers: usize,
    /// How long a reader rests between two texts, on average.
    pub pause: Duration,
}

impl Scale {
    /// What this machine can take: 200 readers in 50 containers, and in an emulated guest 8 in 4. They rest
    /// between reads, so that what is measured is not how long the CPUs' queue is.
    #[must_use]
    pub fn of_machine() -> Scale {
        if is_guest() {
            Scale { containers: 4, readers: 2, pause: Duration::from_millis(300) }
        } else {
            Scale { containers: 50, readers: 4, pause: Duration::from_millis(150) }
        }
    }
}

/// How long each scenario goes on: `CGVIEW_FAULTS_SECONDS`, or a few seconds.
#[must_use]
pub fn seconds() -> Duration {
    let told = env::var("CGVIEW_FAULTS_SECONDS").ok().map(|text| text.parse().unwrap());
    Duration::from_secs(told.unwrap_or(if is_guest() { 8 } else { 6 }))
}

/// What the random choices begin with: `CGVIEW_FAULTS_SEED`, or another number each time. It is printed, so
/// that a run can be repeated.
#[must_use]
pub fn seed() -> u64 {
    let told = env::var("CGVIEW_FAULTS_SEED").ok().map(|text| text.parse().unwrap());
    told.unwrap_or_else(|| fastrand::u64(..))
}

/// Held by a test that must not share the machine with another one of its program.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed is no reason for the next to fail.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
