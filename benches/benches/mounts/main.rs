//! Whole reads of files, as programs make them: open, read to the end, close. From the kernel's own `/proc`, a bare
//! FUSE server that answers constant text, LXCFS where it is installed, and cgview, interleaved in one run.
//!
//! Figures of one run are to be compared with each other and not with those of another machine or hour. On a busy
//! machine those of `pinned` count: server and readers have one CPU and real-time priority, so nobody is in
//! their way.

mod bare;
mod plan;
mod readers;
mod record;
mod requests;
mod servers;

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let place = arguments.iter().position(|word| word == name)?;
        arguments.get(place + 1).cloned()
    };
    if let Some(mountpoint) = value("--serve-bare") {
        return bare::serve(Path::new(&mountpoint));
    }
    // Something else was selected by name.
    let words = arguments.iter().filter(|word| !word.starts_with("--"));
    let chosen = words.filter(|word| Some(*word) != value("--record").as_ref()).count();
    if chosen > 0 && !arguments.iter().any(|word| word == "mounts") {
        return Ok(());
    }
    if !cgview_testkit::is_root() {
        return Ok(());
    }
    let is_test = arguments.iter().any(|word| word == "--test");
    // LXCFS has to read this, and does not start where it may not.
    if !is_test
        && std::fs::read("/proc/1/personality").is_err()
        && std::env::var_os("CGVIEW_BENCH").is_none()
    {
        let own = ["--fork", "--pid", "--mount", "--mount-proc", "--kill-child"];
        let program = std::env::current_exe()?;
        let status = Command::new("unshare")
            .args(own)
            .arg(program)
            .args(&arguments)
            .env("CGVIEW_BENCH", "1")
            .status()
            .context("cannot run unshare")?;
        anyhow::ensure!(status.success(), "the benchmark failed: {status}");
        return Ok(());
    }
    plan::run(is_test, value("--record").as_deref().map(Path::new))
}
