//! Whole reads of files, as programs make them: open, read to the end, close. From the kernel's own `/proc`, a bare
//! FUSE server that answers constant texts, LXCFS, and both mounts of cgview, in turn in one run. With `--record`
//! all is written to `benches/record/`.
//!
//! Figures of one run are to be compared with each other and not with those of another machine or hour. On a busy
//! machine those of `pinned` count: servers and readers have one CPU and, where that is permitted, real-time
//! priority, so that nobody is in their way.

mod bare;
mod calls;
mod reads;

use std::path::Path;

use anyhow::Result;
use cgview_benches::{
    arguments::Arguments,
    readers::{Readers, cgroup},
    record::{self, Fact},
    servers::Server,
};
use cgview_testkit::Tree;

/// The files that are read.
pub(crate) const FILES: [&str; 8] = [
    "proc/meminfo",
    "proc/stat",
    "proc/cpuinfo",
    "proc/uptime",
    "proc/loadavg",
    "proc/swaps",
    "proc/diskstats",
    "proc/pressure/memory",
];

fn main() -> Result<()> {
    let arguments = Arguments::new();
    if let Some(mountpoint) = arguments.value("--serve-bare") {
        return bare::serve(Path::new(mountpoint));
    }
    if !arguments.select("mounts") || !cgview_testkit::is_root() || arguments.isolate()? {
        return Ok(());
    }
    let Some(tree) = Tree::new() else { return Ok(()) };
    let mut servers = vec![Server::native(), Server::bare()?];
    match Server::lxcfs() {
        Ok(lxcfs) => servers.push(lxcfs),
        Err(error) => cgview_testkit::skip(&format!("LXCFS is not compared: {error:#}")),
    }
    let shared = Server::cgview()?;
    // They see what is mounted now.
    let mut readers = Readers::start(&tree)?;
    let number =
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(cgroup(&tree).dir("memory"))?);
    let fast = shared.by_id(number);
    servers.extend([shared, fast]);

    let mut pids: Vec<u32> = servers.iter().flat_map(Server::pids).collect();
    pids.push(readers.pid());
    pids.sort_unstable();
    pids.dedup();

    let (reads, real_time) = reads::measure(&servers, &mut readers, &pids, arguments.is_test())?;
    let calls = calls::count(&servers, &mut readers, &pids)?;
    let sizes: Vec<_> = servers
        .iter()
        .filter(|server| server.name != "native" && server.name != "fast")
        .map(|server| record::Server {
            server: server.name.into(),
            rss_kib: server.rss_kib(),
            threads: server.threads().len(),
        })
        .collect();
    calls::tell(&calls, &sizes)?;
    if arguments.has("--record") {
        let priority = if real_time { "real-time (SCHED_FIFO)" } else { "normal" };
        let mut machine = record::machine();
        machine.push(Fact { what: "priority".into(), value: priority.into() });
        record::save("machine", &machine)?;
        record::save("reads", &reads)?;
        record::save("calls", &calls)?;
        record::save("servers", &sizes)?;
    }
    Ok(())
}
