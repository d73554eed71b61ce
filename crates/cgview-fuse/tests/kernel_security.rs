//! What takes LXCFS down or makes it tell too much, tried on this daemon: `docs/security.md` names the defects.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemon;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::{
        fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use cgview_core::tree::{File as ViewFile, ProcFile};
use cgview_fuse::{Service, settings::ViewSettings};
use cgview_host::Host;
use cgview_testkit::{FakeHost, FakeProcess, Namespaces, Spawn, Tree, block, is_root, pause, skip};
use daemon::{Daemon, Dirs, run};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, Signal, kill_process},
};

const MIB: u64 = 1 << 20;

/// Whoever asks gets a container's text, and the processes that were there are there.
fn is_well(daemon: &Daemon) {
    assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
    assert!(fs::exists(format!("/proc/{}", daemon.pid())).unwrap());
    for line in daemon.log().lines() {
        let is_bad =
            ["ended in a panic", "took over", "ERROR"].iter().any(|word| line.contains(word));
        assert!(!is_bad, "{line}");
    }
}

/// All files of a view.
fn files(mountpoint: &Path) -> Vec<PathBuf> {
    let (mut dirs, mut files) = (vec![mountpoint.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

// W1: two threads read from the start of one descriptor while the host's file grows.
#[test]
fn readers_of_one_descriptor_each_get_a_whole_text() {
    if !Daemon::is_possible() {
        return;
    }
    // A host whose file can be made to grow, served to all as it is.
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup").file("/sys/fs/cgroup/cgroup.procs", "");
    let text = |round: usize| format!("{round}\n").repeat(1 + (round % 50) * 200);
    fake.file("/proc/diskstats", &text(0));
    let root = fake.path().to_str().unwrap().to_owned();
    let options = ["--host-root", &root, "--on-error", "host", "--freshness", "0"];
    let daemon = Daemon::start(&options);
    let path = daemon.path("proc/diskstats");
    let descriptors: Vec<File> = (0..4).map(|_| File::open(&path).unwrap()).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 17];
                while !stop.load(Ordering::Relaxed) {
                    for file in &descriptors {
                        let read = file.read_at(&mut buffer, 0).unwrap();
                        let read = std::str::from_utf8(&buffer[..read]).unwrap();
                        let lines: BTreeSet<_> = read.lines().collect();
                        assert_eq!(lines.len(), 1, "{lines:?}");
                        let round = lines.first().unwrap().parse().unwrap();
                        assert_eq!(read.len(), text(round).len());
                    }
                }
            });
        }
        for round in 1..300 {
            // As the kernel's own files, it is never seen half.
            let next = fake.path().join("proc/next");
            fs::write(&next, text(round)).unwrap();
            fs::rename(&next, fake.path().join("proc/diskstats")).unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(fs::exists(format!("/proc/{}", daemon.pid())).unwrap());
    assert_eq!(daemon.metric("cgview_panics_total "), 0);
}

fn with_pressure() -> Option<(Tree, Daemon)> {
    if !Daemon::is_possible() {
        return None;
    }
    let tree = Tree::with(&["unified"])?;
    let cgroup = tree.cgroup("container");
    if !cgroup.dir("unified").join("memory.pressure").exists() {
        skip("needs pressure of cgroups");
        return None;
    }
    let daemon = Daemon::start(&["--enable-psi-poll"]);
    Some((tree, daemon))
}

fn open_pressure(path: &Path) -> std::io::Result<File> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(nonblock).open(path)
}

const TRIGGER: &[u8] = b"some 150000 2000000\0";

// W2: any user sets triggers and never polls.
#[test]
fn triggers_that_nobody_polls_come_and_go() {
    let Some((tree, daemon)) = with_pressure() else { return };
    let cgroup = tree.cgroup("container");
    let path = daemon.path("proc/pressure/memory");
    let rounds = 2000;
    let process = Spawn::new().cgroup(&cgroup).container().run(|| {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
        let mut set = 0;
        for round in 0..rounds {
            let mut file = open_pressure(&path).unwrap();
            // Some without a trigger, some with what is none.
            match round % 3 {
                0 => drop(file),
                1 => assert!(file.write_all(b"some").is_err()),
                // Those before may still be on their way out.
                _ => set += u32::from(file.write_all(TRIGGER).is_ok()),
            }
        }
        i32::from(set < 100)
    });
    assert_eq!(process.wait(), 0);
    is_well(&daemon);
}

