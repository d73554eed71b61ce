//! Prints `/proc/meminfo` as the container of this process should see it.
//!
//! An embedder brings text and gets text. This one knows memory alone, and looks where systemd mounts
//! cgroups; `cgview-host` has the rest.

use std::{error::Error, fs, io::Write as _, path::Path, sync::Arc};

use cgview_core::{
    Bytes, File, HostFacts, Limit, Policy, Reader, Snapshot, View, cpu_view::CpuView,
    effective::CpuLimits, parse, snapshot::*, tree::ProcFile,
};

fn main() -> Result<(), Box<dyn Error>> {
    let membership = fs::read("/proc/self/cgroup")?;
    let entry = parse::cgroup_membership(&membership).flatten().find(|entry| {
        // The unified hierarchy, which has no name, is the last one.
        entry.controllers == b"memory" || entry.controllers.is_empty()
    });
    let entry = entry.ok_or("no memory controller")?;
    let (version, root, usage, max) = match entry.controllers {
        b"memory" => (Version::V1, "/sys/fs/cgroup/memory", "usage_in_bytes", "limit_in_bytes"),
        _ => (Version::V2, "/sys/fs/cgroup", "current", "max"),
    };

    // The container and its ancestors, but for the root, which has no limit.
    let mut snapshot = Snapshot::default();
    let levels = Path::new(std::str::from_utf8(entry.path)?).ancestors();
    for path in levels.filter(|path| path.parent().is_some()).map(Path::display) {
        let read = |name| fs::read(format!("{root}{path}/memory.{name}"));
        snapshot.memory.push(MemoryLevel {
            cgroup: Arc::new(Cgroup { path: path.to_string(), version }),
            usage: Bytes(parse::number_file(&read(usage)?)?),
            max: match version {
                Version::V1 => parse::memory_limit_v1(&read(max)?)?,
                Version::V2 => parse::limit(&read(max)?)?.map(Bytes),
            },
            stat: Some(match version {
                Version::V1 => parse::memory_stat_v1(&read("stat")?)?,
                Version::V2 => parse::memory_stat_v2(&read("stat")?)?,
            }),
            high: Limit::Max,
            min: Bytes::ZERO,
            low: Bytes::ZERO,
            swap: None,
        });
    }

    let host_text = fs::read("/proc/meminfo")?;
    let online = fs::read("/sys/devices/system/cpu/online")?;
    let host = HostFacts::parse(&host_text, &online, Vec::new(), Bytes::from_kib(4))?;
    let policy = Policy::default();
    let view = View {
        snapshot: &snapshot,
        now: snapshot.taken,
        host: &host,
        policy: &policy,
        cpus: &CpuLimits::of(&snapshot, &host, &policy),
        cpu_view: &CpuView::default(),
        load: None,
        reader: Reader::default(),
    };
    let mut text = Vec::new();
    view.render(File::Proc(ProcFile::Meminfo), &host_text, &mut text)?;
    Ok(std::io::stdout().write_all(&text)?)
}
