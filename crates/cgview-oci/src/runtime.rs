//! What `cgview-runtime` makes of its command line, which is that of an OCI runtime
//! (`runc.8.md`, `crun.1.md`; opencontainers/runtime-tools, "command line interface").
//!
//! Engines call `NAME [GLOBAL OPTION...] COMMAND [OPTION...] ID`. All of it is passed on but for options whose name
//! begins with `--cgview-`; where the command is `create` or `run`, the bundle is changed before. `restore` is not:
//! CRIU makes the mounts as they were.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{Hook, spec};

/// Global options of runc and crun that are followed by a value.
const WITH_VALUE: [&str; 7] =
    ["root", "log", "log-format", "log-level", "criu", "rootless", "cgroup-manager"];

/// The commands of runc and crun.
const COMMANDS: [&str; 20] = [
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "help",
    "kill",
    "list",
    "mounts",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
    "version",
];

/// Who is run where nobody said, in this order.
const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// Searched after `$PATH`, which an engine may have taken away.
const DIRECTORIES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What our own options begin with.
const PREFIX: &str = "--cgview-";

/// One call of the wrapper.
#[derive(Debug)]
pub struct Call {
    runtime: PathBuf,
    arguments: Vec<OsString>,
    bundle: Option<PathBuf>,
    time_namespace: bool,
    mountpoint: Option<OsString>,
    deadline: Option<u32>,
}

impl Call {
    /// Understands a command line. The real runtime is that of `--cgview-runtime=PROGRAM`, of the variable
    /// `CGVIEW_RUNTIME`, or of the name that the wrapper was called by (`cgview-crun`); else runc, or crun if there
    /// is no runc. Where the view is mounted, how long its daemon may take to answer the hook, and whether containers
    /// get a time namespace, is said likewise by `--cgview-mountpoint=DIR` (`CGVIEW_MOUNTPOINT`),
    /// `--cgview-deadline=MS` (`CGVIEW_DEADLINE`) and `--cgview-time-namespace` (`CGVIEW_TIME_NAMESPACE=1`).
    ///
    /// # Errors
    ///
    /// If an option of our own is unknown, a deadline is no number, or there is no runtime.
    pub fn parse(name: &OsStr, arguments: impl Iterator<Item = OsString>) -> anyhow::Result<Call> {
        let mut runtime = std::env::var_os("CGVIEW_RUNTIME").filter(|name| !name.is_empty());
        let mut time_namespace =
            std::env::var_os("CGVIEW_TIME_NAMESPACE").is_some_and(|value| value == "1");
        let mut mountpoint = std::env::var_os("CGVIEW_MOUNTPOINT").filter(|path| !path.is_empty());
        let mut deadline = std::env::var("CGVIEW_DEADLINE").ok().filter(|text| !text.is_empty());
        let mut rest = Vec::new();
        for argument in arguments {
            let text = argument.to_str().unwrap_or_default();
            // After a `--`, and what a container is to run, nothing is ours.
            let is_ours = command(&rest).is_none() && text.starts_with(PREFIX);
            match text.split_once('=') {
                _ if !is_ours => rest.push(argument),
                Some(("--cgview-runtime", program)) => runtime = Some(program.into()),
                Some(("--cgview-mountpoint", path)) => mountpoint = Some(path.into()),
                Some(("--cgview-deadline", time)) => deadline = Some(time.to_owned()),
                None if text == "--cgview-time-namespace" => time_namespace = true,
                _ => bail!(
                    "unknown option {text}: there are --cgview-runtime=PROGRAM, \
                     --cgview-mountpoint=DIR, --cgview-deadline=MS and --cgview-time-namespace"
                ),
            }
        }
        let deadline = deadline.map(|text| {
            text.parse()
                .with_context(|| format!("a deadline is a number of milliseconds, not {text}"))
        });
        let runtime = match runtime {
            Some(program) => find(&program),
            None => by_name(name)
                .map(OsString::from)
                .into_iter()
                .chain(RUNTIMES.map(OsString::from))
                .find_map(|program| find(&program)),
        };
        let runtime = runtime.context(
            "cannot find runc or crun: install one of them, or name it by \
             --cgview-runtime=PROGRAM",
        )?;
        Ok(Call {
            runtime,
            bundle: bundle(&rest),
            arguments: rest,
            time_namespace,
            mountpoint,
            deadline: deadline.transpose()?,
        })
    }

    /// The real runtime.
    #[must_use]
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Changes the bundle, if the command makes a container.
    ///
    /// # Errors
    ///
    /// If that is not possible; the bundle is as it was, or lacks the time namespace.
    pub fn prepare(&self) -> anyhow::Result<()> {
        let Some(bundle) = &self.bundle else { return Ok(()) };
        let config = bundle.join("config.json");
        let own = std::env::current_exe().context("cannot find out where this program is")?;
        let mountpoint = self.mountpoint.as_ref();
        let arguments: Vec<_> =
            mountpoint.map(|path| format!("--mountpoint={}", path.display())).into_iter().collect();
        let mut hook = Hook::new(&own.with_file_name("cgview"), &arguments);
        if let Some(deadline) = self.deadline {
            hook = hook.with_deadline(deadline);
        }
        spec::edit(&config, |spec| spec::add_hook(spec, &hook))?;
        if self.time_namespace {
            self.require_time_namespaces()?;
            let now = clock_gettime(ClockId::Boottime);
            let uptime = Duration::from_secs(now.tv_sec.unsigned_abs());
            spec::edit(&config, |spec| spec::begin_boot_clock(spec, uptime).map(drop))?;
        }
        Ok(())
    }

