//! What the pressure files and `/proc/loadavg` tell of stalls and runnable tasks of known size.
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use cgview_compliance::{
    Container, Defect, MIB, Options, PATIENCE, Server, burn::burn, disk::Disk, text, under_test,
};
use cgview_testkit::{Process, Tree, skip};

// host
// └─ container (0.4 CPUs, 24 MiB)   <- two busy tasks; a task that reads a file larger than its memory
//
// Documentation/accounting/psi.rst: "In a system with a CONFIG_CGROUPS=y kernel and the cgroup2 filesystem mounted,
// pressure stall information is also tracked for tasks grouped into cgroups. Each subdirectory in the cgroupfs
// mountpoint contains cpu.pressure, memory.pressure, and io.pressure files; the format is the same as the
// /proc/pressure/ files."
#[test]
fn pressure_is_the_cgroups_own() {
    if !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["cpu", "memory", "unified"]) else { return };
    let cgroup = tree.cgroup("container");
    let dir = cgroup.dir("unified");
    if !dir.join("cpu.pressure").exists() {
        return skip("needs pressure of cgroups");
    }
    if under_test().lxcfs().is_some_and(|version| version < (6, 0, 0)) {
        return skip("lxcfs 5 has no pressure files");
    }
    let Some(mut disk) = Disk::new(64 * MIB) else { return };
    cgroup.limit_cpu(40_000).limit_memory(24 * MIB);
    let file = disk.mount().join("file");
    let mut writer = fs::File::create(&file).unwrap();
    for _ in 0..40 {
        std::io::Write::write_all(&mut writer, &vec![1; 1 << 20]).unwrap();
    }
    writer.sync_all().unwrap();
    rustix::fs::fadvise(&writer, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let _load: Vec<Process> = [
        container.enter().run(|| burn(1.0)),
        container.enter().run(|| burn(1.0)),
        container.enter().run(|| {
            loop {
                let mut file = fs::File::open(&file).unwrap();
                std::io::copy(&mut file, &mut std::io::sink()).unwrap();
            }
        }),
    ]
    .into();
    let stalled = |name: &str| {
        text::pressure(&fs::read_to_string(dir.join(format!("{name}.pressure"))).unwrap())["some"]
    };
    let end = Instant::now() + PATIENCE;
    while stalled("cpu") < 500_000 || stalled("memory") == 0 || stalled("io") == 0 {
        assert!(Instant::now() < end, "nothing stalls");
        thread::sleep(Duration::from_millis(20));
    }
    for (name, optional) in [("cpu", false), ("memory", false), ("io", false), ("irq", true)] {
        let own = dir.join(format!("{name}.pressure"));
        let Ok(before) = fs::read_to_string(&own) else {
            assert!(optional, "no {}", own.display());
            continue;
        };
        // The kernel's averages move every two seconds: between two looks that have the same, they are known.
        let averages = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.split(" total=").next().unwrap().to_owned()).collect()
        };
        let end = Instant::now() + PATIENCE;
        let mut before = before;
        loop {
            let seen = container.read(&format!("/proc/pressure/{name}"));
            let after = fs::read_to_string(&own).unwrap();
            let [low, now, high] = [&before, &seen, &after].map(|text| text::pressure(text));
            let kinds: Vec<&String> = now.keys().collect();
            let is_within = kinds.iter().all(|&kind| (low[kind]..=high[kind]).contains(&now[kind]));
            let is_own = is_within && low.len() == now.len();
            if name == "io" && Defect::new("W19").is_expected() {
                Defect::new("W19").judge(&format!("{seen}, and not {before}"), is_own, !is_own);
                break;
            }
            assert!(is_own, "{name}: {before}\n{seen}\n{after}");
            if averages(&before) == averages(&after) {
                println!("{name}: {seen}");
                assert_eq!(averages(&seen), averages(&before));
                break;
            }
            assert!(Instant::now() < end);
            before = after;
        }
    }
    // Others do not stall by that.
    let other = Container::start(&server, &tree.cgroup("other"));
    let totals = text::pressure(&other.read("/proc/pressure/cpu"));
    assert!(totals["some"] < stalled("cpu") / 2, "{totals:?}");
}

// host
// └─ container (a tenth of a CPU)
//    └─ two / three / four / five   <- 40 tasks that would like to run
//
// kernel/sched/loadavg.c: "avenrun[n] = avenrun[0] * exp_n + nr_active * (1 - exp_n)", every five seconds, with
// exp_n of e^(-5 s / 1 min) for the first.
#[test]
fn the_load_follows_the_kernels_curve() {
    const TASKS: u32 = 40;
    if !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["cpu", "pids"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_cpu(10_000);
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    let load = || text::Loadavg::new(&container.read("/proc/loadavg"));
    let first = load();
    assert!(first.averages[0] < 0.5, "{first:?}");
    let deep = tree.bare_cgroup("container/two/three/four/five");
    let begun = Instant::now();
    let burners: Vec<Process> =
        (0..TASKS).map(|_| container.enter_at(&deep).run(|| burn(1.0))).collect();
    let started = begun.elapsed();
    // Ever less of the past remains: after 60 s e^-1 of it.
    let runs = |since: Duration| {
        let whole = |time: Duration| f64::from(TASKS) * (1.0 - (-time.as_secs_f64() / 60.0).exp());
        // The average moves every five seconds, at a moment that nobody knows, and the tasks came one by one.
        let periods = |time: Duration| time.as_secs() / 5;
        let whole = |periods: u64| whole(Duration::from_secs(periods * 5));
        (whole(periods(since.saturating_sub(started))), whole(periods(since) + 1))
    };
    // A count of tasks may be 5 s old.
    let counted = started + Duration::from_secs(6);
    let mut seen = Vec::new();
    for seconds in [20, 40, 60] {
        thread::sleep(Duration::from_secs(seconds).max(counted).saturating_sub(begun.elapsed()));
        let before = begun.elapsed();
        let now = load();
        let (least, _) = runs(before);
        let (_, most) = runs(begun.elapsed());
        println!("{seconds} s: {now:?}, curve {least:.2} to {most:.2}");
        seen.push((now.averages[0], least * 0.95, most * 1.05, now));
    }
    drop(burners);
    let is_right = seen.iter().all(|&(load, least, most, now)| {
        load > least && load < most && now.total >= u64::from(TASKS)
    });
    let is_counted = seen.iter().all(|(.., now)| now.running >= u64::from(TASKS) - 2);
    // LXCFS counts three levels below the container.
    Defect::new("W23").judge(&format!("{seen:?}"), is_right && is_counted, !is_right);
}
