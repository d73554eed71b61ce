//! The laws of `docs/semantics.md` for CPU times, whatever happens to the container: sections 0, 5 and 6.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod cpu_container;

use cgview_core::{
    Cpus, HostFacts, Limit, Mask, Policy, Snapshot, Usec,
    cpu_view::{CpuView, VisibleCpu},
    effective::CpuLimits,
    policy::StealPolicy,
    snapshot::{CpuLevel, CpuTime, CpuUsage, Version},
};
use cpu_container::{Container, IDLE, SECOND, cgroup, kinds};
use proptest::{collection::vec, prelude::*};

/// As much usage may wait to be shown, in seconds of the entitlement: `CpuView::pending`.
const PENDING: u64 = 4;

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
        let (mut bound, mut most) = (Usec::ZERO, state.cpus().len());
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
            most = most.max(state.cpus().len());
            prop_assert!(ahead(&state) <= most, "{} of {most} CPUs are ahead", ahead(&state));
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
}

fn time_of(cpu: &VisibleCpu) -> u64 {
    cpu.busy.sum().0 + cpu.idle.0 + cpu.steal.0
}

/// By how many ticks the idle times are shown ahead, rounded up.
fn ahead(view: &CpuView) -> usize {
    let ahead: Usec = view.cpus().iter().map(|cpu| cpu.ahead).sum();
    usize::try_from(ahead.0.div_ceil(SECOND / 100)).unwrap_or(usize::MAX)
}

/// Section 5: no CPU of a container that has just started is taken for offline, and none is ahead for long.
#[test]
fn idle_time_begins_with_a_tick() {
    let mut container = Container::new(Version::V2, Limit::At(250), 4);
    let mut state = CpuView::default();
    for (age, idle) in [(0, 1), (9_999, 1), (10_000, 1), (20_000, 2), (200_000, 20)] {
        container.now = container.started + age;
        let stat = container.read(&mut state);
        // The last one is half a CPU.
        let ticks: Vec<u64> = stat.cpus.iter().map(|cpu| cpu[IDLE]).collect();
        assert_eq!(ticks, [idle, idle, (idle / 2).max(1)], "{age}");
    }
    assert_eq!(ahead(&state), 0);
}

/// Law 3: the tick that a CPU began with stays when it vanishes, and however often CPUs come and go, they are not
/// ahead by more than a tick each.
#[test]
fn a_cpu_that_vanishes_takes_no_tick_with_it() {
    for (version, busy) in
        [(Version::V1, 0), (Version::V2, 0), (Version::V1, 100), (Version::V2, 100)]
    {
        let mut container = Container::new(version, Limit::Max, 4);
        let mut state = CpuView::default();
        let mut before = container.read(&mut state);
        for (round, cpus) in (0..400_u64).zip([1, 4, 2, 3].into_iter().cycle()) {
            container.set = Mask::first(cpus);
            container.now += round % 7 * 1000;
            container.used[0][0] += round % 7 * 1000 * busy / 100;
            let stat = container.read(&mut state);
            stat.assert_not_before(&before);
            before = stat;
            assert!(ahead(&state) <= 4, "{round}: {state:?}");
        }
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
    // What it is ahead of the idle time, which is none.
    assert_eq!((stat.sum(&[0]), stat.sum(&[IDLE])), (500, 1));
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
