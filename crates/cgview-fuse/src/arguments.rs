//! The command line of the daemon: what was typed.
//!
//! All options of LXCFS are taken, with the same meaning, so that a unit file or script that starts
//! LXCFS can start this instead. Those that have no effect any more are named in the log.

use std::{path::PathBuf, time::Duration};

use cgview_core::policy::{CpuPolicy, StealPolicy, UptimePolicy};
use clap::{ArgAction, Parser, ValueEnum};

use crate::{
    mount,
    settings::{Error, LogLevel, Metrics, OnError, Settings, set, watchdog},
};

/// Serves containers their own /proc and /sys
///
/// Below MOUNTPOINT are proc/... and sys/devices/system/{cpu,node}/..., in the layout of LXCFS.
/// Whoever reads a file there gets it for the container that it is in: bind the files over those
/// of the container.
#[derive(Clone, Debug, Parser)]
#[command(name = "cgview-fuse", version, disable_version_flag = true, max_term_width = 100)]
pub struct Arguments {
    /// The directory to mount at
    pub mountpoint: PathBuf,

    /// Also mount the fast mount at DIR, where each container has a directory of its own
    #[arg(long, value_name = "DIR")]
    pub by_id: Option<PathBuf>,

    /// Configuration file (default /etc/cgview.toml, if it exists)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// What counts for the number of CPUs
    #[arg(long, value_name = "WHAT")]
    pub cpu_view: Option<CpuView>,

    /// Whose age /proc/uptime tells
    #[arg(long, value_name = "WHOSE")]
    pub uptime: Option<Uptime>,

    /// What steal in /proc/stat shows
    #[arg(long, value_name = "WHAT")]
    pub steal: Option<Steal>,

    /// How old a number may be, in milliseconds
    #[arg(long, value_name = "MS")]
    pub freshness: Option<u32>,

    /// What a reader gets when the kernel does not tell what is needed
    #[arg(long, value_name = "WHAT")]
    pub on_error: Option<OnError>,

    /// How long a reader waits for the kernel to tell what is needed, in milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    pub request_deadline: Option<u32>,

    /// How many requests are answered at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: Option<u8>,

    /// The directory that has the host's proc and sys
    #[arg(long, value_name = "DIR")]
    pub host_root: Option<PathBuf>,

    /// Unix socket that Prometheus metrics are served on, or "off"
    #[arg(long, value_name = "SOCKET")]
    pub metrics: Option<String>,

    /// What is logged
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// Serve in one process, without a keeper that replaces it when it dies
    #[arg(long)]
    pub no_keeper: bool,

    /// How long a worker may not answer until it is replaced, in milliseconds; 0: for ever
    #[arg(long, value_name = "MS")]
    pub watchdog: Option<u32>,

    /// Take over from the daemon at MOUNTPOINT while it is read, or replace a mount that a dead one left
    #[arg(long)]
    pub replace: bool,

    /// When it serves, replace what dead daemons left in containers, as `cgview doctor --repair` does
    #[arg(long)]
    pub repair: bool,

    /// Where the pid file, the ledger and the sockets are (default /run/cgview)
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,

    /// Pid file (default cgview-fuse.pid in the runtime directory)
    #[arg(short, long = "pidfile", value_name = "FILE")]
    pub pid_file: Option<PathBuf>,

    /// Show no swap
    #[arg(short = 'u', long)]
    pub disable_swap: bool,

    /// Show no zswap
    #[arg(long)]
    pub disable_zswap: bool,

    /// Take triggers on pressure files
    #[arg(long)]
    pub enable_psi_poll: bool,

    /// Keep all rights: no seccomp filter, no Landlock, all capabilities
    #[arg(long)]
    pub no_confine: bool,

    /// Log each request
    #[arg(short, long)]
    pub debug: bool,

    /// Options of the mount: SELinux's context=...; others of LXCFS have no effect
    #[arg(short, value_name = "OPTION,...")]
    pub options: Vec<String>,

