//! What readers are told: requests in, entries and texts out. It knows nothing of FUSE, and is what
//! `cgview show` asks too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cgview_core::{
    Explanation, HostFacts, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    tree::{Dir, Entry, File, ProcFile},
    view::{Parts, Reader},
};
use cgview_host::Host;
use parking_lot::RwLock;
use rustix::io::Errno;

use crate::{
    cache::{Callers, HostTexts},
    handles::{Handles, Held},
    logging::RateLimit,
    metrics::{Metrics, Outcome},
    settings::{OnError, ViewSettings},
    state::{self, States},
    tenant::{Tenant, Tenants},
};

/// Who sent a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Its thread id, in the pid namespace of the host's `/proc`. 0 if it has none there: it is in
    /// another pid namespace, which this one does not contain.
    pub tid: u32,
    /// Its user id, in the user namespace of the mount.
    pub uid: u32,
}

/// Why a reader gets no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reader is in a pid namespace that cannot be seen from here, so its container is not known.
    #[error("the reader's pid namespace is not below the daemon's; run the daemon in the host's")]
    NoCaller,
    /// The host does not tell.
    #[error(transparent)]
    Host(#[from] cgview_host::Error),
    /// The container has no such text.
    #[error(transparent)]
    View(#[from] cgview_core::view::Error),
}

impl Error {
    /// What a reader gets for this.
    #[must_use]
    pub fn errno(&self) -> Errno {
        use cgview_core::view::Error as ViewError;
        match self {
            Error::NoCaller => Errno::IO,
            Error::Host(error) => error.errno(),
            // What sysfs answers for a device that was removed while its file was open.
            Error::View(ViewError::NotShown) => Errno::NODEV,
            // `psi_show()`.
            Error::View(ViewError::NoPressure) => Errno::OPNOTSUPP,
            Error::View(_) => Errno::IO,
        }
    }

    /// A word for metrics.
    fn cause(&self) -> &'static str {
        use cgview_host::Error as HostError;
        match self {
            Error::NoCaller => "no-caller",
            Error::View(_) => "view",
            Error::Host(error) => match error {
                HostError::Gone { .. } => "gone",
                HostError::Hidden { .. } => "hidden",
                HostError::Outside { .. } => "outside",
                HostError::Vanished { .. } => "vanished",
                HostError::Parse { .. } => "parse",
                _ => "read",
            },
        }
    }
}

/// A text with all that it was made from.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What the reader is told.
    pub text: Vec<u8>,
    /// Where each number comes from.
    pub explanation: Explanation,
    /// What the kernel said of the container: cgroups' paths in the explanation are found in it.
    pub snapshot: Arc<Snapshot>,
    /// The host's text.
    pub host: Arc<[u8]>,
}

/// Numbers for a line of status.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Containers that are known.
    pub containers: usize,
    /// Open files that were read, and their texts.
    pub handles: Held,
}

/// Answers readers.
///
/// All methods may be called from any thread.
#[derive(Debug)]
pub struct Service {
    host: Host,
    settings: RwLock<ViewSettings>,
    /// Whether containers see the host's files for the time being.
    off: AtomicBool,
    callers: Callers,
    texts: HostTexts,
    tenants: Tenants,
    handles: Handles,
    metrics: Metrics,
    warnings: RateLimit<(&'static str, File)>,
}

/// What open files may hold: enough for thousands of readers, whatever a machine's size.
const MOST_HELD: Held = Held { handles: 65_536, bytes: 64 << 20 };

/// A warning of each kind for each file is logged once in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(300);

/// Whoever has not asked for this long is forgotten.
const CALLER_IDLE: Duration = Duration::from_secs(60);

/// A container that nobody has read for this long has its descriptors closed.
const TENANT_IDLE: Duration = Duration::from_secs(300);

impl Service {
    /// A service that tells of `host`.
    #[must_use]
    pub fn new(host: Host, settings: ViewSettings) -> Service {
        Service {
            host,
            settings: RwLock::new(settings),
            off: AtomicBool::new(false),
            callers: Callers::default(),
            texts: HostTexts::default(),
            tenants: Tenants::default(),
            handles: Handles::new(MOST_HELD),
            metrics: Metrics::default(),
            warnings: RateLimit::new(WARNING_INTERVAL),
        }
    }