// W3, W29: signals while somebody polls.
#[test]
fn signals_harm_nobody_who_polls() {
    let Some((tree, daemon)) = with_pressure() else { return };
    let cgroup = tree.cgroup("container");
    let path = daemon.path("proc/pressure/memory");
    let done = daemon.dirs().path("done");
    let poller = {
        let done = done.clone();
        Spawn::new().cgroup(&cgroup).container().run(move || {
            let mut file = open_pressure(&path).unwrap();
            file.write_all(TRIGGER).unwrap();
            while !done.exists() {
                let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                let mut waited = [PollFd::new(&file, PollFlags::PRI)];
                poll(&mut waited, Some(&timeout)).unwrap();
                // The trigger is there all the time.
                assert!(!waited[0].revents().contains(PollFlags::ERR));
            }
            0
        })
    };
    for _ in 0..30 {
        for signal in [Signal::USR1, Signal::HUP, Signal::USR2, Signal::USR2] {
            daemon.signal(signal);
        }
        thread::sleep(Duration::from_millis(10));
    }
    is_well(&daemon);
    fs::write(done, "").unwrap();
    assert_eq!(poller.wait(), 0);
}

// W7: whoever asks, no file can be read that the host's own file would not let that user read.
#[test]
fn nobody_may_read_more_than_on_the_host() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let (mut compared, mut refused) = (0, 0);
    let mut paths = Vec::new();
    for file in files(&daemon.mountpoint()) {
        let host = Path::new("/").join(file.strip_prefix(daemon.mountpoint()).unwrap());
        let Ok(on_host) = fs::metadata(&host) else { continue };
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        let more = mode & 0o444 & !on_host.permissions().mode();
        assert_eq!(more, 0, "{}: {mode:o}", file.display());
        compared += 1;
        paths.push((file, host));
    }
    assert!(compared > 15, "{compared}");
    // And what the modes say is so.
    let reader = Spawn::new().run(|| {
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_gid(rustix::process::Gid::from_raw(65_534)).unwrap();
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
        for (file, host) in &paths {
            let denied = |path: &Path| {
                File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
            };
            assert!(!denied(host) || denied(file), "{}", file.display());
            refused += i32::from(denied(file));
        }
        i32::from(refused == 0)
    });
    assert_eq!(reader.wait(), 0, "slabinfo is root's alone");
    // What the kernel keeps from all but root has no name here.
    for name in ["crash_notes", "crash_notes_size"] {
        assert!(!daemon.path("sys/devices/system/cpu/cpu0").join(name).exists());
    }
    for name in ["proc/kcore", "proc/1", "proc/sys", "sys/kernel", "sys/class"] {
        assert!(fs::symlink_metadata(daemon.path(name)).is_err(), "{name}");
    }
}

// W7, in a user namespace, whose root is nobody on the host.
#[test]
fn the_root_of_a_user_namespace_is_not_the_hosts() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let script = format!(
        "unshare --user --map-root-user sh -c 'cd {}; head -1 proc/meminfo; \
         cat proc/slabinfo 2>&1 || true'",
        daemon.mountpoint().display()
    );
    let script = format!("setpriv --reuid 65534 --regid 65534 --clear-groups {script}");
    let said = run(Spawn::new(), &script);
    assert!(said.starts_with("MemTotal:") && said.contains("Permission denied"), "{said}");
}

