//! Whose numbers a reader gets, through the mount: docs/semantics.md, section 1.
//!
//! The trees show cgroups with their memory limits, by which containers are told apart; `pid`, `cgroup` and the
//! like are namespaces that begin there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use cgview_compliance::{
    Container, Defect, Difference, MIB, Options, Server, eventually, run, text, truth, under_test,
};
use cgview_testkit::{Cgroup, Namespaces, Process, Spawn, Tree, pause};
use rustix::process::{Pid, WaitOptions, waitpid};

/// The total of a `/proc/meminfo`, in MiB.
fn total(meminfo: &str) -> u64 {
    text::numbers(meminfo).get("MemTotal").unwrap() / 1024
}

fn host_total() -> u64 {
    total(&fs::read_to_string("/proc/meminfo").unwrap())
}

/// What a process to be reads at the mountpoint.
fn read(server: &Server, spawn: Spawn) -> String {
    let output = run(spawn, &format!("cat {}", server.path("proc/meminfo").display()));
    assert_eq!(output.status, 0, "{}", output.text);
    output.text
}

/// The same, after it moved itself to a cgroup.
fn move_and_read(server: &Server, spawn: Spawn, to: &Cgroup) -> String {
    let moves =
        to.dirs().into_iter().map(|dir| format!("echo 0 > {}/cgroup.procs; ", dir.display()));
    let path = server.path("proc/meminfo");
    let script = format!("set -e; {} cat {}", moves.collect::<String>(), path.display());
    let output = run(spawn, &script);
    assert_eq!(output.status, 0, "{}", output.text);
    output.text
}

/// A process in a cgroup that uses so much memory there.
fn hog(cgroup: &Cgroup, bytes: u64) -> Process {
    let length = usize::try_from(bytes).unwrap();
    let hog = Spawn::new().cgroup(cgroup).run(|| {
        let memory = std::hint::black_box(vec![1_u8; length]);
        let status = pause();
        drop(memory);
        status
    });
    eventually("memory is used", || truth::memory_used(cgroup) >= bytes - MIB);
    hog
}

fn memory_tree() -> Option<Tree> {
    if !Server::is_possible() {
        return None;
    }
    Tree::with(&["memory"])
}

// ct 256 MiB     pid, mnt, cgroup
// ├─ init
// └─ exec        <- reads, having entered as `docker exec` does; or as `nsenter` does, which stays in its cgroup
#[test]
fn what_enters_by_setns_reads_the_containers() {
    let Some(tree) = memory_tree() else { return };
    let ct = tree.cgroup("ct");
    ct.limit_memory(256 * MIB);
    let below = tree.bare_cgroup("ct/exec");
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &ct);
    assert_eq!(total(&container.read("/proc/meminfo")), 256);
    assert_eq!(total(&container.run("cat /proc/meminfo")), 256);
    assert_eq!(total(&run(container.enter_at(&below), "cat /proc/meminfo").text), 256);
    // Another user.
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups cat /proc/meminfo";
    assert_eq!(total(&container.run(nobody)), 256);
    let init = container.init();
    for names in [&["pid", "mnt", "cgroup"][..], &["pid", "mnt"], &["pid"]] {
        let entered = Spawn::new().cgroup(&below).join(init, names);
        assert_eq!(total(&read(&server, entered)), 256, "{names:?}");
    }
    let stays_outside = Spawn::new().join(init, &["pid", "cgroup"]);
    let (seen, own) = (total(&read(&server, stays_outside)), total(&read(&server, Spawn::new())));
    let difference = Difference {
        lxcfs: "who enters a container's namespaces and not its cgroup reads the container's numbers",
        cgview: "who enters a container's namespaces and not its cgroup, and so has not its limits, reads \
                 those of the cgroup that it is in",
    };
    difference.judge(&format!("{seen} MiB"), seen == own, seen == 256);
    // Its files and cgroup, and the host's processes.
    let files = Spawn::new().cgroup(&below).join(init, &["mnt", "cgroup"]);
    assert_eq!(total(&read(&server, files)), 256);
}

