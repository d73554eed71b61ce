//! What `/proc/stat`, `uptime` and `loadavg` say, whatever the host's text and the files of cgroups are: sections 5 to 7
//! of `docs/semantics.md`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod cpu_container;

use std::fmt::Write as _;

use cgview_core::{
    Cpus, File, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    loadavg::LoadAverage,
    parse::{cpu_stat, cpuacct_per_cpu, cpuacct_usage_all, cpuacct_usage_percpu},
    policy::StealPolicy,
    snapshot::{CpuUsage, Tasks, Version},
    stat_outline,
    tree::ProcFile,
};
use cpu_container::{Container, HOST_STAT, SECOND, cgroup, kinds, render};
use proptest::{collection::vec, prelude::*};

proptest! {
    #[test]
    fn any_bytes_will_do(host: Vec<u8>, spaced in "(cpu[0-9]{0,2}|intr|btime|processes|x)([ \t]{1,2}[0-9.-]{0,22}){0,12}\n?", offset: i64) {
        let _ = (cpu_stat(&host), cpuacct_usage_all(&host), cpuacct_usage_percpu(&host));
        let _ = LoadAverage::estimated(Usec(1), Usec(u64::MAX), u64::MAX, u32::MAX, &host);
        let container = Container::new(Version::V2, Limit::At(150), 4);
        let mut state = CpuView::default();
        container.read(&mut state);
        let (snapshot, cpus, load) = (container.snapshot(), container.limits(), LoadAverage::default());
        let mut reader = Reader::default();
        reader.timens.boottime = offset;
        let whole = (Snapshot::default(), CpuLimits::of(&Snapshot::default(), &Container::host(), &Policy::default()));
        for (snapshot, cpus) in [(&snapshot, &cpus), (&whole.0, &whole.1)] {
            let view = View {
                snapshot,
                now: Usec::ZERO,
                host: &Container::host(),
                policy: &Policy::default(),
                cpus,
                cpu_view: &state,
                load: Some(&load),
                reader,
            };
            for host in [&host[..], spaced.as_bytes()] {
                for file in [ProcFile::Stat, ProcFile::Uptime, ProcFile::Loadavg] {
                    let mut out = Vec::new();
                    view.render(File::Proc(file), host, &mut out).unwrap();
                }
            }
        }
    }

    /// Whoever keeps the outline of the host's text renders what the text itself gives.
    #[test]
    fn an_outline_renders_to_the_same(host in "((cpu[0-9]{0,2}|intr|btime|ctxt|procs_running|x)([ \t]{1,2}[0-9.-]{0,22}){0,12}\n){0,12}(cpu[0-9]{0,2}|y 7)?") {
        let outline = stat_outline(host.as_bytes());
        prop_assert_eq!(stat_of(&outline), stat_of(host.as_bytes()));
        // There is nothing in it that a container is not told.
        prop_assert_eq!(&stat_outline(&outline), &outline);
        let cpus = outline.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"cpu"));
        prop_assert!(cpus.count() <= 1);
    }

    /// Lines that are not of the container keep their shape: the host's columns, and nothing but zeros.
    #[test]
    fn unknown_lines_keep_their_shape(numbers in vec(any::<u32>(), 0..200), name in "[a-b][a-z_]{0,8}") {
        let mut line = name;
        numbers.iter().for_each(|number| write!(line, " {number}").unwrap());
        if line.starts_with("btime") {
            return Ok(());
        }
        let text = stat_of(line.as_bytes());
        let words: Vec<&str> = text.split(' ').collect();
        prop_assert_eq!(words.len(), numbers.len() + 1);
        prop_assert!(words[1..].iter().all(|&word| word == "0"));
    }

    /// The load follows the kernel's curve: its formula with real numbers, where rounding can add up to
    /// a whole step each time.
    #[test]
    fn the_load_follows_the_kernels_curve(counts in vec((0..20u64, 1..200usize), 1..12)) {
        let mut load = LoadAverage::seeded(Usec::ZERO, [0; 3]);
        let mut exact = [0.0_f64; 3];
        let mut now = 0;
        for (active, periods) in counts {
            for _ in 0..periods {
                now += 5 * SECOND;
                load.step(Usec(now), active);
                for (exact, weight) in exact.iter_mut().zip([1884.0, 2014.0, 2037.0]) {
                    // In parts of 2048, rounded towards the present number.
                    let target = active_f64(active) * 2048.0;
                    let mixed = (*exact * weight + target * (2048.0 - weight)) / 2048.0;
                    *exact = if target >= *exact { mixed.ceil() } else { mixed.floor() };
                }
            }
            for (shown, exact) in load.hundredths().into_iter().zip(exact) {
                let shown = f64::from(u32::try_from(shown).unwrap()) / 100.0;
                prop_assert!((shown - exact / 2048.0).abs() <= 0.01, "{shown} {}", exact / 2048.0);
            }
        }
    }
}

