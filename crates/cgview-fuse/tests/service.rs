//! What readers are told, without FUSE: a host made by hand, and requests as the kernel would send them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::cast_possible_truncation, reason = "offsets here are small")]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cgview_core::tree::{Dir, Entry, File, ProcFile};
use cgview_fuse::{
    Service,
    ledger::Ledger,
    service::{Caller, Error},
    settings::{OnError, ViewSettings},
};
use cgview_host::Host;
use cgview_testkit::{
    FAKE_HOST_PID as HOST, FAKE_MEMINFO as HOST_MEMINFO, FakeContainer, FakeHost,
};
use proptest::prelude::*;
use rustix::io::Errno;

const MEMINFO: File = File::Proc(ProcFile::Meminfo);
const STAT: File = File::Proc(ProcFile::Stat);
const SLABINFO: File = File::Proc(ProcFile::Slabinfo);

/// The init of a container of 64 MiB and one CPU of two, and another thread in it.
const INIT: u32 = 200;
const MEMBER: u32 = 201;

/// A unified host with a container.
fn host() -> FakeHost {
    let app = FakeContainer { name: "app", pids: [INIT, MEMBER], memory: 64 };
    FakeHost::with_containers(&[app])
}

fn service(fake: &FakeHost, settings: ViewSettings) -> Service {
    Service::new(Host::at(fake.path()).unwrap(), settings)
}

fn always_fresh() -> ViewSettings {
    ViewSettings { freshness: Duration::ZERO, ..ViewSettings::default() }
}

fn text(service: &Service, tid: u32, file: File) -> String {
    String::from_utf8(service.text(tid, file).unwrap()).unwrap()
}

fn user(tid: u32) -> Caller {
    Caller { tid, uid: 1000 }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_container_is_told_its_limit_and_the_host_its_own_bytes() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let seen = text(&service, MEMBER, MEMINFO);
    assert_eq!(field(&seen, "MemTotal:"), 65_536);
    assert_eq!(field(&seen, "MemFree:"), 49_152);
    assert_eq!(text(&service, HOST, MEMINFO), HOST_MEMINFO);
    assert!(text(&service, HOST, SLABINFO).contains("dentry"));
    assert!(!text(&service, INIT, SLABINFO).contains("dentry"));
}

#[test]
fn an_explanation_is_of_the_very_text() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let explained = service.explain(INIT, MEMINFO).unwrap();
    assert_eq!(explained.text, service.text(INIT, MEMINFO).unwrap());
    assert_eq!(&*explained.host, HOST_MEMINFO.as_bytes());
    let why = explained.explanation.within(0..20).next().unwrap();
    let words = why.describe(&explained.snapshot).to_string();
    assert!(words.starts_with("memory.max of /app"), "{words}");
    assert_eq!(service.explain(HOST, MEMINFO).unwrap().text, HOST_MEMINFO.as_bytes());
}

// Law 1.
#[test]
fn whoever_cannot_be_told_gets_an_error_and_not_the_host() {
    let fake = host();
    let service = service(&fake, always_fresh());
    assert!(matches!(service.text(0, MEMINFO), Err(Error::NoCaller)));
    let handle = service.open(user(0), MEMINFO, false).unwrap();
    assert_eq!(service.read(user(0), MEMINFO, handle, 0), Err(Errno::IO));
    assert_eq!(service.read(user(999), MEMINFO, handle, 0), Err(Errno::SRCH));
    service.set_settings(ViewSettings { on_error: OnError::Host, ..always_fresh() });
    let read = service.read(user(0), MEMINFO, handle, 0).unwrap();
    assert_eq!(&*read, HOST_MEMINFO.as_bytes());
    let counted = service.metrics().encode();
    for line in [
        "cgview_errors_total{cause=\"no-caller\",outcome=\"fail\"} 2",
        "cgview_errors_total{cause=\"no-caller\",outcome=\"host\"} 1",
        "cgview_errors_total{cause=\"gone\",outcome=\"fail\"} 1",
    ] {
        assert!(counted.lines().any(|counted| counted == line), "{line} in {counted}");
    }
}

