//! What processes read through the mount, on a real kernel and in real cgroups.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemon;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::{Namespaces, Spawn, Tree, pause, skip};
use daemon::{Daemon, eventually, run};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    process::Signal,
};

const MIB: u64 = 1 << 20;

/// A number behind a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The times of a `/proc/stat`, by the name of their line.
fn cpu_times(stat: &str) -> BTreeMap<String, Vec<u64>> {
    let lines = stat.lines().filter(|line| line.starts_with("cpu"));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap().to_owned();
            (name, words.map(|word| word.parse().unwrap()).collect())
        })
        .collect()
}

// host
// └─ container (256 MiB, half a CPU)   <- reads
#[test]
fn a_container_reads_its_own_numbers() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "cpu", "cpuset"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB).limit_cpu(50_000);
    let daemon = Daemon::start(&[]);
    // All files in one go: entering a container takes its time on a slow machine.
    let files = "/proc/meminfo /proc/cpuinfo /proc/stat /proc/uptime /proc/loadavg /proc/slabinfo \
                 /proc/vmstat /proc/swaps /sys/devices/system/cpu/online \
                 /sys/devices/system/cpu/possible";
    let script = format!("sh -c 'for file in {files}; do echo \"== $file\"; cat $file; done'");
    let output = daemon.in_container(&cgroup, &script);
    let read = |file: &str| {
        let (_, text) = output.split_once(&format!("== {file}\n")).unwrap();
        text.split_once("== ").map_or(text, |(text, _)| text).to_owned()
    };

    let meminfo = read("/proc/meminfo");
    assert_eq!(field(&meminfo, "MemTotal:"), 256 * 1024);
    assert!(field(&meminfo, "MemFree:") <= field(&meminfo, "MemAvailable:"));
    assert!(field(&meminfo, "MemAvailable:") <= 256 * 1024);
    assert!(field(&meminfo, "MemFree:") > 200 * 1024, "{meminfo}");

    let cpuinfo = read("/proc/cpuinfo");
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    assert_eq!(processors, 1);
    assert_eq!(read("/sys/devices/system/cpu/online"), "0\n");
    assert_eq!(read("/sys/devices/system/cpu/possible"), "0\n");
    let cpus = daemon.in_container(&cgroup, "ls /sys/devices/system/cpu");
    let cpus: Vec<_> =
        cpus.lines().filter(|name| name.trim_start_matches("cpu").parse::<u32>().is_ok()).collect();
    assert_eq!(cpus, ["cpu0"]);

    let stat = read("/proc/stat");
    let times = cpu_times(&stat);
    assert_eq!(times.keys().collect::<Vec<_>>(), ["cpu", "cpu0"]);
    assert_eq!(times["cpu"], times["cpu0"]);
    assert_eq!(field(&stat, "ctxt"), 0);
    // The reader sleeps while it waits for the answer.
    assert!(field(&stat, "procs_running") <= 1, "{stat}");

    let uptime: Vec<f64> =
        read("/proc/uptime").split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(uptime[0] < 60.0 && uptime[1] <= uptime[0], "{uptime:?}");
    let loadavg = read("/proc/loadavg");
    let words: Vec<_> = loadavg.split_whitespace().collect();
    assert!(words[0].parse::<f64>().unwrap() < 2.0, "{loadavg}");
    let (running, total) = words[3].split_once('/').unwrap();
    // The shell, and cat.
    assert!(running.parse::<u32>().unwrap() <= 1 && total == "2", "{loadavg}");
    assert!(words[4].parse::<u32>().unwrap() < 100, "{loadavg}");

    let slabinfo = read("/proc/slabinfo");
    assert_eq!(slabinfo.lines().count(), 2, "{slabinfo}");
    assert!(field(&read("/proc/vmstat"), "nr_free_pages") * 4 <= 256 * 1024);
    assert!(read("/proc/swaps").starts_with("Filename"));
    assert!(daemon.log().lines().all(|line| !line.contains("WARN")), "{}", daemon.log());
}

