//! `cgview cdi`: the device by which engines are asked for the view.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use cgview_oci::{Hook, cdi};
use clap::Subcommand;

use crate::{mountpoint, output::print};

/// Describe the device cgview.dev/view=all of the Container Device Interface
///
/// Docker 28.2 and later (25 and later with the feature "cdi"), Podman, containerd and CRI-O give a container its own
/// /proc and /sys if they are asked for this device: docker run --device cgview.dev/view=all.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the device's specification, or write it where engines look for it
    Generate {
        /// Write it into this file, such as /etc/cdi/cgview.json
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,

        /// Where the view is mounted
        #[arg(long, value_name = "DIR", default_value = mountpoint::DEFAULT)]
        mountpoint: PathBuf,
    },
}

/// Generates it.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let What::Generate { output, mountpoint } = &args.what;
    let text = format!("{:#}\n", cdi::specification(&own_hook(mountpoint)?));
    match output {
        None => print(text.as_bytes())?,
        Some(path) => {
            let write = || {
                fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
                fs::write(path, text)
            };
            write().with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// This program as a hook.
pub(crate) fn own_hook(mountpoint: &Path) -> anyhow::Result<Hook> {
    let own = std::env::current_exe().context("cannot find out where this program is")?;
    let arguments = if mountpoint == Path::new(mountpoint::DEFAULT) {
        Vec::new()
    } else {
        vec![format!("--mountpoint={}", mountpoint.display())]
    };
    Ok(Hook::new(&own, &arguments))
}
