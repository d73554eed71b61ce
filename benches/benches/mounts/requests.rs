//! The requests that the kernel sends for a read, as it tells by itself: `fuse_request_send` of tracefs.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::Result;

/// An instance of the kernel's trace, which is nobody else's. Dropping it removes it.
pub(crate) struct Trace(PathBuf);

impl Trace {
    /// `None` on a kernel that does not tell.
    pub(crate) fn start() -> Option<Trace> {
        let root = PathBuf::from("/sys/kernel/tracing");
        if !root.join("instances").exists() {
            let mounted =
                Command::new("mount").args(["-t", "tracefs", "tracefs"]).arg(&root).output();
            mounted.ok().filter(|mounted| mounted.status.success())?;
        }
        let instance = root.join("instances").join(format!("cgview-{}", std::process::id()));
        fs::create_dir(&instance).ok()?;
        let trace = Trace(instance);
        fs::write(trace.0.join("events/fuse/fuse_request_send/enable"), "1").ok()?;
        Some(trace)
    }

    /// Forgets what was sent so far.
    pub(crate) fn clear(&self) -> Result<()> {
        Ok(fs::write(self.0.join("trace"), "")?)
    }

    /// What was sent for the files of one connection, by kind.
    pub(crate) fn take(&self, connection: u64) -> Result<BTreeMap<String, u64>> {
        let text = fs::read_to_string(self.0.join("trace"))?;
        let mut kinds = BTreeMap::new();
        let of = format!("connection {connection} ");
        for line in text.lines().filter(|line| line.contains(&of)) {
            let kind = line.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
            if let Some((kind, _)) = kind {
                *kinds.entry(kind.trim_start_matches("FUSE_").to_owned()).or_default() += 1;
            }
        }
        Ok(kinds)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/fuse/fuse_request_send/enable"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}
