//! What was read and is still good: callers by their thread, and files of the host.
//!
//! All of it is bounded, and no lock is held while the kernel is asked.

use std::{
    cell::RefCell,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use cgview_core::{
    CpuinfoOutline, HostFacts, Mask,
    parse::ParseError,
    stat_outline,
    tree::{File, ProcFile},
};
use cgview_host::{Caller, ContainerId, Host, KeptCaller, Result};
use foldhash::HashMap;
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use crate::{
    metrics::CacheCounters,
    settings::ViewSettings,
    told::{Fetched, Told, Turn},
};

/// What the kernel is being asked right now, and since when.
///
/// Whoever needs what somebody else has been waiting for in vain does not wait too, and so what hangs takes
/// one thread along and not all.
#[derive(Debug)]
pub(crate) struct Flights<K>(Mutex<Vec<(K, Instant)>>);

/// Something that the kernel is being asked, until this is dropped.
#[derive(Debug)]
pub(crate) struct Flight<'a, K: PartialEq> {
    flights: &'a Flights<K>,
    what: K,
    since: Instant,
}

impl<K> Default for Flights<K> {
    fn default() -> Flights<K> {
        Flights(Mutex::default())
    }
}

impl<K: Clone + PartialEq> Flights<K> {
    /// Whether something like this has been asked in vain for `slow`.
    pub(crate) fn are_slow(&self, slow: Duration, like: impl Fn(&K) -> bool) -> bool {
        let flights = self.0.lock();
        flights.iter().any(|(what, since)| since.elapsed() >= slow && like(what))
    }

    /// Whether something like this has been asked in vain more than once. Where there is no other answer, one
    /// that takes long may be the machine's slowness.
    pub(crate) fn are_stuck(&self, slow: Duration, like: impl Fn(&K) -> bool) -> bool {
        let flights = self.0.lock();
        flights.iter().filter(|(what, since)| since.elapsed() >= slow && like(what)).count() > 1
    }

    pub(crate) fn start(&self, what: K) -> Flight<'_, K> {
        let since = Instant::now();
        self.0.lock().push((what.clone(), since));
        Flight { flights: self, what, since }
    }
}

impl<K: PartialEq> Drop for Flight<'_, K> {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock();
        let own = |(what, since): &(K, Instant)| *what == self.what && *since == self.since;
        if let Some(place) = flights.iter().position(own) {
            flights.swap_remove(place);
        }
    }
}

/// What is said of a file that somebody else has been reading for longer than usual.
pub(crate) fn slow(path: impl Into<std::path::PathBuf>) -> cgview_host::Error {
    cgview_host::Error::Read { path: path.into(), source: io::ErrorKind::TimedOut.into() }
}

/// Callers by their thread id.
#[derive(Debug)]
pub(crate) struct Callers {
    shards: [Mutex<HashMap<u32, Seen>>; SHARDS],
    /// How many are known in each shard.
    most: usize,
    flights: Flights<u32>,
}

const SHARDS: usize = 4;

/// How long after a caller was checked it may be taken for who it was, where the kernel does not answer.
const CALLER_TRUSTED: Duration = Duration::from_secs(1);

/// How many callers are known in each shard, where there are descriptors for all of them: some hundred bytes each.
const MOST_CALLERS: usize = 2048;

/// And where there are hardly any. It takes two requests to know a caller.
const FEWEST_CALLERS: usize = 64;

/// A thread that asked.
#[derive(Debug)]
struct Seen {
    last: Instant,
    /// What is kept of one that asked twice. Most never do: they read one file and end.
    kept: Option<Arc<KeptCaller>>,
}

impl Callers {
    /// Nobody yet; no more than `host` has descriptors for, so that those of one container do not take all.
    pub(crate) fn new(host: &Host) -> Callers {
        Callers {
            shards: Default::default(),
            most: (host.most_callers() / SHARDS).clamp(FEWEST_CALLERS, MOST_CALLERS),
            flights: Flights::default(),
        }
    }

