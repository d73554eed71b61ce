//! Whose view a process sees, told by the files of hosts made by hand. `kernel_identity.rs` asks a real
//! kernel the same.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cgview_core::{Usec, snapshot::Controller, units::Ticks};
use cgview_host::{Caller, Host};
use cgview_testkit::{FakeHost, FakeProcess};

/// A unified host with a container's init, 200, and another process of it, 300.
///
/// The init was started by 50, a runtime that is in the host's namespaces.
struct Case {
    fake: FakeHost,
}

const PID: u64 = 4_026_532_100;
const CGROUP: u64 = 4_026_532_200;

fn init(cgroup: &str) -> FakeProcess<'_> {
    FakeProcess {
        pid: 200,
        ppid: 50,
        start: 5000,
        nspid: &[200, 1],
        cgroup,
        pid_namespace: PID,
        ..FakeProcess::default()
    }
}

fn member(cgroup: &str) -> FakeProcess<'_> {
    FakeProcess { pid: 300, ppid: 50, start: 6000, nspid: &[300, 7], ..init(cgroup) }
}

impl Case {
    fn new() -> Case {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        fake.process(&FakeProcess {
            pid: 50,
            ppid: 1,
            cgroup: "0::/shim\n",
            ..FakeProcess::default()
        });
        Case { fake }
    }

    fn process(self, process: &FakeProcess<'_>) -> Case {
        self.fake.process(process);
        let cgroup = process.cgroup.trim_start_matches("0::").trim_end();
        self.fake.file(&format!("/sys/fs/cgroup{cgroup}/cgroup.type"), "domain\n");
        self
    }

    /// Lists a process in a cgroup, as a new one does not have to be.
    fn procs(self, cgroup: &str, pids: &str) -> Case {
        self.fake.file(&format!("/sys/fs/cgroup{cgroup}/cgroup.procs"), pids);
        self
    }

    fn caller(&self, pid: u32) -> Caller {
        Host::at(self.fake.path()).unwrap().caller(pid).unwrap()
    }

    /// The cgroup of the container of 300.
    fn cgroup(&self) -> String {
        let host = Host::at(self.fake.path()).unwrap();
        let container = host.caller(300).unwrap().container;
        container.cgroup(&host, Controller::Memory).unwrap().to_owned()
    }
}

fn start(ticks: u64) -> Option<Usec> {
    Some(Ticks(ticks).usec())
}

// /ct                  the container
// ├─ init.scope        systemd
// └─ system.slice/app  <- asks
#[test]
fn below_the_cgroup_of_init_the_container_is_that_of_init() {
    let case = Case::new()
        .process(&init("0::/ct/init.scope\n"))
        .process(&member("0::/ct/system.slice/app\n"));
    assert_eq!(case.cgroup(), "/ct");
    let container = case.caller(300).container;
    assert_eq!((container.init(), container.started()), (Some(200), start(5000)));
    assert_eq!(container.id(), case.caller(200).container.id());
    assert!(!container.is_host());
}

#[test]
fn only_names_that_host_an_init_are_cut() {
    for (init_cgroup, member_cgroup, expected) in [
        ("0::/docker/a\n", "0::/docker/a/b/c\n", "/docker/a"),
        ("0::/docker/a/init\n", "0::/docker/a/b\n", "/docker/a"),
        ("0::/lxc.payload.a/.lxc\n", "0::/lxc.payload.a/user.slice\n", "/lxc.payload.a"),
        ("0::/a/supervise\n", "0::/a/b\n", "/a"),
        // The member is not below its init, and no namespace says more.
        ("0::/a/initial\n", "0::/a/b\n", "/a/b"),
    ] {
        let case = Case::new().process(&init(init_cgroup)).process(&member(member_cgroup));
        assert_eq!(case.cgroup(), expected, "{init_cgroup}");
    }
}

// A container whose cgroup happens to have such a name: its namespace begins there.
#[test]
fn a_leaf_that_is_the_root_of_inits_cgroup_namespace_is_not_cut() {
    let mounts = "50 23 0:38 /pods/init /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
    let init =
        FakeProcess { cgroup_namespace: CGROUP, mountinfo: mounts, ..init("0::/pods/init\n") };
    let member = FakeProcess { pid: 300, ppid: 200, nspid: &[300, 7], ..init.clone() };
    let case = Case::new().process(&init).process(&member);
    assert_eq!(case.cgroup(), "/pods/init");
}

