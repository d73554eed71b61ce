//! Triggers on pressure, as the kernel's `Documentation/accounting/psi.rst` has them: "open the psi interface file
//! ... write the stall threshold and the time window; use poll() to monitor".
//!
//! ```text
//! host
//! ├── busy   a tenth of a CPU, and two tasks that want one each
//! └── idle   nothing runs
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use cgview_compliance::{Container, Options, PATIENCE, Server, eventually, run, under_test};
use cgview_testkit::{Process, Spawn, Tree, skip};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::Errno,
    process::{Gid, Uid},
    thread::{CapabilitySet, capabilities, set_capabilities},
    time::Timespec,
};

/// Where a container finds it.
const CPU: &str = "/proc/pressure/cpu";

/// A stall of 100 ms within 2 s, which is what everybody may ask for.
const TRIGGER: &[u8] = b"some 100000 2000000\0";

/// A server that takes triggers, and cgroups that have pressure.
fn server() -> Option<(Tree, Server)> {
    if !under_test().is_cgview() {
        // 5.0 has no pressure; in 7.0 it ends in a crash, which has tests of its own: W2, W3.
        skip("only cgview takes triggers and lives");
        return None;
    }
    if !Server::is_possible() {
        return None;
    }
    let tree = Tree::with(&["cpu", "unified"])?;
    if !tree.cgroup("probe").dir("unified").join("cpu.pressure").exists() {
        skip("needs pressure of cgroups");
        return None;
    }
    Some((tree, Server::start(&Options::new().cgview(&["--enable-psi-poll"]))))
}

/// Opens a file, and writes a trigger.
fn set(path: &Path, text: &[u8]) -> Result<OwnedFd, Errno> {
    let file =
        rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(&file, text)?;
    assert_eq!(written, text.len());
    Ok(file)
}

/// The same, for as long as it takes: the end of a trigger takes the kernel its time (`synchronize_rcu()`), and what
/// waits behind many such ends for too long gets `EIO`, or `ENOMEM` while they count.
fn set_in_time(path: &Path, text: &[u8]) -> OwnedFd {
    retry(|| set(path, text))
}

fn retry<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(Errno::IO | Errno::NOMEM) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// What poll(2) tells of a trigger, within some seconds.
fn wait(file: &OwnedFd, seconds: i64) -> PollFlags {
    let mut waited = [PollFd::new(file, PollFlags::PRI)];
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    poll(&mut waited, Some(&timeout)).unwrap();
    let [waited] = waited;
    waited.revents()
}

/// Gives up the right to ask for any window.
fn without_resource() {
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::SYS_RESOURCE);
    set_capabilities(None, sets).unwrap();
}

fn become_nobody() {
    use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
    set_thread_groups(&[]).unwrap();
    set_thread_gid(Gid::from_raw(65534)).unwrap();
    set_thread_uid(Uid::from_raw(65534)).unwrap();
}

/// A container that has not the time for what it wants to do.
fn busy(tree: &Tree, server: &Server) -> (Container, [Process; 2]) {
    let cgroup = tree.cgroup("busy");
    cgroup.limit_cpu(10_000);
    let container = Container::start(server, &cgroup);
    let burners = [container.burn(), container.burn()];
    (container, burners)
}

