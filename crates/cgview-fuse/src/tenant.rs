//! A container, and what is kept of it between reads.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cgview_core::{
    Policy, Snapshot, Usec,
    cpu_view::CpuView,
    effective::CpuLimits,
    loadavg::LoadAverage,
    policy::StealPolicy,
    snapshot::Tasks,
    tree::ProcFile,
    view::{Parts, Reader},
};
use cgview_host::{Container, Host, Result};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    cache::{Flights, slow},
    metrics::Metrics,
    settings::ViewSettings,
    state::{Saved, SavedLoad},
    told::{Fetched, Told, Turn},
};

/// A container, and what is kept of it between reads.
#[derive(Debug)]
pub(crate) struct Tenant {
    container: Arc<Container>,
    last: Mutex<Instant>,
    samples: Mutex<Vec<Sample>>,
    cpu: Mutex<CpuTimes>,
    load: Mutex<Load>,
    renderings: Mutex<Vec<Rendering>>,
    tasks: Mutex<TaskCount>,
    counting: AtomicBool,
    flights: Flights<Parts>,
}

/// A snapshot of some parts.
#[derive(Debug)]
struct Sample {
    parts: Parts,
    told: Told<Arc<Snapshot>>,
}

/// The CPU view, and how often it has changed.
#[derive(Debug, Default)]
struct CpuTimes {
    view: CpuView,
    version: u64,
}

/// What a text depends on beside the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rendered {
    pub(crate) file: ProcFile,
    pub(crate) reader: Reader,
    pub(crate) policy: Policy,
}

/// A text, and when the oldest of its numbers was new.
#[derive(Debug)]
struct Rendering {
    what: Rendered,
    text: Fetched<Arc<[u8]>>,
    /// When the container's numbers and the host's were new.
    made_of: [Instant; 2],
    /// Of the CPU view that it was made from, if it was.
    version: Option<u64>,
    /// When it tells another time, if it tells any.
    until: Option<Usec>,
}

/// The load average, while it is being watched.
#[derive(Debug, Default)]
struct Load {
    average: Option<LoadAverage>,
    /// When it was stepped last, on the host's boot clock.
    stepped: Usec,
    /// When a reader asked for it last.
    asked: Option<Instant>,
}

/// How many tasks there were when they were counted last.
#[derive(Debug, Default)]
struct TaskCount {
    tasks: Option<(Instant, Tasks)>,
    /// How old the count may be.
    rest: Duration,
}

/// How old a count may be that took so much CPU time.
fn rest_after(cost: Duration) -> Duration {
    cost.saturating_mul(COUNTING_SHARE).min(OLDEST_COUNT)
}

/// How much CPU time this thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Somebody counts, until this is dropped: by a panic too.
struct Counting<'a>(&'a AtomicBool);

impl Counting<'_> {
    fn start(counting: &AtomicBool) -> Counting<'_> {
        counting.store(true, Ordering::Relaxed);
        Counting(counting)
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Counting the tasks of a container may take one part in this of a CPU: with all else that a reader of its load and CPU
/// times takes, no more than 2 %. What is counted within 33 ms is never older than 5 s, the period of load averages.
const COUNTING_SHARE: u32 = 150;

/// A count of tasks is never older, whatever it costs.
const OLDEST_COUNT: Duration = Duration::from_secs(30);

/// How many texts are kept of a container: more than there are files.
const MOST_RENDERINGS: usize = 32;

/// A load average that nobody stepped for longer is estimated anew.
const LOAD_GAP: Usec = Usec::from_secs(60);

impl Tenant {
    /// A container that was not known, with what was saved of it.
    pub(crate) fn new(container: Arc<Container>, saved: Option<Saved>) -> Tenant {
        let (cpu, load) = saved.map_or_else(Default::default, |saved| {
            let load = saved.load.map_or_else(Load::default, |load| Load {
                average: Some(load.average),
                stepped: load.stepped,
                asked: None,
            });
            (saved.cpu, load)
        });
        Tenant {
            container,
            last: Mutex::new(Instant::now()),
            samples: Mutex::default(),
            cpu: Mutex::new(CpuTimes { view: cpu, version: 0 }),
            load: Mutex::new(load),
            renderings: Mutex::default(),
            tasks: Mutex::default(),
            counting: AtomicBool::new(false),
            flights: Flights::default(),
        }
    }

