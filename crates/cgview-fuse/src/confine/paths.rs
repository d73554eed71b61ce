//! Landlock: which files can be opened, and what for.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use cgview_host::Host;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use crate::settings::Settings;

/// The rights that are handled, as far as the kernel knows them: those of Linux 6.12.
const KNOWN: ABI = ABI::V6;

/// Limits this thread, and those that it starts, to reading `/proc`, `/sys` and the cgroup hierarchies, and to
/// writing in the directory of the pid file and the sockets.
pub(super) fn limit(settings: &Settings, host: &Host) -> Result<String, String> {
    match restrict(settings, host).map_err(|error| format!("Landlock: {error}"))? {
        RulesetStatus::FullyEnforced => Ok("files by Landlock".into()),
        RulesetStatus::PartiallyEnforced => {
            Ok("files by Landlock, as far as this kernel goes".into())
        }
        RulesetStatus::NotEnforced => {
            Err("Landlock: the kernel has it not, or not turned on".into())
        }
    }
}

fn restrict(settings: &Settings, host: &Host) -> Result<RulesetStatus, RulesetError> {
    let mut scopes: BitFlags<Scope> = Scope::Signal.into();
    // Some service managers are told by a socket that has no file.
    if !std::env::var("NOTIFY_SOCKET").is_ok_and(|socket| socket.starts_with('@')) {
        scopes |= Scope::AbstractUnixSocket;
    }
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(scopes)?
        .create()?;

    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let root = &settings.host_root;
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    let mut readable: BTreeSet<PathBuf> = [inside("/proc"), inside("/sys")].into();
    let mounts = host.hierarchies().iter().map(|hierarchy| inside(hierarchy.mount_point()));
    readable.extend(mounts.clone());
    for path in readable {
        rules = allow(rules, &path, read)?;
    }
    if settings.psi_triggers {
        for path in mounts {
            rules = allow(rules, &path, read | AccessFs::WriteFile)?;
        }
    }
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile;
    let files = [Some(settings.pid_file()), settings.metrics_socket()];
    let dirs = files.iter().flatten().filter_map(|file| file.parent());
    let dirs: BTreeSet<&Path> = dirs.chain([settings.runtime_dir.as_path()]).collect();
    for dir in dirs {
        // A bare name is in the working directory.
        let dir = if dir == Path::new("") { Path::new(".") } else { dir };
        rules = allow(rules, dir, write)?;
    }
    // A descriptor of a connection for each thread takes opening the device anew.
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    rules = allow(rules, Path::new("/dev/fuse"), device)?;
    // A panic names its functions with the help of the program itself.
    if let Ok(program) = std::env::current_exe() {
        rules = allow(rules, &program, AccessFs::ReadFile.into())?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// Allows something below a path. What is not there needs no rule.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(fd) => rules.add_rule(PathBeneath::new(fd, access)),
        Err(_) => Ok(rules),
    }
}
