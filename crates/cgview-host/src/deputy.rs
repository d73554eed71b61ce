//! A thread that may do what the others of this process may not.
//!
//! To read which namespaces a process is in takes the kernel's `PTRACE_MODE_READ`, and that is what a thread
//! under Landlock has of no process outside (`hook_ptrace_access_check()`), whatever capabilities it has. To
//! enter a cgroup namespace takes `CAP_SYS_ADMIN`. So a process that confines its threads leaves these few
//! calls to one that it made before, and that does nothing else.
//!
//! A process has one deputy or none, since it is about the rights of the process's own threads. Without one,
//! everything is done by whoever needs it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{OnceLock, mpsc},
    thread,
};

type Job = Box<dyn FnOnce() + Send>;

static DEPUTY: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

/// Starts this process's deputy: a thread with the rights of the caller, less what `prepare` gives up in it.
/// Returns what `prepare` does.
///
/// # Errors
///
/// If there is one already, or the kernel gives no thread.
pub fn start<T: Send + 'static>(prepare: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (jobs, queue) = mpsc::channel::<Job>();
    let (prepared, wait) = mpsc::sync_channel(1);
    thread::Builder::new().name("deputy".into()).stack_size(256 << 10).spawn(move || {
        if prepared.send(prepare()).is_err() {
            return;
        }
        drop(prepared);
        for job in queue {
            // Who waits for it learns of a panic by getting no answer.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    })?;
    let prepared = wait.recv().map_err(|_| io::Error::other("the deputy did not start"))?;
    DEPUTY.set(jobs).map_err(|_| io::Error::from(io::ErrorKind::AlreadyExists))?;
    Ok(prepared)
}

/// Has the deputy do something, and waits for it. Without a deputy the caller does it.
///
/// # Errors
///
/// If the deputy panicked on it.
pub fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let Some(jobs) = DEPUTY.get() else { return Ok(job()) };
    let (done, wait) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || {
        // Nobody waits any more only if the whole process ends.
        let _ = done.send(job());
    });
    let lost = || io::Error::other("the deputy failed");
    jobs.send(job).map_err(|_| lost())?;
    wait.recv().map_err(|_| lost())
}

/// Whether this process has one.
pub(crate) fn exists() -> bool {
    DEPUTY.get().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, since a process has one deputy.
    #[test]
    fn the_deputy_outlives_its_panics() {
        assert_eq!(run(|| 7).unwrap(), 7);
        let here = thread::current().id();
        assert_eq!(run(|| thread::current().id()).unwrap(), here);

        let prepared = start(|| thread::current().id()).unwrap();
        assert_ne!(prepared, here);
        assert_eq!(run(|| thread::current().id()).unwrap(), prepared);
        assert!(run(|| panic!("as a test")).is_err());
        assert_eq!(run(|| thread::current().id()).unwrap(), prepared);
        assert!(start(|| ()).is_err());
    }
}
