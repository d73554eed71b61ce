//! The program is replaced by another one while it serves.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use cgview_faults::{Daemon, Load, alone, kernel_is_at_least, program, seconds};
use cgview_testkit::Tree;

const THREADS: &str = "4";

// host
// ├─ daemon (the program of one path, then of another one, then of the first again ...)
// └─ c0 ... c49   <- four readers each
#[test]
fn an_upgrade_and_a_downgrade_are_not_noticed() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let mut daemon = Daemon::start(&tree, &["--threads", THREADS]);
    let other = daemon.dirs().path("cgview-fuse-other");
    fs::copy(program(), &other).unwrap();
    let load = Load::start(&tree, &daemon);
    let end = Instant::now() + seconds();
    let mut longest = Duration::ZERO;
    let mut count = 0;
    while Instant::now() < end || count < 2 {
        let before = daemon.next_worker();
        let began = Instant::now();
        let next = if count % 2 == 0 { other.clone() } else { program() };
        daemon = daemon.replace(&next, &["--replace", "--threads", THREADS]);
        longest = longest.max(began.elapsed());
        let worker = daemon.next_worker();
        assert_ne!(worker, before, "{}", daemon.log());
        let serves = fs::read_link(format!("/proc/{worker}/exe")).unwrap();
        assert_eq!(serves, fs::canonicalize(&next).unwrap());
        count += 1;
        thread::sleep(Duration::from_millis(200));
    }
    load.all_read();
    let complaints = load.complaints();
    let totals = load.finish(&daemon);
    println!("{count} hand-overs, of {} ms at most; {totals}", longest.as_millis());
    assert_eq!(
        (totals.failed, totals.wrong, totals.back),
        (0, 0, 0),
        "{complaints}\n{}",
        daemon.log()
    );
    // Where requests cannot be sent anew: one call of each reader.
    let most = if kernel_is_at_least(6, 9) { 0 } else { count * totals.readers as u64 };
    assert!(totals.aborted <= most, "{complaints}");
}
