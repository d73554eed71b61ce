//! `cgview attach --watch`: a view for each container that is started.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use cgview_attach::Bound;
use cgview_host::{CgroupWatch, Host, Running, Standing};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
};
use sd_notify::NotifyState;

use super::{Args, Target, attach, summary, tell_failures, title};
use crate::report;

/// How often a new cgroup is looked at until [`SOON`] has passed.
const PACE: Duration = Duration::from_millis(10);

/// How long most containers take to be set up.
const SOON: Duration = Duration::from_secs(2);

/// What takes longer is looked at again after such a part of the time that it took until then.
const LATER: u32 = 20;

/// How long a new cgroup is looked at. What starts there later is found with all others.
const LATE: Duration = Duration::from_secs(30);

/// How often all containers are looked at: those without a new cgroup, those whose view was not there yet, and those of
/// cgroups that could not be watched.
const ROUND: Duration = Duration::from_secs(10);

/// A cgroup in which a container may be about to start.
#[derive(Debug)]
struct Pending {
    dir: String,
    since: Instant,
    next: Instant,
}

/// Attaches to all containers that there are, and to those that are started.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let host = Host::live()?;
    let mut cgroups = CgroupWatch::begin(&host, &args.which.below)?;
    let mut watch = Watch { args, host: &host, done: HashSet::new(), told: HashMap::new() };
    let mut pending: Vec<Pending> = Vec::new();
    watch.all()?;
    // Where nobody listens, nothing is said.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    if !cgroups.is_complete() {
        report::warning(
            "not all cgroups can be watched, so some containers have to wait for ten seconds: raise \
             fs.inotify.max_user_watches",
        );
    }
    let mut round = Instant::now() + ROUND;
    let mut was_there = true;
    loop {
        let is_there = cgroups.is_there(&host);
        if was_there && !is_there {
            report::note(format_args!(
                "waiting for the cgroup {}: there is none",
                args.which.below
            ));
        }
        was_there = is_there;
        let next = pending.iter().map(|pending| pending.next).chain([round]).min();
        let left = next.unwrap_or(round).saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&cgroups, PollFlags::IN)];
        match retry_on_intr(|| poll(&mut fds, timeout.as_ref())) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let now = Instant::now();
        for dir in cgroups.new_dirs(&host) {
            if !pending.iter().any(|known| known.dir == dir) {
                pending.push(Pending { dir, since: now, next: now });
            }
        }
        pending.retain_mut(|pending| {
            if pending.next > now {
                return true;
            }
            let age = now.saturating_duration_since(pending.since);
            pending.next = now + if age < SOON { PACE } else { age / LATER };
            !watch.look(&pending.dir) && age < LATE
        });
        if now >= round {
            watch.all()?;
            round = Instant::now() + ROUND;
        }
    }
}

/// What is being done, and for whom.
#[derive(Debug)]
struct Watch<'a> {
    args: &'a Args,
    host: &'a Host,
    /// The first processes of containers that need nothing more.
    done: HashSet<(u32, String)>,
    /// What was said of containers that have no view yet.
    told: HashMap<String, String>,
}

impl Watch<'_> {
    /// Looks at a new cgroup; whether that has been enough.
    fn look(&mut self, dir: &str) -> bool {
        let processes = self.host.processes_in(dir);
        let mut is_enough = false;
        for pid in processes {
            if let Ok(Standing::Running(container)) = self.host.standing(pid) {
                is_enough |= self.serve(&container);
            }
        }
        is_enough || !self.host.has(dir)
    }

    /// Looks at all containers.
    fn all(&mut self) -> anyhow::Result<()> {
        let containers = self.host.running()?;
        let is_there = |pid: u32, id: &str| {
            containers.iter().any(|container| container.pid == pid && container.id == id)
        };
        self.done.retain(|(pid, id)| is_there(*pid, id));
        self.told.retain(|id, _| containers.iter().any(|container| container.id == *id));
        for container in &containers {
            self.serve(container);
        }
        Ok(())
    }

    /// Gives a container a view if it is to have one and has none; whether nothing is left to be done.
    fn serve(&mut self, container: &Running) -> bool {
        let key = (container.pid, container.id.clone());
        if self.done.contains(&key) {
            return true;
        }
        let result = self.try_serve(container);
        match result {
            Ok(()) => {
                self.told.remove(&container.id);
                self.done.insert(key);
                true
            }
            Err(error) => {
                let text = format!("{error:#}");
                if self.told.insert(container.id.clone(), text.clone()).as_ref() != Some(&text) {
                    report::warning(text);
                }
                false
            }
        }
    }

    fn try_serve(&self, container: &Running) -> anyhow::Result<()> {
        if !self.args.which.has(container)?
            || cgview_attach::attach::has_view(container.pid)?
            || cgview_attach::attach::has_daemon(container.pid)?
        {
            return Ok(());
        }
        let target = Target::of(container);
        let attached = attach(self.args, &target)?;
        let has_some = attached.count(Bound::Bound) + attached.count(Bound::Already) > 0;
        if let Some((entry, failure)) = attached.failures().next()
            && !has_some
        {
            bail!(
                "cannot give {} a view: {} is not attached: {failure}",
                target.title,
                entry.path()
            );
        }
        tell_failures(&target.title, &attached);
        if attached.count(Bound::Bound) > 0 {
            report::note(summary(&title(container), &attached).trim_end());
        }
        Ok(())
    }
}
