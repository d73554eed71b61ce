//! `/proc/vmstat`.
//!
//! | line | value |
//! |---|---|
//! | `nr_free_pages`, `nr_free_pages_blocks` | `MemFree`; the latter the host's, at most that |
//! | `nr_*` that `/proc/meminfo` has too | the same size, in pages (`nr_kernel_stack`: in KiB) |
//! | `nr_*_hugepages`, `nr_anon_transparent_hugepages` | the same, in huge pages |
//! | events that `memory.stat` counts by the same name | its count |
//! | any other | 0: not accounted by cgroup |
//!
//! Where no level limits the memory, sizes are the host's, as in `/proc/meminfo`. Events are the container's
//! all the same: were they the host's until somebody sets a limit, they would go back then. The text of a
//! container without a memory cgroup is the host's.
//!
//! `pgpgin` and `pgpgout` are 0: here they are KiB of block I/O, in v1's `memory.stat` charged
//! pages.

use crate::{
    effective::MemoryLimits,
    explain::{Output, Why},
    parse,
    render::memory::{Sizes, hidden, not_accounted, stat},
    snapshot::MemoryStat,
    view::View,
};

pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    let limits = MemoryLimits::of(view.snapshot, view.host, view.policy);
    if view.snapshot.memory.is_empty() && !limits.memory_limited {
        return out.copy(host);
    }
    let sizes = Sizes::new(view, &limits);
    let page = match view.host.page_size.kib() {
        0 => 4,
        kib => kib,
    };
    let stat = view.snapshot.memory.first().and_then(|level| level.stat.as_ref());
    let vmstat = Vmstat { view, limits: &limits, sizes: &sizes, page, stat };
    for line in host.split_inclusive(|&byte| byte == b'\n') {
        let blank = memchr::memchr(b' ', line).and_then(|at| line.split_at_checked(at));
        let Some((name, rest)) = blank else {
            out.copy(line);
            continue;
        };
        let digits = rest.trim_ascii();
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        if !is_number || (!limits.memory_limited && is_size(name)) {
            out.copy(line);
            continue;
        }
        let (value, why) = vmstat.line(name, parse::decimal(digits).unwrap_or(u64::MAX));
        out.copy(name);
        out.copy(b" ");
        out.number(value, why);
        if line.ends_with(b"\n") {
            out.copy(b"\n");
        }
    }
}

/// Whether a line tells how much there is, and not how often something has happened: `vmstat_text` in
/// `mm/vmstat.c`.
fn is_size(name: &[u8]) -> bool {
    let is_event = matches!(
        name,
        b"nr_dirtied"
            | b"nr_written"
            | b"nr_throttled_written"
            | b"nr_vmscan_write"
            | b"nr_vmscan_immediate_reclaim"
    ) || name.starts_with(b"nr_foll_pin_")
        || name.starts_with(b"nr_tlb_");
    name.starts_with(b"nr_") && !is_event
}

/// All that the lines are made from.
struct Vmstat<'a> {
    view: &'a View<'a>,
    limits: &'a MemoryLimits,
    sizes: &'a Sizes,
    /// The size of a page in KiB.
    page: u64,
    stat: Option<&'a MemoryStat>,
}

