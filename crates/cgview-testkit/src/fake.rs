//! A host made by hand: a directory with the files that a test wants it to have.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;

/// The files of a host below a temporary directory.
#[derive(Debug)]
pub struct FakeHost {
    dir: TempDir,
    mountinfo: String,
}

/// A process of such a host.
#[derive(Clone, Debug)]
pub struct FakeProcess<'a> {
    /// Its pid on the host.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// When it started, in ticks.
    pub start: u64,
    /// Its pids from the host's pid namespace inwards.
    pub nspid: &'a [u32],
    /// The text of its `cgroup`.
    pub cgroup: &'a str,
    /// The inode of its pid namespace.
    pub pid_namespace: u64,
    /// The inode of its cgroup namespace.
    pub cgroup_namespace: u64,
    /// The lines of its `mountinfo`.
    pub mountinfo: &'a str,
    /// The letter of its state.
    pub state: char,
}

/// The inode numbers of the first namespaces: `include/uapi/linux/nsfs.h`.
const FIRST_PID: u64 = 4_026_531_836;
const FIRST_CGROUP: u64 = 4_026_531_835;
const FIRST_TIME: u64 = 4_026_531_834;

impl Default for FakeProcess<'_> {
    fn default() -> Self {
        FakeProcess {
            pid: 1,
            ppid: 0,
            start: 100,
            nspid: &[],
            cgroup: "",
            pid_namespace: FIRST_PID,
            cgroup_namespace: FIRST_CGROUP,
            mountinfo: "",
            state: 'S',
        }
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        FakeHost::new()
    }
}

impl FakeHost {
    /// A host with two CPUs, 1 GiB of memory and one process, an hour after its boot.
    #[must_use]
    pub fn new() -> FakeHost {
        // In memory, where that is possible: it has many small files.
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let host = FakeHost { dir, mountinfo: String::new() };
        host.file("/proc/uptime", "3600.00 7000.00\n");
        host.file("/proc/meminfo", "MemTotal: 1048576 kB\nMemFree: 524288 kB\n");
        host.file("/proc/vmstat", "nr_free_pages 131072\n");
        host.file("/sys/devices/system/cpu/online", "0-1\n");
        host.process(&FakeProcess { cgroup: "0::/init.scope\n", ..FakeProcess::default() });
        host
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file, named as on the host.
    pub fn file(&self, path: &str, text: &str) -> &FakeHost {
        let path = self.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Writes files into a directory.
    pub fn files(&self, dir: &str, files: &[(&str, &str)]) -> &FakeHost {
        for (name, text) in files {
            self.file(&format!("{dir}/{name}"), text);
        }
        self
    }

    /// Removes a file or a directory.
    pub fn remove(&self, path: &str) -> &FakeHost {
        let path = self.path().join(path.trim_start_matches('/'));
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        self
    }

    /// Makes a symbolic link.
    pub fn link(&self, path: &str, target: &str) -> &FakeHost {
        let path = self.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
        self
    }

    /// Mounts a hierarchy of v1 with its root at `dir`.
    pub fn mount_v1(&mut self, dir: &str, options: &str) -> &mut FakeHost {
        self.mount_line(&format!("31 23 0:28 / {} rw - cgroup cgroup rw,{options}", escape(dir)));
        self.file(&format!("{dir}/cgroup.procs"), "").file(&format!("{dir}/release_agent"), "\n");
        self
    }

    /// Mounts the unified hierarchy with its root at `dir`.
    pub fn mount_v2(&mut self, dir: &str) -> &mut FakeHost {
        self.mount_line(&format!(
            "41 23 0:38 / {} rw - cgroup2 cgroup2 rw,nsdelegate",
            escape(dir)
        ));
        self.file(&format!("{dir}/cgroup.procs"), "");
        self.file(&format!("{dir}/cgroup.controllers"), "cpuset cpu io memory hugetlb pids\n");
        self
    }

    /// Adds a line to the `mountinfo` of the host's first process.
    pub fn mount_line(&mut self, line: &str) -> &mut FakeHost {
        self.mountinfo.push_str(line);
        self.mountinfo.push('\n');
        self.file("/proc/1/mountinfo", &self.mountinfo.clone());
        self
    }

    /// Adds a process.
    pub fn process(&self, process: &FakeProcess<'_>) -> &FakeHost {
        let FakeProcess { pid, ppid, start, state, .. } = process;
        let dir = format!("/proc/{pid}");
        let stat = format!(
            "{pid} (a (b) c) {state} {ppid} {pid} {pid} 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {start} 1 2 3\n"
        );
        let own = [*pid];
        let nspid = if process.nspid.is_empty() { &own } else { process.nspid };
        let nspid: Vec<String> = nspid.iter().map(u32::to_string).collect();
        self.file(&format!("{dir}/stat"), &stat);
        self.file(&format!("{dir}/task/{pid}/stat"), &stat);
        self.file(&format!("{dir}/status"), &format!("Name:\ta\nNSpid:\t{}\n", nspid.join("\t")));
        self.file(&format!("{dir}/cgroup"), process.cgroup);
        self.file(&format!("{dir}/mountinfo"), process.mountinfo);
        self.file(&format!("{dir}/timens_offsets"), "monotonic 0 0\nboottime 0 0\n");
        self.link(&format!("{dir}/ns/pid"), &format!("pid:[{}]", process.pid_namespace));
        self.link(&format!("{dir}/ns/cgroup"), &format!("cgroup:[{}]", process.cgroup_namespace));
        self.link(&format!("{dir}/ns/time"), &format!("time:[{FIRST_TIME}]"));
        self.link(&format!("{dir}/ns/time_for_children"), &format!("time:[{FIRST_TIME}]"));
        self
    }
}

/// Writes blanks as `mountinfo` does.
fn escape(path: &str) -> String {
    path.replace(' ', "\\040")
}
