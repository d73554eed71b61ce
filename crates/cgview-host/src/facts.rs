//! Facts of the host that bound every view: memory, CPUs, nodes.

use std::sync::Arc;

use cgview_core::{
    HostFacts, Mask,
    host::{HostMemory, HostNode},
    parse::ParseError,
    units::{Bytes, Usec},
};
use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    host::Host,
};

const ONLINE: &str = "/sys/devices/system/cpu/online";
const NODES: &str = "/sys/devices/system/node";

/// How long the nodes are taken to be what they were. They change when CPUs, which are looked at each
/// time, or memory are plugged in.
const TRUSTED_FOR: Usec = Usec::from_secs(10);

/// The nodes as they were read last.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    read: Option<Usec>,
    online: Mask,
    nodes: Vec<HostNode>,
}

pub(crate) fn read(host: &Host, meminfo: &[u8], known: &Mutex<Nodes>) -> Result<HostFacts> {
    let memory = HostMemory::parse(meminfo);
    if memory.total == Bytes::ZERO {
        return Err(Error::parse("/proc/meminfo", ParseError::new(1, "MemTotal", meminfo)));
    }
    let mut text = Vec::new();
    let (online, nodes) = read_cpus(host, known, &mut text)?;
    Ok(HostFacts { memory, online, nodes, page_size: page_size(host, meminfo, &mut text) })
}

pub(crate) fn read_but_memory(
    host: &Host,
    facts: &Arc<HostFacts>,
    known: &Mutex<Nodes>,
) -> Result<Arc<HostFacts>> {
    let (online, nodes) = read_cpus(host, known, &mut Vec::new())?;
    if (&online, &nodes) == (&facts.online, &facts.nodes) {
        return Ok(Arc::clone(facts));
    }
    Ok(Arc::new(HostFacts { online, nodes, ..**facts }))
}

/// The CPUs that are online, and the nodes.
fn read_cpus(
    host: &Host,
    known: &Mutex<Nodes>,
    text: &mut Vec<u8>,
) -> Result<(Mask, Vec<HostNode>)> {
    host.read(ONLINE, text)?;
    let online = Mask::parse_list(text).map_err(|source| Error::parse(ONLINE, source))?;
    if online.is_empty() {
        // Whatever runs this runs on one.
        return Err(Error::parse(ONLINE, ParseError::new(1, "a CPU", text)));
    }
    let now = host.boottime()?;
    let nodes = {
        let known = known.lock();
        let recent = known.read.is_some_and(|read| now.saturating_sub(read) < TRUSTED_FOR);
        (recent && known.online == online).then(|| known.nodes.clone())
    };
    if let Some(nodes) = nodes {
        return Ok((online, nodes));
    }
    let nodes = read_nodes(host, text)?;
    *known.lock() = Nodes { read: Some(now), online: online.clone(), nodes: nodes.clone() };
    Ok((online, nodes))
}

fn read_nodes(host: &Host, text: &mut Vec<u8>) -> Result<Vec<HostNode>> {
    let (mut nodes, mut meminfo) = (Vec::new(), Vec::new());
    if !host.has(NODES) {
        return Ok(nodes);
    }
    for name in host.list(NODES)? {
        let Some(number) = name.strip_prefix("node").and_then(|digits| digits.parse().ok()) else {
            continue;
        };
        let path = format!("{NODES}/{name}/cpulist");
        host.read(&path, text)?;
        host.read(&format!("{NODES}/{name}/meminfo"), &mut meminfo)?;
        let node = HostNode::parse(number, text, &meminfo);
        nodes.push(node.map_err(|source| Error::parse(&path, source))?);
    }
    nodes.sort_by_key(|node| node.number);
    Ok(nodes)
}

/// The size of a page.
///
/// A captured tree may be of another machine, and no file of `/proc` says it. But some memory is told twice:
/// in KiB, and, a moment later, in pages; so it is the power of two that fits best.
fn page_size(host: &Host, meminfo: &[u8], text: &mut Vec<u8>) -> Bytes {
    let own = Bytes(rustix::param::page_size() as u64);
    if host.procfs || host.read("/proc/vmstat", text).is_err() {
        return own;
    }
    TWICE
        .into_iter()
        .filter_map(|(line, counter)| {
            Some((number_after(meminfo, line)?, number_after(text, counter)?))
        })
        .filter(|&(kib, pages)| kib > 0 && pages > 0)
        // The more there is of it, the less a moment matters.
        .max_by_key(|&(_, pages)| pages)
        .and_then(|(kib, pages)| {
            // From 4 KiB to 256 KiB, as far as any architecture goes.
            let sizes = (12..=18).map(|bits| 1u64 << bits);
            sizes.min_by_key(|size| pages.saturating_mul(*size).abs_diff(kib.saturating_mul(1024)))
        })
        .map_or(own, Bytes)
}

/// Lines of `/proc/meminfo` and the counters of `/proc/vmstat` that they are made from. Free memory is not
/// one: a balloon may be in one number and not in the other.
const TWICE: [(&str, &str); 3] =
    [("AnonPages:", "nr_anon_pages "), ("Mapped:", "nr_mapped "), ("Shmem:", "nr_shmem ")];

/// The number behind the beginning of a line.
fn number_after(text: &[u8], line: &str) -> Option<u64> {
    text.split(|&byte| byte == b'\n').find_map(|found| {
        let rest = std::str::from_utf8(found.strip_prefix(line.as_bytes())?).ok()?;
        rest.split_whitespace().next()?.parse().ok()
    })
}

/// Reads the first number of `/proc/uptime`: seconds with two decimals.
pub(crate) fn uptime(text: &[u8]) -> Result<Usec, ParseError> {
    let bad = || ParseError::new(1, "seconds with two decimals", text);
    let word = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    let word = std::str::from_utf8(word).map_err(|_| bad())?;
    let (seconds, decimals) = word.split_once('.').unwrap_or((word, "0"));
    let seconds: u64 = seconds.parse().map_err(|_| bad())?;
    let digits = format!("{decimals:0<6}");
    let micros: u64 = digits.get(..6).and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
    Ok(Usec::from_secs(seconds).saturating_add(Usec(micros)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_has_two_decimals() {
        assert_eq!(uptime(b"310394.47 618903.60\n"), Ok(Usec(310_394_470_000)));
        assert_eq!(uptime(b"7.05 1.00\n"), Ok(Usec(7_050_000)));
        assert_eq!(uptime(b"7\n"), Ok(Usec(7_000_000)));
        assert!(uptime(b"").is_err());
        assert!(uptime(b"-1.00\n").is_err());
    }
}
