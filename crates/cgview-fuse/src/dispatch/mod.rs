//! Requests on their way to the service: in turn, and in time.
//!
//! A request is worked on by the thread that took it from the connection; that costs nothing more. What
//! makes it safe is beside that way: a thread that sees who takes too long answers in their stead with
//! what was known before, and lets others in; one thread of the connection is always left to take
//! requests; and of each container only a few are worked on at a time ([`lanes`]). What has to wait
//! though nobody is at work is worked on by a thread that looks at the clock.

mod job;
pub mod lanes;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cgview_host::ContainerId;
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

pub use self::job::{Ask, Reply, Told};
use self::{
    job::Job,
    lanes::{Arrival, Lanes, Limits, Ticket},
};
use crate::{
    fatal::Noted,
    service::{Caller, Error, Service},
};

/// How many threads there may be in place of those that hang.
const MOST_WORKERS: usize = 32;

/// A request that is at work for longer than this does not keep others waiting.
const PATIENCE: Duration = Duration::from_millis(200);

/// How many requests of one container may hang. Where more parts of it do, all of it does.
const MOST_OVERDUE: usize = 4;

/// How many requests of one container wait, and of all: each takes some hundreds of bytes.
const MOST_QUEUED: (usize, usize) = (1024, 16_384);

/// In how long a container that always has more requests than lanes may have one answer, while others ask.
const PACE: Duration = Duration::from_micros(500);

/// How much of that it may have in advance: a thousand answers, as what starts reads many files.
const ADVANCE: Duration = Duration::from_millis(500);

/// For how long others are taken to ask again. Who asks seldom is not to wait, either.
const OTHERS: Duration = Duration::from_secs(60);

/// Threads of a container that ask within this time are taken to ask at the same time.
const MOMENT: Duration = Duration::from_millis(5);

/// A worker that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

/// Where nothing is known that a request could be answered with in time, it goes on for this many times as long
/// before it fails: it may be the machine that is slow, and an error is the worst answer.
const LAST: u32 = 20;

/// How often the watcher looks while there are requests.
const TICK: Duration = Duration::from_millis(20);

/// How long it sees none before it waits to be called.
const IDLE_WATCH: Duration = Duration::from_millis(500);

/// Takes requests to a service. Dropping it ends its threads, those that hang as soon as they can.
#[derive(Debug)]
pub struct Dispatcher(Arc<Inner>);

struct Inner {
    service: Arc<Service>,
    lanes: Mutex<State>,
    watcher: Condvar,
    workers: Condvar,
    stopped: AtomicBool,
    /// Answers that were found, and are being told.
    telling: AtomicUsize,
}

struct State {
    lanes: Lanes<ContainerId, Arc<Job>>,
    /// Workers, and how many of them have nothing to do.
    workers: usize,
    idle: usize,
    /// When a worker looks again that has nothing to do until somebody has rested.
    alarm: Option<Instant>,
    /// Whether the watcher waits to be called.
    parked: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

/// How many threads a connection has to have for that many requests at a time: one more, which is left to
/// take requests when all others hang.
#[must_use]
pub fn threads(requests: usize) -> usize {
    requests.max(1).saturating_add(1)
}

impl Dispatcher {
    /// One that has `requests` worked on at a time, and by so many threads of the connection: see
    /// [`threads`].
    ///
    /// # Errors
    ///
    /// If there are no more threads.
    pub fn start(service: Arc<Service>, requests: usize) -> io::Result<Dispatcher> {
        let active = requests.max(1);
        let limits = Limits {
            active,
            lanes: (active / 2).max(1),
            inline: active,
            queued: MOST_QUEUED.0,
            all_queued: MOST_QUEUED.1,
            overdue: MOST_OVERDUE,
            all_overdue: MOST_WORKERS,
            pace: PACE,
            advance: ADVANCE,
            others: OTHERS,
            moment: MOMENT,
        };
        let state =
            State { lanes: Lanes::new(limits), workers: 0, idle: 0, alarm: None, parked: false };
        let inner = Arc::new(Inner {
            service,
            lanes: Mutex::new(state),
            watcher: Condvar::new(),
            workers: Condvar::new(),
            stopped: AtomicBool::new(false),
            telling: AtomicUsize::new(0),
        });
        let watched = Arc::clone(&inner);
        thread::Builder::new().name("watcher".into()).spawn(move || watched.watch())?;
        Ok(Dispatcher(inner))
    }

    /// Whether a request that takes next to nothing is to be answered at once, as all but those of a container that
    /// has too many; these are to be submitted, as [`Ask::Turn`].
    pub(crate) fn pass(&self, caller: Caller) -> bool {
        let whose = self.0.service.whose(caller.tid);
        self.0.lanes.lock().lanes.pass(&whose, caller.tid, Instant::now())
    }

