//! What a container has of the view: its files bound over their namesakes, as runtimes bind them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::mount::mount_bind;

/// The files of the view that can be read in a container.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Below `proc`, by their paths below the mountpoint.
    pub proc: Vec<String>,
    /// Below `sys`.
    pub sys: Vec<String>,
    /// Those that are there and could not be read before anything went wrong, and why: no kernel has all.
    pub unreadable: Vec<(String, io::ErrorKind)>,
}

/// The directories of the view that are bound as a whole: which CPUs they have is for the view to say.
const DIRS: [&str; 2] = ["sys/devices/system/cpu", "sys/devices/system/node"];

/// Binds the view over the container's own files, in the caller's mount namespace.
pub fn bind(mountpoint: &Path) {
    let mut files = Vec::new();
    find(mountpoint, &mountpoint.join("proc"), &mut files);
    for path in files.iter().map(String::as_str).chain(DIRS) {
        let target = Path::new("/").join(path);
        if target.exists() && mountpoint.join(path).exists() {
            mount_bind(mountpoint.join(path), &target).unwrap_or_else(|errno| {
                panic!("cannot bind {}: {errno}", target.display());
            });
        }
    }
}

/// Finds the files that the caller can read through a mountpoint.
#[must_use]
pub fn files_of(mountpoint: &Path) -> Files {
    let mut files = Files::default();
    let mut all = Vec::new();
    find(mountpoint, &mountpoint.join("proc"), &mut all);
    find(mountpoint, &mountpoint.join("sys"), &mut all);
    for path in all {
        match fs::read(mountpoint.join(&path)) {
            Err(error) => files.unreadable.push((path, error.kind())),
            Ok(_) if path.starts_with("proc/") => files.proc.push(path),
            Ok(_) => files.sys.push(path),
        }
    }
    files
}

fn find(mountpoint: &Path, dir: &Path, files: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            find(mountpoint, &path, files);
        } else if kind.is_file() {
            let relative = path.strip_prefix(mountpoint).unwrap();
            files.push(relative.to_str().unwrap().to_owned());
        }
    }
}
