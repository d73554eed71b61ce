//! The command `cgview`: shows, explains and tries out the `/proc` and `/sys` of a container.
//!
//! Each subcommand is a module: its arguments, and `run`, which returns the exit status. Data goes
//! to standard output, all else to standard error.

mod doctor;
mod generate;
mod output;
mod report;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Show, explain and try out the /proc and /sys that a container sees
///
/// A container shares its host's /proc and /sys, so programs in it see the host's memory and CPUs.
/// cgview gives it numbers of its own, made from its cgroup's limits and usage. This command shows
/// what a process is given and why, and runs commands with such a view.
#[derive(Debug, Parser)]
#[command(name = "cgview", version, max_term_width = 100)]
#[command(after_help = "Exit status: 0 on success, 1 on failure, 2 on wrong usage")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Doctor(doctor::Args),
    Generate(generate::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Command::Run(args) => run::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Generate(args) => generate::run(&args),
    };
    match result {
        Ok(status) => status,
        Err(error) if report::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}
