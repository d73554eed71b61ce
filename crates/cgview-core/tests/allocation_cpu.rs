//! Steps of the CPU view and the load, and the rendering of their files, allocate nothing once the first
//! one is done.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use cgview_core::{
    Cpus, File, HostFacts, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    loadavg::LoadAverage,
    snapshot::{Cgroup, CpuTime, CpuUsage, Tasks, Version},
    tree::ProcFile,
};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; it hands everything on")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_steady_state_allocates_nothing() {
    for version in [Version::V1, Version::V2] {
        let limits = CpuLimits {
            set: Mask::first(64),
            visible: Mask::first(12),
            entitlement: Cpus(11_500_000),
            ..CpuLimits::default()
        };
        let host = HostFacts { online: Mask::first(64), ..HostFacts::default() };
        let policy = Policy::default();
        let time = CpuTime { user: Usec(5), nice: Usec::ZERO, system: Usec(2) };
        let per_cpu: Vec<_> = match version {
            Version::V1 => (0..64).map(|cpu| (cpu, time)).collect(),
            Version::V2 => Vec::new(),
        };
        let cgroup = Arc::new(Cgroup { path: "/app".into(), version });
        let usage = CpuUsage { cgroup, total: time, per_cpu, throttled: Usec::ZERO };
        let mut snapshot = Snapshot {
            cpu_usage: Some(usage),
            tasks: Some(Tasks { running: 3, blocked: 1, total: 9, last_pid: 12 }),
            ..Snapshot::default()
        };
        let mut state = CpuView::default();
        let mut load = LoadAverage::seeded(Usec::ZERO, [100; 3]);
        let mut text = Vec::new();
        let mut before = 0;
        for round in 1..100 {
            snapshot.taken = Usec::from_secs(round * 7);
            if let Some(usage) = &mut snapshot.cpu_usage {
                let used = Usec::from_secs(round * 5);
                usage.total.user = used;
                usage.per_cpu.iter_mut().for_each(|(_, time)| time.user = used.scale(1, 64));
            }
            // The first round finds out how much memory it takes; later ones may need more digits.
            if round == 2 {
                text.reserve(1000);
                before = ALLOCATIONS.with(Cell::get);
            }
            let usage = snapshot.cpu_usage.as_ref();
            state.step(snapshot.taken, Usec::ZERO, &limits, usage, policy.steal);
            load.step(snapshot.taken, 3);
            let view = View {
                snapshot: &snapshot,
                now: Usec::ZERO,
                host: &host,
                policy: &policy,
                cpus: &limits,
                cpu_view: &state,
                load: Some(&load),
                reader: Reader::default(),
            };
            for (file, host) in [
                (ProcFile::Stat, &b"cpu  1 2 3 4 5 6 7 8 9 10\nintr 5 0 0\nbtime 1\n"[..]),
                (ProcFile::Uptime, b"1.00 1.00\n"),
                (ProcFile::Loadavg, b"0.00 0.00 0.00 1/9 9\n"),
            ] {
                text.clear();
                view.render(File::Proc(file), host, &mut text).unwrap();
            }
        }
        assert!(before > 0, "the first round has to");
        assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0, "{version:?}");
    }
}