// An init that has a cgroup namespace for itself may go where it likes below its root.
#[test]
fn an_init_that_moved_stays_in_its_container() {
    let mounts = "50 23 0:38 /ct /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
    let init =
        FakeProcess { cgroup_namespace: CGROUP, mountinfo: mounts, ..init("0::/ct/deep/down\n") };
    let member = FakeProcess {
        pid: 300,
        ppid: 200,
        nspid: &[300, 7],
        cgroup: "0::/ct/app\n",
        ..init.clone()
    };
    let case = Case::new().process(&init).process(&member);
    assert_eq!(case.cgroup(), "/ct");
    assert_eq!(case.caller(200).container.id(), case.caller(300).container.id());
    assert_eq!(case.caller(300).container.started(), start(5000));
}

// Docker in Docker without a cgroup namespace of the inner container: the outer one's begins too high.
//
//     /outer               its cgroup namespace
//     └─ docker/inner      200, of its own pid namespace, started by 50 of the outer container
#[test]
fn a_container_in_a_container_is_the_inner_one() {
    let mounts = "50 23 0:38 /outer /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
    let outer = FakeProcess {
        pid: 50,
        ppid: 1,
        cgroup: "0::/outer/init\n",
        cgroup_namespace: CGROUP,
        mountinfo: mounts,
        ..FakeProcess::default()
    };
    let inner = FakeProcess {
        cgroup_namespace: CGROUP,
        mountinfo: mounts,
        nspid: &[200, 90, 1],
        ..init("0::/outer/docker/inner\n")
    };
    let case = Case::new().process(&outer).process(&inner);
    let host = Host::at(case.fake.path()).unwrap();
    let container = host.caller(200).unwrap().container;
    assert_eq!(container.cgroup(&host, Controller::Memory), Some("/outer/docker/inner"));
}

// A pod of Kubernetes with shareProcessNamespace, on v1 or with the host's cgroup namespace: pid 1 is the
// pause container's.
//
//     /pod/pause  200, the init
//     /pod/app    250, and 300, which asks
#[test]
fn in_a_shared_pid_namespace_the_container_is_the_callers_own_cgroup() {
    let older = FakeProcess { pid: 250, start: 5500, nspid: &[250, 6], ..member("0::/pod/app\n") };
    let case = Case::new()
        .process(&init("0::/pod/pause\n"))
        .process(&older)
        .process(&member("0::/pod/app\n"))
        .procs("/pod/app", "300\n250\n");
    assert_eq!(case.cgroup(), "/pod/app");
    let container = case.caller(300).container;
    assert_eq!((container.init(), container.started()), (None, start(5500)));
    assert_eq!(container.id().to_string(), "cgroup:unified=/pod/app");
}

#[test]
fn in_a_shared_pid_namespace_the_cgroup_namespace_tells_where_the_container_begins() {
    let mounts = "50 23 0:38 /pod/app /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
    let deep = FakeProcess {
        cgroup_namespace: CGROUP,
        mountinfo: mounts,
        ..member("0::/pod/app/system.slice/x\n")
    };
    let case = Case::new()
        .process(&init("0::/pod/pause\n"))
        .process(&deep)
        .procs("/pod/app/system.slice/x", "300\n");
    assert_eq!(case.cgroup(), "/pod/app");
}

#[test]
fn a_process_of_the_host_is_in_its_own_cgroup_and_has_no_age() {
    let process =
        FakeProcess { pid: 300, ppid: 1, cgroup: "0::/user.slice/a\n", ..FakeProcess::default() };
    let case = Case::new().process(&process);
    assert_eq!(case.cgroup(), "/user.slice/a");
    let container = case.caller(300).container;
    assert_eq!((container.init(), container.started()), (None, None));
    // The host's first process is no container's init, though it is number 1 of its namespace.
    assert_eq!(case.caller(1).container.init(), None);
}

#[test]
fn with_the_hosts_pids_the_cgroup_namespace_makes_the_container() {
    let process = FakeProcess {
        pid: 300,
        ppid: 50,
        start: 6000,
        cgroup: "0::/docker/a/b\n",
        cgroup_namespace: CGROUP,
        mountinfo: "50 23 0:38 /docker/a /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
        ..FakeProcess::default()
    };
    let case = Case::new().process(&process).procs("/docker/a", "").procs("/docker/a/b", "300\n");
    assert_eq!(case.cgroup(), "/docker/a");
    assert_eq!(case.caller(300).container.started(), start(6000));
}

