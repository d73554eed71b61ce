//! `nodeN/meminfo`: the container's `/proc/meminfo`, shared out over its nodes.

use alloc::vec::Vec;

use super::node::{all_are_visible, is_visible};
use crate::{
    effective::MemoryLimits,
    explain::{Output, Source, Why},
    host::HostNode,
    parse::words,
    tree::Dir,
    units::{Bytes, Limit},
    view::View,
};

/// Renders `nodeN/meminfo`: lines such as `Node 0 MemTotal:  16338604 kB`.
///
/// The kernel does not tell how much of a container's memory is on which node in the terms of these
/// lines, so each node has the part of it that it has of the visible nodes' memory, as an even
/// interleaving would give. The nodes' lines add up to those of `/proc/meminfo` exactly. `MemUsed` is
/// `MemTotal` less `MemFree`, as in `node_read_meminfo()` of `drivers/base/node.c`.
///
/// A container without a limit of memory that has all nodes gets the host's text.
pub(super) fn render(view: &View<'_>, dir: Dir, host: &[u8], out: &mut Output<'_>) {
    let levels = &view.snapshot.memory;
    let unlimited = levels.iter().all(|level| level.max == Limit::Max && level.high == Limit::Max);
    let Dir::NodeN(number) = dir else { return };
    if unlimited && all_are_visible(view) {
        return out.copy(host);
    }
    let limits = MemoryLimits::of(view.snapshot, view.host, view.policy);
    let nodes = Nodes::of(view, number.into());
    let (total, free) = (nodes.share(limits.total.0), nodes.share(limits.free.0));
    for line in host.split_inclusive(|&byte| byte == b'\n') {
        let (value, why) = match words(line).nth(2) {
            Some(b"MemTotal:") => (total, limits.total.1),
            Some(b"MemFree:") => (free, limits.free.1),
            Some(b"MemUsed:") => (total.saturating_sub(free), limits.free.1),
            _ => (Bytes::ZERO, Why::of(Source::Constant, "not accounted by node")),
        };
        out.replace_number(line, value.kib(), why);
    }
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

    /// The node's part of `all`, in whole KiB.
    fn share(&self, all: Bytes) -> Bytes {
        Bytes::from_kib(share(all.kib(), &self.sizes, self.place))
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
