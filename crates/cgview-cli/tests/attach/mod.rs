//! Containers without a view, and `cgview` run for them.
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use cgview_testkit::skip;

/// What a command said, and how it ended.
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs `cgview`.
pub(crate) fn cgview<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    ran(Command::new(env!("CARGO_BIN_EXE_cgview")).args(arguments))
}

/// Runs `cgview`, and gives what it said; it has to succeed.
pub(crate) fn said<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let ran = cgview(arguments);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// What `cgview` said that has to fail.
pub(crate) fn refused<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let ran = cgview(arguments);
    assert_eq!(ran.status, Some(1), "{}{}", ran.stdout, ran.stderr);
    ran.stderr
}

/// What `ci/container` does with these arguments.
fn ci_container(arguments: &[&str]) -> Ran {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/container");
    ran(Command::new(script).args(arguments))
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A container of a real runtime. Dropping it removes it.
pub(crate) struct Container {
    pub(crate) pid: u32,
    name: String,
}

impl Container {
    /// Starts one that runs a script, if the runtime is there; its cgroup is below `parent`.
    pub(crate) fn start(
        parent: &str,
        runtime: &str,
        options: &[&str],
        script: &str,
    ) -> Option<Container> {
        if Command::new(runtime).arg("--version").output().is_err() {
            skip(&format!("needs {runtime}"));
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("attach-{}-{number}", std::process::id());
        let cgroup = format!("{parent}/{name}");
        let mut arguments = vec!["--detach", "--name", &name, "--cgroup", &cgroup];
        arguments.extend(["--runtime", runtime]);
        arguments.extend(options);
        arguments.extend(["--", "sh", "-c", script]);
        let ran = ci_container(&arguments);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let pid = ran.stdout.trim().parse().unwrap();
        Some(Container { pid, name })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What a script says that is executed in it, and may fail.
    pub(crate) fn try_exec(&self, script: &str) -> String {
        ci_container(&["exec", &self.name, "--", "sh", "-c", script]).stdout
    }

    /// What a script says that is executed in it.
    pub(crate) fn exec(&self, script: &str) -> String {
        let ran = ci_container(&["exec", &self.name, "--", "sh", "-c", script]);
        assert_eq!(ran.status, Some(0), "{script}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// What its first process has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(format!("/run/cgview-ci/{}/log", self.name)).unwrap()
    }

    /// All that is mounted in it.
    pub(crate) fn mounts(&self) -> String {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        ci_container(&["delete", &self.name]);
    }
}