#[test]
fn programs_agree_with_the_limits() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "cpu", "cpuset"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(256 * MIB).limit_cpu(50_000);
    let daemon = Daemon::start(&[]);
    let has = |program: &str| {
        let found = Command::new("sh").arg("-c").arg(format!("command -v {program}")).output();
        found.unwrap().status.success()
    };
    let mut ran = 0;
    let mut expect = |line: &str, expected: &[&str]| {
        if !has(line.split(' ').next().unwrap()) {
            return;
        }
        ran += 1;
        let output = daemon.in_container(&cgroup, line);
        let words = output.split_whitespace().collect::<Vec<_>>().join(" ");
        for expected in expected {
            assert!(words.contains(expected), "{expected} in {output}");
        }
    };
    expect("free -k", &["Mem: 262144 "]);
    expect("top -bn1 -w 200", &["256.0 total", "up 0 min"]);
    expect("uptime", &["up 0 min"]);
    expect("lscpu", &["CPU(s): 1 On-line CPU(s) list: 0"]);
    expect("vmstat -s -S K", &["262144 K total memory"]);
    expect("busybox cat /proc/loadavg", &["/1 1"]);
    if ran == 0 {
        skip("needs free, top, uptime, lscpu, vmstat or busybox");
    }
}

// host
// └─ container (half a CPU)   <- two busy tasks
#[test]
fn a_load_of_known_size_is_seen() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory", "cpu", "cpuset"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpu(20_000);
    let daemon = Daemon::start(&[]);
    let burn = "while :; do :; done & while :; do :; done & sleep 3; cat /proc/stat /proc/uptime; \
                sleep 3; cat /proc/stat /proc/uptime; cat /proc/loadavg; sleep 11; cat /proc/loadavg";
    let output = daemon.in_container(&cgroup, &format!("sh -c '{burn}'"));

    let (first, second) = output.split_at(output.match_indices("cpu  ").nth(1).unwrap().0);
    let (before, after) = (cpu_times(first)["cpu"].clone(), cpu_times(second)["cpu"].clone());
    let grown: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    // The shell has a fifth of a CPU too, so it takes its time.
    let uptime = |text: &str| -> f64 {
        let line = text.lines().find(|line| line.split(' ').all(|word| word.contains('.')));
        line.unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    let capacity = (uptime(second) - uptime(first)) * 20.0;
    let total: u64 = grown.iter().sum();
    let busy = grown[0] + grown[2];
    assert!((capacity - total as f64).abs() < 10.0 + capacity / 10.0, "{capacity} {grown:?}");
    // A machine that is busy elsewhere may give less than half of it.
    assert!(busy * 10 >= total * 4, "{grown:?} {output}");

    let loads: Vec<f64> = output
        .lines()
        .filter(|line| line.split('/').count() == 2)
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    // exp(-16 s / 60 s) of two tasks are 0.47.
    assert!(loads[1] > loads[0] && (0.1..2.5).contains(&loads[1]), "{loads:?} {output}");
    let counts = output.lines().rfind(|line| line.split('/').count() == 2).unwrap();
    // The two that are busy, unless one just waits for its quota, and cat itself, which counts as well.
    assert!([" 1/", " 2/", " 3/"].iter().any(|running| counts.contains(running)), "{counts}");
}

