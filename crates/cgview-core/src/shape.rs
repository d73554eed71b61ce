//! What a host's text has to look like for a container's to be made from it.
//!
//! Renderers let pass what they do not know, since kernels grow. So a text that is no such file at all is
//! told apart before: what is written there would be shown to containers.

use crate::{
    parse::{self, ParseError, decimal, lines, words},
    tree::{File, ProcFile, SysRule},
};

impl File {
    /// Whether a text may be this file of a host's: by its first words, by where it has numbers, and by its
    /// bytes, which are printable.
    ///
    /// # Errors
    ///
    /// [`ParseError`] at the first line that may not.
    pub fn check(self, text: &[u8]) -> Result<(), ParseError> {
        printable(text)?;
        match self {
            File::Proc(file) => match file {
                // Each architecture has its own names.
                ProcFile::Cpuinfo => each(text, "names and numbers", |line| {
                    longest_number(line) <= LONGEST && is_processor(line)
                })
                .and_then(|()| has_colon(text)),
                ProcFile::Meminfo => begins(text, b"MemTotal:").and_then(|()| counters(text)),
                ProcFile::Stat => begins(text, b"cpu ").and_then(|()| counters(text)),
                ProcFile::Vmstat => begins(text, b"nr_").and_then(|()| counters(text)),
                ProcFile::Slabinfo => begins(text, b"slabinfo - version"),
                ProcFile::Swaps => begins(text, b"Filename").and_then(|()| swaps(text)),
                // Empty where there is none.
                ProcFile::Partitions if text.is_empty() => Ok(()),
                ProcFile::Partitions => {
                    begins(text, b"major minor").and_then(|()| devices(text, 1, 3, 4))
                }
                ProcFile::Diskstats => devices(text, 0, 2, 14),
                ProcFile::Uptime => fixed(text, 2),
                ProcFile::Loadavg => fixed(text, 3),
                ProcFile::PressureCpu
                | ProcFile::PressureIo
                | ProcFile::PressureIrq
                | ProcFile::PressureMemory => pressure(text),
            },
            File::Sys(file) => match file.rule() {
                // Not made from the host's text, or nothing but that.
                SysRule::VisibleCpus | SysRule::Empty | SysRule::Host => Ok(()),
                SysRule::CpuList | SysRule::NodeList => each(text, "a list of numbers", |line| {
                    // What the kernel prints for no mask at all.
                    line == b"(null)" || parse::list::parse(line).is_ok()
                }),
                SysRule::CpuMask => crate::Mask::parse_hex(text).map(drop),
                SysRule::NodeMeminfo => begins(text, b"Node ").and_then(|()| counters(text)),
                SysRule::Numastat => begins(text, b"numa_").and_then(|()| counters(text)),
                SysRule::Distance => not_empty(text).and_then(|()| {
                    each(text, "distances", |line| words(line).all(|word| decimal(word).is_some()))
                }),
            },
        }
    }
}

/// Reads a pressure file of a cgroup or the host, as far as to see whether it is one. Empty where the kernel
/// keeps no pressure.
///
/// # Errors
///
/// [`ParseError`] at the first line that is none of `psi_show()`'s.
pub fn pressure(text: &[u8]) -> Result<(), ParseError> {
    printable(text)?;
    each(text, "the averages and the total of a pressure", |line| {
        let mut words = words(line);
        let kind = matches!(words.next(), Some(b"some" | b"full"));
        let mut averages = [&b"avg10="[..], b"avg60=", b"avg300="].into_iter();
        let averages = averages.all(|name| {
            words.next().and_then(|word| word.strip_prefix(name)).is_some_and(is_fixed)
        });
        let total = words.next().and_then(|word| word.strip_prefix(b"total="));
        kind && averages && total.and_then(decimal).is_some() && words.next().is_none()
    })
}

/// The digits of the largest 64-bit number.
const LONGEST: usize = 20;

fn printable(text: &[u8]) -> Result<(), ParseError> {
    let strange = |byte: u8| ((byte < b' ') & (byte != b'\n') & (byte != b'\t')) | (byte == 0x7f);
    // Of all bytes, without branches: it is the rule that none is.
    let any = text.iter().fold(false, |any, &byte| any | strange(byte));
    if any || core::str::from_utf8(text).is_err() {
        return Err(ParseError::new(1, "printable text", text));
    }
    Ok(())
}

fn each(
    text: &[u8],
    expected: &'static str,
    fits: impl Fn(&[u8]) -> bool,
) -> Result<(), ParseError> {
    match lines(text).find(|(_, line)| !fits(line)) {
        Some((number, line)) => Err(ParseError::new(number, expected, line)),
        None => Ok(()),
    }
}

fn not_empty(text: &[u8]) -> Result<(), ParseError> {
    lines(text).next().map(drop).ok_or_else(|| ParseError::new(1, "a line", text))
}

fn begins(text: &[u8], start: &'static [u8]) -> Result<(), ParseError> {
    // `meminfo` of nodes has had a blank line before.
    if text.trim_ascii_start().starts_with(start) {
        return Ok(());
    }
    Err(ParseError::new(1, "the usual first line", text))
}

