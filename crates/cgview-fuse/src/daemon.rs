//! The life of the daemon's first process: it makes the mount or takes one over, and then keeps it for workers, or
//! serves it itself.

use std::{os::fd::OwnedFd, path::Path};

use anyhow::{Context as _, Result, bail};
use cgview_fuse::{
    Which,
    arguments::Arguments,
    greeting::Greeting,
    handover::{Inherited, has_ended},
    keeper::{Custody, End, Keeper, Second, Signals},
    ledger::{CONFIG, Kind, Ledger},
    logging, mount,
    mount::Mount,
    pid_file::PidFile,
    session::Session,
    settings::Settings,
    succession::Succession,
};

use crate::worker;

/// Runs the daemon until it is told to stop, or its mount is gone. Returns the exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let mut inherited = Inherited::take().context("cannot take over descriptors")?;
    let mut error = None;
    let settings = Settings::load(arguments).or_else(|failed| {
        // A worker goes on with what the one before it had: readers wait for it.
        let known = inherited.ledger.as_ref().filter(|_| inherited.keeper.is_some());
        let text = known.and_then(|ledger| Ledger::look_up(ledger, Kind::Chosen, CONFIG));
        let Some(text) = text.and_then(|text| String::from_utf8(text).ok()) else {
            return Err(failed);
        };
        error = Some(failed);
        Settings::load_from(arguments, text)
    })?;
    let log = logging::start(settings.log_level).context("cannot start to log")?;
    if let Some(error) = error {
        tracing::error!("went on with the settings of before: {:#}", anyhow::Error::new(error));
    }
    if let Some(keeper) = inherited.keeper.take() {
        return worker::kept(arguments, settings, log, keeper, inherited).map(|()| 0);
    }
    let options = arguments.mount_options(&settings)?;
    warn_of_timeouts(Path::new("/proc/sys/fs/fuse"));
    if !rustix::process::geteuid().is_root() {
        bail!(
            "cannot serve containers as another user than root: their cgroups would not be readable; \
             run it with sudo"
        );
    }
    for note in arguments.without_effect() {
        tracing::info!("an option has no effect: {note}");
    }
    if arguments.no_keeper {
        let signals = worker::signals()?;
        let _pid_file = lock(&settings)?;
        let custody = begin(arguments, &settings, &options, inherited)?;
        repair(arguments, &custody.mount);
        return worker::alone(arguments, settings, log, signals, custody).map(|()| 0);
    }
    let signals = Signals::new().context("cannot handle signals")?;
    let mut succession = None;
    if arguments.replace && Mount::find(&arguments.mountpoint).is_ok() {
        succession = Succession::ask(&settings.keeper_socket()).with_context(|| {
            format!("cannot take over from the keeper of {}", arguments.mountpoint.display())
        })?;
    }
    let (custody, lock) = match &mut succession {
        Some(Succession {
            device: Some(device),
            ledger: Some(ledger),
            lock: Some(lock),
            by_id,
            ..
        }) => {
            // If this fails, the other one goes on.
            Ledger::greeting(ledger).with_context(|| {
                format!(
                    "cannot take over from the keeper of {}; stop it, start this one, and repair what is \
                     mounted with `cgview doctor --repair`",
                    arguments.mountpoint.display()
                )
            })?;
            let mount = Mount::find(&arguments.mountpoint)?;
            let [device, ledger, lock] = [device, ledger, lock].map(|left| left.try_clone());
            let lock = PidFile::left(&settings.pid_file(), lock?);
            let by_id = by_id.as_ref().map(OwnedFd::try_clone).transpose()?;
            let by_id = second_kept(&settings, by_id);
            (Custody { device: device?, ledger: ledger?, mount, adopted: true, by_id }, lock)
        }
        _ => {
            let lock = lock(&settings)?;
            (begin(arguments, &settings, &options, inherited)?, lock)
        }
    };
    let (mount, adopted) = (custody.mount.clone(), custody.adopted);
    let second = custody.by_id.as_ref().map(|second| second.mount.clone());
    repair(arguments, &mount);
    let keeper = Keeper::new(custody, lock, signals, &settings, succession)
        .context("cannot keep the mount")
        .inspect_err(|_| {
            if !adopted {
                second.iter().chain([&mount]).for_each(worker::unmount);
            }
        })?;
    match keeper.run() {
        End::Stopped | End::Interrupted | End::HandedOver => Ok(0),
        // The worker has said why.
        End::Failed(status) => Ok(u8::try_from(status).unwrap_or(1)),
    }
}

/// Sees to it that there is one daemon for each runtime directory.
fn lock(settings: &Settings) -> Result<PidFile> {
    let runtime_dir = &settings.runtime_dir;
    std::fs::create_dir_all(runtime_dir)
        .with_context(|| format!("cannot make the runtime directory {}", runtime_dir.display()))?;
    Ok(PidFile::new(&settings.pid_file())?)
}

