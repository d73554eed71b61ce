//! Renders each captured case and compares the bytes with what is expected of it.
//!
//! A case is a directory of `fixtures/`, named `<kernel>-<layout>-<runtime>[-<what is special>]`: `host/` is
//! the root of a host as `cgview capture` wrote it, `case.toml` says which process reads and what the case
//! is about, and `expect/` holds every file that this process should see, and what it should read. A file
//! that cannot be read is `NAME.error` there, and says why.
//!
//! `CGVIEW_BLESS=1 cargo test` writes `expect/` anew; its diff is then part of the review.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use cgview_core::{
    File, HostFacts, Policy, Reader, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    loadavg::LoadAverage,
    tree::{Dir, Entry, ProcFile},
    view::Parts,
};
use cgview_host::Host;
use procfs::{ExplicitSystemInfo, prelude::*};
use serde::Deserialize;
use similar::TextDiff;

/// What a capture says of itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    /// The process that reads.
    pid: u32,
    /// What the case shows, for people.
    #[serde(rename = "about")]
    _about: String,
    /// How it was made.
    #[serde(rename = "captured")]
    _captured: String,
    #[serde(default)]
    policy: Policy,
}

/// A case, up to where its texts are rendered.
struct Case {
    dir: PathBuf,
    host: Host,
    policy: Policy,
    snapshot: Snapshot,
    facts: HostFacts,
    cpus: CpuLimits,
    cpu_view: CpuView,
    load: Option<LoadAverage>,
    reader: Reader,
}

impl Case {
    fn read(dir: &Path) -> Case {
        let about: About =
            toml::from_str(&fs::read_to_string(dir.join("case.toml")).unwrap()).unwrap();
        let host = Host::at(&dir.join("host")).unwrap();
        let caller = host.caller(about.pid).unwrap();
        let mut snapshot = Snapshot::default();
        caller.container.sample(&host, Parts::ALL, &mut snapshot).unwrap();
        let facts = host.facts().unwrap();
        let policy = about.policy;
        let cpus = CpuLimits::of(&snapshot, &facts, &policy);
        let mut cpu_view = CpuView::default();
        let started = snapshot.started.unwrap_or(Usec::ZERO);
        cpu_view.step(snapshot.taken, started, &cpus, snapshot.cpu_usage.as_ref(), policy.steal);
        // A first read, as the daemon answers it.
        let active = snapshot.tasks.map_or(0, |tasks| tasks.running + tasks.blocked);
        let load = (!caller.container.is_host())
            .then(|| LoadAverage::seeded(snapshot.taken, [active * 100; 3]));
        let reader = caller.reader;
        let dir = dir.to_owned();
        Case { dir, host, policy, snapshot, facts, cpus, cpu_view, load, reader }
    }

    /// All cases, by name.
    fn all() -> Vec<Case> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut dirs: Vec<_> =
            fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()).collect();
        dirs.sort();
        assert!(!dirs.is_empty(), "no fixtures");
        dirs.iter().map(|dir| Case::read(dir)).collect()
    }

    fn view(&self) -> View<'_> {
        View {
            snapshot: &self.snapshot,
            now: self.snapshot.taken,
            host: &self.facts,
            policy: &self.policy,
            cpus: &self.cpus,
            cpu_view: &self.cpu_view,
            load: self.load.as_ref(),
            reader: self.reader,
        }
    }

    /// Every file that the process sees, by its path, with what it reads.
    fn texts(&self) -> BTreeMap<String, Vec<u8>> {
        let mut texts = BTreeMap::new();
        self.walk(Dir::Root, &mut texts);
        texts
    }

    fn walk(&self, dir: Dir, texts: &mut BTreeMap<String, Vec<u8>>) {
        for entry in self.view().list(dir, |path| self.host.has(path)) {
            let path = entry.path().trim_start_matches('/').to_owned();
            match entry {
                Entry::Dir(dir) => self.walk(dir, texts),
                Entry::Link(_) => {}
                Entry::File(file) => match self.render(file) {
                    Ok(text) => drop(texts.insert(path, text)),
                    Err(error) => drop(texts.insert(format!("{path}.error"), error.into_bytes())),
                },
            }
        }
    }

    fn render(&self, file: File) -> Result<Vec<u8>, String> {
        let view = self.view();
        let mut host = Vec::new();
        let path = view.host_path(Entry::File(file)).ok_or("not shown")?;
        self.host.read(&path, &mut host).map_err(|error| format!("{error}\n"))?;
        let mut text = Vec::new();
        view.render(file, &host, &mut text).map_err(|error| format!("{error}\n"))?;
        Ok(text)
    }

    fn proc(&self, file: ProcFile) -> Vec<u8> {
        self.render(File::Proc(file)).unwrap()
    }
}

/// The files below `dir`, by their paths in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn captured_hosts_render_as_expected() {
    let mut failures = String::new();
    for case in Case::all() {
        let expect = case.dir.join("expect");
        let rendered = case.texts();
        if std::env::var_os("CGVIEW_BLESS").is_some() {
            let _ = fs::remove_dir_all(&expect);
            for (name, text) in &rendered {
                let path = expect.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            continue;
        }
        let expected = files(&expect);
        let names = rendered.keys().chain(expected.keys());
        for name in names.collect::<std::collections::BTreeSet<_>>() {
            let path = expect.join(name);
            match (expected.get(name), rendered.get(name)) {
                (Some(expected), Some(rendered)) if expected == rendered => {}
                (Some(expected), Some(rendered)) => {
                    let diff = TextDiff::from_lines(&expected[..], &rendered[..]);
                    let diff = diff.unified_diff().to_string();
                    write!(failures, "{}\n{diff}", path.display()).unwrap();
                }
                (None, _) => writeln!(failures, "{} should not be", path.display()).unwrap(),
                (_, None) => writeln!(failures, "{} is not there", path.display()).unwrap(),
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

// An independent reader of these formats must understand all that we write.
#[test]
fn others_can_read_what_is_rendered() {
    let system = ExplicitSystemInfo {
        boot_time_secs: 0,
        ticks_per_second: 100,
        page_size: 4096,
        is_little_endian: true,
    };
    for case in Case::all() {
        let read = |file| case.proc(file);
        let meminfo = procfs::Meminfo::from_read(&read(ProcFile::Meminfo)[..]).unwrap();
        assert!(meminfo.mem_total > 0 && meminfo.mem_free <= meminfo.mem_total);
        let cpuinfo = procfs::CpuInfo::from_read(&read(ProcFile::Cpuinfo)[..]).unwrap();
        assert_eq!(cpuinfo.num_cores(), case.cpus.visible.len() as usize);
        let stat = procfs::KernelStats::from_read(&read(ProcFile::Stat)[..], &system).unwrap();
        assert_eq!(stat.cpu_time.len(), case.cpus.visible.len() as usize);
        let sum = |time: &procfs::CpuTime| time.user + time.nice + time.system + time.idle;
        assert_eq!(sum(&stat.total), stat.cpu_time.iter().map(sum).sum::<u64>());
        procfs::LoadAverage::from_read(&read(ProcFile::Loadavg)[..]).unwrap();
        procfs::Uptime::from_read(&read(ProcFile::Uptime)[..]).unwrap();
        procfs::DiskStats::from_read(&read(ProcFile::Diskstats)[..]).unwrap();
        procfs::VmStat::from_read(&read(ProcFile::Vmstat)[..]).unwrap();
    }
}
