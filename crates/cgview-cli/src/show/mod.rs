//! `cgview show`: what a process reads, and why.

mod explain;
mod summary;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use cgview_fuse::service::Explained;
use serde::Serialize;
use serde_json::json;

use self::summary::Summary;
use crate::{
    file_name::{self, FileName},
    output::print,
    source::{self, Source},
};

/// Show what a process is told by /proc and /sys, and why
///
/// Prints exactly what the process would read from the daemon, which need not run. Without FILE,
/// prints a summary of its limits and of every file; with --explain, every file that is not the
/// host's.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process, as the host numbers it
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,

    /// Say of each changed line which file of which cgroup it comes from, and by which rule
    #[arg(long)]
    explain: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Read the host below this directory: the root of a machine as mounted here, or a capture
    #[arg(long, value_name = "DIR")]
    host_root: Option<PathBuf>,

    /// Files such as /proc/meminfo, meminfo, pressure/cpu or /sys/devices/system/cpu/online
    #[arg(value_name = "FILE", value_parser = FileName::parse)]
    files: Vec<FileName>,
}

/// Prints what was asked for.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = source::open(args.host_root.as_deref())?;
    if args.files.is_empty() && !args.explain {
        let summary = Summary::of(&source, args.pid)
            .with_context(|| format!("cannot show process {}", args.pid))?;
        let text = if args.json { to_json(&summary)? } else { summary.to_string() };
        print(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = if args.json {
        let documents = explained(&source, args)?
            .iter()
            .map(|(file, explained)| explain::document(*file, explained, args.explain))
            .collect::<Vec<_>>();
        to_json(&json!({ "pid": args.pid, "files": documents }))?.into_bytes()
    } else if args.explain {
        explain::annotate(&explained(&source, args)?)
    } else {
        let mut text = Vec::new();
        for &file in &args.files {
            let part = source.service.text(args.pid, file.0).with_context(|| args.cannot(file))?;
            text.extend_from_slice(&part);
        }
        text
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn cannot(&self, file: FileName) -> String {
        format!("cannot show {file} of process {}", self.pid)
    }
}

/// The named files with their reasons, or all files that are not the host's.
fn explained(source: &Source, args: &Args) -> anyhow::Result<Vec<(FileName, Explained)>> {
    let explain = |file: FileName| {
        let explained =
            source.service.explain(args.pid, file.0).with_context(|| args.cannot(file))?;
        Ok((file, explained))
    };
    if !args.files.is_empty() {
        return args.files.iter().copied().map(explain).collect();
    }
    let files = file_name::all(&source.service, args.pid)
        .with_context(|| format!("cannot list the files of process {}", args.pid))?;
    // What cannot be read at all, such as pressure where the kernel has none, has no reasons.
    let explained = files.into_iter().filter_map(|file| explain(file).ok());
    Ok(explained.filter(|(_, explained)| explained.text[..] != explained.host[..]).collect())
}

fn to_json(value: &impl Serialize) -> anyhow::Result<String> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}
