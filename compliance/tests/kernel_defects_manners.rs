//! Defects of LXCFS in how its files are read, and by whom, and what is right.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

use cgview_compliance::{Container, Defect, Difference, Options, start};
use cgview_testkit::skip;

/// What a script writes in a container, run by a user without rights.
fn as_nobody(container: &Container, script: &str) -> Option<String> {
    let output = container.try_run(&format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups sh -c '{script}' 2>&1"
    ));
    if output.status == 127 {
        skip("needs setpriv");
        return None;
    }
    Some(output.text)
}

// host
// └─ container   <- reads, as a user without rights
//
// slabinfo(5): "Only root can read [...] the /proc/slabinfo file", since it tells of others.
#[test]
fn w07_slabinfo_tells_nothing_of_the_host() {
    let Some((tree, server)) = start(&[], &Options::new()) else { return };
    let Ok(host) = fs::read_to_string("/proc/slabinfo") else {
        return skip("the kernel has no slabinfo");
    };
    let container = Container::start(&server, &tree.cgroup("container"));
    let Some(text) = as_nobody(&container, "cat /proc/slabinfo") else { return };
    let (seen, host) = (text.lines().count(), host.lines().count());
    Defect::new("W7").judge(
        &format!("{seen} lines of slabinfo, the host's file has {host} and is root's"),
        seen <= 2,
        seen > host / 2,
    );
}

// host
// └─ container   <- reads, as a user without rights
//
// Documentation/ABI/testing/sysfs-devices-system-cpu, crash_notes: "address and size of the percpu note".
// Its mode is 0400: it is a physical address of the kernel.
#[test]
fn w07_no_address_of_the_kernel_is_told() {
    let Some((tree, server)) = start(&[], &Options::new()) else { return };
    let file = "/sys/devices/system/cpu/cpu0/crash_notes";
    let Ok(metadata) = fs::metadata(file) else { return skip("the kernel has no crash_notes") };
    assert_eq!(metadata.mode() & 0o777, 0o400);
    let container = Container::start(&server, &tree.cgroup("container"));
    let Some(text) = as_nobody(&container, &format!("cat {file}")) else { return };
    let is_told = u64::from_str_radix(text.trim(), 16).is_ok();
    Defect::new("W7").judge(&format!("crash_notes: {:?}", text.trim()), !is_told, is_told);
}

// Law 9: an allow-list of names of sysfs.
#[test]
fn w07_no_other_path_is_there() {
    let Some((_tree, server)) = start(&[], &Options::new()) else { return };
    let seen = server.path("sys/class").exists();
    Defect::new("W7").judge(&format!("sys/class exists: {seen}"), !seen, seen);
}

// Law 6. seq_read_iter() of the kernel: any offset on a fresh descriptor, nothing past the end, no size.
#[test]
fn w26_reads_are_those_of_procfs() {
    let Some((_tree, server)) = start(&[], &Options::new()) else { return };
    let path = server.path("proc/meminfo");
    let whole = fs::read(&path).unwrap();
    let file = File::open(&path).unwrap();
    let mut buffer = [0; 10];
    let fresh = file.read_at(&mut buffer, 20).unwrap();
    let text = buffer[..fresh].to_vec();
    // The length is that of this descriptor's text: a number of LXCFS's that falls below 0 has 12 more digits.
    let past = File::open(&path).and_then(|file| {
        let length = file.read_at(&mut vec![0; 128 << 10], 0)? as u64;
        file.read_at(&mut buffer, length + 1)
    });
    let size = fs::metadata(&path).unwrap().len();
    let seen = format!(
        "pread at 20 of a fresh descriptor: {fresh} bytes; past the end: {past:?}; size {size}"
    );
    Defect::new("W26").judge(
        &seen,
        text == whole[20..30] && past.as_ref().is_ok_and(|&read| read == 0) && size == 0,
        fresh == 0
            && past.as_ref().is_err_and(|error| error.raw_os_error() == Some(22))
            && size > 0,
    );
    let access = |mode: &str| fs::OpenOptions::new().write(true).open(server.path(mode)).is_ok();
    let written = access("proc/meminfo");
    Defect::new("W26").judge(&format!("open for writing: {written}"), !written, written);
}

// Law 8: the cost does not grow with the host.
#[test]
fn w33_stat_costs_nothing() {
    let Some((_tree, server)) = start(&[], &Options::new()) else { return };
    let path = server.path("proc/cpuinfo");
    let length = fs::read("/proc/cpuinfo").unwrap().len() as u64;
    let stats = 50;
    let before = server.bytes_read();
    for _ in 0..stats {
        fs::metadata(&path).unwrap();
        // What the kernel remembers is asked for again.
        std::thread::sleep(std::time::Duration::from_millis(
            if cgview_compliance::under_test().is_cgview() { 0 } else { 11 },
        ));
        File::open(&path).unwrap();
    }
    let each = (server.bytes_read() - before) / stats;
    Defect::new("W33").judge(
        &format!("{each} bytes read for a stat and an open of cpuinfo, which has {length}"),
        each < length / 2,
        each >= length,
    );
}

// cgroup_namespaces(7) made a tree of cgroups of LXCFS's needless.
#[test]
fn there_is_no_other_tree() {
    let Some((_tree, server)) = start(&[], &Options::new()) else { return };
    let mut names: Vec<_> = fs::read_dir(server.mountpoint())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let (old, own) = (names.contains(&"cgroup".to_owned()), names == ["proc", "sys"]);
    let is_old = cgview_compliance::under_test().lxcfs().is_some_and(|version| version < (6, 0, 0));
    Difference {
        lxcfs: "cgroup/ in 5.0 (6.0: --enable-cgroup), for kernels without cgroup namespaces",
        cgview: "no cgroup/",
    }
    .judge(&format!("{names:?}"), own, old == is_old);
    assert!(Path::new("/proc/self/ns/cgroup").exists());
}
