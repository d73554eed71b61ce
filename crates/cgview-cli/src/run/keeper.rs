//! The keeper: a process beside the run that serves its view, and clears up after it.
//!
//! It lives until its parent's end of a pipe is closed, however that came about: after SIGKILL too
//! there is somebody to remove the cgroups.

use std::{
    fs::OpenOptions,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    process::{Pid, Signal, WaitOptions, kill_process, setsid},
    stdio::{dup2_stdin, dup2_stdout},
    thread::set_name,
};

use super::{cgroup::RunCgroups, process, view::View};
use crate::report;

/// How long the keeper may take to unmount and to remove the cgroups.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What the keeper writes once the view is there. Anything else is why it is not.
const READY: &[u8] = b"\0";

/// The handle of a run on its keeper.
#[derive(Debug)]
pub(super) struct Keeper {
    pid: Pid,
    /// The keeper goes when this is closed.
    life: PipeWriter,
    /// Closed by the keeper when it goes.
    report: PipeReader,
}

impl Keeper {
    /// Starts the keeper and waits until the view is there. If that succeeds, the keeper answers for
    /// `cgroups`.
    pub(super) fn start(cgroups: &RunCgroups, view: &View) -> anyhow::Result<Keeper> {
        let (life_end, life) = io::pipe().context("cannot create a pipe")?;
        let (mut report, report_end) = io::pipe().context("cannot create a pipe")?;
        let pid = process::fork(&[life.as_fd(), report.as_fd()], || {
            keep(cgroups, view, life_end, report_end)
        })
        .context("cannot fork")?;
        let mut first = [0; 512];
        let length = report.read(&mut first).context("cannot read from the keeper")?;
        match first.get(..length) {
            Some(READY) => Ok(Keeper { pid, life, report }),
            Some(reason) if !reason.is_empty() => {
                bail!(String::from_utf8_lossy(reason).into_owned())
            }
            _ => bail!("the keeper of the view has ended"),
        }
    }

    /// What nobody else may hold open, lest the keeper outlive its parent.
    pub(super) fn life(&self) -> BorrowedFd<'_> {
        self.life.as_fd()
    }

    /// Lets it clear up, and waits for that. False if it has not done all of it.
    pub(super) fn end(self) -> bool {
        drop(self.life);
        let closed = &mut [PollFd::new(&self.report, PollFlags::IN)];
        if !retry_on_intr(|| poll(closed, Some(&PATIENCE))).is_ok_and(|ready| ready > 0) {
            let _ = kill_process(self.pid, Signal::KILL);
        }
        process::wait_for(self.pid, WaitOptions::empty()).is_ok_and(|status| status == Some(0))
    }
}

impl AsFd for Keeper {
    /// Readable once the keeper has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

/// The life of the keeper: until `life` is closed at the other end.
fn keep(cgroups: &RunCgroups, view: &View, mut life: PipeReader, mut report: PipeWriter) -> i32 {
    let served = leave_the_terminal().and_then(|()| view.serve());
    let served = match served {
        Ok(served) => served,
        Err(error) => {
            let _ = report.write_all(format!("{error:#}").as_bytes());
            return 1;
        }
    };
    let _ = report.write_all(READY);
    // The end, or an error that would not go away: both are the end.
    let _ = life.read(&mut [0]);
    drop(served);
    match cgroups.remove() {
        Ok(()) => 0,
        Err(error) => {
            report::warning(format_args!("{error:#}"));
            1
        }
    }
}

/// Keeps nothing open that somebody else may wait for the end of, and takes no part in the terminal's
/// job control. Standard error stays, for what goes wrong.
fn leave_the_terminal() -> anyhow::Result<()> {
    let _ = set_name(c"cgview-keeper");
    setsid().context("cannot create a session")?;
    process::close_inherited().context("cannot list /proc/self/fd")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.context("cannot open /dev/null")?;
    dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).context("cannot close standard streams")
}
