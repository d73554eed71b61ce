//! The view on real machines: on the one that the test runs on, and on `/proc` and `/sys` trees of many
//! architectures as util-linux collects them for the tests of lscpu (`tests/ts/lscpu/dumps` of its
//! repository).
//!
//! The trees are not part of this project. `CGVIEW_HOST_DUMPS` names a folder with some of them, each
//! `NAME.tar.gz` with a directory of that name; without it these tests say so and go on without. The
//! shapes that they have are in the unit tests and in `properties_sysfs.rs`, too.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and says what it skips"
)]

mod machine;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cgview_core::{Bytes, HostFacts, Mask, host::HostNode};
use machine::{CPU, Machine, NODE, Shown, write};

/// Calls `test` with the root of this machine, and of each dump.
fn for_each_machine(test: impl Fn(&str, &Path)) {
    test("this machine", Path::new("/"));
    let Some(folder) = std::env::var_os("CGVIEW_HOST_DUMPS") else {
        eprintln!("SKIPPED: other machines: CGVIEW_HOST_DUMPS does not name a folder of dumps");
        return;
    };
    let mut count = 0;
    for archive in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let Some(name) = archive.file_name().unwrap().to_str().unwrap().strip_suffix(".tar.gz")
        else {
            continue;
        };
        let unpacked = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&archive).arg("-C").arg(unpacked.path()).arg("--no-same-owner");
        assert!(tar.status().unwrap().success(), "{}", archive.display());
        test(name, &unpacked.path().join(name));
        count += 1;
    }
    assert!(count > 0, "no dumps");
}

fn load(root: &Path) -> Machine {
    let mut machine = Machine::default();
    load_file(&mut machine, root, "/proc/cpuinfo".into());
    load_dir(&mut machine, root, CPU);
    load_dir(&mut machine, root, NODE);
    let text = |path: &str| machine.files.get(path).cloned();
    let nodes = (0..64).filter_map(|number| {
        let cpus = match text(&format!("{NODE}/node{number}/cpulist")) {
            Some(list) => Mask::parse_list(&list).unwrap(),
            None => Mask::parse_hex(&text(&format!("{NODE}/node{number}/cpumap"))?).unwrap().0,
        };
        Some(HostNode { number, cpus, total: Bytes(1 << 30) })
    });
    machine.facts = HostFacts::parse(
        b"",
        &text(&format!("{CPU}/online")).unwrap(),
        nodes.collect(),
        Bytes(4096),
    )
    .unwrap();
    machine
}

fn load_dir(machine: &mut Machine, root: &Path, dir: &str) {
    let Ok(entries) = fs::read_dir(root.join(&dir[1..])) else { return };
    for entry in entries.map(Result::unwrap) {
        let path = format!("{dir}/{}", entry.file_name().to_str().unwrap());
        let name = entry.file_name();
        if entry.file_type().unwrap().is_symlink() && name != "cpufreq" {
            machine.links.insert(path);
        } else if entry.path().is_dir() {
            load_dir(machine, root, &path);
        } else {
            load_file(machine, root, path);
        }
    }
}

fn load_file(machine: &mut Machine, root: &Path, path: String) {
    if let Ok(text) = fs::read(root.join(&path[1..])) {
        machine.files.insert(path, text);
    }
}

/// Sets of CPUs to look at: one, three, all, and such that leave out threads, cores or packages.
fn sets(online: &Mask) -> Vec<Mask> {
    let cpus: Vec<u32> = online.iter().collect();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let mut sets: Vec<Mask> = vec![
        [first].into_iter().collect(),
        [last].into_iter().collect(),
        cpus.iter().copied().take(3).collect(),
        cpus.iter().copied().rev().take(3).collect(),
        cpus.iter().copied().step_by(2).collect(),
        cpus.iter().copied().skip(1).step_by(3).collect(),
        cpus.iter().copied().skip(1).collect(),
        cpus.iter().copied().take(cpus.len() / 2).collect(),
        online.clone(),
    ];
    sets.retain(|set| !set.is_empty());
    sets
}

fn all_nodes(machine: &Machine) -> Mask {
    machine.facts.nodes.iter().map(|node| node.number).collect()
}

#[test]
fn no_two_files_contradict_each_other() {
    for_each_machine(|name, root| {
        let machine = load(root);
        for set in sets(&machine.facts.online) {
            let shown = machine.show(&set, &all_nodes(&machine));
            eprintln!("{name}: CPUs {} of {}", write(&set), write(&machine.facts.online));
            assert_eq!(shown.limits.visible, set);
            shown.check(&machine);
        }
    });
}

