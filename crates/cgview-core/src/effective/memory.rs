//! The memory and swap of a container.

use crate::{
    explain::{Source, Why},
    host::HostFacts,
    policy::Policy,
    snapshot::{Cgroup, Controller, MemoryLevel, Snapshot, Version},
    units::{Bytes, Limit},
};

/// The memory and swap of a container, each with the reason for it.
///
/// Where a limit holds, `free <= available <= total` and `swap_free <= swap_total` for any input,
/// and nothing is more than the host has. Where none holds, the numbers are the host's own, as they
/// are: the kernel's `MemAvailable` is an estimate and may be less than `MemFree`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryLimits {
    /// The tightest limit up to the root, at most what the host (or the nodes of the cpuset) has.
    pub total: (Bytes, Why),
    /// What the tightest level has left, at most what the host has.
    pub free: (Bytes, Why),
    /// What the tightest level has left once its page cache is reclaimed.
    pub available: (Bytes, Why),
    /// The tightest swap limit, at most the host's swap, at least what is used.
    pub swap_total: (Bytes, Why),
    /// What is left of it.
    pub swap_free: (Bytes, Why),
    /// Whether anything limits the memory: a `memory.max` or `memory.high` of any level, or a
    /// cpuset without some of the host's nodes.
    pub memory_limited: bool,
    /// Whether anything limits the swap: a `memory.swap.max` of any level, or the policy.
    pub swap_limited: bool,
}

/// The least total that is shown: a machine without memory does not exist, and readers divide by
/// it.
const LEAST: Bytes = Bytes(4096);

impl MemoryLimits {
    /// Folds the limits and usages of all levels.
    #[must_use]
    pub fn of(snapshot: &Snapshot, host: &HostFacts, policy: &Policy) -> MemoryLimits {
        let unlimited = Why::host("/proc/meminfo", "no limit up to the root");
        let mut limits = MemoryLimits {
            total: (host.memory.total, unlimited),
            free: (host.memory.free, unlimited),
            available: (host.memory.available, unlimited),
            swap_total: (host.memory.swap_total, unlimited),
            swap_free: (host.memory.swap_free, unlimited),
            memory_limited: false,
            swap_limited: false,
        };
        if let [container, ..] = snapshot.memory.as_slice() {
            limits.fold_memory(container, snapshot, host);
            limits.fold_swap(container, snapshot, host);
        }
        if !policy.swap {
            let why = Why::of(Source::Constant, "swap is hidden by the policy");
            limits.swap_total = (Bytes::ZERO, why);
            limits.swap_free = (Bytes::ZERO, why);
            limits.swap_limited = true;
        }
        limits
    }

    fn fold_memory(&mut self, container: &MemoryLevel, snapshot: &Snapshot, host: &HostFacts) {
        let levels = &snapshot.memory;
        let nodes = missing_nodes(snapshot, host);
        let has_max = levels.iter().any(|level| level.max != Limit::Max);
        let has_high = levels.iter().any(|level| level.high != Limit::Max);
        if nodes.is_none() && !has_max && !has_high {
            return;
        }
        self.memory_limited = true;

        let capacity = Why::host("/proc/meminfo", "the host has no more");
        let mut total = Least(host.memory.total, capacity);
        if let Some(nodes) = nodes {
            let file = match snapshot.cpuset.as_ref().map(|cpuset| cpuset.cgroup.version) {
                Some(Version::V1) => "cpuset.effective_mems",
                _ => "cpuset.mems.effective",
            };
            total.or(nodes, Why::cgroup(Controller::Cpuset, 0, file, "what these nodes have"));
        }
        let tightest = "the tightest limit up to the root";
        for (level, memory) in levels.iter().enumerate() {
            let (limit, file) = match has_max {
                true => (memory.max, files(&memory.cgroup).max),
                // Where nothing else is set, the kernel keeps the usage near this one.
                false => (memory.high, "memory.high"),
            };
            if let Limit::At(limit) = limit {
                total.or(limit, Why::cgroup(Controller::Memory, level, file, tightest));
            }
        }
        let least = LEAST.min(host.memory.total);
        if total.0 < least {
            total.0 = least;
            total.1.rule = "a limit of nothing is shown as one page";
        }

        // A machine in use fills its memory with page cache, so that its MemFree is small and tells nothing
        // of what a container may have. What it can give is its MemAvailable.
        let mut free = Least(host.memory.available, capacity);
        let mut available = Least(host.memory.available, capacity);
        let mut leaves = |level: usize, memory: &MemoryLevel, limit: Bytes| {
            let left = limit.saturating_sub(memory.usage);
            let reclaimable = reclaimable(levels, level);
            let files = files(&memory.cgroup);
            let rule = "limit less usage, the least of all levels";
            free.or(left, Why::cgroup(Controller::Memory, level, files.usage, rule));
            let rule = "limit less usage and reclaimable, the least of all levels";
            let why = Why::cgroup(Controller::Memory, level, "memory.stat", rule);
            available.or(left.saturating_add(reclaimable), why);
        };
        // What is shown as the total may be less than the limit of any level.
        leaves(0, container, total.0);
        for (level, memory) in levels.iter().enumerate() {
            if let Limit::At(limit) = memory.max.min(memory.high) {
                leaves(level, memory, limit);
            }
        }
        available.or(total.0, total.1);
        free.or(available.0, available.1);

        self.total = total.pair();
        self.free = free.pair();
        self.available = available.pair();
    }

