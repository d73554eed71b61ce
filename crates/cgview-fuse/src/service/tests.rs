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
