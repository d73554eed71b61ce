//! The mounts of one mount namespace, as a line of `/proc/PID/mountinfo` tells each.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fmt,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use rustix::mount::MountAttrFlags;

use crate::bind::MARK;

/// The type of cgview's own file system.
pub const CGVIEW: &str = "fuse.cgview";

/// The type of LXCFS's.
pub const LXCFS: &str = "fuse.lxcfs";

/// The number of a file system: the `st_dev` of its files.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Device {
    /// 0 for those without a block device.
    pub major: u32,
    /// What tells file systems without a block device apart; the name of its directory in
    /// `/sys/fs/fuse/connections`.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What becomes of mounts that are made below a mount, or below its peers
/// (`Documentation/filesystems/sharedsubtree.rst`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Propagation {
    /// It has peers, or may get some: `shared:N`.
    pub shared: bool,
    /// It follows others: `master:N`.
    pub slave: bool,
    /// It cannot be bound elsewhere.
    pub unbindable: bool,
}

/// One mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// The kernel's number for it, given to another one after it is gone.
    pub id: u64,
    /// The mount that it is mounted on.
    pub parent: u64,
    /// The file system.
    pub device: Device,
    /// Which file or directory of the file system is mounted, from its root: `/` for all of it.
    pub root: PathBuf,
    /// Where, as seen by the process whose `mountinfo` this is.
    pub mountpoint: PathBuf,
    /// Read-only, `nosuid` and the like, of this mount and not of its file system.
    pub attributes: MountAttrFlags,
    /// What becomes of mounts below it.
    pub propagation: Propagation,
    /// The number of its peer group, in whatever namespaces they are: `shared:N`.
    pub peers: Option<u64>,
    /// Whether it shows other owners than the file system has (Linux 5.12).
    pub is_idmapped: bool,
    /// `fuse.cgview`, `proc`, `ext4`.
    pub fstype: String,
}

impl Mount {
    /// Whether it is of cgview or LXCFS.
    #[must_use]
    pub fn is_view(&self) -> bool {
        self.fstype == CGVIEW || self.fstype == LXCFS
    }

    /// Whether it shows all of its file system.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Whether [`attach()`](crate::attach()) has made it: a file of cgview over its namesake, with attributes that nobody
    /// else gives it.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.fstype == CGVIEW && self.file() == self.mountpoint && self.attributes.contains(MARK)
    }

    /// Which file or directory of a view it shows: `/proc/stat`, also where it is that of one container in the fast mount,
    /// `/4711/proc/stat`.
    #[must_use]
    pub fn file(&self) -> &Path {
        let text = self.root.to_str().unwrap_or_default();
        let of_one =
            text.trim_start_matches('/').find('/').and_then(|end| text.split_at_checked(end + 1));
        match of_one {
            Some((number, file)) if number.bytes().skip(1).all(|byte| byte.is_ascii_digit()) => {
                Path::new(file)
            }
            _ => &self.root,
        }
    }

    /// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - FSTYPE SOURCE OPTIONS`: proc(5).
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut words = line.split(|&byte| byte == b' ');
        let id = number(words.next()?)?;
        let parent = number(words.next()?)?;
        let (major, minor) = std::str::from_utf8(words.next()?).ok()?.split_once(':')?;
        let device = Device { major: major.parse().ok()?, minor: minor.parse().ok()? };
        let root = unescape(words.next()?);
        let mountpoint = unescape(words.next()?);
        let (attributes, is_idmapped) = attributes(words.next()?);
        let mut propagation = Propagation::default();
        let mut peers = None;
        for tag in words.by_ref().take_while(|&word| word != b"-") {
            if let Some(group) = tag.strip_prefix(b"shared:") {
                propagation.shared = true;
                peers = number(group);
            }
            propagation.slave |= tag.starts_with(b"master:");
            propagation.unbindable |= tag == b"unbindable";
        }
        let fstype = String::from_utf8_lossy(words.next()?).into_owned();
        // What seq_dentry() adds to the name of a file that the file system does not have any more.
        let root = root.strip_suffix(b"//deleted").map(<[u8]>::to_vec).unwrap_or(root);
        Some(Mount {
            id,
            parent,
            device,
            root: OsString::from_vec(root).into(),
            mountpoint: OsString::from_vec(mountpoint).into(),
            attributes,
            propagation,
            peers,
            is_idmapped,
            fstype,
        })
    }
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The options of a mount (`show_mnt_opts()` of `fs/proc_namespace.c`) as attributes that make another
/// one alike, and whether it is idmapped.
fn attributes(options: &[u8]) -> (MountAttrFlags, bool) {
    let mut attributes = MountAttrFlags::empty();
    let (mut is_idmapped, mut is_strict) = (false, true);
    for option in options.split(|&byte| byte == b',') {
        attributes |= match option {
            b"ro" => MountAttrFlags::MOUNT_ATTR_RDONLY,
            b"nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
            b"nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
            b"noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            b"nodiratime" => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            b"nosymfollow" => MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
            b"noatime" => {
                is_strict = false;
                MountAttrFlags::MOUNT_ATTR_NOATIME
            }
            b"relatime" => {
                is_strict = false;
                MountAttrFlags::MOUNT_ATTR_RELATIME
            }
            b"idmapped" => {
                is_idmapped = true;
                continue;
            }
            _ => continue,
        };
    }
    // The kernel has no word for it.
    attributes.set(MountAttrFlags::MOUNT_ATTR_STRICTATIME, is_strict);
    (attributes, is_idmapped)
}