/// Has dead mounts replaced in containers, if asked for, once there is somebody to serve. Another process does it,
/// so nobody who answers requests may change mounts.
fn repair(arguments: &Arguments, mount: &Mount) {
    if !arguments.repair {
        return;
    }
    let begun = cgview_attach::repair_in_background(mount.path(), |report| match report {
        Ok(report) => {
            for namespace in &report.namespaces {
                let (pid, name) = (namespace.process.pid, &namespace.process.name);
                for mount in &namespace.mounts {
                    let place = mount.mountpoint.display();
                    tracing::info!("{place} of process {pid} ({name}): {}", mount.outcome);
                }
            }
        }
        Err(error) => tracing::warn!("{:#}", anyhow::Error::new(error)),
    });
    if let Err(error) = begun {
        tracing::warn!("cannot start a process to repair mounts: {error}");
    }
}

/// Takes over the connection that this process was started with, or begins a new one.
fn begin(
    arguments: &Arguments,
    settings: &Settings,
    options: &mount::Options,
    inherited: Inherited,
) -> Result<Custody> {
    let mountpoint = &arguments.mountpoint;
    let left = inherited.device.filter(|device| !has_ended(device)).zip(inherited.ledger);
    let mut options = options.clone();
    if let Some((device, ledger)) = left {
        let known = Ledger::greeting(&ledger).map_err(anyhow::Error::new);
        match known.and_then(|_| Ok(Mount::find(mountpoint)?)) {
            Ok(mount) => {
                let by_id = second_kept(settings, inherited.by_id);
                return Ok(Custody { device, ledger, mount, adopted: true, by_id });
            }
            Err(error) => {
                tracing::warn!("left aside a connection that was handed over: {error:#}");
                // Somebody may still hold it, and then whoever looks at the mount would wait for ever.
                if let Ok(mount) = Mount::find(mountpoint) {
                    mount.abort();
                }
            }
        }
        drop(device);
        options.replace = true;
    }
    let (device, mount) = Mount::new(mountpoint, &options)?;
    let begun = Session::greet(Which::Shared, &device)
        .context("cannot serve the mount")
        .and_then(|greeting| new_ledger(settings, &greeting))
        .and_then(|ledger| Ok((ledger, second(settings, options.replace)?)))
        .inspect_err(|_| worker::unmount(&mount))?;
    let (ledger, by_id) = begun;
    Ok(Custody { device, ledger: ledger.into(), mount, adopted: false, by_id })
}

/// Makes the fast mount, if there is to be one.
fn second(settings: &Settings, replace: bool) -> Result<Option<Second>> {
    let Some(path) = &settings.by_id else { return Ok(None) };
    let options = mount::Options { replace, ..mount::Options::default() };
    let (device, mount) = Mount::new(path, &options)?;
    Session::greet(Which::ById, &device)
        .context("cannot serve the fast mount")
        .inspect_err(|_| worker::unmount(&mount))?;
    Ok(Some(Second { device, mount }))
}

/// Takes the fast mount over, or makes a new one. Without it, what was taken over goes on being served.
fn second_kept(settings: &Settings, device: Option<OwnedFd>) -> Option<Second> {
    let path = settings.by_id.as_ref()?;
    if let Some(device) = device.filter(|device| !has_ended(device))
        && let Ok(mount) = Mount::find(path)
    {
        return Some(Second { device, mount });
    }
    second(settings, true).unwrap_or_else(|error| {
        tracing::error!("cannot mount at {}: {error:#}", path.display());
        None
    })
}

/// The ledger of a connection that has just begun.
fn new_ledger(settings: &Settings, greeting: &Greeting) -> Result<Ledger> {
    let path = settings.ledger_file();
    let begun = Ledger::begin(&path, &cgview_host::boot_id(&settings.host_root), greeting);
    begun.or_else(|error| {
        tracing::warn!(
            "containers are told other CPU times if all processes are lost, for want of the file {}: {:#}",
            path.display(),
            anyhow::Error::new(error)
        );
        Ledger::in_memory(greeting).context("cannot keep what containers are told")
    })
}

/// Since Linux 6.15 an administrator can have all connections ended on which a request has waited for some time. A
/// request waits while a worker is replaced.
fn warn_of_timeouts(dir: &Path) {
    for name in ["max_request_timeout", "default_request_timeout"] {
        let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        if let Some(seconds) = timeout_too_short(&text) {
            tracing::warn!(
                "the kernel ends the connection, and with it all mounts, if a request waits for \
                 {seconds} s, as it does while the daemon is started anew; set it to 0 with \
                 `sysctl fs.fuse.{name}=0`"
            );
        }
    }
}

/// A timeout in seconds that is less than a start of the service may take.
fn timeout_too_short(text: &str) -> Option<u64> {
    const LONG: u64 = 300;
    text.trim().parse().ok().filter(|seconds| (1..LONG).contains(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_timeouts_are_warned_of() {
        assert_eq!(timeout_too_short("15\n"), Some(15));
        // None, a long one, and a kernel that has none.
        assert_eq!(["0\n", "3600\n", ""].map(timeout_too_short), [None; 3]);
    }
}
