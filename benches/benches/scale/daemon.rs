//! The daemon with many containers on this machine: real cgroups and pid namespaces.

use std::{
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cgview_benches::{
    placement::Placement,
    readers::{Readers, Task, read_once},
    record::{Scale, undisturbed},
    servers::Server,
};
use cgview_testkit::{Process, Spawn, Tree};

use crate::row;

/// What each container reads.
const FILES: [&str; 6] =
    ["proc/meminfo", "proc/stat", "proc/cpuinfo", "proc/uptime", "proc/loadavg", "proc/diskstats"];

/// How often a reader is measured.
const ROUNDS: usize = 20;

/// Containers that all read the files when they are started, and then one of them for each byte that is asked.
struct Crowd {
    ask: PipeWriter,
    answer: PipeReader,
    containers: Vec<Process>,
}

impl Crowd {
    fn start(tree: &Tree, count: u32, server: &Server) -> Result<Crowd> {
        let (asked, ask) = std::io::pipe()?;
        let (answer, told) = std::io::pipe()?;
        let paths = FILES.map(|file| server.root.join(file));
        let mut crowd = Crowd { ask, answer, containers: Vec::new() };
        for number in 0..count {
            let cgroup = tree.cgroup(&format!("crowd/{number}"));
            cgroup.limit_memory(64 << 20).limit_cpu(150_000);
            let run = || serve(&paths, &asked, &told);
            crowd.containers.push(Spawn::new().cgroup(&cgroup).container().run(run));
        }
        crowd.wait(count)?;
        Ok(crowd)
    }

    fn wait(&mut self, answers: u32) -> Result<()> {
        let mut left = vec![0; usize::try_from(answers)?];
        self.answer.read_exact(&mut left).context("a container ended")?;
        ensure!(left.iter().all(|&answer| answer == b'+'), "a container could not read");
        Ok(())
    }

    /// Has as many containers read as there are. Those that have waited longest come first.
    fn read(&mut self) -> Result<()> {
        self.ask.write_all(&vec![b'?'; self.containers.len()])?;
        self.wait(u32::try_from(self.containers.len())?)
    }
}

fn serve(paths: &[PathBuf], mut asked: &PipeReader, mut told: &PipeWriter) -> i32 {
    let mut buffer = vec![0; 8 << 10];
    loop {
        let read = paths.iter().try_for_each(|path| read_once(path, &mut buffer));
        let answer = if read.is_ok() { b"+" } else { b"-" };
        if told.write_all(answer).is_err() || asked.read_exact(&mut [0]).is_err() {
            return 0;
        }
    }
}

/// How long one reader takes, whoever else there is.
fn reads(
    server: &Server,
    readers: &mut Readers,
    time: Duration,
) -> Result<Vec<(&'static str, f64)>> {
    let mut pids = server.pids();
    pids.push(readers.pid());
    Placement::Pinned.place(&pids)?;
    let mut times = Vec::new();
    for file in FILES {
        let task = Task { path: server.root.join(file), buffer: 8 << 10, readers: 1, time };
        let rounds = (0..ROUNDS).map(|_| Ok(readers.run(&task)?.median as f64 / 1000.0));
        let rounds: Vec<f64> = rounds.collect::<Result<_>>()?;
        times.push((file, undisturbed(rounds.into_iter())));
    }
    Placement::Free.place(&pids)?;
    Ok(times)
}

pub(crate) fn measure(is_test: bool) -> Result<Vec<Scale>> {
    let Some(tree) = Tree::new() else { return Ok(Vec::new()) };
    let (count, time) =
        if is_test { (8, Duration::from_millis(2)) } else { (1000, Duration::from_millis(40)) };
    let of = |count| (count, "containers");
    let mut rows = Vec::new();
    let mut tell = |count, server: &Server| {
        let mib = |kib| kib as f64 / 1024.0;
        rows.push(row("resident memory", of(count), "", mib(server.rss_kib()), "MiB"));
        let shared_once = "resident memory, shared pages once";
        rows.push(row(shared_once, of(count), "", mib(server.pss_kib()), "MiB"));
        rows.push(row("threads", of(count), "", server.threads().len() as f64, ""));
    };

    let server = Server::cgview()?;
    let mut readers = Readers::start(&tree)?;
    let alone = reads(&server, &mut readers, time)?;
    tell(1, &server);
    let mut crowd = Crowd::start(&tree, count, &server)?;
    let among = reads(&server, &mut readers, time)?;
    tell(count, &server);
    let before = server.cpu_time();
    crowd.read()?;
    let used = server.cpu_time().saturating_sub(before).as_secs_f64() * 1e6;
    let each = used / f64::from(count) / FILES.len() as f64;
    rows.push(row("CPU time for a read, all in turn", of(count), "", each, "us"));
    for (count, times) in [(1, alone), (count, among)] {
        for (file, time) in times {
            rows.push(row("a read of the shared mount", of(count), file, time, "us"));
        }
    }
    drop(server);

    let start = Instant::now();
    let server = Server::cgview()?;
    let started = start.elapsed();
    let listed = std::fs::read_dir(server.by_id(0).root.with_file_name(""))?.count();
    let found = start.elapsed().saturating_sub(started);
    ensure!(
        listed >= usize::try_from(count)?,
        "the fast mount lists {listed} of {count} containers"
    );
    rows.push(row("start", of(count), "", started.as_secs_f64() * 1000.0, "ms"));
    rows.push(row(
        "first list of the fast mount",
        of(count),
        "",
        found.as_secs_f64() * 1000.0,
        "ms",
    ));
    Ok(rows)
}
