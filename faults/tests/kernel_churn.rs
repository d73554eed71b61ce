//! The machine changes while it is read: cgroups, pids, controllers, CPUs and the clock.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use cgview_faults::{
    Checker, Daemon, Load, Resources, Scale, Shape, Truth, alone, eventually, is_guest, seconds,
};
use cgview_testkit::{Cgroup, Process, Spawn, Tree, skip};
use rustix::time::{ClockId, clock_gettime, clock_settime};

const MIB: u64 = 1 << 20;

/// A load that leaves room for what else goes on.
fn light() -> Shape {
    let scale = if is_guest() {
        Scale { containers: 2, readers: 2, ..Scale::of_machine() }
    } else {
        Scale { containers: 8, readers: 2, ..Scale::of_machine() }
    };
    Shape { scale, ..Shape::default() }
}

/// Ends a load that nothing may have gone wrong for.
fn finish(load: Load, daemon: &Daemon) {
    let (totals, complaints) = load.finish(daemon);
    println!("{totals}");
    assert_eq!(
        (totals.failed, totals.aborted, totals.wrong, totals.back),
        (0, 0, 0, 0),
        "{complaints}"
    );
}

/// A container that reads what memory it has, again and again, and writes down what is wrong.
fn reading_container(daemon: &Daemon, cgroup: &Cgroup, memory: u64) -> Process {
    let path = daemon.path("proc/meminfo");
    let report =
        File::options().create(true).append(true).open(daemon.dirs().path("churn")).unwrap();
    let truth = Truth { memory: vec![memory / 1024], ..Truth::default() };
    Spawn::new().cgroup(cgroup).container().run(move || {
        let mut checker = Checker::new(truth);
        let mut report = &report;
        loop {
            let read = fs::read(&path).map_err(|error| error.to_string());
            let check = |text: Vec<u8>| {
                checker.check("proc/meminfo", &text).map_err(|what| what.to_string())
            };
            if let Err(what) = read.and_then(check) {
                let _ = report.write_all(format!("{what}\n").as_bytes());
            }
            thread::sleep(Duration::from_millis(2));
        }
    })
}

// host
// ├─ daemon
// ├─ c0 ...               <- readers
// ├─ hop0 ...             <- a process of the host, which moves from each to the next
// └─ new0 ... (1,000 a minute, each with a limit of its own)   <- reads until it is killed
#[test]
fn cgroups_that_come_and_go_are_told_apart() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &[]);
    let load = Load::with(&tree, &daemon, &light());
    let before = Resources::of(daemon.next_worker()).unwrap();

    // A process of the host has the cgroup that it is in, at once.
    let (path, report) = (daemon.path("proc/meminfo"), daemon.dirs().path("hops"));
    let hops = fs::File::create(&report).unwrap();
    let home = tree.cgroup("home");
    let ending = Instant::now() + seconds();
    let hopper = Spawn::new().cgroup(&home).run(|| {
        let mut hops = &hops;
        let mut number = 0;
        while Instant::now() < ending {
            let memory = (100 + number % 50) * MIB;
            let cgroup = tree.cgroup(&format!("hop{number}"));
            cgroup.limit_memory(memory).add(std::process::id());
            let truth = Truth { memory: vec![memory / 1024], ..Truth::default() };
            let text = fs::read(&path).unwrap();
            let judgement = Checker::new(truth).check("proc/meminfo", &text);
            home.add(std::process::id());
            cgroup.dirs().iter().for_each(|dir| fs::remove_dir(dir).unwrap());
            number += 1;
            writeln!(
                hops,
                "{}",
                judgement.map_or_else(|what| what.to_string(), |()| "good".into())
            )
            .unwrap();
        }
        0
    });

    // 1,000 a minute are one in 60 ms.
    let began = Instant::now();
    let mut live: VecDeque<(Process, Cgroup)> = VecDeque::new();
    let mut count = 0;
    while began.elapsed() < seconds() {
        let memory = (200 + count % 50) * MIB;
        let cgroup = tree.cgroup(&format!("new{count}"));
        cgroup.limit_memory(memory);
        live.push_back((reading_container(&daemon, &cgroup, memory), cgroup));
        count += 1;
        if live.len() > 4 {
            let (process, cgroup) = live.pop_front().unwrap();
            // In the midst of its reading.
            cgroup.remove();
            drop(process);
        }
        thread::sleep(
            (Duration::from_millis(60) * u32::try_from(count).unwrap())
                .saturating_sub(began.elapsed()),
        );
    }
    let time = began.elapsed();
    assert_eq!(hopper.wait(), 0);
    drop(live);
    let hops = fs::read_to_string(&report).unwrap();
    let wrong: Vec<_> = hops.lines().filter(|line| *line != "good").collect();
    let per_minute = |count: u64| count * 60_000 / u64::try_from(time.as_millis()).unwrap();
    println!(
        "{count} containers ({} a minute) and {} cgroups ({} a minute) came and went",
        per_minute(count),
        hops.lines().count(),
        per_minute(hops.lines().count() as u64),
    );
    assert_eq!(wrong, Vec::<&str>::new());
    assert_ne!(hops, "");
    assert_eq!(fs::read_to_string(daemon.dirs().path("churn")).unwrap(), "");
    load.all_read();
    finish(load, &daemon);
    let after = Resources::of(daemon.next_worker()).unwrap();
    println!("at first {before}; at last {after}");
}

