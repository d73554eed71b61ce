//! The daemon with many containers on this machine: real cgroups and pid namespaces.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cgview_benches::{
    placement::Placement,
    readers::{Readers, Task},
    record::{Scale, undisturbed},
    servers::Server,
};
use cgview_testkit::Tree;

use crate::{
    FILES,
    crowd::{self, Crowd},
    row,
};

/// How often a reader is measured.
const ROUNDS: usize = 20;

/// How long the kernel may take until it is done with new cgroups.
const SETTLING: Duration = Duration::from_secs(3);

/// How often all containers read a file in turn.
const TURNS: u32 = 5;

/// How long one reader takes, whoever else there is.
pub(crate) fn reads(
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

/// The least of what was measured for each file.
fn quickest(times: Vec<(&'static str, f64)>) -> Vec<(&'static str, f64)> {
    FILES
        .into_iter()
        .map(|file| {
            let of_file = times.iter().filter(|(other, _)| *other == file);
            (file, undisturbed(of_file.map(|(_, time)| *time)))
        })
        .collect()
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
    let mut alone = reads(&server, &mut readers, time)?;
    tell(1, &server);
    let mut servers = vec![Server::native(), server];
    match Server::lxcfs() {
        Ok(lxcfs) => servers.push(lxcfs),
        Err(error) => cgview_testkit::skip(&format!("LXCFS is not compared: {error:#}")),
    }
    let mut crowd = Crowd::start(&tree, count, &servers)?;
    let [_, server, ..] = &servers[..] else { return Ok(Vec::new()) };
    if !is_test {
        // The kernel has something to do, too, when so many cgroups were made just now.
        std::thread::sleep(SETTLING);
    }
    let mut among = reads(server, &mut readers, time)?;
    tell(count, server);
    let rounds = if is_test { 1 } else { TURNS };
    rows.extend(crowd::measure(&mut crowd, &servers, of(count), rounds)?);
    let after = server.rss_kib() as f64 / 1024.0;
    rows.push(row("resident memory, when all have read in turn", of(count), "", after, "MiB"));
    // Both a second time, as this machine is not as quick at all times.
    among.extend(reads(server, &mut readers, time)?);
    drop(crowd);
    alone.extend(reads(server, &mut readers, time)?);
    for (count, times) in [(1, quickest(alone)), (count, quickest(among))] {
        for (file, time) in times {
            rows.push(row("a read of the shared mount", of(count), file, time, "us"));
        }
    }
    drop(servers);

    // Another one, that finds them when it starts.
    let crowd = Crowd::start(&tree, count, &[])?;
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
    drop(crowd);
    Ok(rows)
}
