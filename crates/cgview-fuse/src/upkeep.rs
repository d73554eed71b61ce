//! What no reader waits for: one thread that steps load averages, and forgets who is gone.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::service::Service;

/// The period of load averages: the kernel's `LOAD_FREQ`.
const PERIOD: Duration = Duration::from_secs(5);

/// The load of a container is watched for this long after it was asked for.
const LOAD_WATCHED: Duration = Duration::from_secs(300);

/// Counting tasks may take this much of each period: one part in fifty of a CPU.
const LOAD_BUDGET: Duration = Duration::from_millis(100);

/// How often what nobody asks for any more is forgotten.
const SWEEP: Duration = Duration::from_secs(30);

/// How many threads step load averages: where one waits for a container whose files hang, another one passes
/// that container by.
const STEPPING: usize = 2;

/// Steps load averages in a thread of its own, so that nothing else waits if the kernel does not answer.
fn step_loads(service: &Arc<Service>) -> Option<JoinHandle<()>> {
    if !service.watches_loads(LOAD_WATCHED) {
        return None;
    }
    let service = Arc::clone(service);
    let step = move || {
        service.step_loads(LOAD_WATCHED, LOAD_BUDGET);
    };
    let thread = thread::Builder::new().name("loads".into()).spawn(step);
    thread.inspect_err(|error| tracing::warn!("cannot step load averages: {error}")).ok()
}

/// The thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Upkeep {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If the kernel gives no thread.
    pub fn start(service: Arc<Service>) -> std::io::Result<Upkeep> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("upkeep".into()).spawn(move || {
            let mut next = Instant::now() + PERIOD;
            let mut swept = Instant::now();
            let mut stepping: Vec<JoinHandle<()>> = Vec::new();
            while stopped.recv_timeout(next.saturating_duration_since(Instant::now()))
                == Err(RecvTimeoutError::Timeout)
            {
                next = (next + PERIOD).max(Instant::now());
                stepping.retain(|thread| !thread.is_finished());
                if stepping.len() < STEPPING {
                    stepping.extend(step_loads(&service));
                }
                service.sweep_removed();
                if swept.elapsed() >= SWEEP {
                    service.sweep();
                    swept = Instant::now();
                }
            }
        })?;
        Ok(Upkeep { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends by itself; a panic of it was reported when it happened.
            let _ = thread.join();
        }
    }
}