    pub(crate) fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// What has to outlive this process.
    pub(crate) fn save(&self, now: Usec) -> Saved {
        let load = self.load.lock();
        Saved {
            saved: now,
            cpu: self.cpu.lock().view.clone(),
            load: load.average.map(|average| SavedLoad { average, stepped: load.stepped }),
        }
    }

    /// The load average, if it was asked for.
    pub(crate) fn saved_load(&self) -> Option<SavedLoad> {
        let load = self.load.lock();
        load.average.map(|average| SavedLoad { average, stepped: load.stepped })
    }

    pub(crate) fn touch(&self) {
        *self.last.lock() = Instant::now();
    }

    pub(crate) fn idle(&self) -> Duration {
        self.last.lock().elapsed()
    }

    /// A snapshot with `parts` in it, as fresh as `settings` want it.
    pub(crate) fn sample(
        &self,
        host: &Host,
        parts: Parts,
        settings: &ViewSettings,
        metrics: &Metrics,
    ) -> Result<Fetched<Arc<Snapshot>>> {
        let asked = Instant::now();
        loop {
            if let Some(known) = self.known(parts, |known| known.is_fresh(settings.freshness)) {
                metrics.samples.hits.inc();
                return Ok(known);
            }
            // What shares a part with it shares a file that hangs.
            let shares = |other: &Parts| other.without(parts) != *other;
            if self.flights.are_slow(settings.slow(), shares) && self.stale(parts).is_some() {
                return Err(slow(self.container.path()));
            }
            metrics.samples.misses.inc();
            let at = Instant::now();
            let flight = self.flights.start(parts);
            let mut snapshot = Snapshot::default();
            self.container.sample(host, parts.without(Parts::TASKS), &mut snapshot)?;
            if parts.contain(Parts::TASKS) {
                snapshot.tasks = Some(self.tasks(host, settings.freshness, metrics)?);
            }
            drop(flight);
            let fetched = Fetched { at, value: Arc::new(snapshot) };
            let mut samples = self.samples.lock();
            let oldest = asked.checked_sub(settings.freshness);
            let known = samples.iter().find(|sample| sample.parts == parts);
            match known.map_or(Turn::Own, |known| known.told.turn(at, oldest)) {
                Turn::Own => {
                    tell(&mut samples, parts, &fetched);
                    return Ok(fetched);
                }
                Turn::Other(other) => return Ok(other),
                Turn::Again => {}
            }
        }
    }

    /// The newest snapshot with `parts` in it, of whatever age.
    pub(crate) fn stale(&self, parts: Parts) -> Option<Fetched<Arc<Snapshot>>> {
        self.known(parts, |_| true)
    }

    /// The newest snapshot with `parts` in it that may be told of them, if it will do.
    fn known(
        &self,
        parts: Parts,
        will_do: impl Fn(&Fetched<Arc<Snapshot>>) -> bool,
    ) -> Option<Fetched<Arc<Snapshot>>> {
        let mut samples = self.samples.lock();
        let own = samples.iter().find(|sample| sample.parts == parts);
        // One with other parts in it may have been read at the same time as these, in any order.
        let may_be_told = |other: &&Sample| {
            other.parts.contain(parts)
                && own.is_none_or(|own| own.told.is_before(other.told.fetched.at))
        };
        let others = samples.iter().filter(may_be_told);
        let newest = others.chain(own).max_by_key(|sample| sample.told.fetched.at)?;
        let fetched = newest.told.fetched.clone();
        if !will_do(&fetched) {
            return None;
        }
        if newest.parts != parts {
            tell(&mut samples, parts, &fetched);
        }
        Some(fetched)
    }