    /// No effect: the daemon is always in the foreground
    #[arg(short, long, help_heading = "Taken for LXCFS's sake")]
    pub foreground: bool,

    /// No effect: containers have a load average of their own
    #[arg(short = 'l', long, help_heading = "Taken for LXCFS's sake")]
    pub enable_loadavg: bool,

    /// No effect: quotas count by default
    #[arg(long, help_heading = "Taken for LXCFS's sake")]
    pub enable_cfs: bool,

    /// No effect: pidfds are always used
    #[arg(long, help_heading = "Taken for LXCFS's sake")]
    pub enable_pidfd: bool,

    /// No effect: there is no cgroup/ tree
    #[arg(long, help_heading = "Taken for LXCFS's sake")]
    pub enable_cgroup: bool,

    /// No effect
    #[arg(short, help_heading = "Taken for LXCFS's sake")]
    pub single_threaded: bool,

    /// Print the version
    #[arg(short, long, action = ArgAction::Version)]
    pub version: Option<bool>,
}

/// The words of [`CpuPolicy`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CpuView {
    /// The quota within the cpuset
    Quota,
    /// The cpuset alone
    Cpuset,
}

/// The words of [`UptimePolicy`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Uptime {
    /// The container's
    Container,
    /// The host's
    Host,
}

/// The words of [`StealPolicy`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Steal {
    /// Nothing
    Zero,
    /// The time that the quota withheld
    Throttled,
}

/// Mount options that LXCFS or mount(8) know and that need nothing done about them here.
const WITHOUT_EFFECT: [&str; 22] = [
    "allow_other",
    "allow_root",
    "async",
    "atime",
    "attr_timeout",
    "auto_unmount",
    "big_writes",
    "default_permissions",
    "defaults",
    "direct_io",
    "entry_timeout",
    "fsname",
    "max_read",
    "negative_timeout",
    "noatime",
    "nodev",
    "noexec",
    "nonempty",
    "nosuid",
    "ro",
    "rw",
    "subtype",
];

impl Arguments {
    /// Takes over what was typed.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        let policy = &mut settings.view.policy;
        // The flag asks for what is the default; the file may have said otherwise.
        let cfs = self.enable_cfs.then_some(CpuPolicy::Quota);
        set(&mut policy.cpu_view, self.cpu_view.map(CpuPolicy::from).or(cfs));
        set(&mut policy.uptime, self.uptime.map(UptimePolicy::from));
        set(&mut policy.steal, self.steal.map(StealPolicy::from));
        policy.swap &= !self.disable_swap;
        policy.zswap &= !self.disable_zswap;
        policy.loadavg |= self.enable_loadavg;
        let freshness = self.freshness.map(|ms| Duration::from_millis(ms.into()));
        set(&mut settings.view.freshness, freshness);
        set(&mut settings.view.on_error, self.on_error);
        let deadline = self.request_deadline.map(|ms| Duration::from_millis(ms.into()));
        set(&mut settings.view.request_deadline, deadline);
        set(&mut settings.threads, self.threads.map(usize::from));
        set(&mut settings.by_id, self.by_id.clone().map(Some));
        set(&mut settings.host_root, self.host_root.clone());
        set(&mut settings.runtime_dir, self.runtime_dir.clone());
        set(&mut settings.pid_file, self.pid_file.clone().map(Some));
        set(&mut settings.metrics, self.metrics.as_deref().map(Metrics::from));
        let debug = self.debug.then_some(LogLevel::Debug);
        set(&mut settings.log_level, self.log_level.or(debug));
        settings.psi_triggers |= self.enable_psi_poll;
        settings.confine &= !self.no_confine;
        set(&mut settings.watchdog, self.watchdog.map(watchdog));
    }

    /// What the mount is made with.
    ///
    /// # Errors
    ///
    /// [`Error::MountOption`] for an option that nobody knows.
    pub fn mount_options(&self, settings: &Settings) -> Result<mount::Options, Error> {
        let mut security = Vec::new();
        for option in self.each_option() {
            let name = option.split('=').next().unwrap_or_default();
            if mount::is_security_option(option) {
                security.push(option.to_owned());
            } else if !WITHOUT_EFFECT.contains(&name) {
                return Err(Error::MountOption { option: option.to_owned() });
            }
        }
        Ok(mount::Options { security, replace: self.replace, writable: settings.psi_triggers })
    }

    /// Each option of all `-o`: commas within quotes belong to an SELinux context.
    fn each_option(&self) -> impl Iterator<Item = &str> {
        self.options
            .iter()
            .flat_map(|options| {
                let mut quoted = false;
                options.split(move |letter| {
                    quoted ^= letter == '"';
                    letter == ',' && !quoted
                })
            })
            .filter(|option| !option.is_empty())
    }

    /// What was typed and has no effect, each with the reason.
    #[must_use]
    pub fn without_effect(&self) -> Vec<String> {
        let flags = [
            (self.enable_loadavg, "--enable-loadavg: containers have a load average by default"),
            (self.enable_pidfd, "--enable-pidfd: pidfds are always used"),
            (self.enable_cgroup, "--enable-cgroup: there is no cgroup/ tree"),
            (self.single_threaded, "-s: see --threads"),
        ];
        let options = self.each_option().filter(|option| {
            let name = option.split('=').next().unwrap_or_default();
            // These are what any mount of ours is.
            !matches!(name, "allow_other" | "direct_io" | "nodev" | "noexec" | "nosuid" | "ro")
                && WITHOUT_EFFECT.contains(&name)
        });
        flags
            .iter()
            .filter(|(given, _)| *given)
            .map(|(_, text)| (*text).to_owned())
            .chain(options.map(|option| format!("-o {option}")))
            .collect()
    }
}

