//! The numbers of entries: they depend on the path alone, and so outlive the process that gave them out.

use super::{Dir, Entry, File, Link, ProcFile, SysFile};

impl Entry {
    /// Its number: 1 for the root, as FUSE wants it, and below 2^48.
    #[must_use]
    pub fn id(self) -> u64 {
        match self {
            Entry::Dir(dir) => {
                let (tag, number, index) = dir.parts();
                if dir == Dir::Root { 1 } else { pack(KIND_DIR, tag, number, index, 0) }
            }
            Entry::File(File::Proc(file)) => pack(KIND_PROC, file as u8, 0, 0, 0),
            Entry::File(File::Sys(file)) => {
                let (tag, number, index) = file.dir.parts();
                pack(KIND_SYS, tag, number, index, file.leaf)
            }
            Entry::Link(Link::NodeOfCpu { cpu, node }) => {
                let [high, low] = node.to_be_bytes();
                pack(KIND_LINK, 0, cpu, high, low)
            }
            Entry::Link(Link::CpuOfNode { node, cpu }) => {
                let [high, low] = cpu.to_be_bytes();
                pack(KIND_LINK, 1, node, high, low)
            }
        }
    }

    /// The entry of that number, if there is one.
    #[must_use]
    pub fn from_id(id: u64) -> Option<Entry> {
        if id == 1 {
            return Some(Entry::Dir(Dir::Root));
        }
        let [0, 0, kind, tag, high, low, index, leaf] = id.to_be_bytes() else { return None };
        let number = u16::from_be_bytes([high, low]);
        let entry = match kind {
            KIND_DIR => Entry::Dir(Dir::from_parts(tag, number, index)?),
            KIND_PROC => Entry::File(File::Proc(*ProcFile::ALL.get(usize::from(tag))?)),
            KIND_SYS => {
                let dir = Dir::from_parts(tag, number, index)?;
                dir.table().get(usize::from(leaf))?;
                Entry::File(File::Sys(SysFile { dir, leaf }))
            }
            KIND_LINK => {
                let other = u16::from_be_bytes([index, leaf]);
                match tag {
                    0 => Entry::Link(Link::NodeOfCpu { cpu: number, node: other }),
                    1 => Entry::Link(Link::CpuOfNode { node: number, cpu: other }),
                    _ => return None,
                }
            }
            _ => return None,
        };
        // One number for each entry: fields that a kind does not use are zero.
        (entry.id() == id).then_some(entry)
    }
}

const KIND_DIR: u8 = 1;
const KIND_PROC: u8 = 2;
const KIND_SYS: u8 = 3;
const KIND_LINK: u8 = 4;

fn pack(kind: u8, tag: u8, number: u16, index: u8, leaf: u8) -> u64 {
    let [high, low] = number.to_be_bytes();
    u64::from_be_bytes([0, 0, kind, tag, high, low, index, leaf])
}

impl Dir {
    fn parts(self) -> (u8, u16, u8) {
        match self {
            Dir::Root => (0, 0, 0),
            Dir::Proc => (1, 0, 0),
            Dir::Pressure => (2, 0, 0),
            Dir::Sys => (3, 0, 0),
            Dir::Devices => (4, 0, 0),
            Dir::System => (5, 0, 0),
            Dir::Cpu => (6, 0, 0),
            Dir::Vulnerabilities => (7, 0, 0),
            Dir::Smt => (8, 0, 0),
            Dir::CpuN(cpu) => (9, cpu, 0),
            Dir::Topology(cpu) => (10, cpu, 0),
            Dir::Cpufreq(cpu) => (11, cpu, 0),
            Dir::Cache(cpu) => (12, cpu, 0),
            Dir::CacheIndex(cpu, index) => (13, cpu, index),
            Dir::Node => (14, 0, 0),
            Dir::NodeN(node) => (15, node, 0),
        }
    }

    fn from_parts(tag: u8, number: u16, index: u8) -> Option<Dir> {
        Some(match tag {
            0 => Dir::Root,
            1 => Dir::Proc,
            2 => Dir::Pressure,
            3 => Dir::Sys,
            4 => Dir::Devices,
            5 => Dir::System,
            6 => Dir::Cpu,
            7 => Dir::Vulnerabilities,
            8 => Dir::Smt,
            9 => Dir::CpuN(number),
            10 => Dir::Topology(number),
            11 => Dir::Cpufreq(number),
            12 => Dir::Cache(number),
            13 => Dir::CacheIndex(number, index),
            14 => Dir::Node,
            15 => Dir::NodeN(number),
            _ => return None,
        })
    }
}