#[test]
fn without_limits_the_hosts_bytes_are_shown() {
    for_each_machine(|name, root| {
        let machine = load(root);
        let online = &machine.facts.online;
        let shown = machine.show(online, &all_nodes(&machine));
        if *online != Mask::first(online.len()) {
            eprintln!("{name}: has a hole in its CPUs");
            return;
        }
        for (path, text) in &shown.files {
            let hotplug = ["possible", "present", "offline"].map(|name| format!("{CPU}/{name}"));
            if hotplug.contains(path) {
                continue;
            }
            assert!(machine.files[path] == *text, "{name}: {path}");
        }
    });
}

/// What `lscpu --parse` says of each CPU; nothing if it does not understand the machine.
fn lscpu(root: &Path) -> Option<BTreeMap<u32, [String; 3]>> {
    let output = Command::new("lscpu")
        .arg("--sysroot")
        .arg(root)
        .args(["--parse=CPU,CORE,SOCKET,NODE", "--all"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(output.status.success(), "lscpu: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let words: Vec<&str> = line.split(',').collect();
        Some((words[0].parse().ok()?, [words[1].into(), words[2].into(), words[3].into()]))
    });
    rows.collect()
}

/// What lscpu says to people.
fn table(root: &Path) -> String {
    let mut lscpu = Command::new("lscpu");
    let output = lscpu.arg("--sysroot").arg(root).env("LC_ALL", "C").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A value of that table.
fn value(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.trim().starts_with(&format!("{name}:")))?;
    Some(line.split_once(':')?.1.trim().into())
}

fn write_tree(shown: &Shown) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| -> PathBuf { root.path().join(path.trim_start_matches('/')) };
    for dir in &shown.dirs {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for (path, text) in &shown.files {
        fs::write(at(path), text).unwrap();
    }
    for (path, target) in &shown.links {
        std::os::unix::fs::symlink(target, at(path)).unwrap();
    }
    root
}

#[test]
fn lscpu_reports_the_visible_cpus_and_their_topology() {
    if Command::new("lscpu").arg("--version").output().is_err() {
        eprintln!("SKIPPED: lscpu is not installed");
        return;
    }
    for_each_machine(|name, root| {
        let machine = load(root);
        let Some(host) = lscpu(root) else {
            eprintln!("SKIPPED: {name}: this lscpu prints rows without a CPU for the host itself");
            return;
        };
        // lscpu counts cores and sockets anew for each model, so its numbers are not unique on a machine
        // with several.
        let columns = if table(root).matches("Model name:").count() > 1 { 2..3 } else { 0..3 };
        for set in sets(&machine.facts.online) {
            let shown = machine.show(&set, &all_nodes(&machine));
            let tree = write_tree(&shown);
            let case = format!("{name}, CPUs {}", write(&set));
            let rows = lscpu(tree.path()).unwrap();
            let all: Vec<u32> = (0..shown.count()).collect();
            assert_eq!(rows.keys().copied().collect::<Vec<_>>(), all, "{case}");
            // Two visible CPUs share a core, a socket or a node just if they do on the host.
            for (a, physical_a) in (0..).zip(set.iter()) {
                for (b, physical_b) in (0..).zip(set.iter()) {
                    for column in columns.clone() {
                        let together = rows[&a][column] == rows[&b][column];
                        let on_host = host[&physical_a][column] == host[&physical_b][column];
                        assert_eq!(together, on_host, "{case}: {a}, {b}, column {column}");
                    }
                }
            }
            check_table(tree.path(), shown.count(), &rows, &case);
        }
    });
}

/// The table for people has the same count, no CPU that is offline, and, where each core and each socket
/// has as many parts as any other, sockets x cores x threads are all CPUs.
fn check_table(root: &Path, count: u32, rows: &BTreeMap<u32, [String; 3]>, case: &str) {
    let text = table(root);
    assert_eq!(value(&text, "CPU(s)"), Some(count.to_string()), "{case}\n{text}");
    let online = value(&text, "On-line CPU(s) list").unwrap();
    assert_eq!(Mask::parse_list(online.as_bytes()).unwrap(), Mask::first(count), "{case}");
    assert_eq!(value(&text, "Off-line CPU(s) list"), None, "{case}\n{text}");
    let even = |column: usize| {
        let mut sizes = BTreeMap::new();
        for row in rows.values() {
            *sizes.entry(row[column].clone()).or_insert(0) += 1;
        }
        sizes.values().all(|size| Some(size) == sizes.values().next())
    };
    let number = |name: &str| value(&text, name).and_then(|value| value.parse::<u32>().ok());
    let (Some(threads), Some(cores), Some(sockets)) =
        (number("Thread(s) per core"), number("Core(s) per socket"), number("Socket(s)"))
    else {
        return;
    };
    if even(0) && even(1) && text.matches("Model name:").count() == 1 {
        assert_eq!(threads * cores * sockets, count, "{case}\n{text}");
    }
}
