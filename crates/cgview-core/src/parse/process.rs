//! Files of `/proc/PID`.

use super::{ParseError, decimal, lines, number, words};
use crate::units::{Ticks, Usec};

/// One line of `/proc/PID/cgroup`: a hierarchy, its controllers and the cgroup's path in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CgroupEntry<'a> {
    /// The hierarchy's number; 0 is the unified one.
    pub hierarchy: u64,
    /// Its controllers, separated by commas; empty for the unified hierarchy.
    pub controllers: &'a [u8],
    /// The path of the cgroup, as seen from the reader's cgroup namespace. A cgroup that was removed
    /// has ` (deleted)` at its end, which is cut off.
    pub path: &'a [u8],
}

/// Reads `/proc/PID/cgroup` (`proc_cgroup_show()`), entry by entry.
pub fn cgroup_membership(text: &[u8]) -> impl Iterator<Item = Result<CgroupEntry<'_>, ParseError>> {
    text.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()).map(
        |(index, line)| {
            let mut fields = line.splitn(3, |&byte| byte == b':');
            let (Some(hierarchy), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                return Err(ParseError::new(index + 1, "hierarchy:controllers:path", line));
            };
            if path.first() != Some(&b'/') {
                return Err(ParseError::new(index + 1, "an absolute path", path));
            }
            let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
            Ok(CgroupEntry { hierarchy: number(hierarchy, index + 1)?, controllers, path })
        },
    )
}

/// What is needed of `/proc/PID/stat` (`do_task_stat()` of `fs/proc/array.c`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PidStat {
    /// Field 3, the state: `R`, `S`, `D`, `Z`, ...
    pub state: u8,
    /// Field 4, the parent, in the reader's pid namespace; 0 if it is not visible there.
    pub ppid: u32,
    /// Field 22, when it started, in ticks of the boot clock (of the reader's time namespace).
    pub starttime: Ticks,
}

/// Reads `/proc/PID/stat`.
///
/// Fields are counted from the last `)`, since a command name may hold blanks and parentheses.
///
/// # Errors
///
/// [`ParseError`] if it has no command name or too few fields.
pub fn pid_stat(text: &[u8]) -> Result<PidStat, ParseError> {
    let bad = || ParseError::new(1, "a command name and 22 fields", text);
    let rest = memchr::memrchr(b')', text).and_then(|end| text.get(end + 1..)).ok_or_else(bad)?;
    let mut fields = words(rest);
    let state = fields.next().and_then(|word| word.first()).copied().ok_or_else(bad)?;
    let ppid =
        fields.next().and_then(decimal).and_then(|pid| u32::try_from(pid).ok()).ok_or_else(bad)?;
    let starttime = fields.nth(17).and_then(decimal).map(Ticks).ok_or_else(bad)?;
    Ok(PidStat { state, ppid, starttime })
}

/// The innermost pid of `NSpid:` in `/proc/PID/status`, and how many pid namespaces deep it is.
///
/// `None` if the kernel does not have the line (before 4.1).
#[must_use]
pub fn status_nspid(text: &[u8]) -> Option<(u32, usize)> {
    let (_, line) = lines(text).find(|(_, line)| line.starts_with(b"NSpid:"))?;
    let pids = words(line).skip(1);
    let depth = pids.clone().count();
    let innermost = pids.last().and_then(decimal).and_then(|pid| u32::try_from(pid).ok())?;
    Some((innermost, depth))
}

/// What `/proc/PID/timens_offsets` says of the boot clock.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TimensOffsets {
    /// How far the boot clock of the time namespace is ahead of the host's, in microseconds; negative
    /// if it is behind.
    pub boottime: i64,
}

impl TimensOffsets {
    /// The boot clock of the namespace where the host's shows `now`.
    #[must_use]
    pub fn apply(self, now: Usec) -> Usec {
        Usec(now.0.saturating_add_signed(self.boottime))
    }
}

/// Reads `/proc/PID/timens_offsets` (`proc_timens_show_offsets()`): `boottime SECONDS NANOSECONDS`.
///
/// # Errors
///
/// [`ParseError`] if the `boottime` line does not hold two numbers.
pub fn timens_offsets(text: &[u8]) -> Result<TimensOffsets, ParseError> {
    for (line_number, line) in lines(text) {
        let mut words = words(line);
        // Kernels before 5.7 write the clock's number, 7, instead of its name.
        if !matches!(words.next(), Some(b"boottime" | b"7")) {
            continue;
        }
        let field = |word: Option<&[u8]>| {
            word.and_then(|word| core::str::from_utf8(word).ok())
                .and_then(|word| word.parse::<i64>().ok())
        };
        let (Some(seconds), Some(nanos)) = (field(words.next()), field(words.next())) else {
            return Err(ParseError::new(line_number, "seconds and nanoseconds", line));
        };
        let boottime = seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000);
        return Ok(TimensOffsets { boottime });
    }
    Ok(TimensOffsets::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn membership_of_a_hybrid_host() {
        let text = b"12:cpu,cpuacct:/docker/1f3c\n1:name=systemd:/a:b\n0::/docker/1f3c (deleted)\n";
        let entries: Vec<_> = cgroup_membership(text).map(Result::unwrap).collect();
        assert_eq!(entries[0].controllers, b"cpu,cpuacct");
        assert_eq!(entries[1].path, b"/a:b");
        assert_eq!((entries[2].hierarchy, entries[2].path), (0, &b"/docker/1f3c"[..]));
        assert!(cgroup_membership(b"0:/x\n").next().unwrap().is_err());
        assert!(cgroup_membership(b"0::x\n").next().unwrap().is_err());
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let text = b"7 (my) init) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 100 1 2\n";
        let stat = PidStat { state: b'S', ppid: 3, starttime: Ticks(4242) };
        assert_eq!(pid_stat(text), Ok(stat));
        assert!(pid_stat(b"7 (init) S 3").is_err());
        assert!(pid_stat(b"").is_err());
    }

    #[test]
    fn the_innermost_pid_is_the_last() {
        assert_eq!(status_nspid(b"Name:\tx\nNSpid:\t4711\t17\t1\n"), Some((1, 3)));
        assert_eq!(status_nspid(b"Name:\tx\n"), None);
    }

    #[test]
    fn offsets_may_be_negative() {
        let offsets = timens_offsets(b"monotonic 0 0\nboottime -5 250000000\n").unwrap();
        assert_eq!(offsets.apply(Usec::from_secs(10)), Usec(5_250_000));
        assert_eq!(timens_offsets(b"").unwrap(), TimensOffsets::default());
        assert!(timens_offsets(b"boottime x 0\n").is_err());
    }
}