    fn fold_swap(&mut self, container: &MemoryLevel, snapshot: &Snapshot, host: &HostFacts) {
        let levels = &snapshot.memory;
        let memory = levels.iter().fold(Limit::Max, |memory, level| memory.min(level.max));
        let capacity = Why::host("/proc/meminfo", "the host has no more");
        let mut total = Least(host.memory.swap_total, capacity);
        let mut free = Least(host.memory.swap_free, capacity);
        for (level, at) in levels.iter().enumerate() {
            let Some(limit) = swap_limit(at, memory) else { continue };
            self.swap_limited = true;
            let files = files(&at.cgroup);
            let rule = "the tightest limit up to the root";
            total.or(limit, Why::cgroup(Controller::Memory, level, files.swap_max, rule));
            let rule = "swap limit less usage, the least of all levels";
            let why = Why::cgroup(Controller::Memory, level, files.swap_usage, rule);
            free.or(limit.saturating_sub(swap_in_use(at, limit)), why);
        }
        if !self.swap_limited {
            return;
        }
        let used = swap_in_use(container, total.0).min(host.memory.swap_total);
        let files = files(&container.cgroup);
        if total.0 < used {
            let rule = "more is used than the limit of today allows";
            total = Least(used, Why::cgroup(Controller::Memory, 0, files.swap_usage, rule));
        }
        let why = Why::cgroup(Controller::Memory, 0, files.swap_usage, "total less usage");
        free.or(total.0.saturating_sub(used), why);
        self.swap_total = total.pair();
        self.swap_free = free.pair();
    }
}

/// The least number so far, and whose it is.
struct Least(Bytes, Why);

impl Least {
    fn or(&mut self, value: Bytes, why: Why) {
        if value < self.0 {
            *self = Least(value, why);
        }
    }

    fn pair(self) -> (Bytes, Why) {
        (self.0, self.1)
    }
}

/// The names of a level's files.
struct Files {
    max: &'static str,
    usage: &'static str,
    swap_max: &'static str,
    swap_usage: &'static str,
}

fn files(cgroup: &Cgroup) -> Files {
    match cgroup.version {
        Version::V1 => Files {
            max: "memory.limit_in_bytes",
            usage: "memory.usage_in_bytes",
            swap_max: "memory.memsw.limit_in_bytes",
            swap_usage: "memory.memsw.usage_in_bytes",
        },
        Version::V2 => Files {
            max: "memory.max",
            usage: "memory.current",
            swap_max: "memory.swap.max",
            swap_usage: "memory.swap.current",
        },
    }
}

/// What the nodes of the cpuset have together, if it lacks any of the host's.
fn missing_nodes(snapshot: &Snapshot, host: &HostFacts) -> Option<Bytes> {
    let mems = &snapshot.cpuset.as_ref()?.mems;
    let within = || host.nodes.iter().filter(|node| mems.contains(node.number));
    let total: Bytes = within().map(|node| node.total).sum();
    (within().count() < host.nodes.len() && total > Bytes::ZERO).then_some(total)
}

