//! The container engines: how to tell that one is there, and which files of it have cgview.

use std::path::{Path, PathBuf};

use cgview_oci::{
    cdi,
    hooks_dir::{self, When},
};

use super::{
    Runtime, Setup,
    change::{self, Change},
    containerd,
    file::{File, Kind, below},
};

const DAEMON_JSON: &str = "/etc/docker/daemon.json";
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const HOOK_FILE: &str = "cgview.json";
const LXC_DIRECTORY: &str = "/usr/share/lxc/config/common.conf.d";
const LXCFS_CONFIG: &str = "00-lxcfs.conf";
const LXC_CONFIG: &str = "10-cgview.conf";
const LXCFS_DROP_IN: &str = "/etc/systemd/system/lxcfs.service.d/cgview.conf";

/// What has LXCFS's service mount the view where LXCFS's would be, also shipped for those who do without this command.
const DROP_IN: &str = include_str!("../../../../packaging/systemd/lxcfs.service.d/cgview.conf");

/// An engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Engine {
    Docker,
    Podman,
    Containerd,
    Crio,
    Lxc,
}

impl Engine {
    pub(super) const ALL: [Engine; 5] =
        [Engine::Docker, Engine::Podman, Engine::Containerd, Engine::Crio, Engine::Lxc];

    pub(super) fn name(self) -> Runtime {
        match self {
            Engine::Docker => Runtime::Docker,
            Engine::Podman => Runtime::Podman,
            Engine::Containerd => Runtime::Containerd,
            Engine::Crio => Runtime::Crio,
            Engine::Lxc => Runtime::Lxc,
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Engine::Docker => "Docker",
            Engine::Podman => "Podman",
            Engine::Containerd => "containerd",
            Engine::Crio => "CRI-O",
            Engine::Lxc => "LXC",
        }
    }

    /// Whether it has no hooks of its own.
    pub(super) fn needs_wrapper(self) -> bool {
        matches!(self, Engine::Docker | Engine::Containerd)
    }

    pub(super) fn is_installed(self, root: &Path) -> bool {
        let program = |name: &str| {
            ["usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"]
                .iter()
                .any(|dir| root.join(dir).join(name).exists())
        };
        match self {
            Engine::Docker => program("dockerd"),
            Engine::Podman => program("podman"),
            // Docker brings it, and does not use what is configured here.
            Engine::Containerd => {
                let config = change::read(&below(root, CONTAINERD_CONFIG)).ok().flatten();
                program("containerd")
                    && match config {
                        Some(text) => containerd::has_cri(&text),
                        None => !program("dockerd"),
                    }
            }
            Engine::Crio => program("crio"),
            Engine::Lxc => below(root, LXC_DIRECTORY).is_dir(),
        }
    }

    /// Its files.
    pub(super) fn files(self, root: &Path, setup: &Setup) -> Vec<File> {
        let file = |path: PathBuf, kind| File { path, kind, setup: setup.clone() };
        let own = |path: &str, text| file(below(root, path), Kind::Own(text));
        let json = |value: serde_json::Value| format!("{value:#}\n");
        let cdi = || {
            let path = format!("{}/{HOOK_FILE}", cdi::DIRECTORY);
            own(&path, json(cdi::specification(&setup.hook())))
        };
        let hooks = || {
            let when = if setup.opt_in { When::Annotated } else { When::Always };
            let path = format!("{}/{HOOK_FILE}", hooks_dir::DIRECTORY);
            own(&path, json(hooks_dir::file(&setup.hook(), when)))
        };
        match self {
            Engine::Docker => vec![file(below(root, DAEMON_JSON), Kind::Docker), cdi()],
            Engine::Podman => vec![hooks(), cdi()],
            Engine::Containerd => vec![file(below(root, CONTAINERD_CONFIG), Kind::Containerd)],
            Engine::Crio => vec![hooks()],
            // LXCFS's own hook finds the view in the place of LXCFS's.
            Engine::Lxc if below(root, LXC_DIRECTORY).join(LXCFS_CONFIG).exists() => {
                let mountpoint = setup.mountpoint.display().to_string();
                vec![own(LXCFS_DROP_IN, DROP_IN.replace("/var/lib/cgview", &mountpoint))]
            }
            Engine::Lxc => {
                let mut command = setup.program("cgview").display().to_string();
                command.push_str(" lxc-hook");
                for argument in setup.hook_arguments() {
                    command = format!("{command} {argument}");
                }
                let text = format!(
                    "# Containers see their own /proc and /sys (cgview-lxc-hook(1)).\nlxc.hook.mount = {command}\n"
                );
                vec![own(&format!("{LXC_DIRECTORY}/{LXC_CONFIG}"), text)]
            }
        }
    }

    /// Whether a file is one of its own.
    pub(super) fn owns(self, path: &Path) -> bool {
        let names: &[&str] = match self {
            Engine::Docker => &["docker/daemon.json", "cdi/cgview.json"],
            Engine::Podman => &["hooks.d/cgview.json", "cdi/cgview.json"],
            Engine::Containerd => &["containerd/config.toml"],
            Engine::Crio => &["hooks.d/cgview.json"],
            Engine::Lxc => &["common.conf.d/10-cgview.conf", "lxcfs.service.d/cgview.conf"],
        };
        names.iter().any(|name| path.ends_with(name))
    }

    /// What makes it read its files again, which have cgview now, or have it no more.
    pub(super) fn restart(self, changes: &[Change], has_cgview: bool) -> &'static str {
        let lxcfs = |change: &Change| change.path().ends_with("lxcfs.service.d/cgview.conf");
        match self {
            Engine::Docker if has_cgview => {
                "systemctl reload docker (containers that run are not disturbed)"
            }
            // The default runtime that it has stays when it reloads a file that names none.
            Engine::Docker => {
                "systemctl restart docker (containers that run end, unless live-restore is set)"
            }
            Engine::Containerd => {
                "systemctl restart containerd (containers that run are not disturbed)"
            }
            // Containers that have the files of what was mounted there lose them.
            Engine::Lxc if changes.iter().any(lxcfs) => {
                "systemctl daemon-reload; systemctl restart lxcfs; then restart containers that have its files"
            }
            Engine::Podman | Engine::Crio | Engine::Lxc => {
                "containers that are started from now on"
            }
        }
    }
}
