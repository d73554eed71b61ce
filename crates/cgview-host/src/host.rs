//! A host: its root, its hierarchies, and its files.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use cgview_core::{HostFacts, parse::TimensOffsets, snapshot::Controller, units::Usec};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    budget::Budget,
    cgroup::{Access, CgroupDir},
    container::{Container, ContainerId},
    error::{Error, Result},
    facts::{self, Nodes},
    hierarchy::{Hierarchies, Hierarchy, Layout, NamespaceRoots},
    init::Inits,
    namespace::{self, KnownRoots},
    process::{Namespace, Namespaces, Process},
    root::{Root, check_whole},
    sample::PageSize,
};

/// A host, from the files below its root.
///
/// It is the machine that this process runs on ([`Host::live`]), or any tree that holds the `proc` and
/// `sys` of one ([`Host::at`]): the root of the machine as a container has it mounted, or a capture.
///
/// All methods may be called from any thread.
#[derive(Debug)]
pub struct Host {
    pub(crate) root: Root,
    pub(crate) budget: Budget,
    pub(crate) hierarchies: Hierarchies,
    /// Where this process's own cgroup namespace begins, if that is not the host's.
    pub(crate) own_cgroup_namespace: NamespaceRoots,
    /// Whether `/proc` is the kernel's, so that its magic links lead somewhere and its clock runs on.
    pub(crate) procfs: bool,
    /// Whether pids of `/proc` are those that system calls of this process give.
    pub(crate) own_pids: bool,
    pub(crate) pid_namespace: Option<Namespace>,
    pub(crate) cgroup_namespace: Option<Namespace>,
    time_namespace: (Option<Namespace>, TimensOffsets),
    pub(crate) inits: Inits,
    pub(crate) known_roots: KnownRoots,
    pub(crate) containers: Mutex<HashMap<ContainerId, Weak<Container>>>,
    cgroups: Mutex<HashMap<(usize, String), Weak<CgroupDir>>>,
    nodes: Mutex<Nodes>,
    /// The page sizes of the hugetlb controller, once a cgroup has been seen that has it.
    pub(crate) page_sizes: OnceLock<Arc<[PageSize]>>,
}

