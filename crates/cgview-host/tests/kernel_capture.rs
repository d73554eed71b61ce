//! A capture of a real container.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use cgview_core::{Snapshot, tree::ProcFile, view::Parts};
use cgview_host::{Caller, Host};
use cgview_testkit::{Spawn, Tree, pause};

/// The limits and the counts that stand still while everything sleeps.
fn settled(host: &Host, caller: &Caller) -> String {
    let mut snapshot = Snapshot::default();
    caller.container.sample(host, Parts::ALL, &mut snapshot).unwrap();
    let memory: Vec<_> =
        snapshot.memory.iter().map(|level| (&level.cgroup, level.max, level.high)).collect();
    let tasks = snapshot.tasks.unwrap();
    format!(
        "{:?}\n{memory:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?} {:?}",
        snapshot.started,
        snapshot.cpu,
        snapshot.cpuset,
        snapshot.pids,
        snapshot.hugetlb,
        (tasks.total, tasks.last_pid),
        snapshot.pressure.cgroup,
    )
}

fn size(dir: &Path) -> u64 {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { size(&entry.path()) } else { metadata.len() }
        })
        .sum()
}

// slice           limits
// └─ ct           pid, mnt, cgroup, time
//    ├─ init      the init, which moved there
//    └─ app/deep  <- captured
#[test]
fn a_captured_container_is_what_it_was() {
    let Some(tree) = Tree::new() else { return };
    let slice = tree.cgroup("slice");
    let ct = tree.bare_cgroup("slice/ct");
    if tree.has("memory") {
        slice.limit_memory(300 << 20);
    }
    if tree.has("cpu") {
        slice.limit_cpu(50_000);
    }
    if tree.has("pids") {
        slice.limit_pids(77);
    }
    let init = Spawn::new().cgroup(&ct).container().boottime_offset(500).run(pause);
    tree.bare_cgroup("slice/ct/init").add(init.pid());
    let deep = tree.bare_cgroup("slice/ct/app/deep");
    let process =
        Spawn::new().cgroup(&deep).join(&init, &["pid", "mnt", "cgroup", "time"]).run(pause);

    let live = Host::live().unwrap();
    let dir = tempfile::tempdir().unwrap();
    live.capture(process.pid(), dir.path()).unwrap();
    let captured = Host::at(dir.path()).unwrap();
    let (before, after) =
        (live.caller(process.pid()).unwrap(), captured.caller(process.pid()).unwrap());
    assert_eq!(before.container.id(), after.container.id());
    assert_eq!(before.reader, after.reader);
    assert_eq!(after.reader.timens.boottime, 500_000_000);
    assert_eq!(before.container.init(), Some(init.pid()));
    assert_eq!(after.container.init(), Some(init.pid()));
    assert_eq!(settled(&live, &before), settled(&captured, &after));
    assert_eq!(live.layout(), captured.layout());

    let (now, then) = (live.boottime().unwrap(), captured.boottime().unwrap());
    assert!(then <= now && now.0 - then.0 < 60_000_000, "{then:?} {now:?}");
    let (mut facts, host) = (captured.facts().unwrap(), live.facts().unwrap());
    facts.memory = host.memory;
    assert_eq!(facts, host);
    for file in ProcFile::ALL {
        assert_eq!(captured.has(file.path()), live.has(file.path()), "{}", file.path());
    }
    // It is for repositories of fixtures: a few KiB for each CPU, and no more.
    let cpus = u64::from(facts.online.len());
    assert!(size(dir.path()) < (100 << 10) + cpus * (16 << 10), "{}", size(dir.path()));
}
