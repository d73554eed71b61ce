//! The ledger: whatever is in its file, a process takes from it what can be told to readers, and the next one takes
//! the same.
#![no_main]

use std::{
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use arbitrary::Arbitrary;
use cgview_core::tree::{File, ProcFile};
use cgview_fuse::{
    Service,
    greeting::Greeting,
    ledger::{Kind, Ledger, Record, read},
    settings::ViewSettings,
};
use cgview_fuzz::container::{self, INIT};
use cgview_host::Host;
use cgview_testkit::FakeHost;
use libfuzzer_sys::fuzz_target;

const BOOT: &str = "boot";

struct Place {
    host: FakeHost,
    file: PathBuf,
    greeting: Greeting,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let host = container::host();
    let file = host.path().join("cgview-fuse.ledger");
    let greeting = serde_json::from_str(r#"{"request":[1],"reply":[2]}"#).expect("a greeting");
    Place { host, file, greeting }
});

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// The file is anything.
    File(&'a [u8]),
    /// It is a good one, in which some bytes were changed.
    Changed(Vec<Step<'a>>, Vec<(u16, u8)>),
    /// It is a good one.
    Good(Vec<Step<'a>>),
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Put(Name, &'a [u8]),
    Long(Name, u16),
    Forget(Name),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Name {
    Cpu(u8),
    Load(u8),
    Text(u8),
    Chosen(bool),
}

impl Name {
    fn kind_and_name(self) -> (Kind, String) {
        // That of the container among them.
        let id = |number: u8| match number % 4 {
            0 => "pid:4026532200@300000".into(),
            other => other.to_string(),
        };
        match self {
            Name::Cpu(number) => (Kind::Cpu, id(number)),
            Name::Load(number) => (Kind::Load, id(number)),
            Name::Text(number) => (Kind::Text, number.to_string()),
            Name::Chosen(config) => (Kind::Chosen, if config { "config" } else { "off" }.into()),
        }
    }
}

fn write(ledger: &Ledger, steps: &[Step<'_>]) {
    for step in steps {
        let (name, body) = match step {
            Step::Put(name, body) => (name, body.to_vec()),
            Step::Long(name, length) => (name, vec![b'7'; usize::from(*length)]),
            Step::Forget(name) => {
                let (kind, name) = name.kind_and_name();
                ledger.forget(kind, &name).expect("a ledger");
                continue;
            }
        };
        let (kind, name) = name.kind_and_name();
        ledger.put(kind, &name, &body).expect("a ledger");
    }
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    records
}

fuzz_target!(|input: Input<'_>| {
    let Place { host, file, greeting } = &*PLACE;
    match &input {
        Input::File(bytes) => std::fs::write(file, bytes).expect("a file"),
        Input::Changed(steps, changes) => {
            let _ = std::fs::remove_file(file);
            let ledger = Ledger::begin(file, BOOT, greeting).expect("a ledger");
            write(&ledger, steps);
            let opened = std::fs::File::options().write(true).open(file).expect("a file");
            for (place, byte) in changes {
                opened.write_all_at(&[*byte], (*place).into()).expect("a file");
            }
        }
        Input::Good(steps) => {
            let _ = std::fs::remove_file(file);
            write(&Ledger::begin(file, BOOT, greeting).expect("a ledger"), steps);
        }
    }
    let found = read(file, BOOT);
    assert!(found.is_ok() || !matches!(input, Input::Good(_)));
    // It is the same to whoever goes on with it.
    if let Ok(found) = &found {
        let opened = std::fs::File::options().read(true).write(true).open(file).expect("a file");
        let (_, records) = Ledger::open(opened.into()).expect("what can be read");
        assert_eq!(sorted(records), sorted(found.clone()));
        assert_eq!(sorted(read(file, BOOT).expect("what can be read")), sorted(found.clone()));
    }
    let ledger = Ledger::begin(file, BOOT, greeting).expect("a ledger");
    let (ledger, records) = Ledger::open(ledger.into()).expect("a new one");
    let carried = |record: &Record| matches!(record.kind, Kind::Cpu | Kind::Load);
    let mut known = found.unwrap_or_default();
    known.retain(carried);
    assert_eq!(sorted(records.clone()), sorted(known.clone()));
    let service = Service::new(Host::at(host.path()).expect("a host"), ViewSettings::default())
        .with_ledger(Arc::new(ledger));
    service.restore_records(records);
    for file in [ProcFile::Stat, ProcFile::Uptime, ProcFile::Loadavg] {
        let text = service.text(INIT, File::Proc(file)).expect("a text");
        assert!(text.is_ascii() && text.ends_with(b"\n"));
    }
    assert_eq!(service.metrics().panics.get(), 0);
});
