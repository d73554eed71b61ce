//! Who is next: a fair queue of requests, as plain data. It knows no threads and no clock.
//!
//! Each container has a few lanes, and a request waits while all of them are taken: so one that floods the
//! daemon waits for itself, and the others' requests pass by. A lane whose request is overdue is open to
//! the next one, so that one file that hangs does not hide the others; how many may be overdue is bounded.
//!
//! What is in front of the daemon is not in this queue: the kernel's own is first come, first served. Whoever
//! is answered asks again, and so a flood that is answered at once fills it, and takes the CPUs. So while
//! others ask, too, a container that keeps having more requests than lanes is answered at a certain *pace*: its
//! requests wait here, where the others' pass by.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// How many there may be of what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Requests at work at the same time; those that are slow are not counted.
    pub active: usize,
    /// Of one container.
    pub lanes: usize,
    /// Threads of the connection that may be at work: one less than there are, so that one is always left to
    /// take requests.
    pub inline: usize,
    /// Requests that wait, of one container.
    pub queued: usize,
    /// Requests that wait, of all.
    pub all_queued: usize,
    /// Requests that are overdue and still at work, of one container.
    pub overdue: usize,
    /// Requests that are overdue and still at work, of all: each holds a thread.
    pub all_overdue: usize,
    /// In how long a container that crowds may have one answer.
    pub pace: Duration,
    /// How much of that it may have in advance; and for how long it is taken to crowd once it did.
    pub advance: Duration,
    /// For how long the requests of another container are a reason for that.
    pub others: Duration,
}

/// A request that is at work, for [`Lanes::finish`].
#[derive(Debug, Eq, Hash, PartialEq)]
pub struct Ticket(usize);

/// What becomes of a request that came.
#[derive(Debug, Eq, PartialEq)]
pub enum Arrival<J> {
    /// The thread that brought it is to work on it.
    Run(Ticket),
    /// It waits.
    Queued,
    /// There is no room for it.
    Refused(J),
}

/// Requests at work and requests that wait. `K` is what a container is known by, `J` what a request is to
/// its user.
///
/// Whose a request is may be unknown, `None`: then it waits for no lane.
#[derive(Debug)]
pub struct Lanes<K, J> {
    limits: Limits,
    containers: HashMap<Option<K>, Lane<J>>,
    /// Containers whose requests wait, in turn.
    turns: VecDeque<Option<K>>,
    running: HashMap<usize, Running<K, J>>,
    next: usize,
    queued: usize,
    active: usize,
    inline: usize,
    overdue: usize,
    /// Whose request came last.
    last: Option<K>,
    /// When a request came last that was another one's than the one before it.
    others: Option<Instant>,
}

#[derive(Debug)]
struct Lane<J> {
    active: usize,
    overdue: usize,
    /// When it had more requests than lanes last.
    crowded: Option<Instant>,
    /// When it may have had all that it had while it crowded.
    due: Option<Instant>,
    queue: VecDeque<(Instant, J)>,
}

impl<J> Default for Lane<J> {
    fn default() -> Lane<J> {
        Lane { active: 0, overdue: 0, crowded: None, due: None, queue: VecDeque::new() }
    }
}

#[derive(Debug)]
struct Running<K, J> {
    job: J,
    whose: Option<K>,
    came: Instant,
    began: Instant,
    inline: bool,
    pace: Pace,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pace {
    Usual,
    /// Others are let in beside it.
    Slow,
    /// Its reader has been answered.
    Overdue,
}

impl<K: Clone + Eq + Hash, J: Clone> Lanes<K, J> {
    /// Nothing at work.
    #[must_use]
    pub fn new(limits: Limits) -> Lanes<K, J> {
        Lanes {
            limits,
            containers: HashMap::new(),
            turns: VecDeque::new(),
            running: HashMap::new(),
            next: 0,
            queued: 0,
            active: 0,
            inline: 0,
            overdue: 0,
            last: None,
            others: None,
        }
    }

    /// A request came, on a thread of the connection, which is to work on it or on one that waits longer.
    pub fn arrive(&mut self, whose: Option<K>, job: J, now: Instant) -> Arrival<J> {
        self.meet(&whose, now);
        let free = self.active < self.limits.active && self.inline < self.limits.inline;
        if free && self.queued == 0 && self.has_lane(&whose, now) {
            return Arrival::Run(self.start(whose, job, now, now, true));
        }
        match self.enqueue(whose, job, now, now) {
            None => self.take(true, now).map_or(Arrival::Queued, Arrival::Run),
            Some(job) => Arrival::Refused(job),
        }
    }

