//! What a benchmark was started with: by `cargo bench`, as Criterion's benchmarks are.

use std::{
    env,
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result, ensure};

/// The words of the command line.
#[derive(Debug)]
pub struct Arguments(Vec<String>);

/// Set for the process that [`Arguments::isolate`] starts.
const ISOLATED: &str = "CGVIEW_BENCH_ISOLATED";

impl Arguments {
    /// Those of this process.
    #[must_use]
    pub fn new() -> Arguments {
        Arguments(env::args().skip(1).collect())
    }

    /// Whether an option was given.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.0.iter().any(|word| word == option)
    }

    /// Whether everything is only to be seen to work.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.has("--test")
    }

    /// The value of an option: `--option=value`.
    #[must_use]
    pub fn value(&self, option: &str) -> Option<&str> {
        self.0.iter().find_map(|word| word.strip_prefix(option)?.strip_prefix('='))
    }

    /// Whether the benchmark of this name is to run: no other was selected by its name.
    #[must_use]
    pub fn select(&self, name: &str) -> bool {
        let mut names = self.0.iter().filter(|word| !word.starts_with("--")).peekable();
        names.peek().is_none() || names.any(|word| word == name)
    }

    /// Starts this program again in a mount namespace of its own, and waits for its end: so nothing stays mounted.
    /// Returns false there, and true where all is done.
    ///
    /// # Errors
    ///
    /// If there is no such namespace, or it fails.
    pub fn isolate(&self) -> Result<bool> {
        if env::var_os(ISOLATED).is_some() {
            return Ok(false);
        }
        let program = env::current_exe()?;
        let status: ExitStatus = Command::new("unshare")
            .arg("--mount")
            .arg(&program)
            .args(&self.0)
            .env(ISOLATED, "1")
            .status()
            .context("cannot run unshare")?;
        ensure!(status.success(), "{} failed: {status}", program.display());
        Ok(true)
    }
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments::new()
    }
}