/// A path as it was before the kernel wrote it into `mountinfo`: blanks, newlines and backslashes are in octal there
/// (`mangle()`).
#[must_use]
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) =
            (first, tail)
        {
            plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            plain.push(*first);
        }
    }
    plain
}

/// All mounts that a process sees.
#[derive(Clone, Debug, Default)]
pub struct Table {
    mounts: Vec<Mount>,
    /// What is mounted on a mount, by that and the place.
    on: HashMap<(u64, PathBuf), usize>,
}

impl Table {
    /// Parses the text of a `mountinfo`, as bytes: a mountpoint may have any name. Lines that are not
    /// understood are left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> Table {
        let lines = text.split(|&byte| byte == b'\n');
        let mounts: Vec<Mount> = lines.filter_map(Mount::parse).collect();
        let on = mounts
            .iter()
            .enumerate()
            .filter(|(_, mount)| mount.id != mount.parent)
            .map(|(index, mount)| ((mount.parent, mount.mountpoint.clone()), index))
            .collect();
        Table { mounts, on }
    }

    /// All of them, in the order of the kernel.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The mount that a path leads to, which is one of those mounted at that path or above it. The path
    /// is absolute and has no links. `None` if it is one that the process does not see the root of.
    #[must_use]
    pub fn at(&self, path: &Path) -> Option<&Mount> {
        // What all is mounted on: the parent of the root, or of the mount that the root is a directory of,
        // which a process does not see.
        let seen: HashSet<u64> = self.mounts.iter().map(|mount| mount.id).collect();
        let is_first = |mount: &&Mount| mount.id == mount.parent || !seen.contains(&mount.parent);
        let mut id = self.mounts.iter().find(is_first)?.parent;
        let mut found = None;
        let mut places: Vec<&Path> = path.ancestors().collect();
        places.reverse();
        for place in places {
            while let Some(next) = self.on(id, place) {
                id = next.id;
                found = Some(next);
            }
        }
        found
    }

    fn on(&self, id: u64, place: &Path) -> Option<&Mount> {
        self.mounts.get(*self.on.get(&(id, place.to_owned()))?)
    }

    /// Whether a path leads to a mount: no other one covers it, nor the directory that it is in.
    #[must_use]
    pub fn is_visible(&self, mount: &Mount) -> bool {
        self.at(&mount.mountpoint).is_some_and(|seen| seen.id == mount.id)
    }

    /// The mounts that cover all of a mount, from the lowest up.
    #[must_use]
    pub fn above(&self, mount: &Mount) -> Vec<&Mount> {
        let first = self.on(mount.id, &mount.mountpoint);
        std::iter::successors(first, |above| self.on(above.id, &above.mountpoint)).collect()
    }

    /// The mount that a mount covers all of: what is seen if it is unmounted.
    #[must_use]
    pub fn beneath(&self, mount: &Mount) -> Option<&Mount> {
        self.mounts
            .iter()
            .find(|other| other.id == mount.parent && other.mountpoint == mount.mountpoint)
    }
}

/// Whether a `mountinfo` has a line with a view, without parsing it.
pub(crate) fn mentions_view(text: &[u8]) -> bool {
    [CGVIEW, LXCFS].iter().any(|fstype| {
        let word = format!(" - {fstype} ");
        text.windows(word.len()).any(|window| window == word.as_bytes())
    })
}

