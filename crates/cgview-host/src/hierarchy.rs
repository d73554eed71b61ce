//! Where the host's cgroup hierarchies are mounted, and which controller is on which.

use cgview_core::{
    parse::{CgroupEntry, ParseError, cgroup_membership},
    snapshot::{Controller, Version},
};
use procfs::process::MountInfo;

use crate::root::Root;

/// Which kinds of hierarchies a host has mounted, in systemd's words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layout {
    /// None at all.
    None,
    /// Hierarchies of cgroup v1 only.
    Legacy,
    /// Hierarchies of cgroup v1, and the unified one.
    Hybrid,
    /// The unified hierarchy only.
    Unified,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Layout::None => "none",
            Layout::Legacy => "legacy",
            Layout::Hybrid => "hybrid",
            Layout::Unified => "unified",
        })
    }
}

/// A mounted hierarchy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hierarchy {
    pub(crate) version: Version,
    pub(crate) controllers: Vec<String>,
    pub(crate) mount_point: String,
    pub(crate) mount_root: String,
    pub(crate) top: bool,
    pub(crate) bare_names: bool,
}

/// The controllers of v1 that have something to say about a view.
const V1_CONTROLLERS: [&str; 7] =
    ["blkio", "cpu", "cpuacct", "cpuset", "hugetlb", "memory", "pids"];

impl Hierarchy {
    /// Whose file names it has.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The controllers on it that a view is made from, by the kernel's names. The unified hierarchy has
    /// those of its `cgroup.controllers`.
    #[must_use]
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Where it is mounted, as the host names it.
    #[must_use]
    pub fn mount_point(&self) -> &str {
        &self.mount_point
    }

    /// The cgroup that is seen at the mount point: `/`, unless a part of the hierarchy is bound there.
    #[must_use]
    pub fn mount_root(&self) -> &str {
        &self.mount_root
    }

    /// The directory of the cgroup at `path`; `None` if it is not below the mount's root.
    pub(crate) fn dir(&self, path: &str) -> Option<String> {
        let below = below(path, &self.mount_root)?;
        Some(format!("{}{below}", self.mount_point))
    }

    /// Whether a cgroup is the root of all of the hierarchy, which has no limits.
    pub(crate) fn is_top(&self, path: &str) -> bool {
        self.top && path == self.mount_root
    }
}

/// All mounted hierarchies of a host that matter for a view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hierarchies {
    all: Vec<Hierarchy>,
}

impl Hierarchies {
    /// Finds them in the text of a `mountinfo`.
    ///
    /// `namespace` says where the reader's cgroup namespace begins, since the kernel writes all paths
    /// relative to it.
    pub(crate) fn find(root: &Root, mountinfo: &[u8], namespace: &NamespaceRoots) -> Hierarchies {
        let mut all: Vec<Hierarchy> = Vec::new();
        for mount in cgroup_mounts(mountinfo) {
            let base = namespace.of(mount.controllers.iter().map(String::as_str));
            let Some(mount_root) = join(base, &mount.root) else { continue };
            let mut hierarchy = Hierarchy {
                version: mount.version,
                controllers: mount.controllers,
                mount_point: mount.mount_point,
                mount_root,
                top: false,
                bare_names: mount.bare_names,
            };
            if hierarchy.version == Version::V1 && hierarchy.controllers.is_empty() {
                continue;
            }
            // A mount can be hidden by another, and a captured tree need not have all.
            if !root.has(&format!("{}/cgroup.procs", hierarchy.mount_point)) {
                continue;
            }
            hierarchy.top = is_top(root, &hierarchy);
            if hierarchy.version == Version::V2 {
                hierarchy.controllers = unified_controllers(root, &hierarchy.mount_point);
            }
            // One that shows all of the hierarchy is better than one that shows a part.
            match all.iter_mut().find(|known| known.is_same(&hierarchy)) {
                Some(known) if known.mount_root.len() > hierarchy.mount_root.len() => {
                    *known = hierarchy;
                }
                Some(_) => {}
                None => all.push(hierarchy),
            }
        }
        Hierarchies { all }
    }

