//! `cgview run`: a command in a cgroup of a given size, with a view of that size.
//!
//! Three processes beside the command:
//!
//! - `cgview` itself stays where it was started: it creates everything, passes signals on, and exits
//!   with the command's status;
//! - the [`keeper`] serves the view and clears up;
//! - [`init`] is pid 1 of the new pid namespace, and the command's parent.

mod attach;
mod cgroup;
mod hierarchy;
mod init;
mod keeper;
mod process;
mod size;
mod terminal;
mod time;
mod view;

use std::{
    ffi::OsString,
    io::{self, PipeReader, Read, Write},
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    mount::{MountPropagationFlags, mount_change},
    process::{Pid, WaitOptions, geteuid},
    thread::UnshareFlags,
};

pub(crate) use self::cgroup::sweep;
use self::{
    cgroup::RunCgroups,
    init::{Failure, Init},
    keeper::Keeper,
    process::{Received, Signals},
    size::Size,
    terminal::Terminal,
    view::{Choice, View},
};
use crate::report::{self, Advice};

/// Run a command in a cgroup of a given size, with a view of that size
///
/// Creates a cgroup with the given limits and new pid, mount, time and cgroup namespaces, puts the
/// view over /proc and /sys/devices/system there, and runs the command with the terminal. All of it is
/// removed afterwards. Needs root. The command sees the same files and network as everybody: this
/// shows what a container sees, it does not confine what root can do.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: that of the command, or 128 and the number of the signal that \
                        killed it; 127 if there is no such command, 126 if it cannot be executed; 1 \
                        if something else failed, 2 on wrong usage."
)]
pub(crate) struct Args {
    #[command(flatten)]
    size: Size,

    /// Whose view to show: auto, own, or the mountpoint of a running daemon
    ///
    /// `auto` takes that of a running cgview-fuse; where none runs, the view is served by the run
    /// itself, as `own` always does.
    #[arg(long, value_name = "auto|own|PATH", default_value = "auto")]
    view: Choice,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !geteuid().is_root() {
        return Err(anyhow!(Advice::new(
            "cannot create cgroups and namespaces: not root",
            "run it with sudo.",
        )));
    }
    // Left by runs whose keeper was killed too. Not ours to fail for.
    let _ = sweep();
    let view = View::find(&args.view)?;
    let terminal = Terminal::in_foreground();
    // From here on, signals are not the end of this process but something to pass on.
    let signals = Signals::take().context("cannot block signals")?;
    process::unshare(UnshareFlags::NEWNS).context("cannot create a mount namespace")?;
    // What the host mounts and unmounts later happens here too; nothing of ours happens there.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("cannot separate the mount namespace from the host's")?;

    let cgroups = RunCgroups::create(std::process::id(), &args.size)?;
    let keeper = match Keeper::start(&cgroups, &view) {
        Ok(keeper) => keeper,
        Err(error) => {
            // The first error is the one to tell.
            let _ = cgroups.remove();
            return Err(error);
        }
    };
    let ended = Run { args, view: &view, signals: &signals, cgroups: &cgroups, keeper: &keeper }
        .supervise();
    let killed = cgroups.out_of_memory_kills();
    if let Some(terminal) = terminal {
        terminal.take_back();
    }
    if !keeper.end() {
        cgroups.remove()?;
    }

    match ended? {
        Ended::Failure(failure) => {
            report::error(&anyhow!(failure.message));
            Ok(failure.status.into())
        }
        Ended::Status(status) => {
            if killed > 0 {
                report::warning(format_args!(
                    "the kernel killed {killed} {} at the memory limit",
                    if killed == 1 { "process" } else { "processes" },
                ));
            }
            // The kernel keeps eight bits of an exit status.
            Ok(u8::try_from(status & 0xff).unwrap_or(u8::MAX).into())
        }
    }
}

/// How long a run that the terminal wants to end has to start: its command may run already, and handle
/// the signal, before that is known here.
const GRACE: Duration = Duration::from_secs(1);

/// How a run came to its end.
#[derive(Debug)]
enum Ended {
    /// The command has run, and this is its exit status.
    Status(i32),
    /// The command did not run.
    Failure(Failure),
}

/// A run under way.
#[derive(Debug)]
struct Run<'a> {
    args: &'a Args,
    view: &'a View,
    signals: &'a Signals,
    cgroups: &'a RunCgroups,
    keeper: &'a Keeper,
}