/// What the kernel can take back at `level` when that level reaches its limit: page cache and
/// reclaimable slab, less what `memory.min` and `memory.low` protect.
///
/// A protection holds against reclaim that starts further up, not against that of the cgroup's own
/// limit (`mem_cgroup_calculate_protection()`): it is the protection of the next level inwards that
/// counts. Of it, only the usage beyond the protection can be taken.
fn reclaimable(levels: &[MemoryLevel], level: usize) -> Bytes {
    let cache = |level: &MemoryLevel| {
        let stat = level.stat.as_ref()?;
        Some(
            [stat.active_file, stat.inactive_file, stat.slab_reclaimable]
                .iter()
                .flatten()
                .copied()
                .sum(),
        )
    };
    let all: Bytes = levels.get(level).and_then(cache).unwrap_or_default();
    let Some(inner) = level.checked_sub(1).and_then(|inner| levels.get(inner)) else { return all };
    let protection = inner.min.max(inner.low);
    if protection == Bytes::ZERO {
        return all;
    }
    let inner_cache = cache(inner).unwrap_or(inner.usage).min(all);
    let takeable = inner.usage.saturating_sub(protection);
    all.saturating_sub(inner_cache.saturating_sub(takeable))
}

/// What `level` allows of swap, where the tightest limit of memory is `memory`.
///
/// v2 limits swap by itself. v1 limits memory and swap together, at each level, so that what the
/// levels leave for swap is only known once the tightest of both is: memsw less memory, as
/// [`crate::snapshot::Swap`] has it for one level, is put together again. (A level with a memsw
/// limit has a memory limit that is not larger, `mem_cgroup_resize_max()`; where the snapshot has
/// none, the number is memsw itself.)
fn swap_limit(level: &MemoryLevel, memory: Limit<Bytes>) -> Option<Bytes> {
    let limit = level.swap?.max.at()?;
    Some(match level.cgroup.version {
        Version::V2 => limit,
        Version::V1 => {
            let memsw = limit.saturating_add(level.max.at().unwrap_or_default());
            memsw.saturating_sub(memory.at().unwrap_or_default())
        }
    })
}

