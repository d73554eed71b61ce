//! `cgview attach` and `cgview detach`: views for containers that run, and taking them away again.

mod exclude;
mod target;
mod watch;

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context;
use cgview_attach::{
    Bound, Files,
    attach::{Attached, ById},
};
use cgview_host::{CgroupId, Host, Running, is_at_or_below};
use rustix::process::geteuid;

use self::{exclude::Exclude, target::Target};
use crate::{
    output::print,
    report::{self, Advice},
};

/// Give running containers a view, without restarting them
///
/// Puts the files of a running cgview-fuse over the kernel's in the mount namespaces of containers: read-only, nosuid,
/// nodev and noexec, without a moment in which a file is missing. Containers are found by the paths of their cgroups, of
/// Docker, Podman, containerd, CRI-O, LXC, Incus, nspawn and any other runtime; none of these is asked. What shows a view
/// already is left as it is, and so is what the container has mounted over such a file itself; only files of LXCFS are
/// covered. The view lasts until `cgview detach`, or until the container ends. Needs root.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if all of it is attached, 1 if something is not, 2 on wrong usage.

Examples:
  cgview attach web                 the container of that name
  cgview attach 0c4d8b              the container whose id begins so
  cgview attach 4711                the container of that process
  cgview attach --all               all containers that have no view yet
  cgview attach --watch             those, and all that are started from now on")]
pub(crate) struct Args {
    /// Names, ids or their beginnings, or processes of the containers
    #[arg(value_name = "CONTAINER|PID", required_unless_present_any = ["all", "watch"])]
    containers: Vec<String>,

    /// Attach to all containers that run
    #[arg(long, conflicts_with = "containers")]
    all: bool,

    /// Attach to all containers that run, and to each that is started, until it is ended
    ///
    /// A container has its view within a tenth of a second. What is attached stays when this ends. Says what it does
    /// on standard error, and tells systemd when it is ready. With --below, waits for that cgroup where there is none
    /// yet, or no more.
    #[arg(long, conflicts_with_all = ["containers", "all"])]
    watch: bool,

    /// The files to attach: a list such as meminfo,stat,pressure,cpu,/proc/uptime
    ///
    /// Names of directories stand for all that is in them. `cpu` and `node` are those of /sys/devices/system.
    #[arg(long, value_name = "LIST", default_value = "proc,sys", hide_default_value = true)]
    files: Files,

    /// The mountpoint of the running cgview-fuse; found if left out
    #[arg(long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,

    /// The fast mount of the running cgview-fuse, to take each container's files of /proc from, as far as it has them
    ///
    /// Reads are several times as fast, and cost the daemon next to nothing. Numbers are up to 10 ms old, and a program
    /// that reads a file in pieces may get them of two moments.
    #[arg(long, value_name = "DIR")]
    by_id: Option<PathBuf>,

    #[command(flatten)]
    which: Which,
}

/// Unmount what `cgview attach` has mounted, and nothing else
///
/// Files of the view that a runtime has mounted stay, and so does what the container has mounted over files that were
/// attached. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct DetachArgs {
    /// Names, ids or their beginnings, or processes of the containers
    #[arg(value_name = "CONTAINER|PID", required_unless_present = "all")]
    containers: Vec<String>,

    /// Detach from all containers, and from whatever else was attached to
    #[arg(long, conflicts_with = "containers")]
    all: bool,

    #[command(flatten)]
    which: Which,
}

/// Which containers are meant by `--all` and `--watch`.
#[derive(Debug, clap::Args)]
struct Which {
    /// Leave out containers: a pattern for their names, ids or cgroups, such as db-* or */system.slice/*
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<glob::Pattern>,

    /// Leave out the containers that a file has patterns for, one a line; what follows a # is a comment
    ///
    /// The file is read again for each container, so it may be changed at any time; where there is none, nobody is
    /// left out.
    #[arg(long, value_name = "FILE")]
    exclude_from: Option<PathBuf>,

    /// Take only containers whose cgroup is below this one
    #[arg(long, value_name = "CGROUP", default_value = "/", hide_default_value = true, value_parser = cgroup)]
    below: String,
}

/// A path of a cgroup. One that could be none would be waited for without an end.
fn cgroup(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("a cgroup's path begins with a /") }
}

impl Which {
    /// Whether a container is meant.
    fn has(&self, container: &Running) -> anyhow::Result<bool> {
        let exclude = Exclude::read(&self.exclude, self.exclude_from.as_deref())?;
        Ok(is_at_or_below(&container.cgroup, &self.below) && !exclude.has(container))
    }
}

/// Attaches.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    may_mount()?;
    if args.watch {
        return watch::run(args);
    }
    let host = Host::live()?;
    let containers = host.running()?;
    let mut targets = if args.all {
        all(&containers, &args.which)?
    } else {
        let names = args.containers.iter();
        names.map(|name| Target::find(&containers, name)).collect::<anyhow::Result<_>>()?
    };
    if args.all {
        let has_daemon = |target: &Target| cgview_attach::attach::has_daemon(target.pid());
        targets.retain(|target| !has_daemon(target).unwrap_or(false));
    }
    if targets.is_empty() {
        report::warning("no container runs");
    }
    each(&targets, |target| {
        let attached = attach(args, target)?;
        print(summary(&target.title, &attached).as_bytes())?;
        Ok(tell_failures(&target.title, &attached))
    })
}

