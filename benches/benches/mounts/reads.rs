//! How long reads take, and how much of the servers' CPU time.

use std::{
    io::{Write as _, stdout},
    time::Duration,
};

use anyhow::Result;
use cgview_benches::{
    placement::Placement,
    readers::{Outcome, Readers, Task},
    record::{Read, rounded, undisturbed},
    servers::Server,
};

use crate::FILES;

/// The usual buffer: that of libc, Go and others.
const BUFFER: usize = 8 << 10;

/// Those of procps, and of `cat`.
const OTHER_BUFFERS: [usize; 2] = [1 << 10, 128 << 10];

/// How many read at a time.
const CROWDS: [usize; 3] = [2, 4, 64];

/// How often each server is measured, in turn.
const ROUNDS: usize = 20;

/// For how long, in each round.
const TIME: Duration = Duration::from_millis(40);

/// What is read by how many.
struct Case {
    placement: Placement,
    file: &'static str,
    buffer: usize,
    readers: usize,
}

/// Crowds and buffers matter to the transport, which is the same for all files.
fn cases(placement: Placement) -> Vec<Case> {
    let [meminfo, ..] = FILES;
    let case = |file, buffer, readers| Case { placement, file, buffer, readers };
    let files = FILES.map(|file| case(file, BUFFER, 1));
    let buffers = OTHER_BUFFERS.map(|buffer| case(meminfo, buffer, 1));
    let crowds = CROWDS.map(|readers| case(meminfo, BUFFER, readers));
    files.into_iter().chain(buffers).chain(crowds).collect()
}

/// Measures all; `pids` are those of servers and readers. Tells whether
/// `pinned` had real-time priority.
pub(crate) fn measure(
    servers: &[Server],
    readers: &mut Readers,
    pids: &[u32],
    is_test: bool,
) -> Result<(Vec<Read>, bool)> {
    let (rounds, time) = if is_test { (1, Duration::from_millis(2)) } else { (ROUNDS, TIME) };
    let (mut rows, mut real_time) = (Vec::new(), false);
    for placement in [Placement::Pinned, Placement::Free] {
        real_time |= placement.place(pids)?;
        for case in cases(placement) {
            let measured = measure_case(&case, servers, readers, rounds, time)?;
            tell(&measured)?;
            rows.extend(measured);
        }
    }
    Ok((rows, real_time))
}

fn measure_case(
    case: &Case,
    servers: &[Server],
    readers: &mut Readers,
    rounds: usize,
    time: Duration,
) -> Result<Vec<Read>> {
    let mut outcomes: Vec<Vec<(Outcome, f64)>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (server, outcomes) in servers.iter().zip(&mut outcomes) {
            if !server.has(case.file) {
                continue;
            }
            let path = server.root.join(case.file);
            let task = Task { path, buffer: case.buffer, readers: case.readers, time };
            let before = server.cpu_time();
            let outcome = readers.run(&task)?;
            let used = server.cpu_time().saturating_sub(before);
            outcomes.push((outcome, used.as_secs_f64() * 1e6 / outcome.reads as f64));
        }
    }
    let row = |(server, outcomes): (&Server, &Vec<(Outcome, f64)>)| {
        let least =
            |value: fn(&(Outcome, f64)) -> f64| rounded(undisturbed(outcomes.iter().map(value)));
        let seconds = undisturbed(outcomes.iter().map(|(outcome, _)| outcome.rate.recip()));
        Read {
            placement: case.placement.name().into(),
            readers: case.readers,
            buffer: case.buffer,
            file: case.file.into(),
            server: server.name.into(),
            reads_per_s: seconds.recip().round(),
            median_us: least(|(outcome, _)| outcome.median as f64 / 1000.0),
            p99_us: least(|(outcome, _)| outcome.p99 as f64 / 1000.0),
            server_cpu_us: least(|(_, cpu)| *cpu),
        }
    };
    let measured = servers.iter().zip(&outcomes).filter(|(_, outcomes)| !outcomes.is_empty());
    Ok(measured.map(row).collect())
}

/// Prints what was measured side by side, with the ratios that count.
fn tell(rows: &[Read]) -> Result<()> {
    let mut out = stdout().lock();
    let Some(Read { placement, readers, buffer, file, .. }) = rows.first() else { return Ok(()) };
    writeln!(out, "{file}: {buffer} bytes at a time, {readers} at a time, {placement}")?;
    for row in rows {
        let Read { server, reads_per_s, median_us, p99_us, server_cpu_us, .. } = row;
        writeln!(
            out,
            "  {server:8} {median_us:9.1} us  {p99_us:9.1} us (99 %)  {reads_per_s:9.0}/s  \
             {server_cpu_us:7.1} us of the server's CPU time"
        )?;
    }
    let of = |name| rows.iter().find(|row| row.server == name);
    let ratio = |above, below| -> Option<f64> {
        let (above, below): (&Read, &Read) = (of(above)?, of(below)?);
        // Those who wait for each other are to be counted together.
        let many = below.reads_per_s / above.reads_per_s;
        Some(if *readers == 1 { above.median_us / below.median_us } else { many })
    };
    let ratios = [("shared", "bare"), ("lxcfs", "shared"), ("lxcfs", "fast"), ("native", "fast")];
    for (above, below) in ratios {
        if let Some(ratio) = ratio(above, below) {
            write!(out, "  {above}/{below} {ratio:.2}")?;
        }
    }
    Ok(writeln!(out)?)
}