// Law 6.
#[test]
fn reads_are_those_of_procfs() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let path = daemon.path("proc/cpuinfo");
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.last(), Some(&b'\n'));
    // The clock of a CPU changes from read to read: only the shape is the same for two descriptors.
    let shape = |text: &[u8]| -> Vec<u8> {
        let text = String::from_utf8_lossy(text);
        let names = text.lines().map(|line| line.split(':').next().unwrap().to_owned() + "\n");
        names.collect::<String>().into_bytes()
    };
    for size in [1, 7, 4096] {
        let mut file = File::open(&path).unwrap();
        let mut text = Vec::new();
        let mut buffer = vec![0; size];
        loop {
            let read = file.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            text.extend_from_slice(&buffer[..read]);
        }
        assert_eq!(shape(&text), shape(&whole), "by {size}");
        assert_eq!(file.read(&mut buffer).unwrap(), 0);
    }

    let file = File::open(daemon.path("sys/devices/system/cpu/kernel_max")).unwrap();
    let host = fs::read("/sys/devices/system/cpu/kernel_max").unwrap();
    let mut buffer = [0; 100];
    let read = file.read_at(&mut buffer, 1).unwrap();
    assert_eq!(&buffer[..read], &host[1..]);
    for past in [host.len() as u64, host.len() as u64 + 1, 1 << 40] {
        assert_eq!(file.read_at(&mut buffer, past).unwrap(), 0);
    }

    // A rewind reads anew.
    let mut uptime = File::open(daemon.path("proc/uptime")).unwrap();
    let mut seconds = || {
        let mut text = String::new();
        uptime.rewind().unwrap();
        uptime.read_to_string(&mut text).unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let first = seconds();
    thread::sleep(Duration::from_millis(50));
    let second = seconds();
    assert!(second > first && second < first + 30.0, "{first} {second}");
}

// Law 6.
#[test]
fn eight_threads_read_one_descriptor() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&["--freshness", "0"]);
    let file = File::open(daemon.path("proc/stat")).unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 16];
                let mut last = 0;
                while Instant::now() < end {
                    let read = file.read_at(&mut buffer, 0).unwrap();
                    let text = std::str::from_utf8(&buffer[..read]).unwrap();
                    assert!(text.starts_with("cpu ") && text.ends_with('\n'), "{text}");
                    let busy = cpu_times(text)["cpu"][0];
                    assert!(busy >= last, "{busy} after {last}");
                    last = busy;
                }
            });
        }
    });
    assert_eq!(daemon.metric("cgview_panics_total "), 0);
}

// Law 6 and 9.
#[test]
fn files_look_like_those_of_procfs_and_take_nothing() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    for (name, mode) in [("meminfo", 0o444), ("stat", 0o444), ("slabinfo", 0o400)] {
        let path = daemon.path("proc").join(name);
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.len(), found.mode() & 0o7777, found.uid()), (0, mode, 0), "{name}");
        assert!(found.is_file());
        let refused = OpenOptions::new().write(true).open(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
        let refused = OpenOptions::new().write(true).truncate(true).open(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    }
    let refused = File::create(daemon.path("proc/new")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    let refused = fs::create_dir(daemon.path("proc/new")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    let refused = fs::remove_file(daemon.path("proc/meminfo")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    assert!(fs::metadata(daemon.path("proc/kcore")).is_err());

    // Directories: what they list can be looked up, and what can be looked up has the same number.
    let mut dirs = vec![daemon.mountpoint()];
    let mut count = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let found = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(found.ino(), entry.ino(), "{}", entry.path().display());
            assert_eq!(found.file_type(), entry.file_type().unwrap());
            count += 1;
            if found.is_dir() {
                dirs.push(entry.path());
            } else if found.is_symlink() {
                assert!(fs::metadata(entry.path()).unwrap().is_dir());
            }
        }
    }
    assert!(count > 50, "{count}");

    // Another user, as `other` sees it.
    let script = format!(
        "cd {}; setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \
         'head -1 proc/meminfo; cat proc/slabinfo 2>&1 || true; test -r proc/slabinfo || echo no'",
        daemon.mountpoint().display()
    );
    let said = run(Spawn::new(), &script);
    assert!(said.starts_with("MemTotal:"), "{said}");
    assert!(said.contains("Permission denied") && said.ends_with("no\n"), "{said}");
}

#[test]
fn a_bound_file_costs_open_read_read_release() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let target = daemon.dirs().path("bound");
    fs::write(&target, "").unwrap();
    mount_bind(daemon.path("proc/meminfo"), &target).unwrap();
    // Not statfs: the keeper asks by it whether anybody serves.
    let names = ["lookup", "getattr", "access", "open", "read", "release", "readlink", "poll"];
    let count = || names.map(|name| daemon.requests(name));
    let before = count();
    let rounds = 5;
    // As head(1) does; who asks for attributes too, waits for one more.
    let mut buffer = vec![0; 1 << 17];
    for _ in 0..rounds {
        let mut file = File::open(&target).unwrap();
        assert!(file.read(&mut buffer).unwrap() > 100);
        assert!(buffer.starts_with(b"MemTotal:"));
        assert_eq!(file.read(&mut buffer).unwrap(), 0);
    }
    // The kernel does not wait for the answer to a release.
    eventually("files are released", || count()[5] == before[5] + rounds);
    let grown: Vec<u64> = count().iter().zip(before).map(|(now, before)| now - before).collect();
    unmount(&target, UnmountFlags::empty()).unwrap();
    assert_eq!(grown, [0, 0, 0, rounds, 2 * rounds, rounds, 0, 0], "{names:?}");
}

