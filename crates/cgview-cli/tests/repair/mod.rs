//! Containers that read through a daemon that is killed meanwhile.
use std::{
    fs,
    io::{ErrorKind, PipeReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, Namespaces, Process, Spawn};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use crate::daemon::{Daemon, PATIENCE};

/// What a reader has found, as often as that changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// The numbers of its own container.
    Own,
    /// Nobody answers.
    Dead,
    /// The host's numbers, another file, none at all.
    Other,
}

/// A container whose first process reads `/proc/meminfo` over and over.
pub(crate) struct Container {
    pub(crate) process: Process,
    output: PipeReader,
    text: String,
}

impl Container {
    /// Starts one with `limit` KiB of memory, and of all views the one at `view`. `set_up` binds files of the view where it likes, and gives the
    /// path at which to read `meminfo`.
    pub(crate) fn start(
        spawn: Spawn,
        view: &Path,
        limit: u64,
        pace: Duration,
        set_up: impl FnOnce() -> PathBuf,
    ) -> Container {
        let (output, mut input) = std::io::pipe().unwrap();
        let process = spawn.run(move || {
            leave_others(view);
            let path = set_up();
            let own = format!("MemTotal:{limit:>15} kB\n");
            let (mut last, mut count) = (None, 0_u64);
            loop {
                let read = fs::read_to_string(&path);
                let found = match &read {
                    Ok(text) if text.starts_with(&own) => 'o',
                    Err(error)
                        if [ErrorKind::NotConnected, ErrorKind::ConnectionAborted]
                            .contains(&error.kind()) =>
                    {
                        'd'
                    }
                    _ => 'x',
                };
                count += 1;
                if last.replace(found) != Some(found) {
                    let read = read.map(|text| text.lines().next().unwrap_or_default().to_owned());
                    writeln!(input, "{found} {count} {read:?}").unwrap();
                }
                if !pace.is_zero() {
                    thread::sleep(pace);
                }
            }
        });
        rustix::io::ioctl_fionbio(&output, true).unwrap();
        Container { process, output, text: String::new() }
    }

    /// All that it has found so far.
    pub(crate) fn found(&mut self) -> Vec<Found> {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = self.output.read(&mut bytes) {
            self.text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        let found = |line: &str| match line.chars().next() {
            Some('o') => Found::Own,
            Some('d') => Found::Dead,
            _ => Found::Other,
        };
        self.text.lines().map(found).collect()
    }

    /// What it found, in its own words.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn wait_for(&mut self, last: Found) {
        let end = Instant::now() + PATIENCE;
        while self.found().last() != Some(&last) {
            assert!(Instant::now() < end, "not {last:?} in time: {}", self.text);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The mounts of cgview that it sees: place, file, options, propagation.
    pub(crate) fn mounts(&self, daemon: &Daemon) -> Vec<String> {
        mounts_of(self.process.pid(), daemon)
    }
}

/// Whether a mount is the test's, and not left in a copied namespace by somebody else's test.
pub(crate) fn is_ours(mountpoint: &str, daemon: &Daemon) -> bool {
    ["/proc", "/sys", "/meminfo", daemon.dir().to_str().unwrap()]
        .iter()
        .any(|start| mountpoint.starts_with(start))
}

/// The mounts of cgview that a process sees, without the numbers that differ from mount to mount.
pub(crate) fn mounts_of(pid: u32, daemon: &Daemon) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let lines = text.lines().filter(|line| line.contains(" - fuse.cgview "));
    let lines = lines.filter(|line| is_ours(line.split(' ').nth(4).unwrap(), daemon));
    let mut mounts: Vec<_> = lines
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let dash = words.iter().position(|&word| word == "-").unwrap();
            let kind = |tag: &&str| tag.split(':').next().unwrap_or_default().to_owned();
            let tags: Vec<_> = words[6..dash].iter().map(kind).collect();
            format!("{} {} {} {}", words[4], words[3], words[5], tags.join(" "))
        })
        .collect();
    mounts.sort();
    mounts
}

/// Unmounts, in a namespace that is copied from this one, the views that other tests or users have mounted
/// meanwhile, if they can be.
pub(crate) fn leave_others(view: &Path) {
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        let place = line.split(' ').nth(4).unwrap();
        if line.contains(" - fuse.cgview ") && Path::new(place) != view {
            let _ = unmount(place, UnmountFlags::DETACH);
        }
    }
}

/// Binds files of a view over their namesakes, as a runtime does, and leaves it with nothing else of
/// the view.
pub(crate) fn bind_files(view: &Path) -> PathBuf {
    for name in ["proc/meminfo", "proc/stat", "proc/pressure", "sys/devices/system/cpu"] {
        if Path::new("/").join(name).exists() {
            mount_bind(view.join(name), Path::new("/").join(name)).unwrap();
        }
    }
    unmount(view, UnmountFlags::DETACH).unwrap();
    "/proc/meminfo".into()
}

/// A container of a cgroup.
pub(crate) fn container(cgroup: &Cgroup) -> Spawn {
    Spawn::new().cgroup(cgroup).container()
}

/// A container of a cgroup whose user namespace is its own.
pub(crate) fn user_container(cgroup: &Cgroup) -> Spawn {
    container(cgroup).new_namespaces(Namespaces::NEWUSER)
}

/// Changes what becomes of mounts below a mount.
pub(crate) fn propagate(path: &str, kind: MountPropagationFlags) {
    mount_change(path, kind).unwrap();
}

/// What the command said, and how it ended.
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `cgview doctor`.
pub(crate) fn doctor(arguments: &[&str]) -> Ran {
    ran(Command::new(env!("CARGO_BIN_EXE_cgview")).arg("doctor").args(arguments))
}

pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Ran {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
