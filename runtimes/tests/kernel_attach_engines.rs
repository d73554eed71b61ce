//! `cgview attach` for containers that engines have started without a view (`docs/attach.md`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;

use cgview_compliance::eventually;
use cgview_runtimes::{CPUS, Image, LOOK, MEMORY, MEMORY_OPTION, Rig, Seen};
use serde_json::Value;

/// Runs `cgview`, which has to succeed, and gives what it says.
fn said(rig: &Rig, arguments: &[&str]) -> String {
    let output = rig.cgview(arguments).output().unwrap();
    let (text, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {text}{error}");
    text.into_owned()
}

/// What `cgview status` says of the container of a cgroup of this test.
fn status(rig: &Rig) -> Option<Value> {
    let status: Value = serde_json::from_str(&said(rig, &["status", "--json"])).unwrap();
    let is_ours = |found: &&Value| found["cgroup"].as_str().unwrap().contains(&rig.name);
    status["containers"].as_array().unwrap().iter().find(is_ours).cloned()
}

/// Attaches to a container by a name, looks into it while the daemon is killed and replaced, and detaches.
fn attach_and_detach(rig: &mut Rig, runtime: &str, name: &str, look: impl Fn(&Rig) -> Seen) {
    eventually("it is found", || status(rig).is_some());
    let found = status(rig).unwrap();
    assert_eq!(found["runtime"], runtime, "{found:#}");
    let pid = found["pid"].as_u64().unwrap();
    let mounts = || fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let before = mounts();
    look(rig).is_the_hosts();

    let mountpoint = rig.mountpoint();
    let attach = ["attach", "--mountpoint", mountpoint.to_str().unwrap(), name];
    let text = said(rig, &attach);
    assert!(text.ends_with(" files attached\n"), "{text}");
    look(rig).is_own();
    // By its id as well, and nothing more is done.
    let id = found["id"].as_str().unwrap();
    let text = said(rig, &[&attach[..3], &[id]].concat());
    assert!(text.ends_with(" files attached before\n"), "{text}");
    rig.replace_daemon();
    look(rig).is_own();

    let text = said(rig, &["detach", name]);
    assert!(text.ends_with(" files detached\n"), "{text}");
    assert_eq!(mounts(), before);
    look(rig).is_the_hosts();
}

#[test]
fn docker() {
    const DOCKER: &str = "/usr/bin/docker";
    let Some(mut rig) = Rig::start(&["dockerd", "containerd", "runc", DOCKER]) else { return };
    let (dir, socket) = (rig.path("docker"), rig.path("docker.sock"));
    let (dir, docker) = (dir.display(), format!("{DOCKER} -H unix://{}", socket.display()));
    rig.sandbox.spawn(
        &format!(
            "exec dockerd --data-root {dir}/data --exec-root {dir}/exec -p {dir}/pid -H unix://{} --iptables=false \
             --ip6tables=false --bridge=none --ip-forward=false --ip-masq=false --storage-driver vfs \
             --exec-opt native.cgroupdriver=cgroupfs",
            socket.display()
        ),
        &rig.path("dockerd.log"),
    );
    eventually("dockerd answers", || {
        rig.sandbox.command(&format!("{docker} version")).output().unwrap().status.success()
    });
    let image = Image::make(&rig.path("image"));
    rig.sandbox.run(&format!("{docker} import {} {}", image.tar().display(), rig.name));
    let name = format!("web-{}", rig.name);
    rig.sandbox.run(&format!(
        "{docker} run -d --name {name} --cgroup-parent /{0} --network=none --memory {MEMORY_OPTION} --cpus {CPUS} {0} \
         sleep 600",
        rig.name
    ));
    let look = format!("{docker} exec {name} sh -c '{LOOK}'");
    attach_and_detach(&mut rig, "docker", &name, |rig| Seen::new(rig.sandbox.run(&look)));
    rig.sandbox.run(&format!("{docker} rm -f {name}"));
    assert_eq!(rig.mounts(), 1);
}

#[test]
fn podman() {
    let Some(mut rig) = Rig::start(&["podman", "conmon", "runc"]) else { return };
    let dir = rig.path("podman");
    let dir = dir.display();
    let podman = format!(
        "podman --root {dir}/root --runroot {dir}/run --tmpdir {dir}/tmp --cgroup-manager=cgroupfs \
         --events-backend=file --storage-driver=vfs --runtime runc"
    );
    let image = Image::make(&rig.path("image"));
    rig.sandbox.run(&format!("{podman} import {} {}", image.tar().display(), rig.name));
    let name = format!("db-{}", rig.name);
    rig.sandbox.run(&format!(
        "{podman} run -d --name {name} --cgroup-parent /{0} --network=none --ulimit nofile=1024:1024 \
         --ulimit nproc=1000:1000 --memory {MEMORY_OPTION} --cpus {CPUS} {0} sleep 600",
        rig.name
    ));
    let look = format!("{podman} exec {name} sh -c '{LOOK}'");
    attach_and_detach(&mut rig, "podman", &name, |rig| Seen::new(rig.sandbox.run(&look)));
    rig.sandbox.run(&format!("{podman} rm -f -t 0 {name}"));
    assert_eq!(rig.mounts(), 1);
}

#[test]
fn containerd() {
    let Some(mut rig) = Rig::start(&["containerd", "ctr", "runc"]) else { return };
    let (dir, socket) = (rig.path("containerd"), rig.path("containerd.sock"));
    let (dir, socket) = (dir.display(), socket.display());
    let config = format!(
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         \n[grpc]\n  address = \"{socket}\"\n\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{dir}/opt\"\n"
    );
    let file = rig.path("config.toml");
    fs::write(&file, config).unwrap();
    let command = format!("exec containerd -c {}", file.display());
    rig.sandbox.spawn(&command, &rig.path("containerd.log"));
    let ctr = format!("ctr --address {socket}");
    eventually("containerd answers", || {
        rig.sandbox.command(&format!("{ctr} version")).output().unwrap().status.success()
    });
    let image = Image::make(&rig.path("image"));
    let name = format!("job-{}", rig.name);
    rig.sandbox.run(&format!(
        "{ctr} run -d --rootfs --memory-limit {MEMORY} --cpus {CPUS} --cgroup /{}/{name} {} {name} /bin/sleep 600",
        rig.name,
        image.path().display()
    ));
    let look = format!("{ctr} task exec --exec-id look {name} /bin/sh -c '{LOOK}'");
    attach_and_detach(&mut rig, "containerd", &name, |rig| Seen::new(rig.sandbox.run(&look)));
    rig.sandbox.run(&format!("{ctr} task kill --signal KILL {name}"));
    assert_eq!(rig.mounts(), 1);
}

#[test]
fn lxc() {
    let Some(mut rig) = Rig::start(&["lxc-execute", "lxc-attach"]) else { return };
    let image = Image::make(&rig.path("image"));
    let limits = if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        format!("lxc.cgroup2.memory.max = {MEMORY}\nlxc.cgroup2.cpu.max = 150000 100000\n")
    } else {
        format!(
            "lxc.cgroup.memory.limit_in_bytes = {MEMORY}\nlxc.cgroup.cpu.cfs_period_us = 100000\n\
             lxc.cgroup.cpu.cfs_quota_us = 150000\n"
        )
    };
    let (dir, config) = (rig.path("lxc"), rig.path("config"));
    fs::create_dir(&dir).unwrap();
    let name = format!("box-{}", rig.name);
    let text = format!(
        "lxc.uts.name = c1\nlxc.rootfs.path = dir:{}\nlxc.net.0.type = none\nlxc.mount.auto = proc:mixed sys:ro\n\
         lxc.apparmor.profile = unconfined\n{limits}",
        image.path().display()
    );
    fs::write(&config, text).unwrap();
    let (dir, config) = (dir.display(), config.display());
    let command = format!("exec lxc-execute -P {dir} -n {name} -f {config} -- /bin/sleep 600");
    rig.sandbox.spawn(&command, &rig.path("lxc.log"));
    let look = format!("lxc-attach -P {dir} -n {name} --clear-env -- /bin/sh -c '{LOOK}'");
    attach_and_detach(&mut rig, "lxc", &name, |rig| Seen::new(rig.sandbox.run(&look)));
    rig.sandbox.run(&format!("lxc-stop -k -P {dir} -n {name}"));
    assert_eq!(rig.mounts(), 1);
}
