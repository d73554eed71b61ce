//! The manners of procfs and sysfs: how files answer to system calls, side by side with the kernel's own.
//!
//! docs/semantics.md, law 6: "Reads behave like procfs"; law 7: "stat never fails"; law 9: "nothing can be written".
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

mod manners;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use cgview_compliance::{Defect, Options, PATIENCE, Server, under_test};
use cgview_testkit::{Namespaces, Spawn, skip};
use manners::{ACTIONS, Excuse, as_nobody, excuses};
use rustix::{
    fs::RawDir,
    mount::{MountPropagationFlags, mount_bind, mount_change},
};

/// The files of a server that the kernel has too, relative to the root; of sysfs, some of each directory,
/// and of CPUs the first.
///
/// Without those of pressure where they cannot be read: in a test that runs in a cgroup of v1 and in none of
/// the unified hierarchy, which is nobody's own pressure (docs/semantics.md, section 8).
fn files(server: &Server) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![server.path("proc"), server.path("sys/devices/system")];
    while let Some(dir) = dirs.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(&dir).into_iter().flatten().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        let (mut count, is_proc) = (0, dir.starts_with(server.path("proc")));
        for entry in entries {
            let kind = entry.file_type().unwrap();
            let name = entry.path().strip_prefix(server.mountpoint()).unwrap().to_owned();
            let on_host = Path::new("/").join(&name);
            let another_cpu = entry.file_name().to_str().is_some_and(|name| {
                name.strip_prefix("cpu")
                    .is_some_and(|rest| rest.parse::<u32>().is_ok_and(|it| it > 0))
            });
            if kind.is_dir() && !another_cpu {
                dirs.push(entry.path());
            } else if kind.is_file() && fs::symlink_metadata(&on_host).is_ok_and(|it| it.is_file())
            {
                let can_be_read = fs::read(entry.path()).is_ok();
                assert!(can_be_read || name.starts_with("proc/pressure"), "{}", name.display());
                count += 1;
                files.extend((can_be_read && (is_proc || count <= 3)).then_some(name));
            }
        }
    }
    files.sort();
    // LXCFS has no nodes, and 5.0 no pressure.
    assert!(files.len() > 15, "{files:?}");
    files
}

/// A text without its numbers: what two reads of one file have in common.
fn shape(text: &[u8]) -> String {
    let mut shape = String::new();
    for line in String::from_utf8_lossy(text).lines() {
        let name = line.split([' ', ':', '\t']).next().unwrap();
        // A name that is all number is no name: load averages, lists of CPUs.
        if name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_') {
            shape.push_str(name);
        }
        shape.push('\n');
    }
    shape
}

/// The outcomes of all actions on all files, here and on the host: by action, outcome on the host and here.
fn compare(mountpoint: &Path, files: &[PathBuf]) -> BTreeMap<[String; 3], PathBuf> {
    let mut differences = BTreeMap::new();
    for file in files {
        for (name, action) in ACTIONS {
            let on_host = action(&Path::new("/").join(file));
            let here = action(&mountpoint.join(file));
            if on_host != here {
                differences.entry([(*name).into(), on_host, here]).or_insert_with(|| file.clone());
            }
        }
    }
    differences
}

fn judge(user: &str, differences: BTreeMap<[String; 3], PathBuf>, excuses: &[Excuse]) {
    for ([action, on_host, here], file) in differences {
        let excuse = excuses.iter().find(|excuse| excuse.is_for(&action, &here, &file));
        let why = excuse.map_or("", |excuse| excuse.why);
        let (file, subject) = (file.display(), under_test());
        println!(
            "DIFFERENCE: {action} of {file} by {user}: kernel: {on_host}; {subject}: {here}; {why}"
        );
        if subject.is_cgview() {
            assert!(
                excuse.is_some(),
                "{action} of {file} by {user}: kernel {on_host}, here {here}"
            );
        }
    }
}

