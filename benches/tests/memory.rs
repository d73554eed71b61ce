//! What a container takes of the daemon's memory: not how much is resident, which the allocator has a say in, but what is
//! allocated and was not given back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use cgview_benches::{FILES, Machine};
use cgview_core::File;
use cgview_fuse::{Service, service::Caller, settings::ViewSettings};
use cgview_host::Host;

/// Counts what is allocated.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator")]
// SAFETY: all is the system's, and the count takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_add(size, Ordering::Relaxed);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// All files, as a container's only process reads them.
fn read(service: &Service, container: u32) {
    let caller = Caller { tid: Machine::pid(container), uid: 0 };
    for file in FILES.map(File::Proc) {
        let handle = service.open(caller, file, false).unwrap();
        assert!(!service.read(caller, file, handle, 0).unwrap().is_empty());
        service.release(handle);
    }
}

const CONTAINERS: u32 = 200;

/// Of the 32 MiB that a daemon with a thousand containers may have, what is left for each of them beside the daemon itself.
/// With texts for two CPUs it was 15 KiB, and 38 KiB when this was too much.
const MOST: usize = 20 << 10;

#[test]
fn a_container_takes_a_few_kibibytes() {
    let fake = Machine::new(2).host_with_containers(CONTAINERS + 1);
    let service = Service::new(Host::at(fake.path()).unwrap(), ViewSettings::default());
    // What is there once, and for all.
    read(&service, CONTAINERS);
    let before = HELD.load(Ordering::Relaxed);
    for _ in 0..2 {
        for container in 0..CONTAINERS {
            read(&service, container);
        }
    }
    let taken = HELD.load(Ordering::Relaxed).saturating_sub(before);
    assert_eq!(service.status().containers, CONTAINERS as usize + 1);
    let each = taken / CONTAINERS as usize;
    assert!(each <= MOST, "{each} bytes for each container");
    // That the count is one: the texts alone are more.
    assert!(each >= 4 << 10, "{each} bytes for each container");
}
