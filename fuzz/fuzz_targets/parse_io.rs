//! Block I/O of both versions: what was read can be written and read again.
#![no_main]

use std::fmt::Write as _;

use cgview_core::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok(devices) = parse::io_stat(text) {
        let mut again = String::new();
        for device in &devices {
            writeln!(
                again,
                "{}:{} rbytes={} wbytes={} rios={} wios={} dbytes={} dios={}",
                device.major,
                device.minor,
                device.rbytes.0,
                device.wbytes.0,
                device.rios,
                device.wios,
                device.dbytes.0,
                device.dios,
            )
            .expect("a String takes everything");
        }
        assert_eq!(parse::io_stat(again.as_bytes()), Ok(devices));
    }

    let mut seen = Vec::new();
    let visit = |major, minor, kind: &[u8], value| seen.push((major, minor, kind.to_vec(), value));
    if parse::blkio(text, visit).is_ok() {
        let mut again = Vec::new();
        for (major, minor, kind, value) in &seen {
            again.extend_from_slice(format!("{major}:{minor} ").as_bytes());
            again.extend_from_slice(kind);
            again.extend_from_slice(format!(" {value}\n").as_bytes());
        }
        let mut second = Vec::new();
        parse::blkio(&again, |major, minor, kind, value| {
            second.push((major, minor, kind.to_vec(), value));
        })
        .expect("what we wrote");
        assert_eq!(seen, second);
    }
});
