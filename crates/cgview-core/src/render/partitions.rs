//! `/proc/partitions`.

use crate::{
    explain::{Output, Why},
    parse,
    render::diskstats,
    snapshot::Controller,
    view::View,
};

/// The header, and the host's rows of the disks that the container has used and of their partitions.
///
/// Sizes are facts about the disk, so the rows are the host's own. A container without accounting for its
/// I/O gets the header alone. One that is the root of the hierarchy is the host, and gets the host's bytes.
pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    let io = view.snapshot.io.as_ref();
    if io.is_some_and(|io| io.cgroup.is_root()) {
        return out.copy(host);
    }
    let mut disk = None;
    for line in host.split_inclusive(|&byte| byte == b'\n') {
        // `show_partition_start()` writes the header and a blank line.
        let Some((_, name)) = row(line) else {
            if is_header(line) {
                out.copy(line);
            }
            continue;
        };
        let Some(io) = io else { continue };
        let file = diskstats::file(io);
        if diskstats::used(io, line).is_some() {
            out.put(
                line,
                Why::cgroup(Controller::Io, 0, file, "a disk that the container has used"),
            );
            disk = Some(name);
        } else if disk.is_some_and(|disk| is_partition_of(disk, name)) {
            let rule = "a partition of a disk that the container has used";
            out.put(line, Why::cgroup(Controller::Io, 0, file, rule));
        }
    }
}

/// The size and the name of a row `major minor #blocks name`.
fn row(line: &[u8]) -> Option<(u64, &[u8])> {
    let mut words = parse::words(line).skip(2);
    Some((parse::decimal(words.next()?)?, words.next()?))
}

fn is_header(line: &[u8]) -> bool {
    line.trim_ascii().is_empty() || line.starts_with(b"major minor")
}

/// Whether a partition of that name belongs to `disk`: the disk's name and a number, with a `p` between
/// if the disk's name ends with a digit (`bdev_name()` of `lib/vsprintf.c`). The kernel writes partitions
/// behind their disk.
fn is_partition_of(disk: &[u8], name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(disk) else { return false };
    let number = if disk.last().is_some_and(u8::is_ascii_digit) {
        rest.strip_prefix(b"p").unwrap_or_default()
    } else {
        rest
    };
    parse::decimal(number).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Snapshot,
        render::diskstats::tests::{show, with_io},
        snapshot::IoDevice,
        tree::ProcFile,
    };

    const HOST: &str = "major minor  #blocks  name\n\n \
                        259        0  976762584 nvme0n1\n \
                        259        1     524288 nvme0n1p1\n   \
                        8        0     131072 sda\n   \
                        8        1     131071 sda1\n   \
                        7        1      65536 loop1\n   \
                        7       10      65536 loop10\n";

    #[test]
    fn only_the_disks_that_the_container_has_used() {
        let nvme = IoDevice { major: 259, rios: 3, ..IoDevice::default() };
        let r#loop = IoDevice { major: 7, minor: 1, wios: 3, ..IoDevice::default() };
        let snapshot = with_io("/app", &[r#loop, nvme]);
        let (text, whys) = show(&snapshot, ProcFile::Partitions, HOST).unwrap();
        assert_eq!(
            text,
            "major minor  #blocks  name\n\n \
             259        0  976762584 nvme0n1\n \
             259        1     524288 nvme0n1p1\n   \
             7        1      65536 loop1\n"
        );
        assert_eq!(
            whys,
            [
                "io.stat of /app: a disk that the container has used",
                "io.stat of /app: a partition of a disk that the container has used",
                "io.stat of /app: a disk that the container has used"
            ]
        );
    }

    #[test]
    fn no_accounting_shows_the_header() {
        let (text, _) = show(&Snapshot::default(), ProcFile::Partitions, HOST).unwrap();
        assert_eq!(text, "major minor  #blocks  name\n\n");
    }

    #[test]
    fn the_root_is_the_host() {
        let (text, _) = show(&with_io("/", &[]), ProcFile::Partitions, HOST).unwrap();
        assert_eq!(text, HOST);
    }

    #[test]
    fn a_partition_has_its_disks_name() {
        for (disk, name) in [("vda", "vda1"), ("nvme0n1", "nvme0n1p2"), ("loop1", "loop1p1")] {
            assert!(is_partition_of(disk.as_bytes(), name.as_bytes()), "{name} of {disk}");
        }
        for (disk, name) in
            [("vda", "vda"), ("vda", "vdaa"), ("loop1", "loop10"), ("loop1", "loop1p"), ("a", "b1")]
        {
            assert!(!is_partition_of(disk.as_bytes(), name.as_bytes()), "{name} of {disk}");
        }
    }
}
