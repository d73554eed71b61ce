//! What a container has of the view: its files bound over their namesakes, as runtimes bind them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cgview_testkit::is_guest;
use rustix::{io::Errno, mount::mount_bind};

/// Files of the view that can be read, by their paths below the mountpoint.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Below `proc`.
    pub proc: Vec<String>,
    /// Below `sys`.
    pub sys: Vec<String>,
}

/// The directories of the view that are bound as a whole: which CPUs they have is for the view to say.
const DIRS: [&str; 2] = ["sys/devices/system/cpu", "sys/devices/system/node"];

/// Binds the view over the container's own files, in the caller's mount namespace.
pub fn bind(mountpoint: &Path) {
    let mut files = Vec::new();
    find(mountpoint, &mountpoint.join("proc"), &mut files);
    for path in files.iter().map(String::as_str).chain(DIRS) {
        let target = Path::new("/").join(path);
        if target.exists() && again(|| mountpoint.join(path).try_exists()) {
            while let Err(errno) = mount_bind(mountpoint.join(path), &target) {
                assert_eq!(errno, Errno::CONNABORTED, "cannot bind {}", target.display());
            }
        }
    }
}

impl Files {
    /// Those that the caller can read now, before anything goes wrong: no kernel has all.
    #[must_use]
    pub fn of(mountpoint: &Path) -> Files {
        let mut files = Files::default();
        find(mountpoint, &mountpoint.join("proc"), &mut files.proc);
        find(mountpoint, &mountpoint.join("sys"), &mut files.sys);
        if is_guest() {
            // There are hundreds, and a path to one of them is long.
            let mut place = 0;
            files.sys.retain(|_| {
                place += 1;
                place % 5 == 0
            });
        }
        let is_readable = |path: &String| again(|| is_readable(&mountpoint.join(path)));
        files.proc.retain(is_readable);
        files.sys.retain(is_readable);
        files
    }

    /// Those of them that the caller can read, who is in a container with fewer CPUs; or with as few as one
    /// at times.
    #[must_use]
    pub(crate) fn of_container(&self, mountpoint: &Path, cpus_change: bool) -> Files {
        let mut files = self.clone();
        files.proc.retain(|path| again(|| is_readable(&mountpoint.join(path))));
        let cpus: Vec<_> = entries(&mountpoint.join("sys/devices/system/cpu"))
            .iter()
            .map(|entry| entry.file_name().unwrap_or_default().to_owned())
            .collect();
        files.sys.retain(|path| match cpu_of(path) {
            None | Some(0) => true,
            Some(number) => !cpus_change && cpus.contains(&format!("cpu{number}").into()),
        });
        files
    }
}

/// The number of the CPU that a file of sysfs is about.
fn cpu_of(path: &str) -> Option<usize> {
    let name = path.strip_prefix("sys/devices/system/cpu/cpu")?.split('/').next()?;
    name.parse().ok()
}

/// Asks until there is an answer: a machine may be so slow that its daemon's worker is taken for stuck, and before
/// Linux 6.9 what that one had read fails.
fn again<T>(ask: impl Fn() -> io::Result<T>) -> T {
    loop {
        match ask() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::CONNABORTED) => {}
            answer => return answer.unwrap(),
        }
    }
}

/// Whether a file can be read; an error is that the connection was aborted.
fn is_readable(path: &Path) -> io::Result<bool> {
    match fs::read(path) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::CONNABORTED) => Err(error),
        read => Ok(read.is_ok()),
    }
}

/// What is in a directory, by name.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let list = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut entries = again(list);
    entries.sort();
    entries
}

fn find(mountpoint: &Path, dir: &Path, files: &mut Vec<String>) {
    for path in entries(dir) {
        let kind = again(|| fs::symlink_metadata(&path)).file_type();
        if kind.is_dir() {
            find(mountpoint, &path, files);
        } else if kind.is_file() {
            let relative = path.strip_prefix(mountpoint).unwrap();
            files.push(relative.to_str().unwrap().to_owned());
        }
    }
}