    /// The text of before, if all of its numbers are still as new as they have to be: rendered again, it would be
    /// the same. `now` is the clock.
    pub(crate) fn rendered(
        &self,
        what: &Rendered,
        freshness: Duration,
        now: impl FnOnce() -> Option<Usec>,
    ) -> Option<Arc<[u8]>> {
        let (text, version) = {
            let renderings = self.renderings.lock();
            let known = renderings.iter().find(|known| known.what == *what)?;
            if !known.text.is_fresh(freshness)
                || known.until.is_some_and(|until| now() >= Some(until))
            {
                return None;
            }
            (Arc::clone(&known.text.value), known.version)
        };
        if what.file == ProcFile::Loadavg {
            self.load.lock().asked = Some(Instant::now());
        }
        // Another file may have told of later times already.
        let newest = || self.cpu.lock().version;
        version.is_none_or(|version| version == newest()).then_some(text)
    }

    /// Keeps a text for whoever asks next, unless a newer one was told. It is made of numbers of the container and of
    /// the host, which were new then; `version` is that of the CPU view, if it is made from that, and `until` the moment
    /// at which it tells another time, if it tells any.
    pub(crate) fn keep_rendered(
        &self,
        what: Rendered,
        text: Fetched<Arc<[u8]>>,
        made_of: [Instant; 2],
        version: Option<u64>,
        until: Option<Usec>,
    ) {
        let mut renderings = self.renderings.lock();
        let rendering = Rendering { what, text, made_of, version, until };
        let place = renderings.iter().position(|known| known.what == what);
        match place.and_then(|place| Some((place, renderings.get_mut(place)?))) {
            Some((place, known)) => {
                let is = |order: fn(&Instant, &Instant) -> bool| {
                    made_of.iter().zip(&known.made_of).all(|(own, known)| order(own, known))
                };
                if is(Instant::ge) {
                    *known = rendering;
                } else if !is(Instant::le) {
                    // Each has a number that is newer than the other's, and both have been told.
                    renderings.swap_remove(place);
                }
            }
            None => {
                // Readers in time namespaces of their own, or a policy that was.
                if renderings.len() >= MOST_RENDERINGS {
                    renderings.clear();
                }
                renderings.push(rendering);
            }
        }
    }

    /// Forgets the texts that are too old to be of use.
    pub(crate) fn forget_rendered(&self, freshness: Duration) {
        let mut renderings = self.renderings.lock();
        renderings.retain(|known| known.text.is_fresh(freshness));
        if renderings.is_empty() {
            // Their room takes as much as a text.
            *renderings = Vec::new();
        }
    }

    /// The tasks of the container. They are counted one by one, so the more there are, the older the count
    /// may be.
    pub(crate) fn tasks(
        &self,
        host: &Host,
        freshness: Duration,
        metrics: &Metrics,
    ) -> Result<Tasks> {
        {
            let count = self.tasks.lock();
            if let Some((at, tasks)) = count.tasks {
                // While somebody counts, the others have the count of before.
                if at.elapsed() < freshness.max(count.rest) || self.counting.load(Ordering::Relaxed)
                {
                    return Ok(tasks);
                }
            }
        }
        let counting = Counting::start(&self.counting);
        let (at, used) = (Instant::now(), cpu_time());
        let counted = self.container.active_tasks(host);
        // Where there is more work than CPUs, most of the time is spent on waiting, which costs nothing.
        let (took, cost) = (at.elapsed(), cpu_time().saturating_sub(used));
        drop(counting);
        metrics.task_counts.inc();
        metrics.task_count_seconds.inc_by(cost.as_secs_f64());
        let tasks = counted?;
        let rest = rest_after(cost).max(took.min(OLDEST_COUNT));
        *self.tasks.lock() = TaskCount { tasks: Some((at, tasks)), rest };
        Ok(tasks)
    }

    /// Steps the CPU view to the moment of the snapshot, saves it, and lends it. Readers of one container's CPU
    /// times wait for each other; the kernel is not asked meanwhile. Returns which version of the view it was, too.
    pub(crate) fn with_cpu_view<T>(
        &self,
        snapshot: &Snapshot,
        limits: &CpuLimits,
        steal: StealPolicy,
        save: impl FnOnce(&CpuView),
        render: impl FnOnce(&CpuView) -> T,
    ) -> (T, u64) {
        let mut times = self.cpu.lock();
        // What has no init of its own is as old as the host.
        let started = snapshot.started.unwrap_or_default();
        let usage = snapshot.cpu_usage.as_ref();
        let stepped = times.view.step(snapshot.taken, started, limits, usage, steal);
        let counted = snapshot.tasks.is_some_and(|tasks| times.view.count_forks(&tasks));
        if stepped || counted {
            times.version += 1;
            save(&times.view);
        }
        (render(&times.view), times.version)
    }

