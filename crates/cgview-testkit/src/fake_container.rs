//! A host made by hand with containers on it, as a service of the view wants them.

use crate::{FakeHost, FakeProcess};

/// A process of the host's own.
pub const FAKE_HOST_PID: u32 = 50;

/// What `/proc/meminfo` of that host says.
pub const FAKE_MEMINFO: &str = "\
MemTotal:        1048576 kB
MemFree:          524288 kB
MemAvailable:     786432 kB
Buffers:            1024 kB
Cached:           131072 kB
SwapTotal:             0 kB
SwapFree:              0 kB
";

/// A container with a cgroup of its own, which may use one CPU, and has 16 MiB of its memory in use.
#[derive(Clone, Copy, Debug)]
pub struct FakeContainer {
    /// Its cgroup, below the root.
    pub name: &'static str,
    /// Its processes, of which the first is its init.
    pub pids: [u32; 2],
    /// Its limit in MiB.
    pub memory: u64,
}

impl FakeHost {
    /// A unified host with two CPUs and all files that a view takes, and these containers.
    #[must_use]
    pub fn with_containers(containers: &[FakeContainer]) -> FakeHost {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup");
        fake.file("/proc/meminfo", FAKE_MEMINFO);
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
        fake.process(&FakeProcess {
            pid: FAKE_HOST_PID,
            ppid: 1,
            cgroup: "0::/\n",
            ..FakeProcess::default()
        });
        for container in containers {
            container.make_processes(&fake);
            container.make_cgroup(&fake);
        }
        fake
    }
}

impl FakeContainer {
    /// Makes its processes, or makes them again.
    pub fn make_processes(&self, fake: &FakeHost) {
        for (pid, inner) in self.pids.into_iter().zip(1..) {
            fake.process(&FakeProcess {
                pid,
                ppid: FAKE_HOST_PID,
                start: 300_000,
                nspid: &[pid, inner],
                cgroup: &format!("0::/{}\n", self.name),
                pid_namespace: 4_026_532_000 + u64::from(self.pids[0]),
                ..FakeProcess::default()
            });
        }
    }

    /// Makes its cgroup, or makes it as it was.
    pub fn make_cgroup(&self, fake: &FakeHost) {
        let procs = self.pids.map(|pid| format!("{pid}\n")).concat();
        fake.files(
            &format!("/sys/fs/cgroup/{}", self.name),
            &[
                ("cgroup.procs", &procs),
                ("cgroup.threads", &procs),
                ("cpu.max", "100000 100000\n"),
                ("cpu.stat", "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n"),
                ("cpuset.cpus.effective", "0-1\n"),
                ("cpuset.mems.effective", "0\n"),
                ("memory.current", "16777216\n"),
                ("memory.max", &format!("{}\n", self.memory << 20)),
                ("memory.high", "max\n"),
                ("memory.low", "0\n"),
                ("memory.min", "0\n"),
                ("memory.stat", "anon 8388608\nfile 8388608\ninactive_file 8388608\n"),
            ],
        );
    }
}
