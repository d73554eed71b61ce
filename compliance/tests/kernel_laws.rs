//! Laws that hold for every file, whatever changes: docs/semantics.md, section 0.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cgview_compliance::{
    Container, Defect, MIB, Mount, Options, Server, burn::burn, text, truth, under_test,
};
use cgview_testkit::{Cgroup, Process, Spawn, Tree, is_guest, skip};

/// The laws hold in both mounts, and for numbers of whatever age.
macro_rules! in_all_settings {
    ($($setting:ident: $options:expr;)*) => {
        $(mod $setting {
            use super::*;

            #[test]
            fn counters_never_go_back() {
                super::counters_never_go_back(&$options);
            }

            #[test]
            fn all_files_agree() {
                super::all_files_agree(&$options);
            }

            #[test]
            fn no_number_is_impossible() {
                super::no_number_is_impossible(&$options);
            }
        })*
    };
}

in_all_settings! {
    shared: Options::new();
    shared_without_freshness: Options::new().freshness(Duration::ZERO);
    shared_with_old_numbers: Options::new().freshness(OLD);
    fast: Options::new().mount(Mount::Fast);
    fast_without_freshness: Options::new().mount(Mount::Fast).freshness(Duration::ZERO);
    fast_with_old_numbers: Options::new().mount(Mount::Fast).freshness(OLD);
}

/// So old that what changes meanwhile is missed.
const OLD: Duration = Duration::from_millis(300);

/// Whether what is under test can be started so: LXCFS can be in one way. Emulated machines have time for both mounts as
/// they come, and with one CPU for one of them; with `CGVIEW_LAWS_ALL` they take it.
fn is_possible(options: &Options) -> bool {
    let is_usual = *options == Options::new();
    let is_usual_fast = *options == Options::new().mount(Mount::Fast);
    let has_time = !is_guest()
        || is_usual
        || is_usual_fast && truth::online().len() > 1
        || std::env::var_os("CGVIEW_LAWS_ALL").is_some();
    if !has_time {
        skip("an emulated machine has no time for it");
        return false;
    }
    Server::is_possible() && (under_test().is_cgview() || is_usual)
}

/// How often to look: in the setting that most have oftener than in the others.
fn often(options: &Options, most: u32) -> u32 {
    if *options == Options::new() { most } else { most / 10 }
}

/// Counters by file and name.
type Counters = BTreeMap<String, u64>;

/// The counters that a reader sees: CPU times of all CPUs together and of the first, events of memory. That
/// the CPUs add up is checked on the way.
fn counters(proc: &Path) -> std::io::Result<Counters> {
    let read = |name: &str| fs::read_to_string(proc.join(name));
    let stat = text::Stat::new(&read("stat")?);
    let mut counters = Counters::new();
    for (column, total) in stat.total.iter().enumerate() {
        let sum: u64 = stat.cpus.values().map(|times| times[column]).sum();
        assert_eq!(*total, sum, "column {column} of {stat:?}");
        counters.insert(format!("cpu {column}"), *total);
    }
    // Others come and go, and begin at 0 then.
    let first = stat.cpus[&0].iter().enumerate();
    counters.extend(first.map(|(column, time)| (format!("cpu0 {column}"), *time)));
    // proc(5): "Number of forks since boot."
    counters.insert("processes".into(), stat.others["processes"]);
    let uptime = read("uptime")?;
    for (name, seconds) in ["uptime", "idle"].into_iter().zip(uptime.split_whitespace()) {
        counters.insert(name.to_owned(), seconds.replace('.', "").parse().unwrap());
    }
    let vmstat = text::numbers(&read("vmstat")?).into_iter();
    let events = vmstat.filter(|(name, _)| !name.starts_with("nr_"));
    counters.extend(events.map(|(name, value)| (format!("vmstat {name}"), value)));
    Ok(counters)
}

/// What of `before` has gone back in `now`.
fn gone_back(before: &Counters, now: &Counters) -> Vec<String> {
    let pairs = now.iter().filter_map(|(name, now)| Some((name, before.get(name)?, now)));
    let back = pairs.filter(|(_, before, now)| now < before);
    back.map(|(name, before, now)| format!("{name}: {before}, then {now}")).collect()
}

