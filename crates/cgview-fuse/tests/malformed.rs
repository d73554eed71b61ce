//! Each input of the kernel's in turn is not what it should be: whatever a reader gets then is what it got
//! before, or an error.
//!
//! The hosts are captured ones, so time stands still on them, and a good text is good for ever.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use cgview_core::tree::{Dir, Entry, File, SysRule};
use cgview_fuse::{
    Service,
    settings::{OnError, ViewSettings},
};
use cgview_host::Host;
use rustix::io::Errno;
use tempfile::TempDir;

/// A captured host that can be changed.
struct Captured {
    dir: TempDir,
    /// Who reads.
    pid: u32,
    hierarchies: usize,
}

impl Captured {
    fn new(name: &str) -> Captured {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cgview-host/tests/fixtures");
        let case = fs::read_to_string(fixtures.join(name).join("case.toml")).unwrap();
        let pid = case.lines().find_map(|line| line.strip_prefix("pid = ")).unwrap();
        // In memory, where that is possible: it has many small files.
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        copy(&fixtures.join(name).join("host"), dir.path());
        let hierarchies = Host::at(dir.path()).unwrap().hierarchies().len();
        Captured { dir, pid: pid.parse().unwrap(), hierarchies }
    }

    /// The files that a view is made from.
    fn inputs(&self) -> Vec<PathBuf> {
        let mut inputs = Vec::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                } else if entry.file_type().unwrap().is_file() {
                    inputs.push(entry.path());
                }
            }
        }
        inputs.sort();
        inputs
    }

    /// A service that knows nothing yet, and keeps no descriptors: they would be of what was there before.
    fn service(&self, on_error: OnError) -> Result<Option<Service>, cgview_host::Error> {
        let settings =
            ViewSettings { freshness: Duration::ZERO, on_error, ..ViewSettings::default() };
        let host = Host::at(self.dir.path())?.keeping(0);
        // With fewer hierarchies it is another host; the daemon does not start without any.
        Ok((host.hierarchies().len() == self.hierarchies).then(|| Service::new(host, settings)))
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path()).unwrap(), &to).unwrap();
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// What a file may hold in place of what it should, by what is wrong with it.
fn wrong(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8_lossy(good);
    let numbers = |replace: &dyn Fn(&str) -> String| {
        let mut wrong = String::new();
        let mut digits = String::new();
        for letter in text.chars().chain(['\n']) {
            if letter.is_ascii_digit() {
                digits.push(letter);
                continue;
            }
            if !digits.is_empty() {
                wrong.push_str(&replace(&digits));
                digits.clear();
            }
            wrong.push(letter);
        }
        wrong.pop();
        wrong.into_bytes()
    };
    let replaced = |byte: u8| {
        good.iter().map(|&good| if good.is_ascii_digit() { byte } else { good }).collect()
    };
    vec![
        ("empty", Vec::new()),
        ("a blank line", b"\n".to_vec()),
        // Not up to the end of a line: some lists may well be shorter.
        ("half of it", good[..good.len() / 2].trim_ascii_end().to_vec()),
        ("its first byte", good[..good.len().min(1)].to_vec()),
        ("all but its last two bytes", good[..good.len().saturating_sub(2)].to_vec()),
        ("words", b"this is not what was asked for\n".to_vec()),
        ("huge", [good, &vec![b'x'; 1 << 16]].concat()),
        ("a huge number", [&vec![b'7'; 1 << 16][..], b"\n"].concat()),
        ("not UTF-8", replaced(0xff)),
        ("zero bytes", vec![0; good.len().max(1)]),
        ("no digits", replaced(b'?')),
        ("negative", numbers(&|digits| format!("-{digits}"))),
        ("overflowing", numbers(&|_| "99999999999999999999999".to_owned())),
        ("hostile", b"\x1b[2J%n%s\r\n../../../etc/passwd\n\xe2\x80\xae\n".to_vec()),
    ]
}