    /// The load average at the moment of the snapshot, which has the tasks in it. A first one is an estimate, for which
    /// `visible` says how many CPUs there are by a snapshot that has those in it.
    pub(crate) fn load(
        &self,
        host: &Host,
        snapshot: &Snapshot,
        asked: bool,
        visible: impl FnOnce(&Snapshot) -> u32,
    ) -> Result<LoadAverage> {
        let now = snapshot.taken;
        let tasks = snapshot.tasks.unwrap_or_default();
        let active = tasks.running.saturating_add(tasks.blocked);
        {
            let mut load = self.load.lock();
            if asked {
                load.asked = Some(Instant::now());
            }
            let watched = now.saturating_sub(load.stepped) <= LOAD_GAP;
            if let Some(average) = load.average.as_mut().filter(|_| watched) {
                average.step(now, active);
                let average = *average;
                load.stepped = now.max(load.stepped);
                return Ok(average);
            }
        }
        let mut cpus = Snapshot::default();
        self.container.sample(host, Parts::CPUS, &mut cpus)?;
        // It only refines the estimate, which the number of tasks alone gives too.
        let mut pressure = Snapshot::default();
        let _ = self.container.sample(host, Parts::PRESSURE, &mut pressure);
        let pressure = pressure.pressure;
        // Without a cgroup of its own in the unified hierarchy, it would be that of all others.
        let own = pressure.cgroup.is_some_and(|cgroup| !cgroup.is_root());
        let average = LoadAverage::estimated(
            snapshot.started.unwrap_or_default(),
            now,
            active,
            visible(&cpus),
            pressure.cpu.as_deref().filter(|_| own).unwrap_or_default(),
        );
        let mut load = self.load.lock();
        load.average = Some(average);
        load.stepped = now;
        Ok(average)
    }

    /// The load average as it was stepped last.
    pub(crate) fn last_load(&self) -> Option<LoadAverage> {
        self.load.lock().average
    }

    /// When its load average was stepped last, on the host's boot clock.
    pub(crate) fn load_stepped(&self) -> Usec {
        self.load.lock().stepped
    }

    /// Whether a reader asked for its load within `time`.
    pub(crate) fn load_asked_within(&self, time: Duration) -> bool {
        self.load.lock().asked.is_some_and(|asked| asked.elapsed() < time)
    }
}

/// Tells of `parts` from now on what is in that snapshot.
fn tell(samples: &mut Vec<Sample>, parts: Parts, fetched: &Fetched<Arc<Snapshot>>) {
    let told = Told::from(Instant::now(), fetched.clone());
    match samples.iter_mut().find(|sample| sample.parts == parts) {
        Some(place) => place.told = told,
        // There are no more than files have different needs: `File::parts`.
        None => samples.push(Sample { parts, told }),
    }
}

/// All containers that are known, and what was saved of those that are not.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    known: Mutex<foldhash::HashMap<Box<str>, Arc<Tenant>>>,
    saved: Mutex<HashMap<Box<str>, Saved>>,
}

/// How many containers' descriptors and samples are kept.
const MOST_KNOWN: usize = 4096;

/// How many containers' CPU views are kept. Each is some dozens of bytes for each visible CPU.
const MOST_SAVED: usize = 16_384;

impl Tenants {
    /// The tenant of a container.
    pub(crate) fn get(
        &self,
        container: &Arc<Container>,
        now: impl FnOnce() -> Usec,
    ) -> Arc<Tenant> {
        let id = container.id().as_str();
        if let Some(tenant) = self.known(container) {
            tenant.touch();
            return tenant;
        }
        let id: Box<str> = id.into();
        // A captured host is asked for the time.
        let now = now();
        let mut known = self.known.lock();
        let saved = match known.remove(&id) {
            // Somebody else was faster.
            Some(tenant) if Arc::ptr_eq(tenant.container(), container) => {
                known.insert(id, Arc::clone(&tenant));
                return tenant;
            }
            // The same name, but other cgroups: it was moved, or the runtime made it anew.
            Some(tenant) => Some(tenant.save(now)),
            None => self.saved.lock().remove(&id),
        };
        let tenant = Arc::new(Tenant::new(Arc::clone(container), saved));
        known.insert(id, Arc::clone(&tenant));
        tenant
    }

