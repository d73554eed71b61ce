//! Prints `/proc/meminfo` as the container that this process is in should see it.
//!
//! An embedder brings text and the time. This one knows memory alone, and looks where systemd mounts
//! cgroups; `cgview-host` has the rest.

use std::{error::Error, fs, io::Write as _, sync::Arc};

use cgview_core::{
    Bytes, File, HostFacts, Limit, Mask, Policy, Reader, Snapshot, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    host::HostMemory,
    parse,
    snapshot::{Cgroup, MemoryLevel, Version},
    tree::ProcFile,
};

/// One level of the memory controller; `None` where the hierarchy does not have it.
fn level(path: &str, version: Version) -> Option<MemoryLevel> {
    let v1 = version == Version::V1;
    let root = if v1 { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
    let read = |v1_name, v2_name| {
        fs::read(format!("{root}{path}/memory.{}", if v1 { v1_name } else { v2_name })).ok()
    };
    let (max, stat) = (read("limit_in_bytes", "max")?, read("stat", "stat")?);
    Some(MemoryLevel {
        cgroup: Arc::new(Cgroup { path: path.into(), version }),
        usage: Bytes(parse::number_file(&read("usage_in_bytes", "current")?).ok()?),
        max: if v1 {
            parse::memory_limit_v1(&max)
        } else {
            Ok(parse::limit(&max).ok()?.map(Bytes))
        }
        .ok()?,
        high: Limit::Max,
        min: Bytes::ZERO,
        low: Bytes::ZERO,
        swap: None,
        stat: if v1 { parse::memory_stat_v1(&stat) } else { parse::memory_stat_v2(&stat) }.ok(),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut snapshot = Snapshot::default();
    for entry in parse::cgroup_membership(&fs::read("/proc/self/cgroup")?) {
        let entry = entry?;
        let version = match entry.controllers {
            b"memory" => Version::V1,
            b"" => Version::V2,
            _ => continue,
        };
        // From the container to the root, which has no limit.
        let mut path = std::str::from_utf8(entry.path)?;
        while path.len() > 1 {
            snapshot.memory.extend(level(path, version));
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }

    let meminfo = fs::read("/proc/meminfo")?;
    let memory = HostMemory::parse(&meminfo);
    let online = Mask::parse_list(&fs::read("/sys/devices/system/cpu/online")?)?;
    let host = HostFacts { memory, online, page_size: Bytes(4096), ..HostFacts::default() };
    let policy = Policy::default();
    let view = View {
        snapshot: &snapshot,
        host: &host,
        policy: &policy,
        cpus: &CpuLimits::of(&snapshot, &host, &policy),
        cpu_view: &CpuView::default(),
        load: None,
        reader: Reader::default(),
    };
    let mut text = Vec::new();
    view.render(File::Proc(ProcFile::Meminfo), &meminfo, &mut text)?;
    Ok(std::io::stdout().write_all(&text)?)
}
