//! `memory.stat` of both versions.

use alloc::borrow::ToOwned;

use super::{ParseError, flat_keyed};
use crate::{snapshot::MemoryStat, units::Bytes};

/// Reads v2's `memory.stat`.
///
/// Sizes become the fields of [`MemoryStat`]; whatever else the kernel counts there goes to
/// [`MemoryStat::events`] under its own name.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a key and a number.
pub fn memory_stat_v2(text: &[u8]) -> Result<MemoryStat, ParseError> {
    read_v2(text, event)
}

/// Like [`memory_stat_v2`], without the events.
///
/// # Errors
///
/// Those of [`memory_stat_v2`].
pub fn memory_sizes_v2(text: &[u8]) -> Result<MemoryStat, ParseError> {
    read_v2(text, |_, _, _| ())
}

fn read_v2(
    text: &[u8],
    event: impl Fn(&mut MemoryStat, &[u8], u64),
) -> Result<MemoryStat, ParseError> {
    let mut stat = MemoryStat::default();
    flat_keyed(text, |key, value| match size(&mut stat, key) {
        Some(size) => *size = Some(Bytes(value)),
        None => event(&mut stat, key, value),
    })?;
    Ok(stat)
}

/// Reads v1's `memory.stat`: its `total_` fields, which hold the children too
/// (`memcg1_stat_format()` in `mm/memcontrol-v1.c`).
///
/// Since Linux 5.8 `cache` is `NR_FILE_PAGES` and `rss` is `NR_ANON_MAPPED`, the very counters that
/// v2 calls `file` and `anon`. v1 has no counters of the kernel's own memory, nor of huge pages
/// other than anonymous ones.
///
/// v1 has `swapcached` since Linux 6.6. Before, what is in the swap cache and in nobody's page tables is what the lists
/// of anonymous pages have beyond `rss` and `shmem`; the rest, which is in both places, cannot be told.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a key and a number.
pub fn memory_stat_v1(text: &[u8]) -> Result<MemoryStat, ParseError> {
    read_v1(text, event)
}

/// Like [`memory_stat_v1`], without the events.
///
/// # Errors
///
/// Those of [`memory_stat_v1`].
pub fn memory_sizes_v1(text: &[u8]) -> Result<MemoryStat, ParseError> {
    read_v1(text, |_, _, _| ())
}

fn read_v1(
    text: &[u8],
    event: impl Fn(&mut MemoryStat, &[u8], u64),
) -> Result<MemoryStat, ParseError> {
    let mut stat = MemoryStat::default();
    flat_keyed(text, |key, value| {
        let Some(key) = key.strip_prefix(b"total_") else { return };
        let key: &[u8] = match key {
            b"cache" => b"file",
            b"rss" => b"anon",
            b"rss_huge" => b"anon_thp",
            b"mapped_file" => b"file_mapped",
            b"dirty" => b"file_dirty",
            b"writeback" => b"file_writeback",
            // A size, which the snapshot has from memory.memsw.usage_in_bytes.
            b"swap" => return,
            key => key,
        };
        match size(&mut stat, key) {
            Some(size) => *size = Some(Bytes(value)),
            None => event(&mut stat, key, value),
        }
    })?;
    stat.swapcached = stat.swapcached.or_else(|| {
        let lists = stat.active_anon?.saturating_add(stat.inactive_anon?);
        let known = stat.anon?.saturating_add(stat.shmem?);
        Some(lists.saturating_sub(known))
    });
    Ok(stat)
}

/// The field for a size of that name.
fn size<'a>(stat: &'a mut MemoryStat, key: &[u8]) -> Option<&'a mut Option<Bytes>> {
    Some(match key {
        b"anon" => &mut stat.anon,
        b"file" => &mut stat.file,
        b"kernel" => &mut stat.kernel,
        b"kernel_stack" => &mut stat.kernel_stack,
        b"pagetables" => &mut stat.pagetables,
        b"sec_pagetables" => &mut stat.sec_pagetables,
        b"percpu" => &mut stat.percpu,
        b"sock" => &mut stat.sock,
        b"vmalloc" => &mut stat.vmalloc,
        b"shmem" => &mut stat.shmem,
        b"zswap" => &mut stat.zswap,
        b"zswapped" => &mut stat.zswapped,
        b"file_mapped" => &mut stat.file_mapped,
        b"file_dirty" => &mut stat.file_dirty,
        b"file_writeback" => &mut stat.file_writeback,
        b"swapcached" => &mut stat.swapcached,
        b"anon_thp" => &mut stat.anon_thp,
        b"file_thp" => &mut stat.file_thp,
        b"shmem_thp" => &mut stat.shmem_thp,
        b"inactive_anon" => &mut stat.inactive_anon,
        b"active_anon" => &mut stat.active_anon,
        b"inactive_file" => &mut stat.inactive_file,
        b"active_file" => &mut stat.active_file,
        b"unevictable" => &mut stat.unevictable,
        b"slab_reclaimable" => &mut stat.slab_reclaimable,
        b"slab_unreclaimable" => &mut stat.slab_unreclaimable,
        b"slab" => &mut stat.slab,
        _ => return None,
    })
}

