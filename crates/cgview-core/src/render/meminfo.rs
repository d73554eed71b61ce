//! `/proc/meminfo`.
//!
//! | line | value |
//! |---|---|
//! | `MemTotal`, `MemFree`, `MemAvailable`, `SwapTotal`, `SwapFree` | [`MemoryLimits`] |
//! | `Buffers` | 0: the memory controller does not tell them from other page cache |
//! | `Cached` | `file`, which is without the swap cache |
//! | `SwapCached` | `swapcached`, at most the swap in use |
//! | `Active(anon)`, ... `Inactive(file)`, `Unevictable` | the fields of that name; `Active` and `Inactive` are their sums |
//! | `Mlocked` | the host's, at most `Unevictable`: there is no counter, and locked pages are unevictable |
//! | `HighTotal`, `HighFree`, `LowTotal`, `LowFree` (32 bits) | all memory is low |
//! | `Zswap`, `Zswapped` | `zswap`; `zswapped`, at most the swap in use |
//! | `Dirty`, `Writeback` | `file_dirty`, `file_writeback` |
//! | `AnonPages`, `Mapped`, `Shmem` | `anon`, `file_mapped`, `shmem` |
//! | `KReclaimable`, `SReclaimable`, `SUnreclaim` | `slab_reclaimable`, `slab_unreclaimable`; `Slab` is their sum |
//! | `KernelStack`, `PageTables`, `SecPageTables`, `Percpu`, `VmallocUsed` | `kernel_stack`, `pagetables`, `sec_pagetables`, `percpu`, `vmalloc` |
//! | `AnonHugePages`, `ShmemHugePages`, `FileHugePages` | `anon_thp`, `shmem_thp`, `file_thp` |
//! | `CommitLimit` | `vm_commit_limit()` of the totals shown, by the overcommit ratio that follows from the host's numbers |
//! | `Committed_AS` | `anon`, `shmem` and swap in use, at most the host's: there is no counter |
//! | `HugePages_*`, `Hugetlb` | the hugetlb controller where it limits, else the host's if they fit into `MemTotal` |
//! | `NFS_Unstable`, `Bounce`, `WritebackTmp`, `HardwareCorrupted`, `ShmemPmdMapped`, `FilePmdMapped`, `CmaTotal`, `CmaFree`, `Unaccepted`, `Balloon`, `GPUActive`, `GPUReclaim`, `Quicklists`, `MmapCopy` | 0: the machine's, or not accounted by cgroup |
//! | `VmallocTotal`, `VmallocChunk`, `Hugepagesize`, `DirectMap*` | the host's: constants of the machine |
//! | any other | the host's; 0 if it is a size larger than `MemTotal` |
//!
//! Where no level limits the memory, lines of memory are the host's; likewise those of swap and of
//! huge pages. Where nothing at all does, the text is the host's, byte by byte.
//!
//! For any input: every size in use is at most `MemTotal - MemFree`; `MemFree + Buffers + Cached +
//! SReclaimable <= MemTotal`, so that no reader computes a negative "used"; `Shmem <= Cached`;
//! `Mlocked <= Unevictable`; `SwapCached` and `Zswapped` are at most `SwapTotal - SwapFree`.

mod hugetlb;

use crate::{
    effective::MemoryLimits,
    explain::{Output, Why},
    host::HostMemory,
    parse,
    render::memory::{Sizes, hidden, not_accounted, stat},
    view::View,
};
use hugetlb::HugePages;

pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    let meminfo = Meminfo::new(view, HostLines::parse(host));
    if meminfo.is_the_hosts() {
        return out.copy(host);
    }
    for line in host.split_inclusive(|&byte| byte == b'\n') {
        match meminfo.line(line) {
            Some((value, why)) => out.replace_number(line, value, why),
            None => out.copy(line),
        }
    }
}

/// Lines of the host's text that others are computed from, in their units.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostLines {
    mem_total: u64,
    swap_total: u64,
    mlocked: u64,
    commit_limit: u64,
    committed: u64,
    huge_pages: u64,
    huge_free: u64,
    huge_size: u64,
    hugetlb: u64,
}

impl From<HostMemory> for HostLines {
    /// The lines that a file about less than the whole machine is made from.
    fn from(memory: HostMemory) -> HostLines {
        HostLines {
            mem_total: memory.total.kib(),
            swap_total: memory.swap_total.kib(),
            mlocked: memory.mlocked.kib(),
            huge_pages: memory.huge_pages,
            huge_free: memory.huge_free,
            huge_size: memory.huge_size.kib(),
            hugetlb: memory.hugetlb.kib(),
            ..HostLines::default()
        }
    }
}

