//! The summary of a process: its limits, and what each file makes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::Context;
use cgview_core::{
    Bytes, Limit, Mask, Snapshot, Why,
    effective::{CpuLimits, MemoryLimits},
    explain::join,
    snapshot::Controller,
    view::Parts,
};
use cgview_host::{Container, Host};
use serde::Serialize;

use super::explain::count_lines;
use crate::{
    file_name::{self, FileName},
    source::Source,
};

/// All that the summary says.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pid: u32,
    /// The name of its program.
    command: Option<String>,
    /// How the host's hierarchies are laid out.
    layout: String,
    container: Identity,
    limits: Limits,
    files: Vec<FileSummary>,
}

#[derive(Debug, Serialize)]
struct Identity {
    id: String,
    /// Whether it is no container but the host.
    is_host: bool,
    init: Option<u32>,
    age_seconds: Option<u64>,
    /// By controller.
    cgroups: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct Limits {
    memory: Amount,
    memory_free: Amount,
    memory_available: Amount,
    swap: Amount,
    swap_free: Amount,
    cpus: CpuAmount,
    pids: Option<PidAmount>,
}

/// Bytes, and why so many.
#[derive(Debug, Serialize)]
struct Amount {
    bytes: u64,
    why: String,
}

#[derive(Debug, Serialize)]
struct CpuAmount {
    /// The entitlement, such as `1.5`.
    entitled: String,
    /// How many are shown.
    visible: u32,
    /// The physical ones that it may run on.
    set: String,
    why: String,
}

#[derive(Debug, Serialize)]
struct PidAmount {
    current: u64,
    max: u64,
    cgroup: String,
}

#[derive(Debug, Default, Serialize)]
struct FileSummary {
    path: String,
    /// Whether it says what the host's file says.
    is_host_text: bool,
    lines: usize,
    host_lines: usize,
    /// How many lines are not the host's.
    changed: usize,
    /// The text, where it is one short line, and the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Summary {
    pub(super) fn of(source: &Source, pid: u32) -> anyhow::Result<Summary> {
        let host = source.service.host();
        let container = host.caller(pid)?.container;
        let mut snapshot = Snapshot::default();
        container.sample(host, Parts::ALL, &mut snapshot)?;
        let facts = host.facts()?;
        let files =
            file_name::all(&source.service, pid).context("cannot list the files of the view")?;
        Ok(Summary {
            pid,
            command: command(host, pid),
            layout: host.layout().to_string(),
            container: Identity::of(host, &container, &snapshot),
            limits: Limits::of(
                &MemoryLimits::of(&snapshot, &facts, &source.policy),
                &CpuLimits::of(&snapshot, &facts, &source.policy),
                &snapshot,
            ),
            files: files.into_iter().map(|file| FileSummary::of(source, pid, file)).collect(),
        })
    }
}

fn command(host: &Host, pid: u32) -> Option<String> {
    let mut text = Vec::new();
    host.read(&format!("/proc/{pid}/comm"), &mut text).ok()?;
    Some(String::from_utf8_lossy(text.trim_ascii_end()).into_owned())
}

impl Identity {
    fn of(host: &Host, container: &Container, snapshot: &Snapshot) -> Identity {
        let cgroups = [
            ("memory", Controller::Memory),
            ("cpu", Controller::Cpu),
            ("cpuset", Controller::Cpuset),
            ("pids", Controller::Pids),
            ("io", Controller::Io),
        ];
        let age = snapshot.started.map(|started| snapshot.taken.saturating_sub(started));
        Identity {
            id: container.id().to_string(),
            is_host: container.is_host(),
            init: container.init(),
            age_seconds: age.map(|age| age.0 / 1_000_000),
            cgroups: cgroups
                .into_iter()
                .filter_map(|(name, controller)| {
                    Some((name, container.cgroup(host, controller)?.to_owned()))
                })
                .collect(),
        }
    }
}

impl Limits {
    fn of(memory: &MemoryLimits, cpus: &CpuLimits, snapshot: &Snapshot) -> Limits {
        let amount = |(bytes, why): (Bytes, Why)| Amount {
            bytes: bytes.0,
            why: join([&why].into_iter(), snapshot),
        };
        let pids = snapshot.pids.iter().filter_map(|level| match level.max {
            Limit::At(max) => {
                Some(PidAmount { current: level.current, max, cgroup: level.cgroup.path.clone() })
            }
            Limit::Max => None,
        });
        let why = cpus.why(snapshot, "the least of quota and cpuset");
        Limits {
            memory: amount(memory.total),
            memory_free: amount(memory.free),
            memory_available: amount(memory.available),
            swap: amount(memory.swap_total),
            swap_free: amount(memory.swap_free),
            cpus: CpuAmount {
                entitled: cpus.entitlement.to_string(),
                visible: cpus.visible.len(),
                set: list(&cpus.set),
                why: join([&why].into_iter(), snapshot),
            },
            pids: pids.min_by_key(|level| level.max),
        }
    }
}

fn list(mask: &Mask) -> String {
    let mut text = Vec::new();
    mask.write_list(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

impl FileSummary {
    fn of(source: &Source, pid: u32, file: FileName) -> FileSummary {
        /// A value of up to this length is shown itself.
        const SHORT: usize = 48;
        let path = file.to_string();
        match source.service.explain(pid, file.0) {
            Ok(explained) => {
                let [lines, host_lines, changed] = count_lines(&explained);
                let text =
                    |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned();
                let is_short = |bytes: &[u8]| bytes.len() <= SHORT && !bytes.contains(&b'\t');
                let is_short = lines <= 1 && is_short(&explained.text) && is_short(&explained.host);
                let value = is_short.then(|| (text(&explained.text), text(&explained.host)));
                FileSummary {
                    path,
                    is_host_text: explained.text[..] == explained.host[..],
                    lines,
                    host_lines,
                    changed,
                    value,
                    error: None,
                }
            }
            Err(error) => FileSummary {
                path,
                error: Some(format!("{:#}", anyhow::Error::from(error))),
                ..FileSummary::default()
            },
        }
    }

    /// The directory that stands for it in the list, if not every file of it is worth a line: those of
    /// each CPU and node.
    fn group(&self) -> Option<&str> {
        const GROUPS: [(&str, &str); 2] = [
            ("/sys/devices/system/cpu/", "/sys/devices/system/cpu/*/"),
            ("/sys/devices/system/node/", "/sys/devices/system/node/*/"),
        ];
        GROUPS
            .into_iter()
            .find(|(dir, _)| self.path.strip_prefix(dir).is_some_and(|rest| rest.contains('/')))
            .map(|(_, group)| group)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { pid, command, layout, container, limits, files } = self;
        write!(f, "process {pid}")?;
        match command {
            Some(command) => writeln!(f, " ({command})")?,
            None => writeln!(f)?,
        }
        write!(f, "  container  {}", container.id)?;
        if container.is_host {
            write!(f, ", the host itself")?;
        }
        if let Some(init) = container.init {
            write!(f, ", init {init}")?;
        }
        if let Some(age) = container.age_seconds {
            write!(f, ", {age} s old")?;
        }
        writeln!(f)?;
        let paths: BTreeSet<&String> = container.cgroups.values().collect();
        for path in paths {
            let of = container.cgroups.iter().filter(|(_, other)| *other == path);
            let controllers: Vec<&str> = of.map(|(&name, _)| name).collect();
            writeln!(f, "  cgroup     {path} ({layout}: {})", controllers.join(", "))?;
        }
        write!(f, "\n{limits}\nfiles\n")?;
        write_files(f, files)
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "limits")?;
        for (name, amount) in [
            ("memory", &self.memory),
            ("  free", &self.memory_free),
            ("  available", &self.memory_available),
            ("swap", &self.swap),
            ("  free", &self.swap_free),
        ] {
            writeln!(
                f,
                "  {name:<11}  {:>10}  {}",
                Human(Bytes(amount.bytes)).to_string(),
                amount.why
            )?;
        }
        let CpuAmount { entitled, visible, set, why } = &self.cpus;
        writeln!(f, "  {:<11}  {entitled:>10}  {why}; shown as {visible}, of {set}", "CPUs")?;
        if let Some(PidAmount { current, max, cgroup }) = &self.pids {
            writeln!(f, "  {:<11}  {max:>10}  pids.max of {cgroup}; {current} in use", "tasks")?;
        }
        Ok(())
    }
}

fn write_files(f: &mut fmt::Formatter<'_>, files: &[FileSummary]) -> fmt::Result {
    let mut groups: Vec<(&str, Vec<&FileSummary>)> = Vec::new();
    for file in files {
        let name = file.group().unwrap_or(&file.path);
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, files)) => files.push(file),
            None => groups.push((name, vec![file])),
        }
    }
    let width = groups.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, files) in &groups {
        let said = match files.as_slice() {
            [file] => file.to_string(),
            files => {
                let own = files.iter().filter(|file| !file.is_host_text).count();
                format!("{} files, {own} not the host's", files.len())
            }
        };
        writeln!(f, "  {name:<width$}  {said}")?;
    }
    Ok(())
}

