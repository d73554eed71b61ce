//! Each family of parsers, on texts of a usual size.

use std::hint::black_box;

use cgview_benches::{MEMORY_STAT, Machine};
use cgview_core::{Mask, host::HostMemory, parse, tree::ProcFile};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const CPU_STAT: &[u8] = b"usage_usec 122853210\nuser_usec 90213440\nsystem_usec 32639770\n\
    nice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 5210\nnr_throttled 312\n\
    throttled_usec 4113200\nnr_bursts 0\nburst_usec 0\n";
const IO_STAT: &[u8] = b"254:0 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n\
    254:16 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=50331648 dios=3021\n";
const BLKIO: &[u8] = b"254:0 Read 12288\n254:0 Write 4096\n254:0 Sync 16384\n254:0 Async 0\n\
    254:0 Discard 0\n254:0 Total 16384\nTotal 16384\n";
const MEMBERSHIP: &[u8] = b"12:cpu,cpuacct:/kubepods/burstable/pod1f3c/9a8b\n\
    11:memory:/kubepods/burstable/pod1f3c/9a8b\n10:cpuset:/kubepods/burstable/pod1f3c/9a8b\n\
    9:pids:/kubepods/burstable/pod1f3c/9a8b\n1:name=systemd:/kubepods/burstable/pod1f3c/9a8b\n\
    0::/kubepods/burstable/pod1f3c/9a8b\n";
const PID_STAT: &[u8] = b"4711 (tmux: server) S 1 4711 4711 0 -1 4194368 2571 1309 0 0 95 41 1 1 \
    20 0 1 0 9125 9428992 1180 18446744073709551615 1 1 0 0 0 0 0 528386 134433281 0 0 0 17 1 0 0 0 \
    0 0 0 0 0 0 0 0 0 0\n";

fn files(c: &mut Criterion) {
    let mut bench = |name: &str, text: &[u8], parse: &mut dyn FnMut(&[u8])| {
        let mut group = c.benchmark_group("parse");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| b.iter(|| parse(black_box(text))));
    };
    bench("limit", b"268435456\n", &mut |text| {
        black_box(parse::limit(text).is_ok());
    });
    bench("cpu.max", b"150000 100000\n", &mut |text| {
        black_box(parse::cpu_max(text).is_ok());
    });
    bench("memory.stat", MEMORY_STAT.as_bytes(), &mut |text| {
        black_box(parse::memory_stat_v2(text).is_ok());
    });
    bench("cpu.stat", CPU_STAT, &mut |text| {
        black_box(parse::cpu_stat(text).is_ok());
    });
    bench("io.stat", IO_STAT, &mut |text| {
        black_box(parse::io_stat(text).is_ok());
    });
    bench("blkio", BLKIO, &mut |text| {
        let mut sum = 0;
        black_box(parse::blkio(text, |_, _, _, value| sum += value).is_ok());
        black_box(sum);
    });
    bench("cgroup", MEMBERSHIP, &mut |text| {
        black_box(parse::cgroup_membership(text).filter(Result::is_ok).count());
    });
    bench("pid-stat", PID_STAT, &mut |text| {
        black_box(parse::pid_stat(text).is_ok());
    });
    bench("cpu-list", b"0-15,32-47,63\n", &mut |text| {
        black_box(Mask::parse_list(text).is_ok());
    });
    let meminfo = Machine::new(2).text(ProcFile::Meminfo);
    bench("meminfo", &meminfo, &mut |text| {
        black_box(HostMemory::parse(text));
    });
    for cpus in [2, 64] {
        let rows = (0..cpus).map(|cpu| format!("{cpu} 9021344000 3263977000\n"));
        let text = format!("cpu user system\n{}", rows.collect::<String>());
        bench(&format!("cpuacct.usage_all/{cpus}-cpus"), text.as_bytes(), &mut |text| {
            black_box(parse::cpuacct_usage_all(text).is_ok());
        });
    }
}

criterion_group!(benches, files);
criterion_main!(benches);
