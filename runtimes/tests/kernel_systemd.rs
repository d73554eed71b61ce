//! Containers on a machine with systemd and Debian's package of cgview: Docker with CDI, LXC, systemd-nspawn
//! (`docs/runtimes.md`).

use std::fs;

use cgview_compliance::eventually;
use cgview_runtimes::{
    CPUS, DOCKER, Host as _, Image, LOOK, MEMORY, MEMORY_OPTION, MOUNTPOINT, Package, Seen,
    attach_and_detach, status,
};

const OPTIONS: &str = "--network=none --cpus";

#[test]
fn docker_has_a_device() {
    let Some(mut package) = Package::install(DOCKER) else { return };
    let version = package.run("docker version --format '{{.Server.Version}}'");
    let major: u32 = version.split('.').next().unwrap().parse().unwrap();
    if major < 28 {
        cgview_testkit::skip("needs Docker 28");
        return;
    }
    let image = Image::make(&package.path("image"));
    package.run(&format!("docker import {} bb", image.tar().display()));
    let options = format!("{OPTIONS} {CPUS} --memory {MEMORY_OPTION}");
    let device = "--device cgview.dev/view=all";
    let run = |package: &Package, more: &str| {
        Seen::new(package.run(&format!("docker run --rm {options} {more} bb sh -c '{LOOK}'")))
    };

    package.run("mkdir -p /etc/cdi && cgview cdi generate --output /etc/cdi/cgview.json");
    eventually("Docker knows the device", || {
        package.run("docker info --format '{{json .}}'").contains("cgview.dev/view=all")
    });
    run(&package, device).is_own();
    run(&package, "").is_the_hosts();
    package.run(&format!("docker run -d --name web {options} {device} bb sleep 3600"));
    let look =
        |package: &Package| Seen::new(package.run(&format!("docker exec web sh -c '{LOOK}'")));
    look(&package).is_own();
    package.replace_daemon();
    look(&package).is_own();
    package.run("docker rm -f web");

    package.run(&format!("docker run -d --name web {options} bb sleep 3600"));
    attach_and_detach(&mut package, "docker", "web", look);
    package.run("docker rm -f web");

    package.run("cgview install --runtime docker && systemctl reload docker");
    eventually("it is the default", || {
        package.run("docker info --format '{{.DefaultRuntime}}'") == "cgview\n"
    });
    run(&package, "").is_own();
    assert_eq!(package.mounts().len(), 1);
    package.run("cgview uninstall --runtime docker && systemctl reload docker");
    package.purge();
}

#[test]
fn lxc_has_a_hook() {
    let Some(mut package) = Package::install(&["lxc-start"]) else { return };
    let image = Image::make(&package.path("image"));
    package.run("cgview install --runtime lxc");
    let start = |package: &Package, more: &str| {
        let config = format!(
            "lxc.include = /usr/share/lxc/config/common.conf\nlxc.uts.name = web\nlxc.rootfs.path = dir:{}\n\
             lxc.net.0.type = empty\nlxc.init.cmd = /bin/sleep 3600\nlxc.cgroup2.memory.max = {MEMORY}\n\
             lxc.cgroup2.cpu.max = 150000 100000\n{more}",
            image.path().display()
        );
        fs::create_dir_all("/var/lib/lxc/web").unwrap();
        fs::write("/var/lib/lxc/web/config", config).unwrap();
        package.run(
            "lxc-start -n web -l DEBUG -o /run/lxc-web.log || { cat /run/lxc-web.log >&2; false; }",
        );
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
    package.run("lxc-stop -k -n web && lxc-destroy -n web || rm -r /var/lib/lxc/web");
    assert_eq!(package.mounts().len(), 1);
    package.purge();
}

#[test]
fn nspawn_is_attached_to() {
    let Some(mut package) = Package::install(&["systemd-nspawn"]) else { return };
    let image = Image::make(&package.path("image"));
    fs::write(image.path().join("etc/os-release"), "ID=test\n").unwrap();
    let start = |package: &Package| {
        package.run(&format!(
            "systemd-run --unit web --service-type=notify systemd-nspawn --quiet --machine web --directory {} \
             --private-network --property MemoryMax={MEMORY} --property CPUQuota=150% /bin/sleep 3600",
            image.path().display()
        ));
        eventually("it is found", || status(package, "web").is_some());
    };
    // A process of the container's cgroup, in its namespaces.
    let look = |package: &Package| {
        let found = status(package, "web").unwrap();
        let pid = found.get("pid").unwrap().as_u64().unwrap();
        Seen::new(package.run(&format!(
            "echo $$ > /sys/fs/cgroup$(sed 's/^0:://' /proc/{pid}/cgroup)/cgroup.procs && \
             exec nsenter --all --target {pid} /bin/sh -c '{LOOK}'"
        )))
    };
    start(&package);
    attach_and_detach(&mut package, "nspawn", "web", look);
    package.run("machinectl terminate web");
    eventually("it has ended", || status(&package, "web").is_none());

    // The service attaches to each that is started.
    package.run("systemctl start cgview-attach.service");
    package.run("systemctl reset-failed web.service 2>/dev/null || true");
    start(&package);
    eventually("it has its view", || look(&package).memory() == MEMORY);
    look(&package).is_own();
    package.run("machinectl terminate web");
    eventually("it has ended", || status(&package, "web").is_none());
    assert_eq!(package.mounts().len(), 1, "{MOUNTPOINT}");
    package.purge();
}