#[test]
fn nobody_writes_anything() {
    if !Daemon::is_possible() {
        return;
    }
    // With triggers, the mount itself is not read-only.
    for options in [&[][..], &["--enable-psi-poll"][..]] {
        let daemon = Daemon::start(options);
        for file in files(&daemon.mountpoint()) {
            let name = file.display();
            let takes_triggers =
                !options.is_empty() && file.parent().unwrap().ends_with("proc/pressure");
            if !takes_triggers {
                assert!(OpenOptions::new().write(true).open(&file).is_err(), "{name}");
            }
            let new = file.with_extension("new");
            let mode = fs::Permissions::from_mode(0o777);
            assert!(fs::set_permissions(&file, mode).is_err(), "{name}");
            assert!(std::os::unix::fs::chown(&file, Some(7), Some(7)).is_err(), "{name}");
            assert!(fs::rename(&file, &new).is_err(), "{name}");
            assert!(fs::hard_link(&file, &new).is_err(), "{name}");
            assert!(symlink(&file, &new).is_err(), "{name}");
            assert!(fs::remove_file(&file).is_err(), "{name}");
            let flags = rustix::fs::XattrFlags::empty();
            assert!(rustix::fs::setxattr(&file, "user.x", b"x", flags).is_err(), "{name}");
            let node = rustix::fs::mknodat(
                rustix::fs::CWD,
                &new,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            );
            assert!(node.is_err(), "{name}");
        }
        is_well(&daemon);
    }
}

// W16: what is mounted, and how, is as it was before the daemon.
#[test]
fn starting_changes_no_mount_but_its_own() {
    if !Daemon::is_possible() {
        return;
    }
    let cgroups = |of: &str| {
        let text = fs::read_to_string(format!("/proc/{of}/mountinfo")).unwrap();
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| line.contains(" - cgroup")) {
            // Without the mount's number, which is another one in another namespace.
            let (mount, filesystem) = line.split_once(" - ").unwrap();
            let options = mount.split(' ').skip(2).take(4).collect::<Vec<_>>().join(" ");
            lines.push(format!("{options} - {filesystem}"));
        }
        lines
    };
    let before = cgroups("self");
    assert!(!before.is_empty());
    let daemon = Daemon::start(&[]);
    is_well(&daemon);
    assert_eq!(cgroups("self"), before);
    assert_eq!(cgroups(&daemon.pid().to_string()), before);
}

// W28: nothing is waited for that belongs to a container, and no process is made to find out about it.
// host
// ├─ stopped   <- the init is stopped, another process is in state D
// └─ other     <- in time, whatever the first does
#[test]
fn a_container_that_stands_still_holds_up_nobody() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let (cgroup, other) = (tree.cgroup("stopped"), tree.cgroup("other"));
    cgroup.limit_memory(64 * MIB);
    other.limit_memory(32 * MIB);
    let init = Spawn::new().cgroup(&cgroup).container().run(pause);
    let _blocked = Spawn::new().cgroup(&cgroup).join(&init, &["pid"]).run(block);
    kill_process(Pid::from_raw(i32::try_from(init.pid()).unwrap()).unwrap(), Signal::STOP).unwrap();
    let daemon = Daemon::start(&[]);
    let processes = || {
        let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
        fs::read_to_string(children).unwrap_or_default()
    };
    let before = processes();
    let begun = Instant::now();
    let script = format!("cat {}", daemon.path("proc/meminfo").display());
    for _ in 0..5 {
        let text = run(Spawn::new().cgroup(&cgroup).join(&init, &["pid"]), &script);
        assert!(text.lines().next().unwrap().ends_with(" 65536 kB"), "{text}");
        // A pid namespace that nobody knows, each time.
        let text = run(Spawn::new().cgroup(&other).container(), &script);
        assert!(text.lines().next().unwrap().ends_with(" 32768 kB"), "{text}");
        assert_eq!(processes(), before);
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
    is_well(&daemon);
}

