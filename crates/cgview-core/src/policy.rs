//! The choices that are the administrator's, in one type.

use crate::tree::ProcFile;

/// How the view is made, where more than one way is right.
///
/// The defaults are the answers that a user of a small machine of the container's size would expect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Policy {
    /// What counts for the number of CPUs.
    pub cpu_view: CpuPolicy,
    /// Whose age `/proc/uptime` tells.
    pub uptime: UptimePolicy,
    /// What `steal` in `/proc/stat` shows.
    pub steal: StealPolicy,
    /// Whether swap is shown at all.
    pub swap: bool,
    /// Whether zswap is shown at all.
    pub zswap: bool,
    /// Whether the container has a load average of its own, or the host's.
    pub loadavg: bool,
    /// Files that show the host's text instead of a view.
    pub passthrough: FileSet,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            cpu_view: CpuPolicy::Quota,
            uptime: UptimePolicy::Container,
            steal: StealPolicy::Zero,
            swap: true,
            zswap: true,
            loadavg: true,
            passthrough: FileSet::default(),
        }
    }
}

/// What counts for the number of CPUs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum CpuPolicy {
    /// The quota within the effective cpuset: 1.5 CPUs are shown as two.
    #[default]
    Quota,
    /// The effective cpuset alone, as LXCFS does without `--enable-cfs`.
    Cpuset,
}

/// Whose age `/proc/uptime` tells.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum UptimePolicy {
    /// The container's: since its init started.
    #[default]
    Container,
    /// The host's.
    Host,
}

/// What `steal` in `/proc/stat` shows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum StealPolicy {
    /// Nothing. The container's capacity is its entitlement, so all of it can be used.
    #[default]
    Zero,
    /// The time that the quota kept tasks from running. The capacity is then that of whole CPUs.
    Throttled,
}

/// A set of files below `proc/`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(from = "alloc::vec::Vec<ProcFile>", into = "alloc::vec::Vec<ProcFile>")
)]
pub struct FileSet(u32);

impl FileSet {
    /// Adds a file.
    pub fn insert(&mut self, file: ProcFile) {
        self.0 |= 1 << (file as u32);
    }

    /// Whether it holds `file`.
    #[must_use]
    pub fn contains(self, file: ProcFile) -> bool {
        self.0 >> (file as u32) & 1 == 1
    }
}

impl FromIterator<ProcFile> for FileSet {
    fn from_iter<I: IntoIterator<Item = ProcFile>>(files: I) -> FileSet {
        let mut set = FileSet::default();
        files.into_iter().for_each(|file| set.insert(file));
        set
    }
}

impl From<alloc::vec::Vec<ProcFile>> for FileSet {
    fn from(files: alloc::vec::Vec<ProcFile>) -> FileSet {
        files.into_iter().collect()
    }
}

impl From<FileSet> for alloc::vec::Vec<ProcFile> {
    fn from(set: FileSet) -> alloc::vec::Vec<ProcFile> {
        ProcFile::ALL.into_iter().filter(|&file| set.contains(file)).collect()
    }
}