// Law 1.
#[test]
fn what_the_kernel_does_not_tell_any_more_is_told_as_before() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let before = text(&service, INIT, MEMINFO);
    let settings = |on_error| ViewSettings { on_error, ..always_fresh() };
    for (path, broken) in
        [("/sys/fs/cgroup/app/memory.current", "many\n"), ("/sys/fs/cgroup/app/memory.max", "x")]
    {
        fake.file(path, broken);
        assert_eq!(text(&service, INIT, MEMINFO), before);
        service.set_settings(settings(OnError::Fail));
        assert_eq!(service.text(INIT, MEMINFO).unwrap_err().errno(), Errno::IO);
        service.set_settings(settings(OnError::Host));
        assert_eq!(text(&service, INIT, MEMINFO), HOST_MEMINFO);
        service.set_settings(settings(OnError::Stale));
        // A container that was never read has nothing to be told as before.
        let fresh = anew(&fake);
        assert_eq!(fresh.text(INIT, MEMINFO).unwrap_err().errno(), Errno::IO);
        fake.file("/sys/fs/cgroup/app/memory.current", "16777216\n");
    }
}

/// A service that knows nothing yet.
fn anew(fake: &FakeHost) -> Service {
    service(fake, always_fresh())
}

#[test]
fn a_host_file_that_is_gone_is_told_as_before() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let before = text(&service, INIT, SLABINFO);
    fake.remove("/proc/slabinfo");
    assert_eq!(text(&service, INIT, SLABINFO), before);
    service.set_settings(ViewSettings { on_error: OnError::Fail, ..always_fresh() });
    assert_eq!(service.text(INIT, SLABINFO).unwrap_err().errno(), Errno::NOENT);
}

// Law 8.
#[test]
fn within_the_freshness_nothing_is_read_again() {
    let fake = host();
    let settings = ViewSettings { freshness: Duration::from_secs(3600), ..always_fresh() };
    let service = service(&fake, settings);
    let before = text(&service, INIT, MEMINFO);
    fake.file("/sys/fs/cgroup/app/memory.current", "33554432\n");
    fake.file("/proc/meminfo", "MemTotal: 7 kB\n");
    assert_eq!(text(&service, MEMBER, MEMINFO), before);
    assert_eq!(text(&service, HOST, MEMINFO), HOST_MEMINFO);
    service.set_settings(always_fresh());
    assert_eq!(text(&service, HOST, MEMINFO), "MemTotal: 7 kB\n");
}

// Law 6.
#[test]
fn reads_are_those_of_procfs() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let open = || service.open(user(INIT), MEMINFO, false).unwrap();
    let read = |handle, offset| service.read(user(INIT), MEMINFO, handle, offset).unwrap();

    // At any offset of a fresh descriptor, and past the end.
    let whole = text(&service, INIT, MEMINFO);
    assert_eq!(&*read(open(), 10), whole.as_bytes());
    assert_eq!(&*read(open(), 1 << 40), whole.as_bytes());

    // The text stays the same until it is rewound, whatever happens meanwhile.
    let handle = open();
    let first = read(handle, 0);
    fake.file("/sys/fs/cgroup/app/memory.current", "33554432\n");
    assert!(Arc::ptr_eq(&read(handle, 7), &first));
    let second = read(handle, 0);
    assert_eq!(field(&String::from_utf8_lossy(&second), "MemFree:"), 32_768);
    assert!(Arc::ptr_eq(&read(handle, 7), &second));

    // One that another process opened is taken up.
    service.release(handle);
    assert_eq!(&*read(handle, 7), &*second);
}

// Law 6.
#[test]
fn who_reads_at_the_start_is_who_is_told() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let handle = service.open(user(INIT), MEMINFO, false).unwrap();
    let read = |tid, offset| service.read(user(tid), MEMINFO, handle, offset).unwrap();
    assert_eq!(field(&String::from_utf8_lossy(&read(INIT, 0)), "MemTotal:"), 65_536);
    // A descriptor that was passed on.
    assert_eq!(&*read(HOST, 0), HOST_MEMINFO.as_bytes());
    assert_eq!(&*read(INIT, 5), HOST_MEMINFO.as_bytes());
}