/// Each line is a name, and numbers.
fn counters(text: &[u8]) -> Result<(), ParseError> {
    each(text, "a name and numbers", |line| {
        let mut rest = words(line).skip(1);
        let fits = |word: &[u8]| decimal(word).is_some() || word == b"kB" || word.ends_with(b":");
        rest.next().is_some_and(fits) && rest.all(fits)
    })
}

/// Each line but the first `skip` has `first` numbers, a name, and then numbers: `all` words at least.
fn devices(text: &[u8], skip: usize, first: usize, all: usize) -> Result<(), ParseError> {
    for (number, line) in lines(text).skip(skip) {
        let name = first;
        let numbers = words(line).enumerate().filter(|(index, _)| *index != name);
        let fits = numbers.clone().all(|(_, word)| decimal(word).is_some());
        if !fits || words(line).count() < all {
            return Err(ParseError::new(number, "a device and its numbers", line));
        }
    }
    Ok(())
}

/// Each line but the first ends in two sizes and a priority, which may be negative.
fn swaps(text: &[u8]) -> Result<(), ParseError> {
    for (number, line) in lines(text).skip(1) {
        let words = || words(line);
        let numbers = words().skip(words().count().saturating_sub(3)).enumerate();
        let mut fits = words().count() >= 5;
        for (index, word) in numbers {
            let word = if index == 2 { word.strip_prefix(b"-").unwrap_or(word) } else { word };
            fits &= decimal(word).is_some();
        }
        if !fits {
            return Err(ParseError::new(number, "a swap area", line));
        }
    }
    Ok(())
}

/// The first line begins with so many numbers with two decimals.
fn fixed(text: &[u8], count: usize) -> Result<(), ParseError> {
    let numbers = words(text).take(count).filter(|word| is_fixed(word)).count();
    if numbers == count {
        return Ok(());
    }
    Err(ParseError::new(1, "numbers with two decimals", text))
}

fn is_fixed(word: &[u8]) -> bool {
    let mut parts = word.split(|&byte| byte == b'.');
    let whole = parts.next().and_then(decimal);
    let decimals = parts.next().filter(|decimals| decimals.len() == 2).and_then(decimal);
    whole.is_some() && decimals.is_some() && parts.next().is_none()
}

/// Whether a line of `cpuinfo` that says which CPU comes next, says so: `processor : 0`.
fn is_processor(line: &[u8]) -> bool {
    let mut words = words(line);
    words.next() != Some(b"processor")
        || words.next() != Some(b":")
        || words.next().and_then(decimal).is_some()
}

fn has_colon(text: &[u8]) -> Result<(), ParseError> {
    if text.contains(&b':') {
        return Ok(());
    }
    Err(ParseError::new(1, "a name and a colon", text))
}

fn longest_number(line: &[u8]) -> usize {
    line.split(|byte| !byte.is_ascii_digit()).map(<[u8]>::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kernels_write_may_pass() {
        let proc = |file, text: &str| File::Proc(file).check(text.as_bytes());
        for (file, text) in [
            (ProcFile::Meminfo, "MemTotal: 7 kB\nHugePages_Total:       0\n"),
            (ProcFile::Stat, "cpu  1 2 3\ncpu0 1 2 3\nintr 7 8\nctxt 9\n"),
            (ProcFile::Vmstat, "nr_free_pages 7\n"),
            (ProcFile::Cpuinfo, "processor\t: 0\nflags\t\t: fpu\nbugs\t\t:\n\n"),
            (ProcFile::Swaps, "Filename\tType\n/dev/a b partition 7 8 -2\n"),
            (ProcFile::Partitions, "major minor  #blocks  name\n\n 254 0 4 vda\n"),
            (ProcFile::Diskstats, " 254 0 vda 1 2 3 4 5 6 7 8 9 10 11\n"),
            (ProcFile::Diskstats, ""),
            (ProcFile::Uptime, "7.05 8.00\n"),
            (ProcFile::Loadavg, "0.00 0.01 0.05 1/23 45\n"),
            (ProcFile::PressureIo, "some avg10=0.00 avg60=0.00 avg300=0.10 total=7\n"),
            (ProcFile::PressureIo, ""),
        ] {
            assert_eq!(proc(file, text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_no_such_file_does_not_pass() {
        for file in ProcFile::ALL.map(File::Proc) {
            for text in ["words, and no more\n", "\u{1b}[2J\n", "x -1\n", "\0\n"] {
                assert!(file.check(text.as_bytes()).is_err(), "{file:?}: {text:?}");
            }
            assert!(file.check(b"\xff\n").is_err(), "{file:?}");
        }
        for text in ["MemTotal: -7 kB\n", "MemTotal: x kB\n", "MemTotal:\n", "MemFree: 7 kB\n"] {
            assert!(File::Proc(ProcFile::Meminfo).check(text.as_bytes()).is_err(), "{text}");
        }
        let huge = "nr_free_pages 99999999999999999999999\n";
        assert!(File::Proc(ProcFile::Vmstat).check(huge.as_bytes()).is_err());
    }
}
