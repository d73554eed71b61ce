//! `cgview-runtime`: runc or crun, with cgview's hook in each container.

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use cgview_oci::{log, runtime};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let call = match runtime::Call::parse(&name, arguments) {
        Ok(call) => call,
        Err(error) => {
            log::warn("cgview-runtime", None, format_args!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    // A container without a view is better than none.
    if let Err(error) = call.prepare() {
        log::warn(
            "cgview-runtime",
            None,
            format_args!("{error:#}: the container is left as it is"),
        );
    }
    let error = call.command().exec();
    let runtime = call.runtime().display();
    log::warn("cgview-runtime", None, format_args!("cannot run {runtime}: {error}"));
    ExitCode::FAILURE
}