// Law 6.
#[test]
fn concurrent_readers_of_one_descriptor_get_whole_texts() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let longer = format!("{HOST_MEMINFO}Mlocked:          1234 kB\nHardwareCorrupted: 0 kB\n");
    let replace = |text: &str| {
        let next = fake.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, fake.path().join("proc/meminfo")).unwrap();
    };
    let whole = [HOST_MEMINFO, &longer].map(|meminfo| {
        replace(meminfo);
        text(&service, INIT, MEMINFO)
    });
    assert_ne!(whole[0].len(), whole[1].len());

    let handle = service.open(user(INIT), MEMINFO, false).unwrap();
    let end = Instant::now() + Duration::from_millis(300);
    let seen = thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = [0, 0];
                    while Instant::now() < end {
                        let text = service.read(user(INIT), MEMINFO, handle, 0).unwrap();
                        let which = whole.iter().position(|whole| whole.as_bytes() == &*text);
                        seen[which.expect("a whole text")] += 1;
                    }
                    seen
                })
            })
            .collect();
        while Instant::now() < end {
            replace(HOST_MEMINFO);
            replace(&longer);
        }
        let seen = readers.into_iter().map(|reader| reader.join().unwrap());
        seen.fold([0, 0], |sum, seen| [sum[0] + seen[0], sum[1] + seen[1]])
    });
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

/// What a process does with its descriptors.
#[derive(Clone, Debug)]
enum Step {
    Open,
    /// At the position of a descriptor, which moves on.
    Read {
        which: usize,
        size: usize,
    },
    Pread {
        which: usize,
        offset: u64,
        size: usize,
    },
    Rewind {
        which: usize,
    },
    Close {
        which: usize,
    },
    /// The container's memory changes.
    Change {
        usage: u32,
    },
    /// Another process takes over the connection: it knows no handles.
    TakeOver,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..4_usize;
    prop_oneof![
        2 => Just(Step::Open),
        6 => (which.clone(), 0..60_usize).prop_map(|(which, size)| Step::Read { which, size }),
        4 => (which.clone(), 0..120_u64, 0..60_usize)
            .prop_map(|(which, offset, size)| Step::Pread { which, offset, size }),
        2 => which.clone().prop_map(|which| Step::Rewind { which }),
        1 => which.prop_map(|which| Step::Close { which }),
        4 => (0..67_108_864_u32).prop_map(|usage| Step::Change { usage }),
        1 => Just(Step::TakeOver),
    ]
}

/// A descriptor as procfs has it: a position, and the text from the last read at its start.
#[derive(Debug, Default)]
struct Model {
    handle: u64,
    position: u64,
    text: Option<Vec<u8>>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    // Law 6.
    #[test]
    fn any_reads_are_slices_of_the_text_at_the_last_rewind(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let fake = host();
        let mut service = service(&fake, always_fresh());
        let mut open: Vec<Model> = Vec::new();
        let read = |service: &Service, model: &mut Model, offset: u64, size: usize| {
            // What a whole read gives now, from another descriptor.
            let now = service.text(MEMBER, MEMINFO).unwrap();
            let text = service.read(user(INIT), MEMINFO, model.handle, offset).unwrap();
            if offset == 0 || model.text.is_none() {
                model.text = Some(now);
            }
            let expected = model.text.as_ref().unwrap().iter();
            let expected: Vec<u8> =
                expected.skip(offset as usize).take(size).copied().collect();
            let got = cgview_fuse::handles::slice(&text, offset, size);
            prop_assert_eq!(got, &expected[..]);
            Ok(expected.len() as u64)
        };
        for step in steps {
            match step {
                Step::Open => open.push(Model {
                    handle: service.open(user(INIT), MEMINFO, false).unwrap(),
                    ..Model::default()
                }),
                Step::Read { which, size } => {
                    let Some(model) = open.get_mut(which) else { continue };
                    let position = model.position;
                    model.position += read(&service, model, position, size)?;
                }
                Step::Pread { which, offset, size } => {
                    let Some(model) = open.get_mut(which) else { continue };
                    read(&service, model, offset, size)?;
                }
                Step::Rewind { which } => {
                    if let Some(model) = open.get_mut(which) {
                        model.position = 0;
                    }
                }
                Step::Close { which } => {
                    if which < open.len() {
                        service.release(open.remove(which).handle);
                    }
                }
                Step::Change { usage } => {
                    fake.file("/sys/fs/cgroup/app/memory.current", &format!("{usage}\n"));
                }
                Step::TakeOver => {
                    service = anew(&fake);
                    open.iter_mut().for_each(|model| model.text = None);
                }
            }
        }
    }
}

