//! The life of a process that serves: start, signals, stop. It is a worker of a keeper, or alone.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use cgview_fuse::{
    Service, Which,
    arguments::Arguments,
    confine, fatal,
    handover::{Inherited, Manager, has_ended},
    keeper::Custody,
    kept::{self, Line},
    ledger::{DYING, Ledger},
    logging,
    metrics::Server,
    mount::Mount,
    session::Session,
    settings::Settings,
    upkeep::Upkeep,
};
use cgview_host::{Host, Layout, deputy};
use sd_notify::NotifyState;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::{Handle, Signals},
};

use crate::limits;

/// How long the answers to the last requests are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the answers to requests that were read are waited for, when another process is to go on.
const DRAINING: Duration = Duration::from_secs(2);

/// Takes signals from now on: before there is a mount, so that none of them leaves it behind.
pub(crate) fn signals() -> Result<Signals> {
    Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2]).context("cannot handle signals")
}

/// Serves for a keeper, until it says so or the connection ends.
pub(crate) fn kept(
    arguments: &Arguments,
    settings: Settings,
    log: logging::Handle,
    keeper: OwnedFd,
    inherited: Inherited,
) -> Result<()> {
    // Among processes, it is known by that.
    let _ = rustix::thread::set_name(c"cgview-worker");
    let signals = signals()?;
    let (Some(device), Some(memory)) = (inherited.device, inherited.ledger) else {
        bail!("cannot work for a keeper that has left no connection");
    };
    let mountpoint = arguments.mountpoint.clone();
    let voice = Voice::Keeper(Arc::new(Line::new(keeper)));
    let by_id = inherited.by_id;
    let start = Start { device, by_id, memory, mountpoint, first: kept::workers_before() == 0 };
    if let Some(died) = kept::predecessor() {
        tracing::warn!("took over from a worker that {died}");
    }
    let running = Running::start(&settings, start, &signals, &voice)?;
    let (running, _) = running.run(arguments, settings, &log, signals, &voice)?;
    running.finish(None)
}

/// Serves without a keeper, until a signal says so or the connection ends.
pub(crate) fn alone(
    arguments: &Arguments,
    settings: Settings,
    log: logging::Handle,
    signals: Signals,
    custody: Custody,
) -> Result<()> {
    let Custody { device, ledger: memory, mount, adopted, by_id } = custody;
    let (by_id, second) = by_id.map(|second| (second.device, second.mount)).unzip();
    let unless_adopted = || {
        if !adopted {
            second.iter().chain([&mount]).for_each(unmount);
        }
    };
    let manager = Manager::new().filter(Manager::keeps_descriptors);
    if let Some(manager) = &manager {
        use std::os::fd::AsFd as _;
        manager
            .store(&device, memory.as_fd(), by_id.as_ref().map(|device| device.as_fd()))
            .context("cannot give the connection to the service manager")
            .inspect_err(|_| unless_adopted())?;
    }
    let mountpoint = mount.path().to_owned();
    let start = Start { device, by_id, memory, mountpoint, first: !adopted };
    let running = Running::start(&settings, start, &signals, &Voice::Systemd)
        .inspect_err(|_| unless_adopted())?;
    start_watchdog(mount.path());
    let (running, last) = running.run(arguments, settings, &log, signals, &Voice::Systemd)?;
    notify(&[NotifyState::Stopping]);
    match manager {
        Some(_) if !running.has_ended() && last != Some(SIGINT) => {
            running.drain(mount.path(), second.as_ref().map(Mount::path));
            tracing::info!("readers wait for the next start");
            running.finish(None)
        }
        manager => {
            if let Some(manager) = manager {
                manager.remove();
            }
            second.iter().for_each(unmount);
            running.finish(Some(&mount))
        }
    }
}

/// Who is told how it goes.
#[derive(Clone)]
enum Voice {
    Keeper(Arc<Line>),
    Systemd,
}