    /// Has a request answered: mostly before this returns, but perhaps later and by another thread. `number` is
    /// what the connection knows it by.
    pub fn submit(&self, number: u64, caller: Caller, ask: Ask, reply: Reply) {
        if let Some(deaths) = self.0.service.is_fatal(number) {
            return Job::new(number, caller, ask, reply).refuse(&self.0.service, deaths);
        }
        let whose = self.0.service.whose(caller.tid);
        self.enter(whose, Job::new(number, caller, ask, reply));
    }

    /// The same for a caller that is known, whoever sent the request.
    pub(crate) fn submit_for(&self, number: u64, who: cgview_host::Caller, ask: Ask, reply: Reply) {
        if let Some(deaths) = self.0.service.is_fatal(number) {
            return Job::of(number, who, ask, reply).refuse(&self.0.service, deaths);
        }
        let whose = who.container.id().clone();
        self.enter(Some(whose), Job::of(number, who, ask, reply));
    }

    fn enter(&self, whose: Option<ContainerId>, job: Job) {
        let inner = &self.0;
        let job = Arc::new(job);
        let (came, weight) = (job.came(), job.weight());
        let (arrival, parked, worker) = {
            let mut state = inner.lanes.lock();
            let arrival = state.lanes.arrive(whose.clone(), weight, job, came);
            let worker = matches!(arrival, Arrival::Queued) && state.wants_worker(came);
            (arrival, std::mem::take(&mut state.parked), worker)
        };
        if parked {
            inner.watcher.notify_one();
        }
        if worker {
            inner.call_worker();
        }
        match arrival {
            Arrival::Run(ticket) => inner.run(ticket, true),
            Arrival::Queued => {}
            Arrival::Stuck(job) => inner.wait(whose, job),
            Arrival::Refused(job) => {
                job.give_up(&inner.service, Error::Crowd, true);
            }
        }
    }

    /// How many requests wait, and how many hang.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.0.lanes.lock();
        (state.lanes.queued(), state.lanes.overdue())
    }

    /// Whether nobody waits for an answer.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        let no_work = self.0.lanes.lock().lanes.is_answered();
        no_work && self.0.telling.load(Ordering::Acquire) == 0
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
        // Under the lock, so that nobody is about to wait.
        let _state = self.0.lanes.lock();
        self.0.watcher.notify_all();
        self.0.workers.notify_all();
    }
}

/// A request whose answer was found; none, if nobody waits for it.
struct Worked {
    ticket: Ticket,
    job: Arc<Job>,
    told: Option<Result<Told, Errno>>,
    noted: Option<Noted>,
}

impl State {
    /// Whether a worker is to be called, or made.
    fn wants_worker(&self, now: Instant) -> bool {
        (self.lanes.has_work(now) || self.wants_alarm(now))
            && (self.idle > 0 || self.workers < MOST_WORKERS)
    }

    /// Whether somebody rests, and no worker will look when that ends.
    fn wants_alarm(&self, now: Instant) -> bool {
        let rested = self.lanes.rested(now);
        rested.is_some_and(|end| self.alarm.is_none_or(|alarm| alarm > end))
    }
}

impl Inner {
    /// Works on a request, and then on those that wait.
    fn run(self: &Arc<Inner>, ticket: Ticket, inline: bool) {
        let mut next = Some(ticket);
        while let Some(ticket) = next {
            let worked = self.work(ticket);
            let (worker, answer) = {
                let mut state = self.lanes.lock();
                let now = Instant::now();
                // Its lane is free before the reader knows, who may ask again before this thread is back: it would
                // have two requests at a time then, and be taken for many.
                let answer = worked.map(|Worked { ticket, job, told, noted }| {
                    self.telling.fetch_add(1, Ordering::Relaxed);
                    state.lanes.finish(ticket, now);
                    (job, told, noted)
                });
                next = state.lanes.take(inline, now);
                // This thread is to be back soon, or has something to do.
                ((inline || next.is_some()) && state.wants_alarm(now), answer)
            };
            if let Some((job, told, _noted)) = answer {
                if let Some(told) = told {
                    job.tell(&self.service, told);
                }
                self.telling.fetch_sub(1, Ordering::Release);
            }
            if worker {
                self.call_worker();
            }
        }
    }

    /// Works on one request. `None` if it was put back.
    fn work(&self, mut ticket: Ticket) -> Option<Worked> {
        let (job, is_known) = {
            let state = self.lanes.lock();
            (state.lanes.job(&ticket)?, state.lanes.is_known(&ticket))
        };
        let noted = self.service.note(job.number());
        if let Some(whose) = (!is_known).then(|| job.identify(&self.service)).flatten() {
            let found = self.lanes.lock().lanes.found(ticket, whose.clone(), Instant::now());
            ticket = match found {
                Arrival::Run(ticket) => ticket,
                Arrival::Queued => return None,
                Arrival::Stuck(job) => {
                    self.wait(Some(whose), job);
                    return None;
                }
                Arrival::Refused(job) => {
                    job.give_up(&self.service, Error::Crowd, true);
                    return None;
                }
            };
        }
        // If it was answered while it was identified, nobody waits for the rest.
        let told = (!job.is_answered()).then(|| job.find_answer(&self.service)).flatten();
        Some(Worked { ticket, job, told, noted })
    }