// host
// ├─ one (100 MiB)     <- a process reads and ends
// └─ other (101 MiB)   <- the next one with its pid reads
#[test]
fn a_reused_pid_reads_as_who_it_is() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &[]);
    let (one, other) = (tree.cgroup("one"), tree.cgroup("other"));
    one.limit_memory(100 * MIB);
    other.limit_memory(101 * MIB);
    let path = daemon.path("proc/meminfo");
    let reads = |cgroup: &Cgroup, memory: u64| {
        let path = path.clone();
        let truth = Truth { memory: vec![memory / 1024], ..Truth::default() };
        let process = Spawn::new().cgroup(cgroup).container().run(move || {
            let text = fs::read(path).unwrap();
            let judgement = Checker::new(truth).check("proc/meminfo", &text);
            judgement.map_or_else(|what| panic!("{what}"), |()| 0)
        });
        let pid = process.pid();
        assert_eq!(process.wait(), 0, "what it read is above");
        pid
    };
    let mut reused = 0;
    // The next pid can be chosen, if nobody else forks at that moment.
    for attempt in 0..40 {
        let pid = reads(&one, 100 * MIB);
        if fs::write("/proc/sys/kernel/ns_last_pid", (pid - 2).to_string()).is_err() {
            return skip("needs ns_last_pid, of CONFIG_CHECKPOINT_RESTORE");
        }
        reused += u32::from(reads(&other, 101 * MIB) == pid);
        if reused == 10 {
            println!("10 pids were reused in {attempt} attempts");
            return;
        }
    }
    if reused == 0 {
        skip("no pid was reused in 40 attempts");
    }
}