impl fmt::Display for FileSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileSummary { is_host_text, lines, host_lines, changed, value, error, .. } = self;
        match (error, value) {
            (Some(error), _) => write!(f, "cannot be read: {error}"),
            (None, Some((value, _))) if *is_host_text => write!(f, "{}", Value(value)),
            (None, Some((value, host))) => write!(f, "{} (host: {})", Value(value), Value(host)),
            (None, None) if *is_host_text => write!(f, "the host's"),
            (None, None) if lines == host_lines => {
                write!(f, "{changed} of {lines} lines not the host's")
            }
            (None, None) => {
                write!(f, "{lines} of the host's {host_lines} lines, {changed} changed")
            }
        }
    }
}

/// A value that can be seen if it is empty.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "empty" } else { self.0 })
    }
}

/// Bytes as people write them: `256 MiB`, `1.5 GiB`.
struct Human(Bytes);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let Bytes(bytes) = self.0;
        match UNITS.into_iter().find(|(shift, _)| bytes >> shift > 0) {
            None => write!(f, "{bytes} B"),
            Some((shift, unit)) => {
                let tenths = (u128::from(bytes) * 10) >> shift;
                match (tenths / 10, tenths % 10) {
                    (whole, 0) => write!(f, "{whole} {unit}"),
                    (whole, part) => write!(f, "{whole}.{part} {unit}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_people_do() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (256 << 20, "256 MiB"),
            (3 << 29, "1.5 GiB"),
            ((256 << 20) - 1, "255.9 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(Human(Bytes(bytes)).to_string(), text);
        }
    }

    #[test]
    fn files_of_a_cpu_have_one_line_together() {
        let group = |path: &str| {
            FileSummary { path: path.into(), ..FileSummary::default() }.group().map(str::to_owned)
        };
        assert_eq!(group("/proc/meminfo"), None);
        assert_eq!(group("/sys/devices/system/cpu/online"), None);
        let cpus = Some("/sys/devices/system/cpu/*/".to_owned());
        assert_eq!(group("/sys/devices/system/cpu/cpu0/topology/core_id"), cpus);
        assert_eq!(group("/sys/devices/system/cpu/smt/active"), cpus);
        assert_eq!(group("/sys/devices/system/node/online"), None);
        assert!(group("/sys/devices/system/node/node0/meminfo").is_some());
    }
}
