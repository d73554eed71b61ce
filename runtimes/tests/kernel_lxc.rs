//! LXC: the mount hook, and the view in the place of LXCFS's (`docs/runtimes.md`, "LXC, Incus, Proxmox").
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use cgview_runtimes::{Host as _, Image, LOOK, MEMORY, Rig, Seen};

/// LXC with a directory of its own, and a container's configuration.
struct Lxc {
    rig: Rig,
    hook: String,
}

/// How a limit is named: LXC 7 knows those of v2 only, and before 4 only those of v1.
fn limits() -> String {
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        format!("lxc.cgroup2.memory.max = {MEMORY}\nlxc.cgroup2.cpu.max = 150000 100000\n")
    } else {
        format!(
            "lxc.cgroup.memory.limit_in_bytes = {MEMORY}\nlxc.cgroup.cpu.cfs_period_us = 100000\n\
             lxc.cgroup.cpu.cfs_quota_us = 150000\n"
        )
    }
}

impl Lxc {
    fn start() -> Option<Lxc> {
        let rig = Rig::start(&["lxc-execute"])?;
        let directory = rig.path("root/usr/share/lxc/config/common.conf.d");
        fs::create_dir_all(&directory).unwrap();
        let root = rig.install("lxc");
        let file = root.join("usr/share/lxc/config/common.conf.d/10-cgview.conf");
        let hook = fs::read_to_string(file).unwrap();
        let _ = Image::make(&rig.path("image"));
        fs::create_dir(rig.path("lxc")).unwrap();
        Some(Lxc { rig, hook })
    }

    /// Runs what the container is to run.
    fn run(&self, more: &str) -> String {
        let image = self.rig.path("image");
        let config = self.rig.path("config");
        let text = format!(
            "lxc.uts.name = c1\nlxc.rootfs.path = dir:{}\nlxc.net.0.type = none\nlxc.mount.auto = proc:mixed sys:ro\n\
             lxc.cgroup.dir = {}\nlxc.apparmor.profile = unconfined\n{}{more}",
            image.display(),
            self.rig.name,
            limits()
        );
        fs::write(&config, text).unwrap();
        fs::write(image.join("look"), LOOK).unwrap();
        self.rig.sandbox.run(&format!(
            "lxc-execute -P {} -n c1 -f {} -- /bin/busybox sh /look",
            self.rig.path("lxc").display(),
            config.display()
        ))
    }
}

#[test]
fn the_mount_hook_gives_the_view() {
    let Some(mut lxc) = Lxc::start() else { return };
    Seen::new(lxc.run("")).is_the_hosts();
    Seen::new(lxc.run(&lxc.hook)).is_own();
    assert_eq!(lxc.rig.mounts(), 1);
    // It starts without a daemon, too.
    lxc.rig.kill_daemon();
    Seen::new(lxc.run(&lxc.hook)).is_the_hosts();
}

// What the package of LXCFS has in common.conf.d, with the view in its place.
#[test]
fn the_hook_of_lxcfs_gives_the_view() {
    let hook = "/usr/share/lxcfs/lxc.mount.hook";
    if !fs::exists(hook).unwrap() {
        cgview_testkit::skip("needs the package lxcfs");
        return;
    }
    let Some(lxc) = Lxc::start() else { return };
    let mountpoint = lxc.rig.mountpoint();
    lxc.rig.sandbox.run(&format!(
        "mkdir -p /var/lib/lxcfs && mount --bind {} /var/lib/lxcfs",
        mountpoint.display()
    ));
    let seen = lxc.run(&format!("lxc.hook.mount = {hook}\n"));
    let seen = Seen::new(seen);
    assert_eq!(seen.memory(), MEMORY);
    assert!(seen.files().contains(&"/proc/meminfo"), "{:?}", seen.files());
}
