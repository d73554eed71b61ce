//! The daemon `cgview-fuse`.
#![forbid(unsafe_code)]

mod daemon;
mod limits;
mod worker;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use cgview_fuse::{arguments::Arguments, settings};
use clap::Parser as _;

fn main() -> ExitCode {
    // Wrong usage ends here, with 2.
    match daemon::run(&Arguments::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // All causes on one line: what was being done, to what, and why it failed.
            let _ = writeln!(io::stderr(), "cgview-fuse: {error:#}");
            match error.downcast_ref() {
                Some(settings::Error::MountOption { .. }) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