impl From<CpuView> for CpuPolicy {
    fn from(word: CpuView) -> CpuPolicy {
        match word {
            CpuView::Quota => CpuPolicy::Quota,
            CpuView::Cpuset => CpuPolicy::Cpuset,
        }
    }
}

impl From<Uptime> for UptimePolicy {
    fn from(word: Uptime) -> UptimePolicy {
        match word {
            Uptime::Container => UptimePolicy::Container,
            Uptime::Host => UptimePolicy::Host,
        }
    }
}

impl From<Steal> for StealPolicy {
    fn from(word: Steal) -> StealPolicy {
        match word {
            Steal::Zero => StealPolicy::Zero,
            Steal::Throttled => StealPolicy::Throttled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn lines_that_start_lxcfs_start_this() {
        for line in [
            "lxcfs /var/lib/lxcfs",
            "lxcfs -f -l -u -p /run/x.pid -o allow_other,entry_timeout=1 -s -d /var/lib/lxcfs",
            "lxcfs --foreground --enable-loadavg --disable-swap --pidfile=/run/x.pid --debug /x",
            "lxcfs --enable-cfs --enable-pidfd --enable-cgroup --disable-zswap --runtime-dir=/x /x",
        ] {
            let arguments = parse(line);
            arguments.mount_options(&Settings::default()).unwrap();
        }
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let arguments = parse("lxcfs -l -o allow_other,nonempty --enable-cfs /x");
        let notes = arguments.without_effect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert_eq!(notes[1], "-o nonempty");
    }

    #[test]
    fn an_unknown_mount_option_is_an_error() {
        let error = parse("lxcfs -o ro,color=red /x").mount_options(&Settings::default());
        assert_eq!(
            error.unwrap_err().to_string(),
            "cannot mount with -o color=red: there is no such option; leave it out"
        );
        let options = parse("lxcfs -o ro,context=\"a:b:c:s0:c1,c2\",rw -o ,fscontext=x /x");
        let security = options.mount_options(&Settings::default()).unwrap().security;
        assert_eq!(security, ["context=\"a:b:c:s0:c1,c2\"", "fscontext=x"]);
    }

    #[test]
    fn the_command_is_well_formed() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