/// What a reader saw, told at its end: how often it looked, and what went back, with the times of the two looks.
#[derive(Debug, Default)]
struct Report {
    looks: u32,
    missed: u32,
    back: Vec<(Duration, Duration, String)>,
}

impl Report {
    /// Looks at all counters again and again. While the server is started again, there is nothing to see.
    fn of(proc: &Path, looks: u32) -> Report {
        let (mut report, mut last, mut last_at) =
            (Report::default(), Counters::new(), Duration::ZERO);
        while report.looks < looks {
            let at = truth::boottime();
            match counters(proc) {
                Ok(now) => {
                    let back = gone_back(&last, &now).into_iter();
                    report.back.extend(back.map(|what| (last_at, truth::boottime(), what)));
                    (last, last_at) = (now, at);
                    report.looks += 1;
                }
                Err(error) => {
                    report.missed += 1;
                    assert!(report.missed < 20_000, "{error}");
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
        report
    }

    /// As text for the test, with the changes that were made from a second before a look to its end.
    fn told(&self, changes: &[(Duration, String)]) -> String {
        let mut text = format!(
            "{} looks, {} in vain, {} changes, {} counters went back",
            self.looks,
            self.missed,
            changes.len(),
            self.back.len()
        );
        for (before, now, what) in self.back.iter().take(10) {
            let from = before.saturating_sub(Duration::from_secs(1));
            write!(text, "\n{before:?} to {now:?}: {what}; changed:").unwrap();
            for (at, change) in changes.iter().filter(|(at, _)| (from..=*now).contains(at)) {
                write!(text, " {at:?} {change};").unwrap();
            }
        }
        text
    }

    fn write(&self, path: &Path) {
        let mut text = format!("{} {}\n", self.looks, self.missed);
        for (before, now, what) in &self.back {
            writeln!(text, "{} {} {what}", before.as_micros(), now.as_micros()).unwrap();
        }
        fs::write(path, text).unwrap();
    }

    fn read(path: &Path) -> Report {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let (looks, missed) = lines.next().unwrap().split_once(' ').unwrap();
        let back = lines.map(|line| {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let time = |at: usize| Duration::from_micros(words[at].parse().unwrap());
            (time(0), time(1), words[2].to_owned())
        });
        Report {
            looks: looks.parse().unwrap(),
            missed: missed.parse().unwrap(),
            back: back.collect(),
        }
    }
}

/// Written by the test that turns CPUs off and on, and read by those whose containers would have fewer then.
static CPUS: RwLock<()> = RwLock::new(());

/// Sees to it that no CPU comes or goes.
fn hold_cpus() -> RwLockReadGuard<'static, ()> {
    CPUS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Whether CPUs may be turned off and on here.
fn may_unplug() -> bool {
    is_guest() && truth::online().len() >= 4
}

/// Changes something, another thing with each number, and says what.
fn change(
    number: usize,
    tree: &Tree,
    container: &Cgroup,
    others: &[Cgroup; 2],
    burner: &Process,
) -> String {
    let cpus = truth::online();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    // What is refused (a list with a CPU that has just gone) changes nothing, which is as good.
    let put = |controller: &str, v1: &str, v2: &str, value: &str| {
        let name = if tree.is_v1(controller) { v1 } else { v2 };
        let written = fs::write(container.dir(controller).join(name), value);
        format!("{value} > {name}: {written:?}")
    };
    let set = |list: &str| put("cpuset", "cpuset.cpus", "cpuset.cpus", list);
    let quota = |quota: u64| {
        container.limit_cpu(quota);
        format!("quota {quota}")
    };
    let memory = |mib: u64| {
        container.limit_memory(mib * MIB);
        format!("{mib} MiB")
    };
    let to = |place: usize| {
        others[place].add(burner.pid());
        format!("the burner to {}", others[place].path())
    };
    let unplug = |cpu: u32, on: &str| {
        if may_unplug() {
            fs::write(format!("/sys/devices/system/cpu/cpu{cpu}/online"), on).unwrap();
        }
        format!("CPU {cpu}: {on}")
    };
    match number % 16 {
        0 => quota(60_000),
        1 => set(&first.to_string()),
        2 => to(0),
        3 => unplug(3, "0"),
        4 => quota(150_000),
        5 => memory(200),
        6 => set(&format!("{first}-{last}")),
        7 => to(1),
        8 => unplug(1, "0"),
        9 => {
            put("cpu", "cpu.cfs_quota_us", "cpu.max", if tree.is_v1("cpu") { "-1" } else { "max" })
        }
        10 => unplug(3, "1"),
        11 => set(&last.to_string()),
        12 => memory(300),
        13 => unplug(1, "1"),
        14 => quota(70_000),
        _ => set(&format!("{first}-{last}")),
    }
}

// host
// ├─ container (limits that change; CPUs that come and go)
// │  ├─ init                  <- looks at all counters
// │  └─ below                 <- a busy task that moves
// └─ neighbour                <- to there and back
//
// Law 3: "Counters never go back for a reader while its container lives."
fn counters_never_go_back(options: &Options) {
    // Three files each: ten thousand reads. Emulated machines do with fewer.
    let looks = often(options, if is_guest() { 300 } else { 3400 });
    if !is_possible(options) {
        return;
    }
    let _alone = may_unplug().then(|| CPUS.write().unwrap_or_else(PoisonError::into_inner));
    let Some(tree) = Tree::with(&["cpu", "cpuset", "memory"]) else { return };
    let cgroup = tree.cgroup("container");
    let (init, below) = (tree.cgroup("container/init"), tree.cgroup("container/below"));
    let others = [tree.cgroup("neighbour"), below.clone()];
    let mut server = Server::start(options);
    let container = Container::with(&server, &init, Spawn::new().cgroup(&init).container());
    let burner = Spawn::new().cgroup(&below).run(|| burn(0.3));
    let file = server.runtime().join("report");
    let (proc, into) = (server.proc(&init), file.clone());
    // The files as the host has them mounted, since the binds may end with the server.
    let reader = Spawn::new().cgroup(&init).join(container.init(), &["pid"]);
    let reader = reader.run(|| {
        Report::of(&proc, looks).write(&into);
        0
    });
    let done = AtomicBool::new(false);
    let mut changes = Vec::new();
    let status = thread::scope(|scope| {
        let ends = scope.spawn(|| {
            let status = reader.wait();
            done.store(true, Ordering::Relaxed);
            status
        });
        // Which takes an emulated machine as long as all the rest.
        let starts_anew = |number| match (is_guest(), looks < 300) {
            (true, false) => [60, 180].contains(&number),
            (true, true) => number == 20,
            (false, _) => number % 200 == 20,
        };
        while !done.load(Ordering::Relaxed) {
            let number = changes.len();
            let what = change(number, &tree, &cgroup, &others, &burner);
            changes.push((truth::boottime(), what));
            if starts_anew(number) {
                server.restart();
                changes.push((truth::boottime(), "started anew".into()));
            }
            thread::sleep(Duration::from_millis(15));
        }
        ends.join().unwrap()
    });
    (0..16).for_each(|number| drop(change(number, &tree, &cgroup, &others, &burner)));
    assert_eq!(
        status,
        0,
        "the reader's message is on the standard error; the server: {}",
        server.log()
    );
    let report = Report::read(&file);
    let is_right = report.back.is_empty();
    // The state of LXCFS is lost when it ends.
    Defect::new("W24").judge(&report.told(&changes), is_right, !is_right);
}

/// What a container is told of its CPUs, by all that tells it.
fn counts_of_cpus(container: &Container) -> BTreeMap<String, usize> {
    let stat = text::Stat::new(&container.read("/proc/stat"));
    let cpuinfo = text::processors(&container.read("/proc/cpuinfo"));
    let mut counts = BTreeMap::from([
        ("stat".to_owned(), stat.cpus.len()),
        ("cpuinfo".to_owned(), cpuinfo.len()),
    ]);
    for name in ["online", "possible", "present"] {
        let list = container.read(&format!("/sys/devices/system/cpu/{name}"));
        counts.insert(name.to_owned(), text::list(&list).len());
    }
    // Of programs: lscpu(1) goes by sysfs, getconf(1) is sysconf(3).
    let said = container.run(
        "LC_ALL=C; export LC_ALL; cd /sys/devices/system; set -e; \
         echo cpuN $(ls -d cpu/cpu[0-9]* | wc -l); echo nodes $(cat node/node*/cpulist); \
         echo lscpu $(lscpu | sed -n 's/^CPU(s): *//p'); echo conf $(getconf _NPROCESSORS_CONF); \
         echo onln $(getconf _NPROCESSORS_ONLN)",
    );
    for line in said.lines() {
        let (name, value) = line.split_once(' ').unwrap();
        let count = match name {
            "nodes" => value.split(' ').flat_map(text::list).count(),
            _ => value.parse().unwrap(),
        };
        counts.insert(name.to_owned(), count);
    }
    counts
}

/// What a container is told of its memory, in KiB, by all that tells it.
fn memory_totals(container: &Container) -> BTreeMap<String, u64> {
    let meminfo = text::numbers(&container.read("/proc/meminfo"));
    let said = container
        .run("cat /sys/devices/system/node/node*/meminfo; LC_ALL=C free -k; vmstat -s -S K");
    let words: Vec<Vec<&str>> =
        said.lines().map(|line| line.split_whitespace().collect()).collect();
    let nodes = words.iter().filter(|line| line.get(2) == Some(&"MemTotal:"));
    let free = words.iter().find(|line| line.first() == Some(&"Mem:")).unwrap();
    let vmstat = words.iter().find(|line| line.ends_with(&["total", "memory"])).unwrap();
    BTreeMap::from([
        ("meminfo".to_owned(), meminfo["MemTotal"]),
        ("nodes".to_owned(), nodes.map(|line| line[3].parse::<u64>().unwrap()).sum()),
        ("free".to_owned(), free[1].parse().unwrap()),
        ("vmstat".to_owned(), vmstat[0].parse().unwrap()),
    ])
}

// host
// └─ container (one limit after another)   <- reads all files
//
// Law 4: "CPU count, memory and age are computed in one place; all files agree at any moment."
fn all_files_agree(options: &Options) {
    if !is_possible(options) {
        return;
    }
    let _held = hold_cpus();
    let Some(tree) = Tree::with(&["cpu", "cpuset", "memory"]) else { return };
    let cgroup = tree.cgroup("container");
    let server = Server::start(options);
    let container = Container::start(&server, &cgroup);
    let online = truth::online();
    let (first, last) = (online[0], online[online.len() - 1]);
    let sets = [format!("{first}-{last}"), last.to_string()];
    let mut wrong = Vec::new();
    for (set, quota, limit) in [
        (0, u64::MAX, 64),
        (0, 150_000, 96),
        (1, 150_000, 128),
        (1, u64::MAX, 80),
        (0, 50_000, 200),
        (0, 300_000, 64),
    ] {
        cgroup.limit_cpus(&sets[set]).limit_memory(limit * MIB);
        match quota {
            u64::MAX => {
                cgroup.write(
                    "cpu",
                    "cpu.cfs_quota_us",
                    "cpu.max",
                    if tree.is_v1("cpu") { "-1" } else { "max" },
                );
            }
            quota => drop(cgroup.limit_cpu(quota)),
        }
        thread::sleep(server.age());
        let size = text::list(&sets[set]).len();
        let meant = size.min(usize::try_from(quota.div_ceil(100_000)).unwrap());
        let mut counts = counts_of_cpus(&container);
        if meant == size {
            // sched_getaffinity(2), which knows nothing of quotas.
            counts.insert("nproc".into(), container.run("nproc").trim().parse().unwrap());
        }
        let totals = memory_totals(&container);
        let seen = format!("CPUs {set}, quota {quota}, {limit} MiB: {counts:?}, {totals:?}");
        println!("{seen}");
        let agree = counts.values().all(|&count| count == meant)
            && totals.values().all(|&total| total == limit * 1024);
        if !agree {
            wrong.push(seen);
        }
    }
    // LXCFS has numbers for a few of these files only, and no nodes (W32).
    Defect::new("W25").judge(&format!("{wrong:#?}"), wrong.is_empty(), !wrong.is_empty());
}

// host
// └─ container (1.5 CPUs, 96 MiB)   <- a task that burns 0.7 CPUs; page cache, swapped where there is swap
//
// Law 2: "No wrap-around, nothing negative, MemFree <= MemAvailable <= MemTotal, no part larger than its whole."
fn no_number_is_impossible(options: &Options) {
    let looks = often(options, if is_guest() { 80 } else { 300 });
    if !is_possible(options) {
        return;
    }
    let _held = hold_cpus();
    let Some(tree) = Tree::with(&["cpu", "cpuset", "memory"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpu(150_000).limit_memory(96 * MIB);
    let server = Server::start(options);
    let container = Container::start(&server, &cgroup);
    // 120 MiB of cache, again and again: it is at its limit all the time.
    let script = "while :; do dd if=/dev/zero of=$FILE bs=1M count=120 status=none; rm $FILE; done";
    let file = server.runtime().join("cache");
    let script = script.replace("$FILE", file.to_str().unwrap());
    let _load = [
        container.enter().run(|| burn(0.7)),
        container.enter().run(|| {
            let mut command = std::process::Command::new("sh");
            let _ = std::os::unix::process::CommandExt::exec(command.arg("-c").arg(&script));
            101
        }),
    ];
    let cpus = 2.0_f64.min(truth::online().len() as f64);
    for _ in 0..looks {
        let meminfo = text::numbers(&container.read("/proc/meminfo"));
        let of =
            |names: &[&str]| names.iter().map(|name| meminfo.get(*name).unwrap_or(&0)).sum::<u64>();
        let (total, free) = (of(&["MemTotal"]), of(&["MemFree"]));
        assert!(free <= of(&["MemAvailable"]) && of(&["MemAvailable"]) <= total, "{meminfo:?}");
        // "used" of older programs, which do not check for less than nothing.
        assert!(of(&["MemFree", "Buffers", "Cached", "SReclaimable"]) <= total, "{meminfo:?}");
        assert!(of(&["SwapFree", "SwapCached"]) <= of(&["SwapTotal"]), "{meminfo:?}");
        let lists =
            ["Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable"];
        assert!(of(&lists) <= total, "{meminfo:?}");
        assert!(of(&["Active", "Inactive", "Unevictable"]) == of(&lists), "{meminfo:?}");
        for (part, whole) in [
            ("Mlocked", "Unevictable"),
            ("Shmem", "Cached"),
            ("SReclaimable", "Slab"),
            ("AnonHugePages", "AnonPages"),
            ("Dirty", "MemTotal"),
            ("Writeback", "MemTotal"),
            ("Mapped", "MemTotal"),
            ("Zswapped", "SwapTotal"),
        ] {
            assert!(of(&[part]) <= of(&[whole]), "{part} in {meminfo:?}");
        }
        let swaps = container.read("/proc/swaps");
        let sizes = swaps.lines().skip(1).map(|row| row.split_whitespace().nth(2).unwrap());
        let size: u64 = sizes.map(|size| size.parse::<u64>().unwrap()).sum();
        assert_eq!(size, of(&["SwapTotal"]), "{swaps}");
        let (age, idle) = text::uptime(&container.read("/proc/uptime"));
        assert!(idle.as_secs_f64() <= age.as_secs_f64() * cpus + 0.01, "{age:?} {idle:?}");
        let stat = text::Stat::new(&container.read("/proc/stat"));
        let sum: u64 = stat.total.iter().sum();
        let age = truth::age(container.init().pid()).as_secs_f64();
        // In ticks, each column rounded down.
        assert!(sum as f64 <= (age + 0.02) * 100.0 * cpus, "{age} {stat:?}");
        assert!(stat.total.iter().all(|&time| time <= sum), "{stat:?}");
    }
}
