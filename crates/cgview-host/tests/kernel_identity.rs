//! Whose view a process sees, on a real kernel. The trees show cgroups; `pid`, `cgroup` and the like are
//! the namespaces that begin there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cgview_core::{Snapshot, snapshot::Controller, units::Usec, view::Parts};
use cgview_host::{Caller, Container, Error, Host, Layout, Standing};
use cgview_testkit::{Cgroup, Namespaces, Process, Spawn, Tree, kernel_is_at_least, pause, skip};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{CapabilitySet, capabilities, set_capabilities},
};

const CONTROLLERS: [(Controller, &str); 6] = [
    (Controller::Memory, "memory"),
    (Controller::Cpu, "cpu"),
    (Controller::Cpuset, "cpuset"),
    (Controller::Pids, "pids"),
    (Controller::Io, "io"),
    (Controller::Pressure, "unified"),
];

fn caller(process: &Process) -> Caller {
    Host::live().unwrap().caller(process.pid()).unwrap()
}

/// Asserts that a container is `cgroup` in every hierarchy that has a controller.
#[track_caller]
fn assert_is(tree: &Tree, container: &Container, cgroup: &Cgroup) {
    let host = Host::live().unwrap();
    let mut checked = 0;
    for (controller, name) in CONTROLLERS {
        if tree.has(name) {
            let path = container.cgroup(&host, controller);
            assert_eq!(path, Some(cgroup.path().as_str()), "{controller:?}");
            checked += 1;
        }
    }
    assert!(checked > 0);
    assert!(!container.is_host());
}

/// When a process started, by its `stat`, of which only the number at the end of field 22 is needed.
fn started(pid: u32) -> Usec {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: u64 =
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    Usec(ticks * 10_000)
}

