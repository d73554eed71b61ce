//! A request that no worker survives ends with an error, and not with all workers.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

use std::{fs, sync::Arc};

use cgview_faults::{Daemon, Load, Scale, Shape, alone, kernel_is_at_least, other_program};
use cgview_testkit::{Spawn, Tree};

/// In a container, a version that is told so crashes at this.
const FATAL: &str = "proc/diskstats";

// host
// ├─ daemon (crashes when a container reads a certain file)
// ├─ fatal     <- reads it, three times
// └─ c0 ...    <- readers of the other files
fn is_given_up(how: &str) {
    if !Daemon::is_possible() {
        return;
    }
    let Some(other) = other_program() else { return };
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let variables = [("CGVIEW_TEST_CRASH", how)];
    let daemon = Daemon::start_with(tree.cgroup("daemon"), Arc::default(), &other, &[], &variables);
    let scale = Scale { containers: 3, readers: 2, ..Scale::of_machine() };
    let load = Load::with(&tree, &daemon, &Shape { scale, without: &[FATAL], ..Shape::default() });
    // The test itself may have read it, as what it is.
    let begun = daemon.log().len();
    let path = daemon.path(FATAL);
    let resends = kernel_is_at_least(6, 9);
    let expected = if resends { libc::EIO } else { libc::ECONNABORTED };
    let fatal = Spawn::new().cgroup(&tree.cgroup("fatal")).container().run(move || {
        for _ in 0..3 {
            match fs::read(&path) {
                Err(error) if error.raw_os_error() == Some(expected) => {}
                read => panic!("{read:?}"),
            }
        }
        0
    });
    assert_eq!(fatal.wait(), 0, "{}", daemon.log());
    load.all_read();
    let (totals, complaints) = load.finish(&daemon);
    let log = daemon.log().split_off(begun);
    let deaths = log.matches("took over from a worker that was ended by ").count();
    println!("{deaths} workers crashed; {totals}");
    // Each read takes along as few as it takes to know that it is to blame.
    assert_eq!(deaths, if resends { 6 } else { 3 }, "{log}");
    let given_up = "cannot answer a request for /proc/diskstats: 2 workers crashed at it";
    assert_eq!(log.matches(given_up).count(), if resends { 3 } else { 0 }, "{log}");
    assert_eq!((totals.failed, totals.wrong, totals.back), (0, 0, 0), "{complaints}\n{log}");
    let most = if resends { 0 } else { 3 * totals.readers as u64 };
    assert!(totals.aborted <= most, "{complaints}\n{log}");
}

#[test]
fn a_request_that_aborts_workers_is_given_up() {
    is_given_up("abort");
}

#[test]
fn a_request_that_takes_all_stack_is_given_up() {
    is_given_up("overflow");
}

#[test]
fn a_request_that_takes_all_memory_is_given_up() {
    is_given_up("exhaust");
}
