//! Who asks, and which container that makes.

use std::{
    cell::RefCell,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use cgview_core::{
    parse::{ParseError, status_nspid},
    view::Reader,
};
use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::OFlags,
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    budget::Token,
    container::{Container, ContainerId, Origin},
    error::{Error, Result},
    hierarchy::{Layout, below},
    host::Host,
    ioctl::cgroup_of,
    process::Process,
    root::{check_whole, read_once},
};

/// How long a caller whose cgroups did not change is taken to be who it was. What else can change is
/// rare: its namespaces, and the cgroup of its container's init.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// A process that asks, as far as a view depends on it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its container. Callers of one container share the value.
    pub container: Arc<Container>,
    /// What is the reader's own and not the container's.
    pub reader: Reader,
}

impl Caller {
    /// Finds the container of a process, `membership` being the text of its `cgroup`.
    fn find(host: &Host, process: &Process, membership: &[u8]) -> Result<Caller> {
        let own = host.absolute_paths(process.pid(), membership)?;
        // The host's first process is no container's init.
        let namespaces = host.namespaces_of(process)?;
        let foreign = namespaces.pid.filter(|&own| Some(own) != host.pid_namespace);
        let init = match foreign {
            Some(namespace) => host.inits.of(host, namespace, process, &own)?,
            None => None,
        };
        let mut paths = vec![None; own.len()];
        if let Some((_, home)) = &init {
            for ((path, home), own) in paths.iter_mut().zip(home.iter()).zip(own.iter()) {
                *path = home
                    .clone()
                    .filter(|home| own.as_deref().is_some_and(|own| below(own, home).is_some()));
            }
        }
        let stray = own.iter().zip(&paths).any(|(own, path)| own.is_some() && path.is_none());
        let mut aged = foreign.is_some();
        if stray {
            // Where it is not below its init's cgroup, its own cgroup namespace decides, and else its
            // own cgroup.
            let namespace = namespaces.cgroup;
            let foreign = namespace.filter(|_| namespace != host.cgroup_namespace);
            aged |= foreign.is_some();
            let roots = foreign.map(|namespace| host.namespace_roots(process, namespace, &own));
            let root = |index: usize| roots.as_ref().and_then(|roots| roots.get(index)?.clone());
            for (index, (path, own)) in paths.iter_mut().zip(own.iter()).enumerate() {
                *path = path.take().or_else(|| root(index)).or_else(|| own.clone());
            }
        }
        let container = match (&init, foreign) {
            (Some((init, _)), Some(namespace)) if !stray => {
                let id = ContainerId::of_init(namespace, init.started());
                host.container(id, paths, || Ok(Origin::of_init(init)))?
            }
            _ => {
                let id = ContainerId::of_cgroups(host.hierarchies(), &paths);
                host.container(id, paths, || Ok(Origin::of_member(depth(host, process)?, aged)))?
            }
        };
        let reader = Reader { timens: host.timens(process, namespaces.time, &mut Vec::new())? };
        Ok(Caller { container, reader })
    }
}

/// How many pid namespaces deep a process is.
fn depth(host: &Host, process: &Process) -> Result<usize> {
    let mut text = Vec::new();
    process.read(&host.root, "status", &mut text)?;
    match status_nspid(&text) {
        Some((_, depth)) => Ok(depth),
        None => {
            let source = ParseError::new(1, "NSpid", &text);
            Err(Error::parse(process.path("status"), source))
        }
    }
}

impl Host {
    /// The container of a process or thread, by its id in the pid namespace of the host's `/proc`, and
    /// what else depends on who asks.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if there is no such process, [`Error::Hidden`] if `/proc` does not show it,
    /// [`Error::Outside`] if its cgroup cannot be named here, and [`Error::Read`] or [`Error::Parse`] for
    /// its files.
    pub fn caller(&self, tid: u32) -> Result<Caller> {
        let process = Process::open(&self.root, tid)?;
        let mut membership = Vec::new();
        process.read(&self.root, "cgroup", &mut membership)?;
        Caller::find(self, &process, &membership)
    }

