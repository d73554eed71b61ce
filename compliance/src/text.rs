//! The texts that a container reads, taken apart.

use std::{collections::BTreeMap, time::Duration};

/// Lines of a name, colon or blank, and a number, such as `/proc/meminfo` (there in kB) or `memory.stat`.
///
/// The name is without the colon. Lines without a number are left out.
#[must_use]
pub fn numbers(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.trim_end_matches(':').to_owned();
        Some((name, words.next()?.parse().ok()?))
    });
    pairs.collect()
}

/// `/proc/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The line `cpu`: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice, in ticks.
    pub total: Vec<u64>,
    /// The lines `cpuN`, by number.
    pub cpus: BTreeMap<u32, Vec<u64>>,
    /// The first number of each other line: `btime`, `ctxt`, `processes`, ...
    pub others: BTreeMap<String, u64>,
}

impl Stat {
    /// Takes it apart.
    #[must_use]
    pub fn new(text: &str) -> Stat {
        let mut stat = Stat { total: Vec::new(), cpus: BTreeMap::new(), others: BTreeMap::new() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap();
            let mut values = words.map(|word| word.parse().unwrap());
            match name.strip_prefix("cpu") {
                Some("") => stat.total = values.collect(),
                Some(number) => {
                    stat.cpus.insert(number.parse().unwrap(), values.collect());
                }
                None => {
                    stat.others.insert(name.to_owned(), values.next().unwrap());
                }
            }
        }
        assert!(!stat.total.is_empty(), "{text}");
        stat
    }
}

/// Busy ticks of a line of CPU times: all but idle, iowait and steal. User time includes guest time.
#[must_use]
pub fn busy(times: &[u64]) -> u64 {
    [0, 1, 2, 5, 6].iter().filter_map(|&column| times.get(column)).sum()
}

/// `/proc/uptime`: since the start, and idle time of all CPUs.
#[must_use]
pub fn uptime(text: &str) -> (Duration, Duration) {
    let mut words = text.split_whitespace();
    let mut next = || {
        let seconds: f64 = words.next().unwrap().parse().unwrap();
        Duration::try_from_secs_f64(seconds).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    (next(), next())
}

/// `/proc/loadavg`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loadavg {
    /// Of 1, 5 and 15 minutes.
    pub averages: [f64; 3],
    /// Tasks that run or wait for a CPU.
    pub running: u64,
    /// All tasks.
    pub total: u64,
    /// The pid that was given last.
    pub last_pid: u64,
}

impl Loadavg {
    /// Takes it apart.
    #[must_use]
    pub fn new(text: &str) -> Loadavg {
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[one, five, fifteen, tasks, last] = words.as_slice() else { panic!("{text}") };
        let (running, total) = tasks.split_once('/').unwrap();
        Loadavg {
            averages: [one, five, fifteen].map(|word| word.parse().unwrap()),
            running: running.parse().unwrap(),
            total: total.parse().unwrap(),
            last_pid: last.parse().unwrap(),
        }
    }
}

/// The processors of `/proc/cpuinfo`, by the number that they have there.
#[must_use]
pub fn processors(text: &str) -> Vec<u32> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let named = lines.filter(|(name, _)| name.trim() == "processor");
    named.map(|(_, number)| number.trim().parse().unwrap()).collect()
}

/// A list of CPUs or nodes, such as `0-2,5`.
#[must_use]
pub fn list(text: &str) -> Vec<u32> {
    let ranges = text.trim().split(',').filter(|range| !range.is_empty());
    let bounds = ranges.map(|range| range.split_once('-').unwrap_or((range, range)));
    bounds.flat_map(|(first, last)| first.parse().unwrap()..=last.parse().unwrap()).collect()
}

/// The devices of `/proc/diskstats`: major, minor, name, and the columns behind.
#[must_use]
pub fn disks(text: &str) -> BTreeMap<(u32, u32), (String, Vec<u64>)> {
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [major, minor, name, columns @ ..] = words.as_slice() else { panic!("{line}") };
        let columns = columns.iter().map(|word| word.parse().unwrap()).collect();
        ((major.parse().unwrap(), minor.parse().unwrap()), ((*name).to_owned(), columns))
    });
    lines.collect()
}

/// The totals of a pressure file, in microseconds, by `some` and `full`.
#[must_use]
pub fn pressure(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().map(|line| {
        let (kind, rest) = line.split_once(' ').unwrap();
        let (_, total) = rest.split_once("total=").unwrap();
        (kind.to_owned(), total.parse().unwrap())
    });
    lines.collect()
}
