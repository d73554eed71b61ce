//! What is measured, in which order.

use std::{
    collections::BTreeMap,
    io::{Write as _, stdout},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use cgview_testkit::Tree;

use crate::{
    readers::{Outcome, Readers, Task, cgroup},
    record::{Record, Row},
    requests::Trace,
    servers::Server,
};

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

/// The buffers of readers: procps and others; libc and Go; `cat`.
const BUFFERS: [usize; 3] = [1 << 10, 8 << 10, 128 << 10];

/// How many read at a time.
const READERS: [usize; 4] = [1, 2, 4, 64];

/// How often each is measured; medians count.
const ROUNDS: usize = 3;

/// How long each is measured, in one round.
const TIME: Duration = Duration::from_millis(200);

/// Where and how servers and readers run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Placement {
    /// On one CPU, before all others.
    Pinned,
    /// As the scheduler likes.
    Free,
}

impl Placement {
    fn name(self) -> &'static str {
        match self {
            Placement::Pinned => "pinned",
            Placement::Free => "free",
        }
    }

    /// Has all threads of a process run so. What they start later does so too.
    fn place(self, pid: u32) -> Result<()> {
        let pid = pid.to_string();
        let (class, priority, cpus) = match self {
            Placement::Pinned => ("--fifo", "10", "0"),
            Placement::Free => ("--other", "0", "0-1023"),
        };
        let commands = [
            ("chrt", vec!["--all-tasks", class, "--pid", priority, &pid]),
            ("taskset", vec!["--all-tasks", "--cpu-list", "--pid", cpus, &pid]),
        ];
        for (program, arguments) in commands {
            let status = Command::new(program).args(arguments).stdout(Stdio::null()).status();
            let status = status.with_context(|| format!("cannot run {program}"))?;
            anyhow::ensure!(status.success(), "{program} of process {pid}: {status}");
        }
        Ok(())
    }
}

pub(crate) fn run(is_test: bool, record: Option<&Path>) -> Result<()> {
    let Some(tree) = Tree::new() else { return Ok(()) };
    let mut servers = vec![Server::native(), Server::bare()?];
    if !is_test {
        servers.extend(Server::lxcfs()?);
    }
    servers.push(Server::cgview()?);
    let mut readers = Readers::start(&tree)?;
    let number = std::fs::metadata(cgroup(&tree).dir("memory"))?.ino();
    let by_id = servers.last().map(|server| server.by_id(number));
    servers.extend(by_id);
    let mut rows = Vec::new();
    let (rounds, time) = if is_test { (1, Duration::from_millis(5)) } else { (ROUNDS, TIME) };
    let placements = [Placement::Pinned, Placement::Free];
    for placement in placements.into_iter().skip(usize::from(is_test)) {
        // That takes rights that not all machines give.
        let pids =
            if is_test { Vec::new() } else { servers.iter().flat_map(Server::pids).collect() };
        for pid in pids.into_iter().chain((!is_test).then(|| readers.pid())) {
            placement.place(pid)?;
        }
        let buffers = match placement {
            Placement::Pinned => &BUFFERS[..],
            Placement::Free => &BUFFERS[1..2],
        };
        let crowds = if is_test { &READERS[..2] } else { &READERS[..] };
        for &buffer in buffers {
            for &crowd in
                if buffer == BUFFERS[1] { crowds } else { crowds.get(..1).unwrap_or(crowds) }
            {
                // Many at a time are for the transport, which is the same for all files.
                let files = if crowd == 1 { &FILES[..] } else { &FILES[..1] };
                for file in files {
                    let task = |server: &Server| Task {
                        path: server.root.join(file),
                        buffer,
                        readers: crowd,
                        time,
                    };
                    let mut outcomes: BTreeMap<usize, Vec<(Outcome, Duration)>> = BTreeMap::new();
                    for _ in 0..rounds {
                        for (index, server) in servers.iter().enumerate() {
                            let before = server.cpu_time();
                            let outcome = readers.run(&task(server))?;
                            let used = server.cpu_time().saturating_sub(before);
                            outcomes.entry(index).or_default().push((outcome, used));
                        }
                    }
                    for (index, server) in servers.iter().enumerate() {
                        let of = outcomes.remove(&index).unwrap_or_default();
                        rows.push(Row {
                            placement: placement.name(),
                            readers: crowd,
                            buffer,
                            file,
                            server: server.name,
                            ..median(&of)
                        });
                    }
                    tell(rows.get(rows.len() - servers.len()..).unwrap_or_default())?;
                }
            }
        }
    }
    // In a private copy of the mounts, so that nothing is left.
    let requests = (!is_test)
        .then(Trace::start)
        .flatten()
        .map(|trace| count_requests(&trace, &servers, &mut readers))
        .transpose()?
        .unwrap_or_default();
    let memory: Vec<_> = servers.iter().map(|server| (server.name, server.rss())).collect();
    let mut out = stdout().lock();
    for (server, kib) in &memory {
        writeln!(out, "{server}: {kib} KiB resident")?;
    }
    for (server, kinds) in &requests {
        writeln!(out, "{server}: requests for one read of proc/meminfo: {kinds}")?;
    }
    match record {
        Some(path) => Record { rows, requests, memory }.save(path),
        None => Ok(()),
    }
}