// ct 256 MiB                                pid [cgroup]
// ├─ init.scope                             the init
// ├─ system.slice/hog.service               40 MiB used
// └─ user.slice/user-0.slice/user@0.service/app.slice/app.service   <- reads
#[test]
fn a_systemd_inside_has_one_view_for_all_its_slices() {
    for own_cgroup_namespace in [false, true] {
        let Some(tree) = memory_tree() else { return };
        let server = Server::start(&Options::new());
        let ct = tree.cgroup("ct");
        ct.limit_memory(256 * MIB);
        let namespaces = Namespaces::NEWPID;
        let init = if own_cgroup_namespace {
            let spawn = Spawn::new().cgroup(&ct).new_namespaces(namespaces | Namespaces::NEWCGROUP);
            let init = spawn.run(pause);
            tree.bare_cgroup("ct/init.scope").add(init.pid());
            init
        } else {
            let scope = tree.bare_cgroup("ct/init.scope");
            Spawn::new().cgroup(&scope).new_namespaces(namespaces).run(pause)
        };
        let service = tree.cgroup("ct/system.slice/hog.service");
        service.limit_memory(64 * MIB);
        let _hog = hog(&service, 40 * MIB);
        let deep = "ct/user.slice/user-0.slice/user@0.service/app.slice/app.service";
        let names: &[&str] = if own_cgroup_namespace { &["pid", "cgroup"] } else { &["pid"] };
        for reader in [tree.bare_cgroup("ct/init.scope"), service.clone(), tree.cgroup(deep)] {
            let text = read(&server, Spawn::new().cgroup(&reader).join(&init, names));
            let case = format!("{}, cgroup namespace: {own_cgroup_namespace}", reader.path());
            assert_eq!(total(&text), 256, "{case}");
            let numbers = text::numbers(&text);
            let used = numbers.get("MemTotal").unwrap() - numbers.get("MemFree").unwrap();
            assert!((40 * 1024..80 * 1024).contains(&used), "{case}: {text}");
        }
    }
}

// outer 256 MiB             pid, cgroup
// ├─ init                   the init, which moved there
// ├─ shell                  <- reads
// └─ docker/inner 64 MiB    pid, cgroup   <- reads; 40 MiB used
//
// W13: "limits are right (walk), usage is only the sub-cgroup's".
#[test]
fn a_docker_in_docker_has_two_views() {
    let Some(tree) = memory_tree() else { return };
    let server = Server::start(&Options::new());
    let outer = tree.cgroup("outer");
    outer.limit_memory(256 * MIB);
    let namespaces = Namespaces::NEWPID | Namespaces::NEWCGROUP;
    let outer_init = Spawn::new().cgroup(&outer).new_namespaces(namespaces).run(pause);
    tree.bare_cgroup("outer/init").add(outer_init.pid());
    let inner = tree.cgroup("outer/docker/inner");
    inner.limit_memory(64 * MIB);
    // Within the outer one's namespaces, of which the new ones are children.
    let inner_init = Spawn::new()
        .cgroup(&inner)
        .join(&outer_init, &["cgroup"])
        .new_namespaces(namespaces)
        .run(pause);
    let _hog = hog(&inner, 40 * MIB);

    let text = read(&server, Spawn::new().cgroup(&inner).join(&inner_init, &["pid", "cgroup"]));
    assert_eq!(total(&text), 64);
    let shell = tree.cgroup("outer/shell");
    let text = read(&server, Spawn::new().cgroup(&shell).join(&outer_init, &["pid", "cgroup"]));
    assert_eq!(total(&text), 256);
    let free = text::numbers(&text).get("MemFree").unwrap() / 1024;
    let is_right = (150..=216).contains(&free);
    Defect::new("W13").judge(&format!("{free} MiB of 256 free, 40 used"), is_right, free > 216);
}

