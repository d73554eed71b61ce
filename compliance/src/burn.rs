//! CPU load of a known size.

use std::{hint, thread, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// How long it spins at a time: below the period of any quota, and above what the kernel's clocks tell apart.
const SLICE: Duration = Duration::from_millis(1);

/// What it could not get is caught up with as far as this, so that the load is even.
const ARREARS: Duration = Duration::from_millis(100);

/// Uses a share of one CPU until killed: the body of a process.
///
/// It measures its own CPU time (`CLOCK_THREAD_CPUTIME_ID` of clock_gettime(2)), so that others that keep it
/// waiting do not change how much it uses, as long as they leave it that much.
pub fn burn(share: f64) -> i32 {
    let share = share.clamp(0.001, 1.0);
    let (mut since, mut before) = (now(ClockId::Monotonic), now(ClockId::ThreadCPUTime));
    loop {
        let due = (now(ClockId::Monotonic) - since).mul_f64(share);
        let done = now(ClockId::ThreadCPUTime) - before;
        if let Some(ahead) = done.checked_sub(due).filter(|ahead| !ahead.is_zero()) {
            thread::sleep(ahead.div_f64(share));
            continue;
        }
        if due - done > ARREARS {
            (since, before) = (now(ClockId::Monotonic), now(ClockId::ThreadCPUTime));
        }
        let end = now(ClockId::ThreadCPUTime) + SLICE;
        while now(ClockId::ThreadCPUTime) < end {
            (0..1000).for_each(|_| hint::spin_loop());
        }
    }
}

/// The shares of single CPUs that make up so many: 1.7 are a whole one and 0.7.
#[must_use]
pub fn shares(cpus: f64) -> Vec<f64> {
    let mut left = cpus;
    let mut shares = Vec::new();
    while left > 0.001 {
        shares.push(left.min(1.0));
        left -= 1.0;
    }
    shares
}

fn now(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}
