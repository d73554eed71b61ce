//! What a container says that it sees.

use std::{fs, path::Path};

use crate::MEMORY;

/// What is run in a container, in BusyBox's shell: the programs of procps, by their paths, since BusyBox's shell would
/// run its own, which ask by sysinfo(2); and files.
pub const LOOK: &str = "export TERM=dumb; \
    echo; echo == age; cat /proc/uptime; echo == free; /usr/bin/free -k; echo == top; /usr/bin/top -b -n 1 | head -5; \
    echo == uptime; /usr/bin/uptime -p; \
    echo == pressure; cat /proc/pressure/cpu 2>&1; echo == vmstat; cat /proc/vmstat; \
    echo == cpus; grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online; \
    echo == mounts; cat /proc/self/mountinfo; echo == end";

/// What [`LOOK`] printed.
#[derive(Clone, Debug)]
pub struct Seen(String);

impl Seen {
    /// Takes what a container printed. It must be all.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Seen {
        let text = text.into();
        assert!(text.contains("\n== end"), "it did not come to its end: {text}");
        Seen(text)
    }

    fn part(&self, name: &str) -> &str {
        let (_, rest) = self.0.split_once(&format!("\n== {name}\n")).unwrap();
        rest.split_once("\n== ").map_or(rest, |(part, _)| part)
    }

    /// The total of `free`, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let line = self.part("free").lines().find(|line| line.starts_with("Mem:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Files of the view that are mounted in the container.
    #[must_use]
    pub fn files(&self) -> Vec<&str> {
        let lines = self.part("mounts").lines().filter(|line| line.contains(" - fuse.cgview "));
        lines.map(|line| line.split(' ').nth(4).unwrap()).collect()
    }

    /// Asserts that it is the container's own, in all files.
    pub fn is_own(&self) {
        let Seen(text) = self;
        assert_eq!(self.memory(), MEMORY, "{text}");
        let top = self.part("top");
        assert!(top.contains("256.0 total"), "{text}");
        // It has started after the test, and the machine before.
        let age: f64 = self.part("age").split(' ').next().unwrap().parse().unwrap();
        assert!(age <= own_age() + 1.0, "{text}");
        let minutes = (age / 60.0).floor();
        let uptime = self.part("uptime").split(' ').nth(1).unwrap();
        let uptime: f64 = uptime.parse().unwrap();
        assert!(uptime == minutes || uptime == minutes + 1.0, "{text}");
        let cpus: Vec<&str> = self.part("cpus").lines().collect();
        let host = std::thread::available_parallelism().unwrap().get();
        assert_eq!(cpus.first(), Some(&host.min(2).to_string().as_str()), "{text}");
        let free = self.part("vmstat").lines().find_map(|line| line.strip_prefix("nr_free_pages "));
        assert!(free.unwrap().parse::<u64>().unwrap() * 4096 <= MEMORY, "{text}");
        // Or a directory that has it: LXCFS's hook mounts all of /proc/pressure.
        let files = self.files();
        let has = |file: &str| files.iter().any(|have| Path::new(file).starts_with(have));
        for file in ["/proc/meminfo", "/proc/vmstat", "/sys/devices/system/cpu"] {
            assert!(has(file), "{file} in {text}");
        }
        if fs::exists("/proc/pressure/cpu").unwrap() {
            for name in ["cpu", "io", "memory"] {
                let file = format!("/proc/pressure/{name}");
                assert!(has(&file), "{file} in {text}");
            }
            // Where no cgroup of the container has it, as on v1, it says what the kernel says without it.
            let pressure = self.part("pressure");
            assert!(
                pressure.starts_with("some avg10=") || pressure.contains("not supported"),
                "{text}"
            );
        }
    }

    /// Asserts that nothing of it is the view's.
    pub fn is_the_hosts(&self) {
        assert!(self.files().is_empty(), "{}", self.0);
        assert!(self.memory() > MEMORY, "{}", self.0);
    }
}

/// For how long the test's program runs, in seconds.
fn own_age() -> f64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // Field 22, of which the first two are gone.
    let start: f64 = fields.split(' ').nth(19).unwrap().parse().unwrap();
    uptime - start / rustix::param::clock_ticks_per_second() as f64
}
