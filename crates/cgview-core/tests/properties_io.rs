//! The laws of `docs/semantics.md`, section 0, for the files about block I/O and pressure.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{fmt::Write as _, sync::Arc};

use cgview_core::{
    Bytes, File, HostFacts, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    parse::{blkio, io_stat},
    snapshot::{Cgroup, Io, IoDevice, Pressures, Version},
    tree::ProcFile,
    view::Error,
};
use proptest::{collection::vec, prelude::*};

const FILES: [ProcFile; 6] = [
    ProcFile::Diskstats,
    ProcFile::Partitions,
    ProcFile::PressureCpu,
    ProcFile::PressureIo,
    ProcFile::PressureIrq,
    ProcFile::PressureMemory,
];

fn render(snapshot: &Snapshot, file: ProcFile, host: &[u8]) -> Result<Vec<u8>, Error> {
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
    view.render(File::Proc(file), host, &mut text)?;
    let mut explained = Vec::new();
    let explanation = view.explain(File::Proc(file), host, &mut explained)?;
    assert_eq!(text, explained);
    assert!(explanation.notes.iter().all(|(range, _)| range.end <= text.len()));
    Ok(text)
}

/// A few devices, so that some are those of the host's text.
fn device() -> impl Strategy<Value = IoDevice> {
    let number = prop_oneof![0..10_000u64, any::<u64>()];
    (0..3u32, 0..4u32, vec(number, 8)).prop_map(|(major, minor, numbers)| IoDevice {
        major,
        minor,
        rbytes: Bytes(numbers[0]),
        wbytes: Bytes(numbers[1]),
        dbytes: Bytes(numbers[2]),
        rios: numbers[3],
        wios: numbers[4],
        dios: numbers[5],
        read_time: Usec(numbers[6]),
        write_time: Usec(numbers[7]),
    })
}

fn cgroup(path: &str) -> Arc<Cgroup> {
    Arc::new(Cgroup { path: path.into(), version: Version::V2 })
}

fn snapshot(path: &'static str) -> impl Strategy<Value = Snapshot> {
    let text = || proptest::option::of(vec(any::<u8>(), 0..80));
    let io = proptest::option::of(vec(device(), 0..5));
    let present = any::<bool>();
    (io, present, text(), text(), text(), text()).prop_map(
        move |(devices, present, cpu, memory, io, irq)| Snapshot {
            io: devices.map(|devices| Io { cgroup: cgroup(path), devices }),
            pressure: Pressures { cgroup: present.then(|| cgroup(path)), cpu, memory, io, irq },
            ..Snapshot::default()
        },
    )
}

/// The rows of a host as `diskstats_show()` and `show_partition()` print them: of each disk, whether it
/// has a partition, and how many columns this kernel has.
fn host(disks: &[(u32, u32, bool)], columns: usize) -> (String, String) {
    let mut diskstats = String::new();
    let mut partitions = String::from("major minor  #blocks  name\n\n");
    for &(major, minor, has_partition) in disks {
        let disk = format!("d{}x{}", major, minor);
        let rows = [(minor, disk.clone()), (minor + 100, format!("{disk}p1"))];
        for (minor, name) in rows.into_iter().take(1 + usize::from(has_partition)) {
            write!(diskstats, "{major:4} {minor:7} {name}").unwrap();
            (0..columns).for_each(|column| write!(diskstats, " {}", 1_000_000 + column).unwrap());
            diskstats.push('\n');
            writeln!(partitions, "{major:4}  {minor:7} {:10} {name}", 1 << 30).unwrap();
        }
    }
    (diskstats, partitions)
}

fn disks() -> impl Strategy<Value = Vec<(u32, u32, bool)>> {
    proptest::collection::hash_map((0..3u32, 0..4u32), any::<bool>(), 0..8).prop_map(|disks| {
        disks.into_iter().map(|((major, minor), part)| (major, minor, part)).collect()
    })
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|&byte| byte == b'\n').collect()
}

fn words(line: &[u8]) -> Vec<String> {
    String::from_utf8(line.into()).unwrap().split_whitespace().map(Into::into).collect()
}