// Law 6: sendfile(2) of procfs gives the text, and `cat` of busybox goes by it. Here it does so too, or says
// that it does not know how; it never says that there is nothing.
#[test]
fn sendfile_never_takes_a_file_for_empty() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let path = daemon.path("proc/meminfo");
    let copy = tempfile::NamedTempFile::new().unwrap();
    let send = || {
        let file = File::open(&path).unwrap();
        match rustix::fs::sendfile(copy.as_file(), &file, None, 1 << 16) {
            Ok(sent) => assert!(sent > 100, "{sent}"),
            // Since Linux 7.0 it is another one, whatever the answer to the read was.
            Err(errno) => assert!(matches!(errno, Errno::INVAL | Errno::IO), "{errno}"),
        }
    };
    let stat = || assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    send();
    stat();
    send();
    // To the end of a file of procfs nobody can seek.
    let end = File::open(&path).unwrap().seek(SeekFrom::End(0));
    assert!(end.is_err() || end.is_ok_and(|end| end == 0));
    send();
    stat();
    let end = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < end {
                    stat()
                }
            });
            scope.spawn(|| {
                while Instant::now() < end {
                    send()
                }
            });
        }
    });
    let script = format!(
        "for tool in 'busybox cat' cat 'tail -n 99' 'head -c 99999' 'wc -c' 'od -c'; do \
         command -v ${{tool%% *}} >/dev/null || continue; \
         set -- $($tool {} | wc -c); echo $tool: $1; done",
        path.display()
    );
    let said = run(Spawn::new(), &script);
    let counts = said.lines().filter(|line| !line.starts_with("wc"));
    for line in counts {
        let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(count > 100, "{said}");
    }
}

// Law 1 and 7: the daemon's pid namespace does not contain the readers'.
#[test]
fn readers_that_cannot_be_seen_get_an_error_but_can_look() {
    if !Daemon::is_possible() {
        return;
    }
    for (policy, is_error) in [("stale", true), ("host", false)] {
        let dirs = daemon::Dirs::new();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(env!("CARGO_BIN_EXE_cgview-fuse"));
        command.arg("--runtime-dir").arg(dirs.runtime()).args(["--on-error", policy]);
        command.arg(dirs.mountpoint());
        let daemon = Daemon::run(dirs, command);
        let path = daemon.path("proc/meminfo");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o444);
        assert!(fs::read_dir(daemon.path("sys/devices/system/cpu")).unwrap().count() > 5);
        assert!(fs::metadata(daemon.path("sys/devices/system/cpu/cpu0")).is_ok());
        let read = fs::read_to_string(&path);
        if is_error {
            let errno = read.unwrap_err().raw_os_error();
            assert_eq!(errno, Some(Errno::IO.raw_os_error()));
        } else {
            assert_eq!(field(&read.unwrap(), "MemTotal:"), host_memory());
        }
        assert_eq!(fs::read(&path).is_err(), is_error);
        // A slow machine may be a cause of its own.
        let cause = "cannot show /proc/meminfo: the reader's pid namespace";
        let warnings = daemon.log().matches(cause).count();
        assert_eq!(warnings, 1, "{}", daemon.log());
    }
}

