//! The daemon gets less than it wants: memory, descriptors, processes, a place for its files.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use cgview_faults::{
    Daemon, Load, Resources, Scale, Shape, Totals, alone, eventually, is_guest, kernel_is_at_least,
    seconds,
};
use cgview_testkit::{Spawn, Tree};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount},
    process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit},
};

/// The daemon's threads that answer.
const THREADS: &str = "4";

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn light() -> Shape {
    let scale = if is_guest() {
        Scale { containers: 3, readers: 2, ..Scale::of_machine() }
    } else {
        Scale { containers: 10, readers: 2, ..Scale::of_machine() }
    };
    Shape { scale, ..Shape::default() }
}

fn kill_worker(daemon: &Daemon) {
    let _ = kill_process(pid(daemon.next_worker()), Signal::KILL);
}

/// Ends a load under which the worker was lost so many times.
fn finish(load: Load, daemon: &Daemon, lost: u64) -> Totals {
    load.all_read();
    let (totals, complaints) = load.finish(daemon);
    println!("{totals}");
    // One call of each reader, where the kernel cannot send it anew.
    let most = if kernel_is_at_least(6, 9) { 0 } else { lost * totals.readers as u64 };
    assert_eq!(
        (totals.failed, totals.wrong, totals.back),
        (0, 0, 0),
        "{complaints}\n{}",
        daemon.log()
    );
    assert!(totals.aborted <= most, "{totals}: {complaints}");
    totals
}

// host
// ├─ daemon (no descriptor more than it has)
// ├─ c0 ...     <- readers from before
// └─ late       <- a reader that the daemon has not seen yet
#[test]
fn without_descriptors_the_known_read_on_and_later_all() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &[]);
    let load = Load::with(&tree, &daemon, &light());
    load.all_read();
    let worker = daemon.next_worker();
    let has = Resources::of(worker).unwrap().descriptors;
    // It begins by raising its own limit to the highest it may have.
    let limits = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let most: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
    let limit = |current: u64| {
        let limit = Rlimit { current: Some(current), maximum: Some(most) };
        prlimit(Some(pid(worker)), Resource::Nofile, limit).unwrap();
    };
    // None but those that it has; what it closes it may have again.
    let numbers = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let numbers = numbers.map(|name| name.unwrap().file_name().to_str().unwrap().parse::<u64>());
    limit(numbers.map(Result::unwrap).max().unwrap() + 1);
    let late = Spawn::new().cgroup(&tree.cgroup("late")).container().run({
        let path = daemon.path("proc/meminfo");
        move || {
            // Whatever it gets meanwhile; it gets something.
            while fs::read(&path).is_err() {
                thread::sleep(Duration::from_millis(20));
            }
            0
        }
    });
    let end = Instant::now() + seconds() / 2;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    let starved = load.totals();
    let complaints = load.complaints();
    limit(most);
    assert_eq!(late.wait(), 0);
    load.all_read();
    println!("with {has} descriptors and no more: {starved}\n{complaints}");
    assert_eq!(starved.wrong, 0, "{complaints}");
    let before = load.totals();
    load.all_read();
    thread::sleep(seconds() / 4);
    let after = load.totals();
    assert_eq!(after.failed, before.failed, "errors go on: {complaints}");
    let (totals, _) = load.finish(&daemon);
    println!("{totals}");
}

// host
// ├─ daemon (a cgroup that is full)
// └─ c0 ...   <- readers
#[test]
fn without_memory_it_goes_on() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &["--threads", THREADS]);
    let load = Load::with(&tree, &daemon, &light());
    load.all_read();
    let usage = daemon.cgroup().read("memory", "memory.usage_in_bytes", "memory.current");
    let usage: u64 = usage.trim().parse().unwrap();
    daemon.cgroup().limit_memory(usage + (256 << 10));
    let mut workers = vec![daemon.next_worker()];
    let end = Instant::now() + seconds();
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
        workers.extend(daemon.worker().filter(|worker| workers.last() != Some(worker)));
    }
    daemon.cgroup().limit_memory(1 << 30);
    let lost = workers.len() as u64 - 1;
    println!("with {} KiB and no more, {lost} workers were lost", usage / 1024 + 256);
    finish(load, &daemon, lost);
}

// host
// ├─ daemon (not one process more)
// └─ c0 ...   <- readers
#[test]
fn without_processes_a_new_worker_is_awaited() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["pids"]) else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &["--threads", THREADS]);
    let load = Load::with(&tree, &daemon, &light());
    let outage = seconds() / 8;
    let before = Instant::now();
    // First no process at all, then one that cannot have the threads that it needs.
    daemon.cgroup().limit_pids(1);
    kill_worker(&daemon);
    thread::sleep(outage);
    daemon.cgroup().limit_pids(4);
    thread::sleep(outage);
    daemon.cgroup().limit_pids(4096);
    load.all_read();
    println!("all read again {} ms after the first worker was lost", before.elapsed().as_millis());
    // Any of those that were tried may have taken requests.
    finish(load, &daemon, 20);
}

// host
// ├─ daemon (whose runtime directory is read-only, and then gone)
// └─ c0 ...   <- readers
#[test]
fn without_a_runtime_directory_it_serves() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &["--threads", THREADS]);
    let load = Load::with(&tree, &daemon, &light());
    let runtime = daemon.dirs().runtime();
    let mut lost = 0;
    let mut lose = || {
        for _ in 0..3 {
            kill_worker(&daemon);
            load.all_read();
            lost += 1;
        }
    };
    mount_bind(&runtime, &runtime).unwrap();
    mount_remount(&runtime, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    lose();
    unmount(&runtime, UnmountFlags::DETACH).unwrap();
    let elsewhere = daemon.dirs().path("elsewhere");
    fs::rename(&runtime, &elsewhere).unwrap();
    lose();
    // In its place is what is no directory.
    let _ = fs::remove_dir_all(&runtime);
    fs::write(&runtime, "").unwrap();
    lose();
    fs::remove_file(&runtime).unwrap();
    fs::rename(&elsewhere, &runtime).unwrap();
    lose();
    eventually("the metrics are served again", || daemon.metrics().contains("cgview_requests"));
    finish(load, &daemon, lost);
}
