//! What was measured, as files that tables and plots are made from: `benches/record/NAME.tsv`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Whole reads, of `mounts`: `reads.tsv`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Read {
    /// `pinned` or `free`.
    pub placement: String,
    /// How many read at a time.
    pub readers: usize,
    /// The size of their buffers, in bytes.
    pub buffer: usize,
    /// The file, below the server's root.
    pub file: String,
    /// Who was read from.
    pub server: String,
    /// Reads in a second, of all readers together.
    pub reads_per_s: f64,
    /// Microseconds that one read took.
    pub median_us: f64,
    /// Microseconds that 99 of 100 reads did not exceed.
    pub p99_us: f64,
    /// Microseconds of CPU time that the server took for one read.
    pub server_cpu_us: f64,
}

/// What one read makes the kernel and the server do, of `mounts`: `calls.tsv`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Call {
    /// Who was read from.
    pub server: String,
    /// The file.
    pub file: String,
    /// [`REQUEST`] or [`SYSTEM_CALL`].
    pub kind: String,
    /// Its name: `OPEN`, `pread64`.
    pub name: String,
    /// How often, for each read.
    pub per_read: f64,
}

/// A [`Call`] that is a request of the kernel to a FUSE server.
pub const REQUEST: &str = "request";
/// A [`Call`] that is a system call of the server.
pub const SYSTEM_CALL: &str = "system call";

/// The size of a server after all reads, of `mounts`: `servers.tsv`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Server {
    /// Who.
    pub server: String,
    /// Resident memory of all its processes.
    pub rss_kib: u64,
    /// Threads of all its processes.
    pub threads: usize,
}

/// What depends on a size, or should not, of `scale`: `scale.tsv`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Scale {
    /// What was measured.
    pub what: String,
    /// How large the machine was: 512.
    pub size: u64,
    /// Of what: `CPUs`, `containers`, `tasks`.
    pub of: String,
    /// The file that was read; empty if it is about no file.
    pub file: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// A part of the hot path, of `instructions`: `instructions.tsv`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Budget {
    /// Which.
    pub part: String,
    /// How many instructions it takes in user space.
    pub instructions: u64,
}

/// Where it was measured: `machine.tsv` and `scale-machine.tsv`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Fact {
    /// What.
    pub what: String,
    /// How it is there.
    pub value: String,
}

/// The file of a record.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("record").join(name).with_extension("tsv")
}

/// Writes a record.
///
/// # Errors
///
/// If that cannot be done.
pub fn save<T: Serialize>(name: &str, rows: &[T]) -> Result<()> {
    let path = path(name);
    let write = || -> Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let mut writer = csv::WriterBuilder::new().delimiter(b'\t').from_path(&path)?;
        rows.iter().try_for_each(|row| writer.serialize(row))?;
        Ok(writer.flush()?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a record.
///
/// # Errors
///
/// If there is none, or it has something else in it.
pub fn load<T: DeserializeOwned>(name: &str) -> Result<Vec<T>> {
    let path = path(name);
    let read = || {
        let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_path(&path)?;
        reader.deserialize().collect::<Result<Vec<T>, csv::Error>>()
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

/// The least of what was measured again and again: whatever else a machine does, or those that it shares its hardware with,
/// makes times longer, and never shorter.
#[must_use]
pub fn undisturbed(values: impl Iterator<Item = f64>) -> f64 {
    values.min_by(f64::total_cmp).unwrap_or(f64::NAN)
}

/// A number with one place after the point, which is more than any of these is good for.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The machine that this is.
#[must_use]
pub fn machine() -> Vec<Fact> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cgroup =
        match (Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), read("/proc/mounts")) {
            (true, _) => "v2",
            (false, mounts) if mounts.contains(" cgroup2 ") => "v1 and v2 (hybrid)",
            (false, _) => "v1",
        };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    [
        ("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease").trim())),
        ("CPUs", format!("{cpus} of {}", model.map_or("an unknown model", |(_, name)| name))),
        ("cgroup", cgroup.to_owned()),
    ]
    .map(|(what, value)| Fact { what: what.into(), value })
    .into()
}
