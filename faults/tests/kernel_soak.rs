//! A daemon that is read for a long time takes no more than at the start.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

use std::{
    thread,
    time::{Duration, Instant},
};

use cgview_faults::{Daemon, Load, Resources, alone, seconds};
use cgview_testkit::Tree;

/// How much memory may come with time: what the allocator's arenas and the caches of a few more callers take.
/// A text that leaked with each read would be 1 KiB each, and thousands are read.
const RSS_SLACK: u64 = 1024;

/// The daemon's own, those of the connection, and 32 in place of those that wait for a slow kernel.
const MOST_THREADS: u64 = 48;

// host
// ├─ daemon
// └─ c0 ... c49 (each with limits of its own)   <- four readers each
#[test]
fn what_it_holds_does_not_grow() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::new() else { return };
    let _alone = alone();
    let daemon = Daemon::start(&tree, &[]);
    let idle = Resources::of(daemon.next_worker()).unwrap();
    let load = Load::start(&tree, &daemon);
    // Warm: each reader has read some of each.
    let warm_up = seconds() / 3;
    let mut samples = vec![(Duration::ZERO, idle)];
    let began = Instant::now();
    let (worker, keeper) = (daemon.next_worker(), daemon.pid());
    let keeper_at_first = Resources::of(keeper).unwrap();
    while began.elapsed() < warm_up + seconds() {
        thread::sleep((warm_up + seconds()) / 40);
        samples.push((began.elapsed(), Resources::of(worker).unwrap()));
    }
    let keeper_at_last = Resources::of(keeper).unwrap();
    let calls = load.totals().calls;
    let (totals, complaints) = load.finish(&daemon);

    println!("idle: {idle}");
    for (time, resources) in samples.iter().step_by(8).skip(1).chain(samples.last()) {
        println!("after {:.1} s: {resources}", time.as_secs_f32());
    }
    println!("the keeper: {keeper_at_first}; at last {keeper_at_last}");
    println!("{totals}");
    assert!(calls > 0);
    assert_eq!(
        (totals.failed, totals.aborted, totals.wrong),
        (0, 0, 0),
        "{complaints}\n{}",
        daemon.log()
    );
    assert_eq!(daemon.next_worker(), worker, "it ended meanwhile: {}", daemon.log());

    // The most in the first half after the warm-up, and in the second: noise is in both.
    let warm: Vec<_> = samples.iter().filter(|(time, _)| *time >= warm_up).collect();
    let (first, second) = warm.split_at(warm.len() / 2);
    let most = |samples: &[&(Duration, Resources)], of: fn(&Resources) -> u64| {
        samples.iter().map(|(_, resources)| of(resources)).max().unwrap()
    };
    let (before, after) = (most(first, |it| it.rss), most(second, |it| it.rss));
    assert!(after <= before + before / 10 + RSS_SLACK, "from {before} KiB to {after} KiB");
    let descriptors = |it: &Resources| u64::try_from(it.descriptors).unwrap();
    let (before, after) = (most(first, descriptors), most(second, descriptors));
    assert!(after <= before + before / 10 + 16, "from {before} descriptors to {after}");
    let (before, after) = (most(first, |it| it.threads), most(second, |it| it.threads));
    // Some are made while requests take long, and end when there is nothing to do for ten seconds.
    assert!(after <= before.max(MOST_THREADS), "from {before} threads to {after}");
    if keeper != worker {
        assert_eq!(keeper_at_first.descriptors, keeper_at_last.descriptors);
        assert_eq!(keeper_at_first.threads, keeper_at_last.threads);
        assert!(keeper_at_last.rss <= keeper_at_first.rss + 64, "the keeper took more memory");
    }
}