// Law 7.
#[test]
fn lookup_and_list_succeed_for_anybody() {
    let fake = host();
    let service = service(&fake, always_fresh());
    for tid in [0, 999, HOST, INIT] {
        let meminfo = service.lookup(user(tid), Dir::Proc, b"meminfo");
        assert_eq!(meminfo, Ok(Entry::File(MEMINFO)));
        assert_eq!(service.lookup(user(tid), Dir::Cpu, b"cpu0"), Ok(Entry::Dir(Dir::CpuN(0))));
        assert!(service.list_for(user(tid), Dir::Proc).unwrap().contains(&Entry::File(MEMINFO)));
        assert_eq!(service.lookup(user(tid), Dir::Proc, b"kcore"), Err(Errno::NOENT));
        // Known names that this host does not have.
        assert_eq!(service.lookup(user(tid), Dir::Proc, b"diskstats"), Err(Errno::NOENT));
        assert_eq!(service.lookup(user(tid), Dir::Proc, b"pressure"), Err(Errno::NOENT));
    }
}

#[test]
fn which_cpus_there_are_depends_on_who_asks() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let cpu1 = Entry::Dir(Dir::CpuN(1));
    assert!(!Service::is_fixed(cpu1));
    assert!(Service::is_fixed(Entry::File(MEMINFO)) && Service::is_fixed(Entry::Dir(Dir::Cpu)));
    for (tid, has) in [(INIT, false), (HOST, true), (0, true)] {
        assert_eq!(service.lookup(user(tid), Dir::Cpu, b"cpu1").is_ok(), has, "{tid}");
        assert_eq!(service.list_for(user(tid), Dir::Cpu).unwrap().contains(&cpu1), has, "{tid}");
    }
    assert!(matches!(service.list(0, Dir::Cpu), Err(Error::NoCaller)));
    assert!(!service.list(INIT, Dir::Cpu).unwrap().contains(&cpu1));
    // Opened when the container had it.
    let Ok(Entry::Dir(topology)) = service.lookup(user(HOST), Dir::CpuN(1), b"topology") else {
        panic!("the host's CPU has a topology");
    };
    let Ok(Entry::File(core)) = service.lookup(user(HOST), topology, b"core_id") else {
        panic!("it has a core");
    };
    assert_eq!(service.read(user(INIT), core, 1, 0), Err(Errno::NODEV));
    assert_eq!(&*service.read(user(HOST), core, 1, 0).unwrap(), b"0\n");
}

// Law 9.
#[test]
fn nobody_writes_and_only_root_reads_what_is_roots() {
    let fake = host();
    let service = service(&fake, always_fresh());
    let root = Caller { tid: INIT, uid: 0 };
    assert_eq!(service.open(root, MEMINFO, true), Err(Errno::ACCESS));
    assert_eq!(service.open(user(INIT), SLABINFO, false), Err(Errno::ACCESS));
    assert!(service.open(root, SLABINFO, false).is_ok());
    let access = |caller, file, mode: &str| {
        let has = |letter| mode.contains(letter);
        service.access(caller, Entry::File(file), has('r'), has('w'), has('x'))
    };
    assert_eq!(access(root, MEMINFO, "w"), Err(Errno::ROFS));
    assert_eq!(access(root, MEMINFO, "x"), Err(Errno::ACCESS));
    assert_eq!(access(user(INIT), MEMINFO, "r"), Ok(()));
    assert_eq!(access(user(INIT), SLABINFO, "r"), Err(Errno::ACCESS));
    assert_eq!(service.write(root, MEMINFO, 1, b"x"), Err(Errno::ACCESS));
    // As chmod(2), truncate(2) and utimes(2) of procfs have it.
    let change = |caller, file, size, times| service.change(caller, file, size, times);
    assert_eq!(change(root, MEMINFO, true, true), Ok(()));
    assert_eq!(change(user(INIT), MEMINFO, true, true), Err(Errno::ACCESS));
    assert_eq!(change(user(INIT), MEMINFO, false, true), Err(Errno::PERM));
    let triggers = Service::new(Host::at(fake.path()).unwrap(), always_fresh());
    let triggers = triggers.with_triggers().unwrap();
    let pressure = File::Proc(ProcFile::PressureCpu);
    assert_eq!(triggers.change(user(INIT), pressure, true, true), Ok(()));
    assert_eq!(triggers.change(user(INIT), MEMINFO, true, true), Err(Errno::ACCESS));
}

