//! What the daemon counts, and how Prometheus gets at it.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

/// The counters of one service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: [Counter; Operation::ALL.len()],
    errors: Family<ErrorLabels, Counter>,
    /// Requests that ended in a panic.
    pub panics: Counter,
    /// Requests that wait for others of their container.
    pub queued: Gauge,
    /// Requests whose readers were answered in another way, while the kernel is still being waited for.
    pub overdue: Gauge,
    /// Threads that serve in place of those that hang.
    pub workers: Gauge,
    /// Samples of containers that were taken, and those that were still fresh.
    pub samples: CacheCounters,
    /// Texts that were rendered before, from numbers that are all still new enough.
    pub renderings: CacheCounters,
    /// Host files that were read, and those that were still fresh.
    pub host_reads: CacheCounters,
    /// Callers that had to be identified, and those that were known.
    pub callers: CacheCounters,
    /// Counts of a container's tasks.
    pub task_counts: Counter,
    /// The CPU time that counts of tasks took.
    pub task_count_seconds: Counter<f64, std::sync::atomic::AtomicU64>,
    /// Containers that are known.
    pub containers: Gauge,
    /// Open files that are known.
    pub handles: Gauge,
    /// Bytes of text that they hold.
    pub handle_bytes: Gauge,
}

/// How often something had to be read, and how often what had been read was still good.
#[derive(Debug, Default)]
pub struct CacheCounters {
    /// Had to be read.
    pub misses: Counter,
    /// Was still good.
    pub hits: Counter,
}

