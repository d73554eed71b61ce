//! The records, and how to ask them.

use anyhow::Result;
use cgview_benches::record::{Budget, Call, Fact, Read, Scale, Server, load};

/// All records.
pub(crate) struct Records {
    pub(crate) machine: Vec<Fact>,
    pub(crate) scale_machine: Vec<Fact>,
    pub(crate) reads: Vec<Read>,
    pub(crate) calls: Vec<Call>,
    pub(crate) servers: Vec<Server>,
    pub(crate) scale: Vec<Scale>,
    pub(crate) instructions: Vec<Budget>,
}

/// The usual buffer, in bytes.
pub(crate) const BUFFER: usize = 8 << 10;

/// The file that stands for all where they do not matter.
pub(crate) const MEMINFO: &str = "proc/meminfo";

impl Records {
    pub(crate) fn load() -> Result<Records> {
        Ok(Records {
            machine: load("machine")?,
            scale_machine: load("scale-machine")?,
            reads: load("reads")?,
            calls: load("calls")?,
            servers: load("servers")?,
            scale: ["scale", "cpus-2", "cpus-64"]
                .map(load)
                .into_iter()
                .collect::<Result<Vec<_>>>()?
                .concat(),
            instructions: load("instructions")?,
        })
    }

    /// The files that were read, in the order of the record.
    pub(crate) fn files(&self) -> Vec<&str> {
        let mut files = Vec::new();
        for read in &self.reads {
            if !files.contains(&&*read.file) {
                files.push(&*read.file);
            }
        }
        files
    }

    /// One reader with the usual buffer, on the one CPU.
    pub(crate) fn read(&self, file: &str, server: &str) -> Option<&Read> {
        self.read_by("pinned", 1, BUFFER, file, server)
    }

    pub(crate) fn read_by(
        &self,
        placement: &str,
        readers: usize,
        buffer: usize,
        file: &str,
        server: &str,
    ) -> Option<&Read> {
        self.reads.iter().find(|read| {
            (&*read.placement, read.readers, read.buffer, &*read.file, &*read.server)
                == (placement, readers, buffer, file, server)
        })
    }

    /// How many times as long a read from `above` takes as one from `below`.
    pub(crate) fn ratio(&self, file: &str, above: &str, below: &str) -> Option<f64> {
        self.ratio_by(BUFFER, file, above, below)
    }

    /// The same with a buffer of so many bytes.
    pub(crate) fn ratio_by(
        &self,
        buffer: usize,
        file: &str,
        above: &str,
        below: &str,
    ) -> Option<f64> {
        let time = |server| Some(self.read_by("pinned", 1, buffer, file, server)?.median_us);
        Some(time(above)? / time(below)?)
    }

    /// How many times as much CPU time `above` takes for a read as `below`.
    pub(crate) fn cpu_ratio(&self, file: &str, above: &str, below: &str) -> Option<f64> {
        Some(self.read(file, above)?.server_cpu_us / self.read(file, below)?.server_cpu_us)
    }

    /// The smallest and the largest machine that something was measured on.
    pub(crate) fn sizes(&self, what: &str, of: &str, file: &str) -> Option<[&Scale; 2]> {
        let fits = |row: &&Scale| row.what == what && row.of == of && row.file == file;
        let smallest = self.scale.iter().filter(fits).min_by_key(|row| row.size)?;
        let largest = self.scale.iter().filter(fits).max_by_key(|row| row.size)?;
        Some([smallest, largest])
    }

    /// The files of which something was measured at several sizes.
    pub(crate) fn scale_files(&self, what: &str) -> Vec<&str> {
        let mut files = Vec::new();
        for row in self.scale.iter().filter(|row| row.what == what) {
            if !files.contains(&&*row.file) {
                files.push(&*row.file);
            }
        }
        files
    }
}
