//! One container that reads as fast as it can does not keep others waiting.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use cgview_faults::{Act, Daemon, Flood, Reads, alone, is_guest, seconds};
use cgview_testkit::{Tree, skip};

/// Threads that flood the daemon.
const FLOOD: usize = 24;

/// The other container reads a hundred times a second.
const PAUSE: Duration = Duration::from_millis(10);

// host
// ├─ daemon
// ├─ flood    <- 24 threads, without a pause
// └─ other    <- reads now and then
#[test]
fn a_flood_leaves_others_alone() {
    /// What a container may have at once that asks for more than is worked on at a time, and then in a second.
    const AT_ONCE: f64 = 1000.0;
    const IN_A_SECOND: f64 = 2000.0;
    if !Daemon::is_possible() {
        return;
    }
    if is_guest() {
        return skip("floods an emulated CPU, which has no time for that");
    }
    let Some(tree) = Tree::with(&["memory", "cpu"]) else { return };
    let _alone = alone();
    let (flooding, other) = (tree.cgroup("flood"), tree.cgroup("other"));
    let daemon = Daemon::start(&tree, &[]);
    let path = daemon.path("proc/meminfo");
    let count = usize::try_from((seconds() / 8).as_millis() / PAUSE.as_millis()).unwrap();
    let reads = |flood: Option<&Flood>| Reads::of(&other, &path, count.max(20), PAUSE, flood);
    println!("idle: {}", reads(None));
    // What the use of the CPUs alone costs the other.
    for (what, act) in [
        ("a CPU burner", Act::Burn),
        ("readers of the kernel", Act::Read(Path::new("/proc/meminfo"))),
    ] {
        let flood = Flood::start(&flooding, FLOOD, act);
        println!("beside {what}: {}", reads(Some(&flood)));
    }
    // What takes the daemon next to nothing is a fourth of what a text is.
    for (what, act, times) in [
        ("readers", Act::Read(&path), 1.0),
        ("readers that are new each time", Act::ReadByNew(&path), 1.0),
        ("those who open", Act::Open(&path), 4.0),
        ("those who stat", Act::Stat(&path), 4.0),
    ] {
        let began = Instant::now();
        let flood = Flood::start(&flooding, FLOOD, act);
        // First come, first served would be all 24, however short the wait. While the other one waits for a CPU of
        // a busy machine, they go on at their pace; and that is what not every round has to show.
        let mut rounds = 0;
        loop {
            let reads = reads(Some(&flood));
            println!("beside {what}: {reads}");
            let paced = times * IN_A_SECOND * reads.time().as_secs_f64();
            if (reads.overtaken() as f64) < FLOOD as f64 / 4.0 + paced {
                break;
            }
            rounds += 1;
            assert!(rounds < 10, "{reads}");
        }
        let most = times * (AT_ONCE + IN_A_SECOND * began.elapsed().as_secs_f64());
        let count = flood.count();
        println!("{count} in {:.1} s", began.elapsed().as_secs_f64());
        // Some more, before it was known that it is a flood.
        assert!((count as f64) < most + times * AT_ONCE, "{count} of {most}");
    }
}
