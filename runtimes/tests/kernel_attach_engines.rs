//! `cgview attach` for containers that engines have started without a view (`docs/attach.md`).

use std::fs;

use cgview_compliance::eventually;
use cgview_runtimes::{
    CPUS, DOCKER, Image, LOOK, MEMORY, MEMORY_OPTION, Rig, Seen, attach_and_detach, dockerd,
};

#[test]
fn docker() {
    let Some(mut rig) = Rig::start(DOCKER) else { return };
    let docker = dockerd(&rig, "");
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