// pod
// ├─ pause               pid   the init
// └─ app 128 MiB         [cgroup]
//    └─ deep             <- reads
//
// W12: "pod/pause owns the pid namespace, app joined it: shows host memory and all CPUs".
#[test]
fn an_app_of_a_pod_with_one_pid_namespace_reads_its_own() {
    let Some(tree) = memory_tree() else { return };
    let server = Server::start(&Options::new());
    let (pause_cgroup, app) = (tree.cgroup("pod/pause"), tree.cgroup("pod/app"));
    app.limit_memory(128 * MIB);
    let deep = tree.bare_cgroup("pod/app/deep");
    let init = Spawn::new().cgroup(&pause_cgroup).new_namespaces(Namespaces::NEWPID).run(pause);
    let in_app = || Spawn::new().cgroup(&app).join(&init, &["pid"]);
    let plain = total(&read(&server, in_app()));
    let isolated = in_app().new_namespaces(Namespaces::NEWCGROUP);
    let isolated = total(&move_and_read(&server, isolated, &deep));
    let right = (128, 128);
    let host = (host_total(), host_total());
    let seen = (plain, isolated);
    Defect::new("W12").judge(&format!("{seen:?} MiB of 128"), seen == right, seen == host);
    // The pause container has no limit.
    let paused = read(&server, Spawn::new().cgroup(&pause_cgroup).join(&init, &["pid"]));
    assert_eq!(total(&paused), host_total());
}

// ct 128 MiB   cgroup, or none of its own
// └─ deep      <- reads, with the host's pids
#[test]
fn with_the_hosts_pids_the_cgroup_namespace_or_the_cgroup_decides() {
    let Some(tree) = memory_tree() else { return };
    let server = Server::start(&Options::new());
    let ct = tree.cgroup("ct");
    ct.limit_memory(128 * MIB);
    let deep = tree.bare_cgroup("ct/deep");
    let isolated = Spawn::new().cgroup(&ct).new_namespaces(Namespaces::NEWCGROUP);
    let isolated = total(&move_and_read(&server, isolated, &deep));
    let plain = total(&read(&server, Spawn::new().cgroup(&ct)));
    assert_eq!((isolated, plain), (128, 128));
}

// ct 64 MiB   user, pid, mnt, cgroup   <- reads, as init, by exec, and in a user namespace below that
#[test]
fn a_user_namespace_changes_nothing() {
    let Some(tree) = memory_tree() else { return };
    let server = Server::start(&Options::new());
    let ct = tree.cgroup("ct");
    ct.limit_memory(64 * MIB);
    let spawn = Spawn::new().cgroup(&ct).new_namespaces(Namespaces::NEWUSER).container();
    let container = Container::with(&server, &ct, spawn);
    assert_eq!(total(&container.read("/proc/meminfo")), 64);
    assert_eq!(total(&container.run("cat /proc/meminfo")), 64);
    assert_eq!(total(&container.run("unshare --user cat /proc/meminfo")), 64);
    let nested = "unshare --user --map-root-user --pid --fork cat /proc/meminfo";
    assert_eq!(total(&container.run(nested)), 64);
}

// ct 64 MiB   pid, mnt, cgroup
// └─ a thread of the init   <- reads
#[test]
fn a_thread_reads_its_containers() {
    let Some(tree) = memory_tree() else { return };
    let server = Server::start(&Options::new());
    let ct = tree.cgroup("ct");
    ct.limit_memory(64 * MIB);
    let path = server.path("proc/meminfo");
    let process = Spawn::new().cgroup(&ct).container().run(|| {
        // More threads than the caller itself, at once.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(total(&fs::read_to_string(&path).unwrap()), 64));
            }
        });
        assert_eq!(total(&fs::read_to_string(&path).unwrap()), 64);
        0
    });
    assert_eq!(process.wait(), 0);
}