// "The file is ... written: <some|full> <stall amount in us> <time window in us>"; "Triggers ... window size range 500ms
// to 10s"; unprivileged users: "windows of a multiple of 2s". What is not that, is refused as the container's own
// cgroup refuses it.
#[test]
fn what_is_no_trigger_is_refused_as_the_kernel_does() {
    let Some((tree, server)) = server() else { return };
    let cgroup = tree.cgroup("idle");
    let container = Container::start(&server, &cgroup);
    for (file, own) in [(CPU, "cpu.pressure"), ("/proc/pressure/memory", "memory.pressure")] {
        let own = cgroup.dir("unified").join(own);
        let process = container.enter().run(|| {
            without_resource();
            for text in [
                "some 100000 2000000",
                "some 100000 2000000\n",
                "some 100000 2000000\0",
                "some 100000 4000000",
                "full 100000 2000000",
                "some 100000 1000000",
                "some 100000 2500000",
                "some 100000 400000",
                "some 100000 12000000",
                "some 3000000 2000000",
                "some 2000000 2000000",
                "some 0 2000000",
                "some 1 20",
                "some 100000",
                "some",
                "half 100000 2000000",
                "SOME 100000 2000000",
                "some -1 2000000",
                "some 99999999999 2000000",
                "some a b",
                " some 100000 2000000",
                "100000 2000000",
                "\n",
            ] {
                let [here, kernel] = [Path::new(file), &own].map(|path| {
                    let first = set(path, text.as_bytes());
                    // One for each open file.
                    let second =
                        first.as_ref().map(|file| rustix::io::write(file, text.as_bytes()));
                    let second = second.map_err(|errno| *errno);
                    (first.map(drop), second)
                });
                assert_eq!(here, kernel, "{text:?} to {file}");
            }
            0
        });
        assert_eq!(process.wait(), 0);
    }
}

// "poll() ... returns POLLPRI"; "The notifications to the userspace are rate limited to one per tracking window." For
// anybody: since Linux 6.5 "unprivileged users ... can also use" them.
#[test]
fn a_user_without_rights_is_told_once_in_a_window() {
    let Some((tree, server)) = server() else { return };
    let (container, _burners) = busy(&tree, &server);
    let process = container.enter().run(|| {
        become_nobody();
        let trigger = set(Path::new(CPU), TRIGGER).unwrap();
        let mut told = Vec::new();
        for _ in 0..3 {
            assert_eq!(wait(&trigger, 60), PollFlags::PRI);
            told.push(Instant::now());
        }
        let [first, .., last] = *told.as_slice() else { return 1 };
        // Two windows of 2 s, less what the first one was told late.
        assert!(last - first >= Duration::from_millis(2500), "{:?}", last - first);
        0
    });
    assert_eq!(process.wait(), 0);
}

#[test]
fn many_triggers_are_told_and_only_those_of_the_container() {
    let Some((tree, server)) = server() else { return };
    let idle = Container::start(&server, &tree.cgroup("idle"));
    let (container, _burners) = busy(&tree, &server);
    let nothing = idle.enter().run(|| {
        // More than what it may itself have to wait for on a busy machine, and less than the other one waits.
        let trigger = set(Path::new(CPU), b"some 1500000 2000000\0").unwrap();
        i32::from(wait(&trigger, 4) != PollFlags::empty())
    });
    // Of several processes, each with several.
    let processes: Vec<Process> = (0..3)
        .map(|_| {
            container.enter().run(|| {
                let triggers: Vec<_> =
                    (0..8).map(|_| set(Path::new(CPU), TRIGGER).unwrap()).collect();
                for trigger in &triggers {
                    assert_eq!(wait(trigger, 60), PollFlags::PRI);
                }
                0
            })
        })
        .collect();
    for process in processes {
        assert_eq!(process.wait(), 0);
    }
    assert_eq!(nothing.wait(), 0);
}

