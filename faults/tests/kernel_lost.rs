//! All of the daemon is killed, and a new one takes the dead mounts' place while containers run.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

use std::time::{Duration, Instant};

use cgview_faults::{Daemon, Load, Scale, Shape, alone, command, is_guest, seconds};
use cgview_testkit::Tree;

// host
// ├─ daemon (all of it is killed, and another one started)
// └─ c0 ... c49   <- four readers each, whose mounts are repaired
#[test]
fn a_daemon_that_is_lost_is_made_good() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let mut daemon = Daemon::start(&tree, &[]);
    let machine = Scale::of_machine();
    // Each reader finds its files again one by one.
    let scale = if is_guest() { Scale { containers: 3, readers: 2, ..machine } } else { machine };
    let load = Load::with(&tree, &daemon, &Shape { scale, ..Shape::default() });
    let end = Instant::now() + seconds();
    let mut count = 0;
    let mut longest = Duration::ZERO;
    loop {
        let before = load.totals();
        let began = Instant::now();
        daemon = daemon.lose(&["--replace"]);
        let started = Instant::now();
        let mut repair = command();
        repair.args(["doctor", "--repair", "--mountpoint"]).arg(daemon.mountpoint());
        // Of this test's containers: the machine may have dead mounts of others.
        for pid in load.pids() {
            repair.args(["--pid", &pid.to_string()]);
        }
        let output = repair.output().expect("cannot run cgview");
        let (repaired, whole) = (started.elapsed(), began.elapsed());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        load.all_succeed();
        let failed = load.totals().failed + load.totals().aborted - before.failed - before.aborted;
        println!(
            "{} containers were repaired in {} ms, {} ms after the daemon was killed; {failed} calls failed",
            scale.containers,
            repaired.as_millis(),
            whole.as_millis()
        );
        // They had noticed.
        assert_ne!(failed, 0);
        longest = longest.max(whole);
        count += 1;
        if Instant::now() > end {
            break;
        }
    }
    let (totals, complaints) = load.finish(&daemon);
    println!("{count} losses, of {} ms at most; {totals}", longest.as_millis());
    // An error, but never another's text, and no counter that is less than the daemon of before had told.
    assert_eq!((totals.wrong, totals.back), (0, 0), "{complaints}");
}
