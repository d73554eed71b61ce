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
    pub(super) fn io(&mut self) -> Result<Option<Io>> {
        for level in self.levels(Controller::Io)?.iter() {
            let devices = match level.version() {
                Version::V2 => self.parse(level, "io.stat", io_stat)?,
                Version::V1 => self.io_v1(level)?,
            };
            if let Some(devices) = devices {
                return Ok(Some(Io { cgroup: cgroup(level), devices }));
            }
        }
        Ok(None)
    }

    /// The numbers of the family that saw the most: which one the kernel fills depends on the scheduler of
    /// each device. `None` if it has none of the files.
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
                if total(&new) > total(known) {
                    *known = new;
                }
            }
        }
        Ok(devices)
    }
}

fn total(device: &IoDevice) -> u64 {
    [device.rbytes, device.wbytes, device.dbytes].into_iter().sum::<Bytes>().0
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