// "The trigger is de-registered when the file descriptor used to define the trigger is closed." However often, before
// it went off, and by a process that is killed while it waits.
#[test]
fn triggers_that_are_closed_early_leave_nothing() {
    let Some((tree, mut server)) = server() else { return };
    let (container, _burners) = busy(&tree, &server);
    let process = container.enter().run(|| {
        for _ in 0..50 {
            drop(set_in_time(Path::new(CPU), TRIGGER));
        }
        // Nor those that never had a trigger: W2.
        for _ in 0..20 {
            let flags = OFlags::RDWR | OFlags::NONBLOCK;
            let file = retry(|| rustix::fs::open(CPU, flags, Mode::empty()));
            assert_eq!(wait(&file, 0), PollFlags::PRI | PollFlags::ERR);
        }
        // Closed by one thread while another waits, which still holds it.
        for _ in 0..5 {
            let trigger = set_in_time(Path::new(CPU), TRIGGER);
            let held = trigger.try_clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(move || wait(&held, 1));
                scope.spawn(move || drop(trigger));
            });
        }
        0
    });
    let status = process.wait();
    assert_eq!(status, 0, "{}", server.log());
    for _ in 0..5 {
        let waiting = container.enter().run(|| {
            let trigger = set_in_time(Path::new(CPU), b"some 1900000 2000000");
            i32::from(wait(&trigger, 60).is_empty())
        });
        waiting.kill();
    }
    // There is room for as many as ever.
    let all = container.enter().run(|| {
        let all: Vec<_> = (0..30).map(|_| set_in_time(Path::new(CPU), TRIGGER)).collect();
        i32::from(all.len() != 30)
    });
    eventually("the killed ones' are gone", || server.is_running());
    assert_eq!(all.wait(), 0);
    assert!(container.read(CPU).starts_with("some "));
    assert!(server.is_running());
}

// `psi_trigger_poll()`: EPOLLERR once the cgroup is gone. The same here and by the cgroup's own file.
#[test]
fn a_trigger_of_a_container_that_is_gone_says_so() {
    let Some((tree, server)) = server() else { return };
    let (gone, other) = (tree.cgroup("gone"), tree.cgroup("other"));
    let own = gone.dir("unified").join("cpu.pressure");
    let here = server.path("proc/pressure/cpu");
    let ready = tempfile::NamedTempFile::new().unwrap();
    let process = Spawn::new().cgroup(&gone).run(|| {
        without_resource();
        let triggers = [&here, &own].map(|path: &PathBuf| set(path, TRIGGER).unwrap());
        fs::write(ready.path(), "+").unwrap();
        // In either order, until it is an error.
        let end = Instant::now() + PATIENCE;
        for trigger in &triggers {
            while !wait(trigger, 60).contains(PollFlags::ERR) {
                assert!(Instant::now() < end);
            }
        }
        let [here, kernel] = triggers.map(|trigger| wait(&trigger, 1));
        assert_eq!(here, kernel);
        0
    });
    eventually("it is set", || fs::read_to_string(ready.path()).unwrap() == "+");
    other.add(process.pid());
    gone.remove();
    assert_eq!(process.wait(), 0);
}

// docs/semantics.md, section 8: pressure is "an error where the kernel has none, or where a runtime for v1 has left the
// container in the root of the unified hierarchy": it would be that of all others.
#[test]
fn without_a_unified_cgroup_of_its_own_there_is_no_pressure() {
    let Some((tree, server)) = server() else { return };
    if !tree.is_v1("cpu") {
        return skip("needs a machine with v1");
    }
    let cgroup = tree.cgroup("container");
    let unified = cgroup.dir("unified");
    let dirs: Vec<PathBuf> = cgroup.dirs().into_iter().filter(|dir| *dir != unified).collect();
    let root: PathBuf = unified.ancestors().nth(2).unwrap().into();
    let path = server.path("proc/pressure/cpu");
    let process = Spawn::new().run(|| {
        for dir in dirs.iter().chain([&root]) {
            fs::write(dir.join("cgroup.procs"), "0").unwrap();
        }
        let read = fs::read(&path).unwrap_err().raw_os_error();
        assert_eq!(read, Some(libc::EOPNOTSUPP));
        assert_eq!(set(&path, TRIGGER).unwrap_err(), Errno::OPNOTSUPP);
        0
    });
    assert_eq!(process.wait(), 0);
    // With one, there is.
    let text = run(Spawn::new().cgroup(&cgroup), &format!("cat {}", path.display())).text;
    assert!(text.starts_with("some avg10="), "{text}");
}
