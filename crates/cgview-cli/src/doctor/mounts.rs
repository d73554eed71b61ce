//! The mounts of cgview and LXCFS in every mount namespace, and whether somebody still answers.

use std::{collections::BTreeSet, path::PathBuf};

use cgview_attach::{
    Health, Survey,
    mounts::{CGVIEW, Device},
    namespaces::Process,
    survey::FileSystem,
};

use super::Check;

/// How many processes are named as examples.
const EXAMPLES: usize = 5;

/// What is known of each file system of a view.
pub(super) fn checks(survey: &Survey) -> Vec<Check> {
    let checks: Vec<_> = survey
        .filesystems
        .iter()
        .filter_map(|(&device, filesystem)| Some(View::of(survey, device, filesystem)?.check()))
        .collect();
    if checks.is_empty() {
        return vec![Check::note(
            "mounts",
            "no view is mounted",
            "cgview-fuse /var/lib/lxcfs serves one to all containers, `cgview run` to one command",
        )];
    }
    checks
}

/// A process, as in `4711 (java)`.
pub(super) fn name(process: &Process) -> String {
    format!("{} ({})", process.pid, process.name)
}

/// A file system, with what paths lead to.
struct View<'a> {
    filesystem: &'a FileSystem,
    /// Where all of it is mounted, in the mount namespace of this process.
    mountpoints: BTreeSet<PathBuf>,
    /// How many mounts there are, in all namespaces.
    mounts: usize,
    /// A process of each other mount namespace that has any of them.
    others: Vec<&'a Process>,
    /// How many other mount namespaces have files of it bound over their own.
    users: usize,
}

impl View<'_> {
    /// `None` if no path leads to any mount of it.
    fn of<'a>(survey: &'a Survey, device: Device, filesystem: &'a FileSystem) -> Option<View<'a>> {
        let mut view = View {
            filesystem,
            mountpoints: BTreeSet::new(),
            mounts: 0,
            others: Vec::new(),
            users: 0,
        };
        let (mut other, mut user) = (None, None);
        for (namespace, mount) in survey.mounts_of(device) {
            view.mounts += 1;
            if namespace.is_own {
                if mount.is_whole() {
                    view.mountpoints.insert(mount.mountpoint.clone());
                }
                continue;
            }
            if other.replace(namespace.id) != Some(namespace.id) {
                view.others.push(&namespace.process);
            }
            if !mount.is_whole() && user.replace(namespace.id) != Some(namespace.id) {
                view.users += 1;
            }
        }
        (view.mounts > 0).then_some(view)
    }

    fn name(&self) -> String {
        let fstype = &self.filesystem.fstype;
        match self.mountpoints.first() {
            Some(mountpoint) => format!("{fstype} at {}", mountpoint.display()),
            None => format!("{fstype} in containers"),
        }
    }

    fn users(&self) -> String {
        match self.users {
            0 => "no other mount namespace has files of it".to_owned(),
            1 => "1 other mount namespace has files of it".to_owned(),
            count => format!("{count} other mount namespaces have files of it"),
        }
    }

    /// How much is dead, and where.
    fn extent(&self) -> String {
        let mut text = match self.mounts {
            1 => "1 mount of it is left".to_owned(),
            count => format!("{count} mounts of it are left"),
        };
        if !self.others.is_empty() {
            let names: Vec<_> =
                self.others.iter().take(EXAMPLES).map(|process| name(process)).collect();
            let more = match self.others.len().saturating_sub(EXAMPLES) {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            text.push_str(&format!(
                ", in the mount {} of {}{more}",
                if self.others.len() == 1 { "namespace" } else { "namespaces" },
                names.join(", ")
            ));
        }
        text
    }

    fn check(&self) -> Check {
        let name = self.name();
        let found = format!("{}; {}", self.filesystem.health, self.users());
        match self.filesystem.health {
            Health::Alive | Health::ById => Check::ok(name, found),
            Health::Dead => {
                Check::broken(name, format!("its daemon is gone; {}", self.extent()), self.revive())
            }
            Health::Silent => Check::broken(
                name,
                found,
                "look at the daemon's log, and restart it if it stays so",
            ),
            Health::Unknown(_) => Check::note(name, found, "run it as root"),
            _ => Check::broken(name, found, "look at the daemon's log"),
        }
    }

    /// What to do about mounts whose daemon is gone.
    fn revive(&self) -> String {
        if self.filesystem.fstype == CGVIEW {
            let start = match self.mountpoints.first() {
                Some(mountpoint) => format!("cgview-fuse --replace {}", mountpoint.display()),
                None => "cgview-fuse".to_owned(),
            };
            return format!("start {start}, then run `cgview doctor --repair`");
        }
        let mut text = match self.mountpoints.first() {
            Some(mountpoint) => {
                format!("umount -l {0}, start the daemon for {0} again", mountpoint.display())
            }
            None => "start the daemon again".to_owned(),
        };
        if !self.others.is_empty() {
            let pids: Vec<_> = self.others.iter().map(|process| process.pid.to_string()).collect();
            text.push_str(&format!(
                ", and restart the containers of processes {}",
                pids.join(", ")
            ));
        }
        text
    }
}