/// A child of this process, which has to have one thread, with the pids that it is to have from its own pid
/// namespace outwards. It is moved to a cgroup, reads, and ends; the result is its pid here and what it read.
fn child_reads(
    pids: &[i32],
    new_pid_namespace: bool,
    cgroup: &Cgroup,
    path: &Path,
) -> rustix::io::Result<(i32, u64)> {
    let (mut hear, mut tell) = std::io::pipe().unwrap();
    let flags = if new_pid_namespace { libc::CLONE_NEWPID } else { 0 };
    // SAFETY: zeros are no flags and no addresses.
    #[expect(unsafe_code, reason = "there is no safe name")]
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::try_from(flags).unwrap();
    arguments.exit_signal = u64::try_from(libc::SIGCHLD).unwrap();
    if !pids.is_empty() {
        arguments.set_tid = pids.as_ptr() as u64;
        arguments.set_tid_size = pids.len() as u64;
    }
    // SAFETY: without CLONE_VM it is a fork(2); this process has one thread, so nothing is locked.
    #[expect(unsafe_code, reason = "there is no safe name")]
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    };
    match pid {
        -1 => Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
        0 => {
            let mut read = || {
                for dir in cgroup.dirs() {
                    fs::write(dir.join("cgroup.procs"), "0")?;
                }
                // Twice: the second time it is known.
                let mut text = String::new();
                for _ in 0..2 {
                    text.clear();
                    File::open(path)?.read_to_string(&mut text)?;
                }
                tell.write_all(&total(&text).to_ne_bytes())
            };
            let status = match read() {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(255),
            };
            // SAFETY: it does not return.
            #[expect(unsafe_code, reason = "nothing of the parent's is to be run")]
            unsafe {
                libc::_exit(status)
            }
        }
        pid => {
            drop(tell);
            let mut total = [0; 8];
            let heard = hear.read_exact(&mut total);
            let pid = i32::try_from(pid).unwrap();
            let ended = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap();
            assert!(heard.is_ok(), "the reader ended: {ended:?}");
            Ok((pid, u64::from_ne_bytes(total)))
        }
    }
}

// one 64 MiB   [pid]   <- reads, and ends
// two 96 MiB   [pid]   <- reads, with the pid that the other one had
#[test]
fn a_pid_that_is_used_again_is_another_reader() {
    let Some(tree) = memory_tree() else { return };
    let (one, two) = (tree.cgroup("one"), tree.cgroup("two"));
    one.limit_memory(64 * MIB);
    two.limit_memory(96 * MIB);
    let server = Server::start(&Options::new());
    let path = server.path("proc/meminfo");
    // To LXCFS, without a pid namespace both are the host.
    let kinds: &[bool] = if under_test().is_cgview() { &[false, true] } else { &[true] };
    for &new_pid_namespace in kinds {
        let process = Spawn::new().run(|| {
            let mut reused = 0;
            for _ in 0..10 {
                let (pid, seen) = child_reads(&[], new_pid_namespace, &one, &path).unwrap();
                assert_eq!(seen, 64);
                let pids = if new_pid_namespace { vec![1, pid] } else { vec![pid] };
                match child_reads(&pids, new_pid_namespace, &two, &path) {
                    Ok((again, seen)) => {
                        assert_eq!((again, seen), (pid, 96));
                        reused += 1;
                    }
                    // Another process was faster.
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(errno) => panic!("{errno}"),
                }
            }
            i32::from(reused == 0)
        });
        assert_eq!(process.wait(), 0, "new pid namespace: {new_pid_namespace}");
    }
}

