//! A whole read of a file by a process of a container, as `cat` does it: open, read, close. From the
//! kernel's own `/proc` and from the view beside it, over FUSE.

use std::{
    fs::File,
    hint::black_box,
    io::{PipeReader, PipeWriter, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cgview_fuse::{
    serve_in_background,
    settings::{LogLevel, Metrics, Settings},
};
use cgview_testkit::{Process, Spawn, Tree};
use criterion::{Criterion, criterion_group, criterion_main};

const FILES: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/vmstat",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/cpu0/topology/core_siblings",
];

/// A process in a container that reads files when it is told to, and says how long it took.
struct Reader {
    ask: PipeWriter,
    answer: PipeReader,
    _process: Process,
}

impl Reader {
    fn start(tree: &Tree, paths: &[PathBuf]) -> Reader {
        let app = tree.cgroup("pod/app");
        app.limit_memory(256 << 20).limit_cpu(150_000).limit_pids(100);
        let (mut asked, ask) = std::io::pipe().expect("a pipe");
        let (answer, mut told) = std::io::pipe().expect("a pipe");
        let process = Spawn::new().cgroup(&app).container().run(|| {
            let mut request = [0; 9];
            while asked.read_exact(&mut request).is_ok() {
                let [file, count @ ..] = request;
                let Some(path) = paths.get(usize::from(file)) else { return 1 };
                let time = time(path, u64::from_le_bytes(count));
                let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                if told.write_all(&nanos.to_le_bytes()).is_err() {
                    break;
                }
            }
            0
        });
        Reader { ask, answer, _process: process }
    }

    fn read(&mut self, file: u8, count: u64) -> Duration {
        let mut request = [0; 9];
        request[0] = file;
        request[1..].copy_from_slice(&count.to_le_bytes());
        self.ask.write_all(&request).expect("the reader lives");
        let mut nanos = [0; 8];
        self.answer.read_exact(&mut nanos).expect("the reader could read");
        Duration::from_nanos(u64::from_le_bytes(nanos))
    }
}

fn time(path: &Path, count: u64) -> Duration {
    let mut text = vec![0; 64 << 10];
    let start = Instant::now();
    for _ in 0..count {
        let mut file = File::open(path).expect("a file");
        while file.read(&mut text).expect("a text") > 0 {
            black_box(&text);
        }
    }
    start.elapsed()
}

fn reads(c: &mut Criterion) {
    let Some(tree) = Tree::new() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings {
        metrics: Metrics::Off,
        log_level: LogLevel::Error,
        runtime_dir: dir.path().join("run"),
        ..Settings::default()
    };
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a mountpoint");
    let guard = serve_in_background(&mountpoint, &settings).expect("a mount");
    let roots = [("native", Path::new("/")), ("cgview", guard.path())];
    let paths: Vec<PathBuf> =
        FILES.iter().flat_map(|file| roots.map(|(_, root)| root.join(file))).collect();
    // It is gone before the mount is, of which it has a copy.
    let mut reader = Reader::start(&tree, &paths);
    for (index, file) in (0u8..).zip(FILES) {
        let mut group = c.benchmark_group(format!("read/{file}"));
        for (which, (name, _)) in (0u8..).zip(roots) {
            group.bench_function(name, |b| {
                b.iter_custom(|count| reader.read(2 * index + which, count));
            });
        }
    }
}

criterion_group!(benches, reads);
criterion_main!(benches);