    /// The caller behind a thread id, as fresh as `settings` want it, unless that has been asked in vain for long.
    pub(crate) fn get(
        &self,
        host: &Host,
        tid: u32,
        settings: &ViewSettings,
        counters: &CacheCounters,
    ) -> Result<Caller> {
        let Some(shard) = self.shard(tid) else { return host.caller(tid) };
        if self.flights.are_stuck(settings.slow(), |&other| other == tid) {
            return Err(slow(format!("/proc/{tid}/cgroup")));
        }
        let flight = self.flights.start(tid);
        let now = flight.since;
        let known = {
            let mut shard = shard.lock();
            let known = shard.get_mut(&tid).map(|seen| {
                seen.last = now;
                seen.kept.clone()
            });
            if known.is_none() {
                make_room(&mut shard, self.most);
                shard.insert(tid, Seen { last: now, kept: None });
            }
            known
        };
        match known {
            None => {
                counters.misses.inc();
                host.caller(tid)
            }
            Some(Some(kept)) => {
                match kept.check_within(host, settings.freshness) {
                    Ok(caller) => {
                        counters.hits.inc();
                        Ok(caller)
                    }
                    // The number may be another's by now.
                    Err(error) if error.is_gone() => {
                        shard.lock().remove(&tid);
                        counters.misses.inc();
                        host.caller(tid)
                    }
                    Err(error) => Err(error),
                }
            }
            Some(None) => {
                counters.misses.inc();
                let kept = host.keep(tid)?;
                let (caller, _) = kept.caller();
                if let Some(seen) = shard.lock().get_mut(&tid) {
                    seen.kept = Some(Arc::new(kept));
                }
                Ok(caller)
            }
        }
    }

    fn shard(&self, tid: u32) -> Option<&Mutex<HashMap<u32, Seen>>> {
        // Runtimes start containers with as many processes each, so that their numbers have a stride; multiplied
        // by 2^32 over the golden ratio, the highest bits have none.
        let place = tid.wrapping_mul(0x9e37_79b9) >> (u32::BITS - SHARDS.ilog2());
        self.shards.get(place as usize)
    }

    /// The container that a caller was found in last.
    pub(crate) fn whose(&self, tid: u32) -> Option<ContainerId> {
        Some(self.shard(tid)?.lock().get(&tid)?.kept.as_ref()?.whose())
    }

    /// The caller as it was found last, and how long ago, without asking the kernel: its number may be
    /// another's by now.
    pub(crate) fn last(&self, tid: u32) -> Option<(Caller, Duration)> {
        let kept = self.shard(tid)?.lock().get(&tid)?.kept.clone();
        kept.map(|kept| kept.caller())
    }

    /// The caller as it was within a second before a request that came `ago`. No number is given to another
    /// one so soon, unless processes are made as fast as they can be.
    pub(crate) fn recent(&self, tid: u32, ago: Duration) -> Option<Caller> {
        let (caller, age) = self.last(tid)?;
        (age.saturating_sub(ago) < CALLER_TRUSTED).then_some(caller)
    }

    /// Forgets a caller, who is then found anew.
    pub(crate) fn forget(&self, tid: u32) {
        if let Some(shard) = self.shard(tid) {
            let gone = shard.lock().remove(&tid);
            drop(gone);
        }
    }

    /// Forgets who has not asked for `idle`.
    pub(crate) fn sweep(&self, idle: Duration) {
        self.forget_all(|seen| seen.last.elapsed() >= idle);
    }

    /// Forgets who was in a container that is known to be gone.
    pub(crate) fn sweep_removed(&self) {
        self.forget_all(|seen| {
            seen.kept.as_ref().is_some_and(|kept| kept.caller().0.container.is_gone())
        });
    }

    fn forget_all(&self, is_gone: impl Fn(&Seen) -> bool) {
        for shard in &self.shards {
            // Descriptors are closed after the lock is released.
            let gone: Vec<_> = shard.lock().extract_if(|_, seen| is_gone(seen)).collect();
            drop(gone);
        }
    }
}

