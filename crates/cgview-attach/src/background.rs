//! The repair in a process that nobody waits for.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use rustix::{
    fs::statvfs,
    io::retry_on_intr,
    process::{WaitOptions, waitpid},
};

use crate::{
    Error, Result, Survey,
    helper::close_all_from,
    repair::{Report, Scope, repair},
    sys::{self, Forked},
};

/// Repairs all other mount namespaces from the view at `live`, as soon as that answers, in a process of its own
/// that is a child of nobody's here, and calls `tell` there with what came of it. Returns when that process is on
/// its way.
///
/// For a daemon at its start: what answers requests needs no right to change mounts, and need not wait. The
/// process has the standard streams and no other descriptor of the caller's. The mounts of the caller's own
/// namespace are left to whoever mounts there.
///
/// The caller should have one thread: locks that others hold stay locked for `tell`.
///
/// # Errors
///
/// If there are no more processes.
pub fn repair_in_background(live: &Path, tell: impl FnOnce(Result<Report>)) -> io::Result<()> {
    match sys::fork()? {
        // It ends at once, and its child is adopted by the first process.
        Forked::Parent(child) => {
            let _ = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
            Ok(())
        }
        Forked::Child => {
            let run = || {
                sys::reset_signals();
                if let Ok(Forked::Child) = sys::fork() {
                    close_all_from(3);
                    tell(wait_and_repair(live));
                }
            };
            let status = if catch_unwind(AssertUnwindSafe(run)).is_ok() { 0 } else { 101 };
            sys::exit(status);
        }
    }
}

fn wait_and_repair(live: &Path) -> Result<Report> {
    // It comes back when somebody serves, or the connection is gone.
    statvfs(live).map_err(|errno| Error::NotServed {
        path: live.into(),
        state: format!("gives an error: {}", io::Error::from(errno)),
    })?;
    repair(&Survey::take_when_live(Some(live))?, Some(live), &Scope::Others)
}
