//! The paths of the view: which files, directories and links there are, by name and by number.
//!
//! The layout is that of LXCFS, so that whatever binds files from its mountpoint finds them here:
//! `proc/...` and `sys/devices/system/{cpu,node}/...`. What is not in these tables does not exist; the
//! tables of sysfs are an allow-list of names that any user may read on the host.
//!
//! Every entry has a number that depends on nothing but its path, so that a process can take over
//! another's FUSE connection and understand the inode numbers that the kernel holds. For that reason
//! tables are only ever appended to.

mod number;
mod table;

use alloc::{format, string::String, vec::Vec};

/// Anything that has a path.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Entry {
    /// A directory.
    Dir(Dir),
    /// A file.
    File(File),
    /// A symbolic link.
    Link(Link),
}

/// A directory of the view.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Dir {
    /// The mountpoint.
    Root,
    /// `proc`.
    Proc,
    /// `proc/pressure`.
    Pressure,
    /// `sys`.
    Sys,
    /// `sys/devices`.
    Devices,
    /// `sys/devices/system`.
    System,
    /// `sys/devices/system/cpu`.
    Cpu,
    /// `cpu/vulnerabilities`.
    Vulnerabilities,
    /// `cpu/smt`.
    Smt,
    /// `cpu/cpuN`, by the number of the visible CPU.
    CpuN(u16),
    /// `cpu/cpuN/topology`.
    Topology(u16),
    /// `cpu/cpuN/cpufreq`.
    Cpufreq(u16),
    /// `cpu/cpuN/cache`.
    Cache(u16),
    /// `cpu/cpuN/cache/indexK`.
    CacheIndex(u16, u8),
    /// `sys/devices/system/node`.
    Node,
    /// `node/nodeN`, by the number that the kernel gives the node.
    NodeN(u16),
}

/// A file of the view.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum File {
    /// Below `proc/`.
    Proc(ProcFile),
    /// Below `sys/`.
    Sys(SysFile),
}

/// A file below `proc/`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the file of its name: proc(5)")]
pub enum ProcFile {
    Cpuinfo,
    Diskstats,
    Loadavg,
    Meminfo,
    Partitions,
    PressureCpu,
    PressureIo,
    PressureIrq,
    PressureMemory,
    Slabinfo,
    Stat,
    Swaps,
    Uptime,
    Vmstat,
}

/// A file below `sys/`: a directory, and a place in that directory's table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SysFile {
    dir: Dir,
    leaf: u8,
}

/// A symbolic link of the view.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Link {
    /// `cpu/cpuN/nodeM`.
    NodeOfCpu {
        /// The visible CPU.
        cpu: u16,
        /// The node.
        node: u16,
    },
    /// `node/nodeM/cpuN`.
    CpuOfNode {
        /// The node.
        node: u16,
        /// The visible CPU.
        cpu: u16,
    },
}

/// What a file of sysfs shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SysRule {
    /// The host's text: a constant of the machine or of this CPU.
    Host,
    /// The visible CPUs, `0-(n-1)`.
    VisibleCpus,
    /// An empty list.
    Empty,
    /// A list of CPUs, renumbered.
    CpuList,
    /// A mask of CPUs, renumbered.
    CpuMask,
    /// A list of nodes, of which the container's are kept.
    NodeList,
    /// `nodeN/meminfo`.
    NodeMeminfo,
    /// `nodeN/numastat`.
    Numastat,
    /// `nodeN/distance`: one column for each node.
    Distance,
}

/// How many `indexK` directories of a CPU's cache are looked for.
const CACHE_INDEXES: u8 = 16;

impl ProcFile {
    /// All of them, in the order of their numbers.
    pub const ALL: [ProcFile; 14] = [
        ProcFile::Cpuinfo,
        ProcFile::Diskstats,
        ProcFile::Loadavg,
        ProcFile::Meminfo,
        ProcFile::Partitions,
        ProcFile::PressureCpu,
        ProcFile::PressureIo,
        ProcFile::PressureIrq,
        ProcFile::PressureMemory,
        ProcFile::Slabinfo,
        ProcFile::Stat,
        ProcFile::Swaps,
        ProcFile::Uptime,
        ProcFile::Vmstat,
    ];

