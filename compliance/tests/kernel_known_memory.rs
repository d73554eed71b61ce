//! What `/proc/meminfo` and free(1) tell of memory of known size.
//!
//! docs/semantics.md, section 3, says what each line is; `Documentation/admin-guide/cgroup-v2.rst` what the
//! fields of `memory.stat` are: "anon: Amount of memory used in anonymous mappings", "file: Amount of memory
//! used to cache filesystem data, including tmpfs and shared memory", and so on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    thread,
    time::Duration,
};

use cgview_compliance::{
    Container, Defect, MIB, Options, Server, disk::Disk, meminfo::Look, memory::Mapping, text,
    worker::Worker,
};
use cgview_testkit::{Tree, skip};

const M: i128 = MIB as i128;

/// A container with a limit of memory.
struct Scene {
    container: Container,
    _server: Server,
    tree: Tree,
}

impl Scene {
    // host
    // └─ container (so many MiB)   <- a worker, and who reads
    fn new(limit: u64) -> Option<Scene> {
        if !Server::is_possible() {
            return None;
        }
        let tree = Tree::with(&["memory"])?;
        let cgroup = tree.cgroup("container");
        cgroup.limit_memory(limit * MIB);
        let server = Server::start(&Options::new());
        let container = Container::start(&server, &cgroup);
        Some(Scene { container, _server: server, tree })
    }
}

#[test]
fn anonymous_memory() {
    let Some(scene) = Scene::new(160) else { return };
    let container = &scene.container;
    let mut worker = Worker::start(container.enter(), |steps| {
        let memory = steps.step(|| Mapping::anonymous(64 * MIB));
        steps.step(|| drop(memory));
        let tables = steps.step(|| Mapping::sparse(2048));
        steps.step(|| drop(tables));
    });
    // Its first run brings the program's file into the page cache.
    free(container, "-k");
    let before = Look::new(container);
    let (free_before, ..) = free(container, "-k");
    worker.step();
    before.has_grown(&[
        ("MemTotal", 0),
        ("MemFree", -64 * M),
        ("MemAvailable", -64 * M),
        ("AnonPages", 64 * M),
        ("Active(anon)+Inactive(anon)", 64 * M),
        ("Active+Inactive", 64 * M),
        ("Committed_AS", 64 * M),
        ("Cached", 0),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Unevictable", 0),
        ("Slab", 0),
    ]);
    for (option, unit) in [("-k", 1024), ("-m", MIB)] {
        let (used, total, shared) = free(container, option);
        assert_eq!(total * unit, 160 * MIB);
        assert!(shared * unit < MIB);
        let grown = used * unit - free_before * 1024;
        // The program itself takes something.
        assert!(grown.abs_diff(64 * MIB) < 2 * MIB, "free {option}: {grown}");
    }
    worker.step();
    before.has_grown(&[("MemFree", 0), ("AnonPages", 0), ("Active+Inactive", 0)]);
    worker.step();
    let tables = if scene.tree.is_v1("memory") { 0 } else { 8 * M };
    before.has_grown(&[("AnonPages", 8 * M), ("MemFree", -16 * M), ("PageTables", tables)]);
}

/// What free(1) tells: used, total and shared, in its unit.
fn free(container: &Container, option: &str) -> (u64, u64, u64) {
    let said = container.run(&format!("LC_ALL=C free {option}"));
    let line = said.lines().find_map(|line| line.strip_prefix("Mem:")).unwrap();
    let words: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let &[total, used, _, shared, _, _] = words.as_slice() else { panic!("{said}") };
    (used, total, shared)
}

#[test]
fn page_cache() {
    let Some(mut disk) = Disk::new(64 * MIB) else { return };
    let path = disk.mount().join("file");
    // Its pages belong to whoever had them first: not yet anybody.
    let Some(scene) = Scene::new(384) else { return };
    let container = &scene.container;
    let length = 24 * MIB;
    let mut worker = Worker::start(container.enter(), |steps| {
        let file = steps.step(|| {
            let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
            write(file.as_mut().unwrap(), length);
            file.unwrap()
        });
        steps.step(|| file.sync_all().unwrap());
        let mapping = steps.step(|| Mapping::of(&file, length));
        steps.step(|| drop(mapping));
        steps.step(|| rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap());
    });
    let before = Look::new(container);
    worker.step();
    let cached = [
        ("MemFree", -24 * M),
        ("MemAvailable", 0),
        ("Cached", 24 * M),
        ("Active(file)+Inactive(file)", 24 * M),
        ("Active+Inactive", 24 * M),
        ("AnonPages", 0),
        ("Shmem", 0),
    ];
    // Written again and again: whatever is dirty, a machine where others write as well is quick to clean.
    let writer = container.enter().run(|| {
        loop {
            write(&mut OpenOptions::new().write(true).open(&path).unwrap(), length);
        }
    });
    before.has_grown(&[&cached[..], &[("Dirty+Writeback", 24 * M), ("Mapped", 0)]].concat());
    writer.kill();
    worker.step();
    before.has_grown(&[&cached[..], &[("Dirty+Writeback", 0), ("Mapped", 0)]].concat());
    worker.step();
    before.has_grown(&[&cached[..], &[("Mapped", 24 * M)]].concat());
    worker.step();
    worker.step();
    before.has_grown(&[("MemFree", 0), ("Cached", 0), ("Mapped", 0), ("Active+Inactive", 0)]);
}

/// Writes so much to a file.
fn write(file: &mut File, length: u64) {
    let block = [1; 1 << 16];
    for _ in 0..length >> 16 {
        file.write_all(&block).unwrap();
    }
}

