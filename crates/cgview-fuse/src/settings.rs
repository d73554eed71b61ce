//! What the administrator chose: defaults, then the configuration file, then the command line.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use cgview_core::policy::{CpuPolicy, FileSet, Policy, StealPolicy, UptimePolicy};
use serde::Deserialize;

use crate::arguments::Arguments;

/// The configuration file that is read if it exists and `--config` names no other.
pub const DEFAULT_CONFIG: &str = "/etc/cgview.toml";

/// Everything that the daemon needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What readers are told, and how fresh it is.
    pub view: ViewSettings,
    /// How many requests are answered at the same time. Those of one container are at most half of them.
    pub threads: usize,
    /// Where the fast mount is, if there is to be one.
    pub by_id: Option<PathBuf>,
    /// The root below which the host's `proc` and `sys` are.
    pub host_root: PathBuf,
    /// Where the pid file, the ledger and the sockets are.
    pub runtime_dir: PathBuf,
    /// The pid file, if not `cgview-fuse.pid` of the runtime directory.
    pub pid_file: Option<PathBuf>,
    /// Where metrics are served.
    pub metrics: Metrics,
    /// What is logged.
    pub log_level: LogLevel,
    /// Whether pressure files take triggers.
    pub psi_triggers: bool,
    /// Whether the daemon gives up the rights that it does not need: see `docs/security.md`.
    pub confine: bool,
    /// The configuration file, as it was read.
    pub config: Option<String>,
    /// A worker that has not answered for this long is replaced by its keeper. `None`: never.
    pub watchdog: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            view: ViewSettings::default(),
            threads: 4,
            by_id: None,
            host_root: "/".into(),
            runtime_dir: "/run/cgview".into(),
            pid_file: None,
            metrics: Metrics::Default,
            log_level: LogLevel::Info,
            psi_triggers: false,
            confine: true,
            config: None,
            watchdog: Some(Duration::from_secs(2)),
        }
    }
}

/// What readers are told, and how fresh it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewSettings {
    /// What the core is told.
    pub policy: Policy,
    /// How old a number may be: within this time, files of the host and of a container are read once
    /// for all readers.
    pub freshness: Duration,
    /// What a reader gets when the kernel does not tell what is needed.
    pub on_error: OnError,
    /// How long a reader waits for the kernel to tell what is needed, before `on_error` holds.
    pub request_deadline: Duration,
}

/// A question to the kernel takes microseconds, but whoever asks may have to wait for a CPU.
const SLOW: Duration = Duration::from_millis(200);

impl ViewSettings {
    /// What the kernel has been asked for this long hangs, for all that is known: whoever needs the same then
    /// goes without, if there is an older answer. Where readers are to wait long, the machine is slow, and
    /// this is longer, too.
    #[must_use]
    pub fn slow(&self) -> Duration {
        SLOW.max(self.request_deadline / 3 * 2)
    }
}

impl Default for ViewSettings {
    fn default() -> ViewSettings {
        ViewSettings {
            policy: Policy::default(),
            freshness: Duration::from_millis(5),
            on_error: OnError::Stale,
            request_deadline: Duration::from_millis(300),
        }
    }
}

/// What a reader gets when the kernel does not tell what is needed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The container's numbers of before, or an error if there are none
    #[default]
    Stale,
    /// An error
    Fail,
    /// The host's file
    Host,
}

/// Where metrics are served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Metrics {
    /// On `cgview-fuse.sock` of the runtime directory.
    Default,
    /// On that socket.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what is broken
    Error,
    /// And what should be looked at
    Warn,
    /// And what the daemon does
    #[default]
    Info,
    /// And each request
    Debug,
    /// And what becomes of it
    Trace,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file does not say what it should.
    #[error("cannot use the configuration {}, line {line}: {key}{message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key on that line, with a colon, if it has one.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// An option that LXCFS would not know either.
    #[error("cannot mount with -o {option}: there is no such option; leave it out")]
    MountOption {
        /// The option.
        option: String,
    },
}

