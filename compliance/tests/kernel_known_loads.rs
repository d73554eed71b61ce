//! What programs tell of CPU loads of known size.
//!
//! proc_stat(5): "The amount of time, measured in units of USER_HZ [...] that the system [...] spent in various
//! states". The system is the container: docs/semantics.md, section 5: "The capacity of visible CPUs grows with
//! the time, times the entitlement [...]. idle is capacity less busy."
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{env, fmt, fs, thread, time::Duration};

use cgview_compliance::{
    Container, Defect, Options, Server,
    burn::{burn, shares},
    meter::{Meter, Window, last_window},
    run, text, truth,
};
use cgview_testkit::{Cgroup, Process, Spawn, Tree, is_guest};

/// A container's load, and its quota, in CPUs.
#[derive(Clone, Copy, Debug)]
struct Load {
    burn: f64,
    quota: f64,
}

impl Load {
    /// How many CPUs it may use.
    fn entitlement(self) -> f64 {
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        self.quota.min(text::list(&online).len() as f64)
    }
}

/// How far a percentage may be from the truth.
const POINTS: f64 = 2.0;

/// How long the programs look: `CGVIEW_LOAD_SECONDS`.
fn seconds() -> u64 {
    env::var("CGVIEW_LOAD_SECONDS").map_or(5, |text| text.parse().unwrap())
}

/// All loads under all quotas, in rounds that leave a CPU or two something.
fn rounds() -> Vec<Vec<Load>> {
    let all =
        [2.0, 1.5, 1.0, 0.5].map(|quota| [1.7, 1.0, 0.5, 0.25].map(|burn| Load { burn, quota }));
    let mut all: Vec<Load> = all.into_iter().flatten().collect();
    let used = |load: &Load| load.burn.min(load.quota);
    all.sort_by(|one, other| used(other).total_cmp(&used(one)));
    let mut rounds: Vec<Vec<Load>> = Vec::new();
    for load in all {
        let fits =
            |round: &&mut Vec<Load>| round.iter().map(used).sum::<f64>() + used(&load) <= 1.9;
        match rounds.iter_mut().find(fits) {
            Some(round) => round.push(load),
            None => rounds.push(vec![load]),
        }
    }
    rounds
}

// host
// ├─ load-0 (quota 2)     <- burns 1.7 CPUs; top, vmstat and mpstat
// ├─ load-1 (quota 1.5)   <- burns 0.25; the same
// └─ ... (each round has neighbours of its own; in some, a container is alone)
#[test]
fn programs_tell_a_load_of_known_size() {
    if !Server::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["cpu", "cpuset"]) else { return };
    // Others on this machine are to leave it alone. Weights are no limits, and change nothing that is seen.
    tree.cgroup("").write(
        "cpu",
        "cpu.shares",
        "cpu.weight",
        if tree.is_v1("cpu") { "20480" } else { "2000" },
    );
    let load = |burn, quota| Load { burn, quota };
    let mut all = vec![vec![load(0.5, 1.5)], vec![load(1.0, 1.0)], vec![load(1.7, 2.0)]];
    all.extend(rounds());
    // An emulated machine has time for a few of the loads only.
    if is_guest() {
        all = vec![vec![load(0.5, 1.0)], vec![load(0.25, 0.5), load(1.7, 1.5)]];
    }
    let verdicts: Vec<Verdict> = all
        .iter()
        .enumerate()
        .flat_map(|(round, loads)| check(&tree, &format!("round-{round}"), loads))
        .collect();
    // v2: the host's times; v1: the times of a view that loses some of the container's.
    let busy = Defect::new(if tree.is_v1("cpu") { "W24" } else { "W8" });
    judge(busy, verdicts.iter().filter(|verdict| verdict.program != "uptime"));
    judge(Defect::new("W18"), verdicts.iter().filter(|verdict| verdict.program == "uptime"));
}

fn judge<'a>(defect: Defect, verdicts: impl Iterator<Item = &'a Verdict>) {
    let (right, wrong): (Vec<_>, Vec<_>) = verdicts.partition(|verdict| verdict.is_right);
    let seen: Vec<String> = wrong.iter().map(|verdict| verdict.to_string()).collect();
    let seen = format!("{} of {} wrong {seen:#?}", wrong.len(), right.len() + wrong.len());
    defect.judge(&seen, wrong.is_empty(), !wrong.is_empty());
}

/// What a program told, and what it should have.
#[derive(Debug)]
struct Verdict {
    load: Load,
    program: &'static str,
    seen: f64,
    least: f64,
    most: f64,
    is_right: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { load: Load { burn, quota }, program, seen, least, most, .. } = self;
        write!(f, "burn {burn} of {quota}: {program}: {seen:.2}, truth {least:.2} to {most:.2}")
    }
}

