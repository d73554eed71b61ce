//! The life of the daemon on a real kernel: mount, refusals, signals, end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemon;

use std::{
    fs,
    io::ErrorKind,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use cgview_testkit::{FakeHost, skip};
use daemon::{Daemon, Dirs, eventually};
use rustix::process::Signal;

/// The options of a mount, as the kernel tells them.
fn mount_options(mountpoint: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(1) == mountpoint.to_str()).unwrap();
    line.to_owned()
}

#[test]
fn term_and_int_unmount_and_leave_nothing_but_the_state() {
    if !Daemon::is_possible() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::start(&[]);
        let pid = fs::read_to_string(daemon.dirs().path("cgview-fuse.pid")).unwrap();
        assert_eq!(pid, format!("{}\n", daemon.pid()));
        let options = mount_options(&daemon.mountpoint());
        assert!(options.contains(" fuse.cgview ro,nosuid,nodev,noexec,"), "{options}");
        assert!(options.contains("allow_other") && !options.contains("default_permissions"));

        // A file that is open does not keep it.
        let open = fs::File::open(daemon.path("proc/meminfo")).unwrap();
        let (status, dirs) = daemon.end(signal);
        assert_eq!(status.code(), Some(0));
        assert!(!dirs.is_mounted());
        drop(open);
        let mut left: Vec<_> = fs::read_dir(dirs.runtime())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["cgview-fuse.ledger", "log", "mnt"]);
    }
}

#[test]
fn it_ends_when_somebody_else_unmounts() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    // It is busy while the keeper asks whether it is served.
    eventually("it is unmounted", || {
        rustix::mount::unmount(daemon.mountpoint(), rustix::mount::UnmountFlags::empty()).is_ok()
    });
    eventually("the daemon ends", || daemon.log().contains("stopped"));
}

#[test]
fn a_second_daemon_is_refused_and_harms_nothing() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let (status, said) = daemon.dirs().fail(&[]);
    assert_eq!(status, 1);
    assert!(said.starts_with("cgview-fuse: cannot lock "), "{said}");
    assert!(said.contains(&format!("the daemon with pid {} holds it", daemon.pid())), "{said}");

    // Another runtime directory, the same mountpoint.
    let other = Dirs::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgview-fuse"));
    command.arg("--runtime-dir").arg(other.runtime()).arg(daemon.mountpoint());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "cgview-fuse: cannot mount at {0}: fuse.cgview is mounted there; end its daemon, or unmount it \
         with `umount {0}`\n",
        daemon.mountpoint().display()
    );
    assert!(said.ends_with(&expected), "{said}");
    assert!(!other.path("cgview-fuse.pid").exists());

    assert!(daemon.dirs().path("cgview-fuse.pid").exists());
    assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
}

