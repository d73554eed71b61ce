//! What the kernel offers.

use std::{fs, io, path::Path};

use cgview_core::snapshot::Version;
use cgview_host::Host;
use rustix::{
    fs::{Access, CWD, OFlags, ResolveFlags, access, openat2},
    process::{PidfdFlags, geteuid, getpid, pidfd_open},
    system::uname,
};

use super::Check;

/// All checks of the host itself.
pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![kernel(), user()];
    match Host::live() {
        Ok(host) => {
            checks.push(hierarchies(&host));
            checks.extend(CONTROLLERS.iter().map(|controller| controller.check(&host)));
        }
        Err(error) => checks.push(Check::broken("cgroups", error.to_string(), "run it as root")),
    }
    checks.extend([
        fuse(),
        pressure(),
        time_namespaces(),
        pidfds(),
        init_lookup(),
        openat2_check(),
    ]);
    checks
}

fn kernel() -> Check {
    let name = uname();
    let release = name.release().to_string_lossy();
    Check::ok("kernel", format!("Linux {release}, {}", name.machine().to_string_lossy()))
}

fn user() -> Check {
    if !geteuid().is_root() {
        return Check::note(
            "user",
            "not root: other users' processes and mounts are not seen",
            "run it as root",
        );
    }
    Check::ok("user", "root")
}

fn hierarchies(host: &Host) -> Check {
    let mounts: Vec<String> = host
        .hierarchies()
        .iter()
        .map(|hierarchy| match hierarchy.version() {
            Version::V1 => {
                format!("{} at {}", hierarchy.controllers().join(","), hierarchy.mount_point())
            }
            Version::V2 => format!("v2 at {}", hierarchy.mount_point()),
        })
        .collect();
    if mounts.is_empty() {
        return Check::broken(
            "cgroups",
            "no hierarchy is mounted",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        );
    }
    Check::ok("cgroups", format!("{} layout: {}", host.layout(), mounts.join("; ")))
}

/// A controller, and what the view does not know without it.
struct Controller {
    name: &'static str,
    /// Its name in v1.
    v1: &'static str,
    missing: &'static str,
    /// Whether a view is worth nothing without it.
    needed: bool,
    mend: &'static str,
}

const CONTROLLERS: [Controller; 5] = [
    Controller {
        name: "memory",
        v1: "memory",
        missing: "containers see the host's memory",
        needed: true,
        mend: "boot with cgroup_enable=memory",
    },
    Controller {
        name: "cpu",
        v1: "cpu",
        missing: "quotas are not seen",
        needed: true,
        mend: "a kernel with CONFIG_CFS_BANDWIDTH",
    },
    Controller {
        name: "cpuset",
        v1: "cpuset",
        missing: "containers see all CPUs but for their quota",
        needed: false,
        mend: "a kernel with CONFIG_CPUSETS",
    },
    Controller {
        name: "pids",
        v1: "pids",
        missing: "limits of tasks are not seen",
        needed: false,
        mend: "a kernel with CONFIG_CGROUP_PIDS",
    },
    Controller {
        name: "io",
        v1: "blkio",
        missing: "diskstats has no devices",
        needed: false,
        mend: "a kernel with CONFIG_BLK_CGROUP",
    },
];

impl Controller {
    fn check(&self, host: &Host) -> Check {
        let name = format!("{} controller", self.name);
        let found = host.hierarchies().iter().find(|hierarchy| {
            let wanted = match hierarchy.version() {
                Version::V1 => self.v1,
                Version::V2 => self.name,
            };
            hierarchy.controllers().iter().any(|controller| controller == wanted)
        });
        let Some(hierarchy) = found else {
            return if self.needed {
                Check::broken(name, format!("missing: {}", self.missing), self.mend)
            } else {
                Check::note(name, format!("missing: {}", self.missing), self.mend)
            };
        };
        if hierarchy.version() == Version::V1 {
            return Check::ok(name, "v1");
        }
        let control = format!("{}/cgroup.subtree_control", hierarchy.mount_point());
        let enabled = fs::read_to_string(&control).unwrap_or_default();
        if enabled.split_whitespace().any(|enabled| enabled == self.name) {
            Check::ok(name, "v2")
        } else {
            Check::note(
                name,
                format!("v2, not enabled for the children of {}", hierarchy.mount_point()),
                format!("whoever makes containers enables it: echo +{} > {control}", self.name),
            )
        }
    }
}

fn fuse() -> Check {
    const NAME: &str = "FUSE";
    let device = Path::new("/dev/fuse");
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let built_in = known.lines().any(|line| line.trim_start_matches("nodev").trim() == "fuse");
    if !device.exists() {
        return if built_in {
            Check::broken(
                NAME,
                "the kernel has it, but there is no /dev/fuse",
                "mknod /dev/fuse c 10 229",
            )
        } else {
            Check::broken(NAME, "there is no /dev/fuse", "modprobe fuse")
        };
    }
    match access(device, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Check::ok(NAME, "/dev/fuse can be opened"),
        Err(error) => Check::note(
            NAME,
            format!("cannot open /dev/fuse: {}", io::Error::from(error)),
            "run it as root",
        ),
    }
}

fn pressure() -> Check {
    const NAME: &str = "pressure (PSI)";
    match fs::read("/proc/pressure/cpu") {
        Ok(_) => Check::ok(NAME, "on"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::note(NAME, "this kernel does not have it", "a kernel with CONFIG_PSI")
        }
        Err(_) => Check::note(NAME, "this kernel has it switched off", "boot with psi=1"),
    }
}

fn time_namespaces() -> Check {
    const NAME: &str = "time namespaces";
    if Path::new("/proc/self/timens_offsets").exists() {
        Check::ok(NAME, "on")
    } else {
        Check::note(
            NAME,
            "missing: ps and top in containers tell start times of the host",
            "Linux 5.6 or later with CONFIG_TIME_NS",
        )
    }
}

fn pidfds() -> Check {
    const NAME: &str = "pidfds";
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Check::ok(NAME, "on"),
        Err(_) => Check::note(
            NAME,
            "missing: callers are told apart by their start times",
            "Linux 5.3 or later",
        ),
    }
}

fn init_lookup() -> Check {
    const NAME: &str = "NS_GET_PID_FROM_PIDNS";
    if at_least(&uname().release().to_string_lossy(), (6, 11)) {
        Check::ok(NAME, "on: a container's init is found by one system call")
    } else {
        Check::ok(
            NAME,
            "missing before Linux 6.11: a container's init is found by a walk through /proc",
        )
    }
}

fn openat2_check() -> Check {
    const NAME: &str = "openat2";
    let opened = openat2(
        CWD,
        "/",
        OFlags::PATH | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    match opened {
        Ok(_) => Check::ok(NAME, "on"),
        Err(_) => Check::note(NAME, "missing: --host-root cannot be used", "Linux 5.6 or later"),
    }
}

/// Whether a release such as `6.12.95+deb12-amd64` is that version or a later one.
fn at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert!(at_least("6.12.95+deb12-amd64", (6, 11)));
        assert!(at_least("7.0-rc1", (6, 11)));
        assert!(!at_least("6.1.0-40-amd64", (6, 11)));
        assert!(!at_least("5.15", (6, 11)));
        assert!(!at_least("", (6, 11)));
    }
}