    /// The tenant of a container, if it is known.
    pub(crate) fn known(&self, container: &Arc<Container>) -> Option<Arc<Tenant>> {
        let known = self.known.lock();
        let tenant = known.get(container.id().as_str());
        tenant.filter(|tenant| Arc::ptr_eq(tenant.container(), container)).cloned()
    }

    /// Forgets a container that is gone.
    pub(crate) fn remove(&self, tenant: &Tenant) {
        self.known.lock().remove(tenant.container().id().as_str());
    }

    pub(crate) fn len(&self) -> usize {
        self.known.lock().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.known.lock().values().cloned().collect()
    }

    /// Closes what is open of containers that nobody read for `idle`, and of the idlest if there are too
    /// many. What must not be forgotten while they live stays, but of those who are returned.
    pub(crate) fn sweep(&self, idle: Duration, now: Usec) -> Vec<Box<str>> {
        let mut forgotten = Vec::new();
        let mut ages: Vec<(Duration, Box<str>)> = {
            let known = self.known.lock();
            known.iter().map(|(id, tenant)| (tenant.idle(), id.clone())).collect()
        };
        ages.sort_unstable();
        let excess = ages.split_off(ages.len().min(MOST_KNOWN));
        let idle = ages.into_iter().filter(|(age, _)| *age >= idle);
        for (_, id) in idle.chain(excess) {
            let Some(tenant) = self.known.lock().remove(&id) else { continue };
            forgotten.extend(self.put(id, tenant.save(now)));
        }
        forgotten
    }

    /// Takes over what another process saved. Returns whom it forgot for that.
    pub(crate) fn put(&self, id: Box<str>, state: Saved) -> Option<Box<str>> {
        let mut forgotten = None;
        let mut saved = self.saved.lock();
        if saved.len() >= MOST_SAVED
            && let Some(oldest) =
                saved.iter().min_by_key(|(_, state)| state.saved).map(|(id, _)| id.clone())
        {
            saved.remove(&oldest);
            forgotten = Some(oldest);
        }
        saved.insert(id, state);
        forgotten
    }

    /// All that has to outlive this process.
    pub(crate) fn save(&self, now: Usec) -> HashMap<Box<str>, Saved> {
        let mut all = self.saved.lock().clone();
        let known = self.known.lock();
        all.extend(known.iter().map(|(id, tenant)| (id.clone(), tenant.save(now))));
        all.retain(|_, saved| !saved.is_empty());
        all
    }
}

#[cfg(test)]
mod tests {
    use cgview_testkit::{FakeHost, FakeProcess};

    use super::*;

    #[test]
    fn tasks_are_counted_the_less_often_the_longer_it_takes() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        fake.process(&FakeProcess { pid: 100, cgroup: "0::/app\n", ..FakeProcess::default() });
        fake.file("/sys/fs/cgroup/app/cgroup.threads", "100\n");
        let host = Host::at(fake.path()).unwrap();
        let tenant = Tenant::new(host.caller(100).unwrap().container, None);
        let metrics = Metrics::default();
        let counts = |age: u64, cost: Duration| {
            let before = (Instant::now() - Duration::from_secs(age), Tasks::default());
            *tenant.tasks.lock() = TaskCount { tasks: Some(before), rest: rest_after(cost) };
            let counted = metrics.task_counts.get();
            tenant.tasks(&host, Duration::ZERO, &metrics).unwrap();
            metrics.task_counts.get() - counted
        };
        assert_eq!(counts(0, Duration::ZERO), 1);
        // A tenth of a second in 15.
        let tenth = Duration::from_millis(100);
        assert_eq!((counts(0, tenth), counts(14, tenth), counts(15, tenth)), (0, 0, 1));
        assert_eq!((counts(29, 2 * tenth), counts(30, 2 * tenth)), (0, 1));
        // But the count of whatever costs more is not older than half a minute.
        let minute = Duration::from_secs(60);
        assert_eq!((counts(15, minute), counts(30, minute)), (0, 1));
    }
}
