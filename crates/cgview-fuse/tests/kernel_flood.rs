//! One container that reads as fast as it can does not keep others waiting, on a real kernel.
#![expect(clippy::print_stdout, reason = "figures for people")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemon;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Cgroup, Process, Spawn, Tree, is_guest, skip};
use daemon::Daemon;

/// Who floods the daemon.
const READERS: usize = 24;

/// How often the other container reads.
const READS: usize = 400;

fn flood(cgroup: &Cgroup, path: &Path) -> Vec<Process> {
    let reader = |_| {
        Spawn::new().cgroup(cgroup).run(|| {
            while fs::read(path).is_ok() {}
            1
        })
    };
    (0..READERS).map(reader).collect()
}

/// How long reads of another container take, in microseconds: the median, and all but one in a hundred.
fn latencies(cgroup: &Cgroup, path: &Path) -> (u128, u128) {
    let output = tempfile::NamedTempFile::new().unwrap();
    let into: PathBuf = output.path().to_owned();
    let process = Spawn::new().cgroup(cgroup).run(|| {
        let mut times = Vec::with_capacity(READS);
        for _ in 0..READS {
            thread::sleep(Duration::from_micros(500));
            let start = Instant::now();
            if fs::read(path).is_err() {
                return 1;
            }
            times.push(start.elapsed().as_micros());
        }
        times.sort_unstable();
        let at = |index: usize| times.get(index).copied().unwrap_or_default();
        let text = format!("{} {}", at(READS / 2), at(READS * 99 / 100));
        i32::from(fs::write(&into, text).is_err())
    });
    assert_eq!(process.wait(), 0);
    let text = fs::read_to_string(output.path()).unwrap();
    let (median, most) = text.split_once(' ').unwrap();
    (median.parse().unwrap(), most.parse().unwrap())
}

// host
// ├─ flood (half a CPU)   <- 24 readers, without a pause
// └─ other                <- reads now and then
#[test]
fn a_flood_leaves_others_alone() {
    if !Daemon::is_possible() {
        return;
    }
    if is_guest() {
        return skip("floods an emulated CPU, which has no time for that");
    }
    let Some(tree) = Tree::with(&["memory", "cpu"]) else { return };
    let (flooding, other) = (tree.cgroup("flood"), tree.cgroup("other"));
    flooding.limit_cpu(50_000);
    let daemon = Daemon::start(&[]);
    let path = daemon.path("proc/meminfo");
    let idle = latencies(&other, &path);
    // The same load, but of the kernel: what the flood costs by its use of the CPUs alone.
    let native = flood(&flooding, Path::new("/proc/meminfo"));
    let beside_native = latencies(&other, &path);
    drop(native);
    let before = daemon.requests("read");
    let readers = flood(&flooding, &path);
    let beside_flood = latencies(&other, &path);
    drop(readers);
    assert!(daemon.requests("read") - before > 2 * READS as u64, "that is no flood");
    println!(
        "median and p99 in us: idle {idle:?}, beside readers of the kernel {beside_native:?}, beside the flood \
         {beside_flood:?}"
    );
    // How much a flood may delay others is counted in requests (`dispatch::lanes`); the time is the machine's, and
    // only that nobody starves is a matter of it.
    assert!(beside_flood.1 < 5_000_000, "{beside_flood:?}");
}
