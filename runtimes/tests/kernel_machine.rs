//! Containers of engines that systemd runs, with Debian's package of cgview: Docker with CDI and the wrapper, LXC, Incus,
//! systemd-nspawn (`docs/runtimes.md`).

use std::fs;

use cgview_compliance::eventually;
use cgview_runtimes::{
    CPUS, DOCKER, Host as _, Image, LOOK, MEMORY, MEMORY_OPTION, MOUNTPOINT, Package, Seen,
    attach_and_detach, status,
};
use serde_json::{Map, Value};

/// Has the hook in a file wait for as long as it takes an emulated machine.
fn wait_for_ever(package: &Package, file: &str) {
    let waits = r#"s/"oci-hook"/&, "--deadline", "300000"/; s/"timeout": 30/"timeout": 600/; s/ lxc-hook/& --deadline 300000/"#;
    package.run(&format!("sed -i '{waits}' {file} && grep 300000 {file}"));
}

#[test]
fn docker_has_a_device_and_a_runtime() {
    let Some(mut package) = Package::install(DOCKER) else { return };
    // What Docker's socket starts has it, and all that these start: the wrapper, too.
    package.run("systemctl set-environment CGVIEW_DEADLINE=300000");
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

    let file = "/etc/docker/daemon.json";
    let before = fs::read_to_string(file).unwrap();
    let said = package.run("cgview install --runtime docker");
    assert!(said.ends_with(": systemctl reload docker (containers that run are not disturbed)\n"));
    // What was there is in it still.
    let options: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(options.get("default-runtime").unwrap(), "cgview");
    for (name, value) in serde_json::from_str::<Map<_, _>>(&before).unwrap() {
        assert_eq!(options.get(&name), Some(&value), "{name}");
    }
    package.run("systemctl reload docker");
    eventually("the wrapper is the default", || {
        package.run("docker info --format '{{.DefaultRuntime}}'") == "cgview\n"
    });
    start(&package, "");
    Seen::new(package.run(&format!("docker exec web sh -c '{LOOK}'"))).is_own();
    package.replace_daemon();
    look(&package).is_own();
    package.run("docker rm -f web");
    let said = package.run("cgview uninstall --runtime docker");
    assert!(said.contains("\nDocker: systemctl restart docker"), "{said}");
    assert_eq!(fs::read_to_string(file).unwrap(), before);
    assert_eq!(package.run("find /etc -path /etc/systemd -prune -o -name '*cgview*' -print"), "");
    package.run("systemctl restart docker");

    start(&package, "");
    attach_and_detach(&mut package, "docker", "web", look);
    package.run("docker rm -f web && systemctl unset-environment CGVIEW_DEADLINE");
    assert_eq!(package.mounts().len(), 1);
}

#[test]
fn lxc_has_a_hook() {
    let Some(mut package) = Package::install(&["lxc-start"]) else { return };
    let image = Image::make(&package.path("image"));
    // As where LXCFS is not installed: Debian's Incus has it installed.
    let lxcfs = "/usr/share/lxc/config/common.conf.d/00-lxcfs.conf";
    package.run(&format!("[ ! -e {lxcfs} ] || mv {lxcfs} /run/"));
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
    package.run(&format!("[ ! -e /run/00-lxcfs.conf ] || mv /run/00-lxcfs.conf {lxcfs}"));
    assert_eq!(package.mounts().len(), 1);
}

// Unprivileged, as Incus has it by itself, and by the hook of LXCFS, without which Debian's Incus is not installed.
#[test]
fn incus_has_the_view_in_the_place_of_lxcfs() {
    let Some(mut package) = Package::install(&["/usr/libexec/incus/incusd"]) else { return };
    let has = |fstype: &str| {
        let mounts = fs::read_to_string("/proc/1/mounts").unwrap();
        let at = mounts.lines().filter(|line| line.contains(" /var/lib/lxcfs "));
        at.map(|line| line.split(' ').nth(2).unwrap()).eq([fstype])
    };
    // LXCFS does not tell when it is ready.
    eventually("LXCFS is mounted", || has("fuse.lxcfs"));
    let said = package.run("cgview install --runtime lxc");
    let restart = "systemctl daemon-reload; systemctl restart lxcfs";
    assert!(said.contains(&format!("\nLXC: {restart}; then ")), "{said}");
    package.run(&format!("set -e; {restart}"));
    assert!(has("fuse.cgview"));

    package.run("systemctl start incus");
    let preseed = package.path("preseed");
    let text = "storage_pools: [{name: default, driver: dir}]\n\
                profiles: [{name: default, devices: {root: {path: /, pool: default, type: disk}}}]\n";
    fs::write(&preseed, text).unwrap();
    package.run(&format!("incus admin init --preseed < {}", preseed.display()));
    let image = Image::make(&package.path("rootfs"));
    fs::create_dir(image.path().join("sbin")).unwrap();
    fs::write(image.path().join("sbin/init"), "#!/bin/sh\nexec sleep infinity\n").unwrap();
    fs::write(package.path("metadata.yaml"), "architecture: x86_64\ncreation_date: 1\n").unwrap();
    let dir = image.path().parent().unwrap().display();
    package.run(&format!(
        "cd {dir} && chmod 755 rootfs/sbin/init && tar -cf image.tar metadata.yaml rootfs && \
         incus image import image.tar --alias bb"
    ));
    let start = |package: &Package, more: &str| {
        package.run(&format!(
            "incus launch bb web -c limits.memory=256MiB -c limits.cpu.allowance=150ms/100ms {more}"
        ));
    };
    start(&package, "");
    Seen::new(package.run(&format!("incus exec web -- sh -c '{LOOK}'"))).is_own();
    let pid = status(&package, "web").unwrap().get("pid").unwrap().as_u64().unwrap();
    let users = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert!(users.split_whitespace().eq(["0", "1000000", "1000000000"]), "{users}");
    let look = |package: &Package| package.look_into("web");
    package.replace_daemon();
    look(&package).is_own();
    package.run("incus delete --force web");

    start(&package, "-c raw.lxc='lxc.hook.mount ='");
    attach_and_detach(&mut package, "lxc", "web", look);
    package.run("incus delete --force web");
    package.run("systemctl stop incus.service incus.socket");
    let said = package.run("cgview uninstall --runtime lxc");
    assert!(said.contains(restart), "{said}");
    package.run(&format!("set -e; {restart}"));
    eventually("LXCFS is mounted again", || has("fuse.lxcfs"));
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
