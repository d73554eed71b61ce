//! What is read of a container's cgroups, on a real kernel: it is what was set, and what was done.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use cgview_core::{Bytes, Cpus, Limit, Mask, Snapshot, Usec, snapshot::Version, view::Parts};
use cgview_host::{Error, Host};
use cgview_testkit::{Process, Spawn, Tree, block, pause, skip};
use rustix::time::{ClockId, clock_gettime};

const MIB: u64 = 1 << 20;

fn sample(process: &Process, parts: Parts) -> Snapshot {
    let host = Host::live().unwrap();
    let mut snapshot = Snapshot::default();
    host.caller(process.pid()).unwrap().container.sample(&host, parts, &mut snapshot).unwrap();
    snapshot
}

// slice      500 MiB
// └─ ct      no limit
//    └─ app  300 MiB   <- the container
#[test]
fn memory_limits_of_all_levels() {
    let Some(tree) = Tree::with(&["memory"]) else { return };
    tree.cgroup("slice").limit_memory(500 * MIB);
    let app = tree.cgroup("slice/ct/app");
    app.limit_memory(300 * MIB);
    let process = Spawn::new().cgroup(&app).container().run(pause);

    let snapshot = sample(&process, Parts::MEMORY);
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let limits: Vec<_> = snapshot
        .memory
        .iter()
        .map(|level| (name(&level.cgroup.path), level.max, level.stat.is_some()))
        .collect();
    let at = |mib: u64| Limit::At(Bytes(mib * MIB));
    // The tree's own cgroup comes last. What is reclaimable matters where there is a limit.
    let top = app.path().split('/').nth(1).unwrap().to_owned();
    let expected = [
        ("app".into(), at(300), true),
        ("ct".into(), Limit::Max, false),
        ("slice".into(), at(500), true),
        (top, Limit::Max, false),
    ];
    assert_eq!(limits, expected);
    let version = if tree.is_v1("memory") { Version::V1 } else { Version::V2 };
    assert!(snapshot.memory.iter().all(|level| level.cgroup.version == version));
}

#[test]
fn memory_that_a_process_takes_is_seen() {
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("ct");
    let process = Spawn::new().cgroup(&cgroup).container().run(|| {
        black_box(vec![1u8; 64 << 20]);
        let kept = vec![1u8; 40 << 20];
        let status = pause();
        drop(black_box(kept));
        status
    });
    // The second one is written to after the process has said that it is there.
    let deadline = Instant::now() + Duration::from_secs(60);
    let level = loop {
        let level = sample(&process, Parts::MEMORY).memory.swap_remove(0);
        let anon = level.stat.as_ref().unwrap().anon.unwrap();
        // The usage is read first, while the process goes on.
        if anon.0 >= 40 * MIB && anon.0 < 64 * MIB && level.usage.0 >= 40 * MIB {
            break level;
        }
        assert!(Instant::now() < deadline, "{level:?}");
        thread::sleep(Duration::from_millis(20));
    };
    assert!(level.usage.0 < 100 * MIB, "{:?}", level.usage);
    assert_eq!(level.swap.map(|swap| swap.usage.0).unwrap_or(0) / MIB, 0);
}

#[test]
fn swap_limits_of_both_versions_mean_the_same() {
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("ct");
    let file = if tree.is_v1("memory") { "memory.memsw.limit_in_bytes" } else { "memory.swap.max" };
    if !cgroup.dir("memory").join(file).exists() {
        return skip("needs swap accounting");
    }
    cgroup.limit_memory(200 * MIB);
    let v1 = (300 * MIB).to_string();
    let v2 = (100 * MIB).to_string();
    let value = if tree.is_v1("memory") { &v1 } else { &v2 };
    cgroup.write("memory", file, file, value);
    let process = Spawn::new().cgroup(&cgroup).run(pause);
    let level = &sample(&process, Parts::MEMORY).memory[0];
    assert_eq!(level.swap.unwrap().max, Limit::At(Bytes(100 * MIB)));
}

// slice      1.5 CPUs
// └─ ct      no quota, CPU 0
#[test]
fn quota_and_cpuset() {
    let Some(tree) = Tree::with(&["cpu", "cpuset"]) else { return };
    tree.cgroup("slice").limit_cpu(150_000);
    let ct = tree.cgroup("slice/ct");
    ct.limit_cpus("0");
    let process = Spawn::new().cgroup(&ct).run(pause);
    let snapshot = sample(&process, Parts::NODES);
    let quotas: Vec<_> = snapshot
        .cpu
        .iter()
        .map(|level| level.quota.at().and_then(|quota| Cpus::from_quota(quota, level.period)))
        .collect();
    assert_eq!(quotas, [None, Some(Cpus(1_500_000)), None]);
    let cpuset = snapshot.cpuset.unwrap();
    assert_eq!((cpuset.cpus, cpuset.cgroup.path.clone()), (Mask::first(1), ct.path()));
    assert!(!cpuset.mems.is_empty());
}

