//! The lines about huge pages of a fixed size.

use super::HostLines;
use crate::{
    effective::MemoryLimits,
    explain::{Source, Why},
    snapshot::{Controller, HugetlbLevel, Version},
    units::{Bytes, Limit},
    view::View,
};

/// Whether any level limits huge pages.
pub(super) fn is_limited(view: &View<'_>) -> bool {
    view.snapshot.hugetlb.iter().any(|level| level.max != Limit::Max)
}

/// `HugePages_*` and `Hugetlb`.
///
/// The pools are the machine's. A container is shown what the hugetlb controller lets it have of
/// them, or all if there is no limit; none of them if its memory could not hold them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HugePages {
    total: Option<(u64, Why)>,
    free: Option<(u64, Why)>,
    /// `HugePages_Rsvd` and `HugePages_Surp`.
    others: Option<(u64, Why)>,
    /// `Hugetlb`, where it is not the host's.
    pub(super) kib: Option<u64>,
    why: Option<Why>,
}

impl HugePages {
    pub(super) fn new(view: &View<'_>, limits: &MemoryLimits, host: &HostLines) -> HugePages {
        let memory = match limits.memory_limited {
            true => limits.total.0.kib(),
            false => u64::MAX,
        };
        if !is_limited(view) {
            if host.hugetlb <= memory {
                return HugePages::default();
            }
            let none = Some((0, Why::of(limits.total.1.source, "they do not fit into MemTotal")));
            return HugePages {
                total: none,
                free: none,
                others: none,
                kib: Some(0),
                why: none.map(|(_, why)| why),
            };
        }

        let levels = view.snapshot.hugetlb.as_slice();
        let size = Bytes::from_kib(host.huge_size);
        let pages = |size_kib: u64| size_kib.checked_div(host.huge_size).unwrap_or_default();
        let machine = Why::host("/proc/meminfo", "the pool is no larger");
        let (mut total, mut free) = ((host.huge_pages, machine), (host.huge_free, machine));
        if pages(memory) < total.0 {
            total = (pages(memory), Why::of(limits.total.1.source, "no more fit into MemTotal"));
        }
        for (level, at) in levels.iter().enumerate().filter(|(_, at)| at.page_size == size) {
            let Limit::At(limit) = at.max else { continue };
            let (max, usage) = files(at);
            if pages(limit.kib()) < total.0 {
                let rule = "the tightest limit up to the root";
                total = (pages(limit.kib()), Why::cgroup(Controller::Hugetlb, level, max, rule));
            }
            let left = pages(limit.saturating_sub(at.usage).kib());
            if left < free.0 {
                let rule = "limit less usage, the least of all levels";
                free = (left, Why::cgroup(Controller::Hugetlb, level, usage, rule));
            }
        }
        if total.0 < free.0 {
            free = total;
        }

        let pool = host.huge_pages.saturating_mul(host.huge_size);
        let other_sizes = host.hugetlb.saturating_sub(pool).min(other_sizes(levels, size));
        let kib = total.0.saturating_mul(host.huge_size).saturating_add(other_sizes);
        HugePages {
            total: Some(total),
            free: Some(free),
            others: Some((0, Why::of(Source::Constant, "not accounted by cgroup"))),
            kib: Some(kib.min(memory)),
            why: Some(Why::of(total.1.source, "the pages of all sizes")),
        }
    }

    pub(super) fn line(&self, name: &[u8]) -> Option<(u64, Why)> {
        match name {
            b"HugePages_Total" => self.total,
            b"HugePages_Free" => self.free,
            b"Hugetlb" => self.kib.zip(self.why),
            _ => self.others,
        }
    }
}

/// What the limits of all sizes but `size` allow together, in KiB; `u64::MAX` if one of them has no
/// limit.
fn other_sizes(levels: &[HugetlbLevel], size: Bytes) -> u64 {
    let others = || levels.iter().filter(|level| level.page_size != size);
    let mut sum = 0u64;
    for (index, level) in others().enumerate() {
        // Each size once, where it comes first.
        if others().take(index).any(|earlier| earlier.page_size == level.page_size) {
            continue;
        }
        let limit = others()
            .filter(|other| other.page_size == level.page_size)
            .fold(Limit::Max, |limit, other| limit.min(other.max));
        sum = sum.saturating_add(limit.at().map_or(u64::MAX, Bytes::kib));
    }
    sum
}

fn files(level: &HugetlbLevel) -> (&'static str, &'static str) {
    match level.cgroup.version {
        Version::V1 => ("hugetlb.*.limit_in_bytes", "hugetlb.*.usage_in_bytes"),
        Version::V2 => ("hugetlb.*.max", "hugetlb.*.current"),
    }
}
