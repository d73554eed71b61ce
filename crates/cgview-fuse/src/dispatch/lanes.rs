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
//!
//! Most requests take next to nothing to answer (to open a file, say), and need no lane. Of these, a container is known
//! to have too many by how many of its threads ask within a moment ([`Lanes::pass`]); then they wait here as well.

use std::{
    collections::VecDeque,
    hash::Hash,
    time::{Duration, Instant},
};

use foldhash::HashMap;

#[cfg(test)]
mod tests;

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
    /// Threads that ask within this time ask at the same time.
    pub moment: Duration,
}

/// What it takes to answer a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Weight {
    /// The kernel has to be asked, and a text to be written.
    Full,
    /// Next to nothing: at a pace, four of them are as one other.
    Light,
}

impl Weight {
    fn of(self, pace: Duration) -> Duration {
        match self {
            Weight::Full => pace,
            Weight::Light => pace / 4,
        }
    }
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
    /// So much of its container hangs that it may not be begun: it is to be answered in another way, or else to
    /// [`wait`](Lanes::wait).
    Stuck(J),
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
    askers: Askers,
    queue: VecDeque<Waiting<J>>,
}

#[derive(Debug)]
struct Waiting<J> {
    came: Instant,
    weight: Weight,
    job: J,
}

impl<J> Default for Lane<J> {
    fn default() -> Lane<J> {
        Lane {
            active: 0,
            overdue: 0,
            crowded: None,
            due: None,
            askers: Askers::default(),
            queue: VecDeque::new(),
        }
    }
}

#[derive(Debug)]
struct Running<K, J> {
    job: J,
    weight: Weight,
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
            containers: HashMap::default(),
            turns: VecDeque::new(),
            running: HashMap::default(),
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
    pub fn arrive(&mut self, whose: Option<K>, weight: Weight, job: J, now: Instant) -> Arrival<J> {
        self.meet(&whose, now);
        let free = self.active < self.limits.active && self.inline < self.limits.inline;
        let waiting = Waiting { came: now, weight, job };
        if free && self.queued == 0 && self.has_lane(&whose, now) {
            return Arrival::Run(self.start(whose, waiting, now, true));
        }
        if self.is_stuck(&whose) {
            return Arrival::Stuck(waiting.job);
        }
        match self.enqueue(whose, waiting, now) {
            None => self.take(true, now).map_or(Arrival::Queued, Arrival::Run),
            Some(job) => Arrival::Refused(job),
        }
    }

    /// A request that came at `came` waits until what hangs of its container is done. Gives it back if there is no
    /// room for it.
    pub fn wait(
        &mut self,
        whose: Option<K>,
        weight: Weight,
        job: J,
        came: Instant,
        now: Instant,
    ) -> Option<J> {
        self.enqueue(whose, Waiting { came, weight, job }, now)
    }

