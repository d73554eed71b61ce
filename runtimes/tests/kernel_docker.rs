//! Docker: the runtime `cgview` of its configuration (`docs/runtimes.md`, "Docker").
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cgview_compliance::eventually;
use cgview_runtimes::{CPUS, DOCKER, Host as _, LOOK, MEMORY_OPTION, Rig, Seen, dockerd};

/// A dockerd without a network, with the configuration that `cgview install` has written.
struct Docker {
    rig: Rig,
    docker: String,
}

impl Docker {
    fn start(arguments: &str) -> Option<Docker> {
        let rig = Rig::start(DOCKER)?;
        let root = rig.install("docker");
        // For user namespaces: ids that no user of the machine has.
        let ids = rig.path("ids");
        std::fs::write(&ids, "daemon:1000000:65536\n").unwrap();
        for file in ["/etc/subuid", "/etc/subgid"] {
            rig.sandbox.run(&format!("mount --bind {} {file}", ids.display()));
        }
        let configuration = format!("--config-file {}/etc/docker/daemon.json", root.display());
        let docker = dockerd(&rig, &format!("{configuration} {arguments}"));
        Some(Docker { rig, docker })
    }

    fn options(&self, more: &str) -> String {
        format!(
            "--cgroup-parent /{} --network=none --memory {MEMORY_OPTION} --cpus {CPUS} {more} {}",
            self.rig.name, self.rig.name
        )
    }

    fn run(&self, more: &str) -> Seen {
        let options = self.options(more);
        Seen::new(
            self.rig.sandbox.run(&format!("{} run --rm {options} sh -c '{LOOK}'", self.docker)),
        )
    }
}

#[test]
fn containers_have_the_view() {
    let Some(mut docker) = Docker::start("") else { return };
    docker.run("").is_own();
    docker.run("--runtime runc").is_the_hosts();
    docker.run("--env CGVIEW=none").is_the_hosts();

    let options = docker.options("");
    docker.rig.sandbox.run(&format!("{} run -d --name c1 {options} sleep 600", docker.docker));
    let look = format!("{} exec c1 sh -c '{LOOK}'", docker.docker);
    Seen::new(docker.rig.sandbox.run(&look)).is_own();
    docker.rig.replace_daemon();
    Seen::new(docker.rig.sandbox.run(&look)).is_own();
    // A container that is started again is a new one.
    docker.rig.sandbox.run(&format!("{} restart -t 0 c1", docker.docker));
    Seen::new(docker.rig.sandbox.run(&look)).is_own();
    docker.rig.sandbox.run(&format!("{} rm -f c1", docker.docker));
    assert_eq!(docker.rig.mounts(), 1);
}

#[test]
fn a_reload_is_enough_and_undone_by_uninstall() {
    let Some(docker) = Docker::start("") else { return };
    let root = docker.rig.path("root");
    let reload = format!("kill -HUP $(cat {}/pid)", docker.rig.path("docker").display());
    let default = || {
        let format = "{{.DefaultRuntime}}";
        docker.rig.sandbox.run(&format!("{} info -f '{format}'", docker.docker))
    };
    assert_eq!(default(), "cgview\n");
    let mut command = docker.rig.cgview(&["uninstall", "--runtime", "docker", "--root"]);
    assert!(command.arg(&root).output().unwrap().status.success());
    // It takes no file that is gone; an empty one is the same.
    std::fs::create_dir_all(root.join("etc/docker")).unwrap();
    std::fs::write(root.join("etc/docker/daemon.json"), "{\"default-runtime\": \"runc\"}").unwrap();
    docker.rig.sandbox.run(&reload);
    eventually("the default is runc", || default() == "runc\n");
    docker.run("").is_the_hosts();

    let _ = docker.rig.install("docker");
    docker.rig.sandbox.run(&reload);
    eventually("the default is cgview", || default() == "cgview\n");
    docker.run("").is_own();
}

#[test]
fn with_user_namespaces() {
    if std::fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|n| n.trim() == "0")
    {
        cgview_testkit::skip("this kernel has no user namespaces");
        return;
    }
    let Some(docker) = Docker::start("--userns-remap daemon") else { return };
    docker.run("").is_own();
}