/// What a container of 1.5 CPUs sees in place of that text of the host's.
fn stat_of(host: &[u8]) -> String {
    let container = Container::new(Version::V2, Limit::At(150), 4);
    let mut state = CpuView::default();
    container.read(&mut state);
    let (snapshot, cpus) = (container.snapshot(), container.limits());
    let view = View {
        snapshot: &snapshot,
        now: Usec::ZERO,
        host: &Container::host(),
        policy: &Policy::default(),
        cpus: &cpus,
        cpu_view: &state,
        load: None,
        reader: Reader::default(),
    };
    render(&view, ProcFile::Stat, host)
}

fn active_f64(active: u64) -> f64 {
    f64::from(u32::try_from(active).unwrap())
}

/// The rising curve of one busy task, in real numbers: `1 - exp(-t / 1 min)`.
#[test]
fn a_busy_task_raises_the_load_as_on_a_machine() {
    let mut load = LoadAverage::seeded(Usec::ZERO, [0; 3]);
    for seconds in (5..=600u32).step_by(5) {
        load.step(Usec::from_secs(u64::from(seconds)), 1);
        let exact = 1.0 - (-f64::from(seconds) / 60.0).exp();
        let shown = f64::from(u32::try_from(load.hundredths()[0]).unwrap()) / 100.0;
        assert!((shown - exact).abs() <= 0.01, "{seconds} s: {shown} {exact}");
    }
}

/// What the files of cgroup v1 and v2 say of one situation, read and shown.
#[test]
fn the_files_of_both_versions_tell_the_same() {
    let (total, throttled) =
        cpu_stat(b"usage_usec 5000000\nuser_usec 4000000\nsystem_usec 1000000\n").unwrap();
    let per_cpu = cpuacct_per_cpu(
        &cpuacct_usage_percpu(b"2000000000 3000000000 \n").unwrap(),
        &cpuacct_usage_all(b"cpu user system\n0 1600000000 400000000\n1 2400000000 600000000\n")
            .unwrap(),
    );
    let limits = CpuLimits {
        set: Mask::first(2),
        visible: Mask::first(2),
        entitlement: Cpus::whole(2),
        ..CpuLimits::default()
    };
    let shown = |version, per_cpu| {
        let cgroup = cgroup("/app", version);
        let usage = CpuUsage { cgroup, total, per_cpu, throttled };
        let mut state = CpuView::default();
        state.step(Usec(10 * SECOND), Usec::ZERO, &limits, Some(&usage), StealPolicy::Zero);
        (kinds(&state), state.idle())
    };
    assert_eq!(shown(Version::V1, per_cpu), ([4 * SECOND, 0, SECOND], Usec(15 * SECOND)));
    assert_eq!(shown(Version::V2, Vec::new()), ([4 * SECOND, 0, SECOND], Usec(15 * SECOND)));
}

/// Tasks and pids are the container's, and the reader runs.
#[test]
fn loadavg_and_stat_agree_on_tasks() {
    let container = Container::new(Version::V2, Limit::At(150), 4);
    let tasks = Tasks { running: 0, blocked: 2, total: 9, last_pid: 31 };
    let snapshot = Snapshot { tasks: Some(tasks), ..container.snapshot() };
    let load = LoadAverage::seeded(Usec::ZERO, [5, 123, 1000]);
    let view = View {
        snapshot: &snapshot,
        now: Usec::ZERO,
        host: &Container::host(),
        policy: &Policy::default(),
        cpus: &container.limits(),
        cpu_view: &CpuView::default(),
        load: Some(&load),
        reader: Reader::default(),
    };
    let host = b"0.11 0.37 0.25 1/102 14584\n";
    assert_eq!(render(&view, ProcFile::Loadavg, host), "0.05 1.23 10.00 1/9 31\n");
    let stat = render(&view, ProcFile::Stat, HOST_STAT);
    assert!(stat.ends_with("processes 31\nprocs_running 1\nprocs_blocked 2\nsoftirq 0 0 0\n"));
}
