//! Live mounts in the place of dead ones, in every mount namespace.

use std::{
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::{io::Errno, process::geteuid};

use crate::{
    Error, Health, Result, Survey,
    helper::wait_for,
    mounts::{CGVIEW, Mount, Table},
    namespaces::{Namespace, Process},
    probe::{PATIENCE, open_mount},
    step::Step,
    swap::{self, Job, Said},
};

/// How many mounts one helper replaces: each takes a descriptor.
const AT_ONCE: usize = 128;

/// Which namespaces to repair.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// All that there are.
    All,
    /// All but that of the caller.
    Others,
    /// Those with these numbers ([`Namespace::id`]).
    Only(Vec<u64>),
}

impl Scope {
    fn has(&self, namespace: &Namespace) -> bool {
        match self {
            Scope::All => true,
            Scope::Others => !namespace.is_own,
            Scope::Only(ids) => ids.contains(&namespace.id),
        }
    }
}

/// What was repaired.
#[derive(Debug)]
pub struct Report {
    /// Where the mounts were taken from.
    pub live: PathBuf,
    /// The namespaces that had dead mounts.
    pub namespaces: Vec<Repaired>,
}

impl Report {
    /// What became of each mount.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        let mounts = self.namespaces.iter().flat_map(|namespace| &namespace.mounts);
        mounts.map(|mount| &mount.outcome)
    }

    /// Whether nothing is dead that was looked at.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.outcomes().any(|outcome| matches!(outcome, Outcome::Failed(_)))
    }
}

/// A namespace that had dead mounts.
#[derive(Debug)]
pub struct Repaired {
    /// Its number.
    pub id: u64,
    /// A process in it.
    pub process: Process,
    /// Whether the caller is in it.
    pub is_own: bool,
    /// What was dead there.
    pub mounts: Vec<Replaced>,
}

/// A mount that was dead.
#[derive(Debug)]
pub struct Replaced {
    /// Where.
    pub mountpoint: PathBuf,
    /// Which file or directory of the view.
    pub root: PathBuf,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a dead mount.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// A live one is in its place.
    Swapped,
    /// A live one is on top of it: it is locked, or the kernel cannot put one beneath.
    Covered,
    /// It was not there any more.
    Gone,
    /// It is as it was.
    Failed(Failure),
}

