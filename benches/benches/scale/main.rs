//! What must not grow: the cost of a read with the host's CPUs and with the number of containers, and what many
//! containers and many tasks take. With `--record` all is written to `benches/record/`; with `--only=PART`, one part of
//! it is measured.
//!
//! `content` asks the service on a host that is made of files, as no machine here has 512 CPUs; `daemon`, `crowd` and
//! `tasks` ask a daemon on this machine, with real containers and tasks. `guest`, which is measured only where it is named,
//! asks one in a virtual machine of few or many CPUs.

mod content;
mod crowd;
mod daemon;
mod guest;
mod tasks;

use std::io::{Write as _, stdout};

use anyhow::Result;
use cgview_benches::{
    arguments::Arguments,
    record::{self, Fact, Scale, rounded},
};

/// What containers read.
pub(crate) const FILES: [&str; 6] =
    ["proc/meminfo", "proc/stat", "proc/cpuinfo", "proc/uptime", "proc/loadavg", "proc/diskstats"];

/// Measures one part, or only sees that it works.
type Measure = fn(bool) -> Result<Vec<Scale>>;

fn main() -> Result<()> {
    let arguments = Arguments::new();
    if !arguments.select("scale") || !cgview_testkit::is_root() || arguments.isolate()? {
        return Ok(());
    }
    raise_descriptors()?;
    let parts: [(&str, Measure); 4] = [
        ("content", content::measure),
        ("daemon", daemon::measure),
        ("tasks", tasks::measure),
        ("guest", guest::measure),
    ];
    let only = arguments.value("--only");
    let mut rows = Vec::new();
    for (name, measure) in parts {
        if only.map_or(name != "guest", |only| only == name) {
            rows.extend(measure(arguments.is_test())?);
        }
    }
    let mut out = stdout().lock();
    for Scale { what, size, of, file, value, unit } in &rows {
        writeln!(out, "{what} {file}, {size} {of}: {value} {unit}")?;
    }
    if !arguments.has("--record") {
        return Ok(());
    }
    if only == Some("guest") {
        let cpus = rows.first().map_or(0, |row| row.size);
        record::save(&format!("cpus-{cpus}"), &rows)?;
    } else {
        record::save("scale", &rows)?;
        let mut machine = record::machine();
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let value = most.map_or_else(|| "unlimited".into(), |most| most.to_string());
        machine.push(Fact { what: "descriptors of a process".into(), value });
        record::save("scale-machine", &machine)?;
    }
    Ok(())
}

/// Containers have files that are kept open. This is what systemd allows its services.
const DESCRIPTORS: u64 = 524_288;

/// For this process and the daemons that it starts, as far as this one may.
fn raise_descriptors() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let both = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    if setrlimit(Resource::Nofile, both(DESCRIPTORS)).is_ok() {
        return Ok(());
    }
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// A row of the record.
fn row(what: &str, (size, of): (u32, &str), file: &str, value: f64, unit: &str) -> Scale {
    Scale {
        what: what.into(),
        size: size.into(),
        of: of.into(),
        file: file.into(),
        value: rounded(value),
        unit: unit.into(),
    }
}