// W31: a file of v1's block I/O controller cannot be read.
#[test]
fn a_blkio_file_that_cannot_be_read_is_an_error_at_most() {
    let mut fake = FakeHost::new();
    fake.mount_v1("/sys/fs/cgroup/blkio", "blkio");
    fake.file("/sys/fs/cgroup/blkio/ct/cgroup.procs", "300\n");
    fake.process(&FakeProcess {
        pid: 300,
        ppid: 1,
        nspid: &[300],
        cgroup: "1:blkio:/ct\n",
        ..FakeProcess::default()
    });
    let disks = "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n";
    fake.file("/proc/diskstats", disks);
    let dir = fake.path().join("sys/fs/cgroup/blkio/ct");
    // Reading a directory fails with EISDIR, which nobody expects.
    for name in ["throttle.io_service_bytes", "throttle.io_serviced", "io_service_bytes"] {
        fs::create_dir(dir.join(format!("blkio.{name}"))).unwrap();
        fs::create_dir(dir.join(format!("blkio.{name}_recursive"))).unwrap();
    }
    let service = Service::new(Host::at(fake.path()).unwrap(), ViewSettings::default());
    for _ in 0..2 {
        match service.text(300, ViewFile::Proc(ProcFile::Diskstats)) {
            Ok(text) => assert_ne!(text, disks.as_bytes(), "the host's own numbers"),
            Err(error) => assert_ne!(error.to_string(), ""),
        }
    }
}

// An idmapped bind mount takes FUSE's own consent (FUSE_ALLOW_IDMAP, Linux 6.12), which the kernel gives only
// where it checks permissions by itself. Nobody needs one here: all files are root's, and any user may read
// those that any user may read on the host.
#[test]
fn a_user_namespace_reads_by_plain_binds_and_an_idmapped_one_is_refused() {
    if !Daemon::is_possible() {
        return;
    }
    let Some(tree) = Tree::with(&["memory"]) else { return };
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(64 * MIB);
    let daemon = Daemon::start(&[]);
    let meminfo = daemon.path("proc/meminfo");
    let spawn = Spawn::new().cgroup(&cgroup).new_namespaces(Namespaces::NEWUSER).container();
    let script = format!("mount --bind {} /proc/meminfo && cat /proc/meminfo", meminfo.display());
    let text = run(spawn, &script);
    assert!(text.lines().next().unwrap().ends_with(" 65536 kB"), "{text}");

    let namespace = Spawn::new().new_namespaces(Namespaces::NEWUSER).run(pause);
    let users = File::open(format!("/proc/{}/ns/user", namespace.pid())).unwrap();
    match idmapped(&meminfo, &users) {
        Err(Errno::NOSYS) => skip("needs mount_setattr"),
        result => assert_eq!(result, Err(Errno::INVAL)),
    }
    is_well(&daemon);
}

fn idmapped(path: &Path, users: &File) -> Result<(), Errno> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    use std::os::fd::AsRawFd as _;

    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, path, flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd().try_into().unwrap(),
    };
    #[expect(unsafe_code, reason = "rustix has no name for it")]
    // SAFETY: the path is a string, and the attributes are as long as is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap())
    }
}

// Who can write to the runtime directory, can keep state from the daemon, and nothing else.
#[test]
fn links_in_the_runtime_directory_lead_nowhere() {
    if !Daemon::is_possible() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let precious = elsewhere.path().join("precious");
    for name in
        ["cgview-fuse.ledger", "cgview-fuse.ledger.new", "cgview-fuse.pid", "cgview-fuse.sock"]
    {
        fs::write(&precious, "kept").unwrap();
        let dirs = Dirs::new();
        symlink(&precious, dirs.path(name)).unwrap();
        let mut command = dirs.command();
        command.process_group(0);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        // It serves or it refuses to.
        let end = Instant::now() + Duration::from_secs(60);
        while !dirs.is_mounted() && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "{name}");
            thread::sleep(Duration::from_millis(10));
        }
        let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        thread::sleep(Duration::from_millis(100));
        let _ = kill_process(pid, Signal::TERM);
        child.wait().unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept", "{name}");
    }
}

#[test]
fn a_hostile_ledger_is_left_aside() {
    if !is_root() || !Daemon::is_possible() {
        return;
    }
    let dirs = Dirs::new();
    let mut junk = b"cgview-ledger 3 ".to_vec();
    junk.extend((0..100_000_u32).flat_map(u32::to_le_bytes));
    fs::write(dirs.path("cgview-fuse.ledger"), &junk).unwrap();
    let daemon = Daemon::start_in(dirs, &[]);
    assert!(daemon.log().contains("began anew"), "{}", daemon.log());
    is_well(&daemon);
    let _ = Command::new("true");
}