#[test]
fn the_cpu_time_of_all_below_a_container_is_its_own() {
    let Some(tree) = Tree::with(&["cpu"]) else { return };
    let (ct, deep) = (tree.bare_cgroup("ct"), tree.bare_cgroup("ct/a/b/c"));
    let init = Spawn::new().cgroup(&ct).container().run(pause);
    let begin = Instant::now();
    let cpu_time = Duration::from_millis(300);
    let burner = Spawn::new().cgroup(&deep).join(&init, &["pid", "cgroup"]).run(move || {
        let now = || {
            let time = clock_gettime(ClockId::ProcessCPUTime);
            Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
        };
        // What it took before it was in its cgroup is not the container's.
        let begun = now();
        while now() - begun < cpu_time {
            // In user mode, between the system calls.
            black_box((0..1_000_000).fold(0, |sum, number| black_box(sum ^ number)));
        }
        0
    });
    assert_eq!(burner.wait(), 0);
    let wall = Usec(u64::try_from(begin.elapsed().as_micros()).unwrap());
    let snapshot = sample(&init, Parts::CPU_USAGE);
    let usage = snapshot.cpu_usage.unwrap();
    let total = usage.total.sum();
    // It ran on one CPU at a time; beside it, init only slept.
    assert!(
        total >= Usec(300_000) && total <= wall.saturating_add(Usec(50_000)),
        "{total:?} {wall:?}"
    );
    assert!(usage.total.user > usage.total.system, "{:?}", usage.total);
    let sum: Usec = usage.per_cpu.iter().map(|(_, time)| time.sum()).sum();
    if tree.is_v1("cpuacct") {
        assert!(total.0.abs_diff(sum.0) < 100, "{total:?} {sum:?}");
    } else {
        assert_eq!(usage.per_cpu, []);
    }
    assert_eq!(usage.cgroup.path, ct.path());
    // The container has not used more than there was, by the snapshot's own clock.
    let age = snapshot.taken.saturating_sub(snapshot.started.unwrap());
    assert!(age >= total, "{age:?} {total:?}");
}