    /// The host that it tells of.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What it has counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Changes what readers are told from now on.
    pub fn set_settings(&self, settings: ViewSettings) {
        *self.settings.write() = settings;
    }

    /// Turns the view off, so that all see the host's files, or on again. Returns whether it is on.
    pub fn toggle(&self) -> bool {
        self.off.fetch_xor(true, Ordering::Relaxed)
    }

    /// Numbers for a line of status; also brings the gauges of the metrics up to date.
    pub fn status(&self) -> Status {
        let status = Status { containers: self.tenants.len(), handles: self.handles.held() };
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.containers.set(gauge(status.containers));
        self.metrics.handles.set(gauge(status.handles.handles));
        self.metrics.handle_bytes.set(gauge(status.handles.bytes));
        status
    }

    /// What must not be forgotten over a restart.
    #[must_use]
    pub fn save(&self) -> States {
        self.tenants.save(self.now())
    }

    /// Takes over what a process before this one saved.
    pub fn restore(&self, states: States) {
        for (id, state) in states {
            self.tenants.put(id, state);
        }
    }

    /// What the boot of this host is known by; of a captured one, nothing.
    #[must_use]
    pub fn boot(&self) -> String {
        let mut text = Vec::new();
        let read = self.host.read("/proc/sys/kernel/random/boot_id", &mut text);
        read.map(|()| String::from_utf8_lossy(&text).trim().to_owned()).unwrap_or_default()
    }

    /// Writes the state to a file.
    ///
    /// # Errors
    ///
    /// [`state::Error::Io`].
    pub fn save_to(&self, path: &std::path::Path) -> Result<(), state::Error> {
        state::save(path, &self.boot(), &self.save())
    }

    /// Takes over the state in a file.
    ///
    /// # Errors
    ///
    /// [`state::Error`], if there is none that can be used.
    pub fn restore_from(&self, path: &std::path::Path) -> Result<(), state::Error> {
        self.restore(state::load(path, &self.boot())?);
        Ok(())
    }

    /// Forgets what nobody asks for any more.
    pub fn sweep(&self) {
        self.callers.sweep(CALLER_IDLE);
        self.tenants.sweep(TENANT_IDLE, self.now());
    }

    /// Moves on the load averages of containers whose load was asked for within `time`, for no longer than
    /// `budget`. Returns how many there are.
    pub(crate) fn step_loads(&self, time: Duration, budget: Duration) -> usize {
        let started = std::time::Instant::now();
        let mut watched: Vec<_> = self
            .tenants
            .all()
            .into_iter()
            .filter(|tenant| tenant.load_asked_within(time))
            .collect();
        let count = watched.len();
        let settings = ViewSettings { on_error: OnError::Fail, ..*self.settings.read() };
        // Those that were left out the last time have waited longest.
        watched.sort_by_cached_key(|tenant| tenant.load_stepped());
        for tenant in watched {
            if started.elapsed() > budget {
                break;
            }
            let stepped = self
                .prepare(&tenant, Parts::TASKS.and(Parts::CPUS), settings)
                .map(|ready| tenant.load(&self.host, &ready.snapshot, &ready.cpus, false));
            if let Err(error) = stepped {
                tracing::debug!("cannot count the tasks of {}: {error}", tenant.container().id());
                self.forget_if_gone(&tenant, &error);
            }
        }
        count
    }

    // Entries.

    /// Whether an entry is the same for all callers: neither its existence nor what is below depends on a
    /// container's CPUs or nodes.
    #[must_use]
    pub fn is_fixed(entry: Entry) -> bool {
        let of_dir = |dir| {
            !matches!(
                dir,
                Dir::CpuN(_)
                    | Dir::Topology(_)
                    | Dir::Cpufreq(_)
                    | Dir::Cache(_)
                    | Dir::CacheIndex(..)
                    | Dir::NodeN(_)
            )
        };
        match entry {
            Entry::Dir(dir) => of_dir(dir),
            Entry::File(_) | Entry::Link(_) => of_dir(entry.parent()),
        }
    }

    /// The mode bits of a file.
    #[must_use]
    pub fn mode(&self, file: File) -> u16 {
        file.mode()
    }

