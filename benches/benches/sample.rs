//! What is asked of the kernel for a view: each part of a snapshot of a live container, who its processes
//! are, and the facts of the host.

use std::hint::black_box;

use cgview_core::{Snapshot, view::Parts};
use cgview_host::Host;
use cgview_testkit::{Process, Spawn, Tree, pause};
use criterion::{Criterion, criterion_group, criterion_main};

/// A container with limits at two levels: its init, and so many processes beside it.
fn container(tree: &Tree, others: usize) -> (Process, Vec<Process>) {
    tree.cgroup("pods/pod").limit_memory(512 << 20);
    let app = tree.cgroup("pods/pod/app");
    app.limit_memory(256 << 20).limit_cpu(150_000).limit_pids(1000);
    let init = Spawn::new().cgroup(&app).container().run(pause);
    let other = |_| Spawn::new().cgroup(&app).join(&init, &["pid"]).run(pause);
    let others = (0..others).map(other).collect();
    (init, others)
}

fn snapshots(c: &mut Criterion) {
    let Some(tree) = Tree::new() else { return };
    let (init, _others) = container(&tree, 9);
    let host = Host::live().expect("a host");
    let caller = host.caller(init.pid()).expect("a process of the container");
    let mut snapshot = Snapshot::default();
    let mut group = c.benchmark_group("sample");
    for (name, parts) in [
        ("memory", Parts::MEMORY),
        ("cpus", Parts::CPUS),
        ("cpu-usage", Parts::CPU_USAGE),
        ("io", Parts::IO),
        ("pids", Parts::PIDS),
        ("hugetlb", Parts::HUGETLB),
        ("tasks/10", Parts::TASKS),
        ("pressure", Parts::PRESSURE),
        ("all", Parts::ALL),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| caller.container.sample(&host, black_box(parts), &mut snapshot));
        });
    }
}

fn identity(c: &mut Criterion) {
    let Some(tree) = Tree::new() else { return };
    let (init, others) = container(&tree, 1);
    let host = Host::live().expect("a host");
    // Held, as the daemon holds its container.
    let mut kept = host.keep(init.pid()).expect("a process of the container");
    let mut group = c.benchmark_group("identity");
    for (name, process) in [("init", &init)].into_iter().chain(others.iter().map(|o| ("other", o)))
    {
        let pid = process.pid();
        group.bench_function(name, |b| b.iter(|| host.caller(black_box(pid))));
    }
    group.bench_function("kept", |b| b.iter(|| black_box(&mut kept).check(&host).is_ok()));
}

fn facts(c: &mut Criterion) {
    let host = Host::live().expect("a host");
    c.bench_function("host/facts", |b| b.iter(|| host.facts()));
    c.bench_function("host/open", |b| b.iter(Host::live));
}

criterion_group!(benches, snapshots, identity, facts);
criterion_main!(benches);