/// A kind of FUSE request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "each is the request of its name: linux/fuse.h")]
pub enum Operation {
    Lookup,
    Getattr,
    Readlink,
    Access,
    Open,
    Read,
    Write,
    Poll,
    Release,
    Opendir,
    Readdir,
    Releasedir,
    Statfs,
    Setattr,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 14] = [
        Operation::Lookup,
        Operation::Getattr,
        Operation::Readlink,
        Operation::Access,
        Operation::Open,
        Operation::Read,
        Operation::Write,
        Operation::Poll,
        Operation::Release,
        Operation::Opendir,
        Operation::Readdir,
        Operation::Releasedir,
        Operation::Statfs,
        Operation::Setattr,
    ];

    /// In lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Lookup => "lookup",
            Operation::Getattr => "getattr",
            Operation::Readlink => "readlink",
            Operation::Access => "access",
            Operation::Open => "open",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Poll => "poll",
            Operation::Release => "release",
            Operation::Opendir => "opendir",
            Operation::Readdir => "readdir",
            Operation::Releasedir => "releasedir",
            Operation::Statfs => "statfs",
            Operation::Setattr => "setattr",
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OperationLabels {
    operation: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CacheLabels {
    cache: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ErrorLabels {
    cause: &'static str,
    outcome: Outcome,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct BuildLabels {
    version: &'static str,
}

/// What a reader got where something failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// The container's numbers of before.
    Stale,
    /// An error.
    Fail,
    /// The host's file.
    Host,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = match self {
            Outcome::Stale => "stale",
            Outcome::Fail => "fail",
            Outcome::Host => "host",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("cgview");
        let requests = Family::<OperationLabels, Counter>::default();
        let errors = Family::default();
        let hits = Family::<CacheLabels, Counter>::default();
        let misses = Family::<CacheLabels, Counter>::default();
        let cache = |cache| CacheCounters {
            misses: misses.get_or_create(&CacheLabels { cache }).clone(),
            hits: hits.get_or_create(&CacheLabels { cache }).clone(),
        };
        let build = Info::new(BuildLabels { version: env!("CARGO_PKG_VERSION") });
        let metrics = Metrics {
            requests: Operation::ALL.map(|operation| {
                requests.get_or_create(&OperationLabels { operation: operation.name() }).clone()
            }),
            errors: Family::clone(&errors),
            panics: Counter::default(),
            queued: Gauge::default(),
            overdue: Gauge::default(),
            workers: Gauge::default(),
            samples: cache("sample"),
            renderings: cache("text"),
            host_reads: cache("host"),
            callers: cache("caller"),
            task_counts: Counter::default(),
            task_count_seconds: Counter::default(),
            containers: Gauge::default(),
            handles: Gauge::default(),
            handle_bytes: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("build", "The version of the daemon", build);
        registry.register("requests", "Requests by kind", requests);
        registry.register("errors", "Failures, and what the reader got", errors);
        registry.register("panics", "Requests that ended in a panic", metrics.panics.clone());
        let gauges = [
            (
                "queued_requests",
                "Requests that wait for others of their container",
                &metrics.queued,
            ),
            ("overdue_requests", "Requests that hang, their readers answered", &metrics.overdue),
            ("workers", "Threads that serve in place of those that hang", &metrics.workers),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register("cache_hits", "What had been read and was still fresh", hits);
        registry.register("cache_misses", "What had to be read", misses);
        registry.register(
            "task_counts",
            "Counts of a container's tasks",
            metrics.task_counts.clone(),
        );
        registry.register_with_unit(
            "task_count",
            "CPU time that counts of tasks took",
            Unit::Seconds,
            metrics.task_count_seconds.clone(),
        );
        registry.register("containers", "Containers that are known", metrics.containers.clone());
        registry.register("handles", "Open files that are known", metrics.handles.clone());
        registry.register_with_unit(
            "handle",
            "Text that open files hold",
            Unit::Bytes,
            metrics.handle_bytes.clone(),
        );
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, operation: Operation) {
        if let Some(counter) = self.requests.get(operation as usize) {
            counter.inc();
        }
    }

    /// How many requests of a kind there were.
    #[must_use]
    pub fn requests(&self, operation: Operation) -> u64 {
        self.requests.get(operation as usize).map_or(0, Counter::get)
    }

    /// Counts a failure.
    pub fn error(&self, cause: &'static str, outcome: Outcome) {
        self.errors.get_or_create(&ErrorLabels { cause, outcome }).inc();
    }

    /// All of it in the text format of OpenMetrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// A socket on which metrics are served. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
}

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(1);

impl Server {
    /// Serves what `text` gives to whoever connects to the socket `path`, one after the other. Only root
    /// may connect.
    ///
    /// # Errors
    ///
    /// If there is something else at `path`, or the socket cannot be made.
    pub fn start(
        path: &Path,
        text: impl Fn() -> String + Send + Sync + 'static,
    ) -> io::Result<Server> {
        // One that a daemon left which was killed.
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                // Unless somebody listens.
                if UnixStream::connect(path).is_ok() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                std::fs::remove_file(path)?;
            }
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let text = Arc::new(text);
        thread::Builder::new().name("metrics".into()).spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that goes away is no concern of the daemon's.
                let _ = answer(client, &*text);
            }
        })?;
        Ok(Server { path: path.into() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Left behind, the next daemon removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers one HTTP request, whatever it asks for.
fn answer(mut client: UnixStream, text: &dyn Fn() -> String) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut request = [0; 4096];
    let mut length = 0;
    while let Some(room) = request.get_mut(length..).filter(|room| !room.is_empty()) {
        let read = client.read(room)?;
        length += read;
        let sofar = request.get(..length).unwrap_or_default();
        if read == 0 || sofar.windows(4).any(|end| end == b"\r\n\r\n") || sofar.ends_with(b"\n\n") {
            break;
        }
    }
    let body = text();
    write!(
        client,
        "HTTP/1.0 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; \
         charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_what_was_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let metrics = Arc::new(Metrics::default());
        metrics.request(Operation::Read);
        metrics.request(Operation::Read);
        metrics.error("gone", Outcome::Stale);
        metrics.samples.hits.inc();
        let server = {
            let metrics = Arc::clone(&metrics);
            Server::start(&path, move || metrics.encode()).unwrap()
        };
        for _ in 0..2 {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            let mut reply = String::new();
            client.read_to_string(&mut reply).unwrap();
            assert!(reply.starts_with("HTTP/1.0 200 OK\r\n"), "{reply}");
            for line in [
                "cgview_requests_total{operation=\"read\"} 2",
                "cgview_errors_total{cause=\"gone\",outcome=\"stale\"} 1",
                "cgview_cache_hits_total{cache=\"sample\"} 1",
                "# EOF",
            ] {
                assert!(reply.lines().any(|found| found == line), "{line} in {reply}");
            }
        }
        // Another daemon takes another socket.
        assert!(Server::start(&path, String::new).is_err());
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_not_replaced_by_a_socket() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Server::start(file.path(), String::new).is_err());
        assert!(file.path().exists());
    }
}
