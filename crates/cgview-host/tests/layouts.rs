//! Where controllers are found, on hosts of all layouts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cgview_core::{
    Bytes, Limit, Snapshot, Usec,
    snapshot::{Controller, Version},
    view::Parts,
};
use cgview_host::{Error, Host, Layout};
use cgview_testkit::{FakeHost, FakeProcess};

/// The memory files of a cgroup of v1.
fn memory_v1(fake: &FakeHost, dir: &str, usage: u64, limit: &str) {
    fake.files(
        dir,
        &[
            ("memory.usage_in_bytes", &format!("{usage}\n")),
            ("memory.limit_in_bytes", &format!("{limit}\n")),
            ("memory.stat", &format!("cache 0\ntotal_cache {usage}\n")),
        ],
    );
}

/// The memory files of a cgroup of v2.
fn memory_v2(fake: &FakeHost, dir: &str, usage: u64, max: &str) {
    fake.files(
        dir,
        &[
            ("memory.current", &format!("{usage}\n")),
            ("memory.max", &format!("{max}\n")),
            ("memory.high", "max\n"),
            ("memory.min", "0\n"),
            ("memory.low", "0\n"),
            ("memory.stat", &format!("anon {usage}\n")),
        ],
    );
}

fn process(cgroup: &str) -> FakeProcess<'_> {
    FakeProcess { pid: 100, ppid: 1, cgroup, ..FakeProcess::default() }
}

fn sample(host: &Host, parts: Parts) -> Snapshot {
    let mut snapshot = Snapshot::default();
    host.caller(100).unwrap().container.sample(host, parts, &mut snapshot).unwrap();
    snapshot
}

/// Path, usage and limit of each level.
fn levels(snapshot: &Snapshot) -> Vec<(&str, u64, Limit<Bytes>)> {
    snapshot
        .memory
        .iter()
        .map(|level| (level.cgroup.path.as_str(), level.usage.0, level.max))
        .collect()
}

#[test]
fn legacy_has_a_hierarchy_for_each_controller() {
    let mut fake = FakeHost::new();
    fake.mount_v1("/sys/fs/cgroup/memory", "memory")
        .mount_v1("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct");
    fake.mount_v1("/sys/fs/cgroup/systemd", "xattr,name=systemd");
    fake.process(&process("3:cpu,cpuacct:/other\n2:memory:/slice/app\n1:name=systemd:/named\n"));
    memory_v1(&fake, "/sys/fs/cgroup/memory", 900, "9223372036854771712");
    memory_v1(&fake, "/sys/fs/cgroup/memory/slice", 500, "9223372036854771712");
    memory_v1(&fake, "/sys/fs/cgroup/memory/slice/app", 300, "4096");
    fake.files(
        "/sys/fs/cgroup/cpu,cpuacct/other",
        &[
            ("cpu.cfs_quota_us", "50000\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.stat", "nr_periods 1\nnr_throttled 1\nthrottled_time 7000\n"),
            ("cpuacct.usage_percpu", "1000000 2000000 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 750000 250000\n1 2000000 0\n"),
        ],
    );
    let host = Host::at(fake.path()).unwrap();
    assert_eq!((host.layout(), host.hierarchies().len()), (Layout::Legacy, 2));

    let snapshot = sample(&host, Parts::MEMORY.and(Parts::CPUS).and(Parts::CPU_USAGE));
    // The root is no level, and the app's own comes first.
    let expected = [("/slice/app", 300, Limit::At(Bytes(4096))), ("/slice", 500, Limit::Max)];
    assert_eq!(levels(&snapshot), expected);
    assert!(snapshot.memory[0].stat.is_some() && snapshot.memory[1].stat.is_none());
    assert_eq!(snapshot.memory[0].cgroup.version, Version::V1);
    assert_eq!(snapshot.cpu[0].cgroup.path, "/other");
    assert_eq!(
        (snapshot.cpu[0].quota, snapshot.cpu[0].period),
        (Limit::At(Usec(50_000)), Usec(100_000))
    );
    let usage = snapshot.cpu_usage.unwrap();
    assert_eq!((usage.total.sum(), usage.throttled, usage.per_cpu.len()), (Usec(3000), Usec(7), 2));
    assert_eq!(snapshot.taken, Usec::from_secs(3600));
}