    /// The entry of that name in `dir`. Whoever cannot be told to be in a container has the host's
    /// entries.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    pub fn lookup(&self, caller: Caller, dir: Dir, name: &[u8]) -> Result<Entry, Errno> {
        let entry = dir.child(name).ok_or(Errno::NOENT)?;
        let on_host = |path: &str| if self.host.has(path) { Ok(entry) } else { Err(Errno::NOENT) };
        if Self::is_fixed(entry) {
            return on_host(&entry.path());
        }
        match self.container_of(caller.tid) {
            None => on_host(&entry.path()),
            Some((tenant, ready)) => {
                self.with_view(&tenant, &ready, Reader::default(), false, |view| {
                    let path = view.host_path(entry).filter(|_| view.shows(entry));
                    path.map_or(Err(Errno::NOENT), |path| on_host(&path))
                })
            }
        }
    }

    /// The entries of `dir`, for a caller that may be nobody that is known.
    #[must_use]
    pub fn list_for(&self, caller: Caller, dir: Dir) -> Vec<Entry> {
        if Self::is_fixed_list(dir) {
            let mut entries = dir.fixed_children();
            entries.retain(|entry| self.host.has(&entry.path()));
            return entries;
        }
        match self.container_of(caller.tid) {
            Some((tenant, ready)) => {
                self.with_view(&tenant, &ready, Reader::default(), false, |view| {
                    view.list(dir, |path| self.host.has(path))
                })
            }
            None => {
                let names = self.host.list(&Entry::Dir(dir).path()).unwrap_or_default();
                names.iter().filter_map(|name| dir.child(name.as_bytes())).collect()
            }
        }
    }

    /// Whether all callers have the same entries in `dir`.
    fn is_fixed_list(dir: Dir) -> bool {
        Self::is_fixed(Entry::Dir(dir)) && !matches!(dir, Dir::Cpu | Dir::Node)
    }

    /// The entries of `dir` for a thread.
    ///
    /// # Errors
    ///
    /// [`Error`], if it cannot be told which container it is in.
    pub fn list(&self, tid: u32, dir: Dir) -> Result<Vec<Entry>, Error> {
        self.find(tid)?;
        Ok(self.list_for(Caller { tid, uid: 0 }, dir))
    }

    /// Whether a caller may do this with an entry.
    ///
    /// # Errors
    ///
    /// `EACCES`, and `EROFS` for writing.
    pub fn access(
        &self,
        caller: Caller,
        entry: Entry,
        read: bool,
        write: bool,
        execute: bool,
    ) -> Result<(), Errno> {
        match entry {
            _ if write => Err(Errno::ROFS),
            Entry::Dir(_) | Entry::Link(_) => Ok(()),
            Entry::File(_) if execute => Err(Errno::ACCESS),
            Entry::File(file) if read => may_read(caller, file),
            Entry::File(_) => Ok(()),
        }
    }

    // Open files.

    /// Opens a file, and returns the number of the handle.
    ///
    /// # Errors
    ///
    /// `EACCES` for writing, and for whoever may not read it.
    pub fn open(&self, caller: Caller, file: File, write: bool) -> Result<u64, Errno> {
        if write {
            return Err(Errno::ACCESS);
        }
        may_read(caller, file)?;
        Ok(self.handles.open())
    }

    /// The text that a read at `offset` is answered from: a new one at the start of the file, and the one of
    /// before elsewhere.
    ///
    /// The text is the caller's, who may be another than the one that opened the file.
    ///
    /// # Errors
    ///
    /// What the reader gets: [`Error::errno`].
    pub fn read(
        &self,
        caller: Caller,
        file: File,
        handle: u64,
        offset: u64,
    ) -> Result<Arc<[u8]>, Errno> {
        if offset > 0
            && let Some(text) = self.handles.text(handle)
        {
            return Ok(text);
        }
        let text: Arc<[u8]> = self.text(caller.tid, file).map_err(|error| error.errno())?.into();
        self.handles.put(handle, Arc::clone(&text));
        Ok(text)
    }

    /// Forgets a handle.
    pub fn release(&self, handle: u64) {
        self.handles.release(handle);
    }

    // Texts.

