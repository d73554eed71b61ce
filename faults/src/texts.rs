//! Whether a text is what it should be.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// What is true of a container.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// What its `MemTotal` may be, in KiB: its limit, and where that is switched on and off the one above.
    /// Nothing, if that is not looked at.
    pub memory: Vec<u64>,
    /// How many CPUs it may have. Nothing, if that is not looked at.
    pub cpus: Vec<usize>,
    /// The machine's own facts change: texts of sysfs are not compared with those of before, nor the names of
    /// lines.
    pub changes: bool,
}

/// One reader's judgement: it knows what the reader was told before.
#[derive(Debug)]
pub struct Checker {
    truth: Truth,
    /// The texts of sysfs that do not change, by their paths.
    constants: HashMap<String, Vec<u8>>,
    /// What the lines of a file are called, in their order.
    names: HashMap<String, Vec<String>>,
    /// The counters of `/proc/stat`, by the name of their line.
    counters: BTreeMap<String, Vec<u64>>,
    uptime: [u64; 2],
}

/// What is wrong with a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wrong {
    /// A counter is less than the same reader was told before.
    Back(String),
    /// It is malformed, or not true.
    Text(String),
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Wrong::Back(what) | Wrong::Text(what)) = self;
        f.write_str(what)
    }
}

impl From<String> for Wrong {
    fn from(what: String) -> Wrong {
        Wrong::Text(what)
    }
}

type Judgement = Result<(), Wrong>;

/// The place of `iowait` among the times of a CPU. The kernel's own goes back now and then: see `iowait` in
/// `Documentation/filesystems/proc.rst`.
const IOWAIT: usize = 4;

impl Checker {
    /// For a reader of a container.
    #[must_use]
    pub fn new(truth: Truth) -> Checker {
        Checker {
            truth,
            constants: HashMap::new(),
            names: HashMap::new(),
            counters: BTreeMap::new(),
            uptime: [0; 2],
        }
    }