/// The files that are read, of those that the reader has: all but most of those that are for each CPU.
fn files(service: &Service, pid: u32) -> Vec<File> {
    let mut files = Vec::new();
    let mut dirs = vec![Dir::Root];
    while let Some(dir) = dirs.pop() {
        for entry in service.list(pid, dir).unwrap() {
            match entry {
                Entry::Dir(Dir::CpuN(1..) | Dir::Cache(_) | Dir::Cpufreq(_)) | Entry::Link(_) => {}
                // A constant of the machine, whatever that is.
                Entry::File(File::Sys(file)) if file.rule() == SysRule::Host => {}
                Entry::Dir(dir) => dirs.push(dir),
                Entry::File(file) => files.push(file),
            }
        }
    }
    files
}

type Texts = BTreeMap<String, (File, Result<Vec<u8>, Errno>)>;

fn read_all(service: &Service, pid: u32, files: &[File]) -> Texts {
    let text = |file| service.text(pid, file).map_err(|error| error.errno());
    files.iter().map(|&file| (Entry::File(file).path(), (file, text(file)))).collect()
}

fn nothing_wrong_is_told(fixture: &str) {
    let captured = Captured::new(fixture);
    let pid = captured.pid;
    let service = captured.service(OnError::Fail).unwrap().unwrap();
    let files = files(&service, pid);
    let good = read_all(&service, pid, &files);
    assert!(good.len() > 20, "{good:?}");
    assert_eq!(read_all(&service, pid, &files), good, "time does not stand still");
    let mut failures = BTreeSet::new();
    for input in captured.inputs() {
        // The clock of a capture: another time is no wrong time.
        if input.ends_with("proc/uptime") {
            continue;
        }
        let before = fs::read(&input).unwrap();
        let name = input.strip_prefix(captured.dir.path()).unwrap().display().to_string();
        // Most files are made from a few inputs.
        let mut made = BTreeMap::new();
        for text in ["", "this is not what was asked for\n"] {
            fs::write(&input, text).unwrap();
            let Ok(Some(service)) = captured.service(OnError::Fail) else { continue };
            let told = read_all(&service, pid, &files);
            let told = told.into_iter().filter(|(path, told)| *told != good[path]);
            made.extend(told.map(|(path, (file, _))| (path, file)));
        }
        fs::write(&input, &before).unwrap();
        // It only refines the first guess of a load average.
        if input.ends_with("cpu.pressure") {
            made.retain(|path, _| path != "/proc/loadavg");
        }
        let made: Vec<File> = made.into_values().collect();
        if made.is_empty() {
            continue;
        }
        let warm = captured.service(OnError::Stale).unwrap().unwrap();
        read_all(&warm, pid, &made);
        // So the kernel says that a cgroup of v1 was not configured.
        let may_be_empty = name.contains("cpuset.effective_");
        for (what, text) in wrong(&before) {
            if may_be_empty && text.trim_ascii().is_empty() {
                continue;
            }
            fs::write(&input, &text).unwrap();
            let fresh = captured.service(OnError::Fail);
            for (state, service) in
                [("warm", Some(&warm)), ("fresh", fresh.as_ref().ok().and_then(Option::as_ref))]
            {
                let Some(service) = service else { continue };
                for (path, (_, told)) in read_all(service, pid, &made) {
                    let (Ok(told), Ok(good)) = (told, &good[&path].1) else { continue };
                    if let Some(line) = strange_line(&told, good) {
                        failures.insert(format!("{name}: {what}: {path} ({state}): {line}"));
                    }
                }
                assert_eq!(service.metrics().panics.get(), 0);
            }
            fs::write(&input, &before).unwrap();
        }
        for (path, told) in read_all(&warm, pid, &made) {
            if told != good[&path] {
                failures.insert(format!("{name}: {path} for ever"));
            }
        }
    }
    let failures: Vec<_> = failures.into_iter().collect();
    assert!(failures.is_empty(), "{} wrong:\n{}", failures.len(), failures.join("\n"));
}

/// A line of a text that is not in the good one.
fn strange_line(told: &[u8], good: &[u8]) -> Option<String> {
    if told == good {
        return None;
    }
    let good: BTreeSet<&[u8]> = good.split(|&byte| byte == b'\n').collect();
    let strange = told.split(|&byte| byte == b'\n').find(|line| !good.contains(line))?;
    Some(String::from_utf8_lossy(strange.get(..80).unwrap_or(strange)).into_owned())
}

#[test]
fn on_v2() {
    nothing_wrong_is_told("6.12-unified-runc-swap");
}

#[test]
fn on_v1() {
    nothing_wrong_is_told("6.18-hybrid-runc");
}
