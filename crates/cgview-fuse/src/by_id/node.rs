//! The numbers of the fast mount's nodes. They are computed, so that another process can go on with them.

use cgview_core::tree::{Dir, Entry, File, ProcFile};
use cgview_host::CgroupId;

/// A node: what it is, and of which container.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Node {
    /// The mountpoint.
    Root,
    /// Something of a container.
    Of(Slot, Kind),
}

/// What stands for a cgroup in the numbers of nodes: 56 bits of its id, of which the kernel hands out the low 32
/// anew with another value in the high 32 each time (`kernfs_new_node()`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Slot(u64);

/// What there is of a container.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    /// The directory that has all.
    Container,
    /// The link to it by the runtime's id.
    Link,
    Proc,
    Pressure,
    File(ProcFile),
}

/// `FUSE_ROOT_ID` of linux/fuse.h.
const ROOT: u64 = 1;

/// Files are numbered from here on, in the order of [`ProcFile::ALL`].
const FILES: u64 = 16;

impl Slot {
    pub(crate) fn of(id: CgroupId) -> Slot {
        let CgroupId(id) = id;
        Slot(id & 0x00ff_ffff_ffff_ffff)
    }
}

impl Node {
    pub(crate) fn number(self) -> u64 {
        let Node::Of(Slot(slot), kind) = self else { return ROOT };
        let kind = match kind {
            Kind::Container => 2,
            Kind::Link => 3,
            Kind::Proc => 4,
            Kind::Pressure => 5,
            Kind::File(file) => FILES + file as u64,
        };
        slot << 8 | kind
    }

    pub(crate) fn of_number(number: u64) -> Option<Node> {
        if number == ROOT {
            return Some(Node::Root);
        }
        let kind = match number & 0xff {
            2 => Kind::Container,
            3 => Kind::Link,
            4 => Kind::Proc,
            5 => Kind::Pressure,
            file => {
                let index = usize::try_from(file.checked_sub(FILES)?).ok()?;
                Kind::File(*ProcFile::ALL.get(index)?)
            }
        };
        Some(Node::Of(Slot(number >> 8), kind))
    }
}

impl Kind {
    /// What is in it, if it is a directory.
    pub(crate) fn children(self) -> Vec<(String, Kind)> {
        let dir = match self {
            Kind::Container => return vec![("proc".into(), Kind::Proc)],
            Kind::Proc => Dir::Proc,
            Kind::Pressure => Dir::Pressure,
            Kind::Link | Kind::File(_) => return Vec::new(),
        };
        let children = dir.fixed_children().into_iter().filter_map(|entry| match entry {
            Entry::Dir(Dir::Pressure) => Some((entry.name(), Kind::Pressure)),
            // Nobody is asked who opens a file.
            Entry::File(File::Proc(file)) if file.mode() & 0o004 != 0 => {
                Some((entry.name(), Kind::File(file)))
            }
            _ => None,
        });
        children.collect()
    }

    pub(crate) fn child(self, name: &[u8]) -> Option<Kind> {
        let found = self.children().into_iter().find(|(known, _)| known.as_bytes() == name);
        found.map(|(_, kind)| kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_one_node() {
        let mut kinds = vec![Kind::Container, Kind::Link];
        let mut next = 0;
        while let Some(&kind) = kinds.get(next) {
            kinds.extend(kind.children().into_iter().map(|(_, kind)| kind));
            next += 1;
        }
        // All but slabinfo.
        assert_eq!(kinds.len(), 4 + ProcFile::ALL.len() - 1);
        // A generation of 1, and an inode of 32 bits.
        for id in [1, 2, 0x1_ffff_ffff, u64::MAX] {
            let slot = Slot::of(CgroupId(id));
            for &kind in &kinds {
                let node = Node::Of(slot, kind);
                assert_eq!(Node::of_number(node.number()), Some(node));
            }
        }
        assert_eq!(Node::of_number(Node::Root.number()), Some(Node::Root));
        assert_eq!(Node::of_number(0), None);
        assert_eq!(Kind::Proc.child(b"meminfo"), Some(Kind::File(ProcFile::Meminfo)));
        assert_eq!(Kind::Proc.child(b"nothing"), None);
    }
}
