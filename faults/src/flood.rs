//! A container that does one thing as fast as it can, and another one that reads now and then.

use std::{
    fs::{self, File},
    hint::spin_loop,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, Process, Spawn};
use tempfile::NamedTempFile;

use crate::board::Board;

/// What a flood consists of.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    /// Burn the CPU.
    Burn,
    /// Open, read and close a file.
    Read(&'a Path),
    /// The same by a new thread each time, as a shell's loop has a new process each time.
    ReadByNew(&'a Path),
    /// Open and close a file.
    Open(&'a Path),
    /// Ask for a file's attributes.
    Stat(&'a Path),
}

impl Act<'_> {
    fn once(self) -> bool {
        match self {
            Act::Burn => {
                (0..1000).for_each(|_| spin_loop());
                true
            }
            Act::Read(path) => fs::read(path).is_ok(),
            Act::ReadByNew(path) => {
                thread::scope(|scope| scope.spawn(|| fs::read(path).is_ok()).join().unwrap())
            }
            Act::Open(path) => File::open(path).is_ok(),
            Act::Stat(path) => fs::metadata(path).is_ok(),
        }
    }
}

/// Threads of one container that do something without a pause. Dropping it kills them.
#[derive(Debug)]
pub struct Flood {
    board: Board,
    _process: Process,
}

impl Flood {
    /// Starts so many threads, each of which does that again and again.
    #[must_use]
    pub fn start(cgroup: &Cgroup, threads: usize, of: Act<'_>) -> Flood {
        let board = Board::new(1);
        let slot = board.slot(0);
        let process = Spawn::new().cgroup(cgroup).container().run(|| {
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        while of.once() {
                            slot.texts.fetch_add(1, Relaxed);
                        }
                    });
                }
            });
            1
        });
        Flood { board, _process: process }
    }

    /// How often it did it until now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.board.slot(0).texts.load(Relaxed)
    }
}

/// What a container saw that opens, reads and closes a file now and then.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// How long each took, the shortest first.
    pub times: Vec<Duration>,
    /// How many texts the flood got meanwhile, the fewest first.
    pub overtaken: Vec<u64>,
}

impl Reads {
    /// Reads a file so often, with a pause between two reads.
    #[must_use]
    pub fn of(
        cgroup: &Cgroup,
        path: &Path,
        count: usize,
        pause: Duration,
        flood: Option<&Flood>,
    ) -> Reads {
        let output = NamedTempFile::new().unwrap();
        let process = Spawn::new().cgroup(cgroup).container().run(|| {
            let mut lines = String::new();
            for _ in 0..count {
                thread::sleep(pause);
                let answered = flood.map_or(0, Flood::count);
                let began = Instant::now();
                if fs::read(path).is_err() {
                    return 1;
                }
                let time = began.elapsed().as_nanos();
                let overtaken = flood.map_or(0, Flood::count) - answered;
                lines.push_str(&format!("{time} {overtaken}\n"));
            }
            i32::from(fs::write(output.path(), lines).is_err())
        });
        assert_eq!(process.wait(), 0);
        let mut reads = Reads::default();
        for line in fs::read_to_string(output.path()).unwrap().lines() {
            let (time, overtaken) = line.split_once(' ').unwrap();
            reads.times.push(Duration::from_nanos(time.parse().unwrap()));
            reads.overtaken.push(overtaken.parse().unwrap());
        }
        reads.times.sort_unstable();
        reads.overtaken.sort_unstable();
        reads
    }

    /// How long a read took, as a median.
    #[must_use]
    pub fn time(&self) -> Duration {
        percentile(&self.times, 50)
    }

    /// How many texts the flood got while this container waited for one, as a median.
    #[must_use]
    pub fn overtaken(&self) -> u64 {
        percentile(&self.overtaken, 50)
    }
}

/// The value that so many of a hundred do not exceed.
fn percentile<T: Copy>(sorted: &[T], percent: usize) -> T {
    *sorted.get(sorted.len() * percent / 100).or(sorted.last()).unwrap()
}

impl std::fmt::Display for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [half, most] = [50, 99].map(|percent| percentile(&self.times, percent).as_micros());
        let [few, many] = [50, 99].map(|percent| percentile(&self.overtaken, percent));
        write!(
            f,
            "median {half} us, p99 {most} us; the flood got {few} texts meanwhile, {many} at p99"
        )
    }
}
