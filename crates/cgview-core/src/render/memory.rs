//! The sizes of a container's memory, as `/proc/meminfo` and `/proc/vmstat` show them.
//!
//! They are read at different moments: the usage when the kernel charged a page, `memory.stat` up
//! to two seconds later (`FLUSH_TIME` in `mm/memcontrol.c`). Here they are fitted together, so that
//! no part is larger than its whole.

use crate::{
    effective::{MemoryLimits, swap_in_use},
    explain::{Source, Why},
    snapshot::{Controller, MemoryStat},
    units::Bytes,
    view::View,
};

/// Sizes in KiB, each at most what is in use: `MemTotal` less `MemFree`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub(super) total: u64,
    pub(super) free: u64,
    pub(super) available: u64,
    pub(super) swap_total: u64,
    pub(super) swap_free: u64,
    pub(super) cached: u64,
    pub(super) swap_cached: u64,
    pub(super) active_anon: u64,
    pub(super) inactive_anon: u64,
    pub(super) active_file: u64,
    pub(super) inactive_file: u64,
    pub(super) unevictable: u64,
    pub(super) zswap: u64,
    pub(super) zswapped: u64,
    pub(super) dirty: u64,
    pub(super) writeback: u64,
    pub(super) anon: u64,
    pub(super) mapped: u64,
    pub(super) shmem: u64,
    pub(super) slab_reclaimable: u64,
    pub(super) slab_unreclaimable: u64,
    pub(super) kernel_stack: u64,
    pub(super) page_tables: u64,
    pub(super) sec_page_tables: u64,
    pub(super) percpu: u64,
    pub(super) vmalloc: u64,
    pub(super) anon_huge: u64,
    pub(super) shmem_huge: u64,
    pub(super) file_huge: u64,
    /// What must have been committed: the pages that nothing but memory or swap can hold.
    pub(super) committed: u64,
}

impl Sizes {
    pub(super) fn new(view: &View<'_>, limits: &MemoryLimits) -> Sizes {
        let (total, free) = (limits.total.0.kib(), limits.free.0.kib());
        let (swap_total, swap_free) = (limits.swap_total.0.kib(), limits.swap_free.0.kib());
        let in_use = total.saturating_sub(free);
        let swap_used = swap_total.saturating_sub(swap_free);
        let none = MemoryStat::default();
        let container = view.snapshot.memory.first();
        let stat = container.and_then(|level| level.stat.as_ref()).unwrap_or(&none);

        let kib = |size: Option<Bytes>| size.unwrap_or_default().kib();
        let part = |size: Option<Bytes>| kib(size).min(in_use);
        let take = |room: &mut u64, size: u64| {
            let taken = size.min(*room);
            *room -= taken;
            taken
        };

        // A page is on one list only.
        let mut lists = in_use;
        let active_anon = take(&mut lists, kib(stat.active_anon));
        let inactive_anon = take(&mut lists, kib(stat.inactive_anon));
        let active_file = take(&mut lists, kib(stat.active_file));
        let inactive_file = take(&mut lists, kib(stat.inactive_file));
        let unevictable = take(&mut lists, kib(stat.unevictable));

        // Older readers have "used" as total - free - buffers - cached - reclaimable slab.
        let mut caches = in_use;
        // Without the swap cache, as in the host's `Cached`: add_to_swap_cache() counts its pages
        // in the node's NR_FILE_PAGES, but not in the cgroup's.
        let cached = take(&mut caches, kib(stat.file));
        let slab_reclaimable = take(&mut caches, kib(stat.slab_reclaimable));
        // v1 has one number for all of the kernel's memory, and none for slab.
        let slab_unreclaimable = match stat.slab {
            None => stat.slab_unreclaimable.or(stat.kernel),
            Some(_) => stat.slab_unreclaimable,
        };
        let slab_unreclaimable = kib(slab_unreclaimable).min(in_use - slab_reclaimable);

        let anon = part(stat.anon);
        let shmem = kib(stat.shmem).min(cached);
        let swapped = container.map(|level| swap_in_use(level, limits.swap_total.0));
        let zswap = view.policy.zswap && view.policy.swap;
        Sizes {
            total,
            free,
            available: limits.available.0.kib(),
            swap_total,
            swap_free,
            cached,
            swap_cached: part(stat.swapcached).min(swap_used),
            active_anon,
            inactive_anon,
            active_file,
            inactive_file,
            unevictable,
            zswap: if zswap { part(stat.zswap) } else { 0 },
            zswapped: if zswap { kib(stat.zswapped).min(swap_used) } else { 0 },
            dirty: part(stat.file_dirty),
            writeback: part(stat.file_writeback),
            anon,
            mapped: part(stat.file_mapped),
            shmem,
            slab_reclaimable,
            slab_unreclaimable,
            kernel_stack: part(stat.kernel_stack),
            page_tables: part(stat.pagetables),
            sec_page_tables: part(stat.sec_pagetables),
            percpu: part(stat.percpu),
            vmalloc: part(stat.vmalloc),
            anon_huge: kib(stat.anon_thp).min(anon),
            shmem_huge: kib(stat.shmem_thp).min(shmem),
            file_huge: kib(stat.file_thp).min(cached),
            committed: anon.saturating_add(shmem).saturating_add(kib(swapped)),
        }
    }
}

