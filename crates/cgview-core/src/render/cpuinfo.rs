//! `/proc/cpuinfo`: the blocks of the visible CPUs, numbered anew.
//!
//! Every architecture writes a text of its own (`show_cpuinfo()` below `arch/`), in one of these shapes:
//!
//! - a block of lines for each CPU, begun by `processor : N` and ended by a blank line: x86, arm, arm64,
//!   riscv, powerpc, loongarch, mips, ... What comes before the first and after the last describes the
//!   machine (`system type`, `Hardware`, `timebase`) and is kept, whichever CPU it was written with.
//!   Old kernels for arm64 have all `processor` lines next to each other, and one description below.
//! - s390: a line `processor N: version = ...` for each CPU, and below, after a blank line each, blocks
//!   begun by `cpu number : N`.
//! - sparc: lines such as `Cpu3ClkTck : ...` and `CPU3: online`.
//! - alpha, xtensa: nothing for each CPU, only how many there are.
//!
//! The hardware's own numbers (`physical id`, `core id`, `apicid`, `hart`, `address`) are those of the
//! physical CPU, as they are in `topology/` of sysfs. `siblings` and `cpu cores` count what is visible.

mod outline;

use alloc::{collections::BTreeMap, vec::Vec};

pub use self::outline::CpuinfoOutline;
use self::outline::{Piece, Topology};
use super::sysfs::{keeps_numbers, visible_why};
use crate::{
    explain::{Output, Why},
    mask::Mask,
    parse::decimal,
    view::View,
};

/// Renders `/proc/cpuinfo`, of which `outline` is the outline.
///
/// A visible CPU that the text has no block of (it went offline this moment) has none here. A container
/// that sees all CPUs by their own numbers gets the host's text; so does a text of an architecture that
/// says nothing of single CPUs.
pub(crate) fn render(view: &View<'_>, host: &[u8], outline: &CpuinfoOutline, out: &mut Output<'_>) {
    if keeps_numbers(view) {
        return out.copy(host);
    }
    let visible = &view.cpus.visible;
    let pieces = outline.pieces(visible);
    let packages = Packages::of(outline, &pieces);
    let told = outline.cpus();
    let count = if told.is_empty() { visible.len() } else { told.intersection(visible).len() };
    let why = visible_why(view);
    for piece in pieces {
        let text = host.get(piece.range.clone()).unwrap_or_default();
        match piece.cpu {
            None => frame(text, count, packages.most_threads(), why, out),
            Some(cpu) => block(text, &piece.topology, visible.rank(cpu), &packages, why, out),
        }
    }
}

/// A line that says which CPU it, or what follows, is about.
struct Marker<'a> {
    prefix: &'a [u8],
    cpu: u32,
    suffix: &'a [u8],
    shape: Shape,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Shape {
    /// It begins a block.
    Block,
    /// It begins a block, with the blank lines before it (s390).
    BlockAfterBlank,
    /// It stands alone.
    Line,
}

impl Marker<'_> {
    fn of(line: &[u8]) -> Option<Marker<'_>> {
        // Most lines of a text are none, and can be told by their first byte.
        let shape = match line.first()? {
            b'p' if line.starts_with(b"processor") => match line.get(9)? {
                // `processor 3: version = ...`
                b' ' if line.get(10)?.is_ascii_digit() => Shape::Line,
                b' ' | b'\t' | b':' => Shape::Block,
                _ => return None,
            },
            b'c' if line.starts_with(b"cpu number") => Shape::BlockAfterBlank,
            b'C' if line.starts_with(b"Cpu") || line.starts_with(b"CPU") => {
                line.get(3).filter(|byte| byte.is_ascii_digit())?;
                Shape::Line
            }
            _ => return None,
        };
        let (prefix, digits, suffix) = split_number(line, 0)?;
        let cpu = decimal(digits).and_then(|cpu| u32::try_from(cpu).ok())?;
        let names_the_cpu = || {
            let key = prefix.trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end);
            matches!(key, Some(b"processor" | b"cpu number")) && suffix.trim_ascii().is_empty()
        };
        (shape == Shape::Line || names_the_cpu()).then_some(Marker { prefix, cpu, suffix, shape })
    }
}

/// How many visible siblings and cores each package has.
struct Packages<'a> {
    outline: &'a CpuinfoOutline,
    visible: BTreeMap<u32, Package>,
}

#[derive(Default)]
struct Package {
    siblings: u64,
    /// With the number of visible CPUs of each.
    cores: BTreeMap<u32, u64>,
}