    pub(crate) fn all(&self) -> &[Hierarchy] {
        &self.all
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Hierarchy> {
        self.all.get(index)
    }

    pub(crate) fn layout(&self) -> Layout {
        let any = |version| self.all.iter().any(|hierarchy| hierarchy.version == version);
        match (any(Version::V1), any(Version::V2)) {
            (false, false) => Layout::None,
            (true, false) => Layout::Legacy,
            (true, true) => Layout::Hybrid,
            (false, true) => Layout::Unified,
        }
    }

    /// The hierarchy that a controller's numbers come from: the v1 hierarchy that it is on, or else the
    /// unified one.
    pub(crate) fn of(&self, controller: Controller) -> Option<usize> {
        let name = match controller {
            Controller::Memory => Some("memory"),
            Controller::Cpu => Some("cpu"),
            Controller::Cpuacct => Some("cpuacct"),
            Controller::Cpuset => Some("cpuset"),
            Controller::Pids => Some("pids"),
            Controller::Hugetlb => Some("hugetlb"),
            Controller::Io => Some("blkio"),
            Controller::Pressure => None,
        };
        name.and_then(|name| self.of_v1(name)).or_else(|| self.unified())
    }

    pub(crate) fn unified(&self) -> Option<usize> {
        self.all.iter().position(|hierarchy| hierarchy.version == Version::V2)
    }

    pub(crate) fn of_v1(&self, controller: &str) -> Option<usize> {
        self.all.iter().position(|hierarchy| {
            hierarchy.version == Version::V1
                && hierarchy.controllers.iter().any(|known| known == controller)
        })
    }

    /// The cgroups of a process in each hierarchy, from the text of its `/proc/PID/cgroup`, as the
    /// kernel wrote them; `None` in hierarchies that it does not name.
    ///
    /// Names of cgroups may be any bytes. One that is not UTF-8 cannot be shown, and stands for the
    /// nearest ancestor that can.
    pub(crate) fn membership<'a>(
        &self,
        text: &'a [u8],
    ) -> Result<Vec<Option<&'a str>>, ParseError> {
        let mut paths = vec![None; self.all.len()];
        for entry in cgroup_membership(text) {
            let entry = entry?;
            let index = if entry.hierarchy == 0 && entry.controllers.is_empty() {
                self.unified()
            } else {
                entry
                    .controllers
                    .split(|&byte| byte == b',')
                    .find_map(|name| self.of_v1(std::str::from_utf8(name).ok()?))
            };
            if let Some(path) = index.and_then(|index| paths.get_mut(index)) {
                *path = Some(valid_prefix(entry.path));
            }
        }
        // The kernel names them all (`proc_cgroup_show()`). Nobody is in no cgroup, which would be the host.
        if paths.iter().all(Option::is_none) && !paths.is_empty() {
            return Err(ParseError::new(1, "the cgroups of a process", text));
        }
        Ok(paths)
    }
}

fn valid_prefix(path: &[u8]) -> &str {
    match std::str::from_utf8(path) {
        Ok(path) => path,
        Err(error) => path
            .get(..error.valid_up_to())
            .and_then(|valid| std::str::from_utf8(valid).ok())
            .and_then(parent)
            .unwrap_or("/"),
    }
}

/// Where a cgroup namespace begins in each hierarchy.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamespaceRoots {
    /// The controllers as `/proc/PID/cgroup` has them, and the path.
    roots: Vec<(String, String)>,
}

impl NamespaceRoots {
    /// Compares the cgroups of one process as seen from the hierarchies' roots (`absolute`) and as seen
    /// from the namespace (`relative`), both texts of `/proc/PID/cgroup`.
    ///
    /// A hierarchy in which the process is not below the namespace's root tells nothing.
    pub(crate) fn compare(absolute: &[u8], relative: &[u8]) -> NamespaceRoots {
        let relative: Vec<_> = cgroup_membership(relative).filter_map(Result::ok).collect();
        let mut roots = Vec::new();
        for entry in cgroup_membership(absolute).filter_map(Result::ok) {
            let same = |other: &&CgroupEntry<'_>| other.controllers == entry.controllers;
            let root = relative
                .iter()
                .find(same)
                .and_then(|other| strip_suffix(valid_prefix(entry.path), valid_prefix(other.path)));
            if let (Some(root), Ok(controllers)) = (root, std::str::from_utf8(entry.controllers)) {
                roots.push((controllers.to_owned(), root.to_owned()));
            }
        }
        NamespaceRoots { roots }
    }

