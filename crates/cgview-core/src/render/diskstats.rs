//! `/proc/diskstats`.

use crate::{
    explain::{Output, Source, Why},
    parse,
    snapshot::{Controller, Io, IoDevice, Version},
    units::{Bytes, Usec},
    view::View,
};

/// What `diskstats_show()` counts sectors in, whatever the device's own sectors are.
const SECTOR: u64 = 512;

/// The rows of the disks that the container has used, in the host's order, with the host's names and
/// number of columns (14 of them in all before Linux 4.18, 18 since, 20 since 5.5).
///
/// | columns | value |
/// |---|---|
/// | reads, writes, discards completed | `rios`, `wios`, `dios` of `io.stat`; v1 `blkio.*io_serviced_recursive` |
/// | sectors read, written, discarded | `rbytes`, `wbytes`, `dbytes` in units of 512; v1 `blkio.*io_service_bytes_recursive` |
/// | ms spent reading, writing, and in all | where the kernel tells of a cgroup (v1 with bfq), else 0 |
/// | merged, in flight, ms busy, flushes | 0: the kernel does not count them by cgroup |
///
/// The kernel accounts for whole disks, so partitions have no row: theirs would be the host's numbers.
/// A container without accounting of its own gets an empty file. One that is the root of the hierarchy is
/// the host, and gets the host's bytes.
pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    // No accounting: to show nothing is the only way not to show the others' I/O.
    let Some(io) = &view.snapshot.io else { return };
    if io.cgroup.is_root() {
        return out.copy(host);
    }
    for line in host.split_inclusive(|&byte| byte == b'\n') {
        let Some(device) = used(io, line) else { continue };
        // `major minor name`, as wide as the host prints them.
        let (row, mut rest) = split_words(line, 3);
        out.copy(row);
        let mut column = 0;
        while let (gap @ [_, ..], after) = split_blanks(rest) {
            let (word, after) = split_word(after);
            if word.is_empty() {
                break;
            }
            out.copy(gap);
            let (number, why) = value(device, io, column);
            out.number(number, why);
            column += 1;
            rest = after;
        }
        out.copy(rest);
    }
}

/// The value of a column, counted from the first one after the name. The order is that of
/// `diskstats_show()`, `Documentation/admin-guide/iostats.rst`.
fn value(device: &IoDevice, io: &Io, column: usize) -> (u64, Why) {
    let sectors = |bytes: Bytes| bytes.0 / SECTOR;
    let millis = |time: Usec| time.0 / 1000;
    let number = match column {
        0 => device.rios,
        2 => sectors(device.rbytes),
        3 => millis(device.read_time),
        4 => device.wios,
        6 => sectors(device.wbytes),
        7 => millis(device.write_time),
        // The "weighted" time: how long all requests took together.
        10 => millis(device.read_time.saturating_add(device.write_time)),
        11 => device.dios,
        13 => sectors(device.dbytes),
        _ => return (0, Why::of(Source::Constant, "not counted by cgroup")),
    };
    let rule = match column {
        2 | 6 | 13 => "bytes in sectors of 512",
        3 | 7 | 10 => "time of the container's own requests, in ms",
        _ => "the container's own requests",
    };
    (number, Why::cgroup(Controller::Io, 0, file(io), rule))
}

/// The file that says which devices the container has used.
pub(super) fn file(io: &Io) -> &'static str {
    match io.cgroup.version {
        Version::V1 => "blkio.*_recursive",
        Version::V2 => "io.stat",
    }
}

/// The device of a row that begins with `major minor`, if the container has used it.
pub(super) fn used<'a>(io: &'a Io, row: &[u8]) -> Option<&'a IoDevice> {
    let mut words = parse::words(row);
    let major = parse::decimal(words.next()?)?;
    let minor = parse::decimal(words.next()?)?;
    io.devices
        .iter()
        .find(|device| (u64::from(device.major), u64::from(device.minor)) == (major, minor))
}

/// Splits a line behind its first `count` words.
fn split_words(line: &[u8], count: usize) -> (&[u8], &[u8]) {
    let mut rest = line;
    for _ in 0..count {
        rest = split_word(split_blanks(rest).1).1;
    }
    line.split_at_checked(line.len().saturating_sub(rest.len())).unwrap_or((line, &[]))
}

fn split_blanks(text: &[u8]) -> (&[u8], &[u8]) {
    split_while(text, u8::is_ascii_whitespace)
}

fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    split_while(text, |byte| !byte.is_ascii_whitespace())
}

fn split_while(text: &[u8], holds: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !holds(byte)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, &[]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        File, HostFacts, Policy, Reader, Snapshot,
        cpu_view::CpuView,
        effective::CpuLimits,
        snapshot::Cgroup,
        tree::ProcFile,
        view::{Error, View},
    };
    use alloc::{string::String, sync::Arc, vec::Vec};

    pub(in crate::render) fn cgroup(path: &str, version: Version) -> Arc<Cgroup> {
        Arc::new(Cgroup { path: path.into(), version })
    }

    pub(in crate::render) fn with_io(path: &str, devices: &[IoDevice]) -> Snapshot {
        let io = Io { cgroup: cgroup(path, Version::V2), devices: devices.into() };
        Snapshot { io: Some(io), ..Snapshot::default() }
    }

    /// The text of `file`, and the reasons for it.
    pub(in crate::render) fn show(
        snapshot: &Snapshot,
        file: ProcFile,
        host: &str,
    ) -> Result<(String, Vec<String>), Error> {
        let view = View {
            snapshot,
            now: Usec::ZERO,
            host: &HostFacts::default(),
            policy: &Policy::default(),
            cpus: &CpuLimits::default(),
            cpu_view: &CpuView::default(),
            load: None,
            reader: Reader::default(),
        };
        let mut text = Vec::new();
        let explanation = view.explain(File::Proc(file), host.as_bytes(), &mut text)?;
        let whys = explanation.notes.iter().map(|(_, why)| format(why, snapshot)).collect();
        Ok((String::from_utf8(text).unwrap(), whys))
    }

    fn format(why: &Why, snapshot: &Snapshot) -> String {
        alloc::format!("{}", why.describe(snapshot))
    }

    const HOST: &str = "   8       0 sda 100 1 2000 30 400 5 6000 70 8 90 1000 11 12 130 14 15 16\n   \
                        8       1 sda1 99 1 1990 29 399 5 5990 69 8 89 990 11 12 130 14 0 0\n \
                        259       0 nvme0n1 7 0 56 1 0 0 0 0 0 1 1 0 0 0 0 0 0\n   \
                        7       0 loop0 9 0 18 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    const SDA: IoDevice = IoDevice {
        major: 8,
        minor: 0,
        rbytes: Bytes(8192),
        wbytes: Bytes(1024),
        dbytes: Bytes(4096),
        rios: 2,
        wios: 1,
        dios: 1,
        read_time: Usec(2500),
        write_time: Usec(1500),
    };

    #[test]
    fn only_the_disks_that_the_container_has_used() {
        let nvme = IoDevice { major: 259, rios: 3, rbytes: Bytes(12_288), ..IoDevice::default() };
        let (text, whys) = show(&with_io("/app", &[nvme, SDA]), ProcFile::Diskstats, HOST).unwrap();
        assert_eq!(
            text,
            "   8       0 sda 2 0 16 2 1 0 2 1 0 0 4 1 0 8 0 0 0\n \
             259       0 nvme0n1 3 0 24 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        assert_eq!(whys.len(), 2 * 17);
        assert_eq!(whys[0], "io.stat of /app: the container's own requests");
        assert_eq!(whys[1], "not known of a container: not counted by cgroup");
        assert_eq!(whys[2], "io.stat of /app: bytes in sectors of 512");
    }

    #[test]
    fn the_columns_are_this_kernels() {
        let host = "   8       0 sda 100 1 2000 30 400 5 6000 70 8 90 1000\n";
        let (text, _) = show(&with_io("/app", &[SDA]), ProcFile::Diskstats, host).unwrap();
        assert_eq!(text, "   8       0 sda 2 0 16 2 1 0 2 1 0 0 4\n");
    }

    #[test]
    fn no_accounting_shows_nothing() {
        let (text, whys) = show(&Snapshot::default(), ProcFile::Diskstats, HOST).unwrap();
        assert_eq!((text.as_str(), whys.len()), ("", 0));
        let (text, _) = show(&with_io("/app", &[]), ProcFile::Diskstats, HOST).unwrap();
        assert_eq!(text, "");
    }

    #[test]
    fn the_root_is_the_host() {
        let (text, whys) = show(&with_io("/", &[SDA]), ProcFile::Diskstats, HOST).unwrap();
        assert_eq!((text.as_str(), whys.len()), (HOST, 0));
    }
}