    /// The host's file that it stands for.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            ProcFile::Cpuinfo => "/proc/cpuinfo",
            ProcFile::Diskstats => "/proc/diskstats",
            ProcFile::Loadavg => "/proc/loadavg",
            ProcFile::Meminfo => "/proc/meminfo",
            ProcFile::Partitions => "/proc/partitions",
            ProcFile::PressureCpu => "/proc/pressure/cpu",
            ProcFile::PressureIo => "/proc/pressure/io",
            ProcFile::PressureIrq => "/proc/pressure/irq",
            ProcFile::PressureMemory => "/proc/pressure/memory",
            ProcFile::Slabinfo => "/proc/slabinfo",
            ProcFile::Stat => "/proc/stat",
            ProcFile::Swaps => "/proc/swaps",
            ProcFile::Uptime => "/proc/uptime",
            ProcFile::Vmstat => "/proc/vmstat",
        }
    }

    /// Its mode bits, as the host's file has them; nobody may write.
    #[must_use]
    pub const fn mode(self) -> u16 {
        match self {
            ProcFile::Slabinfo => 0o400,
            _ => 0o444,
        }
    }
}

impl SysFile {
    /// The directory that holds it.
    #[must_use]
    pub const fn dir(self) -> Dir {
        self.dir
    }

    /// What it shows.
    #[must_use]
    pub fn rule(self) -> SysRule {
        self.entry().1
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    fn entry(self) -> (&'static str, SysRule) {
        // A SysFile is only made for a place that its table has.
        self.dir.table().get(usize::from(self.leaf)).copied().unwrap_or(("", SysRule::Empty))
    }
}

impl File {
    /// Its mode bits.
    #[must_use]
    pub const fn mode(self) -> u16 {
        match self {
            File::Proc(file) => file.mode(),
            File::Sys(_) => 0o444,
        }
    }
}

impl Dir {
    /// The directory above; the root is its own parent.
    #[must_use]
    pub const fn parent(self) -> Dir {
        match self {
            Dir::Root | Dir::Proc | Dir::Sys => Dir::Root,
            Dir::Pressure => Dir::Proc,
            Dir::Devices => Dir::Sys,
            Dir::System => Dir::Devices,
            Dir::Cpu | Dir::Node => Dir::System,
            Dir::Vulnerabilities | Dir::Smt | Dir::CpuN(_) => Dir::Cpu,
            Dir::Topology(cpu) | Dir::Cpufreq(cpu) | Dir::Cache(cpu) => Dir::CpuN(cpu),
            Dir::CacheIndex(cpu, _) => Dir::Cache(cpu),
            Dir::NodeN(_) => Dir::Node,
        }
    }

    /// The entry of that name, if the tables have one. Whether this container, or this host, has it is
    /// for [`View::shows`](crate::View::shows) and the host to say.
    #[must_use]
    pub fn child(self, name: &[u8]) -> Option<Entry> {
        let name = core::str::from_utf8(name).ok()?;
        let dir = |dir| Some(Entry::Dir(dir));
        match (self, name) {
            (Dir::Root, "proc") => return dir(Dir::Proc),
            (Dir::Root, "sys") => return dir(Dir::Sys),
            (Dir::Sys, "devices") => return dir(Dir::Devices),
            (Dir::Devices, "system") => return dir(Dir::System),
            (Dir::System, "cpu") => return dir(Dir::Cpu),
            (Dir::System, "node") => return dir(Dir::Node),
            (Dir::Proc, "pressure") => return dir(Dir::Pressure),
            (Dir::Cpu, "vulnerabilities") => return dir(Dir::Vulnerabilities),
            (Dir::Cpu, "smt") => return dir(Dir::Smt),
            (Dir::CpuN(cpu), "topology") => return dir(Dir::Topology(cpu)),
            (Dir::CpuN(cpu), "cpufreq") => return dir(Dir::Cpufreq(cpu)),
            (Dir::CpuN(cpu), "cache") => return dir(Dir::Cache(cpu)),
            (Dir::Proc | Dir::Pressure, _) => {
                let file = self.proc_files().find(|file| file_name(file.path()) == name)?;
                return Some(Entry::File(File::Proc(file)));
            }
            _ => {}
        }
        if let Some(leaf) = self.table().iter().position(|&(known, _)| known == name) {
            let leaf = u8::try_from(leaf).ok()?;
            return Some(Entry::File(File::Sys(SysFile { dir: self, leaf })));
        }
        match self {
            Dir::Cpu => Some(Entry::Dir(Dir::CpuN(numbered(name, "cpu")?))),
            Dir::Node => Some(Entry::Dir(Dir::NodeN(numbered(name, "node")?))),
            Dir::Cache(cpu) => {
                let index = u8::try_from(numbered(name, "index")?).ok()?;
                (index < CACHE_INDEXES).then_some(Entry::Dir(Dir::CacheIndex(cpu, index)))
            }
            Dir::CpuN(cpu) => {
                Some(Entry::Link(Link::NodeOfCpu { cpu, node: numbered(name, "node")? }))
            }
            Dir::NodeN(node) => {
                Some(Entry::Link(Link::CpuOfNode { node, cpu: numbered(name, "cpu")? }))
            }
            _ => None,
        }
    }