#[test]
fn throttled_time_is_told() {
    let Some(tree) = Tree::with(&["cpu"]) else { return };
    let cgroup = tree.cgroup("ct");
    cgroup.limit_cpu(10_000);
    let process = Spawn::new().cgroup(&cgroup).run(|| {
        loop {
            black_box(0);
        }
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let usage = sample(&process, Parts::CPU_USAGE).cpu_usage.unwrap();
        if usage.throttled > Usec(100_000) {
            break;
        }
        assert!(Instant::now() < deadline, "{usage:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

// ct                       4 sleeping threads, 1 blocked process
// └─ user/1/2/3/app.slice  3 running threads
#[test]
fn tasks_are_counted_at_any_depth() {
    let Some(tree) = Tree::new() else { return };
    let (ct, deep) = (tree.bare_cgroup("ct"), tree.bare_cgroup("ct/user/1/2/3/app.slice"));
    let init = Spawn::new().cgroup(&ct).container().run(|| {
        for _ in 0..3 {
            thread::spawn(pause);
        }
        pause()
    });
    let join = ["pid", "cgroup"];
    let blocked = Spawn::new().cgroup(&ct).join(&init, &join).run(block);
    let _running = Spawn::new().cgroup(&deep).join(&init, &join).run(|| {
        let spin = || loop {
            black_box(0);
        };
        thread::spawn(spin);
        thread::spawn(spin);
        spin()
    });
    let host = Host::live().unwrap();
    let container = host.caller(init.pid()).unwrap().container;
    let deadline = Instant::now() + Duration::from_secs(60);
    let tasks = loop {
        let tasks = container.active_tasks(&host).unwrap();
        // Two for the blocked one: it waits for a child, which sleeps.
        if (tasks.total, tasks.blocked, tasks.running) == (9, 1, 3) {
            break tasks;
        }
        assert!(Instant::now() < deadline, "{tasks:?}");
        thread::sleep(Duration::from_millis(20));
    };
    // The last pid is one of the container's own, which are few.
    assert!((7..=9).contains(&tasks.last_pid), "{tasks:?}");
    // The controller's count and that of the tasks agree, as soon as nothing changes.
    drop(blocked);
    let mut snapshot = Snapshot::default();
    loop {
        container.sample(&host, Parts::TASKS.and(Parts::PIDS), &mut snapshot).unwrap();
        let tasks = snapshot.tasks.unwrap();
        let pids = snapshot.pids.iter().find(|level| level.cgroup.path == ct.path());
        let agree = pids.is_none_or(|level| level.current == tasks.total);
        if agree && (tasks.total, tasks.blocked, tasks.running) == (8, 0, 3) {
            break;
        }
        assert!(Instant::now() < deadline, "{tasks:?} {pids:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn pids_and_their_limits() {
    let Some(tree) = Tree::with(&["pids"]) else { return };
    tree.cgroup("slice").limit_pids(50);
    let ct = tree.cgroup("slice/ct");
    let process = Spawn::new().cgroup(&ct).run(pause);
    let levels = sample(&process, Parts::PIDS).pids;
    let seen: Vec<_> = levels.iter().map(|level| (level.current, level.max)).collect();
    assert_eq!(seen, [(1, Limit::Max), (1, Limit::At(50)), (1, Limit::Max)]);
}

#[test]
fn hugetlb_of_every_page_size() {
    let Some(tree) = Tree::with(&["hugetlb"]) else { return };
    let ct = tree.cgroup("ct");
    ct.write("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max", &(6 * MIB).to_string());
    let process = Spawn::new().cgroup(&ct).run(pause);
    let levels = sample(&process, Parts::HUGETLB).hugetlb;
    let sizes = fs::read_dir("/sys/kernel/mm/hugepages").unwrap().count();
    // The container and the tree's own cgroup.
    assert_eq!(levels.len(), 2 * sizes, "{levels:?}");
    assert!(levels.iter().all(|level| level.usage == Bytes(0)));
    let of_2mb: Vec<_> = levels
        .iter()
        .filter(|level| level.page_size == Bytes(2 * MIB))
        .map(|level| level.max)
        .collect();
    assert_eq!(of_2mb, [Limit::At(Bytes(6 * MIB)), Limit::Max]);
}

#[test]
fn pressure_is_the_text_of_the_containers_files() {
    let Some(tree) = Tree::with(&["unified"]) else { return };
    let ct = tree.cgroup("ct");
    if !ct.dir("unified").join("cpu.pressure").exists() {
        return skip("needs pressure files of cgroups (since 4.20, and psi=1)");
    }
    let process = Spawn::new().cgroup(&ct).run(pause);
    let pressure = sample(&process, Parts::PRESSURE).pressure;
    assert_eq!(pressure.cgroup.as_ref().unwrap().path, ct.path());
    for (name, text) in [
        ("cpu.pressure", &pressure.cpu),
        ("memory.pressure", &pressure.memory),
        ("io.pressure", &pressure.io),
        ("irq.pressure", &pressure.irq),
    ] {
        let exists = ct.dir("unified").join(name).exists();
        assert_eq!(text.is_some(), exists, "{name}");
        if let Some(text) = text {
            let line = if name == "irq.pressure" { "full avg10=" } else { "some avg10=" };
            assert!(text.starts_with(line.as_bytes()), "{}", String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn writes_to_a_disk_are_counted() {
    let Some(tree) = Tree::with(&["io"]) else { return };
    let Some((disk, number)) = disk() else {
        return skip("needs a disk that can be read directly");
    };
    let ct = tree.cgroup("ct");
    if tree.is_v1("io") {
        // Before Linux 6.5, v1 counts what a limit applies to, however high.
        let limit = format!("{number} 1000000000000");
        ct.write("io", "blkio.throttle.read_bps_device", "", &limit);
    }
    let process = Spawn::new().cgroup(&ct).run(move || {
        // Direct I/O needs an aligned buffer.
        let memory = vec![0u8; 2 << 20];
        let offset = memory.as_ptr().align_offset(4096);
        let mut memory = memory;
        let buffer = memory.get_mut(offset..offset + (1 << 20)).unwrap();
        rustix::io::pread(&disk, buffer, 0).map_or(1, |read| i32::from(read != 1 << 20))
    });
    // It has to be there until it is looked at, and its cgroup is.
    let keeper = Spawn::new().cgroup(&ct).run(pause);
    assert_eq!(process.wait(), 0);
    let io = sample(&keeper, Parts::IO).io.unwrap();
    let read: u64 = io.devices.iter().map(|device| device.rbytes.0).sum();
    let count: u64 = io.devices.iter().map(|device| device.rios).sum();
    assert!(read >= 1 << 20 && count >= 1, "{io:?}");
}

/// A disk to read from without the page cache, and its number.
fn disk() -> Option<(std::os::fd::OwnedFd, String)> {
    use rustix::fs::{Mode, OFlags, open};
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let size: u64 = fs::read_to_string(entry.path().join("size")).ok()?.trim().parse().ok()?;
        let name = entry.file_name().into_string().ok()?;
        let real = name.starts_with("vd") || name.starts_with("sd") || name.starts_with("nvme");
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let number = fs::read_to_string(entry.path().join("dev")).ok()?.trim().to_owned();
        let disk = open(format!("/dev/{name}"), flags, Mode::empty());
        (real && size >= 2048).then_some((disk.ok()?, number))
    })
}

// ct        memory  -> taken away, and given back
// └─ leaf           <- the process
#[test]
fn controllers_may_come_and_go() {
    let Some(tree) = Tree::with(&["memory", "unified"]) else { return };
    if tree.is_v1("memory") {
        return skip("needs the memory controller on the unified hierarchy");
    }
    let ct = tree.cgroup("ct");
    ct.limit_memory(100 * MIB);
    let leaf = tree.cgroup("ct/leaf");
    let process = Spawn::new().cgroup(&leaf).run(pause);
    let host = Host::live().unwrap();
    let container = host.caller(process.pid()).unwrap().container;
    let mut snapshot = Snapshot::default();
    let nearest = |snapshot: &mut Snapshot| {
        container.sample(&host, Parts::MEMORY, snapshot).unwrap();
        snapshot.memory[0].cgroup.path.clone()
    };
    assert_eq!(nearest(&mut snapshot), leaf.path());
    let control = ct.dir("memory").join("cgroup.subtree_control");
    fs::write(&control, "-memory").unwrap();
    assert_eq!(nearest(&mut snapshot), ct.path());
    assert_eq!(snapshot.memory[0].max, Limit::At(Bytes(100 * MIB)));
    fs::write(&control, "+memory").unwrap();
    // A missing file is looked for again after some seconds.
    let deadline = Instant::now() + Duration::from_secs(20);
    while nearest(&mut snapshot) != leaf.path() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(200));
    }
}

// ct         <- the container
// └─ leaf    no controllers
#[test]
fn a_leaf_without_controllers_has_those_of_its_parent() {
    let Some(tree) = Tree::with(&["memory", "unified"]) else { return };
    if tree.is_v1("memory") {
        return skip("needs the memory controller on the unified hierarchy");
    }
    let ct = tree.cgroup("ct");
    ct.limit_memory(100 * MIB);
    let leaf = tree.bare_cgroup("ct/leaf");
    let process = Spawn::new().cgroup(&leaf).container().run(pause);
    let snapshot = sample(&process, Parts::ALL);
    assert_eq!(snapshot.memory[0].cgroup.path, ct.path());
    assert_eq!(snapshot.memory[0].max, Limit::At(Bytes(100 * MIB)));
    assert_eq!(snapshot.cpu_usage.unwrap().cgroup.path, leaf.path());
    assert_eq!(snapshot.cpuset.unwrap().cgroup.path, ct.path());
}

// slice       removed and made again, under a container that is looked at all the while
#[test]
fn ancestors_are_the_containers_own() {
    let Some(tree) = Tree::with(&["pids"]) else { return };
    let host = Host::live().unwrap();
    let mut snapshot = Snapshot::default();
    let mut old = Vec::new();
    for limit in [10, 20] {
        tree.cgroup("slice").limit_pids(limit);
        let ct = tree.cgroup("slice/ct");
        let process = Spawn::new().cgroup(&ct).container().run(pause);
        let container = host.caller(process.pid()).unwrap().container;
        container.sample(&host, Parts::PIDS, &mut snapshot).unwrap();
        assert_eq!(snapshot.pids[1].max, Limit::At(limit));
        drop(process);
        ct.remove();
        tree.cgroup("slice").remove();
        old.push(container);
    }
    for container in old {
        let error = container.sample(&host, Parts::PIDS, &mut snapshot).unwrap_err();
        assert!(matches!(error, Error::Vanished { .. }), "{error}");
    }
}
