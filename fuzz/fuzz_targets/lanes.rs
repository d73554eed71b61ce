//! The fair queue of requests: whatever comes, hangs and ends, each request is done with once, no container
//! takes more than its share, and nothing waits while it could be worked on.
#![no_main]

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use cgview_fuse::dispatch::lanes::{Arrival, Lanes, Limits, Ticket, Weight};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    active: 4,
    lanes: 2,
    inline: 3,
    queued: 4,
    all_queued: 9,
    overdue: 3,
    all_overdue: 6,
    pace: Duration::from_millis(10),
    advance: Duration::from_millis(30),
    others: Duration::from_secs(1),
    moment: Duration::from_millis(5),
};
const PATIENCE: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_millis(300);
const LAST: Duration = Duration::from_millis(900);

#[derive(Arbitrary, Debug)]
enum Step {
    Arrive(Option<u8>),
    /// A light request of a thread.
    Pass(Option<u8>, u8),
    Found(u8, u8),
    Finish(u8),
    Take(bool),
    Wait(u16),
}

fuzz_target!(|steps: Vec<Step>| {
    let mut lanes = Lanes::new(LIMITS);
    let mut now = Instant::now();
    let mut running: Vec<Ticket> = Vec::new();
    let mut whose: HashMap<u32, Option<u8>> = HashMap::new();
    let mut late: Vec<u32> = Vec::new();
    let (mut came, mut ended) = (0, 0);
    for step in steps {
        let arrival = match step {
            Step::Arrive(who) => {
                let who = who.map(|who| who % 4);
                came += 1;
                whose.insert(came, who);
                lanes.arrive(who, Weight::Full, came, now)
            }
            Step::Pass(who, asker) => {
                let who = who.map(|who| who % 4);
                if lanes.pass(&who, asker.into(), now) {
                    continue;
                }
                came += 1;
                whose.insert(came, who);
                lanes.arrive(who, Weight::Light, came, now)
            }
            Step::Found(which, who) if !running.is_empty() => {
                let ticket = running.swap_remove(usize::from(which) % running.len());
                let job = lanes.job(&ticket).expect("it runs");
                if !late.contains(&job) {
                    whose.insert(job, Some(who % 4));
                }
                lanes.found(ticket, who % 4, now)
            }
            Step::Finish(which) if !running.is_empty() => {
                let ticket = running.swap_remove(usize::from(which) % running.len());
                let job = lanes.finish(ticket, now).expect("it ran");
                late.retain(|late| *late != job);
                ended += 1;
                continue;
            }
            Step::Take(inline) => match lanes.take(inline, now) {
                Some(ticket) => Arrival::Run(ticket),
                None => continue,
            },
            Step::Wait(ms) => {
                now += Duration::from_millis(ms.into());
                let at_work: Vec<u32> =
                    running.iter().filter_map(|ticket| lanes.job(ticket)).collect();
                for job in lanes.expire(now, PATIENCE, DEADLINE, LAST) {
                    if at_work.contains(&job) {
                        assert!(!late.contains(&job), "it is late twice");
                        late.push(job);
                    } else {
                        ended += 1;
                    }
                }
                let waiting = lanes.waiting_for(now, DEADLINE);
                assert!(waiting.iter().all(|job| !at_work.contains(job)), "it waits no more");
                // Some can be answered in another way.
                if ms % 2 == 1 {
                    lanes.retain(|job| !waiting.contains(job));
                    ended += waiting.len();
                }
                assert_eq!(ended + running.len() + lanes.queued(), came as usize);
                continue;
            }
            Step::Found(..) | Step::Finish(_) => continue,
        };
        match arrival {
            Arrival::Run(ticket) => running.push(ticket),
            // Some can be answered in another way.
            Arrival::Stuck(job) if job % 2 == 0 => ended += 1,
            Arrival::Stuck(job) => {
                let refused = lanes.wait(whose[&job], Weight::Full, job, now, now);
                ended += usize::from(refused.is_some());
            }
            Arrival::Refused(_) => ended += 1,
            Arrival::Queued => {}
        }
        assert_eq!(ended + running.len() + lanes.queued(), came as usize);
        assert_eq!(lanes.overdue(), late.len());
        for who in 0..4 {
            let jobs = running.iter().filter_map(|ticket| lanes.job(ticket));
            let own = jobs.filter(|job| whose[job] == Some(who) && !late.contains(job)).count();
            assert!(own <= LIMITS.lanes, "{own} lanes of one container");
        }
        // Who had too much rests, and for no longer than that.
        let rests = lanes.rested(now);
        assert!(
            !running.is_empty() || lanes.queued() == 0 || lanes.has_work(now) || rests.is_some()
        );
        assert!(rests.is_none_or(|until| lanes.has_work(until) || !running.is_empty()));
    }
});
