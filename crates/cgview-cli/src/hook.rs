//! `cgview oci-hook` and `cgview lxc-hook`: the view's files over those of a container that is being started.
//!
//! Whatever goes wrong is one line in the log, and the container starts without the view, or without a file of it.

use std::{
    fmt, fs,
    io::Read as _,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use cgview_attach::{Bound, Files, Maker, bind_in_time, mounts::Table};
use cgview_oci::{
    log,
    state::{State, Wanted},
};
use rustix::fs::{Mode, OFlags};

use crate::mountpoint;

/// Give a container the view as it starts: a hook of OCI runtimes
///
/// For stage createContainer. Reads the container's state from the standard input, as the runtime writes it, and mounts
/// the view's files in the container. Never fails: what goes wrong is a line in the log, and the container
/// starts without the view. A container is left as it is if it has the annotation cgview.dev/view=none, or CGVIEW=none in
/// its environment.
#[derive(Debug, clap::Args)]
pub(crate) struct OciArgs {
    #[command(flatten)]
    how: How,
}

/// Give a container the view as it starts: a mount hook of LXC
///
/// For lxc.hook.mount. Mounts the view's files below $LXC_ROOTFS_MOUNT. Never fails: what goes wrong is a line in the
/// log, and the container starts without the view.
#[derive(Debug, clap::Args)]
pub(crate) struct LxcArgs {
    #[command(flatten)]
    how: How,

    /// What LXC adds: the container's name, the section and the kind of the hook
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Where the view is mounted
    #[arg(long, value_name = "DIR", default_value = mountpoint::DEFAULT)]
    mountpoint: PathBuf,

    /// How long the daemon may take to answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 3000)]
    deadline: u32,

    /// Log to this file, not to the machine's log
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// What a runtime reads from a pipe whose other end it closes; more is not a state.
const MAX_STATE: u64 = 16 << 20;

/// The hook of OCI runtimes.
pub(crate) fn oci(args: &OciArgs) -> ExitCode {
    let mut name = String::from("?");
    let result = oci_root(&mut name).and_then(|root| match root {
        Some(root) => args.how.mount(&root),
        None => Ok(Vec::new()),
    });
    args.how.say("oci-hook", &name, result)
}

/// The root of the container that the standard input is about, if it is to have the view.
fn oci_root(name: &mut String) -> anyhow::Result<Option<PathBuf>> {
    let mut text = Vec::new();
    let stdin = std::io::stdin().lock();
    stdin.take(MAX_STATE).read_to_end(&mut text).context("cannot read the container's state")?;
    let state: State = serde_json::from_slice(&text)
        .context("cannot parse the container's state on the standard input")?;
    name.clone_from(&state.id);
    match state.wanted()? {
        Wanted::View(root) => Ok(Some(root)),
        Wanted::Nothing(_) => Ok(None),
    }
}

/// The hook of LXC.
pub(crate) fn lxc(args: &LxcArgs) -> ExitCode {
    let name = args.words.first().map_or("?", String::as_str);
    let result = match std::env::var_os("LXC_ROOTFS_MOUNT") {
        Some(root) => args.how.mount(Path::new(&root)),
        None => Err(anyhow::anyhow!("LXC_ROOTFS_MOUNT is not set: this is for lxc.hook.mount")),
    };
    args.how.say("lxc-hook", name, result)
}

impl How {
    /// Mounts the view below a root; gives what could not be mounted.
    fn mount(&self, root: &Path) -> anyhow::Result<Vec<String>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty())
            .with_context(|| format!("cannot open the container's root {}", root.display()))?;
        refuse_shared(&opened)?;
        let patience = Duration::from_millis(self.deadline.into());
        let files = Files::all();
        let outcomes =
            bind_in_time(&self.mountpoint, &files, Maker::Runtime, opened.as_fd(), patience)?;
        let failures = outcomes.into_iter().filter_map(|(entry, outcome)| match outcome {
            Ok(Bound::Bound | Bound::Already | Bound::Absent | Bound::Left) => None,
            Err(failure) => Some(format!("{}: {failure}", entry.path())),
        });
        Ok(failures.collect())
    }

    /// Logs what went wrong. The exit status is that of success, always.
    fn say(&self, hook: &str, name: &str, result: anyhow::Result<Vec<String>>) -> ExitCode {
        let log = |line: fmt::Arguments<'_>| {
            log::warn(
                "cgview",
                self.log.as_deref(),
                format_args!("{hook}: container {name}: {line}"),
            );
        };
        match result {
            Ok(failures) => failures.iter().for_each(|failure| log(format_args!("{failure}"))),
            Err(error) => log(format_args!("{error:#}; it starts without the view")),
        }
        ExitCode::SUCCESS
    }
}

/// Refuses a container whose `/proc` is the host's own, shared with it: what is mounted there would be mounted
/// on the host, too.
fn refuse_shared(root: &OwnedFd) -> anyhow::Result<()> {
    let path = fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))
        .context("cannot find out where the container's root is")?;
    let mountinfo = fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let table = Table::parse(&mountinfo);
    for place in ["proc", "sys"] {
        let place = path.join(place);
        if table.at(&place).is_some_and(|mount| mount.propagation.shared) {
            bail!("{} is shared with the host", place.display());
        }
    }
    Ok(())
}