    /// What a thread is told by a file, by the policy for failures too.
    ///
    /// # Errors
    ///
    /// [`Error`], where the policy has no other answer.
    pub fn text(&self, tid: u32, file: File) -> Result<Vec<u8>, Error> {
        let settings = *self.settings.read();
        let error = match self.render(tid, file, settings) {
            Ok(text) => return Ok(text),
            Err(error @ Error::View(_)) => return Err(error),
            Err(error) => error,
        };
        if settings.on_error == OnError::Host
            && let Ok(text) = self.host_text(file, settings)
        {
            self.report(file, &error, Outcome::Host);
            return Ok(text.to_vec());
        }
        self.report(file, &error, Outcome::Fail);
        Err(error)
    }

    /// What a thread is told by a file, and why.
    ///
    /// # Errors
    ///
    /// [`Error`], whatever the policy for failures is.
    pub fn explain(&self, tid: u32, file: File) -> Result<Explained, Error> {
        let settings = ViewSettings { on_error: OnError::Fail, ..*self.settings.read() };
        let caller = self.find(tid)?;
        if self.is_passed_through(&caller, file, settings) {
            let host = self.host_text(file, settings)?;
            return Ok(Explained {
                text: host.to_vec(),
                explanation: Explanation::default(),
                snapshot: Arc::default(),
                host,
            });
        }
        let tenant = self.tenants.get(&caller.container, || self.now());
        let ready = self.prepare(&tenant, file.parts(), settings)?;
        let wants_load = wants_load(file);
        self.with_view(&tenant, &ready, caller.reader, wants_load, |view| {
            let host = self.host_text_of(view, file, settings)?;
            let mut text = Vec::with_capacity(host.len());
            let explanation = view.explain(file, &host, &mut text)?;
            Ok(Explained { text, explanation, snapshot: Arc::clone(&ready.snapshot), host })
        })
    }

    fn render(&self, tid: u32, file: File, settings: ViewSettings) -> Result<Vec<u8>, Error> {
        let caller = self.find(tid)?;
        if self.is_passed_through(&caller, file, settings) {
            return Ok(self.host_text(file, settings)?.to_vec());
        }
        let tenant = self.tenants.get(&caller.container, || self.now());
        let rendered = self.prepare(&tenant, file.parts(), settings).and_then(|ready| {
            self.with_view(&tenant, &ready, caller.reader, wants_load(file), |view| {
                let host = self.host_text_of(view, file, settings)?;
                let mut text = Vec::with_capacity(host.len());
                view.render(file, &host, &mut text)?;
                Ok(text)
            })
        });
        if let Err(error) = &rendered {
            self.forget_if_gone(&tenant, error);
        }
        rendered
    }

    /// The caller behind a thread id.
    fn find(&self, tid: u32) -> Result<cgview_host::Caller, Error> {
        if tid == 0 {
            return Err(Error::NoCaller);
        }
        Ok(self.callers.get(&self.host, tid, &self.metrics.callers)?)
    }

    /// The container of a caller, with its CPUs and nodes. `None` if it is the host, or cannot be told.
    fn container_of(&self, tid: u32) -> Option<(Arc<Tenant>, Ready)> {
        if self.off.load(Ordering::Relaxed) {
            return None;
        }
        let caller = self.find(tid).ok().filter(|caller| !caller.container.is_host())?;
        let tenant = self.tenants.get(&caller.container, || self.now());
        let ready = self.prepare(&tenant, Parts::CPUS, *self.settings.read()).ok()?;
        Some((tenant, ready))
    }

    fn is_passed_through(
        &self,
        caller: &cgview_host::Caller,
        file: File,
        settings: ViewSettings,
    ) -> bool {
        let passed = |file: ProcFile| settings.policy.passthrough.contains(file);
        caller.container.is_host()
            || self.off.load(Ordering::Relaxed)
            || matches!(file, File::Proc(file) if passed(file))
    }

    /// The host's own text of a file.
    fn host_text(&self, file: File, settings: ViewSettings) -> Result<Arc<[u8]>, Error> {
        let path = Entry::File(file).path();
        Ok(self.texts.get(&self.host, &path, settings.freshness, &self.metrics.host_reads)?)
    }

    /// The host's text that a container's is made from.
    fn host_text_of(
        &self,
        view: &View<'_>,
        file: File,
        settings: ViewSettings,
    ) -> Result<Arc<[u8]>, Error> {
        let path = view.host_path(Entry::File(file)).ok_or(cgview_core::view::Error::NotShown)?;
        let counters = &self.metrics.host_reads;
        self.texts
            .get(&self.host, &path, settings.freshness, counters)
            .or_else(|error| self.stale(file, error.into(), settings, || self.texts.stale(&path)))
    }