    /// The children that the tables have, without those that are numbered by CPU or node.
    #[must_use]
    pub fn fixed_children(self) -> Vec<Entry> {
        let mut children = Vec::new();
        match self {
            Dir::Root => children.extend([Dir::Proc, Dir::Sys].map(Entry::Dir)),
            Dir::Proc => children.push(Entry::Dir(Dir::Pressure)),
            Dir::Sys => children.push(Entry::Dir(Dir::Devices)),
            Dir::Devices => children.push(Entry::Dir(Dir::System)),
            Dir::System => children.extend([Dir::Cpu, Dir::Node].map(Entry::Dir)),
            Dir::Cpu => children.extend([Dir::Vulnerabilities, Dir::Smt].map(Entry::Dir)),
            Dir::CpuN(cpu) => {
                children.extend(
                    [Dir::Topology(cpu), Dir::Cpufreq(cpu), Dir::Cache(cpu)].map(Entry::Dir),
                );
            }
            Dir::Cache(cpu) => {
                children.extend(
                    (0..CACHE_INDEXES).map(|index| Entry::Dir(Dir::CacheIndex(cpu, index))),
                );
            }
            _ => {}
        }
        children.extend(self.proc_files().map(|file| Entry::File(File::Proc(file))));
        let leaves = (0u8..).zip(self.table()).map(|(leaf, _)| SysFile { dir: self, leaf });
        children.extend(leaves.map(|file| Entry::File(File::Sys(file))));
        children
    }

    fn proc_files(self) -> impl Iterator<Item = ProcFile> {
        ProcFile::ALL
            .into_iter()
            .filter(move |&file| Entry::File(File::Proc(file)).parent() == self)
    }
}

impl Entry {
    /// The directory that holds it.
    #[must_use]
    pub fn parent(self) -> Dir {
        match self {
            Entry::Dir(dir) => dir.parent(),
            Entry::File(File::Proc(
                ProcFile::PressureCpu
                | ProcFile::PressureIo
                | ProcFile::PressureIrq
                | ProcFile::PressureMemory,
            )) => Dir::Pressure,
            Entry::File(File::Proc(_)) => Dir::Proc,
            Entry::File(File::Sys(file)) => file.dir,
            Entry::Link(Link::NodeOfCpu { cpu, .. }) => Dir::CpuN(cpu),
            Entry::Link(Link::CpuOfNode { node, .. }) => Dir::NodeN(node),
        }
    }

