use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    active: 4,
    lanes: 2,
    inline: 4,
    queued: 8,
    all_queued: 20,
    overdue: 3,
    all_overdue: 6,
    pace: Duration::from_millis(10),
    advance: Duration::from_millis(30),
    others: Duration::from_secs(1),
    moment: Duration::from_millis(5),
};
const PATIENCE: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_millis(300);

fn run(arrival: Arrival<u32>) -> Ticket {
    match arrival {
        Arrival::Run(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn started<J>(arrival: Arrival<J>) -> Option<Ticket> {
    match arrival {
        Arrival::Run(ticket) => Some(ticket),
        _ => None,
    }
}

#[test]
fn a_flood_waits_for_itself() {
    let now = Instant::now();
    let mut lanes = Lanes::new(LIMITS);
    let mut flood: Vec<Ticket> =
        (0..2).map(|job| run(lanes.arrive(Some('a'), Weight::Full, job, now))).collect();
    for job in 2..10 {
        assert_eq!(lanes.arrive(Some('a'), Weight::Full, job, now), Arrival::Queued);
    }
    assert_eq!(lanes.arrive(Some('a'), Weight::Full, 10, now), Arrival::Refused(10));
    // Others are worked on at once while there are threads, and then next but one.
    let others: Vec<_> = ['b', 'c']
        .map(|who| run(lanes.arrive(Some(who), Weight::Full, 20, now)))
        .into_iter()
        .collect();
    assert_eq!(lanes.arrive(Some('d'), Weight::Full, 30, now), Arrival::Queued);
    assert!(!lanes.has_work(now));
    assert_eq!(lanes.finish(flood.remove(0), now), Some(0));
    let next = lanes.take(true, now).unwrap();
    assert_eq!(lanes.job(&next), Some(2));
    assert_eq!(lanes.finish(next, now), Some(2));
    let next = lanes.take(true, now).unwrap();
    assert_eq!(lanes.job(&next), Some(30));
    assert_eq!(others.len(), 2);
}

#[test]
fn whose_it_is_may_turn_out_later() {
    let now = Instant::now();
    let mut lanes = Lanes::new(LIMITS);
    for job in 0..2 {
        run(lanes.arrive(Some('a'), Weight::Full, job, now));
    }
    let unknown = run(lanes.arrive(None, Weight::Full, 2, now));
    assert_eq!(lanes.found(unknown, 'a', now), Arrival::Queued);
    let unknown = run(lanes.arrive(None, Weight::Full, 3, now));
    let known = run(lanes.found(unknown, 'b', now));
    assert!(lanes.is_known(&known));
    assert_eq!((lanes.queued(), lanes.has_work(now)), (1, false));
}

#[test]
fn what_hangs_makes_way_and_is_late_once() {
    let now = Instant::now();
    let mut lanes = Lanes::new(LIMITS);
    let hung = run(lanes.arrive(Some('a'), Weight::Full, 0, now));
    run(lanes.arrive(Some('a'), Weight::Full, 1, now));
    assert_eq!(lanes.arrive(Some('a'), Weight::Full, 2, now), Arrival::Queued);
    assert!(lanes.expire(now + PATIENCE, PATIENCE, DEADLINE, DEADLINE).is_empty());
    // Threads are for others then, but not yet for this container.
    assert!(!lanes.has_work(now));
    let mut late = lanes.expire(now + DEADLINE, PATIENCE, DEADLINE, DEADLINE);
    late.sort_unstable();
    assert_eq!(late, [0, 1, 2]);
    assert_eq!((lanes.overdue(), lanes.queued()), (2, 0));
    assert!(lanes.expire(now + DEADLINE, PATIENCE, DEADLINE, DEADLINE).is_empty());
    run(lanes.arrive(Some('a'), Weight::Full, 3, now + DEADLINE));
    lanes.expire(now + 2 * DEADLINE, PATIENCE, DEADLINE, DEADLINE);
    // All that may hang of one container does.
    assert_eq!(lanes.arrive(Some('a'), Weight::Full, 4, now), Arrival::Stuck(4));
    assert_eq!(lanes.wait(Some('a'), Weight::Full, 4, now, now), None);
    assert!(!lanes.has_work(now));
    run(lanes.arrive(Some('b'), Weight::Full, 5, now));
    assert_eq!(lanes.finish(hung, now), Some(0));
    let next = lanes.take(false, now).unwrap();
    assert_eq!(lanes.job(&next), Some(4));
    run(lanes.arrive(Some('a'), Weight::Full, 6, now));
}

/// Somebody who has so many requests at a time, for so long, and then others: how many answers it gets meanwhile,
/// beside whoever else asks.
fn answers_to(limits: Limits, phases: &[(usize, Duration)], others: bool) -> Vec<u32> {
    let mut now = Instant::now();
    let mut lanes = Lanes::new(limits);
    let mut tickets: Vec<Ticket> = Vec::new();
    if others {
        let other = run(lanes.arrive(Some('b'), Weight::Full, 0, now));
        lanes.finish(other, now);
    }
    let mut answers_in = |requests: usize, time: Duration| {
        let (began, mut answers) = (now, 0);
        while now < began + time {
            while tickets.len() + lanes.queued() < requests {
                tickets.extend(started(lanes.arrive(Some('a'), Weight::Full, 1, now)));
            }
            now += Duration::from_millis(1);
            for ticket in std::mem::take(&mut tickets) {
                lanes.finish(ticket, now);
                answers += 1;
            }
            tickets.extend(std::iter::from_fn(|| lanes.take(false, now)));
            lanes.expire(now, PATIENCE, DEADLINE, DEADLINE);
        }
        answers
    };
    phases.iter().map(|&(requests, time)| answers_in(requests, time)).collect()
}

fn answers(requests: usize, others: bool, time: Duration) -> u32 {
    answers_to(LIMITS, &[(requests, time)], others)[0]
}

#[test]
fn a_flood_is_answered_at_a_pace_while_others_ask() {
    let second = Duration::from_secs(1);
    // Two lanes, and a millisecond for each request.
    assert!(answers(8, false, second) >= 1900);
    let crowd = answers(8, true, second);
    // A hundred, three in advance, and those at work at the end.
    assert!((100..=106).contains(&crowd), "{crowd}");
    // Others were here long ago.
    assert!(answers(8, true, 3 * second) > 3000);
    // As many as there are lanes are no crowd.
    for few in [1, 2] {
        assert_eq!(answers(few, true, second), answers(few, false, second));
    }
}

#[test]
fn whoever_is_left_of_a_crowd_has_no_pace() {
    let advance = Duration::from_millis(300);
    let limits = Limits { advance, others: Duration::from_secs(10), ..LIMITS };
    let phases = [(3, 600), (1, 400), (1, 300)].map(|(n, ms)| (n, Duration::from_millis(ms)));
    let [crowd, _, left] = answers_to(limits, &phases, true)[..] else { panic!("three phases") };
    assert!(crowd < 120, "{crowd}");
    assert!(left >= 295, "{left}");
}

/// Threads that send a light request for each answer, beside whoever else asks: how many answers they get in a
/// second, if the daemon has one for each within a millisecond. Whose they are may be known from the beginning.
fn light_answers(is_known: bool, threads: u32, others: bool) -> u32 {
    let (began, mut now) = (Instant::now(), Instant::now());
    let mut lanes = Lanes::new(LIMITS);
    let (mut tickets, mut answers) = (Vec::<Ticket>::new(), 0);
    let (mut whose, mut waiting) = (vec![is_known.then_some('a'); 8], vec![false; 8]);
    if others {
        let other = run(lanes.arrive(Some('b'), Weight::Full, 0, now));
        lanes.finish(other, now);
    }
    while now < began + Duration::from_secs(1) {
        now += Duration::from_millis(1);
        for ticket in std::mem::take(&mut tickets) {
            let thread = lanes.finish(ticket, now).unwrap();
            waiting[thread as usize] = false;
            answers += 1;
        }
        for thread in (0..threads).filter(|thread| !waiting[*thread as usize]).collect::<Vec<_>>() {
            let who = whose[thread as usize];
            if lanes.pass(&who, thread, now) {
                answers += 1;
                continue;
            }
            waiting[thread as usize] = true;
            let arrival = lanes.arrive(who, Weight::Light, thread, now);
            tickets.extend(started(arrival));
        }
        // Whose they are is found out, now that it matters.
        for ticket in std::mem::take(&mut tickets) {
            whose[lanes.job(&ticket).unwrap() as usize] = Some('a');
            tickets.extend(started(lanes.found(ticket, 'a', now)));
        }
        tickets.extend(std::iter::from_fn(|| lanes.take(false, now)));
        lanes.expire(now, PATIENCE, DEADLINE, DEADLINE);
    }
    answers
}

#[test]
fn light_requests_of_many_threads_have_a_pace_while_others_ask() {
    assert_eq!(light_answers(true, 8, false), 8000);
    // Four as one: in a second four hundred, twelve in advance, and some at its beginning and end.
    for is_known in [true, false] {
        let crowd = light_answers(is_known, 8, true);
        assert!((400..=440).contains(&crowd), "{is_known}: {crowd}");
    }
    // As many threads as there are lanes are no crowd.
    for few in [1, 2] {
        assert_eq!(light_answers(true, few, true), few * 1000);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(Option<u8>),
    Pass(Option<u8>, u32),
    Found(usize, u8),
    Finish(usize),
    Take(bool),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::option::of(0..4_u8).prop_map(Step::Arrive),
        4 => (prop::option::of(0..4_u8), 0..9_u32).prop_map(|(who, asker)| Step::Pass(who, asker)),
        1 => (0..8_usize, 0..4_u8).prop_map(|(which, whose)| Step::Found(which, whose)),
        3 => (0..8_usize).prop_map(Step::Finish),
        2 => any::<bool>().prop_map(Step::Take),
        1 => (0..400_u16).prop_map(Step::Wait),
    ]
}

proptest! {
    /// However many requests the others have and send anew: of each of them, no more than one is begun between the
    /// arrival of another container's request and its own beginning.
    #[test]
    fn others_pass_by(
        floods in prop::collection::vec(1..7_u32, 1..4),
        before in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        after in prop::collection::vec(any::<prop::sample::Index>(), 50),
    ) {
        const OTHER: usize = 99;
        let mut now = Instant::now();
        let mut lanes = Lanes::new(LIMITS);
        let mut tickets = Vec::new();
        for (whose, count) in floods.iter().enumerate() {
            for _ in 0..*count {
                tickets.extend(started(lanes.arrive(Some(whose), Weight::Full, whose, now)));
            }
        }
        let mut begun = None::<Vec<usize>>;
        for step in before.iter().map(Some).chain([None]).chain(after.iter().map(Some)) {
            now += Duration::from_millis(1);
            let mut new: Vec<Ticket> = Vec::new();
            match step {
                Some(which) if !tickets.is_empty() => {
                    let ticket = tickets.swap_remove(which.index(tickets.len()));
                    let whose = lanes.finish(ticket, now).unwrap();
                    if whose != OTHER {
                        new.extend(started(lanes.arrive(Some(whose), Weight::Full, whose, now)));
                    }
                }
                Some(_) => {}
                None => {
                    begun = Some(Vec::new());
                    new.extend(started(lanes.arrive(Some(OTHER), Weight::Full, OTHER, now)));
                }
            }
            new.extend(std::iter::from_fn(|| lanes.take(false, now)));
            if let Some(begun) = begun.as_mut() {
                begun.extend(new.iter().filter_map(|ticket| lanes.job(ticket)));
            }
            tickets.extend(new);
        }
        let begun = begun.unwrap();
        let place = begun.iter().position(|whose| *whose == OTHER);
        prop_assert!(place.is_some(), "{begun:?}");
        for whose in 0..floods.len() {
            let count = begun.iter().take_while(|job| **job != OTHER).filter(|job| **job == whose).count();
            prop_assert!(count <= 1, "{begun:?}");
        }
    }

    #[test]
    fn each_request_is_done_with_once(steps in prop::collection::vec(step(), 0..200)) {
        let mut lanes = Lanes::new(LIMITS);
        let mut now = Instant::now();
        let (mut tickets, mut came, mut ended) = (Vec::new(), 0_u32, Vec::new());
        for step in steps {
            let arrival = match step {
                Step::Arrive(whose) => {
                    came += 1;
                    lanes.arrive(whose, Weight::Full, came, now)
                }
                Step::Pass(whose, asker) if lanes.pass(&whose, asker, now) => Arrival::Queued,
                Step::Pass(whose, _) => {
                    came += 1;
                    lanes.arrive(whose, Weight::Light, came, now)
                }
                Step::Found(which, whose) if which < tickets.len() => {
                    lanes.found(tickets.swap_remove(which), whose, now)
                }
                Step::Take(inline) => match lanes.take(inline, now) {
                    Some(ticket) => Arrival::Run(ticket),
                    None => Arrival::Queued,
                },
                Step::Finish(which) if which < tickets.len() => {
                    ended.extend(lanes.finish(tickets.swap_remove(which), now));
                    Arrival::Queued
                }
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms.into());
                    let running: Vec<_> =
                        tickets.iter().filter_map(|ticket| lanes.job(ticket)).collect();
                    let late = lanes.expire(now, PATIENCE, DEADLINE, DEADLINE);
                    // Those that waited are done with.
                    ended.extend(late.into_iter().filter(|job| !running.contains(job)));
                    Arrival::Queued
                }
                Step::Found(..) | Step::Finish(_) => Arrival::Queued,
            };
            match arrival {
                Arrival::Run(ticket) => tickets.push(ticket),
                // Some can be answered in another way.
                Arrival::Stuck(job) if job % 2 == 0 => ended.push(job),
                Arrival::Stuck(job) => {
                    let whose = Some((job % 4) as u8);
                    ended.extend(lanes.wait(whose, Weight::Full, job, now, now));
                }
                Arrival::Refused(job) => ended.push(job),
                Arrival::Queued => {}
            }
            prop_assert!(lanes.active <= LIMITS.active && lanes.inline <= LIMITS.inline);
            prop_assert_eq!(lanes.running.len(), tickets.len());
            let queues = lanes.containers.values().map(|lane| lane.queue.len());
            prop_assert_eq!(lanes.queued, queues.sum::<usize>());
            prop_assert_eq!(ended.len() + tickets.len() + lanes.queued, came as usize);
            for (whose, lane) in &lanes.containers {
                prop_assert!(whose.is_none() || lane.active <= LIMITS.lanes);
                prop_assert!(!lane.is_empty());
                let waits = lanes.turns.iter().filter(|turn| *turn == whose).count();
                prop_assert_eq!(waits, usize::from(!lane.queue.is_empty()));
            }
            if tickets.is_empty() {
                prop_assert!(lanes.queued == 0 || lanes.has_work(now) || lanes.rested(now).is_some());
            }
        }
    }
}
