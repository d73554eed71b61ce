//! Each file of the view, from the host's text to the container's: no I/O, and a buffer that is kept.

use std::hint::black_box;

use cgview_benches::Machine;
use cgview_core::{
    File,
    tree::{Dir, Entry, ProcFile},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SYS: [&str; 4] = [
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/cpu0/topology/core_siblings_list",
    "/sys/devices/system/cpu/cpu0/topology/core_siblings",
    "/sys/devices/system/node/node0/cpulist",
];

fn files(c: &mut Criterion) {
    for machine in Machine::both() {
        let proc = ProcFile::ALL.map(|file| (file.path(), File::Proc(file), machine.text(file)));
        let sys = SYS.into_iter().filter_map(|path| match Entry::at(path)? {
            Entry::File(file) => Some((path, file, machine.sys_text(file))),
            Entry::Dir(_) | Entry::Link(_) => None,
        });
        let view = machine.view();
        for (path, file, host) in proc.into_iter().chain(sys) {
            let mut group = c.benchmark_group(format!("render{path}"));
            group.throughput(Throughput::Bytes(host.len() as u64));
            let mut text = Vec::new();
            view.render(file, &host, &mut text).expect("a text for this container");
            group.bench_function(&machine.name, |b| {
                b.iter(|| {
                    text.clear();
                    black_box(view.render(black_box(file), black_box(&host), &mut text))
                });
            });
        }
    }
}

fn explain(c: &mut Criterion) {
    let mut group = c.benchmark_group("explain/proc/meminfo");
    for machine in Machine::both() {
        let host = machine.text(ProcFile::Meminfo);
        let view = machine.view();
        let mut text = Vec::new();
        group.bench_function(&machine.name, |b| {
            b.iter(|| {
                text.clear();
                black_box(view.explain(File::Proc(ProcFile::Meminfo), black_box(&host), &mut text))
            });
        });
    }
}

fn list(c: &mut Criterion) {
    let mut group = c.benchmark_group("list/sys/devices/system/cpu");
    for machine in Machine::both() {
        let view = machine.view();
        group.bench_function(&machine.name, |b| {
            b.iter(|| black_box(view.list(black_box(Dir::Cpu), |_| true)));
        });
    }
}

criterion_group!(benches, files, explain, list);
criterion_main!(benches);
