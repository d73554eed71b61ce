//! Which view a run gets.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, anyhow};
use procfs::process::Process;

use crate::report::Advice;

/// The type of the daemon's mounts.
const FILE_SYSTEM: &str = "fuse.cgview";

/// The argument of `--view`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Choice {
    /// A running daemon's if there is one.
    Auto,
    /// Whatever is mounted there.
    At(PathBuf),
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Choice, Infallible> {
        Ok(match text {
            "auto" => Choice::Auto,
            path => Choice::At(path.into()),
        })
    }
}

/// The view of a run: somebody serves it at a mountpoint.
#[derive(Debug)]
pub(super) struct View {
    mountpoint: PathBuf,
}

impl View {
    /// Finds the view that was asked for.
    pub(super) fn find(choice: &Choice) -> anyhow::Result<View> {
        match choice {
            Choice::At(path) => Ok(View { mountpoint: path.clone() }),
            Choice::Auto => daemon()?
                .map(|mountpoint| View { mountpoint })
                .ok_or_else(|| anyhow!(Advice::new("no daemon is running", "start cgview-fuse."))),
        }
    }

    /// Where it is mounted.
    pub(super) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }
}

/// Where a running daemon is mounted.
fn daemon() -> anyhow::Result<Option<PathBuf>> {
    let mounts = Process::myself()
        .and_then(|process| process.mountinfo())
        .context("cannot read /proc/self/mountinfo")?;
    let mut places = mounts.into_iter().filter(|mount| mount.fs_type == FILE_SYSTEM);
    // One file of it bound somewhere is no mountpoint, nor is a mount whose daemon is gone.
    Ok(places
        .find(|mount| mount.root == "/" && mount.mount_point.join("proc").is_dir())
        .map(|mount| mount.mount_point))
}