impl Voice {
    fn tell(&self, state: &[NotifyState<'_>]) {
        match self {
            Voice::Keeper(keeper) => {
                let lines: Vec<String> = state.iter().map(ToString::to_string).collect();
                keeper.tell(&lines.join("\n"));
            }
            Voice::Systemd => notify(state),
        }
    }
}

/// What is served.
struct Start {
    device: OwnedFd,
    by_id: Option<OwnedFd>,
    memory: OwnedFd,
    mountpoint: PathBuf,
    /// Whether nobody has served it before.
    first: bool,
}

/// A connection that is being served.
struct Running {
    service: Arc<Service>,
    upkeep: Upkeep,
    _metrics: Option<Server>,
    session: Session,
    by_id: Option<Session>,
    /// What the next process waits for.
    _turn: Option<File>,
}

impl Running {
    fn start(
        settings: &Settings,
        start: Start,
        signals: &Signals,
        voice: &Voice,
    ) -> Result<Running> {
        limits::set();
        fatal::mark_crashes();
        let host = open_host(&settings.host_root)?;
        tracing::info!("cgroup hierarchies are laid out as {}", host.layout());
        if !host.shares_pids() {
            tracing::warn!(
                "the daemon is not in the host's pid namespace, and cannot tell readers apart; run it \
                 there (hostPID: true in Kubernetes, --pid=host in Docker)"
            );
        }
        let greeting = Ledger::greeting(&start.memory)?;
        let turn = Ledger::wait_for_predecessor(&start.memory, DYING)
            .inspect_err(|error| tracing::warn!("began beside the process before: {error}"))
            .ok();
        // Before there are threads. Whoever has no keeper unmounts by itself.
        let unmounts = matches!(voice, Voice::Systemd);
        confine::apply(&confine::Plan { settings, host: &host, unmounts });
        let (ledger, records) = Ledger::open(start.memory)?;
        let mut service = Service::new(host, settings.view).with_ledger(Arc::new(ledger));
        if settings.psi_triggers {
            service = service.with_triggers().context("cannot take triggers on pressure files")?;
        }
        let service = Arc::new(service);
        service.restore_records(records);
        service.keep_config(settings.config.as_deref());
        let metrics = match serve_metrics(settings, &service) {
            // Whoever was served goes on being served.
            Err(error) if !start.first => {
                tracing::error!("{error:#}");
                None
            }
            served => served?,
        };
        let upkeep = Upkeep::start(Arc::clone(&service)).context("cannot start the upkeep")?;
        let Start { device, by_id, mountpoint, first, .. } = start;
        // The session ends by itself when somebody else unmounts; then there is nothing left to wait for.
        let threads = settings.threads;
        let session = Session::start(
            Which::Shared,
            Arc::clone(&service),
            device,
            &greeting,
            threads,
            closes(signals),
        )
        .context("cannot serve the mount")?;
        let by_id = by_id.filter(|device| !has_ended(device)).map(|device| {
            let service = Arc::clone(&service);
            Session::start(Which::ById, service, device, &greeting, threads, || {})
        });
        let by_id = match by_id.transpose().context("cannot serve the fast mount") {
            // Whoever was served goes on being served.
            Err(error) if !first => {
                tracing::error!("{error:#}");
                None
            }
            by_id => by_id?,
        };
        // First to the keeper: whoever reads the log may kill this process at once.
        voice.tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
        tracing::info!("serving {} with {} threads", mountpoint.display(), settings.threads);
        Ok(Running { service, upkeep, _metrics: metrics, session, by_id, _turn: turn })
    }

    fn has_ended(&self) -> bool {
        self.session.has_ended()
    }

    /// Does what signals say, until one says to stop, the keeper does, or the session ends.
    fn run(
        self,
        arguments: &Arguments,
        mut settings: Settings,
        log: &logging::Handle,
        mut signals: Signals,
        voice: &Voice,
    ) -> Result<(Running, Option<i32>)> {
        let drained = Arc::new(AtomicBool::new(false));
        let kept = if let Voice::Keeper(keeper) = voice {
            let (drain, close) = (Arc::clone(&drained), closes(&signals));
            let stop = move |drained| {
                drain.store(drained, Ordering::Release);
                close();
            };
            keeper.listen(stop).context("cannot listen to the keeper")?;
            true
        } else {
            false
        };
        let mut last = None;
        for signal in signals.forever() {
            match signal {
                SIGHUP => reload(arguments, &mut settings, &self.service, log),
                SIGUSR1 => report(&self.service, voice),
                SIGUSR2 => toggle(&self.service),
                // Sent to all processes of a terminal or a service. The keeper knows what to do about it.
                _ if kept => {}
                _ => {
                    last = Some(signal);
                    break;
                }
            }
        }
        if drained.load(Ordering::Acquire) {
            self.drain(&arguments.mountpoint, settings.by_id.as_deref());
        }
        Ok((self, last))
    }

    /// Answers what was read, and reads no more.
    fn drain(&self, mountpoint: &Path, by_id: Option<&Path>) {
        let ends = |session: &Session, at| session.has_ended() || session.drain(at, DRAINING);
        let drained = ends(&self.session, mountpoint);
        let second = self.by_id.as_ref().zip(by_id).is_none_or(|(session, at)| ends(session, at));
        if !drained || !second {
            tracing::warn!("not all requests could be answered before the next process goes on");
        }
    }