#[test]
fn on_v1_each_hierarchy_has_its_own_answer() {
    let mut fake = FakeHost::new();
    fake.mount_v1("/cg/memory", "memory").mount_v1("/cg/cpu", "cpu,cpuacct");
    fake.file("/cg/memory/ct/cgroup.procs", "").file("/cg/cpu/b/cgroup.procs", "");
    fake.process(&init("2:memory:/ct/init.scope\n1:cpu,cpuacct:/\n"));
    fake.process(&member("2:memory:/ct/a\n1:cpu,cpuacct:/b\n"));
    let host = Host::at(fake.path()).unwrap();
    let container = host.caller(300).unwrap().container;
    assert_eq!(container.cgroup(&host, Controller::Memory), Some("/ct"));
    assert_eq!(container.cgroup(&host, Controller::Cpu), Some("/"), "it is below its init's there");
    assert_eq!(container.init(), Some(200));

    fake.process(&init("2:memory:/ct/init.scope\n1:cpu,cpuacct:/c\n"));
    let host = Host::at(fake.path()).unwrap();
    let container = host.caller(300).unwrap().container;
    assert_eq!(container.cgroup(&host, Controller::Memory), Some("/ct"));
    assert_eq!(container.cgroup(&host, Controller::Cpu), Some("/b"));
    assert_eq!(container.id().to_string(), "cgroup:cpu=/b:memory=/ct");
}

#[test]
fn a_pid_namespace_without_a_visible_init_leaves_the_callers_own_cgroup() {
    let case = Case::new().process(&member("0::/ct/app\n")).procs("/ct/app", "300\n");
    assert_eq!(case.cgroup(), "/ct/app");
}

#[test]
fn callers_of_one_container_share_it() {
    let case = Case::new().process(&init("0::/ct\n")).process(&member("0::/ct/a\n"));
    let host = Host::at(case.fake.path()).unwrap();
    let first = host.caller(300).unwrap().container;
    assert!(std::sync::Arc::ptr_eq(&first, &host.caller(200).unwrap().container));
    assert!(!std::sync::Arc::ptr_eq(&first, &host.caller(1).unwrap().container));
    assert_eq!(first.id().as_str(), format!("pid:{PID}@5000"));
    // After a restart, it is known by the same name.
    assert_eq!(&case.caller(300).container.id(), &first.id());
}

#[test]
fn a_caller_that_moves_is_found_again() {
    let process = |cgroup| FakeProcess { pid: 300, ppid: 1, cgroup, ..FakeProcess::default() };
    let case = Case::new().process(&process("0::/a\n"));
    let host = Host::at(case.fake.path()).unwrap();
    let kept = host.keep(300).unwrap();
    assert_eq!(kept.check(&host).unwrap().container.id().as_str(), "cgroup:unified=/a");
    case.fake.process(&process("0::/b\n"));
    assert_eq!(kept.check(&host).unwrap().container.id().as_str(), "cgroup:unified=/b");
    assert_eq!(kept.caller().0.container.id().as_str(), "cgroup:unified=/b");
}

#[test]
fn the_readers_clock_is_that_of_its_time_namespace() {
    let case = Case::new().process(&init("0::/ct\n")).process(&member("0::/ct\n"));
    assert_eq!(case.caller(300).reader.timens.boottime, 0);
    case.fake.link("/proc/300/ns/time", "time:[4026532300]");
    case.fake.link("/proc/300/ns/time_for_children", "time:[4026532300]");
    case.fake.file("/proc/300/timens_offsets", "monotonic 0 0\nboottime -50 500000000\n");
    assert_eq!(case.caller(300).reader.timens.boottime, -49_500_000);
    // The namespace is for its children, and not its own.
    case.fake.link("/proc/300/ns/time", "time:[4026531834]");
    assert_eq!(case.caller(300).reader.timens.boottime, 0);
}

#[test]
fn names_of_cgroups_that_are_no_text_stand_for_the_nearest_that_are() {
    let case = Case::new().process(&init("0::/ct\n")).process(&member("0::/ct/a\n"));
    let path = case.fake.path().join("proc/300/cgroup");
    std::fs::write(path, b"0::/ct/\xff\xfe/x\n").unwrap();
    assert_eq!(case.cgroup(), "/ct");
}
