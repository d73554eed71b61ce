//! The program is replaced by another one while it serves.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use cgview_faults::{
    Daemon, Load, Scale, Shape, alone, kernel_is_at_least, other_program, program, seconds,
};
use cgview_testkit::Tree;

const THREADS: &str = "4";

// host
// ├─ daemon (this version, then another one, then this one again ...)
// └─ c0 ... c49   <- four readers each
#[test]
fn an_upgrade_and_a_downgrade_are_not_noticed() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(other) = other_program() else { return };
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let mut daemon = Daemon::start(&tree, &["--threads", THREADS]);
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
    let (totals, complaints) = load.finish(&daemon);
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

// host
// ├─ daemon (this version, which another one with another layout of the ledger cannot follow)
// └─ c0 ...   <- readers
#[test]
fn a_version_that_cannot_read_the_ledger_changes_nothing() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(other) = other_program() else { return };
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &["--threads", THREADS]);
    let scale = Scale { containers: 3, readers: 2, ..Scale::of_machine() };
    let load = Load::with(&tree, &daemon, &Shape { scale, ..Shape::default() });
    let layout = [("CGVIEW_TEST_LAYOUT", "1")];
    let said = daemon.fail_to_replace(&other, &["--replace"], &layout);
    assert!(said.contains("cannot take over from the keeper of "), "{said}");
    assert!(said.contains("the ledger has an unknown layout"), "{said}");
    load.all_read();
    let (totals, complaints) = load.finish(&daemon);
    assert_eq!((totals.failed, totals.wrong, totals.back), (0, 0, 0), "{complaints}");
    let most = if kernel_is_at_least(6, 9) { 0 } else { totals.readers as u64 };
    assert!(totals.aborted <= most, "{complaints}");
}
