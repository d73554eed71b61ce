//! Which view a run gets, and serving it.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context;
use cgview_fuse::{Guard, serve_in_background, settings::Settings};
use procfs::process::Process;
use rustix::mount::{MountFlags, mount};

use crate::source;

/// The type of the daemon's mounts.
const FILE_SYSTEM: &str = "fuse.cgview";

/// Where a run mounts its own view, in a mount namespace that nobody else has: over a directory that
/// every machine has, so that nothing has to be made, and nothing is left after SIGKILL. The command
/// finds the directory as it always is.
const PLACE: &str = "/tmp";

/// The argument of `--view`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Choice {
    /// A running daemon's if there is one, or else its own.
    Auto,
    /// Its own.
    Own,
    /// Whatever is mounted there.
    At(PathBuf),
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Choice, Infallible> {
        Ok(match text {
            "auto" => Choice::Auto,
            "own" => Choice::Own,
            path => Choice::At(path.into()),
        })
    }
}

/// The view of a run.
#[derive(Debug)]
pub(super) enum View {
    /// Served by the run's keeper.
    Own(Box<Settings>),
    /// Served by somebody else, at this mountpoint.
    At(PathBuf),
}

impl View {
    /// Finds the view that was asked for.
    pub(super) fn find(choice: &Choice) -> anyhow::Result<View> {
        let own = || source::configuration().map(Box::new).map(View::Own);
        match choice {
            Choice::At(path) => Ok(View::At(path.clone())),
            Choice::Own => own(),
            Choice::Auto => daemon()?.map_or_else(own, |mountpoint| Ok(View::At(mountpoint))),
        }
    }

    /// Where it is mounted.
    pub(super) fn mountpoint(&self) -> &Path {
        match self {
            View::Own(_) => Path::new(PLACE),
            View::At(path) => path,
        }
    }

    /// How many mounts are to be taken away from its mountpoint again.
    pub(super) fn own_mounts(&self) -> u32 {
        match self {
            View::Own(_) => 2,
            View::At(_) => 0,
        }
    }

    /// Serves it if it is our own, until the returned value is dropped.
    pub(super) fn serve(&self) -> anyhow::Result<Option<Guard>> {
        let View::Own(settings) = self else { return Ok(None) };
        // An empty file system, since the server mounts over no directory in use.
        mount("tmpfs", PLACE, "tmpfs", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a tmpfs at {PLACE}"))?;
        Ok(Some(serve_in_background(Path::new(PLACE), settings)?))
    }
}

/// Where a running daemon is mounted.
fn daemon() -> anyhow::Result<Option<PathBuf>> {
    let mounts = Process::myself()
        .and_then(|process| process.mountinfo())
        .context("cannot read /proc/self/mountinfo")?;
    let mut places = mounts.into_iter().filter(|mount| mount.fs_type == FILE_SYSTEM);
    // One file of it bound somewhere is no mountpoint, nor is a mount whose daemon is gone: the kernel may still know
    // its directories, but nobody opens them.
    Ok(places
        .find(|mount| mount.root == "/" && mount.mount_point.join("proc").read_dir().is_ok())
        .map(|mount| mount.mount_point))
}