/// The row of the round in the middle.
fn median(rounds: &[(Outcome, Duration)]) -> Row {
    let mut rounds: Vec<_> = rounds.to_vec();
    rounds.sort_by(|a, b| a.0.rate.total_cmp(&b.0.rate));
    let (outcome, used) = rounds.get(rounds.len() / 2).copied().unwrap_or_default();
    Row {
        rate: outcome.rate,
        median: outcome.median as f64 / 1000.0,
        p99: outcome.p99 as f64 / 1000.0,
        server_cpu: used.as_nanos() as f64 / 1000.0 / outcome.reads.max(1) as f64,
        ..Row::default()
    }
}

/// Prints what was measured side by side, with how many times as many reads as LXCFS and the kernel make.
fn tell(rows: &[Row]) -> Result<()> {
    let mut out = stdout().lock();
    if let Some(row) = rows.first() {
        let Row { placement, readers, buffer, file, .. } = row;
        writeln!(out, "{file}, {buffer} bytes at a time, {readers} readers, {placement}")?;
    }
    let of = |name| rows.iter().find(|row| row.server == name).map_or(f64::NAN, |row| row.rate);
    for row in rows {
        let Row { server, rate, median, p99, server_cpu, .. } = row;
        let (native, bare, lxcfs) = (rate / of("native"), rate / of("bare"), rate / of("lxcfs"));
        writeln!(
            out,
            "  {server:8} {rate:9.0}/s  median {median:8.1} us  99% {p99:8.1} us  server \
             {server_cpu:6.1} us  {native:5.2} x native  {bare:5.2} x bare  {lxcfs:5.2} x lxcfs"
        )?;
    }
    Ok(())
}

/// The requests for one read of `proc/meminfo`, in a mount that was read before.
fn count_requests(
    trace: &Trace,
    servers: &[Server],
    readers: &mut Readers,
) -> Result<Vec<(&'static str, String)>> {
    let mut counted = Vec::new();
    for server in servers.iter().filter(|server| server.name != "native") {
        let connection = std::fs::metadata(&server.root)?.dev();
        let path = server.root.join(FILES[0]);
        let task = Task { path, buffer: BUFFERS[1], readers: 1, time: Duration::from_millis(1) };
        readers.run(&task)?;
        trace.clear()?;
        let reads = readers.run(&task)?.reads;
        let kinds = trace.take(connection)?;
        let each =
            |(kind, count): (String, u64)| format!("{kind} {:.1}", count as f64 / reads as f64);
        counted.push((server.name, kinds.into_iter().map(each).collect::<Vec<_>>().join(", ")));
    }
    Ok(counted)
}
