//! The life of the daemon: start, signals, stop.

use std::{
    io,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use cgview_fuse::{
    Service, arguments::Arguments, logging, metrics::Server, mount::Mount, pid_file::PidFile,
    session::Session, settings::Settings, state, upkeep::Upkeep,
};
use cgview_host::{Host, Layout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::Signals,
};

/// How long the answers to the last requests are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// Runs the daemon until it is told to stop, or its mount is gone.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut settings = Settings::load(arguments)?;
    let log = logging::start(settings.log_level).context("cannot start to log")?;
    let options = arguments.mount_options(&settings)?;
    if !rustix::process::geteuid().is_root() {
        bail!(
            "cannot serve containers as another user than root: their cgroups would not be readable; \
             run it with sudo"
        );
    }
    for note in arguments.without_effect() {
        tracing::info!("an option has no effect: {note}");
    }
    raise_descriptor_limit();

    // Before the mount, so that no signal ends the process with the mount left behind.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2])
        .context("cannot handle signals")?;

    let host = open_host(&settings.host_root)?;
    tracing::info!("cgroup hierarchies are laid out as {}", host.layout());
    if !host.shares_pids() {
        tracing::warn!(
            "the daemon is not in the host's pid namespace, and cannot tell readers apart; run it there \
             (hostPID: true in Kubernetes, --pid=host in Docker)"
        );
    }
    let mut service = Service::new(host, settings.view);
    if settings.psi_triggers {
        service = service.with_triggers().context("cannot take triggers on pressure files")?;
    }
    let service = Arc::new(service);

    let runtime_dir = &settings.runtime_dir;
    std::fs::create_dir_all(runtime_dir)
        .with_context(|| format!("cannot make the runtime directory {}", runtime_dir.display()))?;
    let _pid_file = PidFile::new(&settings.pid_file())?;
    let state_file = settings.state_file();
    restore(&service, &state_file);
    let _metrics = serve_metrics(&settings, &service)?;
    let upkeep = Upkeep::start(Arc::clone(&service), Some(state_file.clone()))
        .context("cannot start the upkeep")?;

    let (connection, mount) = Mount::new(&arguments.mountpoint, &options)?;
    let session = Session::start(Arc::clone(&service), connection, settings.threads)
        .context("cannot serve the mount")
        .inspect_err(|_| unmount(&mount))?;
    tracing::info!("serving {} with {} threads", mount.path().display(), settings.threads);
    start_watchdog(mount.path());
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);

    // The session ends by itself when somebody else unmounts; then there is nothing left to wait for.
    let closer = signals.handle();
    let ended = thread::Builder::new()
        .name("waiter".into())
        .spawn(move || {
            let result = session.join();
            closer.close();
            result
        })
        .context("cannot wait for the session")?;

    for signal in signals.forever() {
        match signal {
            SIGHUP => reload(arguments, &mut settings, &service, &log),
            SIGUSR1 => report(&service),
            SIGUSR2 => toggle(&service),
            _ => break,
        }
    }

    notify(&[NotifyState::Stopping]);
    drop(upkeep);
    unmount(&mount);
    let end = Instant::now() + PATIENCE;
    while !ended.is_finished() && Instant::now() < end {
        thread::sleep(Duration::from_millis(2));
    }
    if let Err(error) = service.save_to(&state_file) {
        tracing::warn!("cannot keep the state in {}: {error}", state_file.display());
    }
    if ended.is_finished() {
        // It may have ended for another reason than the unmount.
        let result = ended.join().unwrap_or_else(|_| Err(io::Error::other("the session panicked")));
        result.context("cannot go on serving the mount")?;
    } else {
        tracing::info!(
            "files are still bound into containers; they cannot be read until it runs again"
        );
    }
    tracing::info!("stopped");
    Ok(())
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

/// Half of the descriptors are for files of cgroups that are read again and again.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // With fewer, files are opened more often.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn restore(service: &Service, path: &Path) {
    match service.restore_from(path) {
        Ok(()) => tracing::debug!("took over the state in {}", path.display()),
        Err(state::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!("began anew, without the state in {}: {error}", path.display());
        }
    }
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

fn unmount(mount: &Mount) {
    if let Err(error) = mount.unmount() {
        tracing::warn!("{error}");
    }
}

fn reload(
    arguments: &Arguments,
    settings: &mut Settings,
    service: &Service,
    log: &logging::Handle,
) {
    let new = match Settings::load(arguments) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!("went on with the settings of before: {:#}", anyhow::Error::new(error));
            return;
        }
    };
    let kept = settings.needs_restart(&new);
    if !kept.is_empty() {
        tracing::warn!("takes effect at the next start: {}", kept.join(", "));
    }
    service.set_settings(new.view);
    log.set_level(new.log_level);
    settings.view = new.view;
    settings.log_level = new.log_level;
    tracing::info!("read the configuration again");
}

fn report(service: &Service) {
    let status = service.status();
    let text = format!(
        "{} containers known, {} open files with {} KiB of text",
        status.containers,
        status.handles.handles,
        status.handles.bytes / 1024
    );
    notify(&[NotifyState::Status(&text)]);
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