// The server in a pid namespace of its own, and readers outside of it, whom it cannot see: "stat never fails:
// LOOKUP and GETATTR succeed for any caller, pid 0 (another pid namespace) included"; "never the host by accident".
#[test]
fn who_cannot_be_seen_can_look_and_not_read() {
    if !Server::is_possible() {
        return;
    }
    for policy in ["stale", "host"] {
        let told = tempfile::NamedTempFile::new().unwrap();
        let process = Spawn::new().container().run(|| {
            let server = Server::start(&Options::new().cgview(&["--on-error", policy]));
            let mountpoint = server.mountpoint();
            fs::write(told.path(), mountpoint.to_str().unwrap()).unwrap();
            // It runs until this process is killed, and its pid namespace with it.
            pause()
        });
        let mountpoint = || fs::read_to_string(told.path()).unwrap();
        eventually("it serves", || !mountpoint().is_empty());
        let mountpoint = PathBuf::from(mountpoint());
        let inside = PathBuf::from(format!("/proc/{}/root", process.pid()));
        let at = |name: &str| inside.join(mountpoint.strip_prefix("/").unwrap()).join(name);
        for name in ["proc/meminfo", "proc/stat", "sys/devices/system/cpu/online"] {
            let mode = fs::metadata(at(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o444, "{name}");
        }
        assert!(fs::read_dir(at("sys/devices/system/cpu")).unwrap().count() > 3);
        let read = fs::read_to_string(at("proc/meminfo"));
        let seen = read.map(|text| text::numbers(&text).get("MemTotal").map(|total| total / 1024));
        let seen = seen.map_err(|error| error.raw_os_error());
        let is_right = match policy {
            "host" => seen == Ok(Some(host_total())),
            _ => seen == Err(Some(libc::EIO)),
        };
        let difference = Difference {
            lxcfs: "who cannot be seen reads nothing",
            cgview: "who cannot be seen gets an error, or the host's numbers where the policy says so",
        };
        difference.judge(&format!("{seen:?} by {policy}"), is_right, seen == Ok(None));
        drop(process);
        let _ = fs::remove_dir_all(mountpoint.parent().unwrap());
    }
}

// ct 256 MiB          pid, mnt, cgroup
// ├─ init, some/where the init, which moves itself there
// └─ exec             <- reads
#[test]
fn an_init_that_moves_below_its_cgroup_namespace_stays_in_its_container() {
    let Some(tree) = memory_tree() else { return };
    let ct = tree.cgroup("ct");
    ct.limit_memory(256 * MIB);
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &ct);
    let uptime = || text::uptime(&container.read("/proc/uptime"));
    assert_eq!(total(&container.read("/proc/meminfo")), 256);
    let mut last = uptime();
    for path in ["ct/init", "ct/some/where", "ct/else"] {
        tree.bare_cgroup(path).add(container.init().pid());
        assert_eq!(total(&container.read("/proc/meminfo")), 256, "{path}");
        let exec = container.enter_at(&tree.bare_cgroup("ct/exec"));
        assert_eq!(total(&run(exec, "cat /proc/meminfo").text), 256, "{path}");
        // The same container, and so as old and as idle as before, at least.
        let now = uptime();
        assert!(now.0 >= last.0 && now.1 >= last.1, "{last:?} {now:?}");
        last = now;
    }
}

// one 64 MiB   pid   the init, which moves to the other
// two 96 MiB         <- reads
#[test]
fn an_init_that_moves_away_takes_its_container_along() {
    let Some(tree) = memory_tree() else { return };
    let (one, two) = (tree.cgroup("one"), tree.cgroup("two"));
    one.limit_memory(64 * MIB);
    two.limit_memory(96 * MIB);
    let server = Server::start(&Options::new());
    let init = Spawn::new().cgroup(&one).new_namespaces(Namespaces::NEWPID).run(pause);
    let reads = |cgroup| total(&read(&server, Spawn::new().cgroup(cgroup).join(&init, &["pid"])));
    assert_eq!(reads(&one), 64);
    two.add(init.pid());
    eventually("the limit of the other", || reads(&two) == 96);
    if under_test().is_cgview() {
        // Who stays behind is in a cgroup that is not its init's: its own decides.
        assert_eq!(reads(&one), 64);
    }
}
