//! `cgview attach`, `detach` and `status` on a real kernel, and what they are made of.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "for the tests of `doctor --repair`")]
mod daemon;

use std::{fs, os::fd::OwnedFd};

use cgview_attach::{Bound, Files, Maker, View, bind};
use cgview_testkit::{Spawn, Tree};
use daemon::Daemon;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

const MIB: u64 = 1 << 20;

/// The options of the mounts at a place, as a process sees them.
fn own_mounts(place: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words.filter(|words| words[4] == place).map(|words| words[5..].join(" ")).collect()
}

#[test]
fn a_hook_binds_all_files_below_a_root() {
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let Some(daemon) = Daemon::start() else { return };
    let cgroup = tree.cgroup("ct");
    cgroup.limit_memory(64 * MIB);
    let mountpoint = daemon.mountpoint();
    let process = Spawn::new().cgroup(&cgroup).container().run(move || {
        let root = || OwnedFd::from(fs::File::open("/").unwrap());
        // What the container has put there itself stays.
        mount_bind("/dev/null", "/proc/swaps").unwrap();
        let view = View::open(&mountpoint).unwrap();
        let outcomes = bind(&view, &Files::all(), Maker::Runtime, root());
        for (entry, outcome) in outcomes {
            let path = entry.path();
            let expected = match path.as_str() {
                "/proc/swaps" => Bound::Left,
                path if fs::metadata(path).is_err() => Bound::Absent,
                _ => Bound::Bound,
            };
            assert_eq!(outcome, Ok(expected), "{path}");
        }
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        assert!(meminfo.starts_with("MemTotal:          65536 kB\n"), "{meminfo}");
        let [meminfo] = own_mounts("/proc/meminfo").try_into().unwrap();
        assert!(meminfo.starts_with("ro,nosuid,nodev,noexec,noatime - fuse.cgview "), "{meminfo}");
        assert_eq!(fs::read_to_string("/proc/swaps").unwrap(), "");
        assert!(fs::read_dir("/sys/devices/system/cpu").unwrap().count() > 3);

        // Once more does nothing, and what belongs to `cgview attach` is told apart.
        let files = "meminfo,stat".parse().unwrap();
        unmount("/proc/stat", UnmountFlags::DETACH).unwrap();
        let outcomes = bind(&view, &files, Maker::Attach, root());
        let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(outcomes, [Ok(Bound::Already), Ok(Bound::Bound)]);
        let [stat] = own_mounts("/proc/stat").try_into().unwrap();
        assert!(stat.starts_with("ro,nosuid,nodev,noexec,noatime,nodiratime "), "{stat}");
        0
    });
    assert_eq!(process.wait(), 0);
}
