//! Files of the view as they are named on the command line.

use std::fmt;

use cgview_core::tree::{Dir, Entry, File};
use cgview_fuse::Service;

/// The name of a file, known to be one of the view.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FileName(pub(crate) File);

impl FileName {
    /// Reads `/proc/meminfo`, `proc/meminfo`, `meminfo`, `pressure/cpu`,
    /// `/sys/devices/system/cpu/online`.
    pub(crate) fn parse(name: &str) -> Result<FileName, String> {
        let trimmed = name.trim_start_matches('/');
        let first = trimmed.split('/').next().unwrap_or_default();
        let path = match first {
            "proc" | "sys" => trimmed.to_owned(),
            _ if name.starts_with('/') => {
                return Err("only /proc and /sys have files of the view".into());
            }
            _ => format!("proc/{trimmed}"),
        };
        match Entry::at(&path) {
            Some(Entry::File(file)) => Ok(FileName(file)),
            Some(Entry::Dir(_)) => Err("is a directory".into()),
            Some(Entry::Link(_)) => Err("is a symbolic link".into()),
            None => Err("the view has no such file".into()),
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Entry::File(self.0).path())
    }
}

/// All files that a process has, in the order of the directories.
pub(crate) fn all(
    service: &Service,
    pid: u32,
) -> Result<Vec<FileName>, cgview_fuse::service::Error> {
    let mut files = Vec::new();
    let mut dirs = vec![Dir::Root];
    while let Some(dir) = dirs.pop() {
        let mut below = Vec::new();
        for entry in service.list(pid, dir)? {
            match entry {
                Entry::File(file) => files.push(FileName(file)),
                Entry::Dir(dir) => below.push(dir),
                // It leads to what is listed elsewhere.
                Entry::Link(_) => {}
            }
        }
        dirs.extend(below.into_iter().rev());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_several_names() {
        for name in ["/proc/meminfo", "proc/meminfo", "meminfo", "//proc/meminfo"] {
            assert_eq!(FileName::parse(name).unwrap().to_string(), "/proc/meminfo");
        }
        for (name, path) in [
            ("pressure/cpu", "/proc/pressure/cpu"),
            ("sys/devices/system/cpu/online", "/sys/devices/system/cpu/online"),
            (
                "/sys/devices/system/cpu/cpu3/topology/core_id",
                "/sys/devices/system/cpu/cpu3/topology/core_id",
            ),
        ] {
            assert_eq!(FileName::parse(name).unwrap().to_string(), path);
        }
    }

    #[test]
    fn what_is_no_file_of_the_view_is_refused() {
        for name in [
            "",
            "/",
            "/proc",
            "proc/pressure",
            "/etc/passwd",
            "/meminfo",
            "version",
            "/proc/1/stat",
            "meminfo/x",
        ] {
            assert!(FileName::parse(name).is_err(), "{name}");
        }
    }
}
