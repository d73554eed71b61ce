//! The mounts of cgview and LXCFS in every mount namespace, and whether somebody still answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use procfs::process::{MountInfo, Process};

use super::Check;

/// How long a daemon may take to answer one read.
const PATIENCE: Duration = Duration::from_secs(2);

/// One file system of FUSE: all mounts of it share a daemon.
#[derive(Debug, Default)]
struct Daemon {
    /// `fuse.cgview`, `fuse.lxcfs`.
    fs_type: String,
    /// Where all of it is mounted, in the mount namespace of this process.
    mountpoints: BTreeSet<PathBuf>,
    /// Processes of other mount namespaces that have files of it bound over their own, the lowest pid of
    /// each.
    users: BTreeSet<i32>,
    /// Files by which to try it: the best first.
    files: Vec<PathBuf>,
}

/// Looks for mounts, and tries one file of each file system.
pub(super) fn checks() -> Vec<Check> {
    let daemons = find();
    if daemons.is_empty() {
        return vec![Check::note(
            "mounts",
            "no view is mounted",
            "cgview-fuse /var/lib/lxcfs serves one to all containers, `cgview run` to one command",
        )];
    }
    daemons.values().map(Daemon::check).collect()
}

/// All file systems of a view, by their device numbers.
fn find() -> BTreeMap<String, Daemon> {
    let mut daemons: BTreeMap<String, Daemon> = BTreeMap::new();
    let own = namespace("self");
    for (pid, namespace) in namespaces() {
        let is_own = Some(&namespace) == own.as_ref();
        let Ok(mounts) = Process::new(pid).and_then(|process| process.mountinfo()) else {
            continue;
        };
        for mount in mounts {
            if is_view(&mount.fs_type) {
                daemons.entry(mount.majmin.clone()).or_default().add(pid, is_own, &mount);
            }
        }
    }
    daemons
}

fn is_view(fs_type: &str) -> bool {
    matches!(fs_type, "fuse.cgview" | "fuse.lxcfs")
}

/// The lowest pid of each mount namespace.
fn namespaces() -> Vec<(i32, String)> {
    let mut seen = BTreeSet::new();
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter()
        .filter_map(|pid| Some((pid, namespace(&pid.to_string())?)))
        .filter(|(_, namespace)| seen.insert(namespace.clone()))
        .collect()
}

fn namespace(pid: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

impl Daemon {
    fn add(&mut self, pid: i32, is_own: bool, mount: &MountInfo) {
        self.fs_type.clone_from(&mount.fs_type);
        let is_whole = mount.root == "/";
        if is_whole && is_own {
            self.mountpoints.insert(mount.mount_point.clone());
        } else if !is_own && !is_whole {
            self.users.insert(pid);
        }
        // As that process sees it. A file that is bound alone is a file, of a whole mount one is known.
        let place = if is_whole {
            mount.mount_point.join("proc/meminfo")
        } else {
            mount.mount_point.clone()
        };
        let relative = place.strip_prefix("/").unwrap_or(&place);
        let path = Path::new("/proc").join(pid.to_string()).join("root").join(relative);
        // Other processes may be gone by the time that it is opened.
        if is_own {
            self.files.insert(0, path);
        } else {
            self.files.push(path);
        }
    }

    /// What comes of reading one of its files.
    fn answer(&self) -> Answer {
        let mut last = Answer::No(io::ErrorKind::NotFound.into());
        for file in &self.files {
            last = answer(file.clone());
            let cannot_tell = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
            if !matches!(&last, Answer::No(error) if cannot_tell.contains(&error.kind())) {
                break;
            }
        }
        last
    }

    fn name(&self) -> String {
        match self.mountpoints.first() {
            Some(mountpoint) => format!("{} at {}", self.fs_type, mountpoint.display()),
            None => format!("{} in containers", self.fs_type),
        }
    }

    fn check(&self) -> Check {
        let users = match self.users.len() {
            0 => "no other mount namespace has files of it".to_owned(),
            count => format!(
                "{count} other mount {} files of it",
                if count == 1 { "namespace has" } else { "namespaces have" }
            ),
        };
        let restart = || {
            let pids: Vec<_> = self.users.iter().map(i32::to_string).collect();
            if pids.is_empty() {
                String::new()
            } else {
                format!(", and restart the containers of processes {}", pids.join(", "))
            }
        };
        let unmount = || match self.mountpoints.first() {
            Some(mountpoint) => {
                format!("umount -l {0}, start the daemon for {0} again", mountpoint.display())
            }
            None => "start the daemon again".to_owned(),
        };
        match self.answer() {
            Answer::Yes => Check::ok(self.name(), format!("answers; {users}")),
            Answer::Dead => Check::broken(
                self.name(),
                format!("its daemon is gone; {users}"),
                format!("{}{}", unmount(), restart()),
            ),
            Answer::No(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::note(
                self.name(),
                format!("may not be looked at from here; {users}"),
                "run it as root",
            ),
            Answer::No(error) => Check::broken(
                self.name(),
                format!("gives an error: {error}; {users}"),
                "look at the daemon's log",
            ),
            Answer::Silent => Check::broken(
                self.name(),
                format!("does not answer within {} s; {users}", PATIENCE.as_secs()),
                "look at the daemon's log, and restart it if it stays so",
            ),
        }
    }
}

/// What comes of reading a file.
#[derive(Debug)]
enum Answer {
    Yes,
    /// `ENOTCONN`: nobody holds the other end of the connection.
    Dead,
    No(io::Error),
    Silent,
}

/// Reads a file in a thread of its own, which is left behind if nobody answers it.
fn answer(file: PathBuf) -> Answer {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let read = File::open(&file).and_then(|mut file| file.read(&mut [0; 64]));
        // Nobody waits for it any more, if it took long.
        let _ = sender.send(read);
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(_)) => Answer::Yes,
        Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOTCONN) => Answer::Dead,
        // An aborted connection, until it is unmounted.
        Ok(Err(error)) if error.raw_os_error() == Some(libc::ECONNABORTED) => Answer::Dead,
        Ok(Err(error)) => Answer::No(error),
        Err(_) => Answer::Silent,
    }
}
