//! The tables of the document.

use std::fmt::Write as _;

use cgview_benches::record::{Fact, REQUEST, SYSTEM_CALL};

use crate::{
    goals::{self, name},
    records::{BUFFER, MEMINFO, Records},
};

/// The servers, and what the document calls them.
pub(crate) const SERVERS: [(&str, &str); 5] = [
    ("native", "kernel's own"),
    ("bare", "bare server"),
    ("lxcfs", "LXCFS"),
    ("shared", "shared mount"),
    ("fast", "fast mount"),
];

/// A table in Markdown.
pub(crate) struct Table(String);

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Table {
        let mut table = Table(String::new());
        table.row(columns.iter().map(|&column| column.to_owned()).collect());
        table.row(columns.iter().map(|_| "---".to_owned()).collect());
        table
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        let _ = writeln!(self.0, "| {} |", cells.join(" | "));
    }
}

/// All tables, by the names of their marks.
pub(crate) fn all(records: &Records) -> Vec<(&'static str, String)> {
    vec![
        ("machine", machine(&records.machine)),
        ("goals", goals::table(records).0),
        ("reads", reads(records).0),
        ("buffers", buffers(records).0),
        ("readers", readers(records).0),
        ("cpu", cpu(records).0),
        ("servers", servers(records).0),
        ("requests", calls(records, REQUEST, "request").0),
        ("system calls", calls(records, SYSTEM_CALL, "system call").0),
        ("scale machine", machine(&records.scale_machine)),
        ("content", content(records).0),
        ("guests", guests(records).0),
        ("turns", turns(records).0),
        ("daemon", daemon(records).0),
        ("instructions", instructions(records).0),
    ]
}

/// A number, as exact as it is worth to be shown.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        below if below < 10.0 => {
            format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').into()
        }
        below if below < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), short)
}

fn machine(facts: &[Fact]) -> String {
    let each: Vec<String> =
        facts.iter().map(|Fact { what, value }| format!("{what}: {value}")).collect();
    format!("{}.\n", each.join("; "))
}

fn reads(records: &Records) -> Table {
    let mut columns = vec!["file"];
    columns.extend(SERVERS.map(|(_, name)| name));
    columns.extend(["shared / bare", "LXCFS / shared", "LXCFS / fast", "kernel / fast"]);
    let mut table = Table::new(&columns);
    for file in records.files() {
        let mut cells = vec![format!("`{}`", name(file))];
        let time = |server| records.read(file, server).map(|read| read.median_us);
        cells.extend(SERVERS.map(|(server, _)| or_dash(time(server))));
        let pairs =
            [("shared", "bare"), ("lxcfs", "shared"), ("lxcfs", "fast"), ("native", "fast")];
        cells.extend(pairs.map(|(above, below)| or_dash(records.ratio(file, above, below))));
        table.row(cells);
    }
    table
}