/// The swap of `level` that is in use, where it may have `limit`.
///
/// v1 charges a page that is in the swap cache as memory alone (`mem_cgroup_swapout()`,
/// `mem_cgroup_swapin_uncharge_swap()` in `mm/memcontrol.c`), but its place in swap is taken: v2 and the host's
/// `SwapFree` count it. Both together may be more than the limit, as the page needs no such place any more when it is
/// put there in earnest.
pub(crate) fn swap_in_use(level: &MemoryLevel, limit: Bytes) -> Bytes {
    let used = level.swap.map_or(Bytes::ZERO, |swap| swap.usage);
    match level.cgroup.version {
        Version::V2 => used,
        Version::V1 => {
            let cached = level.stat.as_ref().and_then(|stat| stat.swapcached).unwrap_or_default();
            used.max(used.saturating_add(cached).min(limit))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Mask,
        host::{HostMemory, HostNode},
        snapshot::{Cpuset, MemoryStat, Swap},
    };
    use alloc::{string::ToString, sync::Arc, vec::Vec};

    const fn mib(mib: u64) -> Bytes {
        Bytes(mib << 20)
    }

    fn host() -> HostFacts {
        let memory = HostMemory {
            total: mib(16_384),
            free: mib(12_000),
            available: mib(14_000),
            swap_total: mib(8192),
            swap_free: mib(7000),
            ..HostMemory::default()
        };
        HostFacts { memory, ..HostFacts::default() }
    }

    /// A level of v2 without limits, whose page cache is `cache`.
    fn level(path: &str, usage: Bytes, cache: Bytes) -> MemoryLevel {
        let stat = MemoryStat { active_file: Some(cache), ..MemoryStat::default() };
        MemoryLevel {
            cgroup: Arc::new(Cgroup { path: path.into(), version: Version::V2 }),
            usage,
            max: Limit::Max,
            high: Limit::Max,
            min: Bytes::ZERO,
            low: Bytes::ZERO,
            swap: Some(Swap { usage: Bytes::ZERO, max: Limit::Max }),
            stat: Some(stat),
        }
    }

    fn of(levels: impl Into<Vec<MemoryLevel>>) -> MemoryLimits {
        let snapshot = Snapshot { memory: levels.into(), ..Snapshot::default() };
        MemoryLimits::of(&snapshot, &host(), &Policy::default())
    }

    /// Total, free and available in MiB.
    fn memory(limits: &MemoryLimits) -> [u64; 3] {
        [limits.total, limits.free, limits.available].map(|(bytes, _)| bytes.0 >> 20)
    }

    /// Total and free in MiB.
    fn swap(limits: &MemoryLimits) -> [u64; 2] {
        [limits.swap_total, limits.swap_free].map(|(bytes, _)| bytes.0 >> 20)
    }

    #[test]
    fn without_a_limit_it_is_the_hosts() {
        for levels in [Vec::new(), [level("/app", mib(100), mib(10))].into()] {
            let limits = of(levels);
            assert_eq!(memory(&limits), [16_384, 12_000, 14_000]);
            assert_eq!(swap(&limits), [8192, 7000]);
            assert!(!limits.memory_limited && !limits.swap_limited);
        }
    }

    // W11: parent max 300 MiB, a sibling uses 150 of them.
    //
    //     /pod (max 300M, usage 250M)
    //     ├─ app (usage 100M, of which 30M page cache)  <- the container
    //     └─ sibling (usage 150M)
    #[test]
    fn neighbours_use_what_an_ancestor_allows() {
        let app = level("/pod/app", mib(100), mib(30));
        let pod = MemoryLevel { max: Limit::At(mib(300)), ..level("/pod", mib(250), mib(40)) };
        let snapshot = Snapshot { memory: [app, pod].into(), ..Snapshot::default() };
        let limits = MemoryLimits::of(&snapshot, &host(), &Policy::default());
        assert_eq!(memory(&limits), [300, 50, 90]);
        assert_eq!(
            limits.total.1.describe(&snapshot).to_string(),
            "memory.max of /pod: the tightest limit up to the root"
        );
        assert_eq!(
            limits.free.1.describe(&snapshot).to_string(),
            "memory.current of /pod: limit less usage, the least of all levels"
        );
    }

    #[test]
    fn the_host_has_less_than_the_limit_leaves() {
        let app = MemoryLevel { max: Limit::At(mib(15_000)), ..level("/app", mib(100), mib(30)) };
        assert_eq!(memory(&of([app])), [15_000, 14_000, 14_000]);
        let app = MemoryLevel { max: Limit::At(mib(90_000)), ..level("/app", mib(5000), mib(30)) };
        assert_eq!(memory(&of([app])), [16_384, 11_384, 11_414]);
    }

    // W21: memory.high is where the kernel keeps the usage; memory.max may be higher, or not set.
    #[test]
    fn high_bounds_what_is_available() {
        let high = Limit::At(mib(128));
        let app = MemoryLevel { high, ..level("/app", mib(100), mib(50)) };
        assert_eq!(memory(&of([app.clone()])), [128, 28, 78]);
        let app = MemoryLevel { max: Limit::At(mib(256)), ..app };
        assert_eq!(memory(&of([app])), [256, 28, 78]);
    }

    #[test]
    fn a_limit_of_nothing_is_one_page() {
        let app = MemoryLevel { max: Limit::At(Bytes(0)), ..level("/app", mib(1), mib(1)) };
        let limits = of([app]);
        assert_eq!((limits.total.0, limits.free.0), (Bytes(4096), Bytes(0)));
    }

    // cgroup-v2.rst: "The memory usage of a cgroup under min is never reclaimed". What is protected
    // is the container from others; its own limit takes its page cache all the same.
    #[test]
    fn protected_page_cache_is_not_available_further_up() {
        let max = Limit::At(mib(300));
        let app = |min, low| MemoryLevel { min, low, max, ..level("/pod/app", mib(200), mib(80)) };
        let pod = || MemoryLevel { max, ..level("/pod", mib(280), mib(120)) };
        let available = |levels: [_; 2]| memory(&of(levels))[2];
        assert_eq!(available([app(mib(0), mib(0)), pod()]), 20 + 120);
        assert_eq!(available([app(mib(150), mib(0)), pod()]), 20 + 120 - 30);
        assert_eq!(available([app(mib(0), mib(250)), pod()]), 20 + 120 - 80);
        assert_eq!(memory(&of([app(mib(300), mib(0))]))[2], 100 + 80);
    }

    #[test]
    fn memory_of_other_nodes_is_out_of_reach() {
        let node = |number, total| HostNode { number, total, ..HostNode::default() };
        let host = HostFacts { nodes: [node(0, mib(4096)), node(1, mib(12_288))].into(), ..host() };
        let bound_to = |nodes: &[u32]| {
            let app = level("/app", mib(96), mib(30));
            let cgroup = app.cgroup.clone();
            let mems = nodes.iter().copied().collect();
            let cpuset = Some(Cpuset { cgroup, cpus: Mask::new(), mems });
            let snapshot = Snapshot { memory: [app].into(), cpuset, ..Snapshot::default() };
            MemoryLimits::of(&snapshot, &host, &Policy::default())
        };
        assert_eq!(memory(&bound_to(&[0])), [4096, 4000, 4030]);
        assert!(!bound_to(&[0, 1]).memory_limited);
    }

    // W4, W11
    #[test]
    fn swap_is_what_the_tightest_level_leaves() {
        let swapping = |path, usage, max| MemoryLevel {
            swap: Some(Swap { usage, max }),
            ..level(path, mib(100), mib(0))
        };
        let app = || swapping("/pod/app", mib(10), Limit::At(mib(100)));
        assert_eq!(swap(&of([app()])), [100, 90]);
        let pod = swapping("/pod", mib(150), Limit::At(mib(200)));
        assert_eq!(swap(&of([app(), pod])), [100, 50]);
        // The limit was lowered while 10 MiB were out.
        assert_eq!(swap(&of([swapping("/app", mib(10), Limit::At(mib(0)))])), [10, 0]);
        assert_eq!(swap(&of([swapping("/app", mib(10), Limit::At(mib(9000)))])), [8192, 7000]);
        // The policy hides it, even without a limit.
        let policy = Policy { swap: false, ..Policy::default() };
        let limits = MemoryLimits::of(&Snapshot::default(), &host(), &policy);
        assert_eq!((swap(&limits), limits.swap_limited), ([0, 0], true));
    }

    // v1 limits memory and swap together: 300 MiB of both for the pod, 100 of memory for the app,
    // leave the app 200 of swap.
    #[test]
    fn v1_leaves_for_swap_what_is_not_memory() {
        let level = |path: &str, max, swap_max| MemoryLevel {
            cgroup: Arc::new(Cgroup { path: path.into(), version: Version::V1 }),
            max,
            swap: Some(Swap { usage: mib(10), max: swap_max }),
            ..level(path, mib(50), mib(0))
        };
        let app = || level("/pod/app", Limit::At(mib(100)), Limit::Max);
        let pod = level("/pod", Limit::At(mib(200)), Limit::At(mib(100)));
        assert_eq!(swap(&of([app(), pod])), [200, 190]);
        assert_eq!(swap(&of([level("/app", Limit::At(mib(100)), Limit::At(mib(28)))])), [28, 18]);
        // What is in the swap cache has its place there too.
        let cached = |swapcached| {
            let level = level("/app", Limit::At(mib(100)), Limit::At(mib(28)));
            let stat = MemoryStat { swapcached: Some(mib(swapcached)), ..MemoryStat::default() };
            swap(&of([MemoryLevel { stat: Some(stat), ..level }]))
        };
        assert_eq!([cached(5), cached(18), cached(50)], [[28, 13], [28, 0], [28, 0]]);
        // Of memsw alone.
        assert_eq!(swap(&of([level("/app", Limit::Max, Limit::At(mib(28)))])), [28, 18]);
        assert!(!of([app()]).swap_limited);
    }
}