// Law 3.
#[test]
fn counters_do_not_go_back_over_a_restart() {
    let fake = host();
    let cpu_times = |service: &Service| {
        let stat = text(service, INIT, STAT);
        let line = stat.lines().next().unwrap().to_owned();
        line.split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect::<Vec<u64>>()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cgview-fuse.ledger");
    let greeting = serde_json::from_str(r#"{"request":[1],"reply":[2]}"#).unwrap();
    let boot = || cgview_host::boot_id(fake.path());
    // As it is done when nobody is left of those who served before.
    let start = || {
        let ledger = Ledger::begin(&path, &boot(), &greeting).unwrap();
        let (ledger, records) = Ledger::open(ledger.into()).unwrap();
        let service = service(&fake, always_fresh()).with_ledger(Arc::new(ledger));
        service.restore_records(records);
        service
    };
    let first = start();
    // Much of the time so far at half a CPU, and then at one: a reader who knows only the end of it would
    // be shown more.
    fake.file("/sys/fs/cgroup/app/cpu.max", "50000 100000\n");
    let before = cpu_times(&first);
    fake.file("/sys/fs/cgroup/app/cpu.max", "100000 100000\n");
    let begun_anew = cpu_times(&anew(&fake));
    assert_ne!(before, begun_anew);
    assert_eq!(cpu_times(&start()), before);

    // What was kept and not asked for since is kept on.
    drop(start());
    assert_eq!(cpu_times(&start()), before);

    // Of another boot.
    fake.file("/proc/sys/kernel/random/boot_id", "other\n");
    assert_eq!(cpu_times(&start()), begun_anew);
}

#[test]
fn the_view_can_be_turned_off_and_on() {
    let fake = host();
    let service = service(&fake, always_fresh());
    assert!(!service.toggle());
    assert_eq!(text(&service, INIT, MEMINFO), HOST_MEMINFO);
    assert!(service.lookup(user(INIT), Dir::Cpu, b"cpu1").is_ok());
    assert!(service.toggle());
    assert_eq!(field(&text(&service, INIT, MEMINFO), "MemTotal:"), 65_536);
}

#[test]
fn a_file_may_be_the_hosts_by_choice() {
    let fake = host();
    let mut settings = always_fresh();
    settings.policy.passthrough.insert(ProcFile::Meminfo);
    let service = service(&fake, settings);
    assert_eq!(text(&service, INIT, MEMINFO), HOST_MEMINFO);
    assert!(!text(&service, INIT, STAT).contains("ctxt 99"));
}

#[test]
fn what_is_known_of_readers_is_forgotten() {
    let fake = host();
    let service = service(&fake, always_fresh());
    for _ in 0..3 {
        text(&service, INIT, MEMINFO);
    }
    let handle = service.open(user(INIT), MEMINFO, false).unwrap();
    assert_eq!(service.status().handles.handles, 0);
    service.read(user(INIT), MEMINFO, handle, 0).unwrap();
    let status = service.status();
    assert_eq!((status.containers, status.handles.handles), (1, 1));
    service.release(handle);
    assert_eq!(service.status().handles, cgview_fuse::handles::Held::default());
}

#[test]
fn a_container_holds_no_more_than_its_share() {
    let fake = host();
    let settings = ViewSettings { freshness: Duration::from_secs(3600), ..always_fresh() };
    let service = service(&fake, settings);
    let open = || service.open(user(INIT), MEMINFO, false).unwrap();
    let read = |tid, handle| service.read(user(tid), MEMINFO, handle, 0).map(drop);
    let mut handles = Vec::new();
    let error = loop {
        let handle = open();
        match read(INIT, handle) {
            Ok(()) => handles.push(handle),
            Err(errno) => break errno,
        }
        assert!(handles.len() < 10_000);
    };
    assert_eq!(error, Errno::NOMEM);
    // The others have theirs, and it has room again when it closes one.
    for _ in 0..3 {
        assert_eq!(read(HOST, open()), Ok(()));
    }
    for handle in handles {
        service.release(handle);
    }
    assert_eq!(read(INIT, open()), Ok(()));
}