    /// It turned out whose request it is that is at work. If its container has no lane for it, it waits or
    /// is refused, and its thread is free for another.
    pub fn found(&mut self, ticket: Ticket, whose: K, now: Instant) -> Arrival<J> {
        let whose = Some(whose);
        self.meet(&whose, now);
        let Some(running) = self.running.get_mut(&ticket.0) else { return Arrival::Run(ticket) };
        if running.whose == whose || running.pace == Pace::Overdue {
            return Arrival::Run(ticket);
        }
        let before = running.whose.take();
        let came = running.came;
        self.leave(&before);
        if self.has_lane(&whose, now) {
            if let Some(running) = self.running.get_mut(&ticket.0) {
                running.whose.clone_from(&whose);
            }
            self.containers.entry(whose).or_default().active += 1;
            return Arrival::Run(ticket);
        }
        // It has left its lane already.
        self.containers.entry(None).or_default().active += 1;
        let Some(job) = self.end(ticket) else { return Arrival::Queued };
        match self.enqueue(whose, job, came, now) {
            None => Arrival::Queued,
            Some(job) => Arrival::Refused(job),
        }
    }

    /// The next request that may be worked on, for a thread of the connection (`inline`) or another one.
    pub fn take(&mut self, inline: bool, now: Instant) -> Option<Ticket> {
        if self.active >= self.limits.active || (inline && self.inline >= self.limits.inline) {
            return None;
        }
        for _ in 0..self.turns.len() {
            let whose = self.turns.pop_front()?;
            let open = self.has_lane(&whose, now);
            let Some(lane) = self.containers.get_mut(&whose) else { continue };
            let job = if open { lane.queue.pop_front() } else { None };
            if !lane.queue.is_empty() {
                self.turns.push_back(whose.clone());
            }
            if let Some((came, job)) = job {
                self.queued = self.queued.saturating_sub(1);
                return Some(self.start(whose, job, came, now, inline));
            }
        }
        None
    }

    /// What a ticket is for.
    #[must_use]
    pub fn job(&self, ticket: &Ticket) -> Option<J> {
        self.running.get(&ticket.0).map(|running| running.job.clone())
    }

    /// Whether it is known whose request it is.
    #[must_use]
    pub fn is_known(&self, ticket: &Ticket) -> bool {
        self.running.get(&ticket.0).is_some_and(|running| running.whose.is_some())
    }

    /// Work on a request has ended. Returns it.
    pub fn finish(&mut self, ticket: Ticket, now: Instant) -> Option<J> {
        let Limits { pace, advance, others, .. } = self.limits;
        let within = |at: Option<Instant>, time: Duration| {
            at.is_some_and(|at| now.saturating_duration_since(at) < time)
        };
        if let Some(running) = self.running.get(&ticket.0)
            && running.pace == Pace::Usual
            && within(self.others, others)
            && let Some(lane) = self.containers.get_mut(&running.whose)
            && within(lane.crowded, advance)
        {
            let due = lane.due.map_or(now, |due| due.max(now));
            lane.due = Some(due + pace);
        }
        self.end(ticket)
    }

    fn end(&mut self, ticket: Ticket) -> Option<J> {
        let running = self.running.remove(&ticket.0)?;
        self.inline = self.inline.saturating_sub(usize::from(running.inline));
        match running.pace {
            Pace::Usual => self.active = self.active.saturating_sub(1),
            Pace::Slow => {}
            Pace::Overdue => self.overdue = self.overdue.saturating_sub(1),
        }
        if running.pace == Pace::Overdue {
            if let Some(lane) = self.containers.get_mut(&running.whose) {
                lane.overdue = lane.overdue.saturating_sub(1);
            }
            self.tidy(&running.whose);
        } else {
            self.leave(&running.whose);
        }
        Some(running.job)
    }

    /// Lets others in beside requests that are at work for longer than `patience`, and gives all of them that
    /// have been here for `deadline`, each once: they are to be answered in another way, and go on. Those that
    /// wait and have been here for `last` are given, too, and done with.
    pub fn expire(
        &mut self,
        now: Instant,
        patience: Duration,
        deadline: Duration,
        last: Duration,
    ) -> Vec<J> {
        let mut late = Vec::new();
        for running in self.running.values_mut() {
            let work = now.saturating_duration_since(running.began);
            if running.pace == Pace::Usual && work >= patience {
                running.pace = Pace::Slow;
                self.active = self.active.saturating_sub(1);
            }
            let age = now.saturating_duration_since(running.came);
            // What waited long and has only begun will soon be done.
            if running.pace == Pace::Slow && age >= deadline {
                running.pace = Pace::Overdue;
                self.overdue += 1;
                if let Some(lane) = self.containers.get_mut(&running.whose) {
                    lane.active = lane.active.saturating_sub(1);
                    lane.overdue += 1;
                }
                late.push(running.job.clone());
            }
        }
        for lane in self.containers.values_mut() {
            lane.due = lane.due.filter(|due| *due > now);
        }
        if self.queued > 0 {
            let before = late.len();
            for lane in self.containers.values_mut() {
                while let Some((came, _)) = lane.queue.front()
                    && now.saturating_duration_since(*came) >= last
                    && let Some((_, job)) = lane.queue.pop_front()
                {
                    late.push(job);
                }
            }
            self.queued = self.queued.saturating_sub(late.len() - before);
        }
        self.tidy_queues();
        late
    }

