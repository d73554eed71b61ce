//! The views on this machine: their file systems, where they are mounted, and whether they answer.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error, Health, Result,
    mounts::{CGVIEW, Device, Mount},
    namespaces::{self, Namespace},
    probe::{Place, ask},
};

/// What is found on this machine.
#[derive(Debug)]
pub struct Survey {
    /// All mount namespaces, that of the caller first.
    pub namespaces: Vec<Namespace>,
    /// The file systems of cgview and LXCFS that are mounted in any of them.
    pub filesystems: BTreeMap<Device, FileSystem>,
}

/// A file system of a view: all mounts of it share a daemon.
#[derive(Debug)]
pub struct FileSystem {
    /// [`CGVIEW`] or [`LXCFS`](crate::mounts::LXCFS).
    pub fstype: String,
    /// What comes of asking it.
    pub health: Health,
    /// How many mounts of it no path leads to, because others cover them.
    pub covered: usize,
}

impl Survey {
    /// Looks through all mount namespaces, and asks each file system of a view once. Takes no longer for
    /// daemons that do not answer than one may take to answer.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be listed.
    pub fn take() -> Result<Survey> {
        Ok(Survey::of(namespaces::all()?))
    }

    /// Looks at some namespaces, of which the first is that of the caller.
    #[must_use]
    pub fn of(namespaces: Vec<Namespace>) -> Survey {
        let mut filesystems: BTreeMap<Device, (FileSystem, Vec<Place<'_>>)> = BTreeMap::new();
        for namespace in &namespaces {
            for mount in namespace.table.mounts().iter().filter(|mount| mount.is_view()) {
                let (filesystem, places) = filesystems.entry(mount.device).or_insert_with(|| {
                    let fstype = mount.fstype.clone();
                    let health = Health::Unknown(rustix::io::Errno::NOENT);
                    (FileSystem { fstype, health, covered: 0 }, Vec::new())
                });
                if !namespace.table.is_visible(mount) {
                    filesystem.covered += 1;
                    continue;
                }
                let place = Place { root: namespace.root(), mount };
                // Whole ones have a file that is known; the others, one file or another.
                if mount.is_whole() && namespace.is_own {
                    places.insert(0, place);
                } else {
                    places.push(place);
                }
            }
        }
        let (known, places): (Vec<_>, Vec<_>) = filesystems
            .into_iter()
            .map(|(device, (filesystem, places))| ((device, filesystem), places))
            .unzip();
        let health = ask(&places);
        let filesystems = known
            .into_iter()
            .zip(health)
            .map(|((device, filesystem), health)| (device, FileSystem { health, ..filesystem }))
            .collect();
        Survey { namespaces, filesystems }
    }

    /// As [`Survey::take()`], and again until the view at `mountpoint` ([`Survey::live()`]) answers, if it has
    /// been silent or given an error, for ten seconds and one survey: its daemon may have just been started, on
    /// a machine that is slow.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be listed.
    pub fn take_when_live(mountpoint: Option<&Path>) -> Result<Survey> {
        Survey::take()?.until_live(mountpoint, Survey::take)
    }

    /// This survey, or the last of those that are taken until the view at `mountpoint` answers, as
    /// [`Survey::take_when_live()`] does.
    pub(crate) fn until_live(
        self,
        mountpoint: Option<&Path>,
        again: impl Fn() -> Result<Survey>,
    ) -> Result<Survey> {
        let end = Instant::now() + STARTING;
        let mut survey = self;
        while survey.live(mountpoint).is_err()
            && survey.may_come_to_life(mountpoint)
            && Instant::now() < end
        {
            thread::sleep(PAUSE);
            survey = again()?;
        }
        Ok(survey)
    }

    /// Whether a whole view of cgview is mounted in the namespace of the caller, here if it is said where, of
    /// which it is not known that its daemon is gone.
    fn may_come_to_life(&self, mountpoint: Option<&Path>) -> bool {
        let mountpoint = mountpoint.map(resolve);
        let own = self.namespaces.first();
        own.map(|own| own.table.mounts()).unwrap_or_default().iter().any(|mount| {
            mount.fstype == CGVIEW
                && mount.is_whole()
                && mountpoint.as_ref().is_none_or(|path| mount.mountpoint == *path)
                && !self.is(mount, Health::Dead)
                && !self.is(mount, Health::ById)
        })
    }

    /// Whether a mount is of a file system that is in this state.
    fn is(&self, mount: &Mount, health: Health) -> bool {
        self.filesystems.get(&mount.device).is_some_and(|found| found.health == health)
    }

    /// The mounts of a file system that paths lead to, with their namespaces.
    pub fn mounts_of(&self, device: Device) -> impl Iterator<Item = (&Namespace, &Mount)> {
        self.namespaces.iter().flat_map(move |namespace| {
            let mounts = namespace.table.mounts().iter();
            mounts
                .filter(move |mount| mount.device == device && namespace.table.is_visible(mount))
                .map(move |mount| (namespace, mount))
        })
    }

    /// The mounts of cgview in a namespace whose daemon is gone. Those that no path leads to are left
    /// out.
    pub fn dead<'a>(&'a self, namespace: &'a Namespace) -> impl Iterator<Item = &'a Mount> {
        namespace.table.mounts().iter().filter(|mount| {
            mount.fstype == CGVIEW
                && self.is(mount, Health::Dead)
                && namespace.table.is_visible(mount)
        })
    }

    /// The whole views of cgview in the namespace of the caller that a path leads to.
    fn whole(&self) -> impl Iterator<Item = &Mount> {
        let own = self.namespaces.iter().take(1);
        own.flat_map(|own| {
            let whole = |mount: &&Mount| mount.fstype == CGVIEW && mount.is_whole();
            let mounts = own.table.mounts().iter().filter(whole);
            mounts.filter(|mount| own.table.is_visible(mount))
        })
    }

    /// The one that is mounted at `path`, if it answers, and how.
    fn whole_at(&self, path: &Path) -> Result<(&Mount, Health)> {
        let path = resolve(path);
        let Some(found) = self.whole().find(|mount| mount.mountpoint == path) else {
            return Err(Error::NotMounted { path });
        };
        match self.filesystems.get(&found.device).map(|found| found.health) {
            Some(health @ (Health::Alive | Health::ById)) => Ok((found, health)),
            Some(health) => Err(Error::NotServed { path, state: health.to_string() }),
            None => Err(Error::NotMounted { path }),
        }
    }

    /// The fast mount at `path` in the namespace of the caller, if it answers.
    ///
    /// # Errors
    ///
    /// [`Error`] says what there is instead.
    pub(crate) fn by_id(&self, path: &Path) -> Result<&Mount> {
        match self.whole_at(path)? {
            (found, Health::ById) => Ok(found),
            (found, _) => Err(Error::NotById { path: found.mountpoint.clone() }),
        }
    }

    /// Where a whole view of cgview is mounted that answers, in the namespace of the caller: at
    /// `mountpoint`, or the only one there is, or the one where LXCFS would have its own.
    ///
    /// # Errors
    ///
    /// [`Error`] says what there is instead, and what to do about it.
    pub fn live(&self, mountpoint: Option<&Path>) -> Result<&Mount> {
        if let Some(path) = mountpoint {
            return match self.whole_at(path)? {
                (found, Health::Alive) => Ok(found),
                (found, _) => Err(Error::NotShared { path: found.mountpoint.clone() }),
            };
        }
        let mut alive: Vec<&Mount> =
            self.whole().filter(|mount| self.is(mount, Health::Alive)).collect();
        // Of one view that is mounted twice, either will do.
        alive.sort_by_key(|mount| (mount.device, mount.mountpoint != Path::new(USUAL)));
        alive.dedup_by_key(|mount| mount.device);
        let usual = alive.iter().find(|mount| mount.mountpoint == Path::new(USUAL));
        match (alive.as_slice(), usual) {
            ([], _) => Err(Error::NoView),
            ([only], _) | (_, Some(only)) => Ok(only),
            (several, None) => Err(Error::Several {
                mountpoints: several.iter().map(|mount| mount.mountpoint.clone()).collect(),
            }),
        }
    }
}

/// How long a view may take until it answers.
const STARTING: Duration = Duration::from_secs(10);

/// How long to wait before it is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Where LXCFS is mounted by its packages, and cgview in its place.
const USUAL: &str = "/var/lib/lxcfs";

/// Makes a path absolute and free of links, without touching its last component: that may be a mount
/// whose daemon does not answer.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            parent.canonicalize().map(|parent| parent.join(name)).unwrap_or(absolute)
        }
        _ => absolute,
    }
}
