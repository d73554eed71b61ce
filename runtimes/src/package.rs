//! cgview as Debian's package, on a machine whose first process is systemd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use cgview_compliance::eventually;
use cgview_testkit::skip;

use crate::{Host, LOOK, Seen, status};

/// Where the package's service mounts the view.
pub const MOUNTPOINT: &str = "/var/lib/cgview";

/// The service.
pub const SERVICE: &str = "cgview-fuse.service";

/// The package is the machine's, so that one test at a time has it.
static MACHINE: Mutex<()> = Mutex::new(());

/// The package, installed. It stays for the next test, as the machine is a guest, and installing takes an emulated one
/// as long as all that is tested then.
#[derive(Debug)]
pub struct Package {
    dir: tempfile::TempDir,
    _machine: MutexGuard<'static, ()>,
}

impl Package {
    /// Installs `$CGVIEW_DEB`, if it is not. Says that the test is skipped where that is not set, or one of `programs`
    /// is not there.
    #[must_use]
    pub fn install(programs: &[&str]) -> Option<Package> {
        let Some(file) = std::env::var_os("CGVIEW_DEB") else {
            skip("needs a Debian of its own, with systemd (ci/test debian-12)");
            return None;
        };
        if !crate::are_there(programs) {
            return None;
        }
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::Builder::new().prefix("cgview-package.").tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), mode).unwrap();
        if !fs::exists("/usr/bin/cgview").unwrap() {
            shell(&format!("apt-get install -y {}", Path::new(&file).display()));
        }
        Some(Package { dir, _machine: machine })
    }

    /// A file for this test alone.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a shell command, which must succeed; gives what it prints.
    pub fn run(&self, script: &str) -> String {
        shell(script)
    }

    /// Looks into the container of this name, by a process of its cgroup in its namespaces: an engine's own command
    /// would take an emulated machine many times as long.
    #[must_use]
    pub fn look_into(&self, name: &str) -> Seen {
        let found = status(self, name).unwrap();
        let pid = found.get("pid").unwrap().as_u64().unwrap();
        Seen::new(self.run(&format!(
            "echo $$ > /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/{pid}/cgroup)/cgroup.procs && \
             exec nsenter --all --target {pid} /bin/sh -c '{LOOK}'"
        )))
    }

    /// The mounts of the view that the machine's first process sees.
    #[must_use]
    pub fn mounts(&self) -> Vec<String> {
        mounts()
    }

    /// The first process of the service: the keeper of those that serve. 0 where there is none.
    #[must_use]
    pub fn keeper(&self) -> u32 {
        // systemctl(1) takes seconds on an emulated machine, and this is asked until it is another one.
        let processes = format!("/sys/fs/cgroup/system.slice/{SERVICE}/cgroup.procs");
        let processes = fs::read_to_string(processes).unwrap_or_default();
        let is_it = |pid: &&str| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            exe == Path::new("/usr/bin/cgview-fuse") && status.contains("\nPPid:\t1\n")
        };
        processes.lines().find(is_it).map_or(0, |pid| pid.parse().unwrap())
    }

    /// Those that serve.
    #[must_use]
    pub fn workers(&self) -> Vec<u32> {
        let keeper = self.keeper();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let children = children.unwrap_or_default();
        // Not the one that asks how they are.
        let serves = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name == "cgview-worker\n")
        };
        children.split_whitespace().filter(serves).map(|pid| pid.parse().unwrap()).collect()
    }

    /// Purges it, and asserts that it has left nothing.
    pub fn purge(self) {
        self.run("apt-get purge -y cgview");
        assert!(mounts().is_empty(), "{:?}", mounts());
        for path in [MOUNTPOINT, "/run/cgview", "/usr/bin/cgview", "/etc/cdi/cgview.json"] {
            assert!(!fs::exists(path).unwrap(), "{path} is left");
        }
        // The machine's own directories alone: what the tests are in is shared with another one.
        let left =
            shell("find /etc /usr /var/lib /run -xdev -name '*cgview*' ! -path '/run/guest/*'");
        assert_eq!(left, "");
        let exes = fs::read_dir("/proc").unwrap().flatten();
        let exes = exes.filter_map(|entry| fs::read_link(entry.path().join("exe")).ok());
        let left: Vec<PathBuf> = exes.filter(|exe| exe.starts_with("/usr/bin/cgview")).collect();
        assert!(left.is_empty(), "{left:?}");
        let units =
            shell("systemctl list-units --all --no-legend --plain 'cgview*' 'var-lib-cgview*'");
        assert_eq!(units, "");
    }
}

impl Host for Package {
    fn cgview(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/cgview");
        command.args(arguments);
        command
    }

    fn mountpoint(&self) -> PathBuf {
        PathBuf::from(MOUNTPOINT)
    }

    fn replace_daemon(&mut self) {
        let before = self.keeper();
        shell(&format!("systemctl restart {SERVICE}"));
        eventually("another one serves", || ![0, before].contains(&self.keeper()));
    }
}

fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/1/mountinfo").unwrap();
    text.lines().filter(|line| line.contains(" - fuse.cgview ")).map(str::to_owned).collect()
}

#[expect(clippy::print_stdout, reason = "a test's output")]
fn output(script: &str) -> std::process::Output {
    // Seen where a test fails: which of them took long on an emulated machine.
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    println!("{}: {script}", uptime.split(' ').next().unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", script]).stdin(Stdio::null());
    command.envs([("DEBIAN_FRONTEND", "noninteractive"), ("LC_ALL", "C.UTF-8")]).output().unwrap()
}

fn shell(script: &str) -> String {
    let output = output(script);
    let (text, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}: {}\n{text}{error}", output.status);
    text.into_owned()
}