    /// Those that wait and have been here for `deadline`, the oldest of each container first.
    pub fn waiting_for(&self, now: Instant, deadline: Duration) -> Vec<J> {
        let lanes = self.containers.values();
        let is_late = |came: Instant| now.saturating_duration_since(came) >= deadline;
        lanes
            .flat_map(|lane| lane.queue.iter().take_while(|(came, _)| is_late(*came)))
            .map(|(_, job)| job.clone())
            .collect()
    }

    /// Is done with those that wait for nothing any more.
    pub fn retain(&mut self, waits: impl Fn(&J) -> bool) {
        for lane in self.containers.values_mut() {
            lane.queue.retain(|(_, job)| waits(job));
        }
        self.queued = self.containers.values().map(|lane| lane.queue.len()).sum();
        self.tidy_queues();
    }

    fn tidy_queues(&mut self) {
        let containers = &self.containers;
        let waits =
            |whose: &Option<K>| containers.get(whose).is_some_and(|lane| !lane.queue.is_empty());
        self.turns.retain(waits);
        self.containers.retain(|_, lane| !lane.is_empty());
    }

    /// Whether a request waits that might be worked on.
    #[must_use]
    pub fn has_work(&self, now: Instant) -> bool {
        self.active < self.limits.active && self.turns.iter().any(|whose| self.has_lane(whose, now))
    }

    /// When the first of those may be worked on again that wait because they had too much.
    #[must_use]
    pub fn rested(&self, now: Instant) -> Option<Instant> {
        let lanes = self.turns.iter().filter_map(|whose| self.containers.get(whose));
        lanes.filter_map(|lane| lane.rests(now, self.limits.advance)).min()
    }

    /// Whether nothing waits and nothing is at work.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queued == 0
    }

    /// Whether nobody waits for an answer: those that are overdue have got one.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.running.len() <= self.overdue && self.queued == 0
    }

    /// How many wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// How many are overdue and still at work.
    #[must_use]
    pub fn overdue(&self) -> usize {
        self.overdue
    }

    fn has_lane(&self, whose: &Option<K>, now: Instant) -> bool {
        let Some(lane) = self.containers.get(whose) else { return true };
        let has_room = lane.active < self.limits.lanes && lane.overdue < self.limits.overdue;
        whose.is_none() || (has_room && lane.rests(now, self.limits.advance).is_none())
    }

    /// Takes notice of who asks.
    fn meet(&mut self, whose: &Option<K>, now: Instant) {
        if whose.is_some() && self.last != *whose {
            if self.last.is_some() {
                self.others = Some(now);
            }
            self.last.clone_from(whose);
        }
    }

    fn start(
        &mut self,
        whose: Option<K>,
        job: J,
        came: Instant,
        now: Instant,
        inline: bool,
    ) -> Ticket {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.active += 1;
        self.inline += usize::from(inline);
        self.containers.entry(whose.clone()).or_default().active += 1;
        let running = Running { job, whose, came, began: now, inline, pace: Pace::Usual };
        self.running.insert(number, running);
        Ticket(number)
    }

    /// Gives the request back if there is no room for it.
    fn enqueue(&mut self, whose: Option<K>, job: J, came: Instant, now: Instant) -> Option<J> {
        let crowds = !self.has_lane(&whose, now);
        let known = self.containers.get(&whose);
        let full = known.is_some_and(|lane| lane.queue.len() >= self.limits.queued);
        let stuck = known.is_some_and(|lane| lane.overdue >= self.limits.overdue);
        if full
            || stuck
            || self.queued >= self.limits.all_queued
            || self.overdue >= self.limits.all_overdue
        {
            return Some(job);
        }
        let lane = self.containers.entry(whose.clone()).or_default();
        if lane.queue.is_empty() {
            self.turns.push_back(whose);
        }
        if crowds {
            lane.crowded = Some(now);
        }
        lane.queue.push_back((came, job));
        self.queued += 1;
        None
    }

    fn leave(&mut self, whose: &Option<K>) {
        if let Some(lane) = self.containers.get_mut(whose) {
            lane.active = lane.active.saturating_sub(1);
        }
        self.tidy(whose);
    }

    fn tidy(&mut self, whose: &Option<K>) {
        if self.containers.get(whose).is_some_and(Lane::is_empty) {
            self.containers.remove(whose);
        }
    }
}