/// Drops some, if there are as many as may be: of the container that has most, the half that has not asked for
/// longest. A container of many threads forgets its own so, and not the others'.
fn make_room(shard: &mut HashMap<u32, Seen>, most: usize) {
    if shard.len() < most {
        return;
    }
    let whose = |seen: &Seen| Some(seen.kept.as_ref()?.whose());
    let mut groups: HashMap<Option<ContainerId>, Vec<(Instant, u32)>> = HashMap::default();
    for (&tid, seen) in shard.iter() {
        groups.entry(whose(seen)).or_default().push((seen.last, tid));
    }
    let Some(mut largest) = groups.into_values().max_by_key(Vec::len) else { return };
    largest.sort_unstable();
    for (_, tid) in largest.iter().take(largest.len().div_ceil(2)) {
        shard.remove(tid);
    }
}

thread_local! {
    /// Where files of the host are read to: one buffer for each thread, grown once.
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Files of the host, as text.
#[derive(Debug, Default)]
pub(crate) struct HostTexts {
    texts: RwLock<HashMap<Box<str>, ToldText>>,
    facts: RwLock<Option<Facts>>,
    cpuinfo: Outlined<CpuinfoOutline>,
    stat: Outlined<[u8]>,
    flights: Flights<Box<str>>,
}

/// What the host has, and when its memory was new, which is looked at only where it matters.
#[derive(Clone, Debug)]
struct Facts {
    cpus: Instant,
    memory: Instant,
    value: Arc<HostFacts>,
}

impl Facts {
    /// The facts, as old as the oldest of them that matters.
    fn fetched(self, with_memory: bool) -> Fetched<Arc<HostFacts>> {
        let at = if with_memory { self.cpus.min(self.memory) } else { self.cpus };
        Fetched { at, value: self.value }
    }
}

/// A text, with what is made of it for all containers.
#[derive(Debug)]
struct Outline<T: ?Sized> {
    text: FetchedText,
    outline: Arc<T>,
    /// How long it is good for, though the host may be asked more often.
    rest: Duration,
}

/// That of one file, once it was read.
type Outlined<T> = RwLock<Option<Outline<T>>>;

/// Where a text is so long that to read it takes longer than this, it is not read as often as it might be.
const DEAR: Duration = Duration::from_micros(200);

/// Reading such a text takes no more than 2 % of a CPU.
const READING_SHARE: u32 = 50;

/// No text is older than this for that.
const OLDEST_TEXT: Duration = Duration::from_secs(1);

/// The files that are outlined.
const CPUINFO: File = File::Proc(ProcFile::Cpuinfo);
const STAT: File = File::Proc(ProcFile::Stat);

/// What the facts are called among files.
const FACTS: &str = "/sys/devices/system";

pub(crate) type FetchedText = Fetched<Arc<[u8]>>;
type ToldText = Told<Arc<[u8]>>;

/// How many files of the host are kept: those of the CPUs and nodes of any but the largest machines.
const MOST_TEXTS: usize = 4096;

impl HostTexts {
    /// The text of a file, as fresh as `settings` want it.
    ///
    /// A pressure file is empty where the kernel keeps no pressure: reading it is then an error
    /// (`psi_show()`), which is the container's to tell and not the host's.
    ///
    /// A text that cannot be that of `file` is not kept, and is an error unless it is for the host itself
    /// (`any`).
    pub(crate) fn get(
        &self,
        host: &Host,
        (file, path): (File, &str),
        any: bool,
        settings: &ViewSettings,
        counters: &CacheCounters,
    ) -> Result<FetchedText> {
        let asked = Instant::now();
        loop {
            if let Some(known) = self.stale(path).filter(|known| known.is_fresh(settings.freshness))
            {
                counters.hits.inc();
                return Ok(known);
            }
            self.check_flights(path, settings, || self.texts.read().contains_key(path))?;
            counters.misses.inc();
            let mut text = TEXT.take();
            let fetched = self.fetch(host, (file, path), &mut text);
            TEXT.set(text);
            let fetched = match fetched? {
                (fetched, Ok(())) => fetched,
                (fetched, Err(_)) if any => return Ok(fetched),
                (_, Err(source)) => {
                    return Err(cgview_host::Error::Parse { path: path.into(), source });
                }
            };
            if let Some(told) = self.tell(path, fetched, asked, settings.freshness) {
                return Ok(told);
            }
        }
    }

    /// Tells what was read of a file, or what was told meanwhile. `None` if that is too old for whoever `asked` then.
    fn tell(
        &self,
        path: &str,
        fetched: FetchedText,
        asked: Instant,
        freshness: Duration,
    ) -> Option<FetchedText> {
        let mut texts = self.texts.write();
        let turn = texts.get(path).map(|told| told.turn(fetched.at, asked.checked_sub(freshness)));
        match turn {
            Some(Turn::Other(other)) => return Some(other),
            Some(Turn::Again) => return None,
            Some(Turn::Own) | None => {}
        }
        let told = Told::from(Instant::now(), fetched.clone());
        if let Some(place) = texts.get_mut(path) {
            *place = told;
            return Some(fetched);
        }
        if texts.len() >= MOST_TEXTS {
            texts.retain(|_, known| known.fetched.is_fresh(freshness));
        }
        if texts.len() < MOST_TEXTS {
            texts.insert(path.into(), told);
        }
        Some(fetched)
    }

    /// Reads a file, and says whether it may be one. A text that did not change is the one of before.
    fn fetch(
        &self,
        host: &Host,
        (file, path): (File, &str),
        text: &mut Vec<u8>,
    ) -> Result<(FetchedText, std::result::Result<(), ParseError>)> {
        text.clear();
        let at = Instant::now();
        let flight = self.flights.start(path.into());
        match host.read(path, text) {
            Err(cgview_host::Error::Read { source, .. })
                if Errno::from_io_error(&source) == Some(Errno::OPNOTSUPP) => {}
            read => read?,
        }
        drop(flight);
        match self.stale(path).filter(|known| *known.value == **text) {
            Some(Fetched { value, .. }) => Ok((Fetched { at, value }, Ok(()))),
            None => Ok((Fetched { at, value: Arc::from(&**text) }, file.check(text))),
        }
    }

    /// The text of a file as it was read last.
    pub(crate) fn stale(&self, path: &str) -> Option<FetchedText> {
        self.texts.read().get(path).map(|told| told.fetched.clone())
    }

    /// `/proc/cpuinfo` of a host whose CPUs are `online`, with its outline.
    ///
    /// The kernel makes a kibibyte and more for each CPU, of which only clock rates ever change. So the more CPUs there
    /// are, the older those may be; but no CPU came or went since.
    pub(crate) fn cpuinfo(
        &self,
        host: &Host,
        path: &str,
        online: &Mask,
        settings: &ViewSettings,
        counters: &CacheCounters,
    ) -> Result<(FetchedText, Arc<CpuinfoOutline>)> {
        let good = |outline: &CpuinfoOutline| outline.cpus() == online;
        let of = |text: &[u8]| Arc::new(CpuinfoOutline::of(text));
        let read = || self.get(host, (CPUINFO, path), false, settings, counters);
        outlined(&self.cpuinfo, DEAR, good, of, read, counters)
    }

    /// `/proc/stat`, with what of it containers' are made from: that changes only when the clock is set, or when an
    /// interrupt comes or goes.
    pub(crate) fn stat(
        &self,
        host: &Host,
        path: &str,
        settings: &ViewSettings,
        counters: &CacheCounters,
    ) -> Result<(FetchedText, Arc<[u8]>)> {
        let of = |text: &[u8]| Arc::from(stat_outline(text));
        let read = || self.get(host, (STAT, path), false, settings, counters);
        outlined(&self.stat, Duration::ZERO, |_| true, of, read, counters)
    }

    /// What the host has, as fresh as `settings` want it; of its memory, of whatever age unless that matters.
    pub(crate) fn facts(
        &self,
        host: &Host,
        with_memory: bool,
        settings: &ViewSettings,
        counters: &CacheCounters,
    ) -> Result<Fetched<Arc<HostFacts>>> {
        let known = self.facts.read().clone();
        if let Some(known) = known.clone().map(|known| known.fetched(with_memory))
            && known.is_fresh(settings.freshness)
        {
            return Ok(known);
        }
        self.check_flights(FACTS, settings, || known.is_some())?;
        let facts = match known.filter(|_| !with_memory) {
            Some(Facts { memory, value, .. }) => {
                let (cpus, _flight) = (Instant::now(), self.flights.start(FACTS.into()));
                Facts { cpus, memory, value: host.facts_but_memory(&value)? }
            }
            None => {
                let meminfo = (File::Proc(ProcFile::Meminfo), "/proc/meminfo");
                let meminfo = self.get(host, meminfo, false, settings, counters)?;
                let (cpus, _flight) = (Instant::now(), self.flights.start(FACTS.into()));
                Facts {
                    cpus,
                    memory: meminfo.at,
                    value: Arc::new(host.facts_with(&meminfo.value)?),
                }
            }
        };
        let mut place = self.facts.write();
        // Whoever looked at the CPUs alone may have been overtaken by somebody who looked at all.
        if place.as_ref().is_none_or(|known| known.memory <= facts.memory) {
            *place = Some(facts.clone());
        }
        drop(place);
        Ok(facts.fetched(with_memory))
    }

    /// Fails if somebody has been reading the file in vain, and it was read before: then that will do.
    fn check_flights(
        &self,
        path: &str,
        settings: &ViewSettings,
        known: impl FnOnce() -> bool,
    ) -> Result<()> {
        if self.flights.are_slow(settings.slow(), |other| **other == *path) && known() {
            return Err(slow(path));
        }
        Ok(())
    }

    /// What the host had when it was asked last.
    pub(crate) fn stale_facts(&self) -> Option<Fetched<Arc<HostFacts>>> {
        self.facts.read().clone().map(|facts| facts.fetched(true))
    }
}

/// The outline of a text: the one that is known while it is `good` and has to rest, and that `of` what is `read` else.
/// A text whose reading takes longer than `dear` is read no oftener than [`READING_SHARE`] permits.
fn outlined<T: ?Sized>(
    place: &Outlined<T>,
    dear: Duration,
    good: impl Fn(&T) -> bool,
    of: impl Fn(&[u8]) -> Arc<T>,
    read: impl FnOnce() -> Result<FetchedText>,
    counters: &CacheCounters,
) -> Result<(FetchedText, Arc<T>)> {
    if let Some(known) = &*place.read()
        && known.text.is_fresh(known.rest)
        && good(&known.outline)
    {
        counters.hits.inc();
        let text = Fetched { at: Instant::now(), value: Arc::clone(&known.text.value) };
        return Ok((text, Arc::clone(&known.outline)));
    }
    let asked = Instant::now();
    let text = read()?;
    let same = place
        .read()
        .as_ref()
        .filter(|known| Arc::ptr_eq(&known.text.value, &text.value))
        .map(|known| Arc::clone(&known.outline));
    let is_new = text.at >= asked;
    if let Some(outline) = same.as_ref().filter(|_| !is_new) {
        return Ok((text, Arc::clone(outline)));
    }
    let outline = same.unwrap_or_else(|| of(&text.value));
    let cost = asked.elapsed();
    let rest = if is_new && cost >= dear { cost * READING_SHARE } else { Duration::ZERO };
    let rest = rest.min(OLDEST_TEXT);
    let kept = Outline { text: text.clone(), outline: Arc::clone(&outline), rest };
    *place.write() = Some(kept);
    Ok((text, outline))
}

#[cfg(test)]
mod tests {
    use cgview_testkit::{FakeHost, FakeProcess};

    use super::*;

    /// How many containers there are, each with one process that asks.
    const CONTAINERS: u32 = 300;

    /// How many threads ask in the container that has a crowd of them.
    const CROWD: u32 = 400;

    fn process(fake: &FakeHost, pid: u32, container: u32) {
        fake.process(&FakeProcess {
            pid,
            start: 300_000,
            nspid: &[pid, 1],
            cgroup: &format!("0::/{container}\n"),
            pid_namespace: 4_026_532_000 + u64::from(container),
            ..FakeProcess::default()
        });
    }

    #[test]
    fn what_containers_stat_is_made_from_is_at_most_a_second_old() {
        let fake = FakeHost::new();
        let stat =
            |btime| fake.file("/proc/stat", &format!("cpu  7 0 1\ncpu0 7 0 1\nbtime {btime}\n"));
        stat(1);
        let host = Host::at(fake.path()).unwrap();
        let (texts, counters) = (HostTexts::default(), CacheCounters::default());
        let settings = ViewSettings { freshness: Duration::ZERO, ..ViewSettings::default() };
        let get = || {
            let (text, outline) = texts.stat(&host, "/proc/stat", &settings, &counters).unwrap();
            (text.value, String::from_utf8(outline.to_vec()).unwrap())
        };
        let (text, outline) = get();
        assert_eq!((text.len(), &*outline), (30, "cpu  0 0 0\nbtime 1\n"));
        stat(2);
        std::thread::sleep(OLDEST_TEXT);
        assert_eq!(get().1, "cpu  0 0 0\nbtime 2\n");
        // While it rests, the file is not read.
        let asked = counters.hits.get() + counters.misses.get();
        (0..100).for_each(|_| assert_eq!(get().1, "cpu  0 0 0\nbtime 2\n"));
        assert_eq!(counters.hits.get() + counters.misses.get(), asked + 100);
        assert!(counters.hits.get() > 0);
    }

    #[test]
    fn the_hosts_memory_is_looked_at_where_it_matters() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        let meminfo = |kib| fake.file("/proc/meminfo", &format!("MemTotal: {kib} kB\n"));
        meminfo(1000);
        fake.file("/sys/devices/system/cpu/online", "0-1\n");
        let host = Host::at(fake.path()).unwrap();
        let (texts, counters) = (HostTexts::default(), CacheCounters::default());
        let settings = ViewSettings { freshness: Duration::ZERO, ..ViewSettings::default() };
        let get = |with_memory| {
            let facts = texts.facts(&host, with_memory, &settings, &counters).unwrap().value;
            (facts.memory.total.0 >> 10, facts.online.len())
        };
        // The first time, everything is new.
        assert_eq!(get(false), (1000, 2));
        meminfo(2000);
        fake.file("/sys/devices/system/cpu/online", "0\n");
        assert_eq!(get(false), (1000, 1));
        assert_eq!(get(true), (2000, 1));
        assert_eq!(get(false), (2000, 1));
    }

    #[test]
    fn callers_of_many_containers_are_known_and_a_crowd_forgets_its_own() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        // As a runtime numbers them that starts eight processes for each.
        let pids: Vec<u32> = (0..CONTAINERS).map(|number| 1000 + 8 * number).collect();
        for (&pid, container) in pids.iter().zip(0..) {
            process(&fake, pid, container);
            fake.file(&format!("/sys/fs/cgroup/{container}/cgroup.procs"), &format!("{pid}\n"));
        }
        let crowd: Vec<u32> = (0..CROWD).map(|number| 10_000 + number).collect();
        for &pid in &crowd {
            fake.process(&FakeProcess { pid, cgroup: "0::/crowd\n", ..FakeProcess::default() });
        }
        fake.file("/sys/fs/cgroup/crowd/cgroup.procs", "10000\n");
        // For 373 callers.
        let host = Host::at(fake.path()).unwrap().keeping(4480);
        let callers = Callers::new(&host);
        let settings = ViewSettings { request_deadline: Duration::MAX, ..ViewSettings::default() };
        let hits = |tids: &[u32]| {
            let counters = CacheCounters::default();
            for &tid in tids {
                callers.get(&host, tid, &settings, &counters).unwrap();
            }
            counters.hits.get()
        };
        // The first time nothing is kept, the second time it is.
        assert_eq!((hits(&pids), hits(&pids), hits(&pids)), (0, 0, u64::from(CONTAINERS)));
        for _ in 0..3 {
            hits(&crowd);
        }
        assert_eq!(hits(&pids), u64::from(CONTAINERS));
    }
}
