//! `/proc/swaps`.
//!
//! The kernel's header, and one row while the container has swap, with the `SwapTotal` and the swap
//! in use of its `/proc/meminfo`. The row has the columns of `swap_show()` in `mm/swapfile.c`: the
//! name padded to 40, the type, and an additional tab behind each number below 10 000 000. Its name
//! is `none`, since no one device of the host is the container's; the priority is that of the
//! host's first.
//!
//! Where nothing limits the swap, the text is the host's.

use crate::{
    effective::MemoryLimits,
    explain::{Output, Why},
    parse,
    view::View,
};

/// What the kernel gives to the first device without a priority of its own; newer ones begin at -1.
const PRIORITY: &[u8] = b"-2";

pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    let limits = MemoryLimits::of(view.snapshot, view.host, view.policy);
    if !limits.swap_limited {
        return out.copy(host);
    }
    let mut lines = host.split_inclusive(|&byte| byte == b'\n');
    if let Some(header) = lines.next() {
        out.copy(header);
        if !header.ends_with(b"\n") {
            out.copy(b"\n");
        }
    }
    let total = limits.swap_total.0.kib();
    let used = total.saturating_sub(limits.swap_free.0.kib());
    if total == 0 {
        return;
    }
    let priority = lines
        .next()
        .and_then(|row| parse::words(row).nth(4))
        .filter(|word| parse::decimal(word.strip_prefix(b"-").unwrap_or(word)).is_some());
    out.copy(b"none                                    partition\t");
    number(total, limits.swap_total.1, out);
    number(used, limits.swap_free.1, out);
    out.copy(priority.unwrap_or(PRIORITY));
    out.copy(b"\n");
}

/// A number and its tabs.
fn number(kib: u64, why: Why, out: &mut Output<'_>) {
    out.number(kib, why);
    out.copy(if kib < 10_000_000 { b"\t\t" } else { b"\t" });
}

#[cfg(test)]
mod tests {
    use crate::{
        Bytes, Limit,
        render::memory::tests::{Situation, mib},
        snapshot::{MemoryStat, Swap},
        tree::ProcFile,
    };

    const HOST: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
        /dev/vda                                partition\t8388608\t\t1048576\t\t-1\n\
        /swap                                   file\t\t16777216\t5\t\t-3\n";

    fn limited_to(max: Bytes, usage: Bytes) -> Situation {
        let mut situation = Situation::limited(MemoryStat::default());
        situation.snapshot.memory[0].swap = Some(Swap { usage, max: Limit::At(max) });
        situation
    }

    #[test]
    fn one_row_in_the_kernels_columns() {
        let (text, whys) = limited_to(mib(128), mib(3)).show(ProcFile::Swaps, HOST);
        assert_eq!(
            text,
            "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
             none                                    partition\t131072\t\t3072\t\t-1\n"
        );
        assert_eq!(
            whys,
            [
                "memory.swap.max of /app: the tightest limit up to the root",
                "memory.swap.current of /app: swap limit less usage, the least of all levels"
            ]
        );
        let mut large = limited_to(mib(10 << 10), mib(3));
        large.host.memory.swap_total = mib(24 << 10);
        large.host.memory.swap_free = mib(24 << 10);
        let (text, _) = large.show(ProcFile::Swaps, HOST);
        assert!(text.ends_with("partition\t10485760\t3072\t\t-1\n"), "{text}");
    }

    // W4: what is swapped out before the limit fell to 0 is still in use.
    #[test]
    fn no_swap_no_row() {
        let header = HOST.lines().next().unwrap();
        let shown = |situation: Situation| situation.show(ProcFile::Swaps, HOST).0;
        assert_eq!(shown(limited_to(mib(0), mib(0))).trim_end(), header);
        let text = shown(limited_to(mib(0), Bytes::from_kib(172)));
        assert!(
            text.ends_with("none                                    partition\t172\t\t172\t\t-1\n")
        );
        let mut hidden = limited_to(mib(128), mib(3));
        hidden.policy.swap = false;
        assert_eq!(shown(hidden).trim_end(), header);
    }

    #[test]
    fn no_limit_is_the_host() {
        for situation in [Situation::root(), Situation::unlimited()] {
            assert_eq!(situation.show(ProcFile::Swaps, HOST).0, HOST);
        }
        // A limit of memory is none of swap.
        let situation = Situation::limited(MemoryStat::default());
        assert_eq!(situation.show(ProcFile::Swaps, HOST).0, HOST);
    }
}
