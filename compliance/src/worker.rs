//! A process that does its work in steps, so that a test can look in between.

use std::io::{PipeReader, PipeWriter, Read as _, Write as _};

use cgview_testkit::{Process, Spawn, pause};

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    go: PipeWriter,
    done: PipeReader,
}

/// The worker's side.
#[derive(Debug)]
pub struct Steps {
    go: PipeReader,
    done: PipeWriter,
}

impl Steps {
    /// Waits until it is told to, and takes one step.
    pub fn step<T>(&mut self, step: impl FnOnce() -> T) -> T {
        self.go.read_exact(&mut [0]).unwrap();
        let result = step();
        self.done.write_all(b"+").unwrap();
        result
    }
}

impl Worker {
    /// Starts one. When all steps are taken, it stays; what `work` returns is dropped when it is killed.
    #[must_use]
    pub fn start<T>(spawn: Spawn, work: impl FnOnce(&mut Steps) -> T) -> Worker {
        let (told, go) = std::io::pipe().unwrap();
        let (done, tell) = std::io::pipe().unwrap();
        let process = spawn.run(|| {
            let _kept = work(&mut Steps { go: told, done: tell });
            pause()
        });
        Worker { process, go, done }
    }

    /// Has it take the next step, and waits for that.
    pub fn step(&mut self) {
        self.go.write_all(b"+").unwrap();
        self.done.read_exact(&mut [0]).expect("the worker failed; its message is above");
    }

    /// Kills it, and waits for its end.
    pub fn kill(self) {
        self.process.kill();
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}
