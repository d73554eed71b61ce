//! What a read makes the kernel and a server do, as the kernel tells: tracefs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

/// An instance of the kernel's trace that nobody else uses. Dropping it removes it.
#[derive(Debug)]
pub struct Trace(PathBuf);

/// How often each was seen, by name.
pub type Counts = BTreeMap<String, u64>;

const REQUESTS: &str = "events/fuse/fuse_request_send/enable";
const SYSTEM_CALLS: &str = "events/syscalls/enable";

impl Trace {
    /// `None` on a machine that has no trace of FUSE requests, or does not let it be seen. May mount tracefs: to be
    /// called in a mount namespace of its own.
    #[must_use]
    pub fn start() -> Option<Trace> {
        let root = Path::new("/sys/kernel/tracing");
        if !root.join("instances").exists() {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tracefs", "tracefs"]).arg(root).stderr(Stdio::null());
            mount.status().ok().filter(|status| status.success())?;
        }
        let instance = root.join("instances").join(format!("cgview-{}", std::process::id()));
        fs::create_dir(&instance).ok()?;
        let trace = Trace(instance);
        // For each CPU: room for some ten thousand calls.
        trace.write("buffer_size_kb", "16384").ok()?;
        trace.0.join(REQUESTS).exists().then_some(trace)
    }

    /// The requests that the kernel sends over a FUSE connection while `run` does, by opcode.
    ///
    /// # Errors
    ///
    /// If it cannot be traced, or `run` fails.
    pub fn requests(&self, connection: u32, run: impl FnOnce() -> Result<()>) -> Result<Counts> {
        let text = self.record(REQUESTS, run)?;
        let of = format!("connection {connection} ");
        let opcode = |line: &str| {
            let (_, rest) = line.split_once(&of)?.1.split_once('(')?;
            Some(rest.split_once(')')?.0.trim_start_matches("FUSE_").to_owned())
        };
        Ok(count(text.lines().filter_map(opcode)))
    }

    /// The system calls of threads while `run` does, by name. None if the kernel does not tell.
    ///
    /// # Errors
    ///
    /// If it cannot be traced, or `run` fails.
    pub fn system_calls(&self, tids: &[u32], run: impl FnOnce() -> Result<()>) -> Result<Counts> {
        if !self.0.join(SYSTEM_CALLS).exists() {
            return Ok(Counts::default());
        }
        let tids: Vec<String> = tids.iter().map(u32::to_string).collect();
        self.write("set_event_pid", &tids.join(" "))?;
        let text = self.record(SYSTEM_CALLS, run);
        self.write("set_event_pid", "")?;
        let name = |line: &str| {
            let (_, rest) = line.split_once(": sys_")?;
            rest.split_once('(').map(|(name, _)| name.to_owned())
        };
        Ok(count(text?.lines().filter_map(name)))
    }

    fn record(&self, events: &str, run: impl FnOnce() -> Result<()>) -> Result<String> {
        self.write("trace", "")?;
        self.write(events, "1")?;
        let done = run();
        self.write(events, "0")?;
        done?;
        self.read("trace")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write to {}", path.display()))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

fn count(names: impl Iterator<Item = String>) -> Counts {
    let mut counts = Counts::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join(REQUESTS), "0");
        let _ = fs::remove_dir(&self.0);
    }
}