// Every kind of open(2), lseek(2), stat(2), access(2), poll(2), and whatever else can be done to a file without
// harm to the host, by root and by nobody. Where the answer is not the kernel's, it is one that is excused.
#[test]
fn files_answer_as_the_kernels_own() {
    if !Server::is_possible() {
        return;
    }
    for triggers in [false, true] {
        let options = Options::new();
        let options = if triggers { options.cgview(&["--enable-psi-poll"]) } else { options };
        let server = Server::start(&options);
        let files = files(&server);
        judge("root", compare(&server.mountpoint(), &files), &excuses(triggers));
        let text = as_nobody(|| {
            let differences = compare(&server.mountpoint(), &files).into_iter();
            let line = |([action, on_host, here], file): ([String; 3], PathBuf)| {
                format!("{action}\t{on_host}\t{here}\t{}\n", file.display())
            };
            differences.map(line).collect()
        });
        let differences = text.lines().map(|line| {
            let words: Vec<&str> = line.split('\t').collect();
            ([words[0].into(), words[1].into(), words[2].into()], words[3].into())
        });
        judge("nobody", differences.collect(), &excuses(triggers));
    }
}

fn read_by(file: &mut File, size: usize, most: usize) -> Vec<u8> {
    let (mut text, mut buffer) = (Vec::new(), vec![0; size]);
    while text.len() < most {
        let read = file.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..read]);
    }
    text
}

// Law 6: "a text is rendered once per open or rewind and sliced, never torn". Read by 1, 7 or 4096 bytes, a file
// gives one text, which pread(2) on the same descriptor gives too.
#[test]
fn small_reads_are_slices_of_one_text() {
    if !Server::is_possible() {
        return;
    }
    let server = Server::start(&Options::new());
    let mut past_the_end = None;
    for name in files(&server) {
        let path = server.path(name.to_str().unwrap());
        let whole = fs::read(&path).unwrap();
        for size in [1, 7, 4096] {
            // Each byte of the small ones, and the first of the large ones: a read costs its time.
            let most = if size == 4096 { usize::MAX } else { size * 64 };
            let mut file = File::open(&path).unwrap();
            let text = read_by(&mut file, size, most);
            let mut again = vec![0; 1 << 20];
            if text.is_empty() {
                assert!(whole.is_empty(), "{}", name.display());
                continue;
            }
            let read = file.read_at(&mut again, 1).unwrap();
            let rest = &again[..read];
            let all = [&text[..1], rest].concat();
            let is_one = rest.starts_with(&text[1..]) && shape(&all) == shape(&whole);
            let case = format!("{} by {size}", name.display());
            if under_test().is_cgview() {
                assert!(is_one, "{case}: {}", String::from_utf8_lossy(&text));
            } else if !is_one {
                println!("DIFFERENCE: {case}: one text; {}: parts of several", under_test());
            }
            for past in [all.len() as u64, all.len() as u64 + 1, 1 << 40] {
                match file.read_at(&mut again, past) {
                    Ok(read) => assert_eq!(read, 0, "{}", name.display()),
                    Err(error) => past_the_end = Some(error),
                }
            }
        }
    }
    let seen = format!("past the end: {past_the_end:?}");
    let is_invalid =
        past_the_end.as_ref().is_some_and(|error| error.kind() == ErrorKind::InvalidInput);
    Defect::new("W26").judge(&seen, past_the_end.is_none(), is_invalid);
}

