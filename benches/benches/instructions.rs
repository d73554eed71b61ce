//! How many instructions the parts of a read take, as valgrind counts them: the same on a busy machine as on an idle
//! one, so that a regression shows where times say nothing. What they may be is in `record/instructions.tsv`;
//! with `--update` it is what they are now.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    hint::black_box,
    io::{Write as _, stdout},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cgview_benches::Machine;
use cgview_core::{File, tree::ProcFile};
use cgview_fuse::{Service, service::Caller, settings::ViewSettings};
use cgview_host::Host;
use cgview_testkit::{FakeHost, FakeProcess, skip};

/// How often each part runs while it is counted.
const TIMES: u32 = 100;

/// By how much more a count may be than it was: compilers differ.
const TOLERANCE: f64 = 1.25;

const RENDERED: [ProcFile; 5] =
    [ProcFile::Cpuinfo, ProcFile::Loadavg, ProcFile::Meminfo, ProcFile::Stat, ProcFile::Uptime];

/// Files that are read by way of the service, all of whose samples are fresh.
const READ: [ProcFile; 3] = [ProcFile::Meminfo, ProcFile::Stat, ProcFile::Uptime];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(place) = arguments.iter().position(|word| word == "--count") {
        let part = arguments.get(place + 1).context("cannot count nothing")?;
        return run(part);
    }
    let chosen = arguments.iter().find(|word| !word.starts_with("--"));
    if chosen.is_some_and(|chosen| chosen != "instructions") {
        return Ok(());
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        skip("needs valgrind");
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("record/instructions.tsv");
    let known = fs::read_to_string(&path).unwrap_or_default();
    let known: BTreeMap<&str, f64> = known
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(part, count)| Some((part, count.parse().ok()?)))
        .collect();
    let mut text = String::new();
    let mut too_many = Vec::new();
    for part in parts() {
        let count = count(&part)?;
        let before = known.get(&*part).copied();
        writeln!(text, "{part}\t{count:.0}")?;
        let mut out = stdout().lock();
        writeln!(out, "{part}: {count:.0} instructions, of {:.0}", before.unwrap_or(f64::NAN))?;
        if before.is_none_or(|before| count > before * TOLERANCE) {
            too_many.push(part);
        }
    }
    if arguments.iter().any(|word| word == "--update") {
        return fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()));
    }
    ensure!(
        too_many.is_empty(),
        "more instructions than {} has: {}; see `ci/bench instructions --update`",
        path.display(),
        too_many.join(", ")
    );
    Ok(())
}

fn parts() -> Vec<String> {
    let name = |kind: &str, file: ProcFile| format!("{kind}{}", file.path());
    let sizes = ["render-2-cpus", "render-512-cpus"];
    let rendered = sizes.into_iter().flat_map(|kind| RENDERED.map(|file| name(kind, file)));
    rendered.chain(READ.map(|file| name("read", file))).collect()
}

/// The instructions of one run of a part.
fn count(part: &str) -> Result<f64> {
    let program = std::env::current_exe()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=*measured*"])
        .arg(program)
        .args(["--count", part])
        .output()
        .context("cannot run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("cannot count {part}: {said}");
    }
    let total = said
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse::<f64>().ok())
        .filter(|&count| count > 0.0);
    Ok(total.with_context(|| format!("cannot find the count of {part} in {said}"))?
        / f64::from(TIMES))
}

/// What is counted, by its name.
#[inline(never)]
fn measured(part: &mut dyn FnMut()) {
    part();
}

fn run(part: &str) -> Result<()> {
    let (kind, path) = part.split_at(part.find('/').context("a part has a file")?);
    let file = ProcFile::ALL.into_iter().find(|file| file.path() == path).context("a file")?;
    if kind == "read" {
        return read(file);
    }
    let machine = Machine::new(if kind == "render-2-cpus" { 2 } else { 512 });
    let (host, view) = (machine.text(file), machine.view());
    let mut text = Vec::new();
    let mut render = || {
        text.clear();
        let rendered = view.render(black_box(File::Proc(file)), black_box(&host), &mut text);
        assert!(rendered.is_ok());
    };
    // What is allocated and found out once is not counted.
    render();
    measured(&mut || (0..TIMES).for_each(|_| render()));
    Ok(())
}

fn read(file: ProcFile) -> Result<()> {
    let machine = Machine::new(2);
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup");
    fake.process(&FakeProcess { pid: 100, cgroup: "0::/app\n", ..FakeProcess::default() });
    for (name, text) in [
        ("memory.current", "1048576\n"),
        ("memory.max", "67108864\n"),
        ("memory.stat", cgview_benches::MEMORY_STAT),
        ("cpu.max", "150000 100000\n"),
        ("cpu.stat", "usage_usec 100\nuser_usec 50\nsystem_usec 50\n"),
        ("cgroup.threads", "100\n"),
    ] {
        fake.file(&format!("/sys/fs/cgroup/app/{name}"), text);
    }
    for file in READ {
        let text = machine.text(file);
        fake.file(file.path(), &String::from_utf8_lossy(&text));
    }
    let settings = ViewSettings { freshness: Duration::from_secs(3600), ..ViewSettings::default() };
    let service = Service::new(Host::at(fake.path())?, settings);
    let caller = Caller { tid: 100, uid: 0 };
    let file = File::Proc(file);
    let once = || -> Result<(), rustix::io::Errno> {
        let handle = service.open(caller, file, false)?;
        let text = service.read(caller, file, handle, 0)?;
        black_box(service.read(caller, file, handle, text.len() as u64)?);
        service.release(handle);
        Ok(())
    };
    // The third time it is a caller that is known.
    for _ in 0..3 {
        once()?;
    }
    measured(&mut || {
        for _ in 0..TIMES {
            assert_eq!(once(), Ok(()));
        }
    });
    Ok(())
}
