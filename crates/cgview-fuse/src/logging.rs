//! Logs: lines on stderr, or what systemd's journal makes of them.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer as _, Registry,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::{SubscriberInitExt as _, TryInitError},
};

use crate::settings::LogLevel;

/// Changes what is logged while the daemon runs.
#[derive(Clone, Debug)]
pub struct Handle(reload::Handle<Targets, Registry>);

impl Handle {
    /// Logs from `level` on.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and it is there until the process ends.
        let _ = self.0.reload(targets(level));
    }
}

/// Starts to log to stderr.
///
/// # Errors
///
/// If this process logs already.
pub fn start(level: LogLevel) -> Result<Handle, TryInitError> {
    let (filter, handle) = reload::Layer::new(targets(level));
    let format = if stderr_is_journal() { Format::Journal } else { Format::Plain };
    let lines = tracing_subscriber::fmt::layer()
        .event_format(format)
        .with_writer(io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(Handle(handle))
}

fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // fuser warns of each request that it has no answer for, and tells each request at debug.
    let fuser = match level {
        LogLevel::Debug | LogLevel::Trace => own,
        _ => LevelFilter::ERROR,
    };
    Targets::new().with_default(own).with_target("fuser", fuser)
}

/// Whether systemd reads stderr: `$JOURNAL_STREAM` of systemd.exec(5).
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(found) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", found.dev(), found.ino())
}

#[derive(Clone, Copy, Debug)]
enum Format {
    /// With time and level.
    Plain,
    /// With the priority in front, as sd-daemon(3) has it; the journal adds the time.
    Journal,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        match self {
            Format::Plain => {
                SystemTime.format_time(&mut writer)?;
                write!(writer, " {level:>5} ")?;
            }
            Format::Journal => write!(writer, "<{}>", priority(level))?,
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The priorities of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Lets a message of each kind through once in an interval, and counts what it held back.
#[derive(Debug)]
pub struct RateLimit<K> {
    interval: Duration,
    kinds: Mutex<HashMap<K, Kind>>,
}

#[derive(Debug)]
struct Kind {
    passed: Instant,
    held_back: u64,
}

impl<K: Eq + Hash> RateLimit<K> {
    /// More kinds than anything here has; a bound for the memory.
    const MOST_KINDS: usize = 1024;

    /// One message of a kind in each `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> RateLimit<K> {
        RateLimit { interval, kinds: Mutex::default() }
    }

    /// Whether a message of this kind may pass now; if so, how many were held back since the last.
    pub fn pass(&self, kind: K) -> Option<u64> {
        let now = Instant::now();
        let mut kinds = self.kinds.lock();
        if let Some(known) = kinds.get_mut(&kind) {
            if now.duration_since(known.passed) < self.interval {
                known.held_back = known.held_back.saturating_add(1);
                return None;
            }
            known.passed = now;
            return Some(std::mem::take(&mut known.held_back));
        }
        if kinds.len() >= Self::MOST_KINDS {
            kinds.clear();
        }
        kinds.insert(kind, Kind { passed: now, held_back: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_of_a_kind_in_an_interval() {
        let limit = RateLimit::new(Duration::from_secs(3600));
        assert_eq!(limit.pass("a"), Some(0));
        assert_eq!(limit.pass("a"), None);
        assert_eq!(limit.pass("b"), Some(0));
        let limit = RateLimit::new(Duration::ZERO);
        assert_eq!(limit.pass("a"), Some(0));
        assert_eq!(limit.pass("a"), Some(0));
    }

    #[test]
    fn what_was_held_back_is_counted() {
        let limit = RateLimit::new(Duration::from_millis(200));
        assert_eq!(limit.pass("a"), Some(0));
        assert_eq!((limit.pass("a"), limit.pass("a")), (None, None));
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(limit.pass("a"), Some(2));
    }

    #[test]
    fn kinds_do_not_fill_the_memory() {
        let limit = RateLimit::new(Duration::from_secs(1));
        for kind in 0..5000 {
            limit.pass(kind);
        }
        assert!(limit.kinds.lock().len() <= RateLimit::<i32>::MOST_KINDS);
    }
}