fn host_memory() -> u64 {
    field(&fs::read_to_string("/proc/meminfo").unwrap(), "MemTotal:")
}

// host
// └─ a
//    └─ container (its cgroup is removed, and made again with another limit)
#[test]
fn a_container_that_is_gone_leaves_nothing() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let daemon = Daemon::start(&[]);
    for limit in [64 * MIB, 96 * MIB, 32 * MIB] {
        let cgroup = tree.cgroup("a/container");
        cgroup.limit_memory(limit);
        let meminfo = daemon.in_container(&cgroup, "cat /proc/meminfo");
        assert_eq!(field(&meminfo, "MemTotal:"), limit / 1024);
        // By a process of the host that is in the same cgroup: the name is the container's id then.
        let script = format!("cat {}", daemon.path("proc/meminfo").display());
        let meminfo = run(Spawn::new().cgroup(&cgroup), &script);
        assert_eq!(field(&meminfo, "MemTotal:"), limit / 1024);
        cgroup.remove();
    }
}

// host
// ├─ one (64 MiB)   <- reads, moves to the other, and on while its first cgroup is removed
// └─ two (96 MiB)
#[test]
fn a_container_that_moves_is_followed() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let (one, two) = (tree.cgroup("one"), tree.cgroup("two"));
    one.limit_memory(64 * MIB);
    two.limit_memory(96 * MIB);
    let daemon = Daemon::start(&[]);
    let output = daemon.dirs().path("read");
    let (meminfo, into) = (daemon.path("proc/meminfo"), output.clone());
    // One thread, which reads again and again.
    let reader = Spawn::new().cgroup(&one).container().run(move || {
        let mut file = File::open(meminfo).unwrap();
        loop {
            let mut line = [0; 30];
            file.rewind().unwrap();
            let total = match file.read(&mut line) {
                Ok(read) => String::from_utf8_lossy(&line[..read]).into_owned(),
                Err(error) => error.to_string(),
            };
            fs::write(&into, total.lines().next().unwrap()).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
    });
    let sees = |total: u64| {
        let total = total.to_string();
        eventually(&total, || {
            let line = fs::read_to_string(&output).unwrap_or_default();
            assert!(line.is_empty() || line.starts_with("MemTotal:"), "{line}");
            line.contains(&total)
        });
    };
    sees(65_536);
    two.add(reader.pid());
    one.remove();
    sees(98_304);
    assert!(daemon.log().lines().all(|line| !line.contains("WARN")), "{}", daemon.log());
}

// Law 3.
#[test]
fn counters_do_not_go_back_over_a_restart() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["cpu", "cpuset"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpu(100_000);
    let container = Spawn::new().cgroup(&cgroup).container().run(pause);
    let mut daemon = Daemon::start(&[]);
    let stat = daemon.path("proc/stat");
    let read = || {
        let script = format!("cat {}", stat.display());
        let joined = Spawn::new().cgroup(&cgroup).join(&container, &["pid"]);
        cpu_times(&run(joined, &script))["cpu"].clone()
    };
    let mut last = read();
    for quota in [10_000, 100_000, 20_000] {
        thread::sleep(Duration::from_millis(300));
        cgroup.limit_cpu(quota);
        let (status, dirs) = daemon.end(Signal::TERM);
        assert_eq!(status.code(), Some(0));
        daemon = Daemon::start_in(dirs, &[]);
        let now = read();
        for (now, last) in now.iter().zip(&last) {
            assert!(now >= last, "{now} after {last}");
        }
        assert!(now.iter().sum::<u64>() < last.iter().sum::<u64>() + 3000, "{last:?} {now:?}");
        last = now;
    }
}