// "`pread` at any offset works on a fresh descriptor; past the end gives 0 bytes".
#[test]
fn a_fresh_descriptor_can_be_read_from_anywhere() {
    if !Server::is_possible() {
        return;
    }
    if !under_test().is_cgview() {
        // W26, which has a test of its own.
        return skip("lxcfs reads nothing from a fresh descriptor but at 0");
    }
    let server = Server::start(&Options::new());
    for name in files(&server) {
        let path = server.path(name.to_str().unwrap());
        let whole = fs::read(&path).unwrap();
        // Elsewhere lines may be a digit longer or shorter from read to read.
        let fixed = name.starts_with("sys/devices/system/cpu/cpu0/topology")
            || name.starts_with("sys/devices/system/cpu/cpu0/cache");
        let mut buffer = vec![0; 1 << 20];
        for offset in [1, 2, whole.len() / 2, whole.len().saturating_sub(1)] {
            let file = File::open(&path).unwrap();
            let read = file.read_at(&mut buffer, offset as u64).unwrap();
            if fixed {
                let case = format!("{} at {offset}", name.display());
                assert_eq!(buffer[..read], whole[offset.min(whole.len())..], "{case}");
            }
            let lines = |text: &[u8]| text.iter().filter(|&&byte| byte == b'\n').count();
            let expected = lines(&whole[offset.min(whole.len())..]);
            // An offset may be before or behind the end of a line, as the lines before grew or shrank.
            assert!(
                lines(&buffer[..read]).abs_diff(expected) <= 1,
                "{} at {offset}",
                name.display()
            );
        }
        let file = File::open(&path).unwrap();
        assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0, "{}", name.display());
        // And then it is read from the start.
        let read = file.read_at(&mut buffer, 0).unwrap();
        assert_eq!(shape(&buffer[..read]), shape(&whole), "{}", name.display());
    }
}

// "a kept-open descriptor gives fresh text after `lseek(0)`".
#[test]
fn a_rewind_gives_a_fresh_text() {
    if !Server::is_possible() {
        return;
    }
    let server = Server::start(&Options::new());
    let mut file = File::open(server.path("proc/uptime")).unwrap();
    let mut read = || {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        // To the end, where it stays until it is rewound.
        assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
        text.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let first = read();
    let end = Instant::now() + PATIENCE;
    while read() <= first {
        assert!(Instant::now() < end, "still {first}");
        thread::sleep(Duration::from_millis(10));
    }
}

// W1: "Concurrent reads on one file handle corrupt the heap ... when the host file has grown by one byte since
// open()". Here it grows by a line again and again while eight threads read it through one descriptor.
#[test]
fn eight_threads_read_one_descriptor_while_the_file_grows() {
    if !Server::is_possible() {
        return;
    }
    if !under_test().is_cgview() {
        return skip("only cgview shows vmstat");
    }
    // A host whose vmstat is a file of ours.
    let process = Spawn::new().new_namespaces(Namespaces::NEWNS).run(|| {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let mut grown = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        // Of 16 bytes, so that no page of the file ends within one: it would be seen half written.
        let line = |number: usize| format!("nr_{number:04} {number:07}\n");
        grown.write_all(line(0).as_bytes()).unwrap();
        mount_bind(grown.path(), "/proc/vmstat").unwrap();
        let server = Server::start(&Options::new().cgview(&["--freshness", "0"]));
        let file = File::open(server.path("proc/vmstat")).unwrap();
        let lines = 400;
        let is_whole = |text: &[u8], end: usize| {
            assert!(text.is_empty() || text.ends_with(b"\n"), "{}", String::from_utf8_lossy(text));
            let text = std::str::from_utf8(text).unwrap();
            let names = text.lines().map(|line| line.split(' ').next().unwrap());
            for (number, name) in names.clone().enumerate() {
                assert_eq!(name, format!("nr_{number:04}"), "{text}");
            }
            names.count() >= end
        };
        thread::scope(|scope| {
            for number in 0..8 {
                let file = &file;
                scope.spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    let end = Instant::now() + PATIENCE;
                    loop {
                        assert!(Instant::now() < end);
                        let read = file.read_at(&mut buffer, 0).unwrap();
                        // Until it is as long as it gets.
                        if is_whole(&buffer[..read], lines) {
                            break;
                        }
                        // From within, each gets a part of a text that somebody got as a whole.
                        let read = file.read_at(&mut buffer, 1 + number).unwrap();
                        assert_eq!(buffer[read - 1], b'\n');
                    }
                });
            }
            scope.spawn(|| {
                for number in 1..lines {
                    // In one piece.
                    grown.as_file().write_all(line(number).as_bytes()).unwrap();
                    thread::sleep(Duration::from_millis(2));
                }
            });
        });
        0
    });
    assert_eq!(process.wait(), 0);
}

