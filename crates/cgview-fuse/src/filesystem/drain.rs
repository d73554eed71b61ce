//! An end between two requests: all that was read from the connection is answered, and no more is read.
//!
//! A thread that waits for a request cannot be told to stop waiting, but it can be given one: `statfs` is asked for
//! as often as there are threads, and each that has answered it reads no more.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Whether the connection is to be read on, and by how many threads it is not.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    begun: AtomicBool,
    parked: Mutex<usize>,
    changed: Condvar,
}

impl Drain {
    /// Called by a thread of the connection when it has answered, before it reads the next request. What others
    /// have read is answered when `all_answered` says so.
    pub(super) fn pass(&self, all_answered: impl Fn() -> bool) {
        if !self.begun.load(Ordering::Acquire) {
            return;
        }
        while !all_answered() {
            thread::sleep(Duration::from_millis(1));
        }
        *self.parked.lock() += 1;
        self.changed.notify_all();
        // The process ends.
        loop {
            thread::park();
        }
    }

    /// Lets `threads` threads read no more. Returns whether that was done in time.
    pub(crate) fn run(
        self: &Arc<Drain>,
        threads: usize,
        mountpoint: &Path,
        patience: Duration,
    ) -> bool {
        let end = Instant::now() + patience;
        self.begun.store(true, Ordering::Release);
        let drain = Arc::clone(self);
        let mountpoint = mountpoint.to_owned();
        // By a thread of its own: the last one has nobody left to answer it, if others asked, too.
        let asking = thread::Builder::new().name("drain".into()).spawn(move || {
            while *drain.parked.lock() < threads {
                let _ = rustix::fs::statvfs(&mountpoint);
                // Whoever answered may not have come to a stop yet.
                thread::yield_now();
            }
        });
        if asking.is_err() {
            return false;
        }
        let mut parked = self.parked.lock();
        while *parked < threads {
            if self.changed.wait_until(&mut parked, end).timed_out() {
                return *parked >= threads;
            }
        }
        true
    }
}