impl Vmstat<'_> {
    fn line(&self, name: &[u8], host: u64) -> (u64, Why) {
        let sizes = self.sizes;
        let (kib, why) = match name {
            b"nr_free_pages" => (sizes.free, self.limits.free.1),
            b"nr_free_pages_blocks" => {
                return (host.min(self.pages(sizes.free)), self.limits.free.1);
            }
            b"nr_inactive_anon" | b"nr_zone_inactive_anon" => {
                (sizes.inactive_anon, stat("inactive_anon"))
            }
            b"nr_active_anon" | b"nr_zone_active_anon" => (sizes.active_anon, stat("active_anon")),
            b"nr_inactive_file" | b"nr_zone_inactive_file" => {
                (sizes.inactive_file, stat("inactive_file"))
            }
            b"nr_active_file" | b"nr_zone_active_file" => (sizes.active_file, stat("active_file")),
            b"nr_unevictable" | b"nr_zone_unevictable" => (sizes.unevictable, stat("unevictable")),
            b"nr_zone_write_pending" => {
                (sizes.dirty.saturating_add(sizes.writeback), stat("file_dirty and file_writeback"))
            }
            b"nr_mlock" => {
                let unevictable = self.pages(sizes.unevictable);
                return (host.min(unevictable), stat("the host's, at most unevictable"));
            }
            b"nr_zspages" => (sizes.zswap, stat("zswap")),
            b"nr_slab_reclaimable" => (sizes.slab_reclaimable, stat("slab_reclaimable")),
            b"nr_slab_unreclaimable" => (sizes.slab_unreclaimable, stat("slab_unreclaimable")),
            b"nr_anon_pages" => (sizes.anon, stat("anon")),
            b"nr_mapped" => (sizes.mapped, stat("file_mapped")),
            b"nr_file_pages" => {
                (sizes.cached.saturating_add(sizes.swap_cached), stat("file and swapcached"))
            }
            b"nr_dirty" => (sizes.dirty, stat("file_dirty")),
            b"nr_writeback" => (sizes.writeback, stat("file_writeback")),
            b"nr_shmem" => (sizes.shmem, stat("shmem")),
            b"nr_kernel_stack" => return (sizes.kernel_stack, stat("kernel_stack, in KiB")),
            b"nr_page_table_pages" => (sizes.page_tables, stat("pagetables")),
            b"nr_sec_page_table_pages" => (sizes.sec_page_tables, stat("sec_pagetables")),
            b"nr_vmalloc" => (sizes.vmalloc, stat("vmalloc")),
            b"nr_swapcached" => (sizes.swap_cached, stat("swapcached")),
            b"nr_anon_transparent_hugepages" => {
                return (self.huge_pages(sizes.anon_huge), stat("anon_thp"));
            }
            b"nr_shmem_hugepages" => return (self.huge_pages(sizes.shmem_huge), stat("shmem_thp")),
            b"nr_file_hugepages" => return (self.huge_pages(sizes.file_huge), stat("file_thp")),
            name => return self.event(name),
        };
        (self.pages(kib), why)
    }

    /// Counters of `memory.stat`; all that it has a name for goes only up.
    fn event(&self, name: &[u8]) -> (u64, Why) {
        let is_swap = matches!(name, b"pswpin" | b"pswpout");
        let is_zswap = matches!(name, b"zswpin" | b"zswpout" | b"zswpwb");
        let policy = self.view.policy;
        if (!policy.swap && (is_swap || is_zswap)) || (!policy.zswap && is_zswap) {
            return (0, hidden());
        }
        let is_io = matches!(name, b"pgpgin" | b"pgpgout");
        let count = self.stat.filter(|_| !is_io).and_then(|stat| stat.event(name));
        count.map_or((0, not_accounted()), |count| (count, stat("the counter of that name")))
    }

    fn pages(&self, kib: u64) -> u64 {
        kib.checked_div(self.page).unwrap_or_default()
    }

    /// In huge pages, as `vmstat_start()` shows what `vmstat_item_print_in_thp()` says.
    ///
    /// One is what a page of page table entries maps, at 8 bytes each: 2 MiB with pages of 4 KiB,
    /// 512 MiB with those of 64 KiB.
    fn huge_pages(&self, kib: u64) -> u64 {
        let entries = self.page.saturating_mul(1024 / 8);
        kib.checked_div(self.page.saturating_mul(entries)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        parse::memory_stat_v2, render::memory::tests::Situation, snapshot::MemoryStat,
        tree::ProcFile,
    };

    const HOST: &str = "nr_free_pages 3145728\nnr_mlock 12\nnr_kernel_stack 1600\nnuma_hit 5\n\
        nr_anon_pages 6155\nnr_anon_transparent_hugepages 9\npgpgin 196\npswpin 7\npgfault 5029910\n\
        pgscan_direct 3\nzswpout 4\nnr_new_counter 8\n";

    #[test]
    fn sizes_in_pages_and_events_by_name() {
        let stat = memory_stat_v2(
            b"anon 8392704\nanon_thp 4194304\nkernel_stack 65536\nunevictable 20480\npgfault 15556\n\
              pgscan_direct 0\npgpgin 40621\nzswpout 21483\n",
        );
        let (text, whys) = Situation::limited(stat.unwrap()).show(ProcFile::Vmstat, HOST);
        assert_eq!(
            text,
            "nr_free_pages 79872\nnr_mlock 5\nnr_kernel_stack 64\nnuma_hit 0\n\
             nr_anon_pages 2049\nnr_anon_transparent_hugepages 2\npgpgin 0\npswpin 0\n\
             pgfault 15556\npgscan_direct 0\nzswpout 21483\nnr_new_counter 0\n"
        );
        assert_eq!(whys[0], "memory.current of /app: limit less usage, the least of all levels");
        assert_eq!(whys[3], "not known of a container: not accounted by cgroup");
        assert_eq!(whys[8], "memory.stat of /app: the counter of that name");
    }

    #[test]
    fn what_is_no_number_stays() {
        let limited = Situation::limited(MemoryStat::default());
        let odd = "nr_free_pages\nnr_free_pages many\n\nnr_free_pages 1";
        let (text, _) = limited.show(ProcFile::Vmstat, odd);
        assert_eq!(text, "nr_free_pages\nnr_free_pages many\n\nnr_free_pages 79872");
    }

    #[test]
    fn without_a_limit_sizes_are_the_hosts() {
        assert_eq!(Situation::root().show(ProcFile::Vmstat, HOST).0, HOST);
        // Events are not, so that none goes back when a limit comes.
        let (text, _) = Situation::unlimited().show(ProcFile::Vmstat, HOST);
        assert_eq!(
            text,
            "nr_free_pages 3145728\nnr_mlock 12\nnr_kernel_stack 1600\nnuma_hit 0\n\
             nr_anon_pages 6155\nnr_anon_transparent_hugepages 9\npgpgin 0\npswpin 0\npgfault 0\n\
             pgscan_direct 0\nzswpout 0\nnr_new_counter 8\n"
        );
    }
}
