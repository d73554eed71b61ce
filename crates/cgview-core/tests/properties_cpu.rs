//! The laws of `docs/semantics.md` for CPU times, uptime and load: sections 0, 5, 6 and 7.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{fmt::Write as _, sync::Arc};

use cgview_core::{
    Cpus, File, HostFacts, Limit, Mask, Policy, Reader, Snapshot, Usec, View,
    cpu_view::{CpuView, VisibleCpu},
    effective::CpuLimits,
    loadavg::LoadAverage,
    parse::{cpu_stat, cpuacct_per_cpu, cpuacct_usage_all, cpuacct_usage_percpu},
    policy::StealPolicy,
    snapshot::{Cgroup, CpuLevel, CpuTime, CpuUsage, Cpuset, Tasks, Version},
    tree::ProcFile,
};
use proptest::{collection::vec, prelude::*};

const SECOND: u64 = 1_000_000;
/// As much usage may wait to be shown, in seconds of the entitlement: `CpuView::pending`.
const PENDING: u64 = 4;

const HOST_STAT: &[u8] = b"cpu  27160 0 6204 285354 672 0 139 72 0 0\n\
    cpu0 16056 0 2835 140779 110 0 39 38 0 0\n\
    cpu1 11103 0 3369 144574 561 0 100 33 0 0\n\
    intr 617398 0 0 25 1\n\
    ctxt 1286504\n\
    btime 1795401513\n\
    processes 14584\n\
    procs_running 3\n\
    procs_blocked 0\n\
    softirq 770952 0 83758\n";

fn cgroup(path: &str, version: Version) -> Arc<Cgroup> {
    Arc::new(Cgroup { path: path.into(), version })
}

/// A container on a host of 8 CPUs, as the kernel accounts for it.
#[derive(Clone, Debug)]
struct Container {
    version: Version,
    path: String,
    /// In hundredths of a CPU.
    quota: Limit<u64>,
    set: Mask,
    now: u64,
    started: u64,
    /// By physical CPU: user, nice and system time.
    used: Vec<[u64; 3]>,
    throttled: u64,
    policy: Policy,
}

impl Container {
    fn new(version: Version, quota: Limit<u64>, cpus: u32) -> Container {
        Container {
            version,
            path: "/app".into(),
            quota,
            set: Mask::first(cpus),
            now: 100 * SECOND,
            started: 100 * SECOND,
            used: vec![[0; 3]; 8],
            throttled: 0,
            policy: Policy::default(),
        }
    }

    fn host() -> HostFacts {
        HostFacts { online: Mask::first(8), ..HostFacts::default() }
    }

    fn snapshot(&self) -> Snapshot {
        let cgroup = cgroup(&self.path, self.version);
        let time = |kinds: &[u64; 3]| CpuTime {
            user: Usec(kinds[0]),
            nice: Usec(kinds[1]),
            system: Usec(kinds[2]),
        };
        let total = self.used.iter().fold([0; 3], |sum: [u64; 3], kinds| {
            [0, 1, 2].map(|kind| sum[kind].saturating_add(kinds[kind]))
        });
        let per_cpu = match self.version {
            Version::V1 => (0..).zip(self.used.iter().map(time)).collect(),
            Version::V2 => Vec::new(),
        };
        let quota = match self.quota {
            Limit::At(hundredths) => Limit::At(Usec(hundredths * 1000)),
            Limit::Max => Limit::Max,
        };
        Snapshot {
            taken: Usec(self.now),
            started: Some(Usec(self.started)),
            cpu: vec![CpuLevel { cgroup: cgroup.clone(), quota, period: Usec(100_000) }],
            cpuset: Some(Cpuset {
                cgroup: cgroup.clone(),
                cpus: self.set.clone(),
                mems: Mask::new(),
            }),
            cpu_usage: Some(CpuUsage {
                cgroup,
                total: time(&total),
                per_cpu,
                throttled: Usec(self.throttled),
            }),
            ..Snapshot::default()
        }
    }

    fn limits(&self) -> CpuLimits {
        CpuLimits::of(&self.snapshot(), &Self::host(), &self.policy)
    }