    /// The root in the hierarchy that has any of `controllers`, or in the unified one if there are none;
    /// `/` if it is not known.
    pub(crate) fn of<'a>(&self, controllers: impl Iterator<Item = &'a str> + Clone) -> &str {
        self.known(controllers).unwrap_or("/")
    }

    /// Like [`NamespaceRoots::of`], `None` if it is not known.
    pub(crate) fn known<'a>(
        &self,
        controllers: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<&str> {
        let unified = controllers.clone().next().is_none();
        self.roots
            .iter()
            .find(|(known, _)| {
                if unified {
                    known.is_empty()
                } else {
                    known.split(',').any(|known| controllers.clone().any(|name| name == known))
                }
            })
            .map(|(_, root)| root.as_str())
    }
}

/// What is left of `path` when `suffix` is cut off: `/a/b` less `/b` is `/a`, less `/` is itself.
pub(crate) fn strip_suffix<'a>(path: &'a str, suffix: &str) -> Option<&'a str> {
    if suffix == "/" {
        return Some(path);
    }
    match path.strip_suffix(suffix)? {
        "" => Some("/"),
        root => Some(root),
    }
}

impl Hierarchy {
    /// Its controllers as `/proc/PID/cgroup` names them: none for the unified hierarchy.
    pub(crate) fn v1_controllers(&self) -> impl Iterator<Item = &str> + Clone {
        let v1 = self.version == Version::V1;
        self.controllers.iter().map(String::as_str).filter(move |_| v1)
    }

    fn is_same(&self, other: &Hierarchy) -> bool {
        self.version == other.version
            && (self.version == Version::V2 || self.controllers == other.controllers)
    }
}

/// Whether what is mounted is the hierarchy's own root. A cgroup namespace, or a bind mount, can show
/// another cgroup as `/`; the kernel gives some files to the root only (`CFTYPE_ONLY_ON_ROOT` of v1) and
/// some to all but the root (`CFTYPE_NOT_ON_ROOT`).
fn is_top(root: &Root, hierarchy: &Hierarchy) -> bool {
    if hierarchy.mount_root != "/" {
        return false;
    }
    let has = |name| root.has(&format!("{}/{name}", hierarchy.mount_point));
    match hierarchy.version {
        Version::V1 => has("release_agent"),
        Version::V2 => !has("cgroup.type"),
    }
}

fn unified_controllers(root: &Root, mount_point: &str) -> Vec<String> {
    let mut text = Vec::new();
    if root.read(&format!("{mount_point}/cgroup.controllers"), &mut text).is_err() {
        return Vec::new();
    }
    String::from_utf8_lossy(&text).split_whitespace().map(str::to_owned).collect()
}

/// A line of `mountinfo` that is a cgroup hierarchy.
pub(crate) struct CgroupMount {
    pub(crate) version: Version,
    pub(crate) controllers: Vec<String>,
    pub(crate) mount_point: String,
    /// As the kernel wrote it: relative to the reader's cgroup namespace.
    pub(crate) root: String,
    bare_names: bool,
}

/// The mounts of cgroup hierarchies in a `mountinfo`, in its order.
pub(crate) fn cgroup_mounts(mountinfo: &[u8]) -> impl Iterator<Item = CgroupMount> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
        // Other lines are none of our business; they may hold names that are not UTF-8.
        let line = std::str::from_utf8(line).ok()?;
        let (_, kind) = line.split_once(" - ")?;
        let version = match kind.split(' ').next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let mount = MountInfo::from_line(line).ok()?;
        let has = |name: &str| version == Version::V1 && mount.super_options.contains_key(name);
        Some(CgroupMount {
            version,
            controllers: V1_CONTROLLERS
                .iter()
                .filter(|name| has(name))
                .map(|&name| name.into())
                .collect(),
            mount_point: unescape(mount.mount_point.to_str()?),
            root: unescape(&mount.root),
            bare_names: has("noprefix"),
        })
    })
}