    /// Judges the whole text of a file, by its path below the mountpoint.
    ///
    /// # Errors
    ///
    /// What is not as it should be.
    pub fn check(&mut self, file: &str, text: &[u8]) -> Judgement {
        if text.contains(&0) {
            return Err(Wrong::Text("it has a NUL".into()));
        }
        let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(Wrong::Text("it does not end with its last line".into()));
        }
        match file.strip_prefix("proc/") {
            Some("meminfo") => self.meminfo(file, text),
            Some("stat") => self.stat(file, text),
            Some("uptime") => self.uptime(text),
            Some("cpuinfo") => self.cpuinfo(text),
            Some("vmstat") => self.vmstat(file, text),
            Some("loadavg") => loadavg(text),
            Some("swaps") => begins(text, "Filename"),
            // Without any disk there is no heading either (`show_partition_start()`).
            Some("partitions") if text.is_empty() => Ok(()),
            Some("partitions") => begins(text, "major minor"),
            Some("slabinfo") => begins(text, "slabinfo - version: "),
            Some("diskstats") => diskstats(text),
            Some(name) if name.starts_with("pressure/") => pressure(text),
            _ => self.constant(file, text),
        }
    }

    /// Judges how many CPUs a listing of `sys/devices/system/cpu` has.
    ///
    /// # Errors
    ///
    /// If it is not what the container has.
    pub fn check_cpus(&self, count: usize) -> Judgement {
        if self.truth.cpus.is_empty() || self.truth.cpus.contains(&count) {
            return Ok(());
        }
        Err(format!("there are {count} CPUs, not {:?}", self.truth.cpus).into())
    }

    /// The names of lines are what they were the first time: a text that is pieced together of two has one
    /// twice, or cut in two.
    fn check_names(&mut self, file: &str, names: Vec<String>) -> Judgement {
        if self.truth.changes {
            return Ok(());
        }
        let before = self.names.entry(file.to_owned()).or_insert_with(|| names.clone());
        if *before == names {
            Ok(())
        } else {
            Err(Wrong::Text("its lines have other names than before".into()))
        }
    }

    fn meminfo(&mut self, file: &str, text: &str) -> Judgement {
        let mut names = Vec::new();
        let mut values = HashMap::new();
        for line in text.lines() {
            let Some((name, rest)) = line.split_once(':') else { return malformed(line) };
            let words: Vec<_> = rest.split_whitespace().collect();
            let value = match *words {
                [value, "kB"] | [value] => number(value),
                _ => None,
            };
            let Some(value) = value else { return malformed(line) };
            names.push(name.to_owned());
            values.insert(name, value);
        }
        self.check_names(file, names)?;
        let value = |name| values.get(name).copied().ok_or_else(|| format!("it has no {name}"));
        let (total, free, available) =
            (value("MemTotal")?, value("MemFree")?, value("MemAvailable")?);
        if !self.truth.memory.is_empty() && !self.truth.memory.contains(&total) {
            return Err(format!("MemTotal is {total}, not {:?}", self.truth.memory).into());
        }
        if free > total || available > total {
            return Err(format!("of {total} KiB {free} are free and {available} available").into());
        }
        Ok(())
    }

    fn stat(&mut self, file: &str, text: &str) -> Judgement {
        let mut names = Vec::new();
        let mut cpus = 0;
        for line in text.lines() {
            let mut words = line.split(' ').filter(|word| !word.is_empty());
            let name = words.next().unwrap_or_default().to_owned();
            let values: Option<Vec<u64>> = words.map(number).collect();
            let Some(values) = values.filter(|values| !values.is_empty()) else {
                return malformed(line);
            };
            let is_cpu = name.starts_with("cpu");
            if is_cpu && values.len() != 10 {
                return malformed(line);
            }
            cpus += usize::from(is_cpu && name != "cpu");
            if is_cpu || matches!(&*name, "ctxt" | "processes" | "intr" | "softirq") {
                let known = self.counters.entry(name.clone()).or_default();
                // A CPU that was away begins anew, and those that stayed have its time.
                let was_away = self.truth.changes && is_cpu && name != "cpu";
                let back =
                    known.iter().zip(&values).enumerate().find(|(place, (before, now))| {
                        !(is_cpu && *place == IOWAIT) && now < before
                    });
                if let Some((place, (before, now))) = back.filter(|_| !was_away) {
                    return Err(Wrong::Back(format!(
                        "number {place} of {name} went from {before} back to {now}"
                    )));
                }
                *known = values;
            }
            names.push(name);
        }
        self.check_cpus(cpus)?;
        for name in ["cpu", "ctxt", "btime", "processes", "procs_running", "procs_blocked"] {
            if !names.iter().any(|known| known == name) {
                return Err(format!("it has no {name}").into());
            }
        }
        self.check_names(file, names)
    }

    fn uptime(&mut self, text: &str) -> Judgement {
        let words: Vec<_> = text.split_whitespace().collect();
        let [uptime, idle] = *words else { return malformed(text) };
        let (Some(uptime), Some(idle)) = (hundredths(uptime), hundredths(idle)) else {
            return malformed(text);
        };
        let [uptime_before, idle_before] = self.uptime;
        if uptime < uptime_before || idle < idle_before {
            return Err(Wrong::Back(format!(
                "{:?} went back to {:?} (1/100 s)",
                self.uptime,
                [uptime, idle]
            )));
        }
        self.uptime = [uptime, idle];
        Ok(())
    }

    fn cpuinfo(&self, text: &str) -> Judgement {
        let mut count = 0;
        for line in text.lines().filter(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(':') else { return malformed(line) };
            if name.trim() == "processor" {
                if number(value.trim()) != Some(count) {
                    return malformed(line);
                }
                count += 1;
            }
        }
        self.check_cpus(usize::try_from(count).unwrap())
    }

    fn vmstat(&mut self, file: &str, text: &str) -> Judgement {
        let mut names = Vec::new();
        for line in text.lines() {
            match line.split_once(' ') {
                Some((name, value)) if number(value).is_some() => names.push(name.to_owned()),
                _ => return malformed(line),
            }
        }
        self.check_names(file, names)
    }

    /// A text of sysfs is always the same.
    fn constant(&mut self, file: &str, text: &str) -> Judgement {
        let name = Path::new(file).file_name().unwrap_or_default();
        if self.truth.changes || name == "meminfo" || name == "numastat" {
            return Ok(());
        }
        let first = self.constants.entry(file.to_owned()).or_insert_with(|| text.into());
        if first == text.as_bytes() {
            return Ok(());
        }
        Err(format!("it was {:?}", String::from_utf8_lossy(first)).into())
    }
}

fn malformed(line: &str) -> Judgement {
    Err(format!("malformed: {line:?}").into())
}

/// A number in digits, and nothing else.
fn number(word: &str) -> Option<u64> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

/// A number with two decimals.
fn hundredths(word: &str) -> Option<u64> {
    let (whole, part) = word.split_once('.').filter(|(_, part)| part.len() == 2)?;
    Some(number(whole)? * 100 + number(part)?)
}

fn begins(text: &str, with: &str) -> Judgement {
    if text.starts_with(with) { Ok(()) } else { malformed(text) }
}

