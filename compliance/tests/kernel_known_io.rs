//! What `/proc/diskstats` tells of block I/O of known size.
//!
//! `Documentation/admin-guide/iostats.rst`: "sectors read", "sectors written": in units of 512 bytes;
//! `Documentation/admin-guide/cgroup-v2.rst`, `io.stat`: "rbytes: Bytes read", "rios: Number of read IOs".
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use cgview_compliance::{
    Container, Defect, MIB, Options, PATIENCE, Server, disk::Disk, text, worker::Worker,
};
use cgview_testkit::{Cgroup, Tree, skip};

const SECTOR: u64 = 512;

/// Requests and sectors, read and written: columns of `/proc/diskstats` behind the name.
type Counts = [u64; 4];

/// What a container is told of a disk; zeros if it has no row.
fn seen(container: &Container, disk: &Disk) -> Counts {
    let rows = text::disks(&container.read("/proc/diskstats"));
    rows.get(&disk.number()).map_or([0; 4], |(_, columns)| [0, 4, 2, 6].map(|at| columns[at]))
}

/// What the cgroup's own files say.
fn truth(cgroup: &Cgroup, disk: &Disk) -> Counts {
    let (major, minor) = disk.number();
    let device = format!("{major}:{minor}");
    let dir = cgroup.dir("io");
    if let Ok(text) = fs::read_to_string(dir.join("io.stat")) {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{device} ")));
        let pairs = line.unwrap_or_default().split_whitespace().filter_map(|it| it.split_once('='));
        let all: BTreeMap<&str, u64> =
            pairs.map(|(name, value)| (name, value.parse().unwrap())).collect();
        let of = |name| all.get(name).copied().unwrap_or_default();
        return [of("rios"), of("wios"), of("rbytes") / SECTOR, of("wbytes") / SECTOR];
    }
    // cgroup-v1/blkio-controller.rst: "8:0 Read 4096".
    let of = |file: &str, kind: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{device} {kind} ")));
        line.map_or(0, |value| value.parse::<u64>().unwrap())
    };
    let (requests, bytes) =
        ("blkio.throttle.io_serviced_recursive", "blkio.throttle.io_service_bytes_recursive");
    [
        of(requests, "Read"),
        of(requests, "Write"),
        of(bytes, "Read") / SECTOR,
        of(bytes, "Write") / SECTOR,
    ]
}

