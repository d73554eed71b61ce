//! The CPUs of a container.

use crate::{host::HostFacts, mask::Mask, policy::Policy, snapshot::Snapshot, units::Cpus};

/// The CPUs of a container: which, how many, and how much of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CpuLimits {
    /// The physical CPUs that the container may run on: its effective cpuset, of those that are online.
    pub set: Mask,
    /// The physical CPUs that are shown, the first of [`CpuLimits::set`]: visible CPU `n` stands for
    /// `visible.nth(n)`.
    pub visible: Mask,
    /// How much CPU time the container may have: the smallest quota up to the root, at most the set's
    /// size.
    pub entitlement: Cpus,
    /// The level of [`Snapshot::cpu`] whose quota decided; `None` if the set did.
    pub quota_level: Option<usize>,
    /// The NUMA nodes of the container: `cpuset.mems`, of those that the host has.
    pub nodes: Mask,
}

impl CpuLimits {
    /// Folds the quotas of all levels with the cpuset.
    ///
    /// At least one CPU is visible, whatever the input.
    #[must_use]
    pub fn of(snapshot: &Snapshot, host: &HostFacts, policy: &Policy) -> CpuLimits {
        let _ = (snapshot, policy);
        CpuLimits { set: host.online.clone(), visible: host.online.clone(), ..CpuLimits::default() }
    }
}
