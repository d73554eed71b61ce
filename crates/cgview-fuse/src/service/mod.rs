//! What readers are told: requests in, entries and texts out. It knows nothing of FUSE, and is what
//! `cgview show` asks too.

mod entries;
mod files;
mod kept;
#[cfg(test)]
mod tests;
mod texts;

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cgview_core::{
    Explanation, Snapshot, Usec,
    tree::{File, ProcFile},
};
use cgview_host::Host;
use parking_lot::RwLock;
use rustix::io::Errno;

use crate::{
    by_id::{Pages, Registry},
    cache::{Callers, HostTexts},
    fatal::Notes,
    handles::{Handles, Held},
    ledger::{Kind, Ledger, marks::Marks},
    logging::RateLimit,
    metrics::Metrics,
    settings::{OnError, ViewSettings},
    state::States,
    tenant::Tenants,
    triggers::Triggers,
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
    /// The kernel takes longer than a reader is to wait.
    #[error("the kernel did not answer in time")]
    Late,
    /// There are too many requests of this reader's container already.
    #[error("its container asks for too much at a time")]
    Crowd,
    /// Something is wrong with this program.
    #[error("the answer ended in a panic")]
    Panic,
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
            Error::View(_) | Error::Late | Error::Crowd | Error::Panic => Errno::IO,
        }
    }

    /// A word for metrics.
    fn cause(&self) -> &'static str {
        use cgview_host::Error as HostError;
        match self {
            Error::NoCaller => "no-caller",
            Error::View(_) => "view",
            Error::Late => "late",
            Error::Crowd => "crowd",
            Error::Panic => "panic",
            Error::Host(error) => match error {
                HostError::Gone { .. } => "gone",
                HostError::Hidden { .. } => "hidden",
                HostError::Outside { .. } => "outside",
                HostError::Vanished { .. } => "vanished",
                HostError::Parse { .. } => "parse",
                HostError::Read { source, .. } if source.kind() == ErrorKind::TimedOut => "slow",
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
    triggers: Option<Triggers>,
    metrics: Metrics,
    warnings: RateLimit<(&'static str, File)>,
    #[cfg(any(test, feature = "other-version"))]
    pub(crate) fault: parking_lot::Mutex<Option<fn(File)>>,
    /// What outlives this process at every moment.
    ledger: Option<Arc<Ledger>>,
    notes: Option<Notes>,
    marks: Option<Marks>,
    unkept: RateLimit<Kind>,
    /// How many bytes of texts were kept since those that are of no use were forgotten.
    rendered: AtomicUsize,
    registry: Registry,
    pages: Pages,
    /// The handles whose texts are in the ledger.
    texts_kept: parking_lot::Mutex<foldhash::HashSet<u64>>,
}

/// What open files may hold: enough for thousands of readers, whatever a machine's size.
const MOST_HELD: Held = Held { handles: 65_536, bytes: 128 << 20 };

/// A warning of each kind for each file is logged once in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(300);

/// So many bytes of texts may be kept which are too old to be of use, whoever they are of.
const MOST_RENDERED: usize = 1 << 20;

/// Whoever has not asked for this long is forgotten.
const CALLER_IDLE: Duration = Duration::from_secs(60);

/// A container that nobody has read for this long has its descriptors closed.
const TENANT_IDLE: Duration = Duration::from_secs(300);

/// A file of a cgroup that nobody has read for this long is closed.
const FILE_IDLE: Duration = Duration::from_secs(30);

/// A container that was read this recently is not looked after.
const REMOVED_IDLE: Duration = Duration::from_secs(1);

impl Service {
    /// A service that tells of `host`.
    #[must_use]
    pub fn new(host: Host, settings: ViewSettings) -> Service {
        let callers = Callers::new(&host);
        Service {
            host,
            settings: RwLock::new(settings),
            off: AtomicBool::new(false),
            callers,
            texts: HostTexts::default(),
            tenants: Tenants::default(),
            handles: Handles::new(MOST_HELD),
            triggers: None,
            metrics: Metrics::default(),
            warnings: RateLimit::new(WARNING_INTERVAL),
            #[cfg(all(test, not(feature = "other-version")))]
            fault: parking_lot::Mutex::default(),
            #[cfg(feature = "other-version")]
            fault: parking_lot::Mutex::new(crate::other_version::fault()),
            ledger: None,
            notes: None,
            marks: None,
            unkept: RateLimit::new(WARNING_INTERVAL),
            rendered: AtomicUsize::new(0),
            registry: Registry::default(),
            pages: Pages::default(),
            texts_kept: parking_lot::Mutex::default(),
        }
    }

    /// The same, with triggers on pressure files.
    ///
    /// # Errors
    ///
    /// If there are no more descriptors or threads.
    pub fn with_triggers(self) -> std::io::Result<Service> {
        Ok(Service { triggers: Some(Triggers::start()?), ..self })
    }

    /// The host that it tells of.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The containers of the fast mount.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The texts of the fast mount.
    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
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
        let on = self.off.fetch_xor(true, Ordering::Relaxed);
        self.keep_off(!on);
        on
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
            if let Some(forgotten) = self.tenants.put(id, state) {
                self.forget_kept(&forgotten);
            }
        }
    }

    /// Forgets what nobody asks for any more.
    pub fn sweep(&self) {
        self.callers.sweep(CALLER_IDLE);
        self.registry.sweep(&self.host);
        self.pages.sweep();
        self.host.forget_ended();
        for id in self.tenants.sweep(TENANT_IDLE, self.now()) {
            self.forget_kept(&id);
        }
    }

    /// Forgets containers whose cgroups were removed, with the descriptors of them that are open, and texts that are
    /// too old to be of use. Closes files that are not read.
    pub(crate) fn sweep_removed(&self) {
        let freshness = self.settings.read().freshness;
        for tenant in self.tenants.all() {
            tenant.forget_rendered(freshness);
            // One that is read is found out by that.
            if tenant.idle() > REMOVED_IDLE && tenant.container().was_removed(&self.host) {
                self.tenants.remove(&tenant);
                self.forget_kept(tenant.container().id().as_str());
            }
        }
        self.settle_ledger();
        self.callers.sweep_removed();
        self.host.close_idle_files(FILE_IDLE);
    }

    /// Counts a text that is kept, and forgets those that are too old to be of use when there may be many. Each is of use
    /// for `freshness`, and a thousand containers that read in turn have one of each file.
    fn count_rendered(&self, text: &[u8], freshness: Duration) {
        if self.rendered.fetch_add(text.len(), Ordering::Relaxed) < MOST_RENDERED {
            return;
        }
        self.rendered.store(0, Ordering::Relaxed);
        for tenant in self.tenants.all() {
            tenant.forget_rendered(freshness);
        }
    }

    /// Closes all that is only kept open, where there are no more descriptors.
    pub(super) fn relieve(&self, error: &Error) {
        if matches!(error, Error::Host(error) if error.is_out_of_descriptors()) {
            self.callers.sweep(Duration::ZERO);
            for id in self.tenants.sweep(Duration::ZERO, self.now()) {
                self.forget_kept(&id);
            }
        }
    }

    /// Whether the load of any container was asked for within `time`.
    pub(crate) fn watches_loads(&self, time: Duration) -> bool {
        self.tenants.all().iter().any(|tenant| tenant.load_asked_within(time))
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
        let loadavg = File::Proc(ProcFile::Loadavg);
        // Those that were left out the last time have waited longest.
        watched.sort_by_cached_key(|tenant| tenant.load_stepped());
        for tenant in watched {
            if started.elapsed() > budget {
                break;
            }
            let stepped = self
                .prepare(&tenant, loadavg, loadavg.parts(), settings)
                .and_then(|ready| Ok(ready.load(&self.host, &tenant, false)?))
                .map(|_| self.keep_load(&tenant));
            if let Err(error) = stepped {
                tracing::debug!("cannot count the tasks of {}: {error}", tenant.container().id());
                self.forget_if_gone(&tenant, &error);
            }
        }
        count
    }

    fn now(&self) -> Usec {
        // On a captured host that does not tell, all is at its boot.
        self.host.boottime().unwrap_or_default()
    }
}