    /// Answers a request with what was known before, or has it wait until what hangs of its container is done: it
    /// may be the machine that is slow, and an error is the worst answer.
    fn wait(&self, whose: Option<ContainerId>, job: Arc<Job>) {
        if job.give_up(&self.service, Error::Crowd, false) {
            return;
        }
        let (came, weight) = (job.came(), job.weight());
        let refused = self.lanes.lock().lanes.wait(whose, weight, job, came, Instant::now());
        if let Some(job) = refused {
            job.give_up(&self.service, Error::Crowd, true);
        }
    }

    /// Sees to it that no request takes longer than it may, and that those which wait are worked on.
    fn watch(self: &Arc<Inner>) {
        let mut idle = None;
        // They are at work, and nothing is known that they could be answered with.
        let mut unanswered: Vec<Arc<Job>> = Vec::new();
        loop {
            let (patience, deadline) = self.patience();
            let last = deadline * LAST;
            let (late, waiting, worker) = {
                let mut state = self.lanes.lock();
                if self.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let is_idle = state.lanes.is_idle();
                let since = idle.filter(|_| is_idle);
                if since.is_some_and(|since: Instant| since.elapsed() >= IDLE_WATCH) {
                    state.parked = true;
                    while state.parked && !self.stopped.load(Ordering::Relaxed) {
                        self.watcher.wait(&mut state);
                    }
                    idle = None;
                } else {
                    // What comes from now on needs nothing before that.
                    let tick = if is_idle { patience / 2 } else { TICK.min(deadline / 4) };
                    self.watcher.wait_for(&mut state, tick);
                }
                let now = Instant::now();
                idle = state.lanes.is_idle().then(|| idle.unwrap_or(now));
                let late = state.lanes.expire(now, patience, deadline, last);
                let waiting = state.lanes.waiting_for(now, deadline);
                self.gauge(&state);
                (late, waiting, state.wants_worker(now))
            };
            if worker {
                self.call_worker();
            }
            let mut answered = false;
            for job in waiting {
                answered |= job.give_up(&self.service, Error::Late, false);
            }
            if answered {
                self.lanes.lock().lanes.retain(|job| !job.is_answered());
            }
            for job in late {
                if !job.give_up(&self.service, Error::Late, job.came().elapsed() >= last) {
                    unanswered.push(job);
                }
            }
            unanswered.retain(|job| {
                let is_last = job.came().elapsed() >= last;
                let has_failed = is_last && job.give_up(&self.service, Error::Late, true);
                !has_failed && !job.is_answered()
            });
        }
    }

    fn gauge(&self, state: &State) {
        let metrics = self.service.metrics();
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.queued.set(gauge(state.lanes.queued()));
        metrics.overdue.set(gauge(state.lanes.overdue()));
        metrics.workers.set(gauge(state.workers));
    }

    /// After how long others are let in beside a request, and after how long it is answered in another way.
    fn patience(&self) -> (Duration, Duration) {
        let deadline = self.service.deadline();
        (PATIENCE.min(deadline / 2), deadline)
    }

    /// Wakes a worker, or makes one.
    fn call_worker(self: &Arc<Inner>) {
        {
            let mut state = self.lanes.lock();
            if state.idle == 0 && state.workers >= MOST_WORKERS {
                return;
            }
            // It looks itself, once it runs.
            state.alarm = state.lanes.rested(Instant::now());
            if state.idle > 0 {
                self.workers.notify_one();
                return;
            }
            state.workers += 1;
        }
        let inner = Arc::clone(self);
        let made = thread::Builder::new().name("worker".into()).spawn(move || inner.serve());
        if let Err(error) = made {
            let mut state = self.lanes.lock();
            state.workers -= 1;
            state.alarm = None;
            tracing::warn!("cannot make a thread in place of one that hangs: {error}");
        }
    }

    /// The life of a worker.
    fn serve(self: &Arc<Inner>) {
        loop {
            let ticket = {
                let mut state = self.lanes.lock();
                loop {
                    if self.stopped.load(Ordering::Relaxed) {
                        state.workers -= 1;
                        return;
                    }
                    let now = Instant::now();
                    state.alarm = None;
                    if let Some(ticket) = state.lanes.take(false, now) {
                        break ticket;
                    }
                    let rested = state.lanes.rested(now);
                    let end = rested.unwrap_or(now + IDLE);
                    state.alarm = Some(end);
                    state.idle += 1;
                    let waited = self.workers.wait_until(&mut state, end);
                    state.idle -= 1;
                    if waited.timed_out() && rested.is_none() && !state.lanes.has_work(end) {
                        state.workers -= 1;
                        return;
                    }
                }
            };
            self.run(ticket, false);
        }
    }
}
