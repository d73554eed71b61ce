//! NUMA nodes.

use alloc::vec::Vec;

use super::cpu::put_list;
use crate::{
    explain::{Output, Source, Why},
    mask::Mask,
    parse::words,
    snapshot::{Controller, Version},
    view::View,
};

/// Whether the container has the node: one of `cpuset.mems`.
pub(super) fn is_visible(view: &View<'_>, number: u32) -> bool {
    view.cpus.nodes.contains(number)
}

/// Whether the physical CPU is on the node.
pub(super) fn holds(view: &View<'_>, number: u32, physical: u32) -> bool {
    view.host.node(number).is_some_and(|node| node.cpus.contains(physical))
}

/// Whether the container has every node of the host.
fn all_are_visible(view: &View<'_>) -> bool {
    view.host.nodes.iter().all(|node| is_visible(view, node.number))
}

/// Why the container has these nodes.
fn visible_why(view: &View<'_>) -> Why {
    let Some(cpuset) = &view.snapshot.cpuset else {
        return Why::host("/sys/devices/system/node/online", "no limit up to the root");
    };
    let file = match cpuset.cgroup.version {
        Version::V1 => "cpuset.effective_mems",
        Version::V2 => "cpuset.mems.effective",
    };
    Why::cgroup(Controller::Cpuset, 0, file, "nodes that the container may take memory from")
}

/// `online`, `possible`, `has_memory` and the like: the visible nodes of the host's list.
///
/// `has_cpu` is left with nodes that hold a visible CPU. A container that has all nodes keeps the host's
/// text; `possible` may then name nodes that are nowhere, as it does on the host.
pub(super) fn list(view: &View<'_>, name: &str, host: &[u8], out: &mut Output<'_>) {
    let nodes = Mask::parse_list(host).ok();
    let mut shown = nodes.clone().unwrap_or_default();
    if nodes.is_none() || !all_are_visible(view) {
        shown = shown.intersection(&view.cpus.nodes);
    }
    if name == "has_cpu" {
        let has_visible_cpu = |&number: &u32| {
            let node = view.host.node(number);
            node.is_some_and(|node| !node.cpus.intersection(&view.cpus.visible).is_empty())
        };
        shown = shown.iter().filter(has_visible_cpu).collect();
    }
    if nodes.as_ref() == Some(&shown) {
        return out.copy(host);
    }
    put_list(&shown, visible_why(view), out);
}

/// `nodeN/distance`: the columns of the visible nodes. The kernel writes one for each node that is
/// online, ascending (`node_read_distance()` of `drivers/base/node.c`).
pub(super) fn distance(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    if all_are_visible(view) {
        return out.copy(host);
    }
    let columns = view.host.nodes.iter().zip(words(host));
    let shown: Vec<&[u8]> = columns
        .filter(|(node, _)| is_visible(view, node.number))
        .map(|(_, distance)| distance)
        .collect();
    let mut text = shown.join(&b' ');
    text.push(b'\n');
    out.put(&text, visible_why(view));
}

/// `nodeN/numastat`: the host's lines, each with 0.
///
/// The kernel counts allocations by node for the whole host only, so these are the activity of others.
/// Like `intr` in `/proc/stat`, they are shown to whoever is the host itself, and not to a container
/// without limits: its counters would go back when it is given one.
pub(super) fn numastat(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    if view.cpus.is_whole_host(view.snapshot, view.host) {
        return out.copy(host);
    }
    let why = Why::of(Source::Constant, "the kernel counts these for the whole host only");
    for line in host.split_inclusive(|&byte| byte == b'\n') {
        let Some(name) = words(line).next() else { continue };
        out.copy(name);
        out.copy(b" ");
        out.number(0, why);
        out.copy(b"\n");
    }
}