#[test]
fn usr2_turns_the_view_off_and_on() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(64 * MIB);
    let daemon = Daemon::start(&[]);
    let total = || field(&daemon.in_container(&cgroup, "cat /proc/meminfo"), "MemTotal:");
    assert_eq!(total(), 64 * 1024);
    daemon.signal(Signal::USR2);
    eventually("off", || daemon.log().contains("see the host's numbers"));
    assert_eq!(total(), host_memory());
    daemon.signal(Signal::USR2);
    eventually("on", || daemon.log().contains("see their own numbers again"));
    assert_eq!(total(), 64 * 1024);
}

/// Sets a trigger and waits for it; the result is an exit status.
fn wait_for_trigger(path: &Path, trigger: &[u8], seconds: i64) -> Result<bool, Errno> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap())
        .open(path)
        .map_err(|error| Errno::from_io_error(&error).unwrap())?;
    rustix::io::write(&file, trigger)?;
    if rustix::io::write(&file, trigger) != Err(Errno::BUSY) {
        return Err(Errno::EXIST);
    }
    let timeout = rustix::time::Timespec { tv_sec: seconds, tv_nsec: 0 };
    let mut waited = [PollFd::new(&file, PollFlags::PRI)];
    poll(&mut waited, Some(&timeout))?;
    Ok(waited[0].revents() == PollFlags::PRI)
}

// host
// └─ container (a tenth of a CPU)   <- two busy tasks, and one that waits for pressure
#[test]
fn a_trigger_on_pressure_goes_off() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["cpu", "unified"]) else { return };
    let cgroup = tree.cgroup("container");
    if !cgroup.dir("unified").join("cpu.pressure").exists() {
        skip("needs pressure of cgroups");
        return;
    }
    cgroup.limit_cpu(10_000);
    let daemon = Daemon::start(&["--enable-psi-poll"]);
    let path = daemon.path("proc/pressure/cpu");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
    let inside = |body: &dyn Fn() -> Result<bool, Errno>| {
        let process = Spawn::new().cgroup(&cgroup).container().run(|| match body() {
            Ok(true) => 0,
            Ok(false) => 1,
            Err(errno) => errno.raw_os_error(),
        });
        process.wait()
    };
    // Nothing happens, and so nothing is told.
    assert_eq!(inside(&|| wait_for_trigger(&path, b"some 1000000 2000000\0", 1)), 1);
    // What the kernel does not take.
    for text in ["some 1 20", "half 100000 2000000", "some 3000000 2000000"] {
        let refused = inside(&|| wait_for_trigger(&path, text.as_bytes(), 1));
        assert_eq!(refused, Errno::INVAL.raw_os_error(), "{text}");
    }
    let busy = inside(&|| {
        let burn = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let mut burners = [burn(), burn()];
        let fired = wait_for_trigger(&path, b"some 100000 2000000\0", 60);
        burners.iter_mut().for_each(|burner| burner.kill().unwrap());
        fired
    });
    assert_eq!(busy, 0);
    // Only pressure files take anything, though the mount is not read-only.
    let meminfo = daemon.path("proc/meminfo");
    let refused = OpenOptions::new().write(true).open(&meminfo).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    for refused in [
        fs::remove_file(&meminfo).unwrap_err(),
        fs::create_dir(daemon.path("proc/new")).unwrap_err(),
        File::create(daemon.path("proc/new")).unwrap_err(),
        fs::rename(&meminfo, daemon.path("proc/new")).unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(fs::metadata(&meminfo).unwrap().len(), 0);
}

#[test]
fn a_user_namespace_is_no_obstacle() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(64 * MIB);
    let daemon = Daemon::start(&[]);
    let spawn = Spawn::new().cgroup(&cgroup).new_namespaces(Namespaces::NEWUSER).container();
    let script = format!("cat {}", daemon.path("proc/meminfo").display());
    assert_eq!(field(&run(spawn, &script), "MemTotal:"), 64 * 1024);
}
