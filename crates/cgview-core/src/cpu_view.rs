//! CPU times as `/proc/stat` and `/proc/uptime` show them: a step function with a small state.

use alloc::vec::Vec;

use crate::{
    effective::CpuLimits,
    policy::StealPolicy,
    snapshot::{CpuTime, CpuUsage},
    units::Usec,
};

/// The CPU times that a container's readers have been shown so far.
///
/// It is the part of the view that must outlive a process: a successor that starts from it shows no
/// counter going back.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuView {
    cpus: Vec<VisibleCpu>,
}

/// One visible CPU's times since the container started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VisibleCpu {
    /// What the container used.
    pub busy: CpuTime,
    /// What it could have used and did not.
    pub idle: Usec,
    /// What its quota withheld, by [`StealPolicy::Throttled`].
    pub steal: Usec,
}

impl CpuView {
    /// Moves on to `now`, when the container, started at `started`, had used `usage` in all.
    pub fn step(
        &mut self,
        now: Usec,
        started: Usec,
        limits: &CpuLimits,
        usage: Option<&CpuUsage>,
        steal: StealPolicy,
    ) {
        let _ = (now, started, limits, usage, steal);
    }

    /// The visible CPUs.
    #[must_use]
    pub fn cpus(&self) -> &[VisibleCpu] {
        &self.cpus
    }

    /// The idle time of all visible CPUs together.
    #[must_use]
    pub fn idle(&self) -> Usec {
        self.cpus.iter().map(|cpu| cpu.idle).sum()
    }
}
