//! Which files of a view are put over the kernel's.

use std::{fmt, str::FromStr};

use cgview_core::tree::{Dir, Entry, File, ProcFile};

/// A choice of files and directories of the view, each of which is bound over its namesake by itself: a
/// file of `/proc`, and all of `/sys/devices/system/cpu` and `node`, whose directories go by numbers of
/// the view's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Files(Vec<Entry>);

/// What a name may begin with that is not written, in the order in which it is tried.
const PLACES: [&str; 3] = ["", "proc/", "sys/devices/system/"];

impl Files {
    /// All that the view has.
    #[must_use]
    pub fn all() -> Files {
        Files(below(Dir::Root))
    }

    /// These, of which none is below another one.
    pub(crate) fn of(entries: Vec<Entry>) -> Files {
        Files(entries)
    }

    /// The entries, none of which is below another one.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

impl Default for Files {
    fn default() -> Files {
        Files::all()
    }
}

/// Reads a list with commas: `meminfo,stat,pressure`, `pressure/cpu`, `/proc/uptime`, `proc`,
/// `/sys/devices/system/cpu`, `cpu/online`. A directory stands for all that is below it.
impl FromStr for Files {
    type Err = UnknownFile;

    fn from_str(list: &str) -> Result<Files, UnknownFile> {
        let mut entries: Vec<Entry> = Vec::new();
        for name in list.split(',').map(str::trim) {
            let unknown = || UnknownFile { name: name.to_owned() };
            let path = name.trim_matches('/');
            let absolute = name.starts_with('/');
            let places = PLACES.get(..if absolute { 1 } else { PLACES.len() }).unwrap_or_default();
            let found = places.iter().find_map(|place| Entry::at(&format!("{place}{path}")));
            match found.filter(|_| !path.is_empty()).ok_or_else(unknown)? {
                Entry::Dir(dir) => entries.extend(below(dir)),
                Entry::Link(_) => return Err(unknown()),
                file @ Entry::File(_) => entries.push(file),
            }
        }
        let all = entries.clone();
        let mut kept: Vec<Entry> = Vec::new();
        for entry in entries {
            let is_covered = ancestors(entry).any(|dir| all.contains(&Entry::Dir(dir)));
            if !is_covered && !kept.contains(&entry) {
                kept.push(entry);
            }
        }
        Ok(Files(kept))
    }
}

/// What is bound for a directory.
fn below(dir: Dir) -> Vec<Entry> {
    let proc = ProcFile::ALL.into_iter().map(|file| Entry::File(File::Proc(file)));
    match dir {
        Dir::Root => proc.chain([Dir::Cpu, Dir::Node].map(Entry::Dir)).collect(),
        Dir::Proc | Dir::Pressure => {
            proc.filter(|&file| ancestors(file).any(|above| above == dir)).collect()
        }
        Dir::Sys | Dir::Devices | Dir::System => vec![Entry::Dir(Dir::Cpu), Entry::Dir(Dir::Node)],
        dir => vec![Entry::Dir(dir)],
    }
}

fn ancestors(entry: Entry) -> impl Iterator<Item = Dir> {
    let mut next = (entry != Entry::Dir(Dir::Root)).then(|| entry.parent());
    std::iter::from_fn(move || {
        let dir = next?;
        next = (dir != Dir::Root).then(|| dir.parent());
        Some(dir)
    })
}

/// The view has nothing of that name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownFile {
    /// As it was written.
    pub name: String,
}

impl fmt::Display for UnknownFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the view has no file \"{}\"; it has names such as meminfo, pressure, cpu/online",
            self.name
        )
    }
}

impl std::error::Error for UnknownFile {}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &str) -> Vec<String> {
        list.parse::<Files>().unwrap().entries().iter().map(|entry| entry.path()).collect()
    }

    #[test]
    fn all_files_of_proc_and_the_directories_of_cpus_and_nodes() {
        let all = Files::all();
        assert_eq!(all.entries().len(), ProcFile::ALL.len() + 2);
        assert_eq!(paths("proc,sys"), all.entries().iter().map(|e| e.path()).collect::<Vec<_>>());
    }

    #[test]
    fn files_have_short_names_and_directories_stand_for_what_is_below() {
        assert_eq!(paths("meminfo, /proc/uptime"), ["/proc/meminfo", "/proc/uptime"]);
        assert_eq!(
            paths("pressure"),
            ["cpu", "io", "irq", "memory"].map(|name| format!("/proc/pressure/{name}"))
        );
        assert_eq!(paths("cpu"), ["/sys/devices/system/cpu"]);
        assert_eq!(paths("cpu/online"), ["/sys/devices/system/cpu/online"]);
        // What is below another one, or named twice, is bound once.
        assert_eq!(paths("cpu/online,cpu,cpu"), ["/sys/devices/system/cpu"]);
        assert_eq!(paths("proc/stat,stat"), ["/proc/stat"]);
    }

    #[test]
    fn what_the_view_does_not_have_is_refused() {
        for list in ["", "meminfo,", "/", "version", "/meminfo", "/etc/passwd", "cpu/cpu0/node0"] {
            assert!(list.parse::<Files>().is_err(), "{list}");
        }
    }
}