#[test]
fn hybrid_has_v2_for_what_v1_does_not() {
    let mut fake = FakeHost::new();
    fake.mount_v1("/sys/fs/cgroup/memory", "memory").mount_v2("/sys/fs/cgroup/unified");
    fake.process(&process("2:memory:/app\n0::/user.slice\n"));
    memory_v1(&fake, "/sys/fs/cgroup/memory/app", 300, "4096");
    fake.files(
        "/sys/fs/cgroup/unified/user.slice",
        &[
            ("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\n"),
            ("cpu.pressure", "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.max", "4194304\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ],
    );
    let host = Host::at(fake.path()).unwrap();
    assert_eq!(host.layout(), Layout::Hybrid);
    assert_eq!(host.hierarchy(Controller::Memory).unwrap().version(), Version::V1);
    assert_eq!(
        host.hierarchy(Controller::Hugetlb).unwrap().mount_point(),
        "/sys/fs/cgroup/unified"
    );

    let snapshot = sample(&host, Parts::ALL);
    assert_eq!(levels(&snapshot), [("/app", 300, Limit::At(Bytes(4096)))]);
    assert_eq!(snapshot.cpu_usage.unwrap().total.sum(), Usec(30));
    assert!(snapshot.pressure.cpu.unwrap().starts_with(b"some avg10=1.00"));
    assert_eq!((snapshot.pressure.memory, snapshot.pressure.irq), (None, None));
    let [huge] = &snapshot.hugetlb[..] else { panic!("{:?}", snapshot.hugetlb) };
    assert_eq!(huge.page_size, Bytes(2 << 20));
    assert_eq!((huge.usage, huge.max), (Bytes(2 << 20), Limit::At(Bytes(4 << 20))));
    assert!(snapshot.cpu.is_empty() && snapshot.pids.is_empty() && snapshot.cpuset.is_none());
}

//     /                     (cgroup.controllers: all)
//     └─ slice              memory, pids
//        └─ app             pids only
//           └─ leaf         nothing  <- the process
#[test]
fn a_controller_that_a_leaf_lacks_is_read_at_the_nearest_ancestor_that_has_it() {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup");
    fake.process(&process("0::/slice/app/leaf\n"));
    memory_v2(&fake, "/sys/fs/cgroup/slice", 700, "8192");
    let pids = [("pids.current", "3\n"), ("pids.max", "10\n")];
    fake.files("/sys/fs/cgroup/slice", &pids).files("/sys/fs/cgroup/slice/app", &pids);
    fake.file(
        "/sys/fs/cgroup/slice/app/leaf/cpu.stat",
        "usage_usec 8\nuser_usec 5\nsystem_usec 3\n",
    );
    fake.file("/sys/fs/cgroup/slice/io.stat", "8:0 rbytes=4096 wbytes=0 rios=1 wios=0\n");
    fake.file("/sys/fs/cgroup/io.stat", "8:0 rbytes=1 wbytes=0 rios=1 wios=0\n");
    let host = Host::at(fake.path()).unwrap();
    assert_eq!(host.layout(), Layout::Unified);

    let snapshot = sample(&host, Parts::ALL);
    assert_eq!(levels(&snapshot), [("/slice", 700, Limit::At(Bytes(8192)))]);
    let paths: Vec<_> = snapshot.pids.iter().map(|level| level.cgroup.path.as_str()).collect();
    assert_eq!(paths, ["/slice/app", "/slice"]);
    assert_eq!(snapshot.cpu_usage.unwrap().cgroup.path, "/slice/app/leaf");
    assert!(snapshot.io.is_none(), "an ancestor's account has the neighbours' I/O in it");
    fake.process(&process("0::/slice\n"));
    let io = sample(&host, Parts::IO).io.unwrap();
    assert_eq!((io.cgroup.path.as_str(), io.devices[0].rbytes), ("/slice", Bytes(4096)));
}

// v1 kernels keep their accounts in files of the throttling layer or of the I/O scheduler.
#[test]
fn block_io_of_v1_is_that_of_whichever_files_the_kernel_fills() {
    let zero =
        "8:0 Read 0\n8:0 Write 0\n8:0 Sync 0\n8:0 Async 0\n8:0 Discard 0\n8:0 Total 0\nTotal 0\n";
    let throttle =
        zero.to_owned() + "8:16 Read 4096\n8:16 Write 512\n8:16 Total 4608\nTotal 4608\n";
    let mut fake = FakeHost::new();
    fake.mount_v1("/cg/blkio", "blkio").process(&process("1:blkio:/app\n"));
    fake.files(
        "/cg/blkio/app",
        &[
            ("blkio.throttle.io_service_bytes_recursive", &throttle),
            ("blkio.throttle.io_serviced_recursive", zero),
            ("blkio.bfq.io_service_bytes_recursive", "8:0 Read 8192\n8:0 Write 0\nTotal 8192\n"),
            ("blkio.bfq.io_serviced_recursive", "8:0 Read 2\n8:0 Write 0\nTotal 2\n"),
            ("blkio.bfq.io_service_time_recursive", "8:0 Read 3000\n8:0 Write 0\nTotal 3000\n"),
            ("blkio.bfq.io_wait_time_recursive", "8:0 Read 4000\n8:0 Write 0\nTotal 4000\n"),
        ],
    );
    let host = Host::at(fake.path()).unwrap();
    let io = sample(&host, Parts::IO).io.unwrap();
    let [sda, sdb] = &io.devices[..] else { panic!("{io:?}") };
    assert_eq!((sda.major, sda.minor, sda.rbytes, sda.rios), (8, 0, Bytes(8192), 2));
    assert_eq!((sda.read_time, sda.write_time), (Usec(7), Usec(0)));
    assert_eq!((sdb.minor, sdb.rbytes, sdb.wbytes, sdb.rios), (16, Bytes(4096), Bytes(512), 0));

    // No such files at all: nothing is known, which is not the same as nothing done.
    fake.remove("/cg/blkio/app").file("/cg/blkio/app/cgroup.procs", "");
    let host = Host::at(fake.path()).unwrap();
    assert!(sample(&host, Parts::IO).io.is_none());
}

#[test]
fn controllers_may_be_mounted_anywhere() {
    let mut fake = FakeHost::new();
    // Android's.
    fake.mount_v1("/dev/cpuctl", "cpu").mount_v1("/dev/cpuset", "cpuset,noprefix");
    fake.mount_v1("/mnt/my memory", "memory");
    fake.process(&process("3:cpuset:/fg\n2:cpu:/fg\n1:memory:/fg\n"));
    memory_v1(&fake, "/mnt/my memory/fg", 5, "4096");
    fake.file("/dev/cpuctl/fg/cgroup.procs", "100\n");
    fake.files("/dev/cpuset/fg", &[("effective_cpus", "1\n"), ("effective_mems", "0\n")]);
    let host = Host::at(fake.path()).unwrap();
    assert_eq!(host.hierarchy(Controller::Memory).unwrap().mount_point(), "/mnt/my memory");
    let snapshot = sample(&host, Parts::ALL);
    assert_eq!(levels(&snapshot), [("/fg", 5, Limit::At(Bytes(4096)))]);
    assert_eq!(snapshot.cpuset.unwrap().cpus, [1].into_iter().collect());
}

#[test]
fn of_two_mounts_the_one_that_shows_more_is_used() {
    let mut fake = FakeHost::new();
    fake.mount_line("50 23 0:28 /docker/a /lower rw - cgroup2 cgroup2 rw");
    fake.file("/lower/cgroup.procs", "").file("/lower/cgroup.type", "domain\n");
    fake.mount_v2("/sys/fs/cgroup");
    let host = Host::at(fake.path()).unwrap();
    let [only] = host.hierarchies() else { panic!("{:?}", host.hierarchies()) };
    assert_eq!((only.mount_point(), only.mount_root()), ("/sys/fs/cgroup", "/"));
}

// In a container without a cgroup namespace, the runtime binds the container's own cgroup to /sys/fs/cgroup.
#[test]
fn where_a_part_of_a_hierarchy_is_bound_levels_end_at_its_root() {
    let mut fake = FakeHost::new();
    fake.mount_line("50 23 0:28 /docker/a /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory");
    fake.file("/sys/fs/cgroup/memory/cgroup.procs", "");
    memory_v1(&fake, "/sys/fs/cgroup/memory", 700, "8192");
    memory_v1(&fake, "/sys/fs/cgroup/memory/sub", 300, "4096");
    fake.process(&process("2:memory:/docker/a/sub\n"));
    let host = Host::at(fake.path()).unwrap();
    let expected = [
        ("/docker/a/sub", 300, Limit::At(Bytes(4096))),
        ("/docker/a", 700, Limit::At(Bytes(8192))),
    ];
    assert_eq!(levels(&sample(&host, Parts::MEMORY)), expected);

    fake.process(&process("2:memory:/docker/b\n"));
    assert!(levels(&sample(&host, Parts::MEMORY)).is_empty(), "another container is out of reach");
}

// With a cgroup namespace the same cgroup is shown as the root; only the kernel's own root lacks the files
// of limits.
#[test]
fn the_root_of_a_namespace_is_a_level_with_limits() {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup").file("/sys/fs/cgroup/cgroup.type", "domain\n");
    memory_v2(&fake, "/sys/fs/cgroup", 700, "8192");
    memory_v2(&fake, "/sys/fs/cgroup/app", 300, "max");
    fake.process(&process("0::/app\n"));
    let host = Host::at(fake.path()).unwrap();
    let expected = [("/app", 300, Limit::Max), ("/", 700, Limit::At(Bytes(8192)))];
    assert_eq!(levels(&sample(&host, Parts::MEMORY)), expected);
}

#[test]
fn a_cgroup_outside_of_the_namespace_cannot_be_named() {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup").process(&process("0::/../other\n"));
    let host = Host::at(fake.path()).unwrap();
    let error = host.caller(100).unwrap_err();
    assert!(matches!(error, Error::Outside { pid: 100, .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "cgroup /../other of process 100 is outside of this cgroup namespace"
    );
}

#[test]
fn a_host_without_cgroups_has_no_layout() {
    let mut fake = FakeHost::new();
    fake.mount_line("23 1 8:1 / / rw - ext4 /dev/sda1 rw");
    let host = Host::at(fake.path()).unwrap();
    assert_eq!((host.layout(), host.layout().to_string()), (Layout::None, "none".into()));
    fake.process(&process(""));
    let caller = host.caller(100).unwrap();
    assert!(caller.container.is_host());
    let mut snapshot = Snapshot::default();
    caller.container.sample(&host, Parts::MEMORY.and(Parts::NODES), &mut snapshot).unwrap();
    assert!(snapshot.memory.is_empty() && snapshot.cpuset.is_none());
}

#[test]
fn the_root_cgroup_is_the_host() {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup").process(&process("0::/\n"));
    fake.file("/sys/fs/cgroup/cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\n");
    fake.file("/proc/loadavg", "0.10 0.20 0.30 2/345 6789\n");
    fake.file("/proc/stat", "cpu 1 2 3\nprocs_running 2\nprocs_blocked 4\n");
    let host = Host::at(fake.path()).unwrap();
    let container = host.caller(100).unwrap().container;
    assert!(container.is_host());
    let snapshot = sample(&host, Parts::ALL);
    assert!(snapshot.memory.is_empty() && snapshot.pids.is_empty());
    assert!(snapshot.cpu_usage.unwrap().cgroup.is_root());
    let tasks = snapshot.tasks.unwrap();
    assert_eq!((tasks.running, tasks.blocked, tasks.total, tasks.last_pid), (2, 4, 345, 6789));
}

#[test]
fn errors_say_what_was_read_and_their_cause_says_why() {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup").process(&process("0::/app\n"));
    memory_v2(&fake, "/sys/fs/cgroup/app", 1, "many");
    let host = Host::at(fake.path()).unwrap();
    let container = host.caller(100).unwrap().container;
    let error = container.sample(&host, Parts::MEMORY, &mut Snapshot::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot parse /sys/fs/cgroup/app/memory.max");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "line 1: expected a number, found \"many\"");
    assert_eq!(error.errno(), rustix::io::Errno::IO);

    assert!(matches!(host.caller(4711), Err(Error::Gone { pid: 4711 })));
    let error = Host::at(&fake.path().join("nowhere")).unwrap_err();
    assert!(error.to_string().starts_with("cannot use /"), "{error}");
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let fake = FakeHost::new();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&outside, "secret").unwrap();
    fake.link("/proc/swaps", outside.path().to_str().unwrap());
    fake.link("/proc/stat", "../../../../../../../../etc/passwd");
    let host = Host::at(fake.path()).unwrap();
    for path in ["/proc/swaps", "/proc/stat", "/../../../../etc/passwd"] {
        let mut text = Vec::new();
        assert!(host.read(path, &mut text).is_err(), "{path}: {}", String::from_utf8_lossy(&text));
        assert!(!host.has(path));
    }
}

#[test]
fn facts_are_those_of_the_tree() {
    let fake = FakeHost::new();
    fake.file("/sys/devices/system/cpu/online", "0-3,8\n");
    fake.file("/sys/devices/system/node/node0/cpulist", "0-3\n");
    fake.file("/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:  1024 kB\n");
    fake.file("/sys/devices/system/node/node10/cpulist", "8\n");
    fake.file("/sys/devices/system/node/node10/meminfo", "Node 10 MemTotal:  2048 kB\n");
    fake.file("/sys/devices/system/node/online", "0,10\n");
    // A machine with pages of 64 KiB, 1 GiB of them mapped, save what a moment makes of it.
    fake.file("/proc/meminfo", "MemTotal: 4194304 kB\nMemFree: 9 kB\nMapped: 1048512 kB\n");
    fake.file("/proc/vmstat", "nr_free_pages 16385\nnr_mapped 16385\nnr_anon_pages 1\n");
    let facts = Host::at(fake.path()).unwrap().facts().unwrap();
    assert_eq!(facts.online.len(), 5);
    let nodes: Vec<_> = facts.nodes.iter().map(|node| (node.number, node.total.kib())).collect();
    assert_eq!(nodes, [(0, 1024), (10, 2048)]);
    assert_eq!((facts.page_size, facts.memory.total), (Bytes(64 << 10), Bytes(4 << 30)));
}

// More tasks than one pass may ask: every third runs, and one in a hundred is blocked.
#[test]
fn of_many_tasks_an_even_sample_is_counted() {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup").process(&process("0::/app\n"));
    let mut list = String::from("100\n");
    for tid in 1000..3000 {
        let state = match tid % 100 {
            0 => 'D',
            _ if tid % 3 == 0 => 'R',
            _ => 'S',
        };
        list.push_str(&format!("{tid}\n"));
        let fields = "1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
        fake.file(
            &format!("/proc/{tid}/task/{tid}/stat"),
            &format!("{tid} (a) {state} {fields} {tid}\n"),
        );
    }
    fake.file("/proc/2999/status", "NSpid:\t2999\t17\n");
    fake.file("/sys/fs/cgroup/app/cgroup.threads", &list);
    let tasks = sample(&Host::at(fake.path()).unwrap(), Parts::TASKS).tasks.unwrap();
    assert_eq!((tasks.total, tasks.last_pid), (2001, 2999), "17 is of a namespace inside");
    assert!(tasks.running.abs_diff(660) < 40, "{tasks:?}");
    assert!(tasks.blocked.abs_diff(20) < 15, "{tasks:?}");
}
