//! What is let go of: of containers that are gone, and where there are no more descriptors.

use std::{thread, time::Duration};

use cgview_core::tree::{File, ProcFile};
use cgview_host::Host;
use cgview_testkit::{FakeContainer, FakeHost};

use super::*;

const MEMINFO: File = File::Proc(ProcFile::Meminfo);

/// A container whose init is the process 200.
fn service() -> (FakeHost, Service) {
    let container = FakeContainer { name: "a", pids: [200, 201], memory: 64 };
    let fake = FakeHost::with_containers(&[container]);
    let host = Host::at(fake.path()).unwrap();
    let settings = ViewSettings { freshness: Duration::ZERO, ..ViewSettings::default() };
    (fake, Service::new(host, settings))
}

#[test]
fn a_cpu_that_comes_or_goes_is_told_at_once_however_long_the_text() {
    let (fake, service) = service();
    let block = format!("flags\t\t: {}\n\n", "fpu vme ".repeat(200));
    let cpuinfo = |list: std::ops::Range<u32>| {
        list.map(|cpu| format!("processor\t: {cpu}\n{block}")).collect::<String>()
    };
    fake.file("/sys/fs/cgroup/a/cpu.max", "max 100000\n");
    // So many that the text is not read each time.
    for online in [1000, 999, 1000] {
        fake.file("/sys/devices/system/cpu/online", &format!("0-{}\n", online - 1));
        fake.file("/proc/cpuinfo", &cpuinfo(0..online));
        fake.file("/sys/fs/cgroup/a/cpuset.cpus.effective", &format!("1-{}\n", online - 1));
        for _ in 0..3 {
            let text = service.text(200, File::Proc(ProcFile::Cpuinfo)).unwrap();
            let text = String::from_utf8(text).unwrap();
            let told = text.matches("processor").count();
            assert_eq!(told, usize::try_from(online - 1).unwrap());
        }
    }
}

fn out_of_descriptors() -> Error {
    let source = std::io::Error::from(Errno::MFILE);
    Error::Host(cgview_host::Error::Read { path: "/proc/stat".into(), source })
}

#[test]
fn a_removed_cgroup_is_let_go_of_though_nobody_reads() {
    let (fake, service) = service();
    // What is kept of a caller is kept from the second time on.
    for _ in 0..2 {
        service.text(200, MEMINFO).unwrap();
    }
    thread::sleep(REMOVED_IDLE + Duration::from_millis(10));
    service.sweep_removed();
    assert_eq!(service.status().containers, 1);
    assert!(service.callers.last(200).is_some());
    fake.remove("/sys/fs/cgroup/a");
    service.sweep_removed();
    assert_eq!(service.status().containers, 0);
    assert!(service.callers.last(200).is_none());
}

#[test]
fn without_descriptors_all_that_is_only_kept_is_closed() {
    let (_fake, service) = service();
    for _ in 0..2 {
        service.text(200, MEMINFO).unwrap();
    }
    service.relieve(&Error::NoCaller);
    assert_eq!(service.status().containers, 1);
    service.relieve(&out_of_descriptors());
    assert_eq!(service.status().containers, 0);
    assert!(service.callers.last(200).is_none());
    service.text(200, MEMINFO).unwrap();
    // A reader would take it for a limit of its own.
    assert_eq!(out_of_descriptors().errno(), Errno::IO);
}

#[test]
fn what_was_read_to_its_end_ends_there_for_the_next_process() {
    let (fake, _) = service();
    let greeting = serde_json::from_str(r#"{"request":[1],"reply":[2]}"#).unwrap();
    let memory = || {
        let host = Host::at(fake.path()).unwrap();
        Service::new(host, ViewSettings::default())
    };
    let first = Arc::new(Ledger::in_memory(&greeting).unwrap());
    let service = memory().with_ledger(Arc::clone(&first));
    let [whole, part, long, unread, elsewhere, released] = [(); 6].map(|()| service.handles.open());
    service.keep_text(whole, b"text", 0, 4096);
    service.keep_text(part, b"text", 0, 2);
    service.keep_text(long, &vec![b'x'; 1 << 20], 0, 4096);
    service.keep_text(elsewhere, b"text", 2, 4096);
    service.keep_text(released, b"text", 0, 2);
    service.release(released);
    // A process has its own for what they are.
    assert!([whole, part, long].iter().all(|&handle| !service.is_read_out(handle, 4)));
    let copy = std::os::fd::AsFd::as_fd(&*first).try_clone_to_owned().unwrap();
    let (ledger, records) = Ledger::open(copy).unwrap();
    let next = memory().with_ledger(Arc::new(ledger));
    next.restore_records(records);
    assert!(next.is_read_out(whole, 4) && !next.is_read_out(whole, 0));
    assert!(!next.is_read_out(part, 2) && !next.is_read_out(long, 4096));
    assert_eq!(next.held(part, 2).as_deref(), Some(&b"text"[..]));
    assert_eq!(next.held(long, 4096), None);
    assert_eq!(next.held(released, 2), None);
    assert!(!next.is_read_out(unread, 4));
    // Whether it was answered is not known: what is asked for again is answered in the same way.
    assert!(!next.is_read_out(elsewhere, 2));
    assert_eq!(next.held(elsewhere, 2).as_deref(), Some(&b"text"[..]));
    assert!(!next.is_read_out(next.handles.open(), 4));
}
