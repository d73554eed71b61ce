//! Which container a cgroup's path names, by the conventions of runtimes.

use alloc::{borrow::ToOwned, string::String};

/// What starts containers.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "each is the runtime of its name")]
pub enum Runtime {
    Docker,
    Podman,
    Containerd,
    Crio,
    Lxc,
    Nspawn,
    /// Any other one: runc and crun by themselves, `libvirt_lxc`.
    Other,
}

impl Runtime {
    /// Its name in small letters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Runtime::Docker => "docker",
            Runtime::Podman => "podman",
            Runtime::Containerd => "containerd",
            Runtime::Crio => "cri-o",
            Runtime::Lxc => "lxc",
            Runtime::Nspawn => "nspawn",
            Runtime::Other => "other",
        }
    }
}

/// A container as the path of its cgroup has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ContainerPath<'a> {
    /// Who made the cgroup.
    pub runtime: Runtime,
    /// The id, or the name where the runtime goes by names.
    pub id: String,
    /// The path as far as it names the container: what is below belongs to it.
    pub path: &'a str,
}

/// Reads the path of a cgroup, of v1 or v2, made by `cgroupfs` or by systemd. Of containers in containers, it
/// is the innermost. `None` if no runtime is known to make such paths: that of a host's process, or of a
/// runtime that lets its user choose the path.
///
/// The cgroups of helpers that stay outside of their container (`libpod-conmon-ID.scope`, `lxc.monitor.NAME`,
/// nspawn's `supervisor`) are nobody's.
#[must_use]
pub fn container_path(path: &str) -> Option<ContainerPath<'_>> {
    let mut end = path.len();
    // The innermost component that names a container, with the one above and the one below.
    let mut child = "";
    loop {
        let above = path.get(..end)?;
        let start = above.rfind('/')?;
        let name = above.get(start + 1..)?;
        let parent = above.get(..start)?;
        let parent_name = parent.get(parent.rfind('/').map_or(0, |slash| slash + 1)..)?;
        if let Some((runtime, id)) = component(parent_name, name).filter(|(_, id)| !id.is_empty()) {
            let is_helper = runtime == Runtime::Nspawn && child == "supervisor";
            return (!is_helper).then_some(ContainerPath { runtime, id, path: above });
        }
        // systemd-nspawn of systemd 262 names the scope like the machine, which is told by what is below.
        if (parent_name, child) == ("machine.slice", "payload")
            && let Some(machine) = name.strip_suffix(".scope").filter(|name| !name.is_empty())
        {
            let (id, path) = (unescape(machine), path.get(..end + "/payload".len())?);
            return Some(ContainerPath { runtime: Runtime::Nspawn, id, path });
        }
        child = name;
        end = start;
    }
}

/// What the names of systemd's units for containers begin with.
const SCOPES: [(&str, Runtime); 6] = [
    ("docker", Runtime::Docker),
    ("libpod", Runtime::Podman),
    ("cri-containerd", Runtime::Containerd),
    ("nerdctl", Runtime::Containerd),
    ("crio", Runtime::Crio),
    ("cri-dockerd", Runtime::Docker),
];

