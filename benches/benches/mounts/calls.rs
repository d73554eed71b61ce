//! What a read costs in requests and system calls, which do not depend on how busy the machine is.

use std::{
    io::{Write as _, stdout},
    os::unix::fs::MetadataExt as _,
    thread,
    time::Duration,
};

use anyhow::Result;
use cgview_benches::{
    placement::Placement,
    readers::{Readers, Task},
    record::{self, Call, REQUEST, SYSTEM_CALL, rounded},
    servers::Server,
    trace::{Counts, Trace},
};

use crate::FILES;

/// For how long is read: some hundreds of reads, and ten times as long as a number is fresh.
const TIME: Duration = Duration::from_millis(50);

/// After which the last file is released.
const RELEASED: Duration = Duration::from_millis(20);

/// Counts, where the kernel tells. `pids` are those of servers and readers.
pub(crate) fn count(servers: &[Server], readers: &mut Readers, pids: &[u32]) -> Result<Vec<Call>> {
    let Some(trace) = Trace::start() else {
        cgview_testkit::skip("the kernel does not tell of requests and system calls");
        return Ok(Vec::new());
    };
    // Who has to wait for a CPU finds all numbers aged.
    Placement::Pinned.place(pids)?;
    let mut calls = Vec::new();
    for server in servers.iter().filter(|server| server.name != "native") {
        let connection = rustix::fs::minor(std::fs::metadata(&server.root)?.dev());
        for file in FILES.into_iter().filter(|file| server.has(file)) {
            let path = server.root.join(file);
            let task = Task { path, buffer: 8 << 10, readers: 1, time: TIME };
            // What is looked up or found out once is not of each read.
            readers.run(&task)?;
            let mut reads = 0;
            let mut run = || -> Result<()> {
                reads = readers.run(&task)?.reads;
                thread::sleep(RELEASED);
                Ok(())
            };
            let requests = trace.requests(connection, &mut run)?;
            add(&mut calls, server, file, REQUEST, &requests, reads);
            let mut run = || -> Result<()> {
                reads = readers.run(&task)?.reads;
                thread::sleep(RELEASED);
                Ok(())
            };
            let system_calls = trace.system_calls(&server.threads(), &mut run)?;
            add(&mut calls, server, file, SYSTEM_CALL, &system_calls, reads);
        }
    }
    Placement::Free.place(pids)?;
    Ok(calls)
}

fn add(
    calls: &mut Vec<Call>,
    server: &Server,
    file: &str,
    kind: &str,
    counts: &Counts,
    reads: u64,
) {
    calls.extend(counts.iter().map(|(name, count)| Call {
        server: server.name.into(),
        file: file.into(),
        kind: kind.into(),
        name: name.clone(),
        per_read: rounded(*count as f64 / reads.max(1) as f64 * 10.0) / 10.0,
    }));
}

/// Prints it.
pub(crate) fn tell(calls: &[Call], sizes: &[record::Server]) -> Result<()> {
    let mut out = stdout().lock();
    let [meminfo, ..] = FILES;
    for size in sizes {
        let record::Server { server, rss_kib, threads } = size;
        writeln!(out, "{server}: {rss_kib} KiB resident, {threads} threads")?;
    }
    for kind in [REQUEST, SYSTEM_CALL] {
        let of_kind: Vec<_> =
            calls.iter().filter(|call| call.kind == kind && call.file == meminfo).collect();
        let mut names: Vec<&str> = of_kind.iter().map(|call| call.server.as_str()).collect();
        names.dedup();
        for server in names {
            let calls = of_kind.iter().filter(|call| call.server == server);
            let each: Vec<_> =
                calls.map(|call| format!("{} {}", call.per_read, call.name)).collect();
            writeln!(out, "{server}, for a read of {meminfo}: {kind}s: {}", each.join(", "))?;
        }
    }
    Ok(())
}