#[test]
fn a_mount_that_a_dead_daemon_left_is_replaced_when_asked_for() {
    if !Daemon::is_possible() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let (_, dirs) = daemon.end(Signal::KILL);
    // Its worker ends with it, but not in the same moment.
    eventually("the mount is dead", || {
        fs::read(dirs.mountpoint().join("proc/meminfo"))
            .is_err_and(|error| error.kind() == ErrorKind::NotConnected)
    });
    let (status, said) = dirs.fail(&[]);
    assert_eq!(status, 1);
    let expected = format!(
        "cgview-fuse: cannot mount at {}: a FUSE mount without a daemon is left there; replace it with \
         --replace",
        dirs.mountpoint().display()
    );
    assert_eq!(said, expected);
    let daemon = Daemon::start_in(dirs, &["--replace"]);
    assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = Dirs::new();
    fs::write(dirs.path("bad.toml"), "swap = true\nfreshness_ms = 'soon'\n").unwrap();
    let bad = dirs.path("bad.toml");
    let (status, said) = dirs.fail(&["--config", bad.to_str().unwrap()]);
    assert_eq!(status, 1);
    let expected = format!(
        "cgview-fuse: cannot use the configuration {}, line 2: freshness_ms: ",
        bad.display()
    );
    assert!(said.starts_with(&expected), "{said}");

    let (status, said) = dirs.fail(&["-o", "ro,color=red"]);
    assert_eq!(status, 2);
    assert!(said.contains("-o color=red: there is no such option"), "{said}");
    assert_eq!(dirs.fail(&["--color"]).0, 2);
    assert_eq!(dirs.fail(&["--cpu-view", "shares"]).0, 2);

    let fake = FakeHost::new();
    fake.file("/proc/1/mountinfo", "");
    let (status, said) = dirs.fail(&["--host-root", fake.path().to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(said.starts_with("cgview-fuse: cannot find a cgroup hierarchy"), "{said}");

    fs::remove_dir(dirs.mountpoint()).unwrap();
    let (status, said) = dirs.fail(&[]);
    assert_eq!(status, 1);
    assert!(said.ends_with(&format!("make it with `mkdir -p {}`", dirs.mountpoint().display())));
    fs::write(dirs.mountpoint(), "").unwrap();
    assert!(dirs.fail(&[]).1.ends_with("it is not a directory; name a directory"));
    fs::remove_file(dirs.mountpoint()).unwrap();
    fs::create_dir(dirs.mountpoint()).unwrap();

    // Not root.
    let output = dirs.command().uid(65_534).gid(65_534).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if said.is_empty() {
        skip("the program cannot be run by another user where it is");
        return;
    }
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("run it with sudo"), "{said}");
}

#[test]
fn nothing_is_mounted_after_a_failure() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = Dirs::new();
    let file = dirs.path("socket");
    fs::write(&file, "").unwrap();
    let (status, said) = dirs.fail(&["--metrics", file.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(said.contains("cannot serve metrics on"), "{said}");
    assert!(!dirs.is_mounted());
    assert!(!dirs.path("cgview-fuse.pid").exists());
}

#[test]
fn hup_reads_the_configuration_again() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = Dirs::new();
    let config = dirs.path("cgview.toml");
    fs::write(&config, "").unwrap();
    let config = config.to_str().unwrap().to_owned();
    let daemon = Daemon::start_in(dirs, &["--config", &config]);
    let reload = |text: &str, said: &str| {
        fs::write(&config, text).unwrap();
        let before = daemon.log().len();
        daemon.signal(Signal::HUP);
        eventually(said, || daemon.log()[before..].contains(said));
    };
    reload("threads = 2\non_error = 'fail'\n", "takes effect at the next start: threads");
    reload("on_error = 'perhaps'\n", "line 1: on_error: ");
    reload("log_level = 'debug'\n", "read the configuration again");
    assert!(fs::read_to_string(daemon.path("proc/meminfo")).unwrap().starts_with("MemTotal:"));
    daemon.signal(Signal::USR1);
    eventually("status", || daemon.log().contains("containers known"));
    eventually("requests", || daemon.log().contains("cgview_requests_total{operation=\"read\"}"));
}

#[test]
fn options_of_lxcfs_are_taken() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = Dirs::new();
    let pid_file = dirs.path("lxcfs.pid");
    let line = ["-f", "-l", "-s", "--enable-cfs", "--enable-pidfd", "-o", "allow_other", "-p"];
    let mut line = line.to_vec();
    line.push(pid_file.to_str().unwrap());
    let daemon = Daemon::start_in(dirs, &line);
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", daemon.pid()));
    assert!(daemon.log().contains("an option has no effect: --enable-loadavg"));
    assert!(!daemon.log().contains("no effect: -o allow_other"));
}

#[test]
fn systemd_is_told_and_watched_by_a_real_request() {
    if !Daemon::is_possible() {
        return;
    }
    let dirs = Dirs::new();
    let path = dirs.path("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = dirs.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let daemon = Daemon::run(dirs, command);
    let expect = |what: &str| {
        let end = Instant::now() + Duration::from_secs(60);
        let mut heard = String::new();
        while !heard.contains(what) {
            assert!(Instant::now() < end, "{what}: {heard}");
            let mut message = [0; 4096];
            let length = socket.recv(&mut message).unwrap();
            heard.push_str(std::str::from_utf8(&message[..length]).unwrap());
        }
    };
    expect("READY=1");
    expect("WATCHDOG=1");
    assert!(daemon.requests("statfs") > 0);
    daemon.signal(Signal::TERM);
    expect("STOPPING=1");
}
