//! `cgview generate`: manual pages and shell completions, from the definition of the arguments; configuration of engines
//! that is ready to copy.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use cgview_oci::{
    hooks_dir::{self, When},
    spec,
};
use clap::{CommandFactory, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{cdi::own_hook, mountpoint, output::print, report::Advice};

/// Generate manual pages, shell completions, or configuration of container engines
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Generate the manual pages
    ///
    /// Without --dir, prints cgview(1). With it, writes one page for each subcommand, and cgview-fuse(1), too.
    Man {
        /// Write the pages into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Generate shell completions
    ///
    /// Without --dir, prints the completions of SHELL. With it and without SHELL, writes those of
    /// all shells.
    Completions {
        /// The shell; the one named by the environment variable SHELL if left out
        shell: Option<Shell>,
        /// Write the files into this directory, under the names that the shells expect
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Generate the file for hooks.d of Podman and CRI-O
    Hook {
        /// Only for containers with the annotation cgview.dev/view=all
        #[arg(long)]
        annotated: bool,

        /// Where the view is mounted
        #[arg(long, value_name = "DIR", default_value = mountpoint::DEFAULT)]
        mountpoint: PathBuf,
    },
    /// Add the hook to a container's specification
    ///
    /// Reads a config.json of a bundle, or a base specification of containerd as `ctr oci spec` prints it, from the
    /// standard input, and prints it with cgview's hook.
    Spec {
        /// Where the view is mounted
        #[arg(long, value_name = "DIR", default_value = mountpoint::DEFAULT)]
        mountpoint: PathBuf,
    },
}

/// Generates what was asked for.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = crate::Args::command();
    match &args.what {
        What::Man { dir: Some(dir) } => {
            create(dir)?;
            for command in [command, cgview_fuse::arguments::Arguments::command()] {
                clap_mangen::generate_to(command, dir).with_context(|| {
                    format!("cannot write the manual pages to {}", dir.display())
                })?;
            }
        }
        What::Man { dir: None } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            print(&page)?;
        }
        What::Completions { shell, dir: Some(dir) } => {
            create(dir)?;
            let shells = shell.as_ref().map_or(Shell::value_variants(), std::slice::from_ref);
            for &shell in shells {
                clap_complete::generate_to(shell, &mut command, "cgview", dir).with_context(
                    || format!("cannot write the completions of {shell} to {}", dir.display()),
                )?;
            }
        }
        What::Completions { shell, dir: None } => {
            let shell = shell.or_else(Shell::from_env).ok_or_else(|| {
                anyhow::Error::new(Advice::new(
                    "cannot tell for which shell",
                    "name it, as in `cgview generate completions bash`.",
                ))
            })?;
            let mut completions = Vec::new();
            clap_complete::generate(shell, &mut command, "cgview", &mut completions);
            print(&completions)?;
        }
        What::Hook { annotated, mountpoint } => {
            let when = if *annotated { When::Annotated } else { When::Always };
            let file = hooks_dir::file(&own_hook(mountpoint)?, when);
            print(format!("{file:#}\n").as_bytes())?;
        }
        What::Spec { mountpoint } => {
            let mut spec = serde_json::from_reader(std::io::stdin().lock())
                .context("cannot read a specification from the standard input")?;
            spec::add_hook(&mut spec, &own_hook(mountpoint)?)
                .context("cannot add the hook to the specification")?;
            print(format!("{spec:#}\n").as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}
