//! A capture says what the host said.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use cgview_core::{Snapshot, view::Parts};
use cgview_host::{Error, Host};
use cgview_testkit::{FakeHost, FakeProcess};

/// All that is known of a process and its container.
fn known(root: &Path, pid: u32) -> String {
    let host = Host::at(root).unwrap();
    let caller = host.caller(pid).unwrap();
    let mut snapshot = Snapshot::default();
    caller.container.sample(&host, Parts::ALL, &mut snapshot).unwrap();
    let container = &caller.container;
    format!(
        "{} {:?} {:?} {:?}\n{:#?}\n{:#?}\n{:#?}",
        container.id(),
        container.init(),
        container.started(),
        caller.reader,
        host.facts().unwrap(),
        host.hierarchies(),
        snapshot,
    )
}

/// Asserts that two texts are equal, and shows where they are not.
#[track_caller]
fn assert_same(left: &str, right: &str) {
    let differ = left.lines().zip(right.lines()).find(|(left, right)| left != right);
    assert_eq!(differ, None);
    assert_eq!(left.len(), right.len());
}

/// A hybrid host with a container of two levels in it: its init in a cgroup namespace of its own, and
/// another process in a cgroup below.
fn host() -> FakeHost {
    let mut fake = FakeHost::new();
    fake.mount_v1("/cg/my memory", "memory").mount_v1("/cg/cpuset", "cpuset,noprefix");
    fake.mount_v2("/cg/unified");
    let mounts = "50 1 0:1 /slice/ct /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let init = FakeProcess {
        pid: 200,
        ppid: 1,
        start: 5000,
        nspid: &[200, 1],
        cgroup: "4:memory:/slice/ct/a\n3:cpuset:/slice\n2:name=systemd:/x\n0::/\n",
        pid_namespace: 4_026_532_100,
        cgroup_namespace: 4_026_532_200,
        mountinfo: mounts,
        ..FakeProcess::default()
    };
    fake.process(&init);
    let cgroup = "4:memory:/slice/ct/b\n3:cpuset:/slice\n2:name=systemd:/x\n0::/\n";
    fake.process(&FakeProcess {
        pid: 300,
        ppid: 200,
        nspid: &[300, 7],
        start: 6000,
        cgroup,
        state: 'R',
        ..init
    });
    fake.link("/proc/300/ns/time", "time:[4026532300]");
    fake.link("/proc/300/ns/time_for_children", "time:[4026532300]");
    fake.file("/proc/300/timens_offsets", "monotonic 0 0\nboottime -3 500000000\n");
    for (dir, limit) in [("/cg/my memory/slice", 4096), ("/cg/my memory/slice/ct", 8192)] {
        fake.files(
            dir,
            &[
                ("memory.usage_in_bytes", "100\n"),
                ("memory.limit_in_bytes", &format!("{limit}\n")),
                ("memory.stat", "total_cache 5\ntotal_swap 7\n"),
                ("memory.memsw.usage_in_bytes", "107\n"),
                ("memory.memsw.limit_in_bytes", "9000\n"),
                ("memory.kmem.usage_in_bytes", "3\n"),
            ],
        );
    }
    fake.file("/cg/my memory/slice/ct/a/tasks", "200\n")
        .file("/cg/my memory/slice/ct/b/tasks", "300\n");
    fake.files("/cg/cpuset/slice", &[("effective_cpus", "1\n"), ("effective_mems", "0\n")]);
    fake.file("/cg/unified/cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\n");
    let sys = "/sys/devices/system";
    fake.file(&format!("{sys}/node/node0/cpulist"), "0-1\n");
    fake.file(&format!("{sys}/node/node0/meminfo"), "Node 0 MemTotal:  1048576 kB\n");
    fake.file(&format!("{sys}/cpu/cpu1/topology/core_id"), "1\n");
    fake.file(&format!("{sys}/cpu/cpu1/cache/index0/size"), "32K\n");
    fake.file(&format!("{sys}/cpu/cpu1/crash_notes"), "secret\n");
    fake.link(&format!("{sys}/cpu/cpu1/node0"), "../../node/node0");
    fake.file("/proc/loadavg", "0.10 0.20 0.30 2/345 6789\n").file("/proc/stat", "cpu 1 2\n");
    fake
}

#[test]
fn a_capture_gives_the_same_view() {
    let fake = host();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("new/capture");
    Host::at(fake.path()).unwrap().capture(300, &to).unwrap();
    let before = known(fake.path(), 300);
    assert_same(&known(&to, 300), &before);
    for expected in ["/slice/ct", "boottime: -2500000", "running: 1", "total: 2", "last_pid: 7"] {
        assert!(before.contains(expected), "{expected}: {before}");
    }

    let sys = to.join("sys/devices/system");
    assert_eq!(fs::read_to_string(sys.join("cpu/cpu1/topology/core_id")).unwrap(), "1\n");
    assert!(Host::at(&to).unwrap().has("/sys/devices/system/cpu/cpu1/node0/cpulist"));
    assert!(!sys.join("cpu/cpu1/crash_notes").exists(), "the view does not have it");
    // A capture of the capture is the same again.
    let again = dir.path().join("again");
    Host::at(&to).unwrap().capture(300, &again).unwrap();
    assert_same(&known(&again, 300), &before);
}

#[test]
fn nothing_is_written_over() {
    let fake = host();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("kept"), "").unwrap();
    let error = Host::at(fake.path()).unwrap().capture(300, dir.path()).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
