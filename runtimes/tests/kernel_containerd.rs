//! containerd: pods by CRI, as Kubernetes asks for them, and `ctr` (`docs/runtimes.md`, "containerd").
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use cgview_compliance::eventually;
use cgview_runtimes::{Host as _, Image, LOOK, MEMORY, Rig, Seen, program};
use serde_json::{Value, json};

/// A containerd with a root and a state of its own, and the configuration that `cgview install` has changed.
struct Containerd {
    rig: Rig,
    socket: String,
}

impl Containerd {
    fn start() -> Option<Containerd> {
        let rig = Rig::start(&["containerd", "ctr", "runc", "python3"])?;
        let dir = rig.path("containerd");
        let socket = rig.path("containerd.sock").display().to_string();
        // The package's own file has no more than a version; this one keeps off the machine's.
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\n[grpc]\n  address = \"{socket}\"\n\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{0}/opt\"\n\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"localhost/image:latest\"\n  \
             restrict_oom_score_adj = true\n\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    conf_dir = \"{0}/cni\"\n",
            dir.display()
        );
        let file = rig.path("root/etc/containerd/config.toml");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &config).unwrap();
        // Where the view is can be told by the environment only.
        let mut command = rig.cgview(&["install", "--runtime", "containerd", "--root"]);
        let output = command.arg(rig.path("root")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read_to_string(&file).unwrap().starts_with(&config[..20]));
        rig.sandbox.spawn(
            &format!(
                "CGVIEW_MOUNTPOINT={} exec containerd -c {}",
                rig.mountpoint().display(),
                file.display()
            ),
            &rig.path("containerd.log"),
        );
        let containerd = Containerd { rig, socket };
        eventually("containerd answers", || {
            let client = containerd.client("version", &json!({}));
            containerd.rig.sandbox.command(&client).output().unwrap().status.success()
        });
        containerd.import();
        Some(containerd)
    }

    fn client(&self, what: &str, asked: &Value) -> String {
        let script = format!("{}/tests/cri.py", env!("CARGO_MANIFEST_DIR"));
        // Debian's Python, which has Debian's packages.
        format!("/usr/bin/python3 {script} {} {what} '{asked}'", self.socket)
    }

    fn ask(&self, what: &str, asked: &Value) -> String {
        self.rig.sandbox.run(&self.client(what, asked)).trim_end().to_owned()
    }

    fn ctr(&self, line: &str) -> String {
        self.rig.sandbox.run(&format!("ctr --address {} --namespace k8s.io {line}", self.socket))
    }

    /// An image whose program sleeps: for a pod's first container, and for the others.
    fn import(&self) {
        let image = Image::make(&self.rig.path("image"));
        let tar = image.tar();
        let dir = self.rig.path("archive");
        fs::create_dir(&dir).unwrap();
        fs::rename(&tar, dir.join("layer.tar")).unwrap();
        let sum = self.rig.sandbox.run(&format!("sha256sum {}/layer.tar", dir.display()));
        let sum = sum.split(' ').next().unwrap();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": ["/bin/sleep", "600"], "Env": ["PATH=/usr/bin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
        });
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let manifest = json!([{
            "Config": "config.json", "RepoTags": ["localhost/image:latest"], "Layers": ["layer.tar"],
        }]);
        fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.rig.path("archive.tar");
        self.rig.sandbox.run(&format!("tar -C {} -cf {} .", dir.display(), archive.display()));
        self.ctr(&format!("images import {}", archive.display()));
    }

    /// A pod with a container that sleeps: their ids.
    fn pod(&self, name: &str, shared_pid: bool, annotations: &Value) -> (String, String) {
        let parent = format!("/{}", self.rig.name);
        let pod = self.ask(
            "run-pod",
            &json!({ "name": name, "cgroup_parent": parent, "shared_pid": shared_pid, "annotations": annotations }),
        );
        let container = self.ask(
            "start",
            &json!({
                "pod": pod, "pod_name": name, "name": "c", "cgroup_parent": parent, "shared_pid": shared_pid,
                "image": "localhost/image:latest", "command": ["/bin/sleep", "600"], "cpus": 1.5,
                "memory": MEMORY,
            }),
        );
        (pod, container)
    }

    fn look(&self, container: &str) -> Seen {
        let command = json!(["/bin/sh", "-c", LOOK]);
        Seen::new(self.ask("exec-sync", &json!({ "container": container, "command": command })))
    }
}

#[test]
fn containers_of_pods_have_the_view() {
    let Some(mut containerd) = Containerd::start() else { return };
    for (name, shared_pid) in [("own", false), ("shared", true)] {
        let (pod, container) = containerd.pod(name, shared_pid, &json!({}));
        containerd.look(&container).is_own();
        containerd.rig.replace_daemon();
        containerd.look(&container).is_own();
        containerd.ask("remove-pod", &json!({ "pod": pod }));
        assert_eq!(containerd.rig.mounts(), 1);
    }
}

#[test]
fn ctr_s_containers_have_the_view() {
    let Some(containerd) = Containerd::start() else { return };
    let name = &containerd.rig.name;
    let run = |more: &str| {
        let limits = format!("--memory-limit {MEMORY} --cpus 1.5 --cgroup /{name}/{name}");
        let text = containerd.ctr(&format!(
            "run --rm {more} {limits} localhost/image:latest {name} /bin/sh -c '{LOOK}'"
        ));
        Seen::new(text)
    };
    run("").is_the_hosts();
    run(&format!("--runc-binary {}", program("cgview-runtime").display())).is_own();
}
