//! Containers full of readers.

use std::{
    collections::VecDeque,
    fs::{self, File},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, Process, Spawn, Tree};
use fastrand::Rng;

use crate::{
    board::{Board, Totals},
    container::{Files, bind},
    daemon::{Daemon, PATIENCE, eventually},
    reader::Reader,
    scale::{Scale, seed},
    texts::{Checker, Truth},
};

/// Readers in containers. Dropping it kills them.
#[derive(Debug)]
pub struct Load {
    board: Board,
    containers: Vec<Process>,
    cgroups: Vec<Cgroup>,
    report: std::path::PathBuf,
}

/// What the containers of a load are like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many, and how busy.
    pub scale: Scale,
    /// Where they are in the tree, before their number.
    pub prefix: &'static str,
    /// What is true of all of them, in place of limits of each's own.
    pub truth: Option<Truth>,
    /// Their cgroups are there already, and are left as they are.
    pub has_cgroups: bool,
    /// Whether the files are bound over their namesakes; if not, they are read through the mountpoint only.
    pub is_bound: bool,
    /// Files that nobody reads, by their paths below the mountpoint.
    pub without: &'static [&'static str],
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            scale: Scale::of_machine(),
            prefix: "c",
            truth: None,
            has_cgroups: false,
            is_bound: true,
            without: &[],
        }
    }
}

/// 64 MiB and a few for each container, so that each has another `MemTotal`.
fn memory(number: usize) -> u64 {
    (64 + number as u64) << 20
}

impl Load {
    /// Starts containers, each with limits of its own, and readers in them; and waits until all read.
    #[must_use]
    pub fn start(tree: &Tree, daemon: &Daemon) -> Load {
        Load::with(tree, daemon, &Shape::default())
    }

    /// The same with containers of a certain kind.
    #[must_use]
    pub fn with(tree: &Tree, daemon: &Daemon, shape: &Shape) -> Load {
        let Scale { containers, readers, .. } = shape.scale;
        let board = Board::new(containers * readers);
        let report = daemon.dirs().path("report");
        let began = Instant::now();
        let mut files = Files::of(&daemon.mountpoint());
        files.proc.retain(|path| !shape.without.contains(&path.as_str()));
        let seed = seed();
        println!("seed of the readers: {seed}");
        let mut load = Load { board, containers: Vec::new(), cgroups: Vec::new(), report };
        for number in 0..containers {
            let path = format!("{}{number}", shape.prefix);
            let cgroup =
                if shape.has_cgroups { tree.bare_cgroup(&path) } else { tree.cgroup(&path) };
            let truth = shape.truth.clone().unwrap_or_else(|| limit(tree, &cgroup, number));
            let process =
                load.start_container(daemon, &cgroup, shape, &files, (number, seed), truth);
            load.containers.push(process);
            load.cgroups.push(cgroup);
        }
        eventually("all readers read", || load.has_state(1));
        assert_eq!(load.complaints(), "", "before anything went wrong: {}", daemon.log());
        load.board.forget_longest();
        println!("all readers read after {} ms", began.elapsed().as_millis());
        load
    }

    fn start_container(
        &self,
        daemon: &Daemon,
        cgroup: &Cgroup,
        shape: &Shape,
        files: &Files,
        (number, seed): (usize, u64),
        truth: Truth,
    ) -> Process {
        let mountpoint = daemon.mountpoint();
        let report = File::options().create(true).append(true).open(&self.report).unwrap();
        let board = &self.board;
        let Shape { scale: Scale { readers, pause, .. }, is_bound, .. } = *shape;
        Spawn::new().cgroup(cgroup).container().run(move || {
            if is_bound {
                bind(&mountpoint);
            }
            let files = files.of_container(&mountpoint, truth.changes);
            assert!(!files.proc.is_empty(), "no file of proc can be read: {files:?}");
            thread::scope(|scope| {
                for place in 0..readers {
                    let number = number * readers + place;
                    let slot = board.slot(number);
                    let reader = Reader {
                        board,
                        slot,
                        name: format!("reader {number}"),
                        mountpoint: &mountpoint,
                        is_bound,
                        files: &files,
                        checker: Checker::new(truth.clone()),
                        pause,
                        rng: Rng::with_seed(seed.wrapping_add(number as u64)),
                        report: &report,
                        kept: VecDeque::new(),
                        errors: 0,
                    };
                    scope.spawn(move || {
                        slot.state.store(1, SeqCst);
                        reader.run();
                        slot.state.store(2, SeqCst);
                    });
                }
            });
            0
        })
    }

    fn has_state(&self, state: u32) -> bool {
        self.board.slots().all(|slot| slot.state.load(SeqCst) >= state)
    }

    /// The cgroups of the containers.
    #[must_use]
    pub fn cgroups(&self) -> &[Cgroup] {
        &self.cgroups
    }

    /// The first process of each container.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.containers.iter().map(Process::pid).collect()
    }

    /// What they saw until now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.board.totals()
    }

    /// Forgets how long calls took until now, so that `longest` is about what follows.
    pub fn forget_longest(&self) {
        self.board.forget_longest();
    }

    /// What readers complained of.
    #[must_use]
    pub fn complaints(&self) -> String {
        let text = fs::read_to_string(&self.report).unwrap_or_default();
        // The first ones tell; what was wrong in a text does not come after what did not come at all.
        let is_error = |line: &&str| line.contains(": cannot ");
        let wrong = text.lines().filter(|line| !is_error(line));
        wrong.chain(text.lines().filter(is_error)).take(12).collect::<Vec<_>>().join("\n")
    }

    /// Waits until each reader has got an answer since, and so that each of them still reads.
    pub fn all_read(&self) {
        let calls =
            || -> Vec<u64> { self.board.slots().map(|slot| slot.calls.load(SeqCst)).collect() };
        let before = calls();
        eventually("each reader reads on", || {
            before.iter().zip(calls()).all(|(before, now)| now > *before)
        });
    }

    /// Waits until no reader gets an error any more.
    pub fn all_succeed(&self) {
        eventually("no reader gets an error", || {
            let before = self.totals();
            self.all_read();
            let after = self.totals();
            (before.failed, before.aborted) == (after.failed, after.aborted)
        });
    }

    /// Ends the readers, and tells what they saw and what they complained of. If one hangs, the mount is given up, so that it can end,
    /// and the test fails.
    pub fn finish(mut self, daemon: &Daemon) -> (Totals, String) {
        self.board.end();
        let end = Instant::now() + PATIENCE;
        while !self.has_state(2) && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        let hung = self.board.slots().filter(|slot| slot.state.load(SeqCst) < 2).count();
        let totals = self.totals();
        if hung != 0 {
            daemon.abort_connection();
        }
        self.containers.clear();
        let complaints = self.complaints();
        assert_eq!(hung, 0, "readers hang: {totals}\n{complaints}\n{}", daemon.log());
        (totals, complaints)
    }
}

/// Gives a container a size of its own, and tells what its readers must see.
fn limit(tree: &Tree, cgroup: &Cgroup, number: usize) -> Truth {
    let mut truth = Truth::default();
    if tree.has("memory") {
        cgroup.limit_memory(memory(number));
        truth.memory = vec![memory(number) / 1024];
    }
    if tree.has("cpu") {
        let all = thread::available_parallelism().unwrap().get();
        let cpus = number % all + 1;
        // Of whole CPUs, so that it does not hold up readers.
        cgroup.limit_cpu(cpus as u64 * 100_000);
        truth.cpus = vec![cpus];
    }
    truth
}