fn loadavg(text: &str) -> Judgement {
    let words: Vec<_> = text.split_whitespace().collect();
    let [one, five, fifteen, tasks, last] = *words else { return malformed(text) };
    let tasks =
        tasks.split_once('/').and_then(|(running, all)| Some((number(running)?, number(all)?)));
    let loads = [one, five, fifteen].into_iter().map(hundredths).collect::<Option<Vec<_>>>();
    match (loads, tasks, number(last)) {
        (Some(_), Some((running, all)), Some(_)) if running <= all => Ok(()),
        _ => malformed(text),
    }
}

fn diskstats(text: &str) -> Judgement {
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let numbers = words.iter().enumerate().filter(|(place, _)| *place != 2);
        if words.len() < 14 || numbers.map(|(_, word)| number(word)).any(|value| value.is_none()) {
            return malformed(line);
        }
    }
    Ok(())
}

fn pressure(text: &str) -> Judgement {
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [kind @ ("some" | "full"), averages @ .., total] = &*words else {
            return malformed(line);
        };
        let _ = kind;
        let average = |word: &&str| {
            word.split_once('=').is_some_and(|(_, value)| hundredths(value).is_some())
        };
        let is_total = total.strip_prefix("total=").is_some_and(|value| number(value).is_some());
        if averages.len() != 3 || !averages.iter().all(average) || !is_total {
            return malformed(line);
        }
    }
    if text.starts_with("some ") { Ok(()) } else { malformed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  5 0 3 100 7 0 0 0 0 0\ncpu0 5 0 3 100 7 0 0 0 0 0\nintr 0 0\nctxt 9\n\
                        btime 1\nprocesses 3\nprocs_running 1\nprocs_blocked 0\n";

    fn checker() -> Checker {
        Checker::new(Truth { memory: vec![1000], cpus: vec![1], changes: false })
    }

    #[test]
    fn counters_that_go_back_are_found() {
        let mut checker = checker();
        assert_eq!(checker.check("proc/stat", STAT.as_bytes()), Ok(()));
        // Only what the kernel itself lets go back may.
        assert_eq!(checker.check("proc/stat", STAT.replace("100 7", "100 6").as_bytes()), Ok(()));
        let back = checker.check("proc/stat", STAT.replace("100 7", "99 7").as_bytes());
        assert!(matches!(back, Err(Wrong::Back(_))), "{back:?}");
        assert!(checker.check("proc/stat", STAT.replace("ctxt 9", "ctxt 8").as_bytes()).is_err());
        assert_eq!(checker.check("proc/uptime", b"10.00 20.00\n"), Ok(()));
        let back = checker.check("proc/uptime", b"10.00 19.99\n");
        assert!(matches!(back, Err(Wrong::Back(_))), "{back:?}");
        assert!(checker.check("proc/uptime", b"9.99 20.00\n").is_err());
    }

    #[test]
    fn what_is_not_the_containers_is_found() {
        let mut checker = checker();
        let meminfo = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 1000 kB\n";
        assert_eq!(checker.check("proc/meminfo", meminfo.as_bytes()), Ok(()));
        for (from, to) in [("1000", "1001"), ("10 kB", "1001 kB"), ("MemFree", "MemFre")] {
            assert!(
                checker.check("proc/meminfo", meminfo.replacen(from, to, 1).as_bytes()).is_err()
            );
        }
        let cpuinfo = b"processor\t: 0\n\nprocessor\t: 1\n\n";
        assert!(checker.check("proc/cpuinfo", cpuinfo).is_err());
        assert_eq!(checker.check("sys/devices/system/cpu/online", b"0\n"), Ok(()));
        assert!(checker.check("sys/devices/system/cpu/online", b"0-1\n").is_err());
    }

    #[test]
    fn what_is_cut_or_pieced_together_is_found() {
        let texts = [
            ("proc/stat", STAT),
            ("proc/uptime", "10.00 20.00\n"),
            ("proc/loadavg", "0.10 0.20 0.30 1/20 400\n"),
            ("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 9 kB\n"),
            ("proc/vmstat", "nr_free_pages 10\npgfault 20\n"),
            ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"),
        ];
        for (file, text) in texts {
            let mut checker = checker();
            assert_eq!(checker.check(file, text.as_bytes()), Ok(()), "{file}");
            for end in 1..text.len() {
                assert!(checker.check(file, &text.as_bytes()[..end]).is_err(), "{file}: {end}");
            }
            let twice = format!("{text}{text}");
            let is_list = file == "proc/pressure/cpu";
            assert!(is_list || checker.check(file, twice.as_bytes()).is_err(), "{file}");
        }
    }
}