proptest! {
    #[test]
    fn any_bytes_render(snapshot in snapshot("/app"), host: Vec<u8>) {
        for file in FILES {
            let Ok(text) = render(&snapshot, file, &host) else { continue };
            let own = snapshot.pressure.cpu.iter().chain(&snapshot.pressure.memory)
                .chain(&snapshot.pressure.io).chain(&snapshot.pressure.irq)
                .map(Vec::len).max().unwrap_or(0);
            prop_assert!(text.len() <= host.len() + own + lines(&host).len() * 17 * 20);
        }
    }

    #[test]
    fn any_bytes_parse(text: Vec<u8>) {
        let _ = io_stat(&text);
        let _ = blkio(&text, |_, _, _, _| ());
    }

    // Law 1: never the host by accident.
    #[test]
    fn no_number_of_a_row_is_the_hosts(
        snapshot in snapshot("/app"), disks in disks(), columns in 11..22usize,
    ) {
        let (diskstats, partitions) = host(&disks, columns);
        let own = snapshot.io.as_ref().map_or(&[][..], |io| &io.devices);
        let used = |row: &[u8]| {
            let words = words(row);
            own.iter().find(|device| {
                [device.major.to_string(), device.minor.to_string()] == words[..2]
            }).copied()
        };
        let text = render(&snapshot, ProcFile::Diskstats, diskstats.as_bytes()).unwrap();
        for row in lines(&text) {
            let device = used(row).unwrap();
            let words = words(row);
            prop_assert_eq!(words.len(), 3 + columns);
            prop_assert_eq!(&words[3], &device.rios.to_string());
            prop_assert_eq!(&words[5], &(device.rbytes.0 / 512).to_string());
            prop_assert_eq!(&words[7], &device.wios.to_string());
            prop_assert_eq!(&words[9], &(device.wbytes.0 / 512).to_string());
            prop_assert_eq!(&words[11], "0");
            if columns >= 15 {
                prop_assert_eq!(&words[14], &device.dios.to_string());
                prop_assert_eq!(&words[16], &(device.dbytes.0 / 512).to_string());
            }
        }
        // Each used disk of the host has its row, and no other has one, in the host's order.
        let expected: Vec<_> = lines(diskstats.as_bytes()).into_iter()
            .filter(|row| used(row).is_some()).map(|row| words(row)[..3].to_vec()).collect();
        let shown: Vec<_> = lines(&text).into_iter().map(|row| words(row)[..3].to_vec()).collect();
        prop_assert_eq!(&shown, &expected);

        let text = render(&snapshot, ProcFile::Partitions, partitions.as_bytes()).unwrap();
        let mut whole = Vec::new();
        for row in lines(&text).into_iter().skip(2) {
            let name = words(row)[3].clone();
            match name.strip_suffix("p1") {
                Some(disk) => prop_assert!(whole.contains(&disk.to_owned())),
                None => {
                    prop_assert!(used(row).is_some());
                    whole.push(name);
                }
            }
            prop_assert!(lines(partitions.as_bytes()).contains(&row));
        }
        prop_assert_eq!(whole.len(), expected.len());
    }

    // Law 5: whoever is the root of the hierarchy has the host's bytes.
    #[test]
    fn the_root_is_the_host(mut snapshot in snapshot("/"), bytes in vec(any::<u8>(), 1..200)) {
        snapshot.io.get_or_insert(Io { cgroup: cgroup("/"), devices: Vec::new() });
        snapshot.pressure.cgroup = Some(cgroup("/"));
        for file in FILES {
            prop_assert_eq!(&render(&snapshot, file, &bytes).unwrap(), &bytes);
        }
    }

    // Law 5: the host's columns and the end of its text.
    #[test]
    fn names_stay_in_their_columns(devices in vec(device(), 1..5), disks in disks()) {
        let io = Some(Io { cgroup: cgroup("/app"), devices });
        let snapshot = Snapshot { io, ..Snapshot::default() };
        let (diskstats, _) = host(&disks, 17);
        let text = render(&snapshot, ProcFile::Diskstats, diskstats.as_bytes()).unwrap();
        for row in lines(&text) {
            let start = &row[..words(row)[2].len() + 13];
            prop_assert!(lines(diskstats.as_bytes()).iter().any(|line| line.starts_with(start)));
            prop_assert!(row.ends_with(b"\n"));
        }
    }

    // Law 3: two moments in order, and no number of a row goes back.
    #[test]
    fn counters_do_not_go_back(
        devices in vec(device(), 1..5), more in vec(0..u64::MAX / 4, 8), disks in disks(),
    ) {
        let at = |devices: &[IoDevice]| {
            let io = Some(Io { cgroup: cgroup("/app"), devices: devices.into() });
            let snapshot = Snapshot { io, ..Snapshot::default() };
            render(&snapshot, ProcFile::Diskstats, host(&disks, 17).0.as_bytes()).unwrap()
        };
        let later: Vec<_> = devices.iter().map(|device| IoDevice {
            rbytes: Bytes(device.rbytes.0.saturating_add(more[0])),
            wbytes: Bytes(device.wbytes.0.saturating_add(more[1])),
            dbytes: Bytes(device.dbytes.0.saturating_add(more[2])),
            rios: device.rios.saturating_add(more[3]),
            wios: device.wios.saturating_add(more[4]),
            dios: device.dios.saturating_add(more[5]),
            read_time: Usec(device.read_time.0.saturating_add(more[6])),
            write_time: Usec(device.write_time.0.saturating_add(more[7])),
            ..*device
        }).collect();
        let (before, after) = (at(&devices), at(&later));
        prop_assert_eq!(lines(&before).len(), lines(&after).len());
        for (before, after) in lines(&before).into_iter().zip(lines(&after)) {
            for (before, after) in words(before).iter().zip(words(after)).skip(3) {
                prop_assert!(before.parse::<u64>().unwrap() <= after.parse().unwrap());
            }
        }
    }

    #[test]
    fn io_stat_says_what_was_written(devices in vec(device(), 0..6)) {
        let mut text = String::new();
        for device in &devices {
            writeln!(
                text,
                "{}:{} rbytes={} wbytes={} rios={} wios={} dbytes={} dios={} cost.usage={}",
                device.major, device.minor, device.rbytes.0, device.wbytes.0, device.rios,
                device.wios, device.dbytes.0, device.dios, device.read_time.0,
            ).unwrap();
        }
        let timeless: Vec<_> = devices.iter().map(|device| IoDevice {
            read_time: Usec(0), write_time: Usec(0), ..*device
        }).collect();
        prop_assert_eq!(io_stat(text.as_bytes()).unwrap(), timeless);
    }

    #[test]
    fn blkio_says_what_was_written(devices in vec(device(), 0..6)) {
        let mut text = String::new();
        for IoDevice { major, minor, rios, wios, .. } in &devices {
            writeln!(text, "{major}:{minor} Read {rios}\n{major}:{minor} Write {wios}").unwrap();
        }
        text.push_str("Total 0\n");
        let mut seen = Vec::new();
        blkio(text.as_bytes(), |major, minor, kind, value| {
            seen.push((major, minor, kind.to_vec(), value));
        }).unwrap();
        let written: Vec<_> = devices.iter().flat_map(|device| [
            (device.major, device.minor, b"Read".to_vec(), device.rios),
            (device.major, device.minor, b"Write".to_vec(), device.wios),
        ]).collect();
        prop_assert_eq!(seen, written);
    }

    // The container's own text, or an error: never the host's.
    #[test]
    fn pressure_is_the_containers(snapshot in snapshot("/app"), host: Vec<u8>) {
        let own = &snapshot.pressure;
        for (file, text) in [
            (ProcFile::PressureCpu, &own.cpu), (ProcFile::PressureIo, &own.io),
            (ProcFile::PressureIrq, &own.irq), (ProcFile::PressureMemory, &own.memory),
        ] {
            let expected = text.clone().filter(|text| own.cgroup.is_some() && !text.is_empty());
            prop_assert_eq!(
                render(&snapshot, file, &host),
                expected.ok_or(Error::NoPressure)
            );
        }
    }
}