    /// A light request came from that thread, `asker`. Returns whether it is to be answered at once, without a
    /// lane; otherwise it is to [`arrive`](Lanes::arrive), as its container is to wait, or as it has to be found out
    /// which one that is.
    pub fn pass(&mut self, whose: &Option<K>, asker: u32, now: Instant) -> bool {
        self.meet(whose, now);
        let Limits { lanes, pace, moment, .. } = self.limits;
        let lane = self.containers.entry(whose.clone()).or_default();
        let crowds = lane.askers.meet(asker, now, moment) > lanes.min(MOST_ASKERS - 1);
        if whose.is_none() {
            return !crowds;
        }
        if crowds {
            lane.crowded = Some(now);
        }
        if !self.has_pace(whose, now) {
            return true;
        }
        let may_pass = self.has_lane(whose, now);
        if may_pass {
            self.charge(whose, Weight::Light.of(pace), now);
        }
        may_pass
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
        let (came, weight) = (running.came, running.weight);
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
        if self.is_stuck(&whose) {
            return Arrival::Stuck(job);
        }
        match self.enqueue(whose, Waiting { came, weight, job }, now) {
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
            let waiting = if open { lane.queue.pop_front() } else { None };
            if !lane.queue.is_empty() {
                self.turns.push_back(whose.clone());
            }
            if let Some(waiting) = waiting {
                self.queued = self.queued.saturating_sub(1);
                return Some(self.start(whose, waiting, now, inline));
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
        if let Some(running) = self.running.get(&ticket.0)
            && running.pace == Pace::Usual
        {
            let (whose, weight) = (running.whose.clone(), running.weight);
            if self.has_pace(&whose, now) {
                self.charge(&whose, weight.of(self.limits.pace), now);
            }
        }
        self.end(ticket)
    }

    /// Whether a container is answered at a pace just now: it crowds, and others ask.
    fn has_pace(&self, whose: &Option<K>, now: Instant) -> bool {
        let within = |at: Option<Instant>, time: Duration| {
            at.is_some_and(|at| now.saturating_duration_since(at) < time)
        };
        let crowded = || self.containers.get(whose)?.crowded;
        within(self.others, self.limits.others) && within(crowded(), self.limits.advance)
    }

    /// Counts what a container had.
    fn charge(&mut self, whose: &Option<K>, cost: Duration, now: Instant) {
        if let Some(lane) = self.containers.get_mut(whose) {
            let due = lane.due.map_or(now, |due| due.max(now));
            lane.due = Some(due + cost);
        }
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
            lane.askers.forget(now, self.limits.moment);
        }
        if self.queued > 0 {
            let before = late.len();
            for lane in self.containers.values_mut() {
                while let Some(first) = lane.queue.front()
                    && now.saturating_duration_since(first.came) >= last
                    && let Some(first) = lane.queue.pop_front()
                {
                    late.push(first.job);
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
            .flat_map(|lane| lane.queue.iter().take_while(|waiting| is_late(waiting.came)))
            .map(|waiting| waiting.job.clone())
            .collect()
    }

    /// Is done with those that wait for nothing any more.
    pub fn retain(&mut self, waits: impl Fn(&J) -> bool) {
        for lane in self.containers.values_mut() {
            lane.queue.retain(|waiting| waits(&waiting.job));
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
        waiting: Waiting<J>,
        now: Instant,
        inline: bool,
    ) -> Ticket {
        let Waiting { came, weight, job } = waiting;
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.active += 1;
        self.inline += usize::from(inline);
        self.containers.entry(whose.clone()).or_default().active += 1;
        let pace = Pace::Usual;
        let running = Running { job, weight, whose, came, began: now, inline, pace };
        self.running.insert(number, running);
        Ticket(number)
    }

    /// Gives the request back if there is no room for it.
    fn enqueue(&mut self, whose: Option<K>, waiting: Waiting<J>, now: Instant) -> Option<J> {
        let has_lane = self.has_lane(&whose, now);
        let known = self.containers.get(&whose);
        // One that waits because its container rests is alone, or it would go on for ever.
        let there = known.map_or(0, |lane| lane.active + lane.queue.len());
        let crowds = !has_lane && there >= self.limits.lanes;
        let full = known.is_some_and(|lane| lane.queue.len() >= self.limits.queued);
        if full || self.queued >= self.limits.all_queued {
            return Some(waiting.job);
        }
        let lane = self.containers.entry(whose.clone()).or_default();
        if lane.queue.is_empty() {
            self.turns.push_back(whose);
        }
        if crowds {
            lane.crowded = Some(now);
        }
        lane.queue.push_back(waiting);
        self.queued += 1;
        None
    }

    /// Whether as much of a container hangs, or of all, as may.
    fn is_stuck(&self, whose: &Option<K>) -> bool {
        let hangs = self.containers.get(whose).map_or(0, |lane| lane.overdue);
        hangs >= self.limits.overdue || self.overdue >= self.limits.all_overdue
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
        let is_at_work = self.active > 0 || self.overdue > 0 || !self.queue.is_empty();
        !is_at_work && self.due.is_none() && self.askers.is_empty()
    }

    /// Until when it rests, if it does.
    fn rests(&self, now: Instant, advance: Duration) -> Option<Instant> {
        let ahead = self.due?.saturating_duration_since(now);
        (ahead > advance).then(|| now + (ahead - advance))
    }
}

/// The threads that asked last, and when.
#[derive(Debug, Default)]
struct Askers([Option<(u32, Instant)>; MOST_ASKERS]);

/// More threads that ask at the same time are not counted.
const MOST_ASKERS: usize = 8;

impl Askers {
    /// How many threads ask at the same time, this one among them.
    fn meet(&mut self, asker: u32, now: Instant, moment: Duration) -> usize {
        // Most are alone, and known.
        if let [Some((who, at)), others @ ..] = &mut self.0
            && *who == asker
            && others.iter().all(Option::is_none)
        {
            *at = now;
            return 1;
        }
        self.forget(now, moment);
        // Its own place, or else a free one, or else that of who asked longest ago.
        let place = self.0.iter_mut().min_by_key(|place| {
            let is_other = place.is_none_or(|(who, _)| who != asker);
            (is_other, place.map(|(_, at)| at))
        });
        if let Some(place) = place {
            *place = Some((asker, now));
        }
        self.0.iter().flatten().count()
    }

    /// Forgets who asked longer ago.
    fn forget(&mut self, now: Instant, moment: Duration) {
        for place in &mut self.0 {
            *place = place.filter(|(_, at)| now.saturating_duration_since(*at) < moment);
        }
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}