/// By a field of the container's `memory.stat`, which the rule names.
pub(super) const fn stat(field: &'static str) -> Why {
    Why::cgroup(Controller::Memory, 0, "memory.stat", field)
}

/// Always nothing.
pub(super) const fn not_accounted() -> Why {
    Why::of(Source::Constant, "not accounted by cgroup")
}

/// Nothing, since the administrator wants it so.
pub(super) const fn hidden() -> Why {
    Why::of(Source::Constant, "hidden by the policy")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        File, HostFacts, Limit, Policy, Reader, Snapshot,
        cpu_view::CpuView,
        effective::CpuLimits,
        host::HostMemory,
        snapshot::{Cgroup, MemoryLevel, Swap, Version},
        tree::ProcFile,
        units::Usec,
    };
    use alloc::{string::String, sync::Arc, vec::Vec};

    /// What a test renders from: a host of 16 GiB, of which 12 GiB are free, and 8 GiB of swap.
    #[derive(Default)]
    pub(in crate::render) struct Situation {
        pub(in crate::render) snapshot: Snapshot,
        pub(in crate::render) host: HostFacts,
        pub(in crate::render) policy: Policy,
    }

    pub(in crate::render) const fn mib(mib: u64) -> Bytes {
        Bytes(mib << 20)
    }

    impl Situation {
        pub(in crate::render) fn root() -> Situation {
            let memory = HostMemory {
                total: mib(16 << 10),
                free: mib(12 << 10),
                available: mib(14 << 10),
                swap_total: mib(8 << 10),
                swap_free: mib(7 << 10),
                ..HostMemory::default()
            };
            let host = HostFacts { memory, page_size: Bytes(4096), ..HostFacts::default() };
            Situation { host, ..Situation::default() }
        }

        pub(in crate::render) fn unlimited() -> Situation {
            let mut situation = Situation::root();
            situation.snapshot.memory.push(level("/app"));
            situation
        }

        /// A container of 512 MiB, which uses 200.
        pub(in crate::render) fn limited(stat: MemoryStat) -> Situation {
            let mut situation = Situation::root();
            situation.snapshot.memory.push(MemoryLevel {
                max: Limit::At(mib(512)),
                usage: mib(200),
                stat: Some(stat),
                ..level("/app")
            });
            situation
        }

        /// The text of `file`, and the reasons for it.
        pub(in crate::render) fn show(&self, file: ProcFile, host: &str) -> (String, Vec<String>) {
            let view = View {
                snapshot: &self.snapshot,
                now: Usec::ZERO,
                host: &self.host,
                policy: &self.policy,
                cpus: &CpuLimits::default(),
                cpu_view: &CpuView::default(),
                load: None,
                reader: Reader::default(),
            };
            let mut text = Vec::new();
            let explanation = view.explain(File::Proc(file), host.as_bytes(), &mut text).unwrap();
            let whys = explanation.notes.iter();
            let whys = whys.map(|(_, why)| alloc::format!("{}", why.describe(&self.snapshot)));
            (String::from_utf8(text).unwrap(), whys.collect())
        }
    }

    pub(in crate::render) fn level(path: &str) -> MemoryLevel {
        MemoryLevel {
            cgroup: Arc::new(Cgroup { path: path.into(), version: Version::V2 }),
            usage: mib(100),
            max: Limit::Max,
            high: Limit::Max,
            min: Bytes::ZERO,
            low: Bytes::ZERO,
            swap: Some(Swap { usage: Bytes::ZERO, max: Limit::Max }),
            stat: Some(MemoryStat::default()),
        }
    }
}