/// Undoes `mangle()` of `fs/seq_file.c`: blanks and backslashes are written in octal.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// What remains of `path` below `ancestor`: empty if they are the same, else beginning with `/`. `None`
/// if it is elsewhere.
pub(crate) fn below<'a>(path: &'a str, ancestor: &str) -> Option<&'a str> {
    if ancestor == "/" {
        return Some(if path == "/" { "" } else { path });
    }
    let rest = path.strip_prefix(ancestor)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// The cgroup above; `None` for the root.
pub(crate) fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        _ if path == "/" => None,
        0 => Some("/"),
        end => path.get(..end),
    }
}

/// Joins a path that may climb out of `base` by `/..`, as the kernel writes cgroups that are outside of
/// the reader's cgroup namespace (`kernfs_path_from_node()`). `None` if it climbs too high.
pub(crate) fn join(base: &str, relative: &str) -> Option<String> {
    let mut names: Vec<&str> = base.split('/').filter(|name| !name.is_empty()).collect();
    for name in relative.split('/').filter(|name| !name.is_empty()) {
        if name == ".." {
            names.pop()?;
        } else {
            names.push(name);
        }
    }
    Some(format!("/{}", names.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_goes_by_whole_names() {
        assert_eq!(below("/a/b", "/a"), Some("/b"));
        assert_eq!(below("/a", "/a"), Some(""));
        assert_eq!(below("/ab", "/a"), None);
        assert_eq!(below("/a", "/a/b"), None);
        assert_eq!(below("/a", "/"), Some("/a"));
        assert_eq!(below("/", "/"), Some(""));
        assert_eq!((parent("/a/b"), parent("/a"), parent("/")), (Some("/a"), Some("/"), None));
    }

    #[test]
    fn what_is_outside_of_a_namespace_is_found_from_its_root() {
        assert_eq!(join("/", "/a").as_deref(), Some("/a"));
        assert_eq!(join("/a/b", "/").as_deref(), Some("/a/b"));
        assert_eq!(join("/a/b", "/../c").as_deref(), Some("/a/c"));
        assert_eq!(join("/a/b", "/../../..").as_deref(), None);
    }

    #[test]
    fn roots_of_namespaces_are_what_two_views_differ_by() {
        let absolute = b"3:cpu,cpuacct:/a/b\n2:memory:/c\n1:name=systemd:/d\n0::/e/f\n";
        let relative = b"3:cpu,cpuacct:/b\n2:memory:/\n1:name=systemd:/d\n0::/../x\n";
        let roots = NamespaceRoots::compare(absolute, relative);
        assert_eq!(roots.of(["cpuacct"].into_iter()), "/a");
        assert_eq!(roots.of(["memory"].into_iter()), "/c");
        // The process is outside of it there, and in a hierarchy that is not named.
        assert_eq!(roots.of([].into_iter()), "/");
        assert_eq!(roots.of(["pids"].into_iter()), "/");
    }

    #[test]
    fn mounts_of_other_kinds_are_passed_over() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            23 1 0:5 / /proc\xff rw - proc proc rw\n\
            31 1 0:28 / /cg/a\\040b\\134c rw,nosuid shared:7 master:1 - cgroup cgroup rw,xattr,name=systemd\n\
            32 1 0:29 /../.. /cg/cpu rw - cgroup none rw,cpu,cpuacct,noprefix\n\
            33 1 0:30 / /cg/u rw - cgroup2 cgroup2 rw,nsdelegate\n\
            34 1 0:31 / broken - cgroup2\n";
        let mounts: Vec<_> = cgroup_mounts(text).collect();
        let seen: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.mount_point.as_str(), mount.root.as_str(), &mount.controllers[..]))
            .collect();
        let cpu = ["cpu".to_owned(), "cpuacct".to_owned()];
        assert_eq!(
            seen,
            [
                ("/cg/a b\\c", "/", &[][..]),
                ("/cg/cpu", "/../..", &cpu[..]),
                ("/cg/u", "/", &[][..])
            ]
        );
        assert!(mounts[1].bare_names && !mounts[2].bare_names);
    }
}
