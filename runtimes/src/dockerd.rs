//! A Docker of a test's own.

use cgview_compliance::eventually;

use crate::{Image, Rig};

/// What it takes; not another client of that name.
pub const DOCKER: &[&str] = &["dockerd", "containerd", "runc", "/usr/bin/docker"];

/// Starts one without a network in the rig's sandbox, with these arguments, and an image of the rig's name. Gives the
/// client's command.
#[must_use]
pub fn dockerd(rig: &Rig, arguments: &str) -> String {
    let (dir, socket) = (rig.path("docker"), rig.path("docker.sock"));
    let (dir, socket) = (dir.display(), socket.display());
    rig.sandbox.spawn(
        &format!(
            "exec dockerd --data-root {dir}/data --exec-root {dir}/exec -p {dir}/pid -H unix://{socket} --iptables=false \
             --ip6tables=false --bridge=none --ip-forward=false --ip-masq=false --storage-driver vfs \
             --exec-opt native.cgroupdriver=cgroupfs {arguments}"
        ),
        &rig.path("dockerd.log"),
    );
    let docker = format!("/usr/bin/docker -H unix://{socket}");
    eventually("dockerd answers", || {
        rig.sandbox.command(&format!("{docker} version")).output().unwrap().status.success()
    });
    let image = Image::make(&rig.path("image"));
    rig.sandbox.run(&format!("{docker} import {} {}", image.tar().display(), rig.name));
    docker
}
