//! The file of saved states: what can be loaded can be told to readers, saved, and loaded again.
//!
//! The first byte says whether what follows is a whole file, or the body of one with a good head.
#![no_main]

use std::{path::PathBuf, sync::LazyLock};

use cgview_core::tree::{File, ProcFile};
use cgview_fuse::{Service, settings::ViewSettings, state};
use cgview_fuzz::container::{self, INIT};
use cgview_host::Host;
use cgview_testkit::FakeHost;
use libfuzzer_sys::fuzz_target;

const BOOT: &str = "boot";

struct Place {
    host: FakeHost,
    file: PathBuf,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let host = container::host();
    host.file("/proc/sys/kernel/random/boot_id", &format!("{BOOT}\n"));
    let file = host.path().join("cgview-fuse.state");
    Place { host, file }
});

/// FNV-1a, as in `state.rs`.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, text)) = input.split_first() else { return };
    let Place { host, file } = &*PLACE;
    let text = match kind % 2 {
        0 => text.to_vec(),
        _ => {
            let head = format!("cgview-state 1 {BOOT} {:016x}\n", checksum(text));
            [head.as_bytes(), text].concat()
        }
    };
    std::fs::write(file, text).expect("a file");
    let Ok(loaded) = state::load(file, BOOT) else { return };
    state::save(file, BOOT, &loaded).expect("a file");
    assert_eq!(state::load(file, BOOT).expect("what was saved"), loaded);
    let service = Service::new(Host::at(host.path()).expect("a host"), ViewSettings::default());
    service.restore(loaded);
    for file in [ProcFile::Stat, ProcFile::Uptime, ProcFile::Loadavg] {
        let text = service.text(INIT, File::Proc(file)).expect("a text");
        assert!(text.is_ascii() && text.ends_with(b"\n"));
    }
    service.save_to(file).expect("a file");
    state::load(file, BOOT).expect("what was saved");
});