// tree
// ├─ early   pid, mnt, cgroup   <- as a runtime before pivot_root(2): its root is the host's
// └─ late    pid, mnt, cgroup   <- the same with a root of its own
#[test]
fn what_has_the_hosts_root_is_being_set_up_however_long_that_takes() {
    let Some(tree) = Tree::new() else { return };
    let host = Host::live().unwrap();
    let root = tempfile::tempdir().unwrap();
    let proc = root.path().join("proc");
    fs::create_dir(&proc).unwrap();
    let early = Spawn::new().cgroup(&tree.cgroup("early")).container().run(pause);
    let path = root.path().to_owned();
    let late = Spawn::new().cgroup(&tree.cgroup("late")).container().run(move || {
        mount("proc", &proc, "proc", MountFlags::empty(), None).unwrap();
        rustix::process::chroot(&path).unwrap();
        pause()
    });
    // Both run a program of the host's until their end.
    let end = Instant::now() + Duration::from_secs(120);
    while !matches!(host.standing(late.pid()), Ok(Standing::Running(_))) {
        assert!(Instant::now() < end, "{:?}", host.standing(late.pid()));
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(host.standing(early.pid()).unwrap(), Standing::Starting);
    let known = |pid| host.running().unwrap().iter().any(|running| running.pid == pid);
    assert!(known(late.pid()) && !known(early.pid()));
}

// ct        pid, mnt, cgroup
// ├─ init
// └─ exec   <- asks, having entered as `docker exec` does
#[test]
fn what_enters_a_container_is_in_it() {
    let Some(tree) = Tree::new() else { return };
    let cgroup = tree.cgroup("ct");
    let init = Spawn::new().cgroup(&cgroup).container().run(pause);
    let exec = Spawn::new().cgroup(&cgroup).join(&init, &["pid", "mnt", "cgroup"]).run(pause);

    let host = Host::live().unwrap();
    let (first, second) = (host.caller(init.pid()).unwrap(), host.caller(exec.pid()).unwrap());
    assert!(Arc::ptr_eq(&first.container, &second.container));
    assert_is(&tree, &second.container, &cgroup);
    assert_eq!(second.container.init(), Some(init.pid()));
    assert_eq!(second.container.started(), Some(started(init.pid())));
    assert_ne!(
        caller(&exec).container.id(),
        host.caller(std::process::id()).unwrap().container.id()
    );
}

// ct                  pid
// ├─ init.scope       the init
// └─ system.slice/app <- asks
#[test]
fn an_init_in_a_cgroup_of_its_own_makes_the_container_the_one_above() {
    for leaf in ["init.scope", "init", ".lxc", "supervise"] {
        let Some(tree) = Tree::new() else { return };
        let cgroup = tree.cgroup("ct");
        let init = Spawn::new()
            .cgroup(&tree.cgroup(&format!("ct/{leaf}")))
            .new_namespaces(Namespaces::NEWPID)
            .run(pause);
        let app = Spawn::new()
            .cgroup(&tree.cgroup("ct/system.slice/app"))
            .join(&init, &["pid"])
            .run(pause);
        assert_is(&tree, &caller(&app).container, &cgroup);
        assert_eq!(caller(&app).container.id(), caller(&init).container.id(), "{leaf}");
    }
}

// outer             pid, cgroup
// ├─ init           the init, which moved there
// └─ docker/inner   pid  <- asks
#[test]
fn a_container_in_a_container_is_a_container_of_its_own() {
    for inner_has_a_cgroup_namespace in [false, true] {
        let Some(tree) = Tree::new() else { return };
        let outer_cgroup = tree.bare_cgroup("outer");
        let (moved, inner) =
            (tree.bare_cgroup("outer/init"), tree.bare_cgroup("outer/docker/inner"));
        let outer = {
            let inner = inner.clone();
            let namespaces = Namespaces::NEWPID | Namespaces::NEWCGROUP;
            Spawn::new().cgroup(&outer_cgroup).new_namespaces(namespaces).run(move || {
                let mut spawn = Spawn::new().cgroup(&inner).new_namespaces(Namespaces::NEWPID);
                if inner_has_a_cgroup_namespace {
                    spawn = spawn.new_namespaces(Namespaces::NEWCGROUP);
                }
                let _inner = spawn.run(pause);
                pause()
            })
        };
        moved.add(outer.pid());
        let inner_pid = wait_for_process(&inner);

        let host = Host::live().unwrap();
        let container = host.caller(inner_pid).unwrap().container;
        assert_is(&tree, &container, &inner);
        assert_eq!(container.init(), Some(inner_pid));
        let container = host.caller(outer.pid()).unwrap().container;
        assert_is(&tree, &container, &outer_cgroup);
        assert_eq!(container.init(), Some(outer.pid()));
    }
}

/// The process that appeared in a cgroup, once it is there in each hierarchy, and the first of its pid
/// namespace.
fn wait_for_process(cgroup: &Cgroup) -> u32 {
    let pids = |dir: &PathBuf| {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect::<Vec<u32>>()
    };
    for _ in 0..500 {
        let (first, others) =
            cgroup.dirs().split_first().map(|(a, b)| (pids(a), b.to_vec())).unwrap();
        for pid in first {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let inner = status.lines().find(|line| line.starts_with("NSpid:"));
            if inner.is_some_and(|line| line.ends_with("\t1"))
                && others.iter().all(|dir| pids(dir).contains(&pid))
            {
                return pid;
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("no process appeared in {}", cgroup.path());
}

// pod
// ├─ pause  pid       the init
// └─ app    [cgroup]
//    └─ deep          <- asks
#[test]
fn in_a_shared_pid_namespace_the_cgroup_namespace_or_the_cgroup_is_the_container() {
    let Some(tree) = Tree::new() else { return };
    let (pod_pause, app) = (tree.cgroup("pod/pause"), tree.bare_cgroup("pod/app"));
    let deep = tree.bare_cgroup("pod/app/deep");
    let init = Spawn::new().cgroup(&pod_pause).container().run(pause);

    let plain = Spawn::new().cgroup(&app).join(&init, &["pid"]).run(pause);
    assert_is(&tree, &caller(&plain).container, &app);
    assert_eq!(caller(&plain).container.init(), None);
    drop(plain);

    let isolated = Spawn::new()
        .cgroup(&app)
        .join(&init, &["pid"])
        .new_namespaces(Namespaces::NEWCGROUP)
        .run(pause);
    deep.add(isolated.pid());
    let container = caller(&isolated).container;
    assert_is(&tree, &container, &app);
    assert_eq!(container.started(), Some(started(isolated.pid())));
    assert_is(&tree, &caller(&init).container, &pod_pause);
}

// ct       cgroup
// └─ deep  <- asks, with the host's pids
#[test]
fn with_the_hosts_pids_the_cgroup_namespace_is_the_container() {
    let Some(tree) = Tree::new() else { return };
    let (cgroup, deep) = (tree.bare_cgroup("ct"), tree.bare_cgroup("ct/deep"));
    let process = Spawn::new().cgroup(&cgroup).new_namespaces(Namespaces::NEWCGROUP).run(pause);
    let before = caller(&process).container;
    deep.add(process.pid());
    let container = caller(&process).container;
    assert_is(&tree, &container, &cgroup);
    assert_eq!(before.id(), container.id());
    assert_eq!((container.init(), container.started()), (None, Some(started(process.pid()))));
}

#[test]
fn a_process_of_the_host_is_in_its_own_cgroup() {
    let Some(tree) = Tree::new() else { return };
    let cgroup = tree.cgroup("slice/service");
    let process = Spawn::new().cgroup(&cgroup).run(pause);
    let container = caller(&process).container;
    assert_is(&tree, &container, &cgroup);
    assert_eq!((container.init(), container.started()), (None, None));
}

#[test]
fn a_caller_in_a_user_namespace_is_in_its_container() {
    let Some(tree) = Tree::new() else { return };
    let cgroup = tree.cgroup("ct");
    let namespaces =
        Namespaces::NEWUSER | Namespaces::NEWPID | Namespaces::NEWNS | Namespaces::NEWCGROUP;
    let init = Spawn::new().cgroup(&cgroup).new_namespaces(namespaces).run(pause);
    let deep = tree.bare_cgroup("ct/deep");
    let exec = Spawn::new().cgroup(&deep).join(&init, &["user", "pid", "cgroup"]).run(pause);
    assert_is(&tree, &caller(&exec).container, &cgroup);
    assert_eq!(caller(&exec).container.init(), Some(init.pid()));
}

#[test]
fn a_thread_may_ask() {
    let Some(tree) = Tree::new() else { return };
    let cgroup = tree.cgroup("ct");
    let process = Spawn::new().cgroup(&cgroup).container().run(|| {
        thread::spawn(pause);
        pause()
    });
    let tid = loop {
        if let [_, tid] = process.threads()[..] {
            break tid;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let host = Host::live().unwrap();
    let container = host.caller(tid).unwrap().container;
    assert_is(&tree, &container, &cgroup);
    let kept = host.keep(tid).unwrap();
    assert!(Arc::ptr_eq(&kept.check(&host).unwrap().container, &container));
}

/// No caller is trusted for so long, and so for as long as any may be.
const LONG: Duration = Duration::from_secs(3600);

/// How many system calls of this thread have read something until now, this one's own left out: `syscr` of proc(5),
/// `/proc/PID/io`. `None` where the kernel does not count them.
fn reads() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/io").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("syscr: "))?;
    Some(line.parse().unwrap())
}

// ct   <- asks again and again
#[test]
fn a_known_caller_is_told_by_one_read_or_by_none() {
    const CHECKS: u64 = 10;
    let Some(tree) = Tree::new() else { return };
    let process = Spawn::new().cgroup(&tree.cgroup("ct")).container().run(pause);
    let host = Host::live().unwrap();
    let kept = host.keep(process.pid()).unwrap();
    let read_by = |work: &dyn Fn()| -> Option<u64> {
        let before = reads()?;
        work();
        Some(reads()? - before)
    };
    let check = |age| {
        for _ in 0..CHECKS {
            kept.check_within(&host, age).unwrap();
        }
    };
    // Once a second it is looked at closer, which takes more.
    let least = |work: &dyn Fn()| (0..50).map(|_| read_by(work)).min().unwrap();
    let (Some(checked), Some(idle)) = (least(&|| check(Duration::ZERO)), least(&|| ())) else {
        return skip("needs a kernel that counts reads (CONFIG_TASK_IO_ACCOUNTING)");
    };
    // PIDFD_GET_INFO reads nothing.
    let is_asked = host.layout() == Layout::Unified && kernel_is_at_least(6, 13);
    assert_eq!(checked - idle, if is_asked { 0 } else { CHECKS });
    // Nor does it to ask whether it has ended.
    assert_eq!(least(&|| check(LONG)), Some(idle));
}

/// How many descriptors of this process are of files of another one.
fn kept_of(pid: u32) -> usize {
    let own = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let of_it = |path: PathBuf| path.starts_with(format!("/proc/{pid}"));
    own.filter(|entry| fs::read_link(entry.path()).is_ok_and(of_it)).count()
}

// ct   <- the second container, when there are descriptors for one
#[test]
fn containers_that_have_ended_leave_their_descriptors_to_others() {
    let Some(tree) = Tree::new() else { return };
    let start = || Spawn::new().cgroup(&tree.cgroup("ct")).container().run(pause);
    let host = Host::live().unwrap().keeping(16);
    let first = start();
    host.caller(first.pid()).unwrap();
    assert_eq!(kept_of(first.pid()), 2);
    let beside = start();
    host.caller(beside.pid()).unwrap();
    assert_eq!(kept_of(beside.pid()), 0);
    drop(first);
    host.forget_ended();
    let second = start();
    host.caller(second.pid()).unwrap();
    assert_eq!((kept_of(beside.pid()), kept_of(second.pid())), (0, 2));
}

// one, other   <- a process is moved from one to the other
#[test]
fn a_process_of_the_host_has_moved_at_once() {
    let Some(tree) = Tree::new() else { return };
    let (one, other) = (tree.cgroup("one"), tree.cgroup("other"));
    let process = Spawn::new().cgroup(&one).run(pause);
    let host = Host::live().unwrap();
    let kept = host.keep(process.pid()).unwrap();
    other.add(process.pid());
    assert_is(&tree, &kept.check_within(&host, LONG).unwrap().container, &other);
}

// one     <- a container; a process of it is moved from here
// other   <- to here
#[test]
fn who_is_moved_out_of_a_container_is_who_it_was_for_no_longer_than_it_may() {
    let Some(tree) = Tree::new() else { return };
    let (one, other) = (tree.cgroup("one"), tree.cgroup("other"));
    let init = Spawn::new().cgroup(&one).container().run(pause);
    let process = Spawn::new().cgroup(&one).join(&init, &["pid"]).run(pause);
    let host = Host::live().unwrap();
    let kept = host.keep(process.pid()).unwrap();
    let home = |age| kept.check_within(&host, age).map(|caller| caller.container.id().clone());
    let before = home(Duration::ZERO).unwrap();
    other.add(process.pid());
    let after = host.caller(process.pid()).unwrap().container.id().clone();
    assert_ne!(before, after);
    assert_eq!(home(Duration::from_nanos(1)).unwrap(), after);
    drop(process);
    let error = home(LONG).unwrap_err();
    assert!(matches!(error, Error::Gone { .. }), "{error}");
}

#[test]
fn a_reused_pid_is_not_who_it_was() {
    let Some(tree) = Tree::new() else { return };
    let (one, other) = (tree.cgroup("one"), tree.cgroup("other"));
    let host = Host::live().unwrap();
    // The next pid can be chosen, if nobody else forks at that moment. The supervisor takes one, and the
    // process the next.
    for _ in 0..50 {
        let first = Spawn::new().cgroup(&one).run(pause);
        let pid = first.pid();
        let kept = host.keep(pid).unwrap();
        let id = kept.check(&host).unwrap().container.id().clone();
        drop(first);
        let error = kept.check(&host).unwrap_err();
        assert!(matches!(error, Error::Gone { .. }), "{error}");
        if fs::write("/proc/sys/kernel/ns_last_pid", (pid - 2).to_string()).is_err() {
            return skip("needs ns_last_pid, of CONFIG_CHECKPOINT_RESTORE");
        }
        let second = Spawn::new().cgroup(&other).run(pause);
        if second.pid() != pid {
            continue;
        }
        let error = kept.check(&host).unwrap_err();
        assert!(matches!(error, Error::Gone { pid: gone } if gone == pid), "{error}");
        assert_ne!(host.caller(pid).unwrap().container.id(), &id);
        return;
    }
    skip("no pid was reused in 50 attempts");
}

#[test]
fn an_init_that_moves_below_its_cgroup_stays_in_its_container() {
    let Some(tree) = Tree::new() else { return };
    let cgroup = tree.bare_cgroup("ct");
    let init = Spawn::new().cgroup(&cgroup).container().run(pause);
    let host = Host::live().unwrap();
    let kept = host.keep(init.pid()).unwrap();
    let before = kept.check(&host).unwrap().container.clone();
    for path in ["ct/init", "ct/some/where", "ct/else"] {
        tree.bare_cgroup(path).add(init.pid());
        let container = &kept.check(&host).unwrap().container;
        assert!(Arc::ptr_eq(container, &before), "{path}: {container:?}");
    }
    let exec =
        Spawn::new().cgroup(&tree.bare_cgroup("ct/app")).join(&init, &["pid", "cgroup"]).run(pause);
    assert!(Arc::ptr_eq(&host.caller(exec.pid()).unwrap().container, &before));
    assert_is(&tree, &before, &cgroup);
}

#[test]
fn the_readers_time_namespace_is_known() {
    let Some(tree) = Tree::new() else { return };
    let cgroup = tree.cgroup("ct");
    let shifted = Spawn::new().cgroup(&cgroup).container().boottime_offset(1000).run(pause);
    let offset = caller(&shifted).reader.timens.boottime;
    assert_eq!(offset, 1_000_000_000);
    let plain = Spawn::new().cgroup(&cgroup).container().run(pause);
    assert_eq!(caller(&plain).reader.timens.boottime, 0);
}

#[test]
fn a_container_is_gone_with_its_cgroup() {
    let Some(tree) = Tree::new() else { return };
    let cgroup = tree.cgroup("ct");
    let process = Spawn::new().cgroup(&cgroup).run(pause);
    let host = Host::live().unwrap();
    let container = host.caller(process.pid()).unwrap().container;
    let mut snapshot = Snapshot::default();
    let parts = Parts::MEMORY.and(Parts::CPU_USAGE);
    container.sample(&host, parts, &mut snapshot).unwrap();
    drop(process);
    cgroup.remove();
    let error = container.sample(&host, parts, &mut snapshot).unwrap_err();
    assert!(matches!(error, Error::Vanished { .. }) && error.is_gone(), "{error}");

    // Another one of that name is another container.
    let process = Spawn::new().cgroup(&tree.cgroup("ct")).run(pause);
    assert!(container.sample(&host, parts, &mut snapshot).is_err());
    let next = host.caller(process.pid()).unwrap().container;
    assert!(!Arc::ptr_eq(&next, &container));
    next.sample(&host, parts, &mut snapshot).unwrap();
}

// mine    cgroup  <- this crate, in a container with the host's pids
// other           the process that is looked at
#[test]
fn from_a_cgroup_namespace_of_its_own_the_host_is_seen_whole() {
    let Some(tree) = Tree::new() else { return };
    if fs::read_link("/proc/1/ns/cgroup").is_err() {
        return skip("may not read the namespaces of process 1");
    }
    let (mine, other) = (tree.cgroup("mine"), tree.cgroup("other/deep"));
    let process = Spawn::new().cgroup(&other).run(pause);
    let pid = process.pid();
    let expected = other.path();
    let status = Spawn::new().cgroup(&mine).new_namespaces(Namespaces::NEWCGROUP).run(move || {
        let host = Host::live().unwrap();
        let container = host.caller(pid).unwrap().container;
        for (controller, _) in CONTROLLERS {
            if let Some(path) = container.cgroup(&host, controller) {
                assert_eq!(path, expected, "{controller:?}");
            }
        }
        let mut snapshot = Snapshot::default();
        container.sample(&host, Parts::PIDS, &mut snapshot).unwrap();
        let paths: Vec<_> = snapshot.pids.iter().map(|level| level.cgroup.path.clone()).collect();
        assert_eq!(paths.first(), Some(&expected));
        // Its own container is told apart from the host by the namespace.
        let own = host.caller(std::process::id()).unwrap().container;
        i32::from(own.cgroup(&host, Controller::Pids).unwrap() == expected)
    });
    assert_eq!(status.wait(), 0);
}

// ct       cgroup, mnt; its own cgroup bound where the hierarchy is mounted, as runtimes do
// └─ deep  <- asks, with the host's pids
#[test]
fn without_the_right_to_enter_a_namespace_its_mounts_tell_where_it_begins() {
    let Some(tree) = Tree::new() else { return };
    let (ct, deep) = (tree.bare_cgroup("ct"), tree.bare_cgroup("ct/deep"));
    let hierarchies: Vec<String> = Host::live()
        .unwrap()
        .hierarchies()
        .iter()
        .map(|hierarchy| hierarchy.mount_point().to_owned())
        .collect();
    let path = ct.path();
    let process = Spawn::new().cgroup(&ct).container().run(move || {
        // Those below others first: a hybrid host has all of them below one directory.
        for mount_point in hierarchies.iter().rev() {
            let (from, to) = (format!("{mount_point}{path}"), mount_point.as_str());
            rustix::mount::mount_bind(from, to).unwrap();
        }
        pause()
    });
    deep.add(process.pid());
    // It is said to be there before it has mounted anything.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mounts = || fs::read_to_string(format!("/proc/{}/mountinfo", process.pid())).unwrap();
    let count = Host::live().unwrap().hierarchies().len();
    while mounts().lines().filter(|line| line.contains(&format!(" {} ", ct.path()))).count() < count
    {
        assert!(Instant::now() < deadline, "{}", mounts());
        thread::sleep(Duration::from_millis(10));
    }
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, sets).unwrap();
            caller(&process).container
        });
        assert_is(&tree, &asked.join().unwrap(), &ct);
    });
    assert_is(&tree, &caller(&process).container, &ct);
}

