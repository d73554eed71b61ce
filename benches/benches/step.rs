//! What is computed before a text is rendered: effective limits, and the steps of the stateful parts.

use std::hint::black_box;

use cgview_benches::Machine;
use cgview_core::{Policy, Usec, cpu_view::CpuView, effective::MemoryLimits, loadavg::LoadAverage};
use criterion::{Criterion, criterion_group, criterion_main};

fn limits(c: &mut Criterion) {
    for machine in Machine::both() {
        c.bench_function(&format!("limits/cpu/{}", machine.name), |b| {
            b.iter(|| black_box(black_box(&machine).limits()));
        });
        c.bench_function(&format!("limits/memory/{}", machine.name), |b| {
            let policy = Policy::default();
            b.iter(|| {
                black_box(MemoryLimits::of(black_box(&machine.snapshot), &machine.host, &policy))
            });
        });
    }
}

fn cpu_view(c: &mut Criterion) {
    for machine in Machine::both() {
        c.bench_function(&format!("step/cpu-view/{}", machine.name), |b| {
            let mut view = CpuView::default();
            let mut now = machine.snapshot.taken;
            b.iter(|| {
                now = now.saturating_add(Usec(10_000));
                machine.step(black_box(&mut view), now);
            });
        });
    }
}

fn load(c: &mut Criterion) {
    c.bench_function("step/load-average", |b| {
        let mut now = Usec::from_secs(1000);
        let mut load = LoadAverage::seeded(now, [0; 3]);
        b.iter(|| {
            now = now.saturating_add(Usec::from_secs(5));
            load.step(black_box(now), black_box(3));
        });
    });
}

criterion_group!(benches, limits, cpu_view, load);
criterion_main!(benches);
