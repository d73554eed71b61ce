//! Facts of the host that more than one file depends on.

use alloc::vec::Vec;

use crate::{mask::Mask, parse::ParseError, units::Bytes};

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
    pub mlocked: Bytes,
    /// `HugePages_Total`, in pages of the default size.
    pub huge_pages: u64,
    /// `HugePages_Free`, in pages of the default size.
    pub huge_free: u64,
    /// `Hugepagesize`, the default size.
    pub huge_size: Bytes,
    /// `Hugetlb`: the pages of all sizes.
    pub hugetlb: Bytes,
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

impl HostFacts {
    /// Reads what the host's files say: `/proc/meminfo`, `/sys/devices/system/cpu/online`, and its nodes
    /// in any order, each by [`HostNode::parse`].
    ///
    /// ```
    /// use cgview_core::{Bytes, HostFacts, host::HostNode};
    ///
    /// let node = HostNode::parse(0, b"0-3\n", b"Node 0 MemTotal:  8000000 kB\n")?;
    /// let host =
    ///     HostFacts::parse(b"MemTotal:  8000000 kB\n", b"0-3\n", vec![node], Bytes::from_kib(4))?;
    /// assert_eq!((host.online.len(), host.nodes.len()), (4, 1));
    /// # Ok::<(), cgview_core::parse::ParseError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ParseError`] if `online` is not a list of CPUs.
    pub fn parse(
        meminfo: &[u8],
        online: &[u8],
        mut nodes: Vec<HostNode>,
        page_size: Bytes,
    ) -> Result<HostFacts, ParseError> {
        nodes.sort_by_key(|node| node.number);
        Ok(HostFacts {
            memory: HostMemory::parse(meminfo),
            online: Mask::parse_list(online)?,
            nodes,
            page_size,
        })
    }

    /// The node of that number.
    #[must_use]
    pub fn node(&self, number: u32) -> Option<&HostNode> {
        self.nodes.iter().find(|node| node.number == number)
    }
}

impl HostNode {
    /// Reads what `/sys/devices/system/node/nodeN/cpulist` and `meminfo` say of node `number`. A node
    /// without CPUs has an empty list; one without memory has a total of zero.
    ///
    /// # Errors
    ///
    /// [`ParseError`] if `cpulist` is not a list of CPUs.
    pub fn parse(number: u32, cpulist: &[u8], meminfo: &[u8]) -> Result<HostNode, ParseError> {
        let total = crate::parse::lines(meminfo).find_map(|(_, line)| {
            // `Node 0 MemTotal:       16338604 kB`: node_read_meminfo() of drivers/base/node.c.
            let mut words = crate::parse::words(line).skip(2);
            (words.next()? == b"MemTotal:").then(|| crate::parse::decimal(words.next()?))?
        });
        Ok(HostNode {
            number,
            cpus: Mask::parse_list(cpulist)?,
            total: Bytes::from_kib(total.unwrap_or(0)),
        })
    }
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
            let Some(name) = words.next() else { continue };
            let mut number = || words.next().and_then(crate::parse::decimal);
            let set = |size: &mut Bytes, kib: Option<u64>| {
                if let Some(kib) = kib {
                    *size = Bytes::from_kib(kib);
                }
            };
            match name {
                b"MemTotal:" => set(&mut memory.total, number()),
                b"MemFree:" => set(&mut memory.free, number()),
                b"MemAvailable:" => available = number().map(Bytes::from_kib).or(available),
                b"SwapTotal:" => set(&mut memory.swap_total, number()),
                b"SwapFree:" => set(&mut memory.swap_free, number()),
                b"Mlocked:" => set(&mut memory.mlocked, number()),
                b"HugePages_Total:" => memory.huge_pages = number().unwrap_or(memory.huge_pages),
                b"HugePages_Free:" => memory.huge_free = number().unwrap_or(memory.huge_free),
                b"Hugepagesize:" => set(&mut memory.huge_size, number()),
                b"Hugetlb:" => set(&mut memory.hugetlb, number()),
                _ => {}
            }
        }
        memory.available = available.unwrap_or(memory.free);
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn facts_are_what_the_hosts_files_say() {
        let text = b"Node 1 MemTotal:       4096 kB\nNode 1 MemFree:   1024 kB\n";
        let nodes = vec![
            HostNode::parse(1, b"\n", text).unwrap(),
            HostNode::parse(0, b"0-1,4\n", b"").unwrap(),
        ];
        let meminfo = b"MemTotal: 4096 kB\nMemFree: 8 kB\nSwapTotal: 2 kB\nHugePages_Total: 7\n";
        let host = HostFacts::parse(meminfo, b"0-1,4\n", nodes, Bytes::from_kib(64)).unwrap();
        assert_eq!(host.nodes.iter().map(|node| node.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(host.node(1).map(|node| node.total), Some(Bytes(4 << 20)));
        assert_eq!(host.node(1).map(|node| node.cpus.len()), Some(0));
        // Without memory.
        assert_eq!(host.node(0).map(|node| node.total), Some(Bytes::ZERO));
        assert_eq!(HostNode::parse(3, b"", b"Node 3 MemFree: 4 kB\n").unwrap().total, Bytes::ZERO);
        assert_eq!(host.node(2), None);
        assert_eq!((host.online.len(), host.memory.swap_total), (3, Bytes(2048)));
        assert_eq!((host.memory.available, host.memory.huge_pages), (Bytes(8192), 7));
        assert!(HostFacts::parse(meminfo, b"x", vec![], Bytes(4096)).is_err());
        assert!(HostNode::parse(0, b"0-", b"").is_err());
    }
}
