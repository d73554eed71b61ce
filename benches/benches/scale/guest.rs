//! A read on this machine, however many CPUs it has: the container has two of them. It is for virtual machines that
//! differ in nothing else.

use std::time::Duration;

use anyhow::Result;
use cgview_benches::{
    readers::{self, Readers},
    record::Scale,
    servers::Server,
};
use cgview_core::Mask;
use cgview_testkit::Tree;

use crate::{daemon::reads, row};

/// Microseconds for one read, by whatever clock the machine has, from the kernel's own files, and from the shared mount
/// with all numbers known and with all asked for anew.
pub(crate) fn measure(is_test: bool) -> Result<Vec<Scale>> {
    let Some(tree) = Tree::new() else { return Ok(Vec::new()) };
    let time = Duration::from_millis(if is_test { 2 } else { 10 });
    // Readers see what was mounted before they were started.
    let servers = [
        ("native", Server::native()),
        ("samples fresh", Server::cgview_with(&["--freshness", "1000"])?),
        ("samples anew", Server::cgview_with(&["--freshness", "0"])?),
    ];
    let mut readers = Readers::start(&tree)?;
    readers::cgroup(&tree).limit_cpus("0-1");
    let online = Mask::parse_list(&std::fs::read("/sys/devices/system/cpu/online")?)?;
    let mut rows = Vec::new();
    for (kind, server) in &servers {
        for (file, micros) in reads(server, &mut readers, time)? {
            let what = format!("a read in a virtual machine, {kind}");
            rows.push(row(&what, (online.len(), "CPUs"), file, micros, "us"));
        }
    }
    Ok(rows)
}
