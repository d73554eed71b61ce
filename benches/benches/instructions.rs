//! How many instructions a read takes in the daemon, as valgrind counts them: the same on a busy machine as on an idle
//! one, so that a regression shows where times say nothing. `record/instructions.tsv` has what they were; with
//! `--budget` it is written anew.
//!
//! Once a second the service looks again whether a caller is who it was, and tasks are counted when that was long ago:
//! on a busy machine that falls into what is counted more often. It only ever adds, so the least of some counts is
//! what is compared.
//!
//! What the kernel does for a read is not counted. `mounts` tells of that.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    hint::black_box,
    io::{Write as _, stdout},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cgview_benches::{
    Machine,
    arguments::Arguments,
    record::{self, Budget},
};
use cgview_core::{File, tree::ProcFile};
use cgview_fuse::{Service, service::Caller, settings::ViewSettings};
use cgview_host::Host;
use cgview_testkit::{is_root, skip};

/// The name of the record.
const RECORD: &str = "instructions";

/// How often each part runs while it is counted: for so short a time that hardly ever a second ends in it.
const TIMES: u32 = 10;

/// How often what is above the budget is counted again, and each part for a new budget.
const TRIES: u32 = 4;

/// By how much a count may be above the budget, in percent: compilers, allocators and what libc has for a processor differ.
const TOLERANCE: u64 = 50;

/// The same on a processor without the vectors that the budget was counted with: what searches texts takes several times
/// as many instructions there.
const TOLERANCE_WITHOUT_AVX2: u64 = 300;

/// The files that are read most.
const FILES: [ProcFile; 6] = [
    ProcFile::Cpuinfo,
    ProcFile::Diskstats,
    ProcFile::Loadavg,
    ProcFile::Meminfo,
    ProcFile::Stat,
    ProcFile::Uptime,
];

/// What is counted of each of them, or of some.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    files: &'static [ProcFile],
    /// How many containers there are, which read in turn.
    containers: u32,
    /// Of the host.
    cpus: u32,
    /// For how long a sample is fresh: not at all, or for longer than this takes.
    freshness: Duration,
}

const FRESH: Duration = Duration::from_secs(3600);

/// A whole read of any file, by the one container there is.
const READ: Kind = Kind { name: "read", files: &FILES, containers: 1, cpus: 2, freshness: FRESH };

const KINDS: [Kind; 4] = [
    READ,
    Kind { name: "read-512-cpus", cpus: 512, ..READ },
    // Of one file alone: it takes long until each of them is known.
    Kind { name: "read-1000-containers", files: &[ProcFile::Meminfo], containers: 1000, ..READ },
    Kind { name: "sample-and-read", freshness: Duration::ZERO, ..READ },
];

