//! The memory controller.

use cgview_core::{
    parse::{
        ParseError, flat_keyed, memory_limit_v1, memory_sizes_v1, memory_sizes_v2, memory_stat_v1,
        memory_stat_v2,
    },
    snapshot::{Controller, MemoryLevel, MemoryStat, Swap, Version},
    units::{Bytes, Limit},
};

use super::{Sampler, cgroup};
use crate::{cgroup::CgroupDir, error::Result};

impl Sampler<'_> {
    /// With the `events` of the container's own level, if they are wanted.
    pub(super) fn memory(&mut self, events: bool, out: &mut Vec<MemoryLevel>) -> Result<()> {
        out.clear();
        let levels = self.levels(Controller::Memory)?;
        out.reserve_exact(levels.len());
        for level in levels.iter() {
            if self.is_top(Controller::Memory, level) {
                break;
            }
            let nearest = out.is_empty();
            let events = events && nearest;
            let read = match level.version() {
                Version::V1 => self.memory_v1(level, nearest, events)?,
                Version::V2 => self.memory_v2(level, nearest, events)?,
            };
            // A level without the controller is one of v2, below those that have it.
            out.extend(read);
        }
        Ok(())
    }

    fn memory_v2(
        &mut self,
        level: &CgroupDir,
        nearest: bool,
        events: bool,
    ) -> Result<Option<MemoryLevel>> {
        let Some(usage) = self.number(level, "memory.current")? else { return Ok(None) };
        let max = self.bytes(level, "memory.max")?;
        let high = self.bytes(level, "memory.high")?;
        let min = self.protection(level, "memory.min")?;
        let low = self.protection(level, "memory.low")?;
        let swap = match self.number(level, "memory.swap.current")? {
            Some(usage) => {
                Some(Swap { usage: Bytes(usage), max: self.bytes(level, "memory.swap.max")? })
            }
            None => None,
        };
        let limited = nearest || max != Limit::Max || high != Limit::Max;
        let parse = if events { memory_stat_v2 } else { memory_sizes_v2 };
        let stat = if limited { self.parse(level, "memory.stat", parse)? } else { None };
        Ok(Some(MemoryLevel {
            cgroup: cgroup(level),
            usage: Bytes(usage),
            max,
            high,
            min,
            low,
            swap,
            stat,
        }))
    }

    fn memory_v1(
        &mut self,
        level: &CgroupDir,
        nearest: bool,
        events: bool,
    ) -> Result<Option<MemoryLevel>> {
        // The sum is read before its part: as long as both grow, what is left of it for swap is not too
        // large.
        let both = self.number(level, "memory.memsw.usage_in_bytes")?;
        let Some(usage) = self.number(level, "memory.usage_in_bytes")? else { return Ok(None) };
        let max = self.limit_v1(level, "memory.limit_in_bytes")?.unwrap_or_default();
        let both_max = self.limit_v1(level, "memory.memsw.limit_in_bytes")?;
        let mut stat = None;
        let mut swapped = None;
        if nearest || max != Limit::Max {
            stat = self.parse(level, "memory.stat", |text| {
                swapped = total_swap(text)?;
                if events { memory_stat_v1(text) } else { memory_sizes_v1(text) }
            })?;
            if let Some(stat) = &mut stat {
                self.kernel_memory_v1(level, stat)?;
            }
        }
        let swap = both.map(|both| Swap {
            usage: swapped.unwrap_or(Bytes(both.saturating_sub(usage))),
            max: swap_max(max, both_max.unwrap_or_default()),
        });
        Ok(Some(MemoryLevel {
            cgroup: cgroup(level),
            usage: Bytes(usage),
            max,
            high: Limit::Max,
            min: Bytes::ZERO,
            low: Bytes::ZERO,
            swap,
            stat,
        }))
    }

    /// v1 counts the kernel's memory apart from `memory.stat`, in one sum.
    fn kernel_memory_v1(&mut self, level: &CgroupDir, stat: &mut MemoryStat) -> Result<()> {
        if stat.kernel.is_none() {
            stat.kernel = self.number(level, "memory.kmem.usage_in_bytes")?.map(Bytes);
        }
        Ok(())
    }

    fn bytes(&mut self, level: &CgroupDir, name: &str) -> Result<Limit<Bytes>> {
        Ok(match self.limit(level, name)? {
            Some(Limit::At(bytes)) => Limit::At(Bytes(bytes)),
            Some(Limit::Max) | None => Limit::Max,
        })
    }

    /// What a protection covers: `max` is all of it, and no file none. `memory.min` is there since Linux
    /// 4.18.
    fn protection(&mut self, level: &CgroupDir, name: &str) -> Result<Bytes> {
        Ok(match self.limit(level, name)? {
            Some(Limit::At(bytes)) => Bytes(bytes),
            Some(Limit::Max) => Bytes(u64::MAX),
            None => Bytes::ZERO,
        })
    }

    fn limit_v1(&mut self, level: &CgroupDir, name: &str) -> Result<Option<Limit<Bytes>>> {
        self.parse(level, name, memory_limit_v1)
    }
}

/// v1 limits memory and swap together: what is left of that for swap alone.
fn swap_max(memory: Limit<Bytes>, both: Limit<Bytes>) -> Limit<Bytes> {
    match (memory, both) {
        (Limit::At(memory), Limit::At(both)) => Limit::At(both.saturating_sub(memory)),
        (_, both) => both,
    }
}

/// `total_swap` of v1's `memory.stat`, which is there if swap is accounted for.
fn total_swap(text: &[u8]) -> Result<Option<Bytes>, ParseError> {
    let mut swap = None;
    flat_keyed(text, |key, value| {
        if key == b"total_swap" {
            swap = Some(Bytes(value));
        }
    })?;
    Ok(swap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_what_memsw_leaves() {
        let at = |bytes| Limit::At(Bytes(bytes));
        assert_eq!(swap_max(at(300), at(500)), at(200));
        assert_eq!(swap_max(at(300), at(300)), at(0));
        assert_eq!(swap_max(at(300), Limit::Max), Limit::Max);
        assert_eq!(swap_max(Limit::Max, at(500)), at(500));
        assert_eq!(swap_max(Limit::Max, Limit::Max), Limit::Max);
    }
}