/// Waits until the container is told what its cgroup has, which is what was done, within 1 %. A file system
/// does a little more.
fn agrees(container: &Container, disk: &Disk, read: u64, written: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let (seen, truth) = (seen(container, disk), truth(container.cgroup(), disk));
        let near = |seen: u64, bytes: u64| {
            let meant = bytes / SECTOR;
            seen.abs_diff(meant) <= (meant / 100).max(MIB / 16 / SECTOR)
        };
        if seen == truth && near(seen[2], read) && near(seen[3], written) {
            return;
        }
        assert!(Instant::now() < end, "{seen:?}, truth {truth:?}, done {read} {written}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Has a disk's I/O be accounted for where v1 does so only for disks that are throttled.
fn account(tree: &Tree, cgroup: &Cgroup, disk: &Disk) {
    let (major, minor) = disk.number();
    if tree.is_v1("io") {
        for kind in ["read", "write"] {
            let file = cgroup.dir("io").join(format!("blkio.throttle.{kind}_bps_device"));
            fs::write(file, format!("{major}:{minor} {}", 1_u64 << 40)).unwrap();
        }
    }
}

const BLOCK: usize = 1 << 16;

/// Opens a disk for direct I/O (open(2), `O_DIRECT`).
fn direct(path: &Path) -> File {
    let flags = rustix::fs::OFlags::DIRECT.bits().try_into().unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// A block at an address that suits `O_DIRECT`.
fn with_block(work: impl FnOnce(&mut [u8])) {
    let mut room = vec![1; 2 * BLOCK];
    let start = room.as_ptr().align_offset(4096);
    work(&mut room[start..start + BLOCK]);
}

fn write_blocks(file: &File, from: u64, to: u64) {
    with_block(|block| {
        (from..to).step_by(BLOCK).for_each(|at| file.write_all_at(block, at).unwrap())
    });
}

fn read_blocks(file: &File, from: u64, to: u64) {
    with_block(|block| {
        (from..to).step_by(BLOCK).for_each(|at| file.read_exact_at(block, at).unwrap())
    });
}

// host
// ├─ container   <- 8 MiB written, 12 MiB read
// └─ neighbour   <- as much, of which the container sees nothing
#[test]
fn direct_io() {
    if !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["io", "memory"]) else { return };
    let Some(disk) = Disk::new(32 * MIB) else { return };
    let server = Server::start(&Options::new());
    let [container, neighbour] = ["container", "neighbour"].map(|name| {
        let cgroup = tree.cgroup(name);
        account(&tree, &cgroup, &disk);
        Container::start(&server, &cgroup)
    });
    let [before, of_neighbour] = [&container, &neighbour].map(|it| seen(it, &disk));
    let mut worker = Worker::start(container.enter(), |steps| {
        let file = direct(disk.device());
        steps.step(|| write_blocks(&file, 0, 8 * MIB));
        steps.step(|| read_blocks(&file, 0, 12 * MIB));
        file
    });
    if Defect::new("W19").is_expected() {
        worker.step();
        // LXCFS tells of the host's I/O, which the neighbour has not done.
        let [now, of_neighbour] = [&container, &neighbour].map(|it| seen(it, &disk));
        let seen = format!("{now:?}, and its idle neighbour {of_neighbour:?}");
        return Defect::new("W19").judge(&seen, false, now == of_neighbour);
    }
    assert_eq!((before, of_neighbour), ([0; 4], [0; 4]));
    worker.step();
    agrees(&container, &disk, 0, 8 * MIB);
    worker.step();
    agrees(&container, &disk, 12 * MIB, 8 * MIB);
    assert_eq!(seen(&neighbour, &disk), [0; 4]);
    let wrote = neighbour.enter().run(|| {
        write_blocks(&direct(disk.device()), 0, 4 * MIB);
        0
    });
    assert_eq!(wrote.wait(), 0);
    agrees(&neighbour, &disk, 0, 4 * MIB);
    agrees(&container, &disk, 12 * MIB, 8 * MIB);
}

// host
// └─ container   <- a file of 16 MiB written and synced, and read again after its pages were dropped
//
// cgroup-v2.rst, "Writeback": "The io controller, in conjunction with the memory controller, implements control of
// page cache writeback IOs". v1 accounts writeback to the root: cgroup-v1/blkio-controller.rst.
#[test]
fn buffered_io() {
    if !Server::is_possible() {
        return;
    }
    if Defect::new("W19").is_expected() {
        return skip("lxcfs tells of the host's I/O: W19, as direct_io shows");
    }
    let Some(tree) = Tree::with(&["io", "memory"]) else { return };
    let Some(mut disk) = Disk::new(64 * MIB) else { return };
    let path = disk.mount().join("file");
    let cgroup = tree.cgroup("container");
    account(&tree, &cgroup, &disk);
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let mut worker = Worker::start(container.enter(), |steps| {
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = steps.step(|| {
            let file = open().unwrap();
            write_blocks(&file, 0, 16 * MIB);
            file.sync_all().unwrap();
            file
        });
        steps.step(|| {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            read_blocks(&file, 0, 16 * MIB);
        });
    });
    worker.step();
    // fsync(2) writes what it waits for by itself, so that v1 accounts that to the caller.
    agrees(&container, &disk, 0, 16 * MIB);
    worker.step();
    agrees(&container, &disk, 16 * MIB, 16 * MIB);

    // vmstat(8) reads the same rows: reads total, merged, sectors, ms, and the same of writes. (iostat(1) reads
    // those in /sys/block, where all disks of the host are.)
    let said = container.run("LC_ALL=C vmstat -d");
    let name = disk.device().file_name().unwrap().to_str().unwrap();
    let line = said.lines().find(|line| line.starts_with(&format!("{name} ")));
    let words: Vec<&str> = line.unwrap_or_else(|| panic!("{said}")).split_whitespace().collect();
    for column in [3, 7] {
        let sectors: u64 = words[column].parse().unwrap();
        assert!(sectors.abs_diff(16 * MIB / SECTOR) < 400, "{said}");
    }
}