/// Detaches.
pub(crate) fn detach(args: &DetachArgs) -> anyhow::Result<ExitCode> {
    may_mount()?;
    let containers = Host::live()?.running()?;
    if args.all && args.which.below == "/" && args.which.exclude.is_empty() {
        // Processes of no container may have been attached to as well.
        let mut status = ExitCode::SUCCESS;
        for (namespace, detached) in cgview_attach::detach_all()? {
            let pid = namespace.process.pid;
            let container = containers.iter().find(|container| container.pids.contains(&pid));
            let title = container.map_or_else(|| process_title(&namespace.process), title);
            if !tell_detached(&title, &detached)? {
                status = ExitCode::FAILURE;
            }
        }
        return Ok(status);
    }
    let targets = if args.all {
        all(&containers, &args.which)?
    } else {
        let names = args.containers.iter();
        names.map(|name| Target::find(&containers, name)).collect::<anyhow::Result<_>>()?
    };
    each(&targets, |target| {
        let mut detached = Vec::new();
        for pid in target.namespaces() {
            detached.extend(match cgview_attach::detach(pid) {
                Err(cgview_attach::Error::Gone { .. }) if pid != target.pid() => Vec::new(),
                result => result?,
            });
        }
        tell_detached(&target.title, &detached)
    })
}

fn may_mount() -> anyhow::Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(anyhow::Error::new(Advice::new(
        "cannot change the mounts of containers: not root",
        "run it with sudo.",
    )))
}

fn all(containers: &[Running], which: &Which) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for container in containers {
        if which.has(container)? {
            targets.push(Target::of(container));
        }
    }
    Ok(targets)
}

/// Does something for each target, although it may fail for another one.
fn each(
    targets: &[Target],
    mut act: impl FnMut(&Target) -> anyhow::Result<bool>,
) -> anyhow::Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for target in targets {
        match act(target) {
            Ok(true) => {}
            Ok(false) => status = ExitCode::FAILURE,
            Err(error) if targets.len() == 1 || report::is_broken_pipe(&error) => {
                return Err(error);
            }
            Err(error) => {
                report::error(&error.context(format!("{} is left as it is", target.title)));
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

fn attach(args: &Args, target: &Target) -> anyhow::Result<Attached> {
    let mountpoint = args.mountpoint.as_deref();
    let attach = || {
        let by_id = match &args.by_id {
            Some(mountpoint) => Some(ById { mountpoint, cgroup: cgroup_of(target.pid())? }),
            None => None,
        };
        anyhow::Ok(cgview_attach::attach(mountpoint, by_id.as_ref(), &args.files, target.pid())?)
    };
    attach().with_context(|| format!("cannot give {} a view", target.title))
}

/// The number of the cgroup that makes the container of a process.
fn cgroup_of(pid: u32) -> anyhow::Result<u64> {
    let host = Host::live()?;
    let container = host.caller(pid)?.container;
    let CgroupId(number) = container
        .cgroup_id(&host)?
        .context("it has no cgroup of its own that the fast mount could go by")?;
    Ok(number)
}

/// What has become of it, in a line.
fn summary(title: &str, attached: &Attached) -> String {
    let mut text = format!("{title}: ");
    let (new, known) = (attached.count(Bound::Bound), attached.count(Bound::Already));
    // Writing to a String cannot fail.
    let _ = match (new, known) {
        (0, 0) => write!(text, "nothing to attach"),
        (0, known) => write!(text, "{} attached before", files(known)),
        (new, 0) => write!(text, "{} attached", files(new)),
        (new, known) => write!(text, "{} attached, {known} before", files(new)),
    };
    let left: Vec<_> = attached
        .outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == Ok(Bound::Left))
        .map(|(entry, _)| entry.path())
        .collect();
    if !left.is_empty() {
        let _ = write!(text, "; the container's own stays at {}", left.join(", "));
    }
    text.push('\n');
    text
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Says what was not attached, and whether that is nothing.
fn tell_failures(title: &str, attached: &Attached) -> bool {
    let mut is_complete = true;
    for (entry, failure) in attached.failures() {
        report::warning(format_args!("{title}: {} is not attached: {failure}", entry.path()));
        is_complete = false;
    }
    is_complete
}

/// Says what was detached, and whether that is all.
fn tell_detached(
    title: &str,
    detached: &[cgview_attach::attach::Detached],
) -> anyhow::Result<bool> {
    // A repair before Linux 6.5 leaves two at one place.
    let gone = detached.iter().filter(|mount| mount.result.is_ok()).map(|mount| &mount.mountpoint);
    let gone = gone.collect::<BTreeSet<_>>().len();
    let mut is_complete = true;
    for mount in detached {
        if let Err(kept) = mount.result {
            let place = mount.mountpoint.display();
            report::warning(format_args!("{title}: {place} is still attached: {kept}"));
            is_complete = false;
        }
    }
    let text = match gone {
        0 if is_complete => format!("{title}: nothing was attached\n"),
        count => format!("{title}: {} detached\n", files(count)),
    };
    print(text.as_bytes())?;
    Ok(is_complete)
}

/// What a container is called in messages.
pub(crate) fn title(container: &Running) -> String {
    let name = container.title();
    let runtime = container.runtime.name();
    match container.short_id() {
        id if id == name => format!("{name} ({runtime})"),
        id => format!("{name} ({runtime} {id})"),
    }
}

/// What a process is called in messages.
pub(crate) fn process_title(process: &cgview_attach::namespaces::Process) -> String {
    format!("process {} ({})", process.pid, process.name)
}
