//! Containers that read in turn: what is known of each is old when it reads again, and in no CPU's cache.

use std::{
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cgview_benches::{
    placement::Placement,
    readers::{nanos, read_once},
    record::{Scale, undisturbed},
    servers::Server,
};
use cgview_testkit::{Process, Spawn, Tree};

use crate::{FILES, row};

/// Containers of one process each, which read what they are asked to.
pub(crate) struct Crowd {
    answer: PipeReader,
    containers: Vec<(PipeWriter, Process)>,
}

impl Crowd {
    /// Starts them, and has each read all files of all servers.
    pub(crate) fn start(tree: &Tree, count: u32, servers: &[Server]) -> Result<Crowd> {
        let (answer, told) = std::io::pipe()?;
        let paths: Vec<_> =
            servers.iter().flat_map(|server| FILES.map(|file| server.root.join(file))).collect();
        let mut crowd = Crowd { answer, containers: Vec::new() };
        for number in 0..count {
            let cgroup = tree.cgroup(&format!("crowd/{number}"));
            cgroup.limit_memory(64 << 20).limit_cpu(150_000);
            let (asked, ask) = std::io::pipe()?;
            let run = || serve(&paths, &asked, &told);
            crowd.containers.push((ask, Spawn::new().cgroup(&cgroup).container().run(run)));
        }
        for path in 0..paths.len() {
            crowd.read_in_turn(path)?;
        }
        Ok(crowd)
    }

    fn pids(&self) -> Vec<u32> {
        self.containers.iter().map(|(_, process)| process.pid()).collect()
    }

    /// How many nanoseconds it takes each to read a file.
    fn read_in_turn(&mut self, path: usize) -> Result<Vec<u64>> {
        let mut times = Vec::with_capacity(self.containers.len());
        for (ask, _) in &mut self.containers {
            ask.write_all(&[u8::try_from(path)?])?;
            let mut told = [0; 8];
            self.answer.read_exact(&mut told).context("a container ended")?;
            let nanos = u64::from_le_bytes(told);
            ensure!(nanos != FAILED, "a container could not read");
            times.push(nanos);
        }
        Ok(times)
    }
}

/// In place of a time.
const FAILED: u64 = u64::MAX;

fn serve(paths: &[PathBuf], mut asked: &PipeReader, mut told: &PipeWriter) -> i32 {
    let mut buffer = vec![0; 8 << 10];
    let mut number = [0];
    while asked.read_exact(&mut number).is_ok() {
        let [path] = number.map(usize::from);
        let Some(path) = paths.get(path) else { return 1 };
        let start = Instant::now();
        let read = read_once(path, &mut buffer);
        let nanos = if read.is_ok() { nanos(start.elapsed()) } else { FAILED };
        if told.write_all(&nanos.to_le_bytes()).is_err() {
            return 1;
        }
    }
    0
}

/// Microseconds for one read when all containers read in turn, by each server; and the CPU time that it takes cgview.
pub(crate) fn measure(
    crowd: &mut Crowd,
    servers: &[Server],
    size: (u32, &'static str),
    rounds: u32,
) -> Result<Vec<Scale>> {
    let mut pids: Vec<u32> = servers.iter().flat_map(Server::pids).collect();
    pids.extend(crowd.pids());
    Placement::Pinned.place(&pids)?;
    let mut rows = Vec::new();
    for (file_number, file) in FILES.into_iter().enumerate() {
        let mut medians = vec![Vec::new(); servers.len()];
        let mut used = Duration::ZERO;
        // The servers take turns, too: this machine is not as quick at all times.
        for _ in 0..rounds {
            for ((number, server), medians) in servers.iter().enumerate().zip(&mut medians) {
                let before = server.cpu_time();
                let mut times = crowd.read_in_turn(number * FILES.len() + file_number)?;
                if server.name == "shared" {
                    used += server.cpu_time().saturating_sub(before);
                }
                times.sort_unstable();
                medians.push(times.get(times.len() / 2).copied().unwrap_or_default());
            }
        }
        for (server, medians) in servers.iter().zip(medians) {
            let micros = undisturbed(medians.into_iter().map(|nanos| nanos as f64 / 1000.0));
            rows.push(row(&format!("a read in turn, {}", server.name), size, file, micros, "us"));
        }
        let each = used.as_secs_f64() * 1e6 / f64::from(size.0) / f64::from(rounds);
        rows.push(row("CPU time for a read in turn", size, file, each, "us"));
    }
    Placement::Free.place(&pids)?;
    Ok(rows)
}