    fn usage(&self) -> u64 {
        self.used.iter().flatten().fold(0, |sum: u64, &time| sum.saturating_add(time))
    }

    /// What a reader sees now.
    fn read(&self, state: &mut CpuView) -> Stat {
        let stat = self.read_late(state);
        let visible = self.limits().visible.len() as usize;
        assert_eq!(stat.cpus.len(), visible, "one line for each visible CPU");
        stat
    }

    /// What a reader sees whose snapshot may be older than the state.
    fn read_late(&self, state: &mut CpuView) -> Stat {
        let snapshot = self.snapshot();
        let cpus = self.limits();
        let usage = snapshot.cpu_usage.as_ref();
        state.step(snapshot.taken, Usec(self.started), &cpus, usage, self.policy.steal);
        let host = Self::host();
        let view = View {
            snapshot: &snapshot,
            host: &host,
            policy: &self.policy,
            cpus: &cpus,
            cpu_view: state,
            load: None,
            reader: Reader::default(),
        };
        let text = render(&view, ProcFile::Stat, HOST_STAT);
        let uptime = render(&view, ProcFile::Uptime, b"1604.33 2853.54\n");
        Stat::parse(&text, &uptime)
    }
}

fn render(view: &View<'_>, file: ProcFile, host: &[u8]) -> String {
    let (mut text, mut explained) = (Vec::new(), Vec::new());
    view.render(File::Proc(file), host, &mut text).unwrap();
    view.explain(File::Proc(file), host, &mut explained).unwrap();
    assert_eq!(text, explained);
    String::from_utf8(text).unwrap()
}

/// `/proc/stat` and `/proc/uptime` as a reader understands them.
#[derive(Clone, Debug)]
struct Stat {
    cpus: Vec<Vec<u64>>,
    uptime: u64,
}

const IDLE: usize = 3;

impl Stat {
    /// Checks what holds for every text.
    fn parse(text: &str, uptime: &str) -> Stat {
        let of_host = String::from_utf8_lossy(HOST_STAT);
        let names = |text: &str| -> Vec<String> {
            let name = |line: &str| line.split(' ').next().unwrap().to_owned();
            text.lines()
                .map(name)
                .filter(|name| name == "cpu" || !name.starts_with("cpu"))
                .collect()
        };
        assert_eq!(names(text), names(&of_host), "the host's lines in their order");
        let mut sum = None;
        let mut cpus = Vec::new();
        for line in text.lines() {
            let (name, times) = line.split_once(' ').unwrap();
            let numbers = || times.split_ascii_whitespace().map(|word| word.parse().unwrap());
            match name.strip_prefix("cpu") {
                Some("") => sum = Some(numbers().collect::<Vec<u64>>()),
                Some(number) => {
                    assert_eq!(number.parse(), Ok(cpus.len()), "numbered from 0");
                    cpus.push(numbers().collect());
                }
                None => {}
            }
        }
        let sum = sum.unwrap();
        assert_eq!(sum.len(), 10, "the host's columns");
        for (column, &sum) in sum.iter().enumerate() {
            let of_cpus: u64 = cpus.iter().map(|cpu: &Vec<u64>| cpu[column]).sum();
            assert_eq!(sum, of_cpus, "column {column} of cpu is the sum of cpuN");
        }
        for cpu in &mut cpus {
            assert!(cpu[IDLE] > 0, "sysstat would take it for offline: {cpu:?}");
            cpu[IDLE] -= 1;
        }
        let idle_ticks: u64 = cpus.iter().map(|cpu| cpu[IDLE]).sum();
        let hundredths = |word: &str| -> u64 {
            let (whole, part) = word.split_once('.').unwrap();
            assert_eq!(part.len(), 2);
            whole.parse::<u64>().unwrap() * 100 + part.parse::<u64>().unwrap()
        };
        let (up, idle) = uptime.trim_end().split_once(' ').unwrap();
        assert_eq!(hundredths(idle), idle_ticks, "uptime and stat agree on idle time");
        Stat { cpus, uptime: hundredths(up) }
    }