    /// runc before 1.2 starts no container whose specification has a time namespace.
    fn require_time_namespaces(&self) -> anyhow::Result<()> {
        let runtime = self.runtime.display();
        let output = Command::new(&self.runtime)
            .arg("features")
            .output()
            .with_context(|| format!("cannot run {runtime} features"))?;
        let features: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let namespaces = features.pointer("/linux/namespaces").and_then(Value::as_array);
        let has = namespaces.is_some_and(|all| all.iter().any(|kind| kind == "time"));
        anyhow::ensure!(
            has,
            "{runtime} is too old for time namespaces: runc has them since 1.2, crun says so since 1.8.6"
        );
        Ok(())
    }

    /// What to become.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.runtime);
        command.args(&self.arguments);
        command
    }
}

/// `cgview-crun` and `/usr/bin/cgview-runc` name theirs.
fn by_name(name: &OsStr) -> Option<&str> {
    let name = Path::new(name).file_name()?.to_str()?.strip_prefix("cgview-")?;
    RUNTIMES.contains(&name).then_some(name)
}

/// A program by its path, or its name in `$PATH`.
fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(std::env::split_paths(DIRECTORIES))
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// The command, and where it is.
fn command(arguments: &[OsString]) -> Option<(usize, &str)> {
    let mut is_value = false;
    for (index, argument) in arguments.iter().enumerate() {
        if std::mem::take(&mut is_value) {
            continue;
        }
        let argument = argument.to_str().unwrap_or_default();
        match argument.strip_prefix('-') {
            // runc takes options with one dash, too.
            Some(option) => {
                let option = option.strip_prefix('-').unwrap_or(option);
                is_value = WITH_VALUE.contains(&option);
            }
            // Else it is the value of an option that is not known here.
            None if COMMANDS.contains(&argument) => return Some((index, argument)),
            None => {}
        }
    }
    None
}

/// The bundle of a command that makes a container of one: `--bundle` or `-b`, else the working directory.
fn bundle(arguments: &[OsString]) -> Option<PathBuf> {
    let (index, _) = command(arguments).filter(|(_, name)| matches!(*name, "create" | "run"))?;
    let mut rest = arguments.iter().skip(index + 1);
    let mut bundle = PathBuf::from(".");
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        if matches!(bytes, b"--bundle" | b"-bundle" | b"-b" | b"--b") {
            bundle = rest.next().map(PathBuf::from)?;
        } else if let Some(path) = [&b"--bundle="[..], b"-bundle=", b"-b=", b"--b="]
            .iter()
            .find_map(|prefix| bytes.strip_prefix(*prefix))
        {
            bundle = OsStr::from_bytes(path).into();
        }
    }
    Some(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn bundle_of(line: &str) -> Option<String> {
        bundle(&words(line)).map(|path| path.display().to_string())
    }

    #[test]
    fn bundles_are_found_as_engines_name_them() {
        // dockerd and containerd's shim
        let line = "--root /run/docker/runtime-runc/moby --log /b/log.json --log-format json \
                    --systemd-cgroup create --bundle /b --pid-file /b/init.pid 0af3";
        assert_eq!(bundle_of(line), Some("/b".into()));
        // conmon, with crun's options
        let line = "--cgroup-manager cgroupfs --rootless=true --log-format=json --log=/x create -b /b --no-pivot id";
        assert_eq!(bundle_of(line), Some("/b".into()));
        assert_eq!(bundle_of("run --bundle=/b id"), Some("/b".into()));
        assert_eq!(bundle_of("-root create -debug run -d id"), Some(".".into()));
        assert_eq!(bundle_of("--new-option value create -b /b id"), Some("/b".into()));
    }

    #[test]
    fn other_commands_have_none() {
        for line in [
            "--version",
            "--root run start id",
            "restore --bundle /b --image-path /i id",
            "exec --process /p id",
            "kill id run",
            "",
        ] {
            assert_eq!(bundle_of(line), None, "{line}");
        }
    }

    #[test]
    fn own_options_are_taken_away_and_no_others() {
        let line = "--cgview-runtime=/bin/true --root /r --cgview-time-namespace run -b /b id";
        let call = Call::parse(OsStr::new("x"), words(line).into_iter()).unwrap();
        assert_eq!(call.runtime(), Path::new("/bin/true"));
        assert!(call.time_namespace);
        assert_eq!(call.arguments, words("--root /r run -b /b id"));
        let line = "--cgview-runtime=/bin/true exec id --cgview-x";
        let call = Call::parse(OsStr::new("x"), words(line).into_iter()).unwrap();
        assert_eq!(call.arguments, words("exec id --cgview-x"));
        let error = Call::parse(OsStr::new("x"), words("--cgview-x run").into_iter()).unwrap_err();
        assert!(error.to_string().contains("unknown option --cgview-x"), "{error}");
        let error = Call::parse(OsStr::new("x"), words("--cgview-deadline=5s run").into_iter());
        assert!(error.unwrap_err().to_string().contains("not 5s"));
    }

    #[test]
    fn a_deadline_is_the_hook_s() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        std::fs::write(&config, "{}").unwrap();
        let line = format!(
            "--cgview-runtime=/bin/true --cgview-deadline=60000 run -b {} id",
            dir.path().display()
        );
        Call::parse(OsStr::new("x"), words(&line).into_iter()).unwrap().prepare().unwrap();
        let spec: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        let hook = spec.pointer("/hooks/createContainer/0").unwrap();
        assert_eq!(hook.pointer("/args/2").unwrap(), "--deadline=60000");
        // The runtime waits longer.
        assert_eq!(hook.get("timeout").unwrap(), 90);
    }

    #[test]
    fn its_name_tells_the_runtime() {
        assert_eq!(by_name(OsStr::new("/usr/bin/cgview-crun")), Some("crun"));
        assert_eq!(by_name(OsStr::new("cgview-runtime")), None);
    }
}