impl<'a> Packages<'a> {
    /// By the pieces that are shown.
    fn of(outline: &'a CpuinfoOutline, shown: &[&Piece]) -> Packages<'a> {
        let mut packages = BTreeMap::<_, Package>::new();
        for piece in shown.iter().filter(|piece| piece.cpu.is_some()) {
            // Only blocks with topology: s390 has a line and a block for each CPU.
            if piece.topology.siblings.is_some() {
                let package = packages.entry(piece.topology.package).or_default();
                package.siblings += 1;
                *package.cores.entry(piece.topology.core).or_default() += 1;
            }
        }
        Packages { outline, visible: packages }
    }

    /// The most visible CPUs that any core has, if that can be told.
    fn most_threads(&self) -> Option<u64> {
        self.visible.values().flat_map(|package| package.cores.values()).copied().max()
    }

    /// The `siblings` and `cpu cores` to show for a CPU: never more than the host says, and never more
    /// cores than siblings.
    fn counts(&self, of: &Topology) -> Option<(u64, u64)> {
        let package = self.visible.get(&of.package)?;
        let (host_siblings, host_cores) = (of.siblings?, of.cores.unwrap_or(u64::MAX));
        let siblings = package.siblings.min(host_siblings);
        let distinct = package.cores.len() as u64;
        let cores = if of.cores.is_some_and(|cores| cores > self.outline.cores_of(of.package)) {
            // Core ids begin anew on each die of the package, so they cannot be counted: as many
            // threads to a core as the host has.
            siblings.saturating_mul(host_cores).div_ceil(host_siblings.max(1)).max(distinct)
        } else {
            distinct.min(host_cores)
        };
        Some((siblings, cores.min(siblings)))
    }
}

/// Appends what is said of one CPU, with its visible number.
fn block(
    text: &[u8],
    topology: &Topology,
    number: u32,
    packages: &Packages<'_>,
    why: Why,
    out: &mut Output<'_>,
) {
    let counts = packages.counts(topology);
    for line in lines(text) {
        match (field(line).0, counts) {
            (b"siblings", Some((siblings, _))) => put_value(line, siblings, why, out),
            (b"cpu cores", Some((_, cores))) => put_value(line, cores, why, out),
            _ => match Marker::of(line) {
                Some(marker) => {
                    out.copy(marker.prefix);
                    out.number(number.into(), why);
                    out.copy(marker.suffix);
                }
                None => out.copy(line),
            },
        }
    }
}

/// Appends what is said of the machine; only how many CPUs it has is another number, and how many threads its
/// cores have.
fn frame(text: &[u8], count: u32, threads: Option<u64>, why: Why, out: &mut Output<'_>) {
    for line in lines(text) {
        let (name, value) = field(line);
        match name {
            // s390 (`smp_cpu_mtid`); cores that lost threads are not told apart from such that never had any.
            b"max thread id" => match (threads, decimal(value)) {
                (Some(threads), Some(host)) => {
                    put_value(line, threads.saturating_sub(1).min(host), why, out);
                }
                _ => out.copy(line),
            },
            // s390; sparc; alpha; xtensa.
            b"# processors" | b"ncpus probed" | b"ncpus active" | b"cpus detected"
            | b"cpus active" | b"CPU count" => put_value(line, count.into(), why, out),
            b"CPU list" => {
                let mut list = Vec::new();
                Mask::first(count).write_list(&mut list);
                put_text(line, &list, why, out);
            }
            b"cpu active mask" => {
                let mut digits = Vec::new();
                // `%016lx`.
                Mask::first(count).write_hex(64, &mut digits);
                digits.retain(|&digit| digit != b',');
                put_text(line, &digits, why, out);
            }
            _ => out.copy(line),
        }
    }
}

/// The lines of a text, with their newlines.
fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', text).map_or(text.len(), |newline| newline + 1);
        let (line, rest) = text.split_at_checked(end)?;
        text = rest;
        (!line.is_empty()).then_some(line)
    })
}

/// The name and the value of a line such as `physical id\t: 0`; both empty if it has no colon.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = memchr::memchr(b':', line) else { return (b"", b"") };
    let (name, value) = line.split_at_checked(colon).unwrap_or_default();
    (
        name.trim_ascii(),
        value.trim_ascii_start().strip_prefix(b":").unwrap_or_default().trim_ascii(),
    )
}

/// Splits at the first decimal number at or after `from`.
fn split_number(line: &[u8], from: usize) -> Option<(&[u8], &[u8], &[u8])> {
    let start = from + line.get(from..)?.iter().position(u8::is_ascii_digit)?;
    let (prefix, rest) = line.split_at_checked(start)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, suffix) = rest.split_at_checked(digits)?;
    Some((prefix, digits, suffix))
}

/// Appends `line` with its number replaced. The kernel writes these with a plain `%d`, so nothing is
/// padded.
fn put_value(line: &[u8], value: u64, why: Why, out: &mut Output<'_>) {
    match memchr::memchr(b':', line).and_then(|colon| split_number(line, colon)) {
        Some((prefix, _, suffix)) => {
            out.copy(prefix);
            out.number(value, why);
            out.copy(suffix);
        }
        None => out.copy(line),
    }
}

/// Appends `line` with all that comes after the blanks behind its colon replaced.
fn put_text(line: &[u8], value: &[u8], why: Why, out: &mut Output<'_>) {
    let start = memchr::memchr(b':', line).map_or(0, |colon| {
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
        colon + 1 + line.iter().skip(colon + 1).take_while(is_blank).count()
    });
    out.copy(line.get(..start).unwrap_or_default());
    out.put(value, why);
    out.copy(b"\n");
}

#[cfg(test)]
mod tests;