/// The names in a directory, with their inode numbers, by getdents(2) into a buffer of so many bytes.
fn getdents(dir: &Path, size: usize) -> Vec<(String, u64)> {
    let file = File::open(dir).unwrap();
    let mut buffer = Vec::with_capacity(size);
    let mut names = Vec::new();
    let mut entries = RawDir::new(&file, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        names.push((entry.file_name().to_str().unwrap().to_owned(), entry.ino()));
    }
    names
}

// What readdir(3) lists, lookup finds: the same kind and number, once each, whatever the size of the buffer; and
// the host has it too.
#[test]
fn directories_list_what_can_be_looked_up() {
    if !Server::is_possible() {
        return;
    }
    let server = Server::start(&Options::new());
    let is_cgview = under_test().is_cgview();
    let mut dirs = vec![server.mountpoint()];
    let mut count = 0;
    while let Some(dir) = dirs.pop() {
        let on_host = Path::new("/").join(dir.strip_prefix(server.mountpoint()).unwrap());
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!(found.file_type(), entry.file_type().unwrap(), "{}", path.display());
            if is_cgview {
                assert_eq!(found.ino(), entry.ino(), "{}", path.display());
                assert!(
                    fs::symlink_metadata(on_host.join(entry.file_name())).is_ok(),
                    "{}",
                    path.display()
                );
            }
            if found.is_dir() {
                dirs.push(path);
            }
            count += 1;
        }
        let whole = getdents(&dir, 1 << 16);
        let names: BTreeSet<_> = whole.iter().map(|(name, _)| name.as_str()).collect();
        let is_whole = names.contains(".") && names.contains("..");
        if is_cgview {
            assert!(is_whole && names.len() == whole.len(), "{whole:?}");
            // As long as two names.
            assert_eq!(getdents(&dir, 300), whole, "{}", dir.display());
        } else if !is_whole || names.len() < whole.len() {
            let path = dir.strip_prefix(server.mountpoint()).unwrap().display();
            println!("DIFFERENCE: names in {path}: each once; {}: {whole:?}", under_test());
        }
        for name in ["none", "cpu99999", "cpu01", "nul\u{1}", "meminfo "] {
            let error = fs::symlink_metadata(dir.join(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{} in {}", name, dir.display());
        }
    }
    assert!(count > 15, "{count}");
}

// stat(2): a size of 0 for procfs and of a page for sysfs, the host's modes without those that write, and times
// that are not in the future.
#[test]
fn stat_tells_what_the_kernels_own_tell() {
    if !Server::is_possible() {
        return;
    }
    let server = Server::start(&Options::new());
    let is_cgview = under_test().is_cgview();
    for name in files(&server) {
        let (here, on_host) = (server.path(name.to_str().unwrap()), Path::new("/").join(&name));
        let told = fs::metadata(&here).unwrap();
        let expected = fs::metadata(&on_host).unwrap();
        let now = SystemTime::now() + Duration::from_secs(1);
        for time in [told.modified(), told.accessed()] {
            assert!(time.unwrap() <= now, "{}", name.display());
        }
        let seen = (told.len(), told.blocks(), told.mode(), told.uid(), told.gid(), told.nlink());
        // Lists and masks of CPUs have the size of the longest that there could be, which is a page or more.
        let length = expected.len().min(4096);
        let right = (
            length,
            expected.blocks(),
            expected.mode() & !0o222,
            expected.uid(),
            expected.gid(),
            expected.nlink(),
        );
        if is_cgview {
            assert_eq!(seen, right, "{}", name.display());
            assert!(told.ctime() > 1_000_000_000, "{}", name.display());
            // By descriptor it is the same, before and after reading.
            let mut file = File::open(&here).unwrap();
            assert_eq!(file.metadata().unwrap().len(), right.0);
            let _ = file.read(&mut [0; 100]);
            assert_eq!(file.metadata().unwrap().len(), right.0);
        } else if seen != right {
            println!(
                "DIFFERENCE: stat of {}: kernel: {right:?}; {}: {seen:?}",
                name.display(),
                under_test()
            );
        }
    }
}
