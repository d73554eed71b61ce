//! What goes to standard error: errors, hints and warnings, each in one shape.

use std::{
    fmt,
    io::{self, Write},
};

/// What could not be done, and what would mend it: a context that [`error`] prints in two parts.
#[derive(Debug)]
pub(crate) struct Advice {
    message: String,
    hint: String,
}

impl Advice {
    /// `message` is of the form "cannot create a cgroup", `hint` is a sentence.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Advice {
        Advice { message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advice {}

/// Prints an error with its chain on one line, then its hint.
pub(crate) fn error(error: &anyhow::Error) {
    line(format_args!("{error:#}"));
    if let Some(advice) = error.downcast_ref::<Advice>() {
        let _ = writeln!(io::stderr(), "\nhint: {}", advice.hint);
    }
}

/// Prints something that the user should know although the command goes on.
pub(crate) fn warning(warning: impl fmt::Display) {
    line(format_args!("warning: {warning}"));
}

/// Prints what a service has done.
pub(crate) fn note(note: impl fmt::Display) {
    line(format_args!("{note}"));
}

fn line(text: fmt::Arguments<'_>) {
    // Nothing can be done, nor said, if standard error is closed.
    let _ = writeln!(io::stderr(), "cgview: {text}");
}

/// Whether it failed because nobody reads its output any more, as `head` after its last line.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
