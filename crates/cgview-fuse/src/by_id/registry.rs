//! Which containers the fast mount has, and by which names.

use std::{collections::HashMap, sync::Arc};

use cgview_host::{Caller, Census, CgroupId, Host, KeptCaller};
use parking_lot::Mutex;

use super::node::Slot;

/// The containers that were found.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    containers: HashMap<Slot, Arc<Resident>>,
    /// The cgroups whose processes are known to be of which container.
    homes: HashMap<CgroupId, Slot>,
}

/// A container, by one of its processes: its init, if it has one.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) id: CgroupId,
    kept: KeptCaller,
}

impl Resident {
    pub(crate) fn slot(&self) -> Slot {
        Slot::of(self.id)
    }

    /// The id that the runtime gave it.
    pub(crate) fn runtime_id(&self) -> Option<String> {
        self.kept.caller().0.container.runtime_id()
    }

    /// Whether it is a container, and not just some processes in a cgroup.
    fn is_listed(&self) -> bool {
        let container = self.kept.caller().0.container;
        container.init().is_some() || container.runtime_id().is_some()
    }
}

impl Registry {
    /// The container of that name, with its process as it is now.
    pub(crate) fn by_name(&self, host: &Host, name: &str) -> Option<Arc<Resident>> {
        let fits = |resident: &Arc<Resident>| match name.parse() {
            Ok(id) => resident.id == CgroupId(id) && name == id.to_string(),
            Err(_) => resident.runtime_id().as_deref() == Some(name),
        };
        self.find(host, fits).map(|(resident, _)| resident)
    }

    /// A container, and its process as it is now.
    pub(crate) fn by_slot(&self, host: &Host, slot: Slot) -> Option<(Arc<Resident>, Caller)> {
        let known = self.0.lock().containers.get(&slot).cloned();
        if let Some(found) = known.and_then(|resident| self.check(host, resident)) {
            return Some(found);
        }
        self.find(host, |resident| resident.slot() == slot)
    }

    /// All that are to be listed.
    pub(crate) fn list(&self, host: &Host) -> Vec<Arc<Resident>> {
        self.refresh(host);
        let all: Vec<_> = self.0.lock().containers.values().cloned().collect();
        let mut listed: Vec<_> = all.into_iter().filter(|resident| resident.is_listed()).collect();
        listed.sort_unstable_by_key(|resident| resident.id);
        listed
    }

    /// Forgets those that are gone.
    pub(crate) fn sweep(&self, host: &Host) {
        let all: Vec<_> = self.0.lock().containers.values().cloned().collect();
        for resident in all {
            self.check(host, resident);
        }
    }

    fn find(
        &self,
        host: &Host,
        fits: impl Fn(&Arc<Resident>) -> bool,
    ) -> Option<(Arc<Resident>, Caller)> {
        for is_last in [false, true] {
            let known = self.0.lock().containers.values().find(|resident| fits(resident)).cloned();
            if let Some(found) = known.and_then(|resident| self.check(host, resident)) {
                return Some(found);
            }
            if !is_last {
                self.refresh(host);
            }
        }
        None
    }

    /// Whether the process is still in the container; else both are forgotten.
    fn check(&self, host: &Host, resident: Arc<Resident>) -> Option<(Arc<Resident>, Caller)> {
        let (before, _) = resident.kept.caller();
        match resident.kept.check(host) {
            Ok(caller) if caller.container.id() == before.container.id() => {
                Some((resident, caller))
            }
            _ => {
                let mut known = self.0.lock();
                let slot = resident.slot();
                if known.containers.get(&slot).is_some_and(|other| Arc::ptr_eq(other, &resident)) {
                    known.containers.remove(&slot);
                    known.homes.retain(|_, home| *home != slot);
                }
                None
            }
        }
    }

    /// Looks which containers there are now.
    fn refresh(&self, host: &Host) {
        let census = match host.census() {
            Ok(census) => census,
            Err(error) => {
                tracing::warn!("cannot look for containers: {error}");
                return;
            }
        };
        let unknown: Vec<_> = {
            let mut known = self.0.lock();
            let there: std::collections::HashSet<_> =
                census.populated.iter().map(|cgroup| cgroup.id).collect();
            known.homes.retain(|id, _| there.contains(id));
            let news = census.populated.iter();
            news.filter(|cgroup| !known.homes.contains_key(&cgroup.id)).cloned().collect()
        };
        for cgroup in unknown {
            if let Some(resident) = resident(host, &census, cgroup.pid) {
                let slot = resident.slot();
                let mut known = self.0.lock();
                known.homes.insert(cgroup.id, slot);
                known.containers.entry(slot).or_insert_with(|| Arc::new(resident));
            }
        }
    }
}

fn resident(host: &Host, census: &Census, pid: u32) -> Option<Resident> {
    let mut kept = host.resident(pid).ok()??;
    let container = kept.caller().0.container;
    let id = census.id_of(host, &container)?;
    // Its init lives for as long as the container does.
    if let Some(init) = container.init().filter(|&init| init != pid)
        && let Ok(Some(of_init)) = host.resident(init)
        && of_init.caller().0.container.id() == container.id()
    {
        kept = of_init;
    }
    Some(Resident { id, kept })
}
