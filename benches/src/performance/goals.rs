//! What was aimed at, and what came of it.

use crate::{
    records::{MEMINFO, Records},
    tables::{Table, short},
};

/// What a number is to be.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtMost(most) => value <= most,
            Goal::AtLeast(least) => value >= least,
        }
    }

    fn words(self) -> String {
        match self {
            Goal::AtMost(most) => format!("at most {most}"),
            Goal::AtLeast(least) => format!("at least {least}"),
        }
    }
}

pub(crate) fn table(records: &Records) -> Table {
    let mut table = Table::new(&["what", "goal", "measured", ""]);
    let mut add = |what: &str, goal: Goal, value: Option<f64>| {
        let Some(value) = value else { return };
        let verdict = if goal.is_met(value) { "met" } else { "**missed**" };
        table.row(vec![what.into(), goal.words(), short(value), verdict.into()]);
    };
    for file in records.files() {
        let what = format!("`{}`: shared mount / bare server, time", name(file));
        add(&what, Goal::AtMost(1.25), records.ratio(file, "shared", "bare"));
    }
    for kib in [1, 128] {
        let ratio = records.ratio_by(kib << 10, MEMINFO, "shared", "bare");
        let what = format!("`meminfo`, {kib} KiB at a time: shared mount / bare server, time");
        add(&what, Goal::AtMost(1.25), ratio);
    }
    for (file, least) in [("proc/meminfo", 4.0), ("proc/cpuinfo", 4.0), ("proc/stat", 3.5)] {
        let what = format!("`{}`: LXCFS / shared mount, time", name(file));
        add(&what, Goal::AtLeast(least), records.ratio(file, "lxcfs", "shared"));
    }
    let cpu = records.cpu_ratio(MEMINFO, "lxcfs", "shared");
    add("`meminfo`: LXCFS / shared mount, CPU time of the server", Goal::AtLeast(6.0), cpu);
    let native = records.ratio(MEMINFO, "native", "fast");
    add("`meminfo`: the kernel's own / fast mount, time", Goal::AtLeast(1.5), native);
    let lxcfs = records.ratio(MEMINFO, "lxcfs", "fast");
    add("`meminfo`: LXCFS / fast mount, time", Goal::AtLeast(20.0), lxcfs);
    for (what, of) in [
        ("content, samples fresh", "CPUs"),
        ("content, samples fresh", "containers"),
        ("content, samples anew", "CPUs"),
        ("content, samples anew", "containers"),
        ("a read of the shared mount", "containers"),
        ("a read in a virtual machine, samples fresh", "CPUs"),
        ("a read in a virtual machine, samples anew", "CPUs"),
    ] {
        let worst = records
            .scale_files(what)
            .into_iter()
            .filter_map(|file| {
                let [small, large] = records.sizes(what, of, file)?;
                Some((large.value / small.value, file, small.size, large.size))
            })
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((ratio, file, small, large)) = worst {
            let what = format!("{what}: {large} / {small} {of}, worst file (`{}`)", name(file));
            add(&what, Goal::AtMost(1.2), Some(ratio));
        }
    }
    for (what, of, words, most) in [
        ("resident memory", "containers", "resident memory with {} containers, MiB", 32.0),
        ("start", "containers", "start with {} containers, ms", 1000.0),
        (
            "loadavg, stat and uptime, 10 times a second",
            "tasks",
            "a container of {} tasks, % of a CPU",
            2.0,
        ),
    ] {
        if let Some([_, large]) = records.sizes(what, of, "") {
            let words = words.replace("{}", &large.size.to_string());
            add(&words, Goal::AtMost(most), Some(large.value));
        }
    }
    table
}

/// The file as people call it.
pub(crate) fn name(file: &str) -> &str {
    file.trim_start_matches('/').trim_start_matches("proc/")
}
