//! Readers: threads of a process in a container.

use std::{
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use cgview_testkit::{Cgroup, Process, Spawn, Tree};

/// What is read by whom.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) path: PathBuf,
    pub(crate) buffer: usize,
    pub(crate) readers: usize,
    pub(crate) time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) reads: u64,
    /// Per second, of all readers together.
    pub(crate) rate: f64,
    /// Nanoseconds that one read took.
    pub(crate) median: u64,
    /// That 99 of 100 did not take longer than.
    pub(crate) p99: u64,
}

/// A process in a container that reads when it is told to.
pub(crate) struct Readers {
    ask: PipeWriter,
    answer: PipeReader,
    process: Process,
}

/// The container that they are in.
pub(crate) fn cgroup(tree: &Tree) -> Cgroup {
    tree.cgroup("pod/app")
}

impl Readers {
    pub(crate) fn start(tree: &Tree) -> Result<Readers> {
        let app = cgroup(tree);
        app.limit_memory(256 << 20).limit_cpu(150_000).limit_pids(500);
        let (asked, ask) = std::io::pipe()?;
        let (answer, told) = std::io::pipe()?;
        let process = Spawn::new().cgroup(&app).container().run(|| serve(asked, told));
        Ok(Readers { ask, answer, process })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn run(&mut self, task: &Task) -> Result<Outcome> {
        let path = task.path.as_os_str().as_bytes();
        let numbers =
            [task.buffer, task.readers, usize::try_from(task.time.as_millis())?, path.len()];
        for number in numbers {
            self.ask.write_all(&u64::try_from(number)?.to_le_bytes())?;
        }
        self.ask.write_all(path)?;
        let mut told = [0; 32];
        self.answer.read_exact(&mut told)?;
        let mut numbers = told.chunks_exact(8).map(number);
        let mut next = || numbers.next().unwrap_or_default();
        let (reads, micros, median, p99) = (next(), next(), next(), next());
        anyhow::ensure!(reads > 0, "cannot read {}", task.path.display());
        Ok(Outcome { reads, rate: reads as f64 * 1e6 / micros as f64, median, p99 })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_le_bytes).unwrap_or_default()
}

fn serve(mut asked: PipeReader, mut told: PipeWriter) -> i32 {
    let mut head = [0; 32];
    while asked.read_exact(&mut head).is_ok() {
        let numbers: Option<Vec<usize>> =
            head.chunks_exact(8).map(|bytes| usize::try_from(number(bytes)).ok()).collect();
        let Some([buffer, readers, millis, length]) =
            numbers.and_then(|all| <[usize; 4]>::try_from(all).ok())
        else {
            return 1;
        };
        let mut path = vec![0; length];
        if asked.read_exact(&mut path).is_err() {
            return 1;
        }
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&path));
        let time = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        let start = Instant::now();
        let mut times: Vec<u64> = if readers == 1 {
            read_for(&path, buffer, time)
        } else {
            thread::scope(|scope| {
                let all: Vec<_> =
                    (0..readers).map(|_| scope.spawn(|| read_for(&path, buffer, time))).collect();
                all.into_iter().flat_map(|one| one.join().unwrap_or_default()).collect()
            })
        };
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        for number in [times.len() as u64, micros, at(50), at(99)] {
            if told.write_all(&number.to_le_bytes()).is_err() {
                return 1;
            }
        }
    }
    0
}

/// Reads the file again and again, and returns how many nanoseconds each time took. Nothing if it cannot.
fn read_for(path: &Path, buffer: usize, time: Duration) -> Vec<u64> {
    let mut text = vec![0; buffer];
    let mut times = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    let mut before = start;
    while before - start < time {
        let Ok(mut file) = std::fs::File::open(path) else { return Vec::new() };
        loop {
            match file.read(&mut text) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return Vec::new(),
            }
        }
        drop(file);
        let now = Instant::now();
        times.push(u64::try_from((now - before).as_nanos()).unwrap_or(u64::MAX));
        before = now;
    }
    times
}