#[test]
fn shared_and_locked_memory() {
    let Some(scene) = Scene::new(160) else { return };
    let container = &scene.container;
    let mut worker = Worker::start(container.enter(), |steps| {
        let shm = format!("/dev/shm/cgview-{}", std::process::id());
        let file = steps.step(|| {
            let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&shm);
            fs::remove_file(&shm).unwrap();
            write(file.as_mut().unwrap(), 24 * MIB);
            file.unwrap()
        });
        let mapping = Mapping::of(&file, 24 * MIB);
        steps.step(|| mapping.lock());
        let anonymous = steps.step(|| Mapping::anonymous(16 * MIB));
        steps.step(|| anonymous.lock());
        (mapping, anonymous)
    });
    let before = Look::new(container);
    worker.step();
    let shared = [
        ("MemFree", -24 * M),
        ("MemAvailable", -24 * M),
        ("Cached", 24 * M),
        ("Shmem", 24 * M),
        ("AnonPages", 0),
        ("Active(file)+Inactive(file)", 0),
        ("Committed_AS", 24 * M),
    ];
    before.has_grown(
        &[
            &shared[..],
            &[("Active(anon)+Inactive(anon)", 24 * M), ("Unevictable", 0), ("Mlocked", 0)],
        ]
        .concat(),
    );
    let (_, _, shared_kib) = free(container, "-k");
    assert!((shared_kib * 1024).abs_diff(24 * MIB) < MIB, "{shared_kib}");
    worker.step();
    // Locked pages leave the lists of those that can be reclaimed: Documentation/mm/unevictable-lru.rst.
    let locked = [
        ("Mapped", 24 * M),
        ("Active(anon)+Inactive(anon)", 0),
        ("Unevictable", 24 * M),
        ("Mlocked", 24 * M),
    ];
    // An LXCFS takes shared memory from what is on the lists, where it is not any more.
    let w5 = Defect::new("W5");
    if w5.is_expected() {
        let seen = Look::new(container).lines["AnonPages"];
        return w5.judge(&format!("AnonPages: {seen} kB"), false, seen > 1 << 50);
    }
    before.has_grown(&[&shared[..], &locked[..]].concat());
    worker.step();
    worker.step();
    before.has_grown(&[
        ("MemFree", -40 * M),
        ("AnonPages", 16 * M),
        ("Unevictable", 40 * M),
        ("Mlocked", 40 * M),
        ("Shmem", 24 * M),
    ]);
}

#[test]
fn transparent_huge_pages() {
    let Ok(enabled) = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled") else {
        return skip("needs transparent huge pages");
    };
    assert!(!enabled.contains("[never]"), "{enabled}");
    let Some(scene) = Scene::new(160) else { return };
    let container = &scene.container;
    let mut worker = Worker::start(container.enter(), |steps| {
        let memory = steps.step(|| Mapping::transparent_huge(32 * MIB));
        steps.step(|| drop(memory));
    });
    // With what it shares with the test's process, as proc_pid_smaps(5) has it.
    let huge = |pid| {
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        text::numbers(&smaps)["AnonHugePages"] * 1024
    };
    let before = Look::new(container);
    let shared = huge(worker.process().pid());
    worker.step();
    // A machine whose memory is in pieces gives fewer.
    let huge = huge(worker.process().pid()) - shared;
    assert!(huge > 0, "the kernel gives no huge page");
    before.has_grown(&[
        ("AnonHugePages", huge.into()),
        ("AnonPages", 32 * M),
        ("MemFree", -32 * M),
        ("ShmemHugePages", 0),
        ("FileHugePages", 0),
    ]);
    worker.step();
    before.has_grown(&[("AnonHugePages", 0), ("AnonPages", 0), ("MemFree", 0)]);
}

// "slab: Amount of memory used for storing in-kernel data structures", by objects since Linux 5.9.
#[test]
fn memory_of_the_kernel() {
    const FILES: u64 = 16_000;
    const THREADS: usize = 200;
    let Some(scene) = Scene::new(256) else { return };
    let container = &scene.container;
    let mut worker = Worker::start(container.enter(), |steps| {
        let shm = tempfile::TempDir::new_in("/dev/shm").unwrap();
        steps.step(|| {
            for number in 0..FILES {
                File::create(shm.path().join(number.to_string())).unwrap();
            }
        });
        steps.step(|| fs::remove_dir_all(shm.path()).unwrap());
        steps.step(|| {
            for _ in 0..THREADS {
                thread::spawn(|| thread::sleep(Duration::MAX));
            }
        });
    });
    let before = Look::new(container);
    worker.step();
    // slabinfo(5): the sizes of objects; the kernel charges a pointer more for each.
    let slabinfo = fs::read_to_string("/proc/slabinfo").unwrap();
    let of = |cache: &str| {
        let line = slabinfo.lines().find(|line| line.starts_with(&format!("{cache} "))).unwrap();
        let size: i128 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
        (size + 8) * i128::from(FILES)
    };
    let (names, inodes) = (of("dentry"), of("shmem_inode_cache"));
    let all = names + inodes;
    if scene.tree.is_v1("memory") {
        // v1 has one number for all of the kernel's memory.
        before.has_grown(&[
            ("MemFree", -all),
            ("SUnreclaim", all),
            ("Slab", all),
            ("SReclaimable", 0),
        ]);
        return;
    }
    before.has_grown(&[
        ("MemFree", -all),
        ("MemAvailable", -inodes),
        ("Slab", all),
        ("SReclaimable", names),
        ("KReclaimable", names),
        ("SUnreclaim", inodes),
        ("AnonPages", 0),
        ("Cached", 0),
    ]);
    worker.step();
    worker.step();
    let stack = 16 << 10;
    before.has_grown(&[("KernelStack", THREADS as i128 * stack)]);
}
