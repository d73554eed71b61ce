//! `cgview capture`: the files that a process's view is made from, for a bug report or a test.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use cgview_host::Host;

/// Write the files that the view of a process is made from to a directory
///
/// `cgview show --host-root DIR --pid PID` shows there what it shows here now. Of processes, only what
/// identifies the container is kept: no arguments, no environment, no addresses.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process, as the host numbers it
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,

    /// Capture the host below this directory: the root of a machine as mounted here
    #[arg(long, value_name = "DIR")]
    host_root: Option<PathBuf>,

    /// Where to write: an empty directory, or one to be made
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Captures.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let host = match &args.host_root {
        Some(root) => Host::at(root)?,
        None => Host::live()?,
    };
    host.capture(args.pid, &args.dir)
        .with_context(|| format!("cannot capture process {}", args.pid))?;
    Ok(ExitCode::SUCCESS)
}