/// Gives up all rights of root, those of its group too: members of group 0 see all of `/proc`.
fn become_nobody() {
    use rustix::{
        process::{Gid, Uid},
        thread::{set_thread_gid, set_thread_groups, set_thread_uid},
    };
    set_thread_groups(&[]).unwrap();
    set_thread_gid(Gid::from_raw(65534)).unwrap();
    set_thread_uid(Uid::from_raw(65534)).unwrap();
}

#[test]
fn a_process_that_proc_hides_is_not_called_gone() {
    let Some(_tree) = Tree::new() else { return };
    let other = Spawn::new().run(pause);
    let pid = other.pid();
    let asking = Spawn::new().new_namespaces(Namespaces::NEWNS).run(move || {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        mount("proc", "/proc", "proc", MountFlags::empty(), Some(c"hidepid=2")).unwrap();
        become_nobody();
        let host = Host::live().unwrap();
        let hidden = host.caller(pid).unwrap_err();
        assert!(matches!(hidden, Error::Hidden { pid: hidden } if hidden == pid), "{hidden}");
        let gone = host.caller(4_000_000).unwrap_err();
        assert!(matches!(gone, Error::Gone { pid: 4_000_000 }), "{gone}");
        0
    });
    assert_eq!(asking.wait(), 0);
}