/// A path from the root of a file system, from one of its directories instead.
pub(crate) fn relative(root: &Path) -> &Path {
    let bytes = root.as_os_str().as_bytes();
    match bytes.strip_prefix(b"/") {
        Some(relative) => Path::new(std::ffi::OsStr::from_bytes(relative)),
        None => root,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
1 1 0:2 / / rw - rootfs rootfs rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 27 0:21 / /proc rw,relatime - proc proc rw
36 22 0:44 /proc/meminfo /proc/meminfo ro,nosuid,nodev,noexec,noatime - fuse.cgview cgview ro
37 22 0:44 /proc/stat /proc/stat rw,nosymfollow,nodiratime master:7 unbindable - fuse.cgview cgview ro
38 37 0:45 /proc/stat /proc/stat ro,relatime shared:8 master:7 - fuse.cgview cgview ro
40 27 0:46 / /srv/a\\040b ro,idmapped,noatime - fuse.lxcfs lxcfs rw
41 27 0:47 / /srv rw - tmpfs tmpfs rw
";

    fn mount(id: u64) -> Mount {
        let table = Table::parse(TABLE.as_bytes());
        table.mounts().iter().find(|mount| mount.id == id).unwrap().clone()
    }

    #[test]
    fn a_line_of_mountinfo() {
        let meminfo = mount(36);
        assert_eq!((meminfo.parent, meminfo.device.to_string()), (22, "0:44".into()));
        assert_eq!(meminfo.root, Path::new("/proc/meminfo"));
        assert!(meminfo.is_view() && !meminfo.is_whole() && !meminfo.is_idmapped);
        assert_eq!(
            meminfo.attributes,
            MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC
                | MountAttrFlags::MOUNT_ATTR_NOATIME
        );
        assert_eq!(meminfo.propagation, Propagation::default());

        let stat = mount(37);
        let expected = Propagation { shared: false, slave: true, unbindable: true };
        assert_eq!(stat.propagation, expected);
        assert_eq!(
            stat.attributes,
            MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW
                | MountAttrFlags::MOUNT_ATTR_NODIRATIME
                | MountAttrFlags::MOUNT_ATTR_STRICTATIME
        );
        let expected = Propagation { shared: true, slave: true, unbindable: false };
        assert_eq!((mount(38).propagation, mount(38).peers), (expected, Some(8)));

        let whole = mount(40);
        assert!(whole.is_view() && whole.is_whole() && whole.is_idmapped);
        assert_eq!(whole.mountpoint, Path::new("/srv/a b"));
    }

    #[test]
    fn what_attach_made_is_known_by_its_attributes() {
        let of = |place: &str, options: &str, fstype: &str| {
            let is_attached = |root: &str| {
                let line = format!("9 1 0:44 {root} {place} {options} - {fstype} cgview ro");
                Mount::parse(line.as_bytes()).unwrap().is_attached()
            };
            // In the fast mount too.
            let [shared, fast] = ["/proc/stat", "/4711/proc/stat"].map(is_attached);
            assert_eq!(shared, fast);
            assert!(!is_attached("/proc") && !is_attached("/x/proc/stat"));
            shared
        };
        let marked = "ro,nosuid,nodev,noexec,noatime,nodiratime";
        assert!(of("/proc/stat", marked, CGVIEW));
        assert!(!of("/proc/stat", "ro,nosuid,nodev,noexec,noatime", CGVIEW));
        assert!(!of("/srv/stat", marked, CGVIEW) && !of("/proc/stat", marked, LXCFS));
    }

    #[test]
    fn names_of_any_bytes_are_kept_and_other_lines_left_out() {
        let text =
            b"junk\n9 1 0:1 /x\\134//deleted /mnt/\xff\\012 rw - fuse.cgview cgview rw\n9 1\n";
        let table = Table::parse(text);
        let [mount] = table.mounts() else { panic!("{table:?}") };
        assert_eq!(mount.root, Path::new("/x\\"));
        assert_eq!(mount.mountpoint.as_os_str().as_bytes(), b"/mnt/\xff\n");
        assert!(mentions_view(text) && !mentions_view(b"9 1 0:1 / /fuse.cgview rw - proc proc rw"));
    }

    #[test]
    fn a_path_leads_to_the_mount_that_is_seen() {
        let table = Table::parse(TABLE.as_bytes());
        let at = |path: &str| table.at(Path::new(path)).unwrap().id;
        assert_eq!(at("/"), 27);
        assert_eq!(at("/etc/passwd"), 27);
        assert_eq!(at("/proc/self"), 22);
        assert_eq!(at("/proc/meminfo"), 36);
        assert_eq!(at("/proc/stat"), 38);
        assert_eq!(at("/srv/a b"), 41);
        assert!(table.is_visible(&mount(36)) && table.is_visible(&mount(38)));
        // Covered by a mount of the same place, and in a directory that was covered later.
        assert!(!table.is_visible(&mount(37)) && !table.is_visible(&mount(40)));
        assert_eq!(table.above(&mount(37)), [&mount(38)]);
        assert_eq!(table.beneath(&mount(38)).unwrap().id, 37);
        assert_eq!(table.beneath(&mount(36)), None);
    }

    #[test]
    fn a_process_with_another_root_sees_less() {
        let text = "50 49 0:9 / / rw - overlay overlay rw\n51 50 0:5 / /proc rw - proc proc rw\n";
        let table = Table::parse(text.as_bytes());
        assert_eq!(table.at(Path::new("/proc/stat")).unwrap().id, 51);
        assert!(Table::parse(b"").at(Path::new("/")).is_none());

        // Its root is a directory of a mount.
        let text = "60 27 0:44 /proc/stat /stat rw - fuse.cgview cgview rw\n";
        let table = Table::parse(text.as_bytes());
        assert_eq!(table.at(Path::new("/stat")).unwrap().id, 60);
        assert!(table.is_visible(&table.mounts()[0]));
        assert_eq!(table.at(Path::new("/etc")), None);
    }
}