fn with_servers(first: &[&'static str]) -> Table {
    let mut columns = first.to_vec();
    columns.extend(SERVERS.map(|(_, name)| name));
    Table::new(&columns)
}

fn buffers(records: &Records) -> Table {
    let mut table = with_servers(&["buffer"]);
    for kib in [1, 8, 128] {
        let time = |server| {
            records.read_by("pinned", 1, kib << 10, MEMINFO, server).map(|read| read.median_us)
        };
        let mut cells = vec![format!("{kib} KiB")];
        cells.extend(SERVERS.map(|(server, _)| or_dash(time(server))));
        table.row(cells);
    }
    table
}

fn readers(records: &Records) -> Table {
    let mut table = with_servers(&["CPUs", "readers"]);
    for (placement, cpus) in [("pinned", "one"), ("free", "all")] {
        for readers in [1, 2, 4, 64] {
            let rate = |server| {
                let read = records.read_by(placement, readers, BUFFER, MEMINFO, server)?;
                Some(read.reads_per_s)
            };
            let mut cells = vec![cpus.into(), readers.to_string()];
            cells.extend(SERVERS.map(|(server, _)| or_dash(rate(server))));
            table.row(cells);
        }
    }
    table
}

fn cpu(records: &Records) -> Table {
    let columns = ["file", "bare server", "LXCFS", "shared mount", "fast mount", "LXCFS / shared"];
    let mut table = Table::new(&columns);
    for file in records.files() {
        let time = |server| records.read(file, server).map(|read| read.server_cpu_us);
        let mut cells = vec![format!("`{}`", name(file))];
        cells.extend(["bare", "lxcfs", "shared", "fast"].map(|server| or_dash(time(server))));
        cells.push(or_dash(records.cpu_ratio(file, "lxcfs", "shared")));
        table.row(cells);
    }
    table
}

fn servers(records: &Records) -> Table {
    let mut table = Table::new(&["", "resident memory, MiB", "threads"]);
    for server in &records.servers {
        let known = SERVERS.iter().find(|(name, _)| *name == server.server);
        let name = match known {
            // Both mounts are of one daemon.
            Some(("shared", _)) => "cgview, both mounts",
            Some((_, name)) => name,
            None => &server.server,
        };
        let mib = server.rss_kib as f64 / 1024.0;
        table.row(vec![name.into(), short(mib), server.threads.to_string()]);
    }
    table
}

/// Requests or system calls for a read of `meminfo`, those that are made most first.
fn calls(records: &Records, kind: &str, column: &str) -> Table {
    let mut columns = vec![column];
    columns.extend(SERVERS.iter().skip(1).map(|(_, name)| *name));
    let mut table = Table::new(&columns);
    let of_kind = || {
        let calls = records.calls.iter();
        calls.filter(|call| call.kind == kind && call.file == MEMINFO && call.per_read >= 0.05)
    };
    let mut names: Vec<(&str, f64)> = Vec::new();
    for call in of_kind() {
        match names.iter_mut().find(|(name, _)| *name == call.name) {
            Some((_, most)) => *most = most.max(call.per_read),
            None => names.push((&call.name, call.per_read)),
        }
    }
    names.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut sums = [0.0; 4];
    for (name, _) in names {
        let mut cells = vec![format!("`{name}`")];
        for ((server, _), sum) in SERVERS.iter().skip(1).zip(&mut sums) {
            let count = of_kind().find(|call| call.server == *server && call.name == name);
            *sum += count.map_or(0.0, |call| call.per_read);
            cells.push(count.map_or_else(String::new, |call| short(call.per_read)));
        }
        table.row(cells);
    }
    let mut cells = vec!["in all".into()];
    cells.extend(sums.map(short));
    table.row(cells);
    table
}

fn content(records: &Records) -> Table {
    let columns = [
        "file",
        "samples",
        "2 CPUs",
        "512 CPUs",
        "ratio",
        "1 container",
        "one of 1,000",
        "ratio",
        "1,000 in turn",
        "ratio",
    ];
    let mut table = Table::new(&columns);
    for (what, samples) in [
        ("content, samples fresh", "fresh"),
        ("content, samples anew", "anew"),
        ("content, samples anew, files opened", "anew, files opened for each"),
    ] {
        let in_turn = format!("{what}, in turn");
        for file in records.scale_files(&in_turn) {
            let sizes = |what, of| {
                let sizes = records.sizes(what, of, file);
                sizes.map_or([None; 2], |rows| rows.map(|row| Some(row.value)))
            };
            let ratio = |[small, large]: [Option<f64>; 2]| {
                or_dash(small.zip(large).map(|(small, large)| large / small))
            };
            let (cpus, among) = (sizes(what, "CPUs"), sizes(what, "containers"));
            let turns = sizes(&in_turn, "containers");
            let [alone, all] = turns;
            let mut cells = vec![format!("`{}`", name(file)), samples.into()];
            cells.extend(cpus.map(or_dash));
            cells.extend([ratio(cpus), or_dash(alone), or_dash(among[1]), ratio(among)]);
            cells.extend([or_dash(all), ratio(turns)]);
            table.row(cells);
        }
    }
    table
}

fn guests(records: &Records) -> Table {
    let columns = ["file", "read from", "2 CPUs", "64 CPUs", "ratio"];
    let mut table = Table::new(&columns);
    for (kind, from) in [
        ("native", "kernel's own"),
        ("samples fresh", "shared mount, samples fresh"),
        ("samples anew", "shared mount, samples anew"),
    ] {
        let what = format!("a read in a virtual machine, {kind}");
        for file in records.scale_files(&what) {
            let Some([few, many]) = records.sizes(&what, "CPUs", file) else { continue };
            let numbers = [few.value, many.value, many.value / few.value].map(short);
            let words = [format!("`{}`", name(file)), from.into()];
            table.row(words.into_iter().chain(numbers).collect());
        }
    }
    table
}

/// All else that was measured at several sizes.
fn turns(records: &Records) -> Table {
    let columns =
        ["file", "kernel's own", "LXCFS", "shared mount", "LXCFS / shared", "CPU time of cgview"];
    let mut table = Table::new(&columns);
    for file in records.scale_files(SHARED_TURNS) {
        let of = |what| records.sizes(what, "containers", file).map(|[_, row]| row.value);
        let [native, lxcfs, shared] =
            [of("a read in turn, native"), of("a read in turn, lxcfs"), of(SHARED_TURNS)];
        let ratio = lxcfs.zip(shared).map(|(lxcfs, shared)| lxcfs / shared);
        let mut cells = vec![format!("`{}`", name(file))];
        let cpu = of("CPU time for a read in turn");
        cells.extend([native, lxcfs, shared, ratio, cpu].map(or_dash));
        table.row(cells);
    }
    table
}

/// What the time of a read of the shared mount is called, when all containers take turns.
const SHARED_TURNS: &str = "a read in turn, shared";

fn daemon(records: &Records) -> Table {
    let mut table = Table::new(&["what", "size", "measured"]);
    let own = ["content", "a read in turn", "CPU time for a read in turn", "a read in a virtual"];
    let has_own_table = |what: &str| own.iter().any(|own| what.starts_with(own));
    for row in records.scale.iter().filter(|row| !has_own_table(&row.what)) {
        let what = match &*row.file {
            "" => row.what.clone(),
            file => format!("{}, `{}`", row.what, name(file)),
        };
        let size = format!("{} {}", row.size, row.of);
        table.row(vec![what, size, format!("{} {}", short(row.value), row.unit)]);
    }
    table
}

fn instructions(records: &Records) -> Table {
    let kinds = ["read", "read-512-cpus", "read-1000-containers", "sample-and-read"];
    let columns = [
        "file",
        "host of 2 CPUs",
        "host of 512 CPUs",
        "1,000 containers in turn",
        "2 CPUs, samples anew",
    ];
    let mut table = Table::new(&columns);
    for budget in &records.instructions {
        let Some(file) = budget.part.strip_prefix("read/") else { continue };
        let mut cells = vec![format!("`{}`", name(file))];
        for kind in kinds {
            let part = format!("{kind}/{file}");
            let found = records.instructions.iter().find(|budget| budget.part == part);
            cells.push(found.map_or_else(String::new, |budget| budget.instructions.to_string()));
        }
        table.row(cells);
    }
    table
}