impl HostLines {
    fn parse(text: &[u8]) -> HostLines {
        let mut lines = HostLines::default();
        for (_, line) in parse::lines(text) {
            let Some((name, value)) = split(line) else { continue };
            let field = match name {
                b"MemTotal" => &mut lines.mem_total,
                b"SwapTotal" => &mut lines.swap_total,
                b"Mlocked" => &mut lines.mlocked,
                b"CommitLimit" => &mut lines.commit_limit,
                b"Committed_AS" => &mut lines.committed,
                b"HugePages_Total" => &mut lines.huge_pages,
                b"HugePages_Free" => &mut lines.huge_free,
                b"Hugepagesize" => &mut lines.huge_size,
                b"Hugetlb" => &mut lines.hugetlb,
                _ => continue,
            };
            *field = parse::words(value).next().and_then(parse::decimal).unwrap_or_default();
        }
        lines
    }
}

/// Splits a line into its name and what follows the colon.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = line.split_at_checked(memchr::memchr(b':', line)?)?;
    Some((name, rest.strip_prefix(b":")?))
}

/// All that the lines are made from.
pub(super) struct Meminfo<'a> {
    view: &'a View<'a>,
    pub(super) limits: MemoryLimits,
    pub(super) sizes: Sizes,
    host: HostLines,
    huge: HugePages,
}

