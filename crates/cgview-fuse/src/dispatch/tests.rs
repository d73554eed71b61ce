//! What becomes of requests that panic, hang, or come in floods: on a host made by hand, without FUSE.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, channel},
};

use cgview_core::tree::{File, ProcFile};
use cgview_host::Host;
use cgview_testkit::{FakeContainer, FakeHost};
use rustix::fs::Mode;

use super::*;
use crate::settings::{OnError, ViewSettings};

const MEMINFO: File = File::Proc(ProcFile::Meminfo);
const UPTIME: File = File::Proc(ProcFile::Uptime);

/// Two containers of two processes each.
fn host() -> FakeHost {
    FakeHost::with_containers(&[
        FakeContainer { name: "a", pids: [200, 201], memory: 64 },
        FakeContainer { name: "b", pids: [300, 301], memory: 32 },
    ])
}

struct Bench {
    fake: FakeHost,
    service: Arc<Service>,
    dispatcher: Arc<Dispatcher>,
}

impl Bench {
    fn new(requests: usize) -> Bench {
        let fake = host();
        let settings = ViewSettings {
            freshness: Duration::ZERO,
            request_deadline: Duration::from_millis(200),
            ..ViewSettings::default()
        };
        // No descriptors are kept: those would be of the files that were there.
        let service = Arc::new(Service::new(Host::at(fake.path()).unwrap().keeping(0), settings));
        let dispatcher = Dispatcher::start(Arc::clone(&service), requests).unwrap().into();
        Bench { fake, service, dispatcher }
    }

    /// Sends a read by a thread of its own, as a connection has them.
    fn ask(&self, tid: u32, file: File) -> Receiver<Result<Told, Errno>> {
        let (tell, told) = channel();
        let dispatcher = Arc::clone(&self.dispatcher);
        thread::spawn(move || {
            let ask = Ask::Read { file, handle: 1, offset: 0 };
            let reply = Box::new(move |told| tell.send(told).unwrap());
            dispatcher.submit(0, Caller { tid, uid: 0 }, ask, reply);
        });
        told
    }

    fn text(&self, tid: u32, file: File) -> Result<String, Errno> {
        match self.ask(tid, file).recv_timeout(Duration::from_secs(60)).unwrap()? {
            Told::Text(text) => Ok(String::from_utf8(text.to_vec()).unwrap()),
            told => panic!("{told:?}"),
        }
    }

    /// What each of these files says to each container. Callers are known from then on.
    fn good(&self) -> String {
        for tid in [200, 201, 300, 301] {
            for _ in 0..3 {
                self.text(tid, MEMINFO).unwrap();
                self.text(tid, UPTIME).unwrap();
            }
        }
        self.text(200, MEMINFO).unwrap()
    }

    fn counted(&self, cause: &str, outcome: &str) -> bool {
        let name = format!("cgview_errors_total{{cause=\"{cause}\",outcome=\"{outcome}\"}}");
        self.service.metrics().encode().lines().any(|line| line.starts_with(&name))
    }

    fn hang(&self, path: &str) -> Hung {
        let path = self.fake.path().join(path.trim_start_matches('/'));
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        Hung(path)
    }
}

/// A file whose opening does not come back until this is dropped.
struct Hung(PathBuf);

impl Drop for Hung {
    fn drop(&mut self) {
        std::fs::rename(&self.0, self.0.with_extension("hung")).unwrap();
        let _ = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.0.with_extension("hung"))
            .map(|_| ());
    }
}

#[test]
fn a_panic_is_counted_and_answered_with_what_was_before() {
    let bench = Bench::new(2);
    let before = bench.good();
    // A panic may take long to be printed.
    let patient = ViewSettings {
        freshness: Duration::ZERO,
        request_deadline: Duration::from_secs(60),
        ..ViewSettings::default()
    };
    bench.service.set_settings(patient);
    *bench.service.fault.lock() = Some(|file| assert!(file != MEMINFO, "as a test"));
    for _ in 0..10 {
        assert_eq!(bench.text(200, MEMINFO).as_ref(), Ok(&before));
        assert!(bench.text(200, UPTIME).is_ok());
    }
    assert_eq!(bench.service.metrics().panics.get(), 10);
    assert!(bench.counted("panic", "stale"));
    bench.service.set_settings(ViewSettings { on_error: OnError::Fail, ..patient });
    assert_eq!(bench.text(200, MEMINFO), Err(Errno::IO));
    *bench.service.fault.lock() = None;
    assert_eq!(bench.text(200, MEMINFO), Ok(before));
    assert_eq!(bench.dispatcher.waiting(), (0, 0));
}

