//! Debian's package on a machine with systemd (`docs/runtimes.md`): its service, and what it takes to end it.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use cgview_compliance::eventually;
use cgview_runtimes::{Host as _, MOUNTPOINT, Package, SERVICE};

/// What systemd-analyze(1) calls "OK" at most, from 0, which is safe, to 10.
const EXPOSURE: f64 = 4.0;

#[test]
fn it_has_a_service() {
    let Some(package) = Package::install(&[]) else { return };
    assert_eq!(package.run(&format!("systemctl is-active {SERVICE}")), "active\n");
    assert_eq!(package.run(&format!("systemctl is-enabled {SERVICE}")), "enabled\n");
    let mounts = package.mounts();
    assert!(matches!(&*mounts, [line] if line.split(' ').nth(4) == Some(MOUNTPOINT)), "{mounts:?}");
    let text = fs::read_to_string(format!("{MOUNTPOINT}/proc/meminfo")).unwrap();
    assert!(text.starts_with("MemTotal: "), "{text}");
    // "→ Overall exposure level for cgview-fuse.service: 3.6 OK :-)"
    let text = package.run(&format!("systemd-analyze security --no-pager {SERVICE}"));
    let level = text.lines().find_map(|line| line.split_once(".service: ")).unwrap().1;
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level < EXPOSURE, "{text}");
    for file in ["man/man1/cgview.1.gz", "bash-completion/completions/cgview"] {
        assert!(fs::exists(format!("/usr/share/{file}")).unwrap(), "{file}");
    }
}

#[test]
fn no_read_fails_while_its_processes_end() {
    let Some(mut package) = Package::install(&[]) else { return };
    let path = format!("{MOUNTPOINT}/proc/meminfo");
    let (reads, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let open = fs::File::open(&path).unwrap();
            let mut buffer = [0; 64];
            while !is_over.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("MemTotal: "), "{text}");
                let length = open.read_at(&mut buffer, 0).unwrap();
                assert!(buffer.starts_with(b"MemTotal: "), "{length} bytes");
                reads.fetch_add(1, Ordering::Relaxed);
                // Emulated CPUs take turns, and the others have something to do.
                thread::sleep(Duration::from_millis(2));
            }
        });
        let goes_on = || {
            let before = reads.load(Ordering::Relaxed);
            eventually("it is read", || {
                assert!(!reader.is_finished(), "a read has failed");
                reads.load(Ordering::Relaxed) >= before + 10
            });
        };
        let processes = |package: &Package| (package.keeper(), package.workers());
        goes_on();
        package.replace_daemon();
        goes_on();

        let (keeper, workers) = processes(&package);
        let worker = *workers.first().unwrap();
        package.run(&format!("kill -KILL {worker}"));
        eventually("another worker serves", || {
            let (_, workers) = processes(&package);
            !workers.is_empty() && !workers.contains(&worker)
        });
        goes_on();
        assert_eq!(package.keeper(), keeper);

        package.run(&format!("kill -KILL {keeper}"));
        eventually("systemd has started another keeper", || {
            let (now, workers) = processes(&package);
            ![0, keeper].contains(&now) && !workers.is_empty()
        });
        goes_on();
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(package.mounts().len(), 1);
}

#[test]
fn purged_it_leaves_nothing() {
    let Some(package) = Package::install(&[]) else { return };
    // Purged in the midst of a start, when systemd does not run ExecStop=.
    let settings = format!("/run/systemd/system/{SERVICE}.d");
    fs::create_dir_all(&settings).unwrap();
    let endless = "[Service]\nExecStartPost=-/bin/sleep infinity\nTimeoutStartSec=infinity\n";
    fs::write(format!("{settings}/endless.conf"), endless).unwrap();
    package.run(&format!("systemctl daemon-reload && systemctl restart --no-block {SERVICE}"));
    let state = format!("systemctl show --property=SubState --value {SERVICE}");
    let wait = format!("until [ $({state}) = start-post ]; do sleep 0.1; done");
    package.run(&format!("timeout 300 sh -c '{wait}'"));
    assert_eq!(package.mounts().len(), 1);
    fs::remove_dir_all(&settings).unwrap();
    package.purge();
}
