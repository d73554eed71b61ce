//! The io controller, v1's blkio.

use cgview_core::{
    parse::{blkio, io_stat},
    snapshot::{Controller, Io, IoDevice, Version},
    units::{Bytes, Usec},
};

use super::{Sampler, cgroup};
use crate::{cgroup::CgroupDir, error::Result};

/// A file of v1, and where its numbers go.
type File = (&'static str, fn(&mut IoDevice, &[u8], u64));

/// The families of files that v1 kernels keep their accounts in, each with its I/O scheduler: the throttling
/// layer's, which counts what it sees whatever the scheduler (`blk-throttle.c`), those of BFQ (since 4.12)
/// and those of CFQ (before 5.0).
const FAMILIES: [&[File]; 3] = [
    &[
        ("blkio.throttle.io_service_bytes_recursive", bytes),
        ("blkio.throttle.io_serviced_recursive", requests),
    ],
    &[
        ("blkio.bfq.io_service_bytes_recursive", bytes),
        ("blkio.bfq.io_serviced_recursive", requests),
        ("blkio.bfq.io_service_time_recursive", time),
        ("blkio.bfq.io_wait_time_recursive", time),
    ],
    &[
        ("blkio.io_service_bytes_recursive", bytes),
        ("blkio.io_serviced_recursive", requests),
        ("blkio.io_service_time_recursive", time),
        ("blkio.io_wait_time_recursive", time),
    ],
];

impl Sampler<'_> {
    /// The container's own account, or none: an ancestor's counts the I/O of its neighbours too. The host
    /// itself needs no account.
    pub(super) fn io(&mut self) -> Result<Option<Io>> {
        let levels = self.levels(Controller::Io)?;
        let Some(level) = levels.first() else { return Ok(None) };
        let devices = match level.version() {
            Version::V2 => self.parse(level, "io.stat", io_stat)?,
            Version::V1 => self.io_v1(level)?,
        };
        let devices = match devices {
            None if self.is_top(Controller::Io, level) => Vec::new(),
            None => return Ok(None),
            Some(devices) => devices,
        };
        Ok(Some(Io { cgroup: cgroup(level), devices }))
    }

    /// The largest number of all families: which one the kernel fills depends on the scheduler of each
    /// device, and the one that stands still when that is changed must not make the sum go back. `None` if
    /// the kernel has none of the files.
    fn io_v1(&mut self, level: &CgroupDir) -> Result<Option<Vec<IoDevice>>> {
        let mut devices: Option<Vec<IoDevice>> = None;
        for family in FAMILIES {
            let mut seen = Vec::new();
            for &(name, put) in family {
                let read = self.parse(level, name, |text| {
                    blkio(text, |major, minor, kind, value| {
                        put(device(&mut seen, major, minor), kind, value);
                    })
                })?;
                if read.is_some() {
                    devices.get_or_insert_default();
                }
            }
            for new in seen {
                let known = device(devices.get_or_insert_default(), new.major, new.minor);
                *known = larger(*known, new);
            }
        }
        Ok(devices)
    }
}

fn larger(one: IoDevice, other: IoDevice) -> IoDevice {
    IoDevice {
        rbytes: one.rbytes.max(other.rbytes),
        wbytes: one.wbytes.max(other.wbytes),
        dbytes: one.dbytes.max(other.dbytes),
        rios: one.rios.max(other.rios),
        wios: one.wios.max(other.wios),
        dios: one.dios.max(other.dios),
        read_time: one.read_time.max(other.read_time),
        write_time: one.write_time.max(other.write_time),
        ..one
    }
}

fn device(devices: &mut Vec<IoDevice>, major: u32, minor: u32) -> &mut IoDevice {
    let at = devices.iter().position(|device| (device.major, device.minor) == (major, minor));
    let at = at.unwrap_or_else(|| {
        devices.push(IoDevice { major, minor, ..IoDevice::default() });
        devices.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "it was found there, or put there")]
    &mut devices[at]
}

fn bytes(device: &mut IoDevice, kind: &[u8], value: u64) {
    match kind {
        b"Read" => device.rbytes = Bytes(value),
        b"Write" => device.wbytes = Bytes(value),
        b"Discard" => device.dbytes = Bytes(value),
        _ => {}
    }
}

fn requests(device: &mut IoDevice, kind: &[u8], value: u64) {
    match kind {
        b"Read" => device.rios = value,
        b"Write" => device.wios = value,
        b"Discard" => device.dios = value,
        _ => {}
    }
}

/// Nanoseconds; service and wait time add up.
fn time(device: &mut IoDevice, kind: &[u8], value: u64) {
    let value = Usec::from_nanos(value);
    match kind {
        b"Read" => device.read_time = device.read_time.saturating_add(value),
        b"Write" => device.write_time = device.write_time.saturating_add(value),
        _ => {}
    }
}