/// Keeps a counter. The kernel's names are ASCII; what is not even UTF-8 is none of them.
fn event(stat: &mut MemoryStat, key: &[u8], count: u64) {
    if let Ok(name) = core::str::from_utf8(key) {
        stat.events.push((name.to_owned(), count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    // W6: a name that begins with another, such as file_mapped with file, is not that other.
    #[test]
    fn each_name_is_a_field_of_its_own() {
        let stat = memory_stat_v2(
            b"anon 4096\nfile 8192\nfile_mapped 28807168\nfile_dirty 12288\nanon_thp 96468992\n\
              slab_reclaimable 220528\nslab 228032\npgfault 15556\npgscan_direct 20376\n",
        )
        .unwrap();
        assert_eq!((stat.anon, stat.file), (Some(Bytes(4096)), Some(Bytes(8192))));
        assert_eq!(stat.file_mapped, Some(Bytes(28_807_168)));
        assert_eq!(stat.file_dirty, Some(Bytes(12_288)));
        assert_eq!(stat.anon_thp, Some(Bytes(96_468_992)));
        assert_eq!(stat.slab_reclaimable, Some(Bytes(220_528)));
        assert_eq!((stat.file_writeback, stat.swapcached), (None, None));
        assert_eq!(stat.event(b"pgscan_direct"), Some(20_376));
        assert_eq!((stat.event(b"pgscan"), stat.events.len()), (None, 2));
    }

    #[test]
    fn sizes_are_those_of_the_whole() {
        let v2 = "anon 4096\nfile 8192\npgfault 15556\nslab 228032\n";
        let v1 = "pgfault 3\ntotal_cache 160235520\ntotal_rss 25214976\ntotal_pgfault 5030796\n";
        for (whole, sizes) in [
            (memory_stat_v2(v2.as_bytes()), memory_sizes_v2(v2.as_bytes())),
            (memory_stat_v1(v1.as_bytes()), memory_sizes_v1(v1.as_bytes())),
        ] {
            let whole = whole.unwrap();
            assert_eq!(whole.events.len(), 1);
            assert_eq!(sizes.unwrap(), MemoryStat { events: [].into(), ..whole });
        }
        assert!(memory_sizes_v2(b"pgfault many\n").is_err());
    }

    #[test]
    fn v1_counts_the_children_under_other_names() {
        let stat = memory_stat_v1(
            b"cache 1\nrss 2\npgfault 3\nhierarchical_memory_limit 268435456\n\
              total_cache 160235520\ntotal_rss 25214976\ntotal_rss_huge 65011712\n\
              total_mapped_file 11067392\ntotal_dirty 3112960\ntotal_swap 4096\n\
              total_swapcached 0\ntotal_inactive_file 79839232\ntotal_pgfault 5030796\n",
        )
        .unwrap();
        assert_eq!(
            stat,
            MemoryStat {
                file: Some(Bytes(160_235_520)),
                anon: Some(Bytes(25_214_976)),
                anon_thp: Some(Bytes(65_011_712)),
                file_mapped: Some(Bytes(11_067_392)),
                file_dirty: Some(Bytes(3_112_960)),
                swapcached: Some(Bytes(0)),
                inactive_file: Some(Bytes(79_839_232)),
                events: [("pgfault".into(), 5_030_796)].into(),
                ..MemoryStat::default()
            }
        );
    }

    // Linux 6.1: 44 MiB of 90 are in swap, and 2 MiB on their way.
    #[test]
    fn the_swap_cache_of_v1_is_what_the_lists_have_more() {
        let text = "total_rss 19070976\ntotal_shmem 28626944\ntotal_swap 44486656\n\
                    total_inactive_anon 49856512\ntotal_active_anon 4096\n";
        let of = |text: &str| memory_stat_v1(text.as_bytes()).unwrap().swapcached;
        assert_eq!(of(text), Some(Bytes(49_856_512 + 4096 - 19_070_976 - 28_626_944)));
        // Locked pages are on another list.
        assert_eq!(
            of(&text.replace("inactive_anon 49856512", "inactive_anon 4096")),
            Some(Bytes(0))
        );
        assert_eq!(of(&format!("{text}total_swapcached 8192\n")), Some(Bytes(8192)));
        assert_eq!(of("total_rss 19070976\n"), None);
    }

    #[test]
    fn other_text_is_an_error() {
        assert_eq!(memory_stat_v2(b"anon 1\nfile many\n").unwrap_err().line, 2);
        assert!(memory_stat_v1(b"total_rss\n").is_err());
        assert_eq!(memory_stat_v2(b"").unwrap(), MemoryStat::default());
    }
}
