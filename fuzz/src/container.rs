//! A host in memory with a container on it, that can be changed.

use cgview_testkit::{FakeHost, FakeProcess};

/// The init of the container.
pub const INIT: u32 = 200;
/// Another process in it.
pub const MEMBER: u32 = 201;
/// A process of the host.
pub const HOST: u32 = 50;
/// What `/proc/meminfo` of the host says.
pub const MEMINFO: &str = "\
MemTotal:        1048576 kB
MemFree:          524288 kB
MemAvailable:     786432 kB
Buffers:            1024 kB
Cached:           131072 kB
SwapTotal:             0 kB
SwapFree:              0 kB
";

/// A unified host of two CPUs with a container of 64 MiB.
#[must_use]
pub fn host() -> FakeHost {
    let mut fake = FakeHost::new();
    fake.mount_v2("/sys/fs/cgroup");
    fake.file("/proc/meminfo", MEMINFO);
    fake.file("/proc/loadavg", "9.00 8.00 7.00 6/500 4711\n");
    fake.file("/proc/slabinfo", "slabinfo - version: 2.1\n# name\ndentry 1 2 3\n");
    fake.file(
        "/proc/stat",
        "cpu  9 0 9 9 0 0 0 0 0 0\ncpu0 9 0 9 9 0 0 0 0 0 0\ncpu1 9 0 9 9 0 0 0 0 0 0\n\
         intr 7 8\nctxt 99\nbtime 1000\nprocesses 5\nprocs_running 1\nprocs_blocked 0\n",
    );
    fake.file("/sys/devices/system/cpu/kernel_max", "63\n");
    fake.file("/sys/devices/system/cpu/possible", "0-1\n");
    for cpu in 0..2 {
        fake.file(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_id"), "0\n");
    }
    fake.file("/sys/devices/system/node/online", "0\n");
    fake.process(&FakeProcess { pid: HOST, ppid: 1, cgroup: "0::/\n", ..FakeProcess::default() });
    processes(&fake);
    cgroup(&fake);
    fake
}

/// The container's processes.
pub fn processes(fake: &FakeHost) {
    for (pid, nspid) in [(INIT, [INIT, 1]), (MEMBER, [MEMBER, 2])] {
        fake.process(&FakeProcess {
            pid,
            ppid: HOST,
            start: 300_000,
            nspid: &nspid,
            cgroup: "0::/app\n",
            pid_namespace: 4_026_532_100,
            ..FakeProcess::default()
        });
    }
}

/// The container's cgroup.
pub fn cgroup(fake: &FakeHost) {
    fake.files(
        "/sys/fs/cgroup/app",
        &[
            ("cgroup.procs", "200\n201\n"),
            ("cgroup.threads", "200\n201\n"),
            ("cpu.max", "100000 100000\n"),
            ("cpu.stat", "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n"),
            ("cpuset.cpus.effective", "0-1\n"),
            ("cpuset.mems.effective", "0\n"),
            ("memory.current", "16777216\n"),
            ("memory.max", "67108864\n"),
            ("memory.high", "max\n"),
            ("memory.low", "0\n"),
            ("memory.min", "0\n"),
            ("memory.stat", "anon 8388608\nfile 8388608\ninactive_file 8388608\n"),
        ],
    );
}