impl<'a> Meminfo<'a> {
    pub(super) fn new(view: &'a View<'_>, host: HostLines) -> Meminfo<'a> {
        let limits = MemoryLimits::of(view.snapshot, view.host, view.policy);
        let sizes = Sizes::new(view, &limits);
        let huge = HugePages::new(view, &limits, &host);
        Meminfo { view, limits, sizes, host, huge }
    }

    /// Whether nothing limits anything that the text is about.
    fn is_the_hosts(&self) -> bool {
        let limited = self.limits.memory_limited || self.limits.swap_limited;
        !limited && !hugetlb::is_limited(self.view) && self.view.policy.zswap
    }

    /// What a line shows and why; `None` for what is the host's.
    pub(super) fn line(&self, line: &[u8]) -> Option<(u64, Why)> {
        let (name, value) = split(line)?;
        match name {
            b"SwapTotal" | b"SwapFree" | b"SwapCached" => self.swap(name),
            b"Zswap" | b"Zswapped" => self.zswap(name),
            b"CommitLimit" => self.commit_limit(),
            b"HugePages_Total" | b"HugePages_Free" | b"HugePages_Rsvd" | b"HugePages_Surp"
            | b"Hugetlb" => self.huge.line(name),
            _ if !self.limits.memory_limited => None,
            _ => self.memory(name).unwrap_or_else(|| self.unknown(value)),
        }
    }

    fn swap(&self, name: &[u8]) -> Option<(u64, Why)> {
        let (sizes, limits) = (&self.sizes, &self.limits);
        match name {
            b"SwapCached" if !self.view.policy.swap => Some((0, hidden())),
            b"SwapCached" if limits.memory_limited || limits.swap_limited => {
                Some((sizes.swap_cached, stat("swapcached, at most the swap in use")))
            }
            _ if !limits.swap_limited => None,
            b"SwapTotal" => Some((sizes.swap_total, limits.swap_total.1)),
            b"SwapFree" => Some((sizes.swap_free, limits.swap_free.1)),
            _ => None,
        }
    }

    fn zswap(&self, name: &[u8]) -> Option<(u64, Why)> {
        let policy = self.view.policy;
        if !policy.zswap || !policy.swap {
            return Some((0, hidden()));
        }
        if !self.limits.memory_limited && !self.limits.swap_limited {
            return None;
        }
        Some(match name {
            b"Zswap" => (self.sizes.zswap, stat("zswap")),
            _ => (self.sizes.zswapped, stat("zswapped, at most the swap in use")),
        })
    }

    /// `vm_commit_limit()` in `mm/util.c`: a share of what is not huge pages, and all swap.
    ///
    /// The share (`vm.overcommit_ratio`, or `vm.overcommit_kbytes` as a part of the machine) is
    /// what the host's own numbers say.
    fn commit_limit(&self) -> Option<(u64, Why)> {
        if !self.limits.memory_limited && !self.limits.swap_limited {
            return None;
        }
        let (host, sizes) = (&self.host, &self.sizes);
        let host_share = host.commit_limit.saturating_sub(host.swap_total);
        let host_memory = host.mem_total.saturating_sub(host.hugetlb);
        let memory = sizes.total.saturating_sub(self.huge.kib.unwrap_or(host.hugetlb));
        let share = u128::from(memory) * u128::from(host_share);
        let share = share.checked_div(u128::from(host_memory)).unwrap_or_default();
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        let rule = "the host's overcommit ratio of the totals shown";
        Some((share.saturating_add(sizes.swap_total), Why::host("/proc/meminfo", rule)))
    }

    /// A line that is about the container's memory; `None` for names that are not known, and
    /// `Some(None)` for the machine's constants.
    #[expect(clippy::option_option, reason = "not known, and known to be the host's, differ")]
    fn memory(&self, name: &[u8]) -> Option<Option<(u64, Why)>> {
        let (sizes, limits) = (&self.sizes, &self.limits);
        Some(Some(match name {
            b"MemTotal" | b"LowTotal" => (sizes.total, limits.total.1),
            b"MemFree" | b"LowFree" => (sizes.free, limits.free.1),
            b"MemAvailable" => (sizes.available, limits.available.1),
            b"Cached" => (sizes.cached, stat("file")),
            b"Active" => {
                (sizes.active_anon + sizes.active_file, stat("active_anon and active_file"))
            }
            b"Inactive" => {
                (sizes.inactive_anon + sizes.inactive_file, stat("inactive_anon and inactive_file"))
            }
            b"Active(anon)" => (sizes.active_anon, stat("active_anon")),
            b"Inactive(anon)" => (sizes.inactive_anon, stat("inactive_anon")),
            b"Active(file)" => (sizes.active_file, stat("active_file")),
            b"Inactive(file)" => (sizes.inactive_file, stat("inactive_file")),
            b"Unevictable" => (sizes.unevictable, stat("unevictable")),
            b"Mlocked" => {
                (self.host.mlocked.min(sizes.unevictable), stat("the host's, at most unevictable"))
            }
            b"Dirty" => (sizes.dirty, stat("file_dirty")),
            b"Writeback" => (sizes.writeback, stat("file_writeback")),
            b"AnonPages" => (sizes.anon, stat("anon")),
            b"Mapped" => (sizes.mapped, stat("file_mapped")),
            b"Shmem" => (sizes.shmem, stat("shmem")),
            b"KReclaimable" | b"SReclaimable" => (sizes.slab_reclaimable, stat("slab_reclaimable")),
            b"SUnreclaim" => (sizes.slab_unreclaimable, stat("slab_unreclaimable")),
            b"Slab" => (
                sizes.slab_reclaimable + sizes.slab_unreclaimable,
                stat("slab_reclaimable and slab_unreclaimable"),
            ),
            b"KernelStack" => (sizes.kernel_stack, stat("kernel_stack")),
            b"PageTables" => (sizes.page_tables, stat("pagetables")),
            b"SecPageTables" => (sizes.sec_page_tables, stat("sec_pagetables")),
            b"Percpu" => (sizes.percpu, stat("percpu")),
            b"VmallocUsed" => (sizes.vmalloc, stat("vmalloc")),
            b"AnonHugePages" => (sizes.anon_huge, stat("anon_thp")),
            b"ShmemHugePages" => (sizes.shmem_huge, stat("shmem_thp")),
            b"FileHugePages" => (sizes.file_huge, stat("file_thp")),
            b"Committed_AS" => {
                let rule = "anon, shmem and swap in use, at most the host's";
                (sizes.committed.min(self.host.committed), stat(rule))
            }
            b"Buffers" | b"HighTotal" | b"HighFree" | b"MmapCopy" | b"Quicklists"
            | b"NFS_Unstable" | b"Bounce" | b"WritebackTmp" | b"HardwareCorrupted"
            | b"ShmemPmdMapped" | b"FilePmdMapped" | b"CmaTotal" | b"CmaFree" | b"Unaccepted"
            | b"Balloon" | b"GPUActive" | b"GPUReclaim" => (0, not_accounted()),
            b"VmallocTotal" | b"VmallocChunk" | b"Hugepagesize" => return Some(None),
            name if name.starts_with(b"DirectMap") => return Some(None),
            _ => return None,
        }))
    }

    /// A line that this table does not know: what a newer kernel, or another architecture, has.
    fn unknown(&self, value: &[u8]) -> Option<(u64, Why)> {
        let mut words = parse::words(value);
        let (number, unit) = (words.next()?, words.next());
        // A number that does not even fit is the largest of all.
        let fits = parse::decimal(number).is_some_and(|size| size <= self.sizes.total);
        let too_large = number.iter().all(u8::is_ascii_digit) && unit == Some(b"kB") && !fits;
        let rule = "the host's is more than MemTotal";
        too_large.then_some((0, Why::of(self.limits.total.1.source, rule)))
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Bytes, Limit,
        parse::{memory_stat_v1, memory_stat_v2},
        render::memory::tests::{Situation, level, mib},
        snapshot::{HugetlbLevel, MemoryLevel, MemoryStat, Swap},
        tree::ProcFile,
    };
    use alloc::string::String;

    /// A host of 16 GiB with lines of every kind.
    const HOST: &str = "\
MemTotal:       16777216 kB
MemFree:        12582912 kB
MemAvailable:   14680064 kB
Buffers:            8732 kB
Cached:           147700 kB
SwapCached:          160 kB
Active:            71240 kB
Active(anon):       1580 kB
Active(file):      69660 kB
Unevictable:       21052 kB
Mlocked:           20120 kB
SwapTotal:       8388608 kB
SwapFree:        7340032 kB
Zswap:               100 kB
Zswapped:            400 kB
AnonPages:         24620 kB
Shmem:              8808 kB
Slab:             120728 kB
SReclaimable:      95052 kB
SUnreclaim:        25676 kB
HardwareCorrupted:     4 kB
CommitLimit:    16777216 kB
Committed_AS:     100000 kB
VmallocTotal:   34359738367 kB
AnonHugePages:      6144 kB
NewSize:          600000 kB
NewSmall:             12 kB
HugePages_Total:       8
HugePages_Free:        6
HugePages_Rsvd:        1
Hugepagesize:       2048 kB
Hugetlb:           16384 kB
DirectMap1G:    25165824 kB
";

    fn stat() -> MemoryStat {
        let stat = memory_stat_v2(
            b"anon 104857600\nfile 52428800\nshmem 10485760\nswapcached 4194304\nanon_thp 96468992\n\
              active_anon 20480\nactive_file 41943040\nunevictable 8192\nslab_reclaimable 2097152\n\
              slab_unreclaimable 1048576\nslab 3145728\nzswap 1048576\nzswapped 99999744\n",
        );
        stat.unwrap()
    }

    fn limited() -> Situation {
        let mut situation = Situation::limited(stat());
        situation.snapshot.memory[0].swap = Some(Swap { usage: mib(10), max: Limit::At(mib(128)) });
        situation
    }

    fn shown(situation: &Situation) -> String {
        situation.show(ProcFile::Meminfo, HOST).0
    }

    #[test]
    fn each_line_is_the_containers() {
        assert_eq!(
            shown(&limited()),
            "\
MemTotal:         524288 kB
MemFree:          319488 kB
MemAvailable:     362496 kB
Buffers:               0 kB
Cached:            51200 kB
SwapCached:         4096 kB
Active:            40980 kB
Active(anon):         20 kB
Active(file):      40960 kB
Unevictable:           8 kB
Mlocked:               8 kB
SwapTotal:        131072 kB
SwapFree:         120832 kB
Zswap:              1024 kB
Zswapped:          10240 kB
AnonPages:        102400 kB
Shmem:             10240 kB
Slab:               3072 kB
SReclaimable:       2048 kB
SUnreclaim:         1024 kB
HardwareCorrupted:     0 kB
CommitLimit:      385272 kB
Committed_AS:     100000 kB
VmallocTotal:   34359738367 kB
AnonHugePages:     94208 kB
NewSize:               0 kB
NewSmall:             12 kB
HugePages_Total:       8
HugePages_Free:        6
HugePages_Rsvd:        1
Hugepagesize:       2048 kB
Hugetlb:           16384 kB
DirectMap1G:    25165824 kB
"
        );
    }

    #[test]
    fn each_change_has_its_reason() {
        let (text, whys) = limited().show(ProcFile::Meminfo, HOST);
        let changed = text.lines().zip(HOST.lines()).filter(|(shown, host)| shown != host).count();
        assert!(changed <= whys.len(), "{changed} lines, {whys:#?}");
        for why in [
            "memory.max of /app: the tightest limit up to the root",
            "memory.stat of /app: file",
            "memory.swap.max of /app: the tightest limit up to the root",
            "memory.max of /app: the host's is more than MemTotal",
            "host /proc/meminfo: the host's overcommit ratio of the totals shown",
        ] {
            assert!(whys.iter().any(|other| other == why), "{why} is not in {whys:#?}");
        }
    }

    #[test]
    fn without_a_limit_it_is_the_hosts_text() {
        assert_eq!(shown(&Situation::root()), HOST);
        assert_eq!(shown(&Situation::unlimited()), HOST);
    }

    /// The lines that differ from the host's.
    fn changes(situation: &Situation) -> String {
        let text = shown(situation);
        let changed = text.lines().zip(HOST.lines()).filter(|(shown, host)| shown != host);
        changed.map(|(shown, _)| alloc::format!("{shown}\n")).collect()
    }

    #[test]
    fn a_limit_of_swap_changes_the_lines_of_swap() {
        let mut situation = Situation::unlimited();
        situation.snapshot.memory[0].swap = Some(Swap { usage: mib(0), max: Limit::At(mib(0)) });
        assert_eq!(
            changes(&situation),
            "\
SwapCached:            0 kB
SwapTotal:             0 kB
SwapFree:              0 kB
Zswap:                 0 kB
Zswapped:              0 kB
CommitLimit:     8388608 kB
"
        );
    }

    #[test]
    fn what_the_policy_hides_is_nothing_even_at_the_root() {
        let mut situation = Situation::root();
        situation.policy.zswap = false;
        assert_eq!(
            changes(&situation),
            "Zswap:                 0 kB\nZswapped:              0 kB\n"
        );
        situation.policy.swap = false;
        assert!(changes(&situation).starts_with("SwapCached:            0 kB\nSwapTotal:"));
        assert_eq!(changes(&situation).lines().count(), 6);
    }

    // W20: the host's pools can be larger than the container; W21: what the controller allows.
    #[test]
    fn huge_pages_are_those_that_the_container_may_have() {
        let huge = |text: &str| {
            text.lines().filter(|line| line.starts_with("Huge")).fold(String::new(), |all, line| {
                all + line.rsplit(':').next().unwrap().trim() + ";"
            })
        };
        let mut small = limited();
        small.snapshot.memory[0].max = Limit::At(mib(15));
        assert_eq!(huge(&shown(&small)), "0;0;0;2048 kB;0 kB;");

        let mut may_have_three = limited();
        may_have_three.snapshot.hugetlb.push(HugetlbLevel {
            cgroup: level("/app").cgroup,
            page_size: mib(2),
            usage: mib(2),
            max: Limit::At(mib(6)),
        });
        assert_eq!(huge(&shown(&may_have_three)), "3;2;0;2048 kB;6144 kB;");
        may_have_three.snapshot.memory.clear();
        assert_eq!(huge(&shown(&may_have_three)), "3;2;0;2048 kB;6144 kB;");
    }

    // W5: locked shared memory is not on the lists of anonymous pages. W6: v1's names begin alike.
    #[test]
    fn v1_has_the_same_lines() {
        let mut situation = limited();
        situation.snapshot.memory[0].stat = Some(
            memory_stat_v1(
                b"total_cache 52428800\ntotal_rss 8192\ntotal_rss_huge 8192\ntotal_shmem 20971520\n\
                  total_unevictable 20971520\ntotal_swapcached 0\n",
            )
            .unwrap(),
        );
        let text = shown(&situation);
        for line in ["AnonPages:             8 kB", "AnonHugePages:         8 kB"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.contains("Cached:            51200 kB\n"), "{text}");
        assert!(text.contains("Mlocked:           20120 kB\n"), "{text}");
    }

    // "memory.stat" is flushed every two seconds: it can be larger than what is charged now.
    #[test]
    fn no_part_is_larger_than_its_whole() {
        let mut situation = limited();
        situation.snapshot.memory[0] = MemoryLevel {
            max: Limit::At(mib(64)),
            usage: mib(20),
            swap: Some(Swap { usage: Bytes(0), max: Limit::At(mib(0)) }),
            ..situation.snapshot.memory[0].clone()
        };
        let text = shown(&situation);
        for line in [
            "MemFree:           45056",
            "Cached:            20480",
            "SReclaimable:          0",
            "AnonPages:         20480",
            "SwapCached:            0",
            "Zswapped:              0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