    /// Like [`Host::caller`], for a caller that may ask again.
    ///
    /// # Errors
    ///
    /// Those of [`Host::caller`].
    pub fn keep(&self, tid: u32) -> Result<KeptCaller> {
        let asked = Instant::now();
        let process = Process::open(&self.root, tid)?;
        let file = process.open_file(&self.root, "cgroup")?;
        let pidfd = self.pidfd(tid);
        let number = || pidfd.as_ref().and_then(|pidfd| self.cgroup_of(pidfd).ok()?);
        let before = number();
        let mut membership = Vec::new();
        // If that can be read, the process had its number all the while, and so the descriptor is its own.
        read_membership(&file, tid, &mut membership)?;
        let caller = Caller::find(self, &process, &membership)?;
        let cgroup = before.filter(|_| number() == before);
        let kept = 2 + usize::from(pidfd.is_some());
        let token = self.budget.callers.take(kept);
        let open = token.map(|token| Open { process, file, pidfd, _token: token });
        // The buffer has room for far more.
        let membership = membership.into_boxed_slice();
        let now = Instant::now();
        let known = Known { caller, membership, cgroup, asked, checked: now };
        Ok(KeptCaller { tid, known: Mutex::new(known), open })
    }
}

impl Host {
    /// How many callers can be kept with descriptors of their own, so that they need not be found anew each time.
    #[must_use]
    pub fn most_callers(&self) -> usize {
        self.budget.callers_in_all()
    }

    /// A descriptor of a thread, where the ids of this `/proc` are those of the kernel's calls. Before Linux 6.9 only the
    /// first thread of a process has one.
    fn pidfd(&self, tid: u32) -> Option<OwnedFd> {
        if !self.procfs || !self.own_pids {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(tid).ok()?)?;
        let of_a_process = |_| pidfd_open(pid, PidfdFlags::empty());
        pidfd_open(pid, PIDFD_THREAD).or_else(of_a_process).ok()
    }

    /// The number of a thread's cgroup, where that says all: on a host that has the unified hierarchy alone, and
    /// Linux 6.13. `ESRCH` if it has ended.
    fn cgroup_of(&self, pidfd: &OwnedFd) -> rustix::io::Result<Option<u64>> {
        if self.layout() != Layout::Unified {
            return Ok(None);
        }
        match cgroup_of(pidfd) {
            Ok(cgroup) => Ok(Some(cgroup)),
            Err(Errno::SRCH) => Err(Errno::SRCH),
            Err(_) => Ok(None),
        }
    }
}

/// Whether a thread has not ended: its descriptor is readable once it has (`pidfd_poll()` in `fs/pidfs.c`).
fn is_alive(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())) == Ok(0)
}

/// `PIDFD_THREAD` of `linux/pidfd.h`, since Linux 6.9: any thread, and not the first of a process alone.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());

fn read_membership(file: &OwnedFd, tid: u32, text: &mut Vec<u8>) -> Result<()> {
    read_once(file.as_fd(), text).map_err(|errno| match errno {
        Errno::SRCH => Error::Gone { pid: tid },
        errno => Error::read(format!("/proc/{tid}/cgroup"), errno),
    })?;
    check_whole(text).map_err(|source| Error::parse(format!("/proc/{tid}/cgroup"), source))
}

/// A caller with what it takes to see, by one system call as a rule, that it still is who it was.
///
/// It keeps a descriptor of the caller's `/proc/TID/cgroup`, which is bound to the process and not to its
/// number: once the process is gone, reads fail with `ESRCH`, whoever has the number by then.
#[derive(Debug)]
pub struct KeptCaller {
    tid: u32,
    known: Mutex<Known>,
    open: Option<Open>,
}

/// What was found last. The lock of it is never held while the kernel is asked.
#[derive(Debug)]
struct Known {
    caller: Caller,
    membership: Box<[u8]>,
    /// The number of its cgroup, where that can be asked for.
    cgroup: Option<u64>,
    /// When the kernel was asked for its cgroups.
    asked: Instant,
    /// When it was found by them.
    checked: Instant,
}

