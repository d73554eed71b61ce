//! The command `cgview`: shows, explains and tries out the `/proc` and `/sys` of a container.
//!
//! Each subcommand is a module: its arguments, and `run`, which returns the exit status. Data goes
//! to standard output, all else to standard error.

mod attach;
mod capture;
mod cdi;
mod diff;
mod doctor;
mod file_name;
mod generate;
mod hook;
mod install;
mod mountpoint;
mod output;
mod report;
mod run;
mod show;
mod source;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Show, explain and try out the /proc and /sys that a container sees
///
/// A container shares its host's /proc and /sys, so programs in it see the host's memory and CPUs.
/// cgview gives it numbers of its own, made from its cgroup's limits and usage. This command shows
/// what a process is given and why, and runs commands with such a view.
#[derive(Debug, Parser)]
#[command(name = "cgview", version, max_term_width = 100)]
#[command(after_help = "Exit status: 0 on success, 1 on failure, 2 on wrong usage. `cgview diff` \
                        and `cgview run` have more to say by it.")]
struct Args {
    /// When to colour the output
    ///
    /// `auto` colours what goes to a terminal, unless the environment has a non-empty NO_COLOR.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: output::Color,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(show::Args),
    Diff(diff::Args),
    Run(run::Args),
    Attach(attach::Args),
    Detach(attach::DetachArgs),
    Status(status::Args),
    Doctor(doctor::Args),
    Install(install::Args),
    Uninstall(install::UninstallArgs),
    Cdi(cdi::Args),
    OciHook(hook::OciArgs),
    LxcHook(hook::LxcArgs),
    Capture(capture::Args),
    Generate(generate::Args),
}

fn main() -> ExitCode {
    let Args { color, command } = Args::parse();
    let trouble = match command {
        Command::Diff(_) => diff::TROUBLE,
        _ => 1,
    };
    let result = match command {
        Command::Show(args) => show::run(&args),
        Command::Diff(args) => diff::run(&args, color),
        Command::Run(args) => run::run(&args),
        Command::Attach(args) => attach::run(&args),
        Command::Detach(args) => attach::detach(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Install(args) => install::run(&args, color),
        Command::Uninstall(args) => install::uninstall(&args, color),
        Command::Cdi(args) => cdi::run(&args),
        Command::OciHook(args) => Ok(hook::oci(&args)),
        Command::LxcHook(args) => Ok(hook::lxc(&args)),
        Command::Capture(args) => capture::run(&args),
        Command::Generate(args) => generate::run(&args),
    };
    match result {
        Ok(status) => status,
        Err(error) if report::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::from(trouble)
        }
    }
}