/// The configuration file: each key may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    cpu_view: Option<CpuPolicy>,
    uptime: Option<UptimePolicy>,
    steal: Option<StealPolicy>,
    swap: Option<bool>,
    zswap: Option<bool>,
    loadavg: Option<bool>,
    passthrough: Option<FileSet>,
    freshness_ms: Option<u32>,
    on_error: Option<OnError>,
    request_deadline_ms: Option<NonZeroU32>,
    threads: Option<u8>,
    by_id: Option<PathBuf>,
    host_root: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    metrics: Option<String>,
    log_level: Option<LogLevel>,
    psi_triggers: Option<bool>,
    confine: Option<bool>,
    watchdog_ms: Option<u32>,
}

impl Settings {
    /// Puts together what the file and the command line say.
    ///
    /// # Errors
    ///
    /// [`Error`], if a file that was asked for cannot be read or has something unknown in it.
    pub fn load(arguments: &Arguments) -> Result<Settings, Error> {
        let mut settings = Settings::default();
        match &arguments.config {
            Some(path) => settings.read(path)?,
            None => match settings.read(Path::new(DEFAULT_CONFIG)) {
                Err(Error::Read { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                done => done?,
            },
        }
        arguments.apply(&mut settings);
        Ok(settings)
    }

    /// The same, with what the file said when it was read by another process.
    ///
    /// # Errors
    ///
    /// [`Error::Content`], if that was another version's.
    pub fn load_from(arguments: &Arguments, text: String) -> Result<Settings, Error> {
        let mut settings = Settings::default();
        let path = arguments.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
        settings.take(path, text)?;
        arguments.apply(&mut settings);
        Ok(settings)
    }

    /// The pid file.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.pid_file.clone().unwrap_or_else(|| self.runtime_dir.join("cgview-fuse.pid"))
    }

    /// The file of the [`Ledger`](crate::ledger::Ledger): beside the pid file, under whose lock it is made.
    #[must_use]
    pub fn ledger_file(&self) -> PathBuf {
        self.pid_file().with_extension("ledger")
    }

    /// The socket where the keeper can be asked to hand over to another one: beside the pid file, too.
    #[must_use]
    pub fn keeper_socket(&self) -> PathBuf {
        self.pid_file().with_extension("keeper")
    }

    /// The socket that metrics are served on.
    #[must_use]
    pub fn metrics_socket(&self) -> Option<PathBuf> {
        match &self.metrics {
            Metrics::Default => Some(self.runtime_dir.join("cgview-fuse.sock")),
            Metrics::At(path) => Some(path.clone()),
            Metrics::Off => None,
        }
    }

    /// What cannot change while the daemon runs, and does in `new`: by the names of the keys.
    #[must_use]
    pub fn needs_restart(&self, new: &Settings) -> Vec<&'static str> {
        [
            ("threads", self.threads != new.threads),
            ("by_id", self.by_id != new.by_id),
            ("host_root", self.host_root != new.host_root),
            ("runtime_dir", self.runtime_dir != new.runtime_dir),
            ("pid_file", self.pid_file != new.pid_file),
            ("metrics", self.metrics != new.metrics),
            ("psi_triggers", self.psi_triggers != new.psi_triggers),
            ("confine", self.confine != new.confine),
            ("watchdog_ms", self.watchdog != new.watchdog),
        ]
        .into_iter()
        .filter_map(|(name, changed)| changed.then_some(name))
        .collect()
    }

    fn read(&mut self, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.into(), source })?;
        self.take(path, text)
    }

    fn take(&mut self, path: &Path, text: String) -> Result<(), Error> {
        let config: Config = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or_default();
            let line = before.bytes().filter(|&byte| byte == b'\n').count();
            let key = text.lines().nth(line).and_then(|line| line.split_once('='));
            Error::Content {
                path: path.into(),
                line: line + 1,
                key: key.map_or_else(String::new, |(key, _)| format!("{}: ", key.trim())),
                message: error.message().replace('\n', " "),
            }
        })?;
        config.apply(self);
        self.config = Some(text);
        Ok(())
    }
}

