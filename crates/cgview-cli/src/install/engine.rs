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
const LXCFS_UNIT: &str = "/etc/systemd/system/var-lib-lxcfs.mount";

/// The unit that has the view where LXCFS's would be, also shipped for those who do without this command.
const UNIT: &str = include_str!("../../../../packaging/systemd/var-lib-lxcfs.mount");

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
                let unit = UNIT.replace("/var/lib/cgview", &setup.mountpoint.display().to_string());
                vec![own(LXCFS_UNIT, unit)]
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
            Engine::Lxc => &["common.conf.d/10-cgview.conf", "system/var-lib-lxcfs.mount"],
        };
        names.iter().any(|name| path.ends_with(name))
    }

    /// What makes it read its files again.
    pub(super) fn restart(self, changes: &[Change]) -> String {
        let unit = changes.iter().find(|change| change.path().ends_with("var-lib-lxcfs.mount"));
        match self {
            Engine::Docker => "systemctl reload docker (containers that run are not disturbed)".into(),
            Engine::Containerd => {
                "systemctl restart containerd (containers that run are not disturbed)".into()
            }
            Engine::Podman | Engine::Crio => "containers that are started from now on".into(),
            Engine::Lxc => match unit {
                Some(change) if change.removes() => {
                    "umount /var/lib/lxcfs; systemctl daemon-reload; systemctl enable --now lxcfs".into()
                }
                // Those that have LXCFS's files would lose them with it.
                Some(_) => "systemctl daemon-reload; systemctl disable --now lxcfs; \
                            systemctl enable --now var-lib-lxcfs.mount; then restart containers that \
                            have LXCFS's files"
                    .into(),
                None => "containers that are started from now on".into(),
            },
        }
    }
}
