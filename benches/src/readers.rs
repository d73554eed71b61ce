//! Readers: threads of a process in a container, which read whole files as programs do: open, read to the end, close.

use std::{
    fs::File,
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use cgview_testkit::{Cgroup, Process, Spawn, Tree};

use crate::placement::permit_real_time;

/// What is read, and how.
#[derive(Clone, Debug)]
pub struct Task {
    /// The file.
    pub path: PathBuf,
    /// The size of each reader's buffer, in bytes.
    pub buffer: usize,
    /// How many read at a time.
    pub readers: usize,
    /// For how long.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// How often it was read, by all readers together.
    pub reads: u64,
    /// How often in a second.
    pub rate: f64,
    /// Nanoseconds that one read took.
    pub median: u64,
    /// Nanoseconds that 99 of 100 reads did not exceed.
    pub p99: u64,
}

/// A process in a container that reads what it is told to.
#[derive(Debug)]
pub struct Readers {
    ask: PipeWriter,
    answer: PipeReader,
    process: Process,
}

/// The container that readers are in.
const CONTAINER: &str = "pod/app";

/// Its cgroup.
#[must_use]
pub fn cgroup(tree: &Tree) -> Cgroup {
    tree.cgroup(CONTAINER)
}

impl Readers {
    /// Starts it in a container whose limits are never met: readers are not to be throttled.
    ///
    /// # Errors
    ///
    /// If there are no more pipes.
    pub fn start(tree: &Tree) -> Result<Readers> {
        let app = cgroup(tree);
        let cpus = u64::try_from(thread::available_parallelism()?.get())?;
        app.limit_memory(256 << 20).limit_cpu(cpus * 100_000).limit_pids(500);
        permit_real_time(tree, &["", "pod", CONTAINER]);
        let (asked, ask) = std::io::pipe()?;
        let (answer, told) = std::io::pipe()?;
        let process = Spawn::new().cgroup(&app).container().run(|| serve(asked, told));
        Ok(Readers { ask, answer, process })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Has it read.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn run(&mut self, task: &Task) -> Result<Outcome> {
        let path = task.path.as_os_str().as_bytes();
        let micros = usize::try_from(task.time.as_micros())?;
        for number in [task.buffer, task.readers, micros, path.len()] {
            self.ask.write_all(&u64::try_from(number)?.to_le_bytes())?;
        }
        self.ask.write_all(path)?;
        let mut told = [0; 32];
        self.answer.read_exact(&mut told)?;
        let [reads, nanos, median, p99] = numbers(&told);
        ensure!(reads > 0, "cannot read {}", task.path.display());
        Ok(Outcome { reads, rate: reads as f64 * 1e9 / nanos.max(1) as f64, median, p99 })
    }
}

fn numbers(bytes: &[u8; 32]) -> [u64; 4] {
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
    }
    numbers
}

/// Does what it is asked until nobody asks any more.
fn serve(mut asked: PipeReader, mut told: PipeWriter) -> i32 {
    let mut head = [0; 32];
    while asked.read_exact(&mut head).is_ok() {
        let [buffer, readers, micros, length] = numbers(&head);
        let size = |number| usize::try_from(number).unwrap_or_default();
        let mut path = vec![0; size(length)];
        if asked.read_exact(&mut path).is_err() {
            return 1;
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(&path));
        let (buffer, time) = (size(buffer), Duration::from_micros(micros));
        let start = Instant::now();
        let mut times: Vec<u64> = if readers == 1 {
            read_for(path, buffer, time)
        } else {
            thread::scope(|scope| {
                let all: Vec<_> =
                    (0..readers).map(|_| scope.spawn(|| read_for(path, buffer, time))).collect();
                all.into_iter().flat_map(|one| one.join().unwrap_or_default()).collect()
            })
        };
        let nanos = nanos(start.elapsed());
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        for number in [times.len() as u64, nanos, at(50), at(99)] {
            if told.write_all(&number.to_le_bytes()).is_err() {
                return 1;
            }
        }
    }
    0
}

/// A time in nanoseconds.
#[must_use]
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads the file again and again, and returns how many nanoseconds each time took. Nothing if it cannot.
fn read_for(path: &Path, buffer: usize, time: Duration) -> Vec<u64> {
    let mut buffer = vec![0; buffer];
    let mut times = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    let mut before = start;
    while before - start < time || times.is_empty() {
        if read_once(path, &mut buffer).is_err() {
            return Vec::new();
        }
        let now = Instant::now();
        times.push(nanos(now - before));
        before = now;
    }
    times
}

/// Reads a file to its end.
///
/// # Errors
///
/// If that cannot be done.
pub fn read_once(path: &Path, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    while file.read(buffer)? > 0 {}
    Ok(())
}
