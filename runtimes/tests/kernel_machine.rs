//! Containers of engines that systemd runs, with Debian's package of cgview: Docker with CDI, LXC, systemd-nspawn
//! (`docs/runtimes.md`).

use std::fs;

use cgview_compliance::eventually;
use cgview_runtimes::{
    CPUS, DOCKER, Host as _, Image, LOOK, MEMORY, MEMORY_OPTION, MOUNTPOINT, Package, Seen,
    attach_and_detach, status,
};

/// Has the hook in a file wait for as long as it takes an emulated machine.
fn wait_for_ever(package: &Package, file: &str) {
    let waits = r#"s/"oci-hook"/&, "--deadline", "300000"/; s/"timeout": 30/"timeout": 600/; s/ lxc-hook/& --deadline 300000/"#;
    package.run(&format!("sed -i '{waits}' {file} && grep 300000 {file}"));
}

#[test]
fn docker_has_a_device() {
    let Some(mut package) = Package::install(DOCKER) else { return };
    let version = package.run("docker version --format '{{.Server.Version}}'");
    let major: u32 = version.split('.').next().unwrap().parse().unwrap();
    assert!(major >= 28, "{version}");
    let image = Image::make(&package.path("image"));
    package.run(&format!("docker import {} bb", image.tar().display()));
    let start = |package: &Package, more: &str| {
        let limits = format!("--cpus {CPUS} --memory {MEMORY_OPTION}");
        package.run(&format!(
            "docker run -d --name web --network=none {limits} {more} bb sleep infinity"
        ));
    };

    let device = "/etc/cdi/cgview.json";
    package.run(&format!("cgview cdi generate --output {device}"));
    wait_for_ever(&package, device);
    eventually("Docker knows the device", || {
        package.run("docker info --format '{{json .}}'").contains("cgview.dev/view=all")
    });
    start(&package, "--device cgview.dev/view=all");
    let look = |package: &Package| package.look_into("web");
    Seen::new(package.run(&format!("docker exec web sh -c '{LOOK}'"))).is_own();
    package.replace_daemon();
    look(&package).is_own();
    package.run("docker rm -f web");

    start(&package, "");
    attach_and_detach(&mut package, "docker", "web", look);
    package.run("docker rm -f web");
    fs::remove_file(device).unwrap();
    assert_eq!(package.mounts().len(), 1);
}

#[test]
fn lxc_has_a_hook() {
    let Some(mut package) = Package::install(&["lxc-start"]) else { return };
    let image = Image::make(&package.path("image"));
    package.run("cgview install --runtime lxc");
    let hook = "/usr/share/lxc/config/common.conf.d/10-cgview.conf";
    wait_for_ever(&package, hook);
    let start = |package: &Package, more: &str| {
        let config = format!(
            "lxc.include = /usr/share/lxc/config/common.conf\nlxc.uts.name = web\nlxc.rootfs.path = dir:{}\n\
             lxc.net.0.type = empty\nlxc.init.cmd = /bin/sleep infinity\nlxc.cgroup2.memory.max = {MEMORY}\n\
             lxc.cgroup2.cpu.max = 150000 100000\n{more}",
            image.path().display()
        );
        fs::create_dir_all("/var/lib/lxc/web").unwrap();
        fs::write("/var/lib/lxc/web/config", config).unwrap();
        let log = "/run/lxc-web.log";
        package.run(&format!("lxc-start -n web -l INFO -o {log} || {{ cat {log} >&2; false; }}"));
        package.run("lxc-wait -n web -s RUNNING -t 60");
    };
    let look = |package: &Package| {
        Seen::new(package.run(&format!("lxc-attach -n web --clear-env -- /bin/sh -c '{LOOK}'")))
    };
    start(&package, "");
    look(&package).is_own();
    package.replace_daemon();
    look(&package).is_own();
    package.run("lxc-stop -k -n web");

    start(&package, "lxc.hook.mount =\n");
    attach_and_detach(&mut package, "lxc", "web", look);
    package.run("lxc-stop -k -n web && rm -r /var/lib/lxc/web");
    fs::remove_file(hook).unwrap();
    assert_eq!(package.mounts().len(), 1);
}

#[test]
fn nspawn_binds_and_is_attached_to() {
    let Some(mut package) = Package::install(&["systemd-nspawn"]) else { return };
    let image = Image::make(&package.path("image"));
    fs::write(image.path().join("etc/os-release"), "ID=test\n").unwrap();
    let start = |package: &Package, more: &str| {
        package.run(&format!(
            "systemd-run --unit web --collect --service-type=notify systemd-nspawn --quiet --machine web \
             --directory {} --property MemoryMax={MEMORY} --property CPUQuota=150% {more} \
             /bin/sleep infinity",
            image.path().display()
        ));
        eventually("it is found", || status(package, "web").is_some());
    };
    let end = |package: &Package| {
        package.run("machinectl terminate web");
        eventually("it has ended", || status(package, "web").is_none());
    };
    let look = |package: &Package| package.look_into("web");
    let sys = "/sys/devices/system/cpu";
    let files = format!(
        "--bind-ro={MOUNTPOINT} $(find {MOUNTPOINT}/proc -type f -printf ' --bind-ro={MOUNTPOINT}/proc/%P:/proc/%P') \
         --bind-ro={MOUNTPOINT}{sys}:{sys}"
    );
    start(&package, &files);
    look(&package).is_own();
    // Nothing is mounted over it: FUSE_SUPER_MAGIC.
    let pid = status(&package, "web").unwrap().get("pid").unwrap().as_u64().unwrap();
    assert_eq!(package.run(&format!("stat -f -c %t /proc/{pid}/root{sys}")), "65735546\n");
    package.replace_daemon();
    look(&package).is_own();
    end(&package);

    start(&package, "");
    attach_and_detach(&mut package, "nspawn", "web", look);
    end(&package);

    // The service attaches to each that is started, and what is attached outlives it.
    package.run("systemctl start cgview-attach.service");
    start(&package, "");
    eventually("it has its view", || look(&package).memory() == MEMORY);
    look(&package).is_own();
    package.run("systemctl stop cgview-attach.service");
    look(&package).is_own();
    end(&package);
    assert_eq!(package.mounts().len(), 1);
}