#[test]
fn what_hangs_is_told_as_before_and_holds_one_thread() {
    for path in [
        "/sys/fs/cgroup/a/memory.stat",
        "/sys/fs/cgroup/a/memory.current",
        "/proc/meminfo",
        "/proc/200/cgroup",
    ] {
        let bench = Bench::new(4);
        let before = bench.good();
        let hung = bench.hang(path);
        for _ in 0..20 {
            let asked = Instant::now();
            let text = bench.text(200, MEMINFO);
            assert!(asked.elapsed() < Duration::from_secs(30), "{path}");
            assert!(text == Ok(before.clone()) || path == "/proc/200/cgroup", "{path}: {text:?}");
        }
        // The others know nothing of it.
        assert!(bench.text(300, MEMINFO).is_ok(), "{path}");
        assert!(bench.text(201, UPTIME).is_ok(), "{path}");
        let (_, overdue) = bench.dispatcher.waiting();
        assert!((1..=3).contains(&overdue), "{path}: {overdue}");
        assert!(bench.counted("late", "stale") || bench.counted("late", "fail"), "{path}");
        drop(hung);
        let end = Instant::now() + Duration::from_secs(60);
        while bench.dispatcher.waiting() != (0, 0) {
            assert!(Instant::now() < end, "{path} hangs on");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Asks, and as soon as there is an answer again, while that is still being told. Counts who is answered before the
/// thread that brings the request is back.
fn ask_again(dispatcher: &Arc<Dispatcher>, times: usize, at_once: &Arc<AtomicUsize>) {
    let Some(left) = times.checked_sub(1) else { return };
    let answered = Arc::new(AtomicBool::new(false));
    let reply = {
        let (dispatcher, at_once) = (Arc::clone(dispatcher), Arc::clone(at_once));
        let answered = Arc::clone(&answered);
        move |told: Result<Told, Errno>| {
            told.unwrap();
            answered.store(true, Ordering::Relaxed);
            ask_again(&dispatcher, left, &at_once);
        }
    };
    let ask = Ask::Read { file: MEMINFO, handle: 1, offset: 0 };
    dispatcher.submit(0, Caller { tid: 200, uid: 0 }, ask, Box::new(reply));
    at_once.fetch_add(usize::from(answered.load(Ordering::Relaxed)), Ordering::Relaxed);
}

#[test]
fn who_asks_one_thing_after_the_other_never_waits() {
    let bench = Bench::new(4);
    bench.good();
    let at_once = Arc::default();
    ask_again(&bench.dispatcher, 20, &at_once);
    assert_eq!(at_once.load(Ordering::Relaxed), 20);
    assert_eq!(bench.dispatcher.waiting(), (0, 0));
    // The threads that asked before may not be back yet.
    let end = Instant::now() + Duration::from_secs(60);
    while !bench.dispatcher.is_answered() {
        assert!(Instant::now() < end, "somebody waits for an answer");
        thread::yield_now();
    }
}

/// A request in the queue of a connection, and where its answer goes.
type Queued = (u32, std::sync::mpsc::Sender<()>);

// By counting and not by the clock: how many of the flood's requests are answered between the moment when
// another one's request is put into the connection's queue, and its answer. First come first served would
// be all that wait.
#[test]
fn a_flood_is_overtaken() {
    const FLOOD: usize = 64;
    const REQUESTS: usize = 4;
    let bench = Bench::new(REQUESTS);
    bench.good();
    let (ask, asked) = channel::<Queued>();
    let asked = Mutex::new(asked);
    let (answered, done) = (std::sync::atomic::AtomicUsize::new(0), AtomicBool::new(false));
    let overtaken = thread::scope(|scope| {
        // The connection: one queue, and threads that take from it.
        for _ in 0..threads(REQUESTS) {
            scope.spawn(|| {
                loop {
                    let Ok((tid, tell)) = asked.lock().recv() else { return };
                    let caller = Caller { tid, uid: 0 };
                    let ask = Ask::Read { file: MEMINFO, handle: u64::from(tid), offset: 0 };
                    let reply = Box::new(move |told: Result<Told, Errno>| {
                        told.unwrap();
                        let _ = tell.send(());
                    });
                    bench.dispatcher.submit(0, caller, ask, reply);
                }
            });
        }
        for reader in 0..FLOOD {
            let ask = ask.clone();
            let (answered, done) = (&answered, &done);
            scope.spawn(move || {
                let (tell, told) = channel();
                let tid = if reader % 2 == 0 { 200 } else { 201 };
                while !done.load(Ordering::Relaxed) {
                    ask.send((tid, tell.clone())).unwrap();
                    told.recv().unwrap();
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let (tell, told) = channel();
        let mut overtaken = Vec::new();
        for _ in 0..200 {
            thread::sleep(Duration::from_millis(1));
            let before = answered.load(Ordering::Relaxed);
            ask.send((300, tell.clone())).unwrap();
            told.recv().unwrap();
            overtaken.push(answered.load(Ordering::Relaxed) - before);
        }
        done.store(true, Ordering::Relaxed);
        drop(ask);
        overtaken
    });
    let mut counts = overtaken;
    counts.sort_unstable();
    let median = counts[counts.len() / 2];
    assert!(median < FLOOD / 4, "{counts:?}");
    assert!(answered.into_inner() > FLOOD, "that is no flood");
}