fn component(parent: &str, name: &str) -> Option<(Runtime, String)> {
    let unit = name.strip_suffix(".scope");
    // docker-ID.scope, and libpod-ID where there is no systemd; with any prefix, as other runtimes have it.
    if let Some((prefix, id)) = unit.unwrap_or(name).rsplit_once('-')
        && is_id(id)
    {
        let known = SCOPES.iter().find(|(scope, _)| *scope == prefix).map(|(_, runtime)| *runtime);
        let is_helper = prefix.ends_with("conmon");
        let other = || (unit.is_some() && !is_helper).then_some(Runtime::Other);
        return known.or_else(other).map(|runtime| (runtime, id.to_owned()));
    }
    // SLICE:PREFIX:ID: a path for systemd that was given to cgroupfs.
    if let Some((slice, id)) = name.rsplit_once(':')
        && is_id(id)
    {
        let prefix = slice.rsplit(':').next().unwrap_or_default();
        let known = SCOPES.iter().find(|(scope, _)| *scope == prefix).map(|(_, runtime)| *runtime);
        return Some((known.unwrap_or(Runtime::Other), id.to_owned()));
    }
    // runc-NAME.scope: what runtimes call it by themselves.
    for prefix in ["runc-", "crun-", "youki-"] {
        if let Some(id) = unit.and_then(|unit| unit.strip_prefix(prefix)) {
            return Some((Runtime::Other, id.to_owned()));
        }
    }
    if is_id(name) {
        let runtime = match parent {
            "docker" | "moby" => Runtime::Docker,
            "k8s.io" => Runtime::Containerd,
            // That of a pod's infrastructure.
            "libpod_parent" => return None,
            _ if parent.starts_with("pod") => Runtime::Containerd,
            _ => Runtime::Other,
        };
        return Some((runtime, name.to_owned()));
    }
    if let Some(id) = name.strip_prefix("lxc.payload.") {
        return Some((Runtime::Lxc, id.to_owned()));
    }
    // Before LXC 4, and in Proxmox.
    if matches!(parent, "lxc" | "lxc.payload") {
        return Some((Runtime::Lxc, name.to_owned()));
    }
    let service =
        name.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service"));
    if let Some(id) = service {
        return Some((Runtime::Nspawn, unescape(id)));
    }
    let machine = unit.and_then(|unit| unit.strip_prefix("machine-")).map(unescape);
    match machine {
        // Of libvirt: QEMU's processes are the host's.
        Some(machine) if machine.starts_with("qemu-") => None,
        Some(machine) if machine.starts_with("lxc-") => Some((Runtime::Other, machine)),
        Some(machine) => Some((Runtime::Nspawn, machine)),
        None => None,
    }
}

/// Whether it is an id as all OCI engines make them.
fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(is_digit)
}

