//! Facts of the host that more than one file depends on.

use alloc::vec::Vec;

use crate::{mask::Mask, units::Bytes};

/// What the host has, as far as the view is bounded by it. Filled by [`HostFacts::parse`] from the
/// host's own text, so that a captured host works like a live one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostFacts {
    /// Memory and swap, from `/proc/meminfo`.
    pub memory: HostMemory,
    /// `/sys/devices/system/cpu/online`.
    pub online: Mask,
    /// NUMA nodes, ascending; empty where the kernel has none (`CONFIG_NUMA=n`).
    pub nodes: Vec<HostNode>,
    /// The size of a page, the unit of `/proc/vmstat`.
    pub page_size: Bytes,
}

/// Numbers of the host's `/proc/meminfo`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields have the names of the lines: proc(5), meminfo")]
pub struct HostMemory {
    pub total: Bytes,
    pub free: Bytes,
    pub available: Bytes,
    pub swap_total: Bytes,
    pub swap_free: Bytes,
}

/// One NUMA node of the host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostNode {
    /// Its number.
    pub number: u32,
    /// `nodeN/cpulist`.
    pub cpus: Mask,
    /// `MemTotal` of `nodeN/meminfo`.
    pub total: Bytes,
}

impl HostMemory {
    /// Reads `/proc/meminfo`. Lines that are missing or malformed count as zero; a kernel without
    /// `MemAvailable` (before 3.14) has its free memory there.
    #[must_use]
    pub fn parse(meminfo: &[u8]) -> HostMemory {
        let mut memory = HostMemory::default();
        let mut available = None;
        for (_, line) in crate::parse::lines(meminfo) {
            let mut words = crate::parse::words(line);
            let (Some(name), Some(kib)) =
                (words.next(), words.next().and_then(crate::parse::decimal))
            else {
                continue;
            };
            let value = Bytes::from_kib(kib);
            match name {
                b"MemTotal:" => memory.total = value,
                b"MemFree:" => memory.free = value,
                b"MemAvailable:" => available = Some(value),
                b"SwapTotal:" => memory.swap_total = value,
                b"SwapFree:" => memory.swap_free = value,
                _ => {}
            }
        }
        memory.available = available.unwrap_or(memory.free);
        memory
    }
}
