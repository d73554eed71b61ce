//! The service against a model of procfs: any sequence of opens, reads and closes, while limits change, files
//! break, containers vanish and come back, clocks jump, and other processes take over the connection.
#![no_main]

use std::{rc::Rc, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use cgview_core::tree::{Dir, Entry, File, ProcFile};
use cgview_fuse::{
    Service,
    handles::slice,
    service::Caller,
    settings::{OnError, ViewSettings},
};
use cgview_fuzz::container::{self, APP, INIT, MEMBER};
use cgview_host::Host;
use cgview_testkit::{FAKE_HOST_PID, FakeHost};
use libfuzzer_sys::fuzz_target;
use rustix::io::Errno;

#[derive(Arbitrary, Debug)]
enum Step {
    Open {
        file: u8,
        root: bool,
    },
    Read {
        which: u8,
        who: Who,
        offset: u16,
        size: u16,
    },
    Close {
        which: u8,
    },
    /// Of a handle that was never given out.
    ReadUnknown {
        handle: u64,
        who: Who,
        offset: u16,
    },
    Lookup {
        who: Who,
        dir: u64,
        name: Name,
    },
    List {
        who: Who,
        dir: u64,
    },
    Access {
        entry: u64,
        root: bool,
        mask: u8,
    },
    Limit(Option<u16>),
    Usage(u16),
    Work(u16),
    /// A file holds something else.
    Break {
        file: u8,
        text: Vec<u8>,
    },
    Mend,
    Vanish,
    Return,
    Jump(u32),
    OnError(u8),
    /// The state goes on, the handles do not.
    TakeOver,
    Toggle,
    Sweep,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Who {
    Init,
    Member,
    Host,
    Nobody,
    Unknown(u32),
}

#[derive(Arbitrary, Debug)]
enum Name {
    Child(u8),
    Cpu(u16),
    Bytes(Vec<u8>),
}

impl Who {
    fn tid(self) -> u32 {
        match self {
            Who::Init => INIT,
            Who::Member => MEMBER,
            Who::Host => FAKE_HOST_PID,
            Who::Nobody => 0,
            Who::Unknown(tid) => 1000 + tid % 1000,
        }
    }

    fn is_member(self) -> bool {
        matches!(self, Who::Init | Who::Member)
    }
}

const FILES: [ProcFile; 5] =
    [ProcFile::Meminfo, ProcFile::Stat, ProcFile::Uptime, ProcFile::Loadavg, ProcFile::Slabinfo];

/// Those whose breaking matters to `meminfo`.
const INPUTS: [&str; 6] =
    ["memory.max", "memory.current", "memory.stat", "memory.high", "memory.low", "cpu.max"];

thread_local! {
    /// Made once, since it has many files, and removed at the end.
    static FAKE: Rc<FakeHost> = Rc::new(container::host());
}

/// An open file as procfs has it.
struct Open {
    handle: u64,
    file: ProcFile,
    text: Option<Vec<u8>>,
}

struct Model {
    fake: Rc<FakeHost>,
    service: Service,
    /// Whether descriptors of files are kept. Those of removed files go on saying what they said, which those
    /// of procfs and cgroupfs do not; so nothing is removed then.
    keeps: bool,
    settings: ViewSettings,
    open: Vec<Open>,
    /// MiB.
    limit: Option<u16>,
    broken: bool,
    there: bool,
    on: bool,
    /// Microseconds.
    cpu: u64,
    /// Seconds.
    uptime: u64,
    /// The user and system time that a reader saw.
    seen: (u64, u64),
}

fuzz_target!(|input: &[u8]| {
    let mut u = Unstructured::new(input);
    let mut model = Model::new(u.arbitrary().unwrap_or_default());
    // Each step costs some system calls.
    for _ in 0..100 {
        match u.arbitrary() {
            Ok(step) if !u.is_empty() => model.step(step),
            _ => break,
        }
    }
});

fn service(fake: &FakeHost, keeps: bool, settings: ViewSettings) -> Service {
    let host = Host::at(fake.path()).expect("a host");
    Service::new(host.keeping(if keeps { 100 } else { 0 }), settings)
}

impl Model {
    fn new(keeps: bool) -> Model {
        let fake = FAKE.with(Rc::clone);
        // What the last one left.
        if !fake.path().join("proc/200").exists() {
            APP.make_processes(&fake);
        }
        APP.make_cgroup(&fake);
        fake.file("/proc/uptime", "3600.00 7000.00\n");
        let settings = ViewSettings { freshness: Duration::ZERO, ..ViewSettings::default() };
        Model {
            service: service(&fake, keeps, settings),
            fake,
            keeps,
            settings,
            open: Vec::new(),
            limit: Some(64),
            broken: false,
            there: true,
            on: true,
            cpu: 3_000_000,
            uptime: 3600,
            seen: (0, 0),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open { file, root } => {
                let file = FILES[usize::from(file) % FILES.len()];
                let caller = Caller { tid: INIT, uid: if root { 0 } else { 1000 } };
                match self.service.open(caller, File::Proc(file), false) {
                    Ok(handle) => self.open.push(Open { handle, file, text: None }),
                    Err(errno) => {
                        assert!(file == ProcFile::Slabinfo && !root && errno == Errno::ACCESS);
                    }
                }
                // Writing is for triggers.
                assert_eq!(self.service.open(caller, File::Proc(file), true), Err(Errno::ACCESS));
            }
            Step::Read { which, who, offset, size } if !self.open.is_empty() => {
                let which = usize::from(which) % self.open.len();
                let (handle, file) = (self.open[which].handle, self.open[which].file);
                let held = self.open[which].text.clone().filter(|_| offset > 0);
                let Some(text) = self.read(who, file, handle, offset, held.as_deref()) else {
                    return;
                };
                let part = text.iter().skip(offset.into()).take(size.into());
                assert!(part.eq(slice(&text, offset.into(), size.into())));
                self.open[which].text = Some(text);
            }
            Step::Close { which } if !self.open.is_empty() => {
                let open = self.open.swap_remove(usize::from(which) % self.open.len());
                self.service.release(open.handle);
            }
            Step::ReadUnknown { handle, who, offset } => {
                // Numbers count up from the time.
                let handle = handle % (1 << 50);
                self.read(who, ProcFile::Meminfo, handle, offset, None);
                self.service.release(handle);
            }
            Step::Lookup { who, dir, name } => self.lookup(who, dir, name),
            Step::List { who, dir } => {
                let Some(Entry::Dir(dir)) = Entry::from_id(dir) else { return };
                let caller = Caller { tid: who.tid(), uid: 0 };
                for entry in self.service.list_for(caller, dir).unwrap_or_default() {
                    let name = entry.name();
                    assert_eq!(entry.parent(), dir);
                    assert_eq!(self.service.lookup(caller, dir, name.as_bytes()), Ok(entry));
                }
            }
            Step::Access { entry, root, mask } => {
                let Some(entry) = Entry::from_id(entry) else { return };
                let caller = Caller { tid: INIT, uid: if root { 0 } else { 1000 } };
                let has = |bit: u8| mask & bit != 0;
                let allowed = self.service.access(caller, entry, has(4), has(2), has(1));
                assert!(!(has(2) && allowed.is_ok()), "nobody writes");
            }
            Step::Limit(limit) if self.there => {
                self.limit = limit.map(|limit| limit % 2048);
                let text =
                    self.limit.map_or("max".into(), |mib| (u64::from(mib) << 20).to_string());
                self.fake.file("/sys/fs/cgroup/app/memory.max", &format!("{text}\n"));
                self.settle();
            }
            Step::Usage(pages) if self.there && !self.broken => {
                let bytes = u64::from(pages) * 4096;
                self.fake.file("/sys/fs/cgroup/app/memory.current", &format!("{bytes}\n"));
            }
            Step::Work(ms) if self.there && !self.broken => {
                self.cpu += u64::from(ms) * 1000;
                self.write_cpu();
            }
            Step::Break { file, text } if self.there => {
                let name = INPUTS[usize::from(file) % INPUTS.len()];
                let path = self.fake.path().join("sys/fs/cgroup/app").join(name);
                std::fs::write(path, text).expect("a file");
                self.broken = true;
            }
            Step::Mend if self.there => self.mend(),
            Step::Vanish if self.there && !self.keeps => {
                self.fake.remove("/sys/fs/cgroup/app").remove("/proc/200").remove("/proc/201");
                self.there = false;
            }
            Step::Return if !self.there => {
                APP.make_processes(&self.fake);
                APP.make_cgroup(&self.fake);
                (self.there, self.broken) = (true, false);
                (self.limit, self.cpu, self.seen) = (Some(64), 3_000_000, (0, 0));
            }
            Step::Jump(seconds) => {
                self.uptime = u64::from(seconds);
                self.fake.file("/proc/uptime", &format!("{seconds}.00 1.00\n"));
            }
            Step::OnError(policy) => {
                let policies = [OnError::Stale, OnError::Fail, OnError::Host];
                self.settings.on_error = policies[usize::from(policy) % policies.len()];
                self.service.set_settings(self.settings);
            }
            Step::TakeOver => {
                let states = self.service.save();
                self.service = service(&self.fake, self.keeps, self.settings);
                self.service.restore(states);
                self.on = true;
                self.open.iter_mut().for_each(|open| open.text = None);
            }
            Step::Toggle => self.on = self.service.toggle(),
            Step::Sweep => {
                self.service.sweep();
                let read = self.open.iter().filter(|open| open.text.is_some()).count();
                assert_eq!(self.service.status().handles.handles, read);
            }
            _ => {}
        }
        assert_eq!(self.service.metrics().panics.get(), 0);
    }

    /// Reads, and returns the text that this read made, if it did.
    fn read(
        &mut self,
        who: Who,
        file: ProcFile,
        handle: u64,
        offset: u16,
        held: Option<&[u8]>,
    ) -> Option<Vec<u8>> {
        let caller = Caller { tid: who.tid(), uid: 0 };
        let told = self.service.read(caller, File::Proc(file), handle, offset.into());
        if let Some(held) = held {
            assert_eq!(&*told.expect("it was read before"), held, "another text than before");
            return None;
        }
        let text = match told {
            Ok(text) => text.to_vec(),
            Err(errno) => {
                self.check_error(who, errno);
                return None;
            }
        };
        let of_host = match who {
            Who::Host => true,
            Who::Init | Who::Member if self.there => !self.on,
            // Nobody that is known.
            _ => {
                assert_eq!(self.settings.on_error, OnError::Host);
                true
            }
        };
        if of_host {
            let path =
                self.fake.path().join(format!("proc/{}", Entry::File(File::Proc(file)).name()));
            assert_eq!(text, std::fs::read(path).expect("a file"));
        } else if !self.broken {
            self.check(file, &text);
        }
        Some(text)
    }

    fn check_error(&self, who: Who, errno: Errno) {
        match who {
            Who::Nobody => assert_eq!(errno, Errno::IO),
            Who::Unknown(_) => assert_eq!(errno, Errno::SRCH),
            Who::Host => panic!("{errno} for the host"),
            Who::Init | Who::Member if !self.there => {
                assert!(matches!(errno, Errno::SRCH | Errno::NODEV), "{errno}");
            }
            Who::Init | Who::Member => assert!(self.broken && errno == Errno::IO, "{errno}"),
        }
    }

    /// A text of the container, all of whose files are as they should be.
    fn check(&mut self, file: ProcFile, text: &[u8]) {
        let text = std::str::from_utf8(text).expect("text");
        let number = |name: &str, field: usize| -> u64 {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
            let word = line.and_then(|line| line.split_whitespace().nth(field));
            word.and_then(|word| word.parse().ok()).expect("a number")
        };
        match file {
            ProcFile::Meminfo => {
                let host = 1_048_576;
                let limit = self.limit.map_or(host, |mib| (u64::from(mib) << 10).min(host));
                // A limit of nothing is shown as one page.
                let limit = limit.max(4);
                assert_eq!(number("MemTotal:", 1), limit);
                assert!(number("MemFree:", 1) <= limit && number("MemAvailable:", 1) <= limit);
            }
            ProcFile::Stat => {
                let now = (number("cpu", 1), number("cpu", 3));
                assert!(now.0 >= self.seen.0 && now.1 >= self.seen.1, "{:?}: {now:?}", self.seen);
                self.seen = now;
            }
            ProcFile::Uptime => {
                // It started 3000 seconds after the boot.
                let seconds: f64 =
                    text.split(' ').next().expect("a word").parse().expect("seconds");
                let age = self.uptime.saturating_sub(3000);
                assert!(seconds as u64 >= age, "{seconds} of {age}");
            }
            ProcFile::Loadavg => assert_eq!(text.split(' ').count(), 5),
            _ => assert!(!text.contains("dentry")),
        }
    }

    fn lookup(&self, who: Who, dir: u64, name: Name) {
        let Some(Entry::Dir(dir)) = Entry::from_id(dir) else { return };
        let name = match name {
            Name::Child(which) => {
                let children = dir.fixed_children();
                let Some(child) = children.get(usize::from(which)) else { return };
                child.name().into_bytes()
            }
            Name::Cpu(number) => format!("cpu{number}").into_bytes(),
            Name::Bytes(bytes) => bytes,
        };
        let caller = Caller { tid: who.tid(), uid: 0 };
        match self.service.lookup(caller, dir, &name) {
            Ok(entry) => {
                assert_eq!((entry.parent(), entry.name().into_bytes()), (dir, name));
                assert_eq!(Entry::from_id(entry.id()), Some(entry));
                if who.is_member() && self.on && self.there && !self.broken && dir == Dir::Cpu {
                    // It has one CPU.
                    assert_ne!(entry, Entry::Dir(Dir::CpuN(1)));
                }
            }
            Err(errno) => assert_eq!(errno, Errno::NOENT),
        }
    }

    fn mend(&mut self) {
        APP.make_cgroup(&self.fake);
        self.limit = Some(64);
        self.broken = false;
        self.write_cpu();
    }

    /// What was broken may be good again.
    fn settle(&mut self) {
        if self.broken {
            let limit = self.limit;
            self.mend();
            self.limit = limit;
            let text = limit.map_or("max".into(), |mib| (u64::from(mib) << 20).to_string());
            self.fake.file("/sys/fs/cgroup/app/memory.max", &format!("{text}\n"));
        }
    }

    fn write_cpu(&self) {
        let (user, system) = (self.cpu / 3 * 2, self.cpu / 3);
        let total = user + system;
        self.fake.file(
            "/sys/fs/cgroup/app/cpu.stat",
            &format!("usage_usec {total}\nuser_usec {user}\nsystem_usec {system}\n"),
        );
    }
}