    /// Its name in its directory; empty for the root.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Entry::File(File::Proc(file)) => file_name(file.path()).into(),
            Entry::File(File::Sys(file)) => file.name().into(),
            Entry::Link(Link::NodeOfCpu { node, .. }) => format!("node{node}"),
            Entry::Link(Link::CpuOfNode { cpu, .. }) => format!("cpu{cpu}"),
            Entry::Dir(dir) => match dir {
                Dir::Root => String::new(),
                Dir::Proc => "proc".into(),
                Dir::Pressure => "pressure".into(),
                Dir::Sys => "sys".into(),
                Dir::Devices => "devices".into(),
                Dir::System => "system".into(),
                Dir::Cpu => "cpu".into(),
                Dir::Vulnerabilities => "vulnerabilities".into(),
                Dir::Smt => "smt".into(),
                Dir::CpuN(cpu) => format!("cpu{cpu}"),
                Dir::Topology(_) => "topology".into(),
                Dir::Cpufreq(_) => "cpufreq".into(),
                Dir::Cache(_) => "cache".into(),
                Dir::CacheIndex(_, index) => format!("index{index}"),
                Dir::Node => "node".into(),
                Dir::NodeN(node) => format!("node{node}"),
            },
        }
    }

    /// Its path from the mountpoint, such as `/proc/meminfo`; with visible CPU numbers.
    #[must_use]
    pub fn path(self) -> String {
        if self == Entry::Dir(Dir::Root) {
            return "/".into();
        }
        let mut path = Entry::Dir(self.parent()).path();
        if path.len() > 1 {
            path.push('/');
        }
        path.push_str(&self.name());
        path
    }

    /// The entry at a path from the mountpoint. `None` if the tables do not have it.
    #[must_use]
    pub fn at(path: &str) -> Option<Entry> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(
            Entry::Dir(Dir::Root),
            |entry, name| match entry {
                Entry::Dir(dir) => dir.child(name.as_bytes()),
                Entry::File(_) | Entry::Link(_) => None,
            },
        )
    }
}

impl Link {
    /// Where it points, relative to its directory.
    #[must_use]
    pub fn target(self) -> String {
        match self {
            Link::NodeOfCpu { node, .. } => format!("../../node/node{node}"),
            Link::CpuOfNode { cpu, .. } => format!("../../cpu/cpu{cpu}"),
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The number in a name such as `cpu12`, written as the kernel writes it: no sign, no leading zero.
fn numbered(name: &str, prefix: &str) -> Option<u16> {
    let digits = name.strip_prefix(prefix)?;
    let number = digits.parse().ok()?;
    let canonical = !digits.starts_with('+') && (digits == "0" || !digits.starts_with('0'));
    canonical.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn walk(dir: Dir, seen: &mut Vec<Entry>) {
        let mut children = dir.fixed_children();
        match dir {
            Dir::Cpu => children.extend([0, 300].map(|cpu| Entry::Dir(Dir::CpuN(cpu)))),
            Dir::Node => children.push(Entry::Dir(Dir::NodeN(3))),
            Dir::CpuN(cpu) => children.push(Entry::Link(Link::NodeOfCpu { cpu, node: 3 })),
            Dir::NodeN(node) => children.push(Entry::Link(Link::CpuOfNode { node, cpu: 300 })),
            _ => {}
        }
        for child in children {
            seen.push(child);
            if let Entry::Dir(dir) = child {
                walk(dir, seen);
            }
        }
    }

    #[test]
    fn every_entry_is_found_by_its_path_and_by_its_number() {
        let mut entries = std::vec![Entry::Dir(Dir::Root)];
        walk(Dir::Root, &mut entries);
        assert!(entries.len() > 150);
        let ids: HashSet<u64> = entries.iter().map(|entry| entry.id()).collect();
        assert_eq!(ids.len(), entries.len());
        for entry in entries {
            assert_eq!(Entry::at(&entry.path()), Some(entry), "{}", entry.path());
            assert_eq!(Entry::from_id(entry.id()), Some(entry));
        }
    }

    #[test]
    fn names_are_the_kernels_own_spelling() {
        for path in [
            "/sys/devices/system/cpu/cpu01",
            "/sys/devices/system/cpu/cpu+1",
            "/sys/devices/system/cpu/cpu",
        ] {
            assert_eq!(Entry::at(path), None, "{path}");
        }
        assert_eq!(
            Entry::at("/proc/pressure/cpu"),
            Some(Entry::File(File::Proc(ProcFile::PressureCpu)))
        );
        assert_eq!(Entry::at("/proc/cpu"), None);
        assert_eq!(Entry::at("/proc/meminfo/x"), None);
        // A physical address, readable by root only on the host.
        assert_eq!(Entry::at("/sys/devices/system/cpu/cpu0/crash_notes"), None);
    }

    proptest! {
        #[test]
        fn a_number_means_one_entry_or_none(id in 0u64..1 << 36) {
            if let Some(entry) = Entry::from_id(id) {
                prop_assert_eq!(entry.id(), id);
            }
        }
    }
}