#[test]
fn without_the_right_to_ask_there_is_an_error_and_no_guess() {
    let Some(tree) = Tree::new() else { return };
    let process = Spawn::new().cgroup(&tree.cgroup("ct")).container().run(pause);
    let pid = process.pid();
    let asking = Spawn::new().run(move || {
        become_nobody();
        let error = Host::live().unwrap().caller(pid).unwrap_err();
        let expected = format!("cannot read /proc/{pid}/ns/pid");
        i32::from(error.to_string() != expected || error.errno() != rustix::io::Errno::ACCESS)
    });
    assert_eq!(asking.wait(), 0);
}

// What a container with the host's pids and its root mounted at /host does.
#[test]
fn a_host_that_is_mounted_elsewhere_is_the_same() {
    let Some(tree) = Tree::new() else { return };
    if fs::read_to_string("/proc/1/mountinfo").is_err() {
        return skip("may not read the mounts of process 1");
    }
    let cgroup = tree.cgroup("ct");
    let process = Spawn::new().cgroup(&cgroup).container().run(pause);
    let pid = process.pid();
    let expected = caller(&process).container.id().clone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let asking = Spawn::new().new_namespaces(Namespaces::NEWNS).run(move || {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        rustix::mount::mount_bind_recursive("/", &path).unwrap();
        let host = Host::at(&path).unwrap();
        let live = Host::live().unwrap();
        assert_eq!(host.hierarchies(), live.hierarchies());
        let container = host.caller(pid).unwrap().container;
        assert_eq!(container.id(), &expected);
        container.sample(&host, Parts::ALL, &mut Snapshot::default()).unwrap();
        // Its clock runs on.
        let before = host.boottime().unwrap();
        i32::from(live.boottime().unwrap() < before)
    });
    assert_eq!(asking.wait(), 0);
}