/// Undoes systemd's escaping of a unit's name: `\x2d` is a dash, and a dash would be a slash
/// (systemd-escape(1)); no machine has a slash in its name.
fn unescape(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        plain.push_str(before);
        let code = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                plain.push(char::from(code));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                plain.push_str("\\x");
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// Whether the path is that of a systemd unit itself, and not of a cgroup that the unit has below: who runs there
/// without a container's name is a process of the host, whatever namespaces it has.
#[must_use]
pub fn is_unit(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    [".service", ".scope", ".slice", ".mount", ".socket", ".swap"]
        .iter()
        .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    const ID: &str = "0c4d8b6f9a3e5d7c1b2a49586776859403f1e2d3c4b5a6978879605142332415";

    /// `ID` stands for an id.
    fn assert_names(path: &str, runtime: Runtime, id: &str, own: &str) {
        let path = path.replace("ID", ID);
        let found = container_path(&path);
        let expected =
            ContainerPath { runtime, id: id.replace("ID", ID), path: &own.replace("ID", ID) };
        assert_eq!(found, Some(expected), "{path}");
    }

    #[test]
    fn paths_of_real_hosts() {
        use Runtime::{Containerd, Crio, Docker, Lxc, Nspawn, Other, Podman};
        for (path, runtime) in [
            ("/docker/ID", Docker),
            ("/system.slice/docker-ID.scope", Docker),
            ("/custom.slice/docker-ID.scope", Docker),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f_2.slice/docker-ID.scope",
                Docker,
            ),
            ("/libpod_parent/libpod-ID", Podman),
            ("/machine.slice/libpod-ID.scope", Podman),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", Podman),
            ("/machine.slice/machine-libpod_pod_ID.slice/libpod-ID.scope", Podman),
            ("/k8s.io/ID", Containerd),
            ("/kubepods/besteffort/pod7e1f2a3b-0c4d/ID", Containerd),
            ("/kubepods/pod7e1f2a3b-0c4d/ID", Containerd),
            ("/kubepods.slice/kubepods-pod7e_1.slice/cri-containerd-ID.scope", Containerd),
            (
                "/system.slice/containerd.service/kubepods-burstable-pod7e.slice:cri-containerd:ID",
                Containerd,
            ),
            ("/system.slice/nerdctl-ID.scope", Containerd),
            ("/kubepods/burstable/pod7e/crio-ID", Crio),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod7e.slice/crio-ID.scope",
                Crio,
            ),
            ("/jobs/batch-7/ID", Other),
            ("/system.slice/balena-ID.scope", Other),
        ] {
            assert_names(path, runtime, "ID", path);
            // What is made in the container, by systemd or crun, belongs to it.
            for below in ["/container", "/init.scope", "/system.slice/cron.service"] {
                assert_names(&format!("{path}{below}"), runtime, "ID", path);
            }
        }
        for (path, runtime, id, own) in [
            ("/lxc.payload.web-1", Lxc, "web-1", "/lxc.payload.web-1"),
            ("/lxc.payload.u1/.lxc", Lxc, "u1", "/lxc.payload.u1"),
            (
                "/user.slice/lxc.payload.a/system.slice/ssh.service",
                Lxc,
                "a",
                "/user.slice/lxc.payload.a",
            ),
            ("/lxc/101/ns/init.scope", Lxc, "101", "/lxc/101"),
            ("/lxc/old", Lxc, "old", "/lxc/old"),
            (
                r"/machine.slice/machine-my\x2dbox.scope",
                Nspawn,
                "my-box",
                r"/machine.slice/machine-my\x2dbox.scope",
            ),
            (
                "/machine.slice/systemd-nspawn@deb.service/payload/init.scope",
                Nspawn,
                "deb",
                "/machine.slice/systemd-nspawn@deb.service",
            ),
            (
                r"/machine.slice/my\x2dbox.scope/payload/init.scope",
                Nspawn,
                "my-box",
                r"/machine.slice/my\x2dbox.scope/payload",
            ),
            (
                r"/machine.slice/machine-lxc\x2d42\x2dbox.scope",
                Other,
                "lxc-42-box",
                r"/machine.slice/machine-lxc\x2d42\x2dbox.scope",
            ),
            ("/user.slice/runc-job.scope", Other, "job", "/user.slice/runc-job.scope"),
        ] {
            assert_names(path, runtime, id, own);
        }
    }

    #[test]
    fn of_containers_in_containers_it_is_the_innermost() {
        let inner = ID.replace('0', "1");
        let path = format!("/docker/{ID}/docker/{inner}/init");
        assert_eq!(container_path(&path).unwrap().id, inner);
        let path = format!("/lxc.payload.a/system.slice/docker-{ID}.scope");
        assert_eq!(container_path(&path).unwrap().runtime, Runtime::Docker);
    }

    #[test]
    fn processes_of_the_host_are_in_no_container() {
        for path in [
            "/",
            "",
            "relative",
            "/init.scope",
            "/system.slice/docker.service",
            "/system.slice/libpod-conmon-ID.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/libpod_parent/libpod-conmon-ID",
            "/libpod_parent/ID",
            "/kubepods.slice/crio-conmon-ID.scope",
            "/kubepods/burstable/pod7e1f",
            "/lxc.monitor.web",
            "/lxc",
            "/lxc.payload.",
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope",
            "/machine.slice/systemd-nspawn@deb.service/supervisor",
            "/machine.slice/web.scope/supervisor",
            "/machine.slice/.scope/payload",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-flatpak-org.x-77.scope",
            "/docker/ID0",
            "/docker/0123",
        ] {
            let path = path.replace("ID", ID);
            assert_eq!(container_path(&path), None, "{path}");
        }
    }

    #[test]
    fn a_unit_is_told_from_what_it_has_below() {
        for path in ["/system.slice/cron.service", "/user.slice/session-3.scope", "/a.slice"] {
            assert!(is_unit(path), "{path}");
        }
        for path in ["/", "/default/web", "/system.slice/x.service/sub", "/.scope"] {
            assert!(!is_unit(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_may_be_read(path in "(/?[a-z0-9.:@\\\\-]{0,70}){0,5}|.*") {
            if let Some(found) = container_path(&path) {
                prop_assert!(path.starts_with(found.path));
                prop_assert!(!found.id.is_empty());
                // It is found again by its own path, unless that is a helper's.
                prop_assert_eq!(container_path(found.path).map(|again| again.id), Some(found.id));
            }
            let _ = is_unit(&path);
        }
    }
}
