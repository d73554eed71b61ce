//! Block I/O of a cgroup: v2's `io.stat`, v1's `blkio.*`.

use alloc::vec::Vec;

use super::{ParseError, decimal, lines, number, words};
use crate::{snapshot::IoDevice, units::Bytes};

/// Reads v2's `io.stat` (nested keyed): one entry for each device, in the kernel's order.
///
/// A device without any number is one that the kernel keeps an account for and that was not used yet.
/// Linux 5.14 forgot the newline behind such a device (`blkcg_print_one_stat()`), so a line may name more
/// than one: the numbers belong to the last. Keys of controllers that are not known (`cost.usage`,
/// `avg_lat`, `depth`, ...) are skipped, whatever their values.
///
/// # Errors
///
/// [`ParseError`] at the first line that does not begin with a device, at a word that is neither a device
/// nor a key with a value, and at a known key without a number.
pub fn io_stat(text: &[u8]) -> Result<Vec<IoDevice>, ParseError> {
    let mut devices = Vec::new();
    for (line_number, line) in lines(text) {
        let mut current: Option<IoDevice> = None;
        for word in words(line) {
            if let Some((major, minor)) = device_number(word) {
                devices.extend(current.replace(IoDevice { major, minor, ..IoDevice::default() }));
                continue;
            }
            let Some(device) = current.as_mut() else {
                return Err(ParseError::new(line_number, "a device number", word));
            };
            let Some((key, value)) = split_once(word, b'=') else {
                return Err(ParseError::new(line_number, "a key and a value", word));
            };
            match key {
                b"rbytes" => device.rbytes = Bytes(number(value, line_number)?),
                b"wbytes" => device.wbytes = Bytes(number(value, line_number)?),
                b"dbytes" => device.dbytes = Bytes(number(value, line_number)?),
                b"rios" => device.rios = number(value, line_number)?,
                b"wios" => device.wios = number(value, line_number)?,
                b"dios" => device.dios = number(value, line_number)?,
                _ => {}
            }
        }
        devices.extend(current);
    }
    Ok(devices)
}

/// Reads a v1 file such as `blkio.throttle.io_serviced_recursive` and hands each number of each device to
/// `visit`: the device's major and minor, the kind, and the number, which is in the file's own unit.
///
/// The kinds are the kernel's: `Read`, `Write` and (since Linux 4.20) `Discard`, which are parts of
/// `Total`; and `Sync` and `Async`, which are parts of the same whole once more. The last line, the total
/// of all devices, is not visited.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a device, a kind and a number.
pub fn blkio(text: &[u8], mut visit: impl FnMut(u32, u32, &[u8], u64)) -> Result<(), ParseError> {
    for (line_number, line) in lines(text) {
        let mut words = words(line);
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(b"Total"), Some(sum), None, None) => {
                number(sum, line_number)?;
            }
            (Some(device), Some(kind), Some(value), None) => {
                let Some((major, minor)) = device_number(device) else {
                    return Err(ParseError::new(line_number, "a device number", device));
                };
                visit(major, minor, kind, number(value, line_number)?);
            }
            _ => return Err(ParseError::new(line_number, "a device, a kind and a number", line)),
        }
    }
    Ok(())
}

/// Reads `254:0`.
fn device_number(word: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = split_once(word, b':')?;
    let part = |digits| decimal(digits).and_then(|value| u32::try_from(value).ok());
    Some((part(major)?, part(minor)?))
}

fn split_once(word: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = memchr::memchr(at, word)?;
    Some((word.get(..index)?, word.get(index + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_for_each_device() {
        let text = b"8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=4096 dios=1\n\
                     8:0 rbytes=90430464 wbytes=0 rios=8950 wios=0 dbytes=0 dios=0 \
                     cost.vrate=100.00 cost.usage=3 depth=max use_delay=0 delay_nsec=0\n";
        let sdb = IoDevice {
            major: 8,
            minor: 16,
            rbytes: Bytes(1_459_200),
            wbytes: Bytes(314_773_504),
            dbytes: Bytes(4096),
            rios: 192,
            wios: 353,
            dios: 1,
            ..IoDevice::default()
        };
        let sda = IoDevice {
            major: 8,
            minor: 0,
            rbytes: Bytes(90_430_464),
            rios: 8950,
            ..IoDevice::default()
        };
        assert_eq!(io_stat(text).unwrap(), [sdb, sda]);
        assert_eq!(io_stat(b"").unwrap(), []);
    }

    #[test]
    fn a_device_without_numbers_may_share_its_line() {
        let device = |minor, rios| IoDevice { major: 7, minor, rios, ..IoDevice::default() };
        assert_eq!(
            io_stat(b"7:2 7:1 7:0 rios=5 wios=0\n7:3 \n").unwrap(),
            [device(2, 0), device(1, 0), device(0, 5), device(3, 0)]
        );
    }

    #[test]
    fn other_text_is_an_error() {
        for (text, line, found) in [
            (&b"rbytes=1\n"[..], 1, "rbytes=1"),
            (b"8:0 rios=1\n8:16 rios=many\n", 2, "many"),
            (b"8:0 rios\n", 1, "rios"),
            (b"8:4294967296 rios=1\n", 1, "8:4294967296"),
        ] {
            let error = io_stat(text).unwrap_err();
            assert_eq!((error.line, error.found.as_str()), (line, found));
        }
        assert!(blkio(b"8:0 Read\n", |_, _, _, _| ()).is_err());
        assert!(blkio(b"8:0 Read 1 2\n", |_, _, _, _| ()).is_err());
        assert!(blkio(b"sda Read 1\n", |_, _, _, _| ()).is_err());
        assert!(blkio(b"Total\n", |_, _, _, _| ()).is_err());
    }

    #[test]
    fn v1_has_a_line_for_each_kind() {
        let text = b"254:0 Read 12288\n254:0 Write 4096\n254:0 Sync 16384\n254:0 Async 0\n\
                     254:0 Discard 512\n254:0 Total 16896\nTotal 16896\n";
        let (mut reads, mut total, mut seen) = (0, 0, 0);
        blkio(text, |major, minor, kind, value| {
            assert_eq!((major, minor), (254, 0));
            seen += 1;
            match kind {
                b"Read" => reads += value,
                b"Total" => total += value,
                _ => {}
            }
        })
        .unwrap();
        assert_eq!((seen, reads, total), (6, 12_288, 16_896));
        blkio(b"Total 0\n", |_, _, _, _| unreachable!()).unwrap();
    }
}
