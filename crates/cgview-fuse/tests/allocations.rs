//! What is asked for again while the numbers are new takes no memory, whatever the file and the size of the host.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

use cgview_core::{
    File,
    tree::{Entry, ProcFile},
};
use cgview_fuse::{
    service::{Caller, Service},
    settings::ViewSettings,
};
use cgview_host::Host;
use cgview_testkit::{FakeHost, FakeProcess};

/// Counts what each thread takes.
struct Counting;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has none any more.
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
}

#[expect(unsafe_code, reason = "an allocator")]
// SAFETY: all is the system's, and the count takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FILES: [ProcFile; 8] = [
    ProcFile::Cpuinfo,
    ProcFile::Diskstats,
    ProcFile::Loadavg,
    ProcFile::Meminfo,
    ProcFile::PressureMemory,
    ProcFile::Stat,
    ProcFile::Swaps,
    ProcFile::Uptime,
];

const MEMBER: u32 = 100;

fn host(cpus: u32) -> FakeHost {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup");
    fake.process(&FakeProcess { pid: MEMBER, cgroup: "0::/app\n", ..FakeProcess::default() });
    for (name, text) in [
        ("memory.current", "1048576\n"),
        ("memory.max", "67108864\n"),
        ("memory.stat", "anon 8192\nfile 4096\n"),
        ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"),
        ("cpu.max", "150000 100000\n"),
        ("cpu.stat", "usage_usec 100\nuser_usec 50\nsystem_usec 50\n"),
        ("cgroup.threads", "100\n"),
        ("io.stat", "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"),
    ] {
        fake.file(&format!("/sys/fs/cgroup/app/{name}"), text);
    }
    let times = |name: String| format!("{name} 10 0 20 3000 40 0 5 0 0 0\n");
    let stat: String = (0..cpus).map(|cpu| times(format!("cpu{cpu}"))).collect();
    let cpuinfo: String =
        (0..cpus).map(|cpu| format!("processor\t: {cpu}\nmodel name\t: a CPU\n\n")).collect();
    for (path, text) in [
        ("/sys/devices/system/cpu/online", format!("0-{}\n", cpus - 1)),
        ("/proc/cpuinfo", cpuinfo),
        ("/proc/stat", times("cpu ".into()) + &stat + "intr 7 1 2\nbtime 1700000000\n"),
        ("/proc/swaps", "Filename Type Size Used Priority\n".into()),
        ("/proc/diskstats", "8 0 sda 1 0 8 1 0 0 0 0 0 1 1\n".into()),
        ("/proc/uptime", "5000.00 9000.00\n".into()),
        ("/proc/loadavg", "0.10 0.20 0.30 1/200 5000\n".into()),
        ("/proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n".into()),
    ] {
        fake.file(path, &text);
    }
    fake
}

/// Opens a file, reads it to its end, and closes it. Returns how long it is.
fn read(service: &Service, file: File) -> usize {
    let caller = Caller { tid: MEMBER, uid: 0 };
    let handle = service.open(caller, file, false).unwrap();
    let text = service.read(caller, file, handle, 0).unwrap();
    let end = service.read(caller, file, handle, text.len() as u64).unwrap();
    assert!(cgview_fuse::handles::slice(&end, text.len() as u64, 1).is_empty());
    service.release(handle);
    text.len()
}

/// How much memory is taken for a read, at the least: once a second a caller is looked at closer.
fn taken(service: &Service, file: File) -> u64 {
    let once = || {
        let before = TAKEN.get();
        assert!(read(service, file) > 0);
        TAKEN.get() - before
    };
    // A caller is known from the second time on.
    once();
    (0..20).map(|_| once()).min().unwrap()
}

#[test]
fn a_text_whose_numbers_are_new_takes_no_memory() {
    for cpus in [2, 512] {
        let fake = host(cpus);
        let freshness = Duration::from_secs(3600);
        let settings = ViewSettings { freshness, ..ViewSettings::default() };
        let service = Service::new(Host::at(fake.path()).unwrap(), settings);
        for file in FILES.map(File::Proc) {
            let path = Entry::File(file).path();
            assert_eq!(taken(&service, file), 0, "{path} of a host of {cpus} CPUs");
        }
        assert_eq!(service.metrics().renderings.misses.get(), FILES.len() as u64);
    }
}

// That the count is one.
#[test]
fn a_text_that_is_new_takes_memory() {
    let fake = host(2);
    let settings = ViewSettings { freshness: Duration::ZERO, ..ViewSettings::default() };
    let service = Service::new(Host::at(fake.path()).unwrap(), settings);
    assert!(taken(&service, File::Proc(ProcFile::Meminfo)) > 0);
}