    /// Ends, after unmounting what is to be unmounted.
    fn finish(self, mount: Option<&Mount>) -> Result<()> {
        let Running { service: _service, upkeep, _metrics, session, by_id: _, _turn } = self;
        drop(upkeep);
        if let Some(mount) = mount {
            unmount(mount);
            let end = Instant::now() + PATIENCE;
            while !session.has_ended() && Instant::now() < end {
                thread::sleep(Duration::from_millis(2));
            }
        }
        if session.has_ended() {
            // It may have ended for another reason than the unmount.
            session.join().context("cannot go on serving the mount")?;
        } else if mount.is_some() {
            tracing::info!(
                "files are still bound into containers; they cannot be read until it runs again"
            );
        }
        if mount.is_some() {
            tracing::info!("stopped");
        }
        Ok(())
    }
}

/// Ends a loop over signals.
fn closes(signals: &Signals) -> impl FnOnce() + Send + 'static + use<> {
    let handle: Handle = signals.handle();
    move || handle.close()
}

fn open_host(root: &Path) -> Result<Host> {
    let host = if root == Path::new("/") { Host::live() } else { Host::at(root) };
    let host = host.context("cannot read the host")?;
    if host.layout() == Layout::None {
        bail!(
            "cannot find a cgroup hierarchy below {}; mount one with `mount -t cgroup2 cgroup2 \
             /sys/fs/cgroup`, or name the host's root with --host-root",
            root.display()
        );
    }
    Ok(host)
}

fn serve_metrics(settings: &Settings, service: &Arc<Service>) -> Result<Option<Server>> {
    let Some(path) = settings.metrics_socket() else { return Ok(None) };
    let service = Arc::clone(service);
    let server = Server::start(&path, move || {
        service.status();
        service.metrics().encode()
    });
    let server = server.with_context(|| {
        format!("cannot serve metrics on {}; name another socket with --metrics", path.display())
    })?;
    Ok(Some(server))
}

pub(crate) fn unmount(mount: &Mount) {
    let mount = mount.clone();
    let unmounted = deputy::run(move || mount.unmount()).map_err(anyhow::Error::new);
    if let Err(error) = unmounted.and_then(|unmounted| Ok(unmounted?)) {
        tracing::warn!("{error:#}");
    }
}

fn reload(
    arguments: &Arguments,
    settings: &mut Settings,
    service: &Service,
    log: &logging::Handle,
) {
    // The file may be anywhere, and only the deputy can read it.
    let arguments = arguments.clone();
    let read = deputy::run(move || Settings::load(&arguments)).map_err(anyhow::Error::new);
    let new = match read.and_then(|read| Ok(read?)) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!("went on with the settings of before: {error:#}");
            return;
        }
    };
    let kept = settings.needs_restart(&new);
    if !kept.is_empty() {
        tracing::warn!("takes effect at the next start: {}", kept.join(", "));
    }
    service.set_settings(new.view);
    log.set_level(new.log_level);
    service.keep_config(new.config.as_deref());
    settings.view = new.view;
    settings.log_level = new.log_level;
    tracing::info!("read the configuration again");
}

fn report(service: &Service, voice: &Voice) {
    let status = service.status();
    let text = format!(
        "{} containers known, {} open files with {} KiB of text",
        status.containers,
        status.handles.handles,
        status.handles.bytes / 1024
    );
    voice.tell(&[NotifyState::Status(&text)]);
    tracing::info!("{text}");
    for line in service.metrics().encode().lines().filter(|line| !line.starts_with('#')) {
        tracing::info!("{line}");
    }
}

fn toggle(service: &Service) {
    if service.toggle() {
        tracing::warn!("containers see their own numbers again");
    } else {
        tracing::warn!("containers see the host's numbers until the next USR2");
    }
}

fn notify(state: &[NotifyState<'_>]) {
    // Not started by systemd, or systemd is busy: no matter.
    let _ = sd_notify::notify(state);
}

/// Tells systemd that requests are answered, as often as it wants to know.
fn start_watchdog(mountpoint: &Path) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    let mountpoint = mountpoint.to_owned();
    let watch = move || {
        loop {
            // It comes back only when one of our own threads has answered.
            if rustix::fs::statvfs(&mountpoint).is_ok() {
                notify(&[NotifyState::Watchdog]);
            }
            thread::sleep(timeout / 3);
        }
    };
    if let Err(error) = thread::Builder::new().name("watchdog".into()).spawn(watch) {
        tracing::error!("cannot start the watchdog: {error}");
    }
}
