//! What the daemon takes for the load averages and CPU times of a container with many tasks.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use cgview_benches::{readers::read_once, record::Scale, servers::Server};
use cgview_testkit::{Process, Spawn, Tree, pause};

use crate::row;

/// How many threads a process has.
const THREADS: u32 = 1000;

/// The smallest stack that glibc gives.
const STACK: usize = 16 << 10;

/// What is read, and how often.
const FILES: [&str; 3] = ["proc/loadavg", "proc/stat", "proc/uptime"];
const INTERVAL: Duration = Duration::from_millis(100);

const PID_MAX: &str = "/proc/sys/kernel/pid_max";

/// The numbers that tasks may have, all over the machine: more while this lives, if there were too few.
struct PidMax(Option<String>);

impl PidMax {
    fn at_least(number: u32) -> Result<PidMax> {
        let known = fs::read_to_string(PID_MAX)?;
        let most: u32 = known.trim().parse().context("cannot read the highest pid")?;
        if most >= number {
            return Ok(PidMax(None));
        }
        fs::write(PID_MAX, number.to_string()).context("cannot have more pids")?;
        Ok(PidMax(Some(known)))
    }
}

impl Drop for PidMax {
    fn drop(&mut self) {
        if let Some(known) = &self.0 {
            let _ = fs::write(PID_MAX, known);
        }
    }
}

/// A process with so many threads that do nothing. Returns only if it cannot be.
fn sleepers(threads: u32) -> i32 {
    for _ in 1..threads {
        let thread = thread::Builder::new().stack_size(STACK).spawn(pause);
        if thread.is_err() {
            return 1;
        }
    }
    pause()
}

pub(crate) fn measure(is_test: bool) -> Result<Vec<Scale>> {
    let Some(tree) = Tree::new() else { return Ok(Vec::new()) };
    let (many, time) = if is_test {
        (200, Duration::from_millis(300))
    } else {
        (100_000, Duration::from_secs(40))
    };
    let _pids = PidMax::at_least(many + 30_000)?;
    let server = Server::cgview()?;
    let app = tree.cgroup("busy");
    let paths = FILES.map(|file| server.root.join(file));
    let init = Spawn::new().cgroup(&app).container().run(|| {
        let mut buffer = vec![0; 8 << 10];
        while paths.iter().all(|path| read_once(path, &mut buffer).is_ok()) {
            thread::sleep(INTERVAL);
        }
        1
    });
    let mut rows = vec![cost(1, &server, time)];
    let mut left = many - 1;
    let mut processes: Vec<Process> = Vec::new();
    while left > 0 {
        let threads = left.min(THREADS);
        let process = Spawn::new().cgroup(&app).join(&init, &["pid"]);
        processes.push(process.run(|| sleepers(threads)));
        left -= threads;
    }
    wait_for(&app.dir("pids"), many)?;
    rows.push(cost(many, &server, time));
    anyhow::ensure!(
        fs::metadata(format!("/proc/{}", init.pid())).is_ok(),
        "the reader of a container with {many} tasks failed"
    );
    Ok(rows)
}

/// Waits until there are so many tasks in a cgroup.
fn wait_for(dir: &std::path::Path, tasks: u32) -> Result<()> {
    let list = ["tasks", "cgroup.threads"].map(|name| dir.join(name));
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let text = list.iter().find_map(|path| fs::read_to_string(path).ok());
        let count = text.context("cannot list tasks")?.lines().count();
        if count >= usize::try_from(tasks)? {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "there are {count} tasks, and not {tasks}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// How much of a CPU the daemon takes while the container is read all the time.
fn cost(tasks: u32, server: &Server, time: Duration) -> Scale {
    let (start, before) = (Instant::now(), server.cpu_time());
    thread::sleep(time);
    let used = server.cpu_time().saturating_sub(before).as_secs_f64();
    let share = used / start.elapsed().as_secs_f64() * 100.0;
    row("loadavg, stat and uptime, 10 times a second", (tasks, "tasks"), "", share, "% of a CPU")
}
