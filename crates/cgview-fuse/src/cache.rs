//! What was read and is still good: callers by their thread, and files of the host.
//!
//! All of it is bounded, and no lock is held while the kernel is asked.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use cgview_core::HostFacts;
use cgview_host::{Caller, Host, KeptCaller, Result};
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use crate::metrics::CacheCounters;

/// Callers by their thread id.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    shards: [Mutex<HashMap<u32, Seen>>; 8],
}

/// How many callers are known in each shard.
const MOST_CALLERS: usize = 256;

/// A thread that asked.
#[derive(Debug)]
struct Seen {
    last: Instant,
    /// What is kept of one that asked twice. Most never do: they read one file and end.
    kept: Option<Arc<KeptCaller>>,
}

impl Callers {
    /// The caller behind a thread id.
    pub(crate) fn get(&self, host: &Host, tid: u32, counters: &CacheCounters) -> Result<Caller> {
        let Some(shard) = self.shards.get(tid as usize % self.shards.len()) else {
            return host.caller(tid);
        };
        let now = Instant::now();
        let known = {
            let mut shard = shard.lock();
            let known = shard.get_mut(&tid).map(|seen| {
                seen.last = now;
                seen.kept.clone()
            });
            if known.is_none() {
                make_room(&mut shard);
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
                match kept.check(host) {
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

    /// Forgets a caller, who is then found anew.
    pub(crate) fn forget(&self, tid: u32) {
        if let Some(shard) = self.shards.get(tid as usize % self.shards.len()) {
            let gone = shard.lock().remove(&tid);
            drop(gone);
        }
    }

    /// Forgets who has not asked for `idle`.
    pub(crate) fn sweep(&self, idle: Duration) {
        for shard in &self.shards {
            // Descriptors are closed after the lock is released.
            let gone: Vec<Seen> = {
                let mut shard = shard.lock();
                let tids: Vec<u32> = shard
                    .iter()
                    .filter(|(_, seen)| seen.last.elapsed() >= idle)
                    .map(|(&tid, _)| tid)
                    .collect();
                tids.iter().filter_map(|tid| shard.remove(tid)).collect()
            };
            drop(gone);
        }
    }
}

/// Drops the half that has not asked for longest.
fn make_room(shard: &mut HashMap<u32, Seen>) {
    if shard.len() < MOST_CALLERS {
        return;
    }
    let mut ages: Vec<Instant> = shard.values().map(|seen| seen.last).collect();
    let (_, &mut median, _) = ages.select_nth_unstable(MOST_CALLERS / 2);
    shard.retain(|_, seen| seen.last > median);
}

/// Files of the host, as text.
#[derive(Debug, Default)]
pub(crate) struct HostTexts {
    texts: RwLock<HashMap<Box<str>, FetchedText>>,
    facts: RwLock<Option<Fetched<Arc<HostFacts>>>>,
}

#[derive(Clone, Debug)]
struct Fetched<T> {
    at: Instant,
    value: T,
}

type FetchedText = Fetched<Arc<[u8]>>;

impl<T> Fetched<T> {
    fn is_fresh(&self, freshness: Duration) -> bool {
        self.at.elapsed() < freshness
    }
}

/// How many files of the host are kept: those of the CPUs and nodes of any but the largest machines.
const MOST_TEXTS: usize = 4096;

impl HostTexts {
    /// The text of a file, not older than `freshness`.
    ///
    /// A pressure file is empty where the kernel keeps no pressure: reading it is then an error
    /// (`psi_show()`), which is the container's to tell and not the host's.
    pub(crate) fn get(
        &self,
        host: &Host,
        path: &str,
        freshness: Duration,
        counters: &CacheCounters,
    ) -> Result<Arc<[u8]>> {
        if let Some(known) = self.texts.read().get(path).filter(|known| known.is_fresh(freshness)) {
            counters.hits.inc();
            return Ok(Arc::clone(&known.value));
        }
        counters.misses.inc();
        let mut text = Vec::new();
        let at = Instant::now();
        match host.read(path, &mut text) {
            Err(cgview_host::Error::Read { source, .. })
                if Errno::from_io_error(&source) == Some(Errno::OPNOTSUPP) => {}
            read => read?,
        }
        let value: Arc<[u8]> = text.into();
        let fetched = Fetched { at, value: Arc::clone(&value) };
        let mut texts = self.texts.write();
        match texts.get_mut(path) {
            Some(place) => *place = fetched,
            None => {
                if texts.len() >= MOST_TEXTS {
                    texts.retain(|_, known| known.is_fresh(freshness));
                }
                if texts.len() < MOST_TEXTS {
                    texts.insert(path.into(), fetched);
                }
            }
        }
        Ok(value)
    }

    /// The text of a file as it was read last.
    pub(crate) fn stale(&self, path: &str) -> Option<Arc<[u8]>> {
        self.texts.read().get(path).map(|known| Arc::clone(&known.value))
    }

    /// What the host has, not older than `freshness`.
    pub(crate) fn facts(
        &self,
        host: &Host,
        freshness: Duration,
        counters: &CacheCounters,
    ) -> Result<Arc<HostFacts>> {
        if let Some(known) = self.facts.read().as_ref().filter(|known| known.is_fresh(freshness)) {
            return Ok(Arc::clone(&known.value));
        }
        let at = Instant::now();
        let meminfo = self.get(host, "/proc/meminfo", freshness, counters)?;
        let value = Arc::new(host.facts_with(&meminfo)?);
        *self.facts.write() = Some(Fetched { at, value: Arc::clone(&value) });
        Ok(value)
    }

    /// What the host had when it was asked last.
    pub(crate) fn stale_facts(&self) -> Option<Arc<HostFacts>> {
        self.facts.read().as_ref().map(|known| Arc::clone(&known.value))
    }
}