fn main() -> Result<()> {
    let arguments = Arguments::new();
    if let (Some(part), Some(root)) = (arguments.value("--count"), arguments.value("--root")) {
        return run(part, root);
    }
    // Which may make a host's directory the root.
    if !arguments.select("instructions") || !is_root() {
        return Ok(());
    }
    // Other processors have other instructions.
    if !cfg!(target_arch = "x86_64") || Command::new("valgrind").arg("--version").output().is_err()
    {
        skip("needs valgrind on x86-64");
        return Ok(());
    }
    let parts: Vec<String> = KINDS
        .iter()
        .flat_map(|kind| kind.files.iter().map(|file| format!("{}{}", kind.name, file.path())))
        .collect();
    if arguments.has("--budget") {
        let mut least = count_all(&parts)?;
        for _ in 1..TRIES {
            for (least, again) in least.iter_mut().zip(count_all(&parts)?) {
                least.instructions = least.instructions.min(again.instructions);
            }
        }
        return record::save(RECORD, &least);
    }
    let budget: BTreeMap<String, u64> = record::load::<Budget>(RECORD)?
        .into_iter()
        .map(|Budget { part, instructions }| (part, instructions))
        .collect();
    let tolerance = if has_avx2() { TOLERANCE } else { TOLERANCE_WITHOUT_AVX2 };
    let mut left = parts;
    let mut above = String::new();
    let mut out = stdout().lock();
    for _ in 0..TRIES {
        let counted = count_all(&left)?;
        left.clear();
        above.clear();
        for Budget { part, instructions } in counted {
            let allowed = budget.get(&part).copied();
            let shown = allowed.map_or("none".into(), |allowed| allowed.to_string());
            writeln!(out, "{part}: {instructions} instructions, budget {shown}")?;
            let most = allowed.map(|allowed| allowed + allowed * tolerance / 100);
            if most.is_none_or(|most| instructions > most) {
                write!(above, "\n  {part}: {instructions}, budget {shown}")?;
                left.push(part);
            }
        }
        if left.is_empty() {
            break;
        }
    }
    ensure!(
        above.is_empty(),
        "more than {tolerance} % above the budget of instructions:{above}\n\
         Where that is worth it, `ci/bench --budget` makes these counts the budget"
    );
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

/// Counts all parts, some at a time.
fn count_all(parts: &[String]) -> Result<Vec<Budget>> {
    let at_a_time = thread::available_parallelism()?.get();
    let mut counted = Vec::new();
    for parts in parts.chunks(at_a_time) {
        let counts: Vec<Result<u64>> = thread::scope(|scope| {
            let running: Vec<_> = parts.iter().map(|part| scope.spawn(|| count(part))).collect();
            let count = |one: thread::ScopedJoinHandle<'_, Result<u64>>| one.join();
            running.into_iter().map(|one| count(one).unwrap_or_else(|_| bail!("a panic"))).collect()
        });
        for (part, count) in parts.iter().zip(counts) {
            counted.push(Budget { part: part.clone(), instructions: count? });
        }
    }
    Ok(counted)
}

/// The kind of a part, and its file.
fn parse(part: &str) -> Result<(Kind, ProcFile)> {
    let (name, path) = part.split_at(part.find('/').context("a part ends in a path")?);
    let kind = KINDS.into_iter().find(|kind| kind.name == name).context("no such kind")?;
    let file =
        ProcFile::ALL.into_iter().find(|file| file.path() == path).context("no such file")?;
    Ok((kind, file))
}

/// The instructions of one run of a part.
fn count(part: &str) -> Result<u64> {
    let (kind, _) = parse(part)?;
    let host = Machine::new(kind.cpus).host_with_containers(kind.containers);
    let output = Command::new("valgrind")
        // The file is in the host's directory, where the root is by then.
        .args(["--tool=callgrind", "--vgdb=no", "--callgrind-out-file=/callgrind.out"])
        .args(["--collect-atstart=no", "--toggle-collect=*measured*"])
        .arg(std::env::current_exe()?)
        .args([format!("--count={part}"), format!("--root={}", host.path().display())])
        .output()
        .context("cannot run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot count the instructions of {part}: {said}");
    let total = said
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse::<u64>().ok())
        .filter(|&count| count > 0);
    let total = total.with_context(|| format!("cannot find the count of {part} in: {said}"))?;
    Ok(total / u64::from(TIMES))
}

/// What is counted, by its name.
#[inline(never)]
fn measured(part: &mut dyn FnMut()) {
    // What is counted is what this calls, so its last call must not become a jump.
    for _ in 0..TIMES {
        part();
    }
}

/// Runs a part, as [`count`] counts it: a whole read as the kernel asks for it.
fn run(part: &str, root: &str) -> Result<()> {
    let (kind, file) = parse(part)?;
    // A host that is not the root is read by openat2(2), which Debian 12's valgrind does not know.
    // Some facts of this process are in its own /proc, and kept.
    rustix::param::page_size();
    rustix::process::chroot(root).with_context(|| format!("cannot make {root} the root"))?;
    let settings = ViewSettings { freshness: kind.freshness, ..ViewSettings::default() };
    let service = Service::new(Host::live()?, settings);
    let file = File::Proc(file);
    let read = |container| -> Result<usize, rustix::io::Errno> {
        let caller = Caller { tid: Machine::pid(container), uid: 0 };
        let handle = service.open(caller, file, false)?;
        let text = service.read(caller, file, handle, 0)?;
        black_box(service.read(caller, file, handle, text.len() as u64)?);
        service.release(handle);
        Ok(text.len())
    };
    // The third time it is a caller that is known.
    let mut length = 0;
    for container in (0..3).flat_map(|_| 0..kind.containers) {
        length = read(container)?;
    }
    // Those that are counted are looked at closer just before, if a second has passed since.
    let mut counted = (0..kind.containers).cycle();
    for container in counted.clone().take(TIMES as usize) {
        length = length.min(read(container)?);
    }
    ensure!(length > 0, "{part} has no text");
    let mut failed = 0;
    measured(&mut || {
        let container = counted.next().unwrap_or_default();
        failed += u32::from(read(container).is_err());
    });
    ensure!(failed == 0, "{failed} reads of {part} failed");
    Ok(())
}
