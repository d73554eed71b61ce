//! `cgview install` and `cgview uninstall`: the configuration of container engines, so that their containers have the
//! view.

mod change;
mod containerd;
mod docker;
mod engine;
mod file;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::ValueEnum;
use rustix::process::geteuid;

use crate::{
    mountpoint,
    output::{Color, print},
    report::{self, Advice},
};
use change::Change;
use engine::Engine;

/// Have containers that are started from now on see their own /proc and /sys
///
/// Adds cgview to the configuration of the container engines of this machine, and keeps all else that is
/// there. Prints what it changes before it does so, and then what is to be restarted. Does nothing where all is
/// done. `cgview uninstall` takes it back; containers that run are left as they are (see `cgview attach`).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 if all is as wanted; 1 if something failed: no file is changed \
                        then, unless writing itself failed."
)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,

    /// Only for containers that ask: docker run --runtime cgview, the annotation cgview.dev/view=all of
    /// Podman and CRI-O, the handler cgview of a RuntimeClass
    #[arg(long)]
    opt_in: bool,

    /// Where the view is mounted
    #[arg(long, value_name = "DIR", default_value = mountpoint::DEFAULT)]
    mountpoint: PathBuf,
}

/// Take back what `cgview install` did
///
/// Restores each file as it was, or, if it was changed since, removes from it what is cgview's. Prints what it
/// changes before it does so, and then what is to be restarted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 if nothing is left; 1 if something failed.")]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The engine, or several with commas; auto: those that are found
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "auto")]
    runtime: Vec<Runtime>,

    /// Print what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Change the machine whose root is mounted here
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Runtime {
    /// All that are found
    Auto,
    /// /etc/docker/daemon.json: the runtime cgview
    Docker,
    /// A hook for all containers, and the CDI device cgview.dev/view=all
    Podman,
    /// /etc/containerd/config.toml: the runtime cgview of CRI, for Kubernetes
    Containerd,
    /// A hook for all containers
    Crio,
    /// A mount hook; or, where LXCFS is installed, a mount in its place
    Lxc,
}

/// What goes into the files.
#[derive(Clone, Debug)]
struct Setup {
    /// Where the programs are.
    programs: PathBuf,
    mountpoint: PathBuf,
    opt_in: bool,
}

impl Setup {
    fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// What tells `cgview oci-hook` and `cgview lxc-hook` what to mount.
    fn hook_arguments(&self) -> Vec<String> {
        if self.mountpoint == Path::new(mountpoint::DEFAULT) {
            Vec::new()
        } else {
            vec![format!("--mountpoint={}", self.mountpoint.display())]
        }
    }

    fn hook(&self) -> cgview_oci::Hook {
        cgview_oci::Hook::new(&self.program("cgview"), &self.hook_arguments())
    }
}

/// Installs.
pub(crate) fn run(args: &Args, color: Color) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe()
        .and_then(|path| path.canonicalize())
        .context("cannot find out where this program is")?;
    let programs = own.parent().unwrap_or(Path::new("/usr/bin")).to_owned();
    let setup = Setup { programs, mountpoint: args.mountpoint.clone(), opt_in: args.opt_in };
    let engines = args.target.engines()?;
    let is_here = args.target.root == Path::new("/");
    let needs_wrapper = engines.iter().any(|engine| engine.needs_wrapper());
    if is_here && needs_wrapper && !setup.program("cgview-runtime").exists() {
        return Err(Advice::new(
            format!("cannot find cgview-runtime in {}", setup.programs.display()),
            "install it there, beside cgview: Docker and containerd start containers by it.",
        )
        .into());
    }
    let mut changes = Vec::new();
    for engine in &engines {
        for file in engine.files(&args.target.root, &setup) {
            changes.extend(file.install()?);
        }
    }
    let done = args.target.apply(&changes, color)?;
    advise(&engines, &changes, done, true)?;
    let view = args.target.root.join(args.mountpoint.strip_prefix("/").unwrap_or(&args.mountpoint));
    if done && is_here && !mountpoint::is_view(&view) {
        report::warning(format_args!(
            "no view is mounted at {}: start the daemon, as by systemctl enable --now cgview-fuse",
            view.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Uninstalls.
pub(crate) fn uninstall(args: &UninstallArgs, color: Color) -> anyhow::Result<ExitCode> {
    // Whatever was installed with: only the names of things count.
    let setup = Setup {
        programs: "/usr/bin".into(),
        mountpoint: mountpoint::DEFAULT.into(),
        opt_in: false,
    };
    let engines = args.target.engines()?;
    let mut changes = Vec::new();
    for engine in &engines {
        for file in engine.files(&args.target.root, &setup) {
            changes.extend(file.uninstall()?);
        }
    }
    let done = args.target.apply(&changes, color)?;
    advise(&engines, &changes, done, false)?;
    Ok(ExitCode::SUCCESS)
}

impl Target {
    fn engines(&self) -> anyhow::Result<Vec<Engine>> {
        let named = |engine: Engine| {
            self.runtime.contains(&engine.name()) || self.runtime.contains(&Runtime::Auto)
        };
        let mut engines: Vec<_> = Engine::ALL.into_iter().filter(|engine| named(*engine)).collect();
        if self.runtime.contains(&Runtime::Auto) {
            engines.retain(|engine| {
                self.runtime.contains(&engine.name()) || engine.is_installed(&self.root)
            });
        }
        if engines.is_empty() {
            let searched = self.root.display();
            return Err(Advice::new(
                format!("cannot find a container engine below {searched}"),
                "name one, as in --runtime docker, or use `cgview attach`, which needs none.",
            )
            .into());
        }
        Ok(engines)
    }

    /// Prints the changes, and makes them if that is wanted. Says whether they are made.
    fn apply(&self, changes: &[Change], color: Color) -> anyhow::Result<bool> {
        for change in changes {
            print(change.diff(color).as_bytes())?;
        }
        if self.dry_run || changes.is_empty() {
            return Ok(!self.dry_run);
        }
        if self.root == Path::new("/") && !geteuid().is_root() {
            return Err(Advice::new(
                "cannot change the configuration: not root",
                "run it as root.",
            )
            .into());
        }
        changes.iter().try_for_each(Change::make)?;
        Ok(true)
    }
}

/// Says what is left to be done.
fn advise(
    engines: &[Engine],
    changes: &[Change],
    done: bool,
    has_cgview: bool,
) -> anyhow::Result<()> {
    if changes.is_empty() {
        let what = match has_cgview {
            true => "cgview is in the configuration of ",
            false => "nothing of cgview is in the configuration of ",
        };
        let names: Vec<_> = engines.iter().map(|engine| engine.title()).collect();
        return print(format!("nothing to do: {what}{}\n", names.join(", ")).as_bytes());
    }
    if !done {
        return print(b"nothing was changed (--dry-run)\n");
    }
    let mut lines: Vec<String> = engines
        .iter()
        .filter(|engine| changes.iter().any(|change| engine.owns(change.path())))
        .map(|engine| format!("{}: {}", engine.title(), engine.restart(changes, has_cgview)))
        .collect();
    lines.dedup();
    print(format!("{}\n", lines.join("\n")).as_bytes())
}