impl Config {
    fn apply(self, settings: &mut Settings) {
        let policy = &mut settings.view.policy;
        set(&mut policy.cpu_view, self.cpu_view);
        set(&mut policy.uptime, self.uptime);
        set(&mut policy.steal, self.steal);
        set(&mut policy.swap, self.swap);
        set(&mut policy.zswap, self.zswap);
        set(&mut policy.loadavg, self.loadavg);
        set(&mut policy.passthrough, self.passthrough);
        set(
            &mut settings.view.freshness,
            self.freshness_ms.map(|ms| Duration::from_millis(ms.into())),
        );
        set(&mut settings.view.on_error, self.on_error);
        set(
            &mut settings.view.request_deadline,
            self.request_deadline_ms.map(|ms| Duration::from_millis(ms.get().into())),
        );
        set(&mut settings.threads, self.threads.map(usize::from));
        set(&mut settings.by_id, self.by_id.map(Some));
        set(&mut settings.host_root, self.host_root);
        set(&mut settings.runtime_dir, self.runtime_dir);
        set(&mut settings.pid_file, self.pid_file.map(Some));
        set(&mut settings.metrics, self.metrics.map(|place| Metrics::from(place.as_str())));
        set(&mut settings.log_level, self.log_level);
        set(&mut settings.psi_triggers, self.psi_triggers);
        set(&mut settings.confine, self.confine);
        set(&mut settings.watchdog, self.watchdog_ms.map(watchdog));
    }
}

impl From<&str> for Metrics {
    fn from(place: &str) -> Metrics {
        match place {
            "off" => Metrics::Off,
            path => Metrics::At(path.into()),
        }
    }
}

/// What a number of milliseconds says: 0 is none.
pub(crate) fn watchdog(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

/// Takes over what was said.
pub(crate) fn set<T>(place: &mut T, said: Option<T>) {
    if let Some(value) = said {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use std::io::Write as _;

    fn load(config: &str, arguments: &[&str]) -> Result<Settings, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let all = ["cgview-fuse", "/mnt", "--config", path];
        let arguments = all.iter().chain(arguments).copied();
        Settings::load(&Arguments::try_parse_from(arguments).unwrap())
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = Some(String::new());
        assert_eq!(load("", &[]).unwrap(), Settings { config, ..Settings::default() });
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        let config = "cpu_view = 'cpuset'\nfreshness_ms = 20\npassthrough = ['uptime']\n";
        let settings = load(config, &["--freshness", "7", "--on-error", "fail", "-u"]).unwrap();
        assert_eq!(settings.view.policy.cpu_view, CpuPolicy::Cpuset);
        assert!(settings.view.policy.passthrough.contains(cgview_core::tree::ProcFile::Uptime));
        assert_eq!(settings.view.freshness, Duration::from_millis(7));
        assert_eq!(settings.view.on_error, OnError::Fail);
        assert!(!settings.view.policy.swap);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_key() {
        let message = load("swap = true\nfreshness_ms = 'soon'\n", &[]).unwrap_err().to_string();
        assert!(message.contains("line 2: freshness_ms: "), "{message}");
        let message = load("\n\ncolour = 1\n", &[]).unwrap_err().to_string();
        assert!(message.contains("line 3: colour: ") && message.contains("unknown"), "{message}");
        let message = load("swap = ", &[]).unwrap_err().to_string();
        assert!(message.contains("line 1: swap: "), "{message}");
    }

    #[test]
    fn a_file_that_was_asked_for_must_be_there() {
        let arguments = ["cgview-fuse", "--config", "/nonexistent.toml", "/mnt"];
        let arguments = Arguments::try_parse_from(arguments).unwrap();
        let message = Settings::load(&arguments).unwrap_err().to_string();
        assert_eq!(message, "cannot read the configuration /nonexistent.toml");
    }

    #[test]
    fn what_needs_a_restart_is_known() {
        let old = Settings::default();
        let new = load("threads = 2\nsteal = 'throttled'\nmetrics = 'off'\n", &[]).unwrap();
        assert_eq!(old.needs_restart(&new), ["threads", "metrics"]);
    }
}