/// What the boot of the host at `root` is known by; of a captured one, mostly nothing.
#[must_use]
pub fn boot_id(root: &Path) -> String {
    let mut text = Vec::new();
    let read = |root: Root| root.read("/proc/sys/kernel/random/boot_id", &mut text).ok();
    if Root::open(root).ok().and_then(read).is_none() {
        return String::new();
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}

impl Host {
    /// The machine that this process runs on.
    ///
    /// # Errors
    ///
    /// [`Error::Root`] if there is no `/proc`, [`Error::Read`] if it cannot be read.
    pub fn live() -> Result<Host> {
        Host::open(Path::new("/"))
    }

    /// The host whose `proc` and `sys` are below `root`. No path leads out of it, symbolic links of the
    /// tree neither.
    ///
    /// # Errors
    ///
    /// [`Error::Root`] if it is no directory that has a `proc`, or if the kernel has no `openat2` (before
    /// 5.6); [`Error::Read`] if a file in it cannot be read.
    pub fn at(root: &Path) -> Result<Host> {
        Host::open(root)
    }

    /// The same, but with no more than `count` descriptors kept open between reads. Without it, that is seven eighths of
    /// what this process may open when the host is opened.
    #[must_use]
    pub fn keeping(self, count: usize) -> Host {
        Host { budget: Budget::new(count), ..self }
    }

    fn open(path: &Path) -> Result<Host> {
        let unusable = |source| Error::Root { path: path.into(), source };
        let root = Root::open(path).map_err(unusable)?;
        root.open_dir("/proc").map_err(|errno| unusable(errno.into()))?;
        let procfs = root.is_procfs("/proc");
        let mut text = Vec::new();

        // The host's namespaces are those of its first process. Where that may not be asked, they are
        // this process's own, or the kernel's first.
        let first = Process::open(&root, 1).ok();
        let own = if procfs { Process::open(&root, own_pid(&root)).ok() } else { None };
        let namespace = |process: &Option<Process>, name| {
            process.as_ref().and_then(|process| process.namespace(name).ok().flatten())
        };
        let own_pid_namespace = namespace(&own, "pid");
        let pid_namespace = namespace(&first, "pid").or(own_pid_namespace);
        let cgroup_namespace = namespace(&first, "cgroup").or_else(|| {
            if own_pid_namespace == Some(Namespace::FIRST_PID) {
                Some(Namespace::FIRST_CGROUP)
            } else {
                namespace(&own, "cgroup")
            }
        });
        let time_namespace = match &own {
            Some(process) => (namespace(&own, "time"), process.timens_offsets(&root, &mut text)?),
            None => (Some(Namespace::FIRST_TIME), TimensOffsets::default()),
        };

        let own_cgroup_namespace = match (&own, &first) {
            (Some(process), Some(first)) if namespace(&own, "cgroup") != cgroup_namespace => {
                namespace::own_roots(&root, process, first)
            }
            _ => NamespaceRoots::default(),
        };
        // What this process has mounted; below another root, what its first process has.
        let mountinfo = if procfs && path == Path::new("/") {
            "/proc/self/mountinfo"
        } else {
            "/proc/1/mountinfo"
        };
        root.read(mountinfo, &mut text).map_err(|errno| Error::read(mountinfo, errno))?;
        let hierarchies = Hierarchies::find(&root, &text, &own_cgroup_namespace);

        Ok(Host {
            root,
            budget: Budget::of_this_process(),
            hierarchies,
            own_cgroup_namespace,
            procfs,
            own_pids: own_pid_namespace.is_some() && own_pid_namespace == pid_namespace,
            pid_namespace,
            cgroup_namespace,
            time_namespace,
            inits: Inits::default(),
            known_roots: KnownRoots::default(),
            containers: Mutex::default(),
            cgroups: Mutex::default(),
            nodes: Mutex::default(),
            page_sizes: OnceLock::new(),
        })
    }

    /// Whether a process has the same pid in the host's `/proc` as in this process's system calls, and so in
    /// the requests of a FUSE mount that this process makes. Not so in a pid namespace of one's own with
    /// the host's `/proc`, or on a captured host.
    #[must_use]
    pub fn shares_pids(&self) -> bool {
        self.own_pids
    }

    /// How this host's hierarchies are laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.hierarchies.layout()
    }

    /// The hierarchies that are mounted and have something to say about a view.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        self.hierarchies.all()
    }

    /// The hierarchy that a controller's numbers come from; `None` where it has none.
    #[must_use]
    pub fn hierarchy(&self, controller: Controller) -> Option<&Hierarchy> {
        self.hierarchies.get(self.hierarchies.of(controller)?)
    }

    /// The same clock as [`boottime`](Host::boottime) tells of, now; `None` of a captured tree, where it does not run.
    #[must_use]
    pub fn clock(&self) -> Option<Usec> {
        self.procfs.then(|| {
            let time = clock_gettime(ClockId::Boottime);
            let seconds = Usec::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
            seconds.saturating_add(Usec::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0)))
        })
    }

    /// The time since the host was booted: `CLOCK_BOOTTIME`, on which `/proc` tells the start of
    /// processes. In a captured tree, the moment of its `/proc/uptime`.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] and [`Error::Parse`], for a captured tree.
    pub fn boottime(&self) -> Result<Usec> {
        if let Some(now) = self.clock() {
            return Ok(now);
        }
        let path = "/proc/uptime";
        let mut text = Vec::new();
        self.read(path, &mut text)?;
        facts::uptime(&text).map_err(|source| Error::parse(path, source))
    }

    /// Reads a file of the host, by the absolute path that it has there, into `text`, in place of what
    /// that held.
    ///
    /// # Errors
    ///
    /// [`Error::Read`]; [`Error::Parse`] for a text that was cut off.
    pub fn read(&self, path: &str, text: &mut Vec<u8>) -> Result<()> {
        self.root.read(path, text).map_err(|errno| Error::read(path, errno))?;
        check_whole(text).map_err(|source| Error::parse(path, source))
    }

    /// Whether the host has a file or directory at `path`.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.root.has(path)
    }

    /// The names in a directory of the host.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        self.root.list(path).map_err(|errno| Error::read(path, errno))
    }

    /// What the host has: memory, CPUs and nodes.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] and [`Error::Parse`].
    pub fn facts(&self) -> Result<HostFacts> {
        let mut meminfo = Vec::new();
        self.read("/proc/meminfo", &mut meminfo)?;
        self.facts_with(&meminfo)
    }

    /// What is `known` of a host, with its CPUs and nodes as they are now.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] and [`Error::Parse`].
    pub fn facts_but_memory(&self, known: &Arc<HostFacts>) -> Result<Arc<HostFacts>> {
        facts::read_but_memory(self, known, &self.nodes)
    }

    /// Like [`Host::facts`], for whoever has the text of `/proc/meminfo` at hand.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] and [`Error::Parse`].
    pub fn facts_with(&self, meminfo: &[u8]) -> Result<HostFacts> {
        facts::read(self, meminfo, &self.nodes)
    }

    /// The namespaces of a process. The host's first process is in the host's, also where it may not be asked.
    pub(crate) fn namespaces_of(&self, process: &Process) -> Result<Namespaces> {
        match process.namespaces() {
            Err(Error::Read { .. }) if process.pid() == 1 => Ok(Namespaces {
                pid: self.pid_namespace,
                cgroup: self.cgroup_namespace,
                time: self.time_namespace.0,
            }),
            result => result,
        }
    }

    /// The time namespace `of` a process, as an offset to the clock that this process reads.
    pub(crate) fn timens(
        &self,
        process: &Process,
        of: Option<Namespace>,
        text: &mut Vec<u8>,
    ) -> Result<TimensOffsets> {
        let (own, own_offsets) = self.time_namespace;
        if own.is_some() && of == own {
            return Ok(TimensOffsets::default());
        }
        let offsets = process.timens_offsets(&self.root, text)?;
        Ok(TimensOffsets { boottime: offsets.boottime.saturating_sub(own_offsets.boottime) })
    }

    /// The one value for a cgroup's directory. `None` if it is not below what is mounted.
    pub(crate) fn cgroup(&self, hierarchy: usize, path: &str) -> Result<Option<Arc<CgroupDir>>> {
        let key = (hierarchy, path.to_owned());
        let known = self.cgroups.lock().get(&key).and_then(Weak::upgrade);
        if let Some(known) = known
            && known.is_alive(&self.root)
        {
            return Ok(Some(known));
        }
        let Some(mounted) = self.hierarchies.get(hierarchy) else { return Ok(None) };
        let Some(dir) = CgroupDir::open(&self.root, &self.budget, mounted, path)? else {
            return Ok(None);
        };
        let dir = Arc::new(dir);
        let mut cgroups = self.cgroups.lock();
        if cgroups.len() >= cgroups.capacity() {
            cgroups.retain(|_, known| known.strong_count() > 0);
        }
        cgroups.insert(key, Arc::downgrade(&dir));
        Ok(Some(dir))
    }

    /// Closes the files of cgroups that nobody has read for `idle`: the kernel keeps a page of memory for each that is
    /// open.
    pub fn close_idle_files(&self, idle: Duration) {
        let Ok(now) = self.boottime() else { return };
        let idle = u64::try_from(idle.as_micros()).map_or(Usec(u64::MAX), Usec);
        let dirs: Vec<_> = self.cgroups.lock().values().filter_map(Weak::upgrade).collect();
        for dir in dirs {
            dir.close_files(now.saturating_sub(idle));
        }
    }

    /// Forgets the inits of containers that have ended, with the descriptors that are kept of them.
    pub fn forget_ended(&self) {
        self.inits.sweep();
    }

    pub(crate) fn access(&self) -> Result<Access<'_>> {
        Ok(Access { root: &self.root, budget: &self.budget, now: self.boottime()? })
    }
}

/// This process's own pid, as the host's `/proc` numbers it.
fn own_pid(root: &Root) -> u32 {
    root.read_link("/proc/self")
        .ok()
        .and_then(|link| link.parse().ok())
        .unwrap_or_else(std::process::id)
}