impl Known {
    /// Who it was less than `age` ago, if it cannot have become another one by itself: in a pid namespace of its own it is
    /// in its init's container wherever below that it moves. Nobody where it takes as little to ask who it is now.
    fn within(&self, age: Duration) -> Option<Caller> {
        let now = Instant::now();
        let is_new = |at: Instant, age| now.saturating_duration_since(at) < age;
        let is_known = is_new(self.asked, age) && is_new(self.checked, TRUSTED_FOR);
        let is_bound = self.cgroup.is_none() && self.caller.container.init().is_some();
        (is_known && is_bound).then(|| self.caller.clone())
    }
}

#[derive(Debug)]
struct Open {
    process: Process,
    file: OwnedFd,
    pidfd: Option<OwnedFd>,
    _token: Token,
}

thread_local! {
    /// Where memberships are read to: one buffer for each thread, grown once.
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl KeptCaller {
    /// What was found last, and how long ago it was checked whether it is still so.
    #[must_use]
    pub fn caller(&self) -> (Caller, Duration) {
        let known = self.known.lock();
        (known.caller.clone(), known.checked.elapsed())
    }

    /// The container that it was found in last.
    #[must_use]
    pub fn whose(&self) -> ContainerId {
        self.known.lock().caller.container.id().clone()
    }

    /// The caller as it is now: found again if it moved to another cgroup, and once a second.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the process ended, even if its number belongs to another one now; else those of
    /// [`Host::caller`].
    pub fn check(&self, host: &Host) -> Result<Caller> {
        self.check_within(host, Duration::ZERO)
    }

    /// The same, but somebody else may have moved it out of its container since less than `age` ago: a process in a pid
    /// namespace of its own that was asked for its cgroups within that time is asked only whether it has ended, which
    /// takes a tenth as long.
    ///
    /// # Errors
    ///
    /// Those of [`KeptCaller::check`].
    pub fn check_within(&self, host: &Host, age: Duration) -> Result<Caller> {
        let Some(open) = &self.open else {
            // There were too many to keep it open, and so its number is all there is.
            let caller = host.caller(self.tid)?;
            let mut known = self.known.lock();
            known.caller = caller.clone();
            known.checked = Instant::now();
            return Ok(caller);
        };
        let known = self.known.lock().within(age);
        if let (Some(caller), Some(pidfd)) = (known, &open.pidfd)
            && is_alive(pidfd)
        {
            return Ok(caller);
        }
        let mut text = TEXT.take();
        let checked = self.check_open(host, open, &mut text);
        TEXT.set(text);
        checked
    }

    fn check_open(&self, host: &Host, open: &Open, text: &mut Vec<u8>) -> Result<Caller> {
        let asked = Instant::now();
        let number = || open.pidfd.as_ref().map_or(Ok(None), |pidfd| host.cgroup_of(pidfd));
        let before = number().map_err(|_| Error::Gone { pid: self.tid })?;
        if before.is_some() {
            let known = self.known.lock();
            if before == known.cgroup && known.checked.elapsed() < TRUSTED_FOR {
                return Ok(known.caller.clone());
            }
        }
        read_membership(&open.file, self.tid, text)?;
        {
            let mut known = self.known.lock();
            if **text == *known.membership && known.checked.elapsed() < TRUSTED_FOR {
                known.cgroup = before.filter(|_| number() == Ok(before));
                known.asked = known.asked.max(asked);
                return Ok(known.caller.clone());
            }
        }
        let caller = Caller::find(host, &open.process, text)?;
        let mut known = self.known.lock();
        // Somebody may have asked later, and been answered sooner.
        if known.checked <= asked {
            known.caller = caller.clone();
            known.membership = text.as_slice().into();
            known.cgroup = before.filter(|_| number() == Ok(before));
            (known.asked, known.checked) = (asked, asked);
        }
        Ok(caller)
    }
}
