//! Pid 1 of a run: sets up the namespaces from within, starts the command, passes signals on to it,
//! and reaps what it orphans.
//!
//! The command is pid 2, as it would be under any init: a pid 1 is sent no signal that it does not
//! handle, so a command that was pid 1 itself could not be ended by Ctrl-C.

use std::{
    ffi::OsString,
    io::{self, PipeReader, PipeWriter, Read, Write},
    path::PathBuf,
    process::{Child, Command},
};

use anyhow::Context;
use cgview_core::mask::Mask;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::retry_on_intr,
    process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, wait},
    thread::{CpuSet, UnshareFlags, sched_setaffinity, set_name},
};

use super::{
    attach,
    process::{self, Signals},
};

/// What pid 1 is told by its parent.
#[derive(Debug)]
pub(super) struct Init<'a> {
    /// The command and its arguments.
    pub(super) command: &'a [OsString],
    /// The parent's, blocked already.
    pub(super) signals: &'a Signals,
    /// The directories of its cgroups.
    pub(super) cgroups: &'a [PathBuf],
    /// The view to attach.
    pub(super) mountpoint: PathBuf,
    /// How many mounts there nobody else needs to see.
    pub(super) own_mounts: u32,
    /// The CPUs to stay on.
    pub(super) affinity: Option<&'a Mask>,
}

/// Why the command does not run.
#[derive(Debug)]
pub(super) struct Failure {
    /// The exit status that stands for it.
    pub(super) status: u8,
    /// What to tell.
    pub(super) message: String,
}

impl Failure {
    /// The status of a shell for a command that is not there.
    const NOT_FOUND: u8 = 127;
    /// The status of a shell for a command that cannot be executed.
    const NOT_EXECUTABLE: u8 = 126;

    fn write(&self, mut report: PipeWriter) {
        // Without a parent there is nobody to tell.
        let _ = report
            .write_all(&[self.status])
            .and_then(|()| report.write_all(self.message.as_bytes()));
    }

    /// Reads what [`Init::run`] has reported, once it has closed its end: nothing if the command runs.
    pub(super) fn parse(report: &[u8]) -> Option<Failure> {
        let (&status, message) = report.split_first()?;
        Some(Failure { status, message: String::from_utf8_lossy(message).into_owned() })
    }
}

impl Init<'_> {
    /// Waits for the parent's word, runs the command, and returns its exit status.
    ///
    /// `report` is closed once the command runs, or after what [`Failure::parse`] reads.
    pub(super) fn run(&self, mut start: PipeReader, report: PipeWriter) -> i32 {
        let ready = self.wait_for_parent(&mut start).and_then(|()| self.set_up());
        if let Err(error) = ready {
            Failure { status: 1, message: format!("{error:#}") }.write(report);
            return 1;
        }
        let child = match self.spawn() {
            Ok(child) => child,
            Err(failure) => {
                failure.write(report);
                return failure.status.into();
            }
        };
        drop(report);
        // Where that fails, the kernel kills the rest of the namespace with us.
        look_after(&child, self.signals).unwrap_or(1)
    }

    fn wait_for_parent(&self, start: &mut PipeReader) -> anyhow::Result<()> {
        let _ = set_name(c"cgview-init");
        // The kernel kills a pid namespace with its init: nothing of a run outlives its parent.
        set_parent_process_death_signal(Some(Signal::KILL)).context("cannot follow the parent")?;
        // By the time of this byte, this process is in its cgroup. If the parent died before the
        // line above, there is the pipe's end instead.
        start.read_exact(&mut [0]).context("the parent is gone")
    }

    fn set_up(&self) -> anyhow::Result<()> {
        process::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP)
            .context("cannot create mount and cgroup namespaces")?;
        attach::mount_proc()?;
        attach::mount_cgroups(self.cgroups)?;
        attach::bind_view(&self.mountpoint, self.own_mounts)?;
        if let Some(cpus) = self.affinity {
            let mut set = CpuSet::new();
            cpus.iter().for_each(|cpu| set.set(cpu as usize));
            sched_setaffinity(None, &set).context("cannot set the CPU affinity")?;
        }
        Ok(())
    }

    fn spawn(&self) -> Result<Child, Failure> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(Failure { status: Failure::NOT_FOUND, message: "no command".into() });
        };
        let mut command = Command::new(program);
        self.signals.give_back(command.args(arguments));
        command.spawn().map_err(|error| Failure {
            status: match error.kind() {
                io::ErrorKind::NotFound => Failure::NOT_FOUND,
                _ => Failure::NOT_EXECUTABLE,
            },
            message: format!("cannot run {}: {error}", program.display()),
        })
    }
}

/// Reaps children and passes signals on until the command has ended; returns its exit status.
fn look_after(command: &Child, signals: &Signals) -> io::Result<i32> {
    let command = Pid::from_child(command);
    loop {
        retry_on_intr(|| poll(&mut [PollFd::new(signals, PollFlags::IN)], None))?;
        while let Some(received) = signals.next()? {
            if received.signal == libc::SIGCHLD {
                continue;
            }
            if !received.from_terminal {
                // It may have ended by now.
                let _ = process::send(command, received.signal);
            }
        }
        // One SIGCHLD may stand for many children.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == command
                && let Some(status) = process::exit_status(status)
            {
                return Ok(status);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_read_back() {
        let (mut reader, writer) = io::pipe().unwrap();
        Failure { status: 127, message: "cannot run x".into() }.write(writer);
        let mut report = Vec::new();
        reader.read_to_end(&mut report).unwrap();
        let failure = Failure::parse(&report).unwrap();
        assert_eq!((failure.status, failure.message.as_str()), (127, "cannot run x"));
        assert!(Failure::parse(b"").is_none());
    }
}
