//! The hugetlb controller.

use std::sync::Arc;

use cgview_core::{
    snapshot::{Controller, HugetlbLevel, Version},
    units::{Bytes, Limit},
};

use super::{Sampler, cgroup};
use crate::{cgroup::CgroupDir, error::Result};

/// The files of one page size.
#[derive(Debug)]
pub(crate) struct PageSize {
    size: Bytes,
    usage: String,
    max: String,
}

impl Sampler<'_> {
    pub(super) fn hugetlb(&mut self, out: &mut Vec<HugetlbLevel>) -> Result<()> {
        out.clear();
        for level in self.levels(Controller::Hugetlb)?.iter() {
            if self.is_top(Controller::Hugetlb, level) {
                break;
            }
            for size in self.page_sizes(level).iter() {
                let Some(usage) = self.number(level, &size.usage)? else { continue };
                let max = match self.limit(level, &size.max)? {
                    Some(Limit::At(max)) => limit(max, size.size),
                    Some(Limit::Max) | None => Limit::Max,
                };
                out.push(HugetlbLevel {
                    cgroup: cgroup(level),
                    page_size: size.size,
                    usage: Bytes(usage),
                    max,
                });
            }
        }
        Ok(())
    }

    /// The page sizes of this kernel, by the names of the files in the first cgroup that has any. They
    /// are the same in all.
    fn page_sizes(&self, level: &CgroupDir) -> Arc<[PageSize]> {
        if let Some(known) = self.host.page_sizes.get() {
            return known.clone();
        }
        let (usage, max) = match level.version() {
            Version::V1 => ("usage_in_bytes", "limit_in_bytes"),
            Version::V2 => ("current", "max"),
        };
        let names = level.names(&self.at, "hugetlb.");
        let mut sizes: Vec<_> = names
            .iter()
            .filter_map(|name| {
                let size = name.strip_prefix("hugetlb.")?.strip_suffix(usage)?.strip_suffix('.')?;
                Some(PageSize {
                    size: parse_size(size)?,
                    usage: name.clone(),
                    max: format!("hugetlb.{size}.{max}"),
                })
            })
            .collect();
        if sizes.is_empty() {
            return Arc::new([]);
        }
        sizes.sort_by_key(|size| size.size);
        self.host.page_sizes.get_or_init(|| sizes.into()).clone()
    }
}

/// Reads `2MB`, as `mem_fmt()` of `mm/hugetlb_cgroup.c` writes it. Names such as `2MB.rsvd` are no sizes.
fn parse_size(text: &str) -> Option<Bytes> {
    let (digits, shift) = [("KB", 10), ("MB", 20), ("GB", 30)]
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    digits.parse::<u64>().ok()?.checked_shl(shift).map(Bytes)
}

/// v1 has no word for "no limit": it shows the largest number of bytes that whole pages of this size make.
fn limit(max: u64, page_size: Bytes) -> Limit<Bytes> {
    let largest = i64::MAX.unsigned_abs().saturating_sub(page_size.0.saturating_mul(2));
    if max >= largest { Limit::Max } else { Limit::At(Bytes(max)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_have_units() {
        assert_eq!(parse_size("2MB"), Some(Bytes(2 << 20)));
        assert_eq!(parse_size("64KB"), Some(Bytes(64 << 10)));
        assert_eq!(parse_size("16GB"), Some(Bytes(16 << 30)));
        assert_eq!(parse_size("2MB.rsvd"), None);
    }

    #[test]
    fn the_largest_number_is_no_limit() {
        assert_eq!(limit(0x7fff_ffff_ffe0_0000, Bytes(2 << 20)), Limit::Max);
        assert_eq!(limit(0x7fff_fffc_0000_0000, Bytes(16 << 30)), Limit::Max);
        assert_eq!(limit(4 << 20, Bytes(2 << 20)), Limit::At(Bytes(4 << 20)));
    }
}
