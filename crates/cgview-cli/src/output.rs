//! Standard output.

use std::io::{self, Write};

use anyhow::Context;

/// Writes `text` to standard output.
pub(crate) fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).context("cannot write to standard output")
}