// host
// └─ pod (512 MiB), which hands on the memory controller or does not
//    └─ c (256 MiB while it has the controller)   <- readers
#[test]
fn controllers_are_switched_on_and_off() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "cpu", "pids", "unified"]) else { return };
    if tree.is_v1("memory") || tree.is_v1("cpu") {
        return skip("needs cgroup v2");
    }
    let _alone = alone();
    let daemon = Daemon::start(&tree, &[]);
    let pod = tree.bare_cgroup("pod");
    let switch = |what: &str| {
        fs::write(pod.dir("unified").join("cgroup.subtree_control"), what).unwrap();
    };
    fs::write(tree.bare_cgroup("").dir("unified").join("cgroup.subtree_control"), "+memory +cpu")
        .unwrap();
    pod.limit_memory(512 * MIB).limit_cpu(200_000);
    let cgroup = tree.bare_cgroup("pod/c0");
    let limit = || {
        switch("+memory +cpu");
        cgroup.limit_memory(256 * MIB).limit_cpu(100_000);
    };
    limit();
    // Between the two moments, and without the controller, the limit is the one above.
    let truth = Truth {
        memory: vec![512 * 1024, 256 * 1024],
        cpus: vec![1, 2.min(thread::available_parallelism().unwrap().get())],
        changes: true,
    };
    let scale = Scale { containers: 1, readers: 4, ..Scale::of_machine() };
    let shape =
        Shape { scale, prefix: "pod/c", truth: Some(truth), has_cgroups: true, ..Shape::default() };
    let load = Load::with(&tree, &daemon, &shape);
    let end = Instant::now() + seconds();
    let mut count = 0;
    while Instant::now() < end {
        switch("-memory -cpu");
        thread::sleep(Duration::from_millis(20));
        limit();
        thread::sleep(Duration::from_millis(20));
        count += 1;
    }
    println!("controllers went and came {count} times");
    load.all_read();
    finish(load, &daemon);
}

// host (4 CPUs, of which the last go and come)
// └─ c0 ...   <- readers
#[test]
fn cpus_go_and_come() {
    if !Daemon::is_possible() {
        return;
    }
    // Others work on the machine itself.
    if !is_guest() {
        return skip("needs a guest, whose CPUs can be taken offline");
    }
    let all = thread::available_parallelism().unwrap().get();
    let online = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/online");
    if all < 2 || fs::write(online(all - 1), "1").is_err() {
        return skip("needs a CPU that can be taken offline");
    }
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &[]);
    let truth = Truth { cpus: (1..=all).collect(), changes: true, ..Truth::default() };
    let load = Load::with(&tree, &daemon, &Shape { truth: Some(truth), ..light() });
    let end = Instant::now() + seconds();
    let mut count = 0;
    let mut told = Vec::new();
    while Instant::now() < end {
        let cpu = 1 + count % (all - 1);
        fs::write(online(cpu), "0").unwrap();
        // The test is a process of the host.
        told.push(
            fs::read_to_string(daemon.path("proc/cpuinfo")).unwrap().matches("processor\t").count(),
        );
        thread::sleep(Duration::from_millis(50));
        fs::write(online(cpu), "1").unwrap();
        thread::sleep(Duration::from_millis(50));
        count += 1;
    }
    println!("CPUs went and came {count} times");
    load.all_read();
    eventually("all CPUs are seen again", || {
        let text = fs::read_to_string(daemon.path("proc/cpuinfo")).unwrap();
        text.matches("processor\t").count() == all
    });
    assert!(told.iter().any(|count| *count < all), "{told:?}");
    finish(load, &daemon);
}

// host, whose wall clock jumps by days
// └─ c0 ...   <- readers, for whom no counter goes back
#[test]
fn the_clock_jumps() {
    if !Daemon::is_possible() {
        return;
    }
    if !is_guest() {
        return skip("needs a guest, whose clock can be set");
    }
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &[]);
    let load = Load::with(&tree, &daemon, &light());
    let (wall, boot) = (clock_gettime(ClockId::Realtime), clock_gettime(ClockId::Boottime));
    let end = Instant::now() + seconds();
    let mut jumps = [-86_400, 86_400, 30 * 86_400, -3600, 1].into_iter().cycle();
    let mut count = 0;
    while Instant::now() < end {
        let mut now = clock_gettime(ClockId::Realtime);
        now.tv_sec += jumps.next().unwrap();
        clock_settime(ClockId::Realtime, now).unwrap();
        thread::sleep(Duration::from_millis(200));
        count += 1;
    }
    // As if nothing had been.
    let mut now = clock_gettime(ClockId::Boottime);
    now.tv_sec += wall.tv_sec - boot.tv_sec;
    clock_settime(ClockId::Realtime, now).unwrap();
    println!("the clock jumped {count} times");
    load.all_read();
    finish(load, &daemon);
}