    fn sum(&self, columns: &[usize]) -> u64 {
        self.cpus.iter().flat_map(|cpu| columns.iter().map(|&column| cpu[column])).sum()
    }

    /// Lines that both have, and the sum, do not go back.
    fn assert_not_before(&self, before: &Stat) {
        for (now, before) in self.cpus.iter().zip(&before.cpus) {
            assert!(
                now.iter().zip(before).all(|(now, before)| now >= before),
                "{before:?} {now:?}"
            );
        }
        for column in 0..10 {
            let (before, now) = (before.sum(&[column]), self.sum(&[column]));
            assert!(now >= before, "column {column} of cpu: {before} {now}");
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Time(u64),
    /// A reader comes with a snapshot that is as old as this.
    Late(u64),
    /// The clock is another one, by more than a reader can be late.
    Clock(u64),
    /// Burns this share, in percent of the time until now, of a kind on a CPU.
    Burn {
        cpu: usize,
        kind: usize,
        time: u64,
    },
    Throttle(u64),
    Quota(Limit<u64>),
    Set(u32, u32),
    Move(u8),
    Forget,
    Kinds(usize),
    Version(bool),
    Steal(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let time = prop_oneof![0..2000u64, 0..SECOND, 0..20 * SECOND];
    let quota = prop_oneof![
        Just(Limit::Max),
        (0..900u64).prop_map(Limit::At),
        Just(Limit::At(50)),
        Just(Limit::At(100)),
    ];
    prop_oneof![
        8 => time.clone().prop_map(Event::Time),
        8 => (0..8usize, 0..3usize, time.clone())
            .prop_map(|(cpu, kind, time)| Event::Burn { cpu, kind, time }),
        1 => (1..60 * SECOND).prop_map(Event::Late),
        1 => (61 * SECOND..200 * SECOND).prop_map(Event::Clock),
        1 => time.prop_map(Event::Throttle),
        1 => quota.prop_map(Event::Quota),
        1 => (0..8u32, 1..9u32).prop_map(|(first, count)| Event::Set(first, count)),
        1 => (0..3u8).prop_map(Event::Move),
        1 => Just(Event::Forget),
        1 => (0..8usize).prop_map(Event::Kinds),
        1 => any::<bool>().prop_map(Event::Version),
        1 => any::<bool>().prop_map(Event::Steal),
    ]
}

impl Container {
    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Time(time) => self.now += time,
            Event::Late(_) => {}
            Event::Clock(time) => self.now = self.now.saturating_sub(time),
            Event::Burn { cpu, kind, time } => self.used[cpu][kind] += time,
            Event::Throttle(time) => self.throttled += time,
            Event::Quota(quota) => self.quota = quota,
            Event::Set(first, count) => self.set = (first..(first + count).min(8)).collect(),
            Event::Move(to) => self.path = format!("/app{to}"),
            Event::Forget => self.used = vec![[0; 3]; 8],
            // The kernel's split of a CPU's time is sampled, and may change its mind.
            Event::Kinds(cpu) => self.used[cpu].rotate_left(1),
            Event::Version(v1) => self.version = if v1 { Version::V1 } else { Version::V2 },
            Event::Steal(throttled) => {
                self.policy.steal =
                    if throttled { StealPolicy::Throttled } else { StealPolicy::Zero };
            }
        }
    }

    /// What the container may have in a time, as the policy has it.
    fn rate(&self) -> Cpus {
        let limits = self.limits();
        match self.policy.steal {
            StealPolicy::Zero => limits.entitlement,
            StealPolicy::Throttled => Cpus::whole(u64::from(limits.visible.len())),
        }
    }
}

proptest! {
    /// Law 3, law 2 and law 4, whatever happens.
    #[test]
    fn counters_never_go_back(
        v1: bool,
        age in 0..200 * SECOND,
        events in vec((event(), any::<bool>()), 0..60),
    ) {
        let version = if v1 { Version::V1 } else { Version::V2 };
        let mut container = Container::new(version, Limit::At(150), 4);
        container.now += age;
        let mut state = CpuView::default();
        let mut before = container.read(&mut state);
        let mut read_at = container.now;
        let mut capacity = container.rate().during(Usec(age)).0;
        let mut rate = container.rate();
        let mut bound = Usec::ZERO;
        for (event, reads) in events {
            if let Event::Late(age) = event {
                let late = Container { now: read_at.saturating_sub(age), ..container.clone() };
                let stat = late.read_late(&mut state);
                stat.assert_not_before(&before);
                before = stat;
                continue;
            }
            container.happen(&event);
            // A clock that has not gone back far enough yet is a reader that is late.
            let is_late = container.now < read_at && read_at - container.now <= 60 * SECOND;
            if !reads || is_late {
                continue;
            }
            let stat = container.read(&mut state);
            stat.assert_not_before(&before);
            let fastest = rate.max(container.rate());
            let steps = container.now.abs_diff(read_at) >= 1000;
            bound = if steps { Usec::ZERO } else { bound }.max(fastest.during(Usec(PENDING * SECOND)));
            if rate != container.rate() {
                // The rate has changed at some time since the last step, which may be as long ago.
                capacity += fastest.during(Usec(1000)).0;
            }
            if container.now > read_at {
                capacity += fastest.during(Usec(container.now - read_at)).0 + 1;
            }
            // After another clock's time, what is shown goes on from there.
            read_at = container.now;
            rate = container.rate();
            let shown: u64 = state.cpus().iter().map(time_of).sum();
            prop_assert!(shown <= capacity, "{shown} of {capacity}");
            prop_assert!(state.pending() <= bound);
            before = stat;
        }
    }

    /// Nothing of the usage is lost or made up: what is not shown is pending, and that is bounded.
    #[test]
    fn shown_time_is_the_time_used(
        v1: bool,
        quota in prop_oneof![Just(Limit::Max), (10..400u64).prop_map(Limit::At)],
        set in 1..5u32,
        steps in vec((0..3 * SECOND, vec((0..8usize, 0..3usize, 0..=100u64), 0..6)), 1..80),
    ) {
        let version = if v1 { Version::V1 } else { Version::V2 };
        let mut container = Container::new(version, quota, set);
        let mut state = CpuView::default();
        container.read(&mut state);
        let entitlement = container.limits().entitlement;
        // The kernel lets at most a second of the entitlement be used ahead.
        let mut credit = entitlement.during(Usec(SECOND)).0;
        for (wall, burns) in steps {
            container.now += wall;
            credit += entitlement.during(Usec(wall)).0;
            for (cpu, kind, percent) in burns {
                let time = (credit * percent / 100).min(credit);
                credit -= time;
                container.used[cpu][kind] += time;
            }
            credit = credit.min(entitlement.during(Usec(SECOND)).0);
            container.read(&mut state);
            if wall >= 1000 {
                let busy: u64 = state.cpus().iter().map(|cpu| cpu.busy.sum().0).sum();
                prop_assert_eq!(busy + state.pending().0, container.usage());
                prop_assert!(state.pending() <= entitlement.during(Usec(SECOND + 1000)));
                for (kind, shown) in kinds(&state).into_iter().enumerate() {
                    let used: u64 = container.used.iter().map(|used| used[kind]).sum();
                    prop_assert!(shown <= used && used <= shown + state.pending().0);
                }
            }
        }
    }

    /// The layout of the hierarchies makes no difference to what is shown in all.
    #[test]
    fn v1_and_v2_show_the_same_sums(
        quota in prop_oneof![Just(Limit::Max), (10..400u64).prop_map(Limit::At)],
        set in 1..9u32,
        events in vec(event(), 0..60),
    ) {
        let mut of_v1 = Container::new(Version::V1, quota, set);
        let mut of_v2 = Container { version: Version::V2, ..of_v1.clone() };
        let (mut v1, mut v2) = (CpuView::default(), CpuView::default());
        for event in events {
            // What v1 rebases by CPU, v2 rebases as a whole.
            if matches!(event, Event::Version(_) | Event::Forget | Event::Move(_) | Event::Clock(_)) {
                continue;
            }
            of_v1.happen(&event);
            of_v2.happen(&event);
            of_v1.read(&mut v1);
            of_v2.read(&mut v2);
            let sums = |view: &CpuView| {
                let busy: u64 = view.cpus().iter().map(|cpu| cpu.busy.sum().0).sum();
                let steal: u64 = view.cpus().iter().map(|cpu| cpu.steal.0).sum();
                (busy, view.idle(), steal, view.pending())
            };
            prop_assert_eq!(sums(&v1), sums(&v2));
        }
    }

    /// Readers at any distance in time see the same in the end.
    #[test]
    fn many_readers_lose_nothing(
        v1: bool,
        quota in 10..400u64,
        walls in vec(1..3000u64, 1..400),
    ) {
        let version = if v1 { Version::V1 } else { Version::V2 };
        let mut container = Container::new(version, Limit::At(quota), 4);
        let (mut often, mut seldom) = (CpuView::default(), CpuView::default());
        let limits = container.limits();
        let step = |container: &Container, view: &mut CpuView| {
            let usage = container.snapshot().cpu_usage.unwrap();
            let (now, started) = (Usec(container.now), Usec(container.started));
            view.step(now, started, &limits, Some(&usage), StealPolicy::Zero);
        };
        for wall in walls {
            container.now += wall;
            container.used[1][0] += wall * quota.min(100) / 100;
            step(&container, &mut often);
        }
        container.now += 1000;
        step(&container, &mut often);
        step(&container, &mut seldom);
        let busy = |view: &CpuView| -> u64 {
            view.cpus().iter().map(|cpu| cpu.busy.sum().0).sum()
        };
        prop_assert_eq!(often.idle(), seldom.idle());
        prop_assert_eq!(busy(&often), busy(&seldom));
    }

    #[test]
    fn any_numbers_will_do(
        steps in vec((any::<[u64; 8]>(), any::<[u8; 3]>(), vec((any::<u32>(), any::<[u64; 3]>()), 0..5)), 0..12),
    ) {
        let mut state = CpuView::default();
        for ([now, started, quota, period, user, nice, system, throttled], flags, per_cpu) in steps {
            let time = |[user, nice, system]: [u64; 3]| CpuTime {
                user: Usec(user), nice: Usec(nice), system: Usec(system),
            };
            let cgroup = cgroup(["/", "/a", "/b"][usize::from(flags[0] % 3)], Version::V1);
            let cpu = CpuLevel {
                cgroup: cgroup.clone(), quota: Limit::At(Usec(quota)), period: Usec(period),
            };
            let usage = CpuUsage {
                cgroup,
                total: time([user, nice, system]),
                per_cpu: per_cpu.into_iter().map(|(cpu, kinds)| (cpu % 9, time(kinds))).collect(),
                throttled: Usec(throttled),
            };
            let snapshot = Snapshot { cpu: vec![cpu], ..Snapshot::default() };
            let host = HostFacts {
                online: Mask::first(u32::from(flags[1] % 9)), ..HostFacts::default()
            };
            let limits = CpuLimits::of(&snapshot, &host, &Policy::default());
            let steal = if flags[2] < 99 { StealPolicy::Throttled } else { StealPolicy::Zero };
            let before = state.clone();
            state.step(Usec(now), Usec(started), &limits, Some(&usage), steal);
            for (before, after) in before.cpus().iter().zip(state.cpus()) {
                prop_assert!(before.idle <= after.idle && before.steal <= after.steal);
                prop_assert!(before.busy.user <= after.busy.user);
                prop_assert!(before.busy.nice <= after.busy.nice);
                prop_assert!(before.busy.system <= after.busy.system);
            }
        }
    }

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

    /// Lines that are not of the container keep their shape: the host's columns, and nothing but zeros.
    #[test]
    fn unknown_lines_keep_their_shape(numbers in vec(any::<u32>(), 0..200), name in "[a-b][a-z_]{0,8}") {
        let mut line = name;
        numbers.iter().for_each(|number| write!(line, " {number}").unwrap());
        let container = Container::new(Version::V2, Limit::At(150), 4);
        let (snapshot, cpus) = (container.snapshot(), container.limits());
        let view = View {
            snapshot: &snapshot,
            host: &Container::host(),
            policy: &Policy::default(),
            cpus: &cpus,
            cpu_view: &CpuView::default(),
            load: None,
            reader: Reader::default(),
        };
        if line.starts_with("btime") {
            return Ok(());
        }
        let text = render(&view, ProcFile::Stat, line.as_bytes());
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

fn active_f64(active: u64) -> f64 {
    f64::from(u32::try_from(active).unwrap())
}

fn time_of(cpu: &VisibleCpu) -> u64 {
    cpu.busy.sum().0 + cpu.idle.0 + cpu.steal.0
}

fn kinds(view: &CpuView) -> [u64; 3] {
    let sum =
        |kind: fn(&CpuTime) -> Usec| view.cpus().iter().map(|cpu| kind(&cpu.busy).0).sum::<u64>();
    [sum(|time| time.user), sum(|time| time.nice), sum(|time| time.system)]
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

/// Section 5: who burns all that it may has no idle time, and who burns half has half.
#[test]
fn idle_time_is_what_the_entitlement_leaves() {
    for version in [Version::V1, Version::V2] {
        for cpus in 1..=4u32 {
            for quota in [50, 100, 150, 200].map(|quota: u64| quota.min(u64::from(cpus) * 100)) {
                for share in [100, 50] {
                    burn(version, cpus, quota, share);
                }
            }
        }
    }
}

/// Burns `share` percent of `quota` hundredths of a CPU for some seconds.
fn burn(version: Version, cpus: u32, quota: u64, share: u64) {
    let mut container = Container::new(version, Limit::At(quota), cpus);
    // A container that idles for a while first.
    container.now += 10 * SECOND;
    let mut state = CpuView::default();
    let mut before = container.read(&mut state);
    for _ in 0..20 {
        container.now += SECOND;
        for cpu in 0..cpus as usize {
            container.used[cpu][0] += quota * 10_000 * share / 100 / u64::from(cpus);
        }
        let stat = container.read(&mut state);
        let visible = u64::from(container.limits().visible.len());
        let of = |columns: &[usize]| stat.sum(columns) - before.sum(columns);
        let (busy, idle) = (of(&[0, 1, 2]), of(&[IDLE]));
        let case = format!("{version:?}, {cpus} CPUs, {quota} %, {share} % of it: {stat:?}");
        // A tick for each line, where it is cut off.
        assert!(busy.abs_diff(quota * share / 100) <= visible, "{case}");
        if share == 100 {
            assert_eq!(idle, 0, "{case}");
        } else {
            assert!(idle.abs_diff(quota / 2) <= visible, "{case}");
        }
        before = stat;
    }
}

/// The kernel lets a quota be spent at once, at the start of each period, on all CPUs of the set. Readers
/// come at any time; the idle time that they see is at most what one period holds.
#[test]
fn quota_spent_in_bursts_leaves_no_idle_time() {
    for (quota, cpus) in [(50, 4), (150, 4), (100, 1), (20, 2), (200, 8)] {
        for interval in [7_001, 33_000, 130_000, 1_000_000, 3_333_333] {
            let mut container = Container::new(Version::V2, Limit::At(quota), cpus);
            let mut state = CpuView::default();
            for _ in 0..400 {
                container.now += interval;
                let age = container.now - container.started;
                let (periods, into) = (age / 100_000, age % 100_000);
                let spent = (into * u64::from(cpus)).min(quota * 1000);
                container.used[0][0] = periods * quota * 1000 + spent;
                container.read(&mut state);
            }
            assert!(
                state.idle().0 <= quota * 1000,
                "{quota} {cpus} {interval}: {}",
                state.idle().0
            );
        }
    }
}

/// W8: a neighbour's work is on the host's CPUs and not in the container's cgroup.
#[test]
fn what_neighbours_do_is_not_shown() {
    for version in [Version::V1, Version::V2] {
        let mut container = Container::new(version, Limit::Max, 4);
        container.now += 60 * SECOND;
        let stat = container.read(&mut CpuView::default());
        assert_eq!((stat.sum(&[0, 1, 2, 4, 5, 6, 7, 8, 9]), stat.sum(&[IDLE])), (0, 4 * 6000));
        assert_eq!(stat.uptime, 6000);
    }
}

/// W18: both CPUs were busy for 7.13 of 8.12 seconds.
#[test]
fn the_idle_time_of_uptime_counts_all_cpus() {
    let mut container = Container::new(Version::V1, Limit::Max, 2);
    container.now += 4_060_000;
    container.used[0] = [3_600_000, 0, 0];
    container.used[1] = [3_430_000, 0, 100_000];
    let stat = container.read(&mut CpuView::default());
    assert_eq!((stat.uptime, stat.sum(&[IDLE])), (406, 46 + 53));
}

/// W18, W24: a cgroup that was used before the container started.
#[test]
fn the_first_read_covers_the_container_and_no_more() {
    let mut container = Container::new(Version::V2, Limit::At(50), 1);
    container.used[0] = [3600 * SECOND, 0, 0];
    container.now += 10 * SECOND;
    let mut state = CpuView::default();
    let stat = container.read(&mut state);
    assert_eq!((stat.sum(&[0]), stat.sum(&[IDLE])), (500, 0));
    container.now += SECOND;
    let stat = container.read(&mut state);
    assert_eq!((stat.sum(&[0]), stat.sum(&[IDLE])), (500, 50));
}

/// W24: load on CPUs that are not shown is shown on those that are.
#[test]
fn work_on_hidden_cpus_is_shown() {
    let mut container = Container::new(Version::V1, Limit::At(200), 4);
    let mut state = CpuView::default();
    container.read(&mut state);
    container.now += 10 * SECOND;
    container.used[2] = [9 * SECOND, 0, 0];
    container.used[3] = [10 * SECOND, 0, 0];
    let stat = container.read(&mut state);
    assert_eq!(stat.cpus[0][..4], [950, 0, 0, 50]);
    assert_eq!(stat.cpus[1][..4], [950, 0, 0, 50]);
}

/// v1 tells which CPU was used and by what, and that is shown where it can be.
#[test]
fn v1_work_stays_on_its_cpu() {
    let mut container = Container::new(Version::V1, Limit::Max, 3);
    container.set = [2, 5, 7].into_iter().collect();
    let mut state = CpuView::default();
    container.read(&mut state);
    container.now += 10 * SECOND;
    container.used[2] = [3 * SECOND, 0, 0];
    container.used[7] = [0, 0, 4 * SECOND];
    let stat = container.read(&mut state);
    assert_eq!(stat.cpus[0][..4], [300, 0, 0, 700]);
    assert_eq!(stat.cpus[1][..4], [0, 0, 0, 1000]);
    assert_eq!(stat.cpus[2][..4], [0, 0, 400, 600]);
}

/// v1 in a cpuset whose cpuacct is the root's: others' work on other CPUs is not shown.
#[test]
fn the_root_of_cpuacct_counts_within_the_set_only() {
    let mut container = Container::new(Version::V1, Limit::Max, 1);
    container.path = "/".into();
    let mut state = CpuView::default();
    container.read(&mut state);
    container.now += 10 * SECOND;
    container.used[0] = [SECOND, 0, 0];
    container.used[1] = [10 * SECOND, 0, 0];
    assert_eq!(container.read(&mut state).cpus[0][..4], [100, 0, 0, 900]);
}

/// Another cgroup's usage is no usage of this container's past.
#[test]
fn a_moved_container_does_not_jump() {
    for version in [Version::V1, Version::V2] {
        let mut container = Container::new(version, Limit::Max, 2);
        let mut state = CpuView::default();
        container.read(&mut state);
        container.path = "/elsewhere".into();
        container.used[0] = [1000 * SECOND, 0, 0];
        container.now += 10 * SECOND;
        assert_eq!(container.read(&mut state).sum(&[0, IDLE]), 2000);
        container.used[0][0] += 2 * SECOND;
        container.now += 10 * SECOND;
        let stat = container.read(&mut state);
        assert_eq!((stat.sum(&[0]), stat.sum(&[IDLE])), (200, 3800));
    }
}

/// A cgroup that was made anew, or whose `cpuacct.usage` was set to 0, counts from there on.
#[test]
fn usage_that_went_back_counts_on() {
    for version in [Version::V1, Version::V2] {
        let mut container = Container::new(version, Limit::Max, 2);
        container.now += 10 * SECOND;
        container.used[0] = [5 * SECOND, 0, 0];
        let mut state = CpuView::default();
        container.read(&mut state);
        container.now += 10 * SECOND;
        container.used[0] = [SECOND, 0, 0];
        assert_eq!(container.read(&mut state).sum(&[0]), 500);
        container.now += 10 * SECOND;
        container.used[0] = [3 * SECOND, 0, 0];
        let stat = container.read(&mut state);
        assert_eq!((stat.sum(&[0]), stat.sum(&[IDLE])), (700, 5300));
    }
}

/// The kernel samples how much of a time is system time, and may come to another opinion: neither kind goes
/// back for that, and their sum stays the time used.
#[test]
fn kinds_that_went_back_make_no_time() {
    for version in [Version::V1, Version::V2] {
        let mut container = Container::new(version, Limit::Max, 2);
        container.now += 10 * SECOND;
        container.used[0] = [3 * SECOND, 0, 5 * SECOND];
        let mut state = CpuView::default();
        container.read(&mut state);
        container.now += 10 * SECOND;
        container.used[0] = [7 * SECOND, 0, 2 * SECOND];
        assert_eq!(container.read(&mut state).cpus.len(), 2);
        assert_eq!(kinds(&state), [4 * SECOND, 0, 5 * SECOND]);
        // With more time they come together again.
        container.now += 10 * SECOND;
        container.used[0] = [10 * SECOND, 0, 6 * SECOND];
        container.read(&mut state);
        assert_eq!(kinds(&state), [10 * SECOND, 0, 6 * SECOND]);
    }
}

/// With `steal = "throttled"` the CPUs are whole, and what the quota withheld is stolen.
#[test]
fn throttled_time_is_stolen_within_what_is_left() {
    let mut container = Container::new(Version::V2, Limit::At(50), 4);
    container.policy.steal = StealPolicy::Throttled;
    let mut state = CpuView::default();
    container.read(&mut state);
    container.now += 10 * SECOND;
    container.used[0] = [4 * SECOND, 0, 0];
    container.throttled = 3 * SECOND;
    let stat = container.read(&mut state);
    assert_eq!(stat.cpus[0], [400, 0, 0, 300, 0, 0, 0, 300, 0, 0]);
    // The kernel adds up what each CPU's queue had to wait.
    container.now += 10 * SECOND;
    container.used[0] = [9 * SECOND, 0, 0];
    container.throttled = 30 * SECOND;
    let stat = container.read(&mut state);
    assert_eq!(stat.cpus[0], [900, 0, 0, 300, 0, 0, 0, 800, 0, 0]);
}

/// A change of limits changes the rate, and nothing that was.
#[test]
fn a_change_of_limits_changes_only_the_rate() {
    let mut container = Container::new(Version::V2, Limit::At(400), 4);
    let mut state = CpuView::default();
    container.now += 10 * SECOND;
    let before = container.read(&mut state);
    assert_eq!(before.sum(&[IDLE]), 4000);
    container.quota = Limit::At(100);
    let after = container.read(&mut state);
    assert_eq!((after.cpus.len(), after.sum(&[IDLE])), (1, 4000));
    container.now += 10 * SECOND;
    assert_eq!(container.read(&mut state).sum(&[IDLE]), 5000);
    container.quota = Limit::At(200);
    container.now += 10 * SECOND;
    // Nobody knows when the quota changed: the smaller one holds what was used.
    let grown = container.read(&mut state);
    assert_eq!((grown.cpus.len(), grown.sum(&[IDLE])), (2, 6000));
    container.now += 10 * SECOND;
    assert_eq!(container.read(&mut state).sum(&[IDLE]), 8000);
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