impl Run<'_> {
    /// Starts init, and passes signals on until it has ended.
    fn supervise(&self) -> anyhow::Result<Ended> {
        if let Err(error) = time::start_from_zero() {
            report::warning(format_args!(
                "{error:#}: ps and top will tell start times of the host"
            ));
        }
        process::unshare(UnshareFlags::NEWPID).context("cannot create a pid namespace")?;
        let (start_end, mut start) = io::pipe().context("cannot create a pipe")?;
        let (mut report, report_end) = io::pipe().context("cannot create a pipe")?;
        let description = Init {
            command: &self.args.command,
            signals: self.signals,
            cgroups: self.cgroups.dirs(),
            mountpoint: self.view.mountpoint().into(),
            own_mounts: self.view.own_mounts(),
            affinity: self.cgroups.affinity(),
        };
        let init = process::fork(&[start.as_fd(), report.as_fd(), self.keeper.life()], || {
            description.run(start_end, report_end)
        })
        .context("cannot fork")?;
        let started = self
            .cgroups
            .add(init.as_raw_pid().unsigned_abs())
            .and_then(|()| start.write_all(&[0]).context("cannot start the run"));
        if let Err(error) = started {
            process::send(init, libc::SIGKILL).context("cannot end the run")?;
            process::wait_for(init, WaitOptions::empty()).context("cannot wait for the run")?;
            return Err(error);
        }
        self.wait(init, &mut report)
    }

    /// Waits for the end of init, which tells by `report` whether the command runs.
    fn wait(&self, init: Pid, report: &mut PipeReader) -> anyhow::Result<Ended> {
        let mut reported = Vec::new();
        let (mut starting, mut served) = (true, true);
        // The terminal's wish that a run ends which does not even start.
        let mut asked: Option<(Received, Instant)> = None;
        loop {
            let left = asked.map(|(_, since)| GRACE.saturating_sub(since.elapsed()));
            let patience = left.filter(|left| starting && !left.is_zero());
            let ready = self.poll(starting.then_some(&*report), served, patience)?;
            if ready.report {
                let mut bytes = [0; 4096];
                let length = report.read(&mut bytes).context("cannot read from the init")?;
                reported.extend_from_slice(bytes.get(..length).unwrap_or_default());
                starting = length > 0;
            }
            while let Some(received) = self.signals.next().context("cannot read signals")? {
                if is_for_the_command(received) {
                    // Where the command does not run yet, init keeps it until then.
                    process::send(init, received.signal).context("cannot pass on a signal")?;
                } else if starting && is_end(received) {
                    asked.get_or_insert((received, Instant::now()));
                }
            }
            if starting && asked.is_some_and(|(_, since)| since.elapsed() >= GRACE) {
                process::send(init, libc::SIGKILL).context("cannot end the run")?;
            }
            if ready.keeper && served {
                served = false;
                report::warning(
                    "the server of the view has ended: its files cannot be read any more",
                );
            }
            let status = process::wait_for(init, WaitOptions::NOHANG);
            if let Some(status) = status.context("cannot wait for the command")? {
                report.read_to_end(&mut reported).context("cannot read from the init")?;
                return Ok(match Failure::parse(&reported) {
                    Some(failure) => Ended::Failure(failure),
                    None => Ended::Status(match asked {
                        Some((received, _)) if starting => 128 + received.signal,
                        _ => status,
                    }),
                });
            }
        }
    }

    /// Waits until one of them has something, but no longer than `patience`.
    fn poll(
        &self,
        report: Option<&PipeReader>,
        served: bool,
        patience: Option<Duration>,
    ) -> anyhow::Result<Ready> {
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());

        let mut fds = vec![PollFd::new(self.signals, PollFlags::IN)];
        fds.extend(report.map(|report| PollFd::new(report, PollFlags::IN)));
        fds.extend(served.then(|| PollFd::new(self.keeper, PollFlags::IN)));
        retry_on_intr(|| poll(&mut fds, patience.as_ref()))
            .context("cannot wait for the command")?;
        let mut ready = fds.iter().skip(1).map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            report: report.is_some() && ready.next().unwrap_or(false),
            keeper: served && ready.next().unwrap_or(false),
        })
    }
}

/// What has something to say.
#[derive(Clone, Copy, Debug)]
struct Ready {
    report: bool,
    keeper: bool,
}

/// Whether a signal asks this process to end.
fn is_end(received: Received) -> bool {
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM].contains(&received.signal)
}

/// Whether a signal is meant for the command, which has not got it from the terminal as we did.
fn is_for_the_command(received: Received) -> bool {
    let own = [libc::SIGCHLD, libc::SIGPIPE, libc::SIGTTOU];
    !received.from_terminal && !own.contains(&received.signal)
}