/// Why a mount is still dead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The kernel, or the live view, refused.
    #[error(transparent)]
    Step(#[from] crate::Failure),
    /// It shows other owners than its file system has, by a mapping that the kernel does not tell.
    #[error("cannot make another idmapped mount like it; mount it again")]
    Idmapped,
    /// What replaces it did not come back: the live view, or a file system of the container, hangs.
    #[error(
        "cannot replace it in time: the live view or a file system of the container does not answer"
    )]
    Late,
    /// No process could be started.
    #[error("cannot start a process to replace it")]
    Process(#[source] io::Error),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Swapped => f.write_str("replaced by a live mount"),
            Outcome::Covered => f.write_str("covered by a live mount"),
            Outcome::Gone => f.write_str("not there any more"),
            Outcome::Failed(failure) => {
                write!(f, "{failure}")?;
                match std::error::Error::source(failure) {
                    Some(source) => write!(f, ": {source}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Surveys this machine and repairs all of it from the view that is mounted at `live` in the mount
/// namespace of the caller.
///
/// Forks, waits for its children and may leave one behind that hangs, so a daemon calls it in a process
/// of its own.
///
/// # Errors
///
/// As [`repair()`] and [`Survey::take()`].
pub fn repair_all(live: &Path) -> Result<Report> {
    let survey = Survey::take_when_live(Some(live))?;
    repair(&survey, Some(live), &Scope::All)
}

/// Puts mounts of the view at `live` ([`Survey::live()`]) in the place of the dead ones of cgview that the
/// survey found. Mounts whose daemon answers, or might yet, are left alone, and so are those of LXCFS.
///
/// Each new mount shows the file that the dead one did, with its attributes and propagation; see the
/// [module](self). What one repair has done the next one does not do again.
///
/// # Errors
///
/// [`Error`], if nothing can be repaired. What goes wrong with one mount is its [`Outcome`].
pub fn repair(survey: &Survey, live: Option<&Path>, scope: &Scope) -> Result<Report> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let live = survey.live(live)?;
    let own = survey.namespaces.first().map(Namespace::root);
    let root = own
        .ok_or(Errno::NOENT)
        .and_then(|root| open_mount(root, &live.mountpoint, live.id, live.device))
        .map_err(|_| Error::NotMounted { path: live.mountpoint.clone() })?;
    let namespaces = survey
        .namespaces
        .iter()
        .filter(|namespace| scope.has(namespace))
        .filter_map(|namespace| {
            let dead: Vec<_> = survey.dead(namespace).collect();
            if dead.is_empty() {
                return None;
            }
            let _lock = namespace.lock();
            let mut mounts = Vec::with_capacity(dead.len());
            for group in dead.chunks(AT_ONCE) {
                mounts.extend(replace(survey, namespace, root.as_fd(), group));
            }
            Some(Repaired {
                id: namespace.id,
                process: namespace.process.clone(),
                is_own: namespace.is_own,
                mounts,
            })
        })
        .collect();
    Ok(Report { live: live.mountpoint.clone(), namespaces })
}

/// Replaces some mounts of a namespace.
fn replace(
    survey: &Survey,
    namespace: &Namespace,
    live: BorrowedFd<'_>,
    dead: &[&Mount],
) -> Vec<Replaced> {
    let jobs: Vec<_> = dead
        .iter()
        .filter(|mount| !mount.is_idmapped)
        .map(|mount| Job { mount, beneath: view_beneath(survey, &namespace.table, mount) })
        .collect();
    let mut outcomes: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
    match swap::start(namespace, live, &jobs) {
        Ok(helper) => {
            let mut helpers = [helper];
            wait_for(&mut helpers, PATIENCE * 2);
            for (index, said) in helpers.iter().flat_map(swap::heard) {
                if let Some(place) = outcomes.get_mut(index) {
                    *place = Some(outcome(said));
                }
            }
        }
        Err(error) => {
            for place in &mut outcomes {
                let error = io::Error::new(error.kind(), error.to_string());
                *place = Some(Outcome::Failed(Failure::Process(error)));
            }
        }
    }
    let mut outcomes = outcomes.into_iter();
    dead.iter()
        .map(|mount| Replaced {
            mountpoint: mount.mountpoint.clone(),
            root: mount.root.clone(),
            outcome: if mount.is_idmapped {
                Outcome::Failed(Failure::Idmapped)
            } else {
                outcomes.next().flatten().unwrap_or(Outcome::Failed(Failure::Late))
            },
        })
        .collect()
}

fn outcome(said: Said) -> Outcome {
    match said {
        Said::Swapped => Outcome::Swapped,
        Said::Covered => Outcome::Covered,
        Said::Failed(crate::Failure { step: Step::Find, errno: Errno::STALE | Errno::NOENT }) => {
            Outcome::Gone
        }
        Said::Failed(failure) => Outcome::Failed(failure.into()),
    }
}

/// The mount of cgview that is seen if a dead one is unmounted: one that was covered by a repair before.
/// Whether it is dead too cannot be asked, as no path leads to it; but it is never the host's file.
fn view_beneath<'a>(survey: &Survey, table: &'a Table, mount: &Mount) -> Option<&'a Mount> {
    table.beneath(mount).filter(|beneath| {
        let health = survey.filesystems.get(&beneath.device).map(|found| found.health);
        beneath.fstype == CGVIEW && matches!(health, Some(Health::Dead | Health::Unknown(_)))
    })
}