    /// All that a container's texts with these parts are made from.
    fn prepare(
        &self,
        tenant: &Tenant,
        parts: Parts,
        settings: ViewSettings,
    ) -> Result<Ready, Error> {
        let ViewSettings { policy, freshness, .. } = settings;
        let any = File::Proc(ProcFile::Meminfo);
        let facts =
            self.texts.facts(&self.host, freshness, &self.metrics.host_reads).or_else(|error| {
                self.stale(any, error.into(), settings, || self.texts.stale_facts())
            })?;
        let snapshot = tenant
            .sample(&self.host, parts, freshness, &self.metrics)
            .or_else(|error| self.stale(any, error.into(), settings, || tenant.stale(parts)))?;
        let cpus = CpuLimits::of(&snapshot, &facts, &policy);
        Ok(Ready { settings, facts, snapshot, cpus, parts })
    }

    /// What was known before, in place of what cannot be known now, if the policy allows.
    fn stale<T>(
        &self,
        file: File,
        error: Error,
        settings: ViewSettings,
        known: impl FnOnce() -> Option<T>,
    ) -> Result<T, Error> {
        if settings.on_error != OnError::Stale {
            return Err(error);
        }
        let Some(value) = known() else { return Err(error) };
        self.report(file, &error, Outcome::Stale);
        Ok(value)
    }

    /// Lends the view that is made of all that.
    fn with_view<T>(
        &self,
        tenant: &Tenant,
        ready: &Ready,
        reader: Reader,
        wants_load: bool,
        render: impl FnOnce(&View<'_>) -> T,
    ) -> T {
        let policy = &ready.settings.policy;
        let load = if wants_load && policy.loadavg {
            Some(tenant.load(&self.host, &ready.snapshot, &ready.cpus, true))
        } else {
            None
        };
        let lend = |cpu_view: &CpuView| {
            render(&View {
                snapshot: &ready.snapshot,
                host: &ready.facts,
                policy,
                cpus: &ready.cpus,
                cpu_view,
                load: load.as_ref(),
                reader,
            })
        };
        if ready.parts.contain(Parts::CPU_USAGE) {
            tenant.with_cpu_view(&ready.snapshot, &ready.cpus, policy.steal, lend)
        } else {
            lend(&CpuView::default())
        }
    }

    fn forget_if_gone(&self, tenant: &Tenant, error: &Error) {
        if matches!(error, Error::Host(error) if error.is_gone()) {
            self.tenants.remove(tenant);
        }
    }

    /// Counts a failure, and logs it once in a while.
    fn report(&self, file: File, error: &Error, outcome: Outcome) {
        let cause = error.cause();
        self.metrics.error(cause, outcome);
        let chain = Chain(error);
        let path = Entry::File(file).path();
        // Processes end while they read; that is nothing to look at.
        if cause == "gone" {
            tracing::debug!("cannot show {path}: {chain}");
            return;
        }
        let Some(more) = self.warnings.pass((cause, file)) else { return };
        let got = match outcome {
            Outcome::Stale => "the numbers of before",
            Outcome::Fail => "an error",
            Outcome::Host => "the host's file",
        };
        if more == 0 {
            tracing::warn!("cannot show {path}: {chain}; the reader got {got}");
        } else {
            tracing::warn!("cannot show {path}: {chain}; the reader got {got}, as {more} before");
        }
    }

    fn now(&self) -> Usec {
        // On a captured host that does not tell, all is at its boot.
        self.host.boottime().unwrap_or_default()
    }
}

/// All that a view is made from, but the CPU times.
#[derive(Debug)]
struct Ready {
    settings: ViewSettings,
    facts: Arc<HostFacts>,
    snapshot: Arc<Snapshot>,
    cpus: CpuLimits,
    parts: Parts,
}

/// Whether a file shows the load average.
fn wants_load(file: File) -> bool {
    file == File::Proc(ProcFile::Loadavg)
}

/// By the mode bits: all files are root's, and some are for root alone.
fn may_read(caller: Caller, file: File) -> Result<(), Errno> {
    if caller.uid == 0 || file.mode() & 0o004 != 0 { Ok(()) } else { Err(Errno::ACCESS) }
}

/// An error with all its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
