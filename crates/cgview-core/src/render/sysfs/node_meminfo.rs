//! `nodeN/meminfo`: the container's `/proc/meminfo`, shared out over its nodes.

use alloc::vec::Vec;

use super::node::is_visible;
use crate::{
    explain::{Output, Why},
    host::HostNode,
    parse::{decimal, words},
    render::{meminfo::Meminfo, memory::stat},
    tree::Dir,
    view::View,
};

/// Renders `nodeN/meminfo`: lines such as `Node 0 MemTotal:  16338604 kB`.
///
/// The kernel does not tell how much of a container's memory is on which node in the terms of these
/// lines, so each node has the part of it that it has of the visible nodes' memory, as an even
/// interleaving would give. The nodes' lines add up to those of `/proc/meminfo` exactly.
///
/// `MemUsed` is `MemTotal` less `MemFree`, and `FilePages` is `Cached` and `SwapCached`, as in
/// `node_read_meminfo()` of `drivers/base/node.c`. What is the host's in `/proc/meminfo` is the host's
/// of this node, so a container without a limit that has all nodes gets the host's text. A line that
/// is not known is the host's, or 0 if it is a size larger than the node's `MemTotal`.
pub(super) fn render(view: &View<'_>, dir: Dir, host: &[u8], out: &mut Output<'_>) {
    let Dir::NodeN(number) = dir else { return };
    let meminfo = Meminfo::new(view, view.host.memory.into());
    let nodes = Nodes::of(view, number.into());
    for line in host.split_inclusive(|&byte| byte == b'\n') {
        match value(&meminfo, &nodes, line) {
            Some((value, why)) => out.replace_number(line, value, why),
            None => out.copy(line),
        }
    }
}

/// What a line shows and why; `None` for what is the host's.
fn value(meminfo: &Meminfo<'_>, nodes: &Nodes, line: &[u8]) -> Option<(u64, Why)> {
    // `Node 0 MemTotal:`: the line as `/proc/meminfo` has it begins after the second blank.
    let blank = memchr::memchr_iter(b' ', line).nth(1)?;
    let line = line.get(blank + 1..)?;
    let (sizes, limits) = (&meminfo.sizes, &meminfo.limits);
    let total = nodes.share(sizes.total);
    match words(line).next()? {
        b"MemUsed:" if limits.memory_limited => {
            Some((total.saturating_sub(nodes.share(sizes.free)), limits.free.1))
        }
        b"FilePages:" if limits.memory_limited => {
            let pages = sizes.cached.saturating_add(sizes.swap_cached);
            Some((nodes.share(pages), stat("file")))
        }
        _ => match meminfo.line(line) {
            Some((value, why)) => Some((nodes.share(value), why)),
            None if limits.memory_limited && is_size_above(total, line) => {
                Some((0, Why::of(limits.total.1.source, "the host's is more than MemTotal")))
            }
            None => None,
        },
    }
}

/// Whether the line is a number of KiB that is larger than `limit`.
fn is_size_above(limit: u64, line: &[u8]) -> bool {
    let mut words = words(line).skip(1);
    let number = words.next().unwrap_or_default();
    let fits = decimal(number).is_some_and(|size| size <= limit);
    words.next() == Some(b"kB") && number.iter().all(u8::is_ascii_digit) && !fits
}

/// The visible nodes' sizes, and which of them is meant.
struct Nodes {
    sizes: Vec<u64>,
    place: usize,
}

impl Nodes {
    fn of(view: &View<'_>, number: u32) -> Nodes {
        let visible = |node: &&HostNode| is_visible(view, node.number);
        let nodes: Vec<&HostNode> = view.host.nodes.iter().filter(visible).collect();
        Nodes {
            sizes: nodes.iter().map(|node| node.total.kib()).collect(),
            place: nodes.iter().position(|node| node.number == number).unwrap_or(usize::MAX),
        }
    }

    /// The node's part of `all`.
    fn share(&self, all: u64) -> u64 {
        share(all, &self.sizes, self.place)
    }
}

/// The part of `all` that the part of size `sizes[place]` has, such that the parts add up to `all`.
///
/// Jefferson's method of apportionment: each has its exact share rounded down, and the few units that are
/// left go one by one to whoever would then have the largest size for each of its units. Unlike with
/// other roundings, nobody's part shrinks when `all` grows. So what is not more than another in
/// `/proc/meminfo`, such as `MemFree` and `MemTotal`, is not more on any node.
fn share(all: u64, sizes: &[u64], place: usize) -> u64 {
    let sum: u128 = sizes.iter().map(|&size| u128::from(size)).sum();
    if sum == 0 {
        return if place == 0 { all } else { 0 };
    }
    let mut parts: Vec<u128> =
        sizes.iter().map(|&size| u128::from(all) * u128::from(size) / sum).collect();
    let given: u128 = parts.iter().sum();
    for _ in given..u128::from(all) {
        // Of equal ones the first: max_by() would take the last.
        let next = sizes.iter().zip(&mut parts).rev().max_by(|(a, a_has), (b, b_has)| {
            (u128::from(**a) * (**b_has + 1)).cmp(&(u128::from(**b) * (**a_has + 1)))
        });
        if let Some((_, part)) = next {
            *part += 1;
        }
    }
    parts.get(place).and_then(|&part| u64::try_from(part).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_add_up_and_grow_together(
            (small, large) in (0u64..1 << 50, 0u64..1 << 50).prop_map(|(a, b)| (a.min(b), a.max(b))),
            sizes in prop::collection::vec(0u64..1 << 50, 1..9),
        ) {
            let parts = |all| (0..sizes.len()).map(|place| share(all, &sizes, place)).collect::<Vec<_>>();
            prop_assert_eq!(parts(small).iter().sum::<u64>(), small);
            prop_assert_eq!(parts(large).iter().sum::<u64>(), large);
            for (less, more) in parts(small).iter().zip(parts(large)) {
                prop_assert!(*less <= more);
            }
            for (less, more) in parts(small).iter().zip(parts(small + 1)) {
                prop_assert!(*less <= more);
            }
        }
    }
}