impl<J> Lane<J> {
    fn is_empty(&self) -> bool {
        self.active == 0 && self.overdue == 0 && self.due.is_none() && self.queue.is_empty()
    }

    /// Until when it rests, if it does.
    fn rests(&self, now: Instant, advance: Duration) -> Option<Instant> {
        let ahead = self.due?.saturating_duration_since(now);
        (ahead > advance).then(|| now + (ahead - advance))
    }
}

#[cfg(test)]
mod tests {
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
            (0..2).map(|job| run(lanes.arrive(Some('a'), job, now))).collect();
        for job in 2..10 {
            assert_eq!(lanes.arrive(Some('a'), job, now), Arrival::Queued);
        }
        assert_eq!(lanes.arrive(Some('a'), 10, now), Arrival::Refused(10));
        // Others are worked on at once while there are threads, and then next but one.
        let others: Vec<_> =
            ['b', 'c'].map(|who| run(lanes.arrive(Some(who), 20, now))).into_iter().collect();
        assert_eq!(lanes.arrive(Some('d'), 30, now), Arrival::Queued);
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
            run(lanes.arrive(Some('a'), job, now));
        }
        let unknown = run(lanes.arrive(None, 2, now));
        assert_eq!(lanes.found(unknown, 'a', now), Arrival::Queued);
        let unknown = run(lanes.arrive(None, 3, now));
        let known = run(lanes.found(unknown, 'b', now));
        assert!(lanes.is_known(&known));
        assert_eq!((lanes.queued(), lanes.has_work(now)), (1, false));
    }

    #[test]
    fn what_hangs_makes_way_and_is_late_once() {
        let now = Instant::now();
        let mut lanes = Lanes::new(LIMITS);
        let hung = run(lanes.arrive(Some('a'), 0, now));
        run(lanes.arrive(Some('a'), 1, now));
        assert_eq!(lanes.arrive(Some('a'), 2, now), Arrival::Queued);
        assert!(lanes.expire(now + PATIENCE, PATIENCE, DEADLINE, DEADLINE).is_empty());
        // Threads are for others then, but not yet for this container.
        assert!(!lanes.has_work(now));
        let mut late = lanes.expire(now + DEADLINE, PATIENCE, DEADLINE, DEADLINE);
        late.sort_unstable();
        assert_eq!(late, [0, 1, 2]);
        assert_eq!((lanes.overdue(), lanes.queued()), (2, 0));
        assert!(lanes.expire(now + DEADLINE, PATIENCE, DEADLINE, DEADLINE).is_empty());
        run(lanes.arrive(Some('a'), 3, now + DEADLINE));
        lanes.expire(now + 2 * DEADLINE, PATIENCE, DEADLINE, DEADLINE);
        // All that may hang of one container does.
        assert_eq!(lanes.arrive(Some('a'), 4, now), Arrival::Refused(4));
        run(lanes.arrive(Some('b'), 5, now));
        assert_eq!(lanes.finish(hung, now), Some(0));
        run(lanes.arrive(Some('a'), 6, now));
    }

    /// Somebody who sends a request for each answer, beside whoever else asks: how many answers it gets in a time.
    fn answers(requests: u32, others: bool, time: Duration) -> u32 {
        let (began, mut now) = (Instant::now(), Instant::now());
        let mut lanes = Lanes::new(LIMITS);
        let mut tickets: Vec<Ticket> = Vec::new();
        let mut answers = 0;
        if others {
            let other = run(lanes.arrive(Some('b'), 0, now));
            lanes.finish(other, now);
        }
        for job in 0..requests {
            if let Arrival::Run(ticket) = lanes.arrive(Some('a'), job, now) {
                tickets.push(ticket);
            }
        }
        while now < began + time {
            now += Duration::from_millis(1);
            for ticket in std::mem::take(&mut tickets) {
                lanes.finish(ticket, now);
                answers += 1;
                if let Arrival::Run(ticket) = lanes.arrive(Some('a'), 1, now) {
                    tickets.push(ticket);
                }
            }
            tickets.extend(std::iter::from_fn(|| lanes.take(false, now)));
            lanes.expire(now, PATIENCE, DEADLINE, DEADLINE);
        }
        answers
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

    #[derive(Clone, Debug)]
    enum Step {
        Arrive(Option<u8>),
        Found(usize, u8),
        Finish(usize),
        Take(bool),
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::option::of(0..4_u8).prop_map(Step::Arrive),
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
                    tickets.extend(started(lanes.arrive(Some(whose), whose, now)));
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
                            new.extend(started(lanes.arrive(Some(whose), whose, now)));
                        }
                    }
                    Some(_) => {}
                    None => {
                        begun = Some(Vec::new());
                        new.extend(started(lanes.arrive(Some(OTHER), OTHER, now)));
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
                        lanes.arrive(whose, came, now)
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
}
