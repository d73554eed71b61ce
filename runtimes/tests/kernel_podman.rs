//! Podman: a hook for all containers, and the CDI device (`docs/runtimes.md`, "Podman").
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cgview_runtimes::{CPUS, Host as _, Image, LOOK, MEMORY_OPTION, Rig, Seen};

/// Podman with a storage of its own, and the root of `cgview install` over the machine's.
struct Podman {
    rig: Rig,
    podman: String,
}

impl Podman {
    fn start(runtime: &str) -> Option<Podman> {
        let rig = Rig::start(&["podman", "conmon", runtime])?;
        let root = rig.install("podman");
        // What was installed, where Podman looks for it.
        for dir in ["usr/share/containers", "etc"] {
            let (upper, work) = (rig.path("upper").join(dir), rig.path("work").join(dir));
            for dir in [&upper, &work] {
                std::fs::create_dir_all(dir).unwrap();
            }
            let lower = root.join(dir);
            if lower.exists() {
                rig.sandbox.run(&format!(
                    "mount -t tmpfs tmpfs {0} && mkdir {0}/u {0}/w && mount -t overlay \
                     -o lowerdir={1}:/{dir},upperdir={0}/u,workdir={0}/w overlay /{dir}",
                    upper.display(),
                    lower.display()
                ));
            }
        }
        // crun takes no hybrid hierarchies with controllers in both.
        rig.sandbox.run("umount /sys/fs/cgroup/unified 2>/dev/null; true");
        let dir = rig.path("podman");
        let dir = dir.display();
        let podman = format!(
            "podman --root {dir}/root --runroot {dir}/run --tmpdir {dir}/tmp --cgroup-manager=cgroupfs \
             --events-backend=file --storage-driver=vfs --runtime {runtime}"
        );
        let image = Image::make(&rig.path("image"));
        rig.sandbox.run(&format!("{podman} import {} {}", image.tar().display(), rig.name));
        Some(Podman { rig, podman })
    }

    /// The options of a container.
    fn options(&self, more: &str) -> String {
        format!(
            "--cgroup-parent /{} --network=none --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 --memory {MEMORY_OPTION} \
             --cpus {CPUS} {more} {}",
            self.rig.name, self.rig.name
        )
    }

    fn run(&self, more: &str) -> Seen {
        let options = self.options(more);
        Seen::new(
            self.rig.sandbox.run(&format!("{} run --rm {options} sh -c '{LOOK}'", self.podman)),
        )
    }
}

fn containers_have_the_view(runtime: &str) {
    let Some(mut podman) = Podman::start(runtime) else { return };
    podman.run("").is_own();

    // One that goes on, is entered, and outlives the daemon.
    let options = podman.options("");
    podman.rig.sandbox.run(&format!("{} run -d --name c {options} sleep 600", podman.podman));
    let look = format!("{} exec c sh -c '{LOOK}'", podman.podman);
    Seen::new(podman.rig.sandbox.run(&look)).is_own();
    podman.rig.replace_daemon();
    Seen::new(podman.rig.sandbox.run(&look)).is_own();
    podman.rig.sandbox.run(&format!("{} rm -f -t 0 c", podman.podman));
    assert_eq!(podman.rig.mounts(), 1);

    // Who does not want it.
    podman.run("--env CGVIEW=none").is_the_hosts();
    podman.run("--annotation cgview.dev/view=none").is_the_hosts();

    // Without a daemon they start as well.
    podman.rig.kill_daemon();
}

#[test]
fn with_crun() {
    containers_have_the_view("crun");
}

#[test]
fn with_runc() {
    containers_have_the_view("runc");
}

#[test]
fn a_cdi_device_gives_the_view() {
    let Some(podman) = Podman::start("crun") else { return };
    podman.rig.sandbox.run("rm /usr/share/containers/oci/hooks.d/cgview.json");
    podman.run("").is_the_hosts();
    podman.run("--device cgview.dev/view=all").is_own();
}

#[test]
fn the_wrapper_is_a_runtime() {
    let Some(podman) = Podman::start("runc") else { return };
    podman.rig.sandbox.run("rm /usr/share/containers/oci/hooks.d/cgview.json");
    let wrapper = cgview_runtimes::program("cgview-runtime");
    let options = podman.options("");
    let flags = format!(
        "--runtime {} --runtime-flag cgview-mountpoint={}",
        wrapper.display(),
        podman.rig.mountpoint().display()
    );
    let command = podman.podman.replace("--runtime runc", &flags);
    let seen = podman.rig.sandbox.run(&format!("{command} run --rm {options} sh -c '{LOOK}'"));
    Seen::new(seen).is_own();
}