/// Has containers below a cgroup burn what they are to, and the programs look.
fn check(tree: &Tree, parent: &str, loads: &[Load]) -> Vec<Verdict> {
    let server = Server::start(&Options::new());
    let containers: Vec<Container> = loads
        .iter()
        .enumerate()
        .map(|(index, load)| {
            let cgroup = tree.cgroup(&format!("{parent}/load-{index}"));
            let quota = Duration::from_millis(100).mul_f64(load.quota);
            cgroup.limit_cpu(quota.as_micros().try_into().unwrap());
            Container::start(&server, &cgroup)
        })
        .collect();
    let _burners: Vec<Process> = containers
        .iter()
        .zip(loads)
        .flat_map(|(container, load)| {
            let shares = shares(load.burn).into_iter();
            shares.map(|share| container.enter().run(move || burn(share)))
        })
        .collect();
    let cgroups: Vec<Cgroup> = containers.iter().map(|it| it.cgroup().clone()).collect();
    let meter = Meter::start(&server.path("proc/stat"), &cgroups);
    let script = script();
    let said: Vec<String> = thread::scope(|scope| {
        let entered: Vec<Spawn> = containers.iter().map(Container::enter).collect();
        let threads: Vec<_> =
            entered.into_iter().map(|spawn| scope.spawn(|| run(spawn, &script).text)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let readings = meter.stop();
    let mut verdicts = Vec::new();
    for (index, (container, load)) in containers.iter().zip(loads).enumerate() {
        let gap = Duration::from_secs(seconds()) / 2;
        let seen = Seen::new(&said[index]);
        for (program, looks_by, seen) in [
            ("top", "top", seen.top),
            ("vmstat", "vmstat", seen.vmstat),
            ("mpstat", "mpstat", seen.mpstat),
            ("mpstat -P ALL", "mpstat", seen.all_cpus(load.entitlement())),
        ] {
            verdicts.push(of_busy(
                *load,
                program,
                seen,
                last_window(&readings, looks_by, index, gap),
            ));
        }
        verdicts.push(of_idle(*load, container));
    }
    verdicts.iter().for_each(|verdict| println!("{verdict}"));
    verdicts
}

/// What the programs tell, in percent of the time that was not idle.
#[derive(Debug)]
struct Seen {
    top: f64,
    vmstat: f64,
    mpstat: f64,
    cpus: Vec<f64>,
}

/// Runs the programs at the same time, each of which looks twice.
fn script() -> String {
    let seconds = seconds();
    format!(
        "export LC_ALL=C; dir=$(mktemp -d); cd $dir; \
         top -b -n 2 -d {seconds} -w 200 >top & vmstat {seconds} 2 >vmstat & \
         mpstat -P ALL {seconds} 1 >mpstat & wait; \
         for name in top vmstat mpstat; do echo \"== $name\"; cat $name; done; cd /; rm -r $dir"
    )
}

impl Seen {
    fn new(said: &str) -> Seen {
        let of = |name: &str| {
            let (_, text) =
                said.split_once(&format!("== {name}\n")).unwrap_or_else(|| panic!("{said}"));
            text.split_once("== ").map_or(text, |(text, _)| text)
        };
        let number = |word: &str| word.parse::<f64>().unwrap_or_else(|_| panic!("{word}: {said}"));
        // "%Cpu(s): 25.0 us,  5.0 sy,  0.0 ni, 70.0 id, ..."
        let line = of("top").lines().rfind(|line| line.starts_with("%Cpu"));
        let (_, line) = line.unwrap_or_else(|| panic!("{said}")).split_once(':').unwrap();
        let idle = line.split(',').find_map(|part| part.trim().strip_suffix(" id"));
        let top = 100.0 - number(idle.unwrap().trim());
        // Below its headings, of which the last is this one.
        let lines: Vec<&str> = of("vmstat").lines().collect();
        let column = lines[1].split_whitespace().position(|word| word == "id").unwrap();
        let vmstat = lines.last().unwrap().split_whitespace().nth(column).unwrap();
        // "Average:     all   20.60   58.29 ... 70.00", and the same for each CPU.
        let averages = of("mpstat").lines().filter(|line| line.starts_with("Average:"));
        let averages: Vec<Vec<&str>> =
            averages.map(|line| line.split_whitespace().collect()).collect();
        let heading = &averages[0];
        let column = heading.iter().position(|&word| word == "%idle").unwrap();
        let busy: Vec<f64> =
            averages[1..].iter().map(|line| 100.0 - number(line[column])).collect();
        assert_eq!(averages[1][1], "all", "{said}");
        let (mpstat, cpus) = (busy[0], busy[1..].to_vec());
        Seen { top, vmstat: 100.0 - number(vmstat), mpstat, cpus }
    }

    /// What mpstat tells of the CPUs together, all of which are whole but the last.
    fn all_cpus(&self, entitlement: f64) -> f64 {
        let capacities = shares(entitlement);
        if self.cpus.len() != capacities.len() {
            // Other CPUs than those that it has.
            return f64::NAN;
        }
        let busy = self.cpus.iter().zip(capacities).map(|(busy, capacity)| busy * capacity);
        busy.sum::<f64>() / entitlement
    }
}

/// Busy time in percent.
fn of_busy(load: Load, program: &'static str, seen: f64, window: Window) -> Verdict {
    let percent = |cpus: f64| (cpus / load.entitlement() * 100.0).min(100.0);
    let (least, most) = window.cpus();
    let (least, most) = (percent(least), percent(most));
    // It tells whole percents, of which each may be half a one beside what it has reckoned.
    let allowed = POINTS + if program == "vmstat" { 0.5 } else { 0.0 };
    let is_right = seen > least - allowed && seen < most + allowed;
    Verdict { load, program, seen, least, most, is_right }
}

/// Idle time in seconds. proc_uptime(5): "the amount of time spent in the idle process (seconds)", of all CPUs.
fn of_idle(load: Load, container: &Container) -> Verdict {
    let capacity = || truth::age(container.init().pid()).as_secs_f64() * load.entitlement();
    let used = || truth::cpu_used(container.cgroup()).as_secs_f64();
    let least = capacity() - used();
    let (_, seen) = text::uptime(&container.read("/proc/uptime"));
    let (seen, used) = (seen.as_secs_f64(), used());
    let most = capacity() - used;
    let allowed = capacity() * 0.02;
    let is_right = seen > least - allowed && seen < most + allowed;
    Verdict { load, program: "uptime", seen, least, most, is_right }
}
