//! Processes in cgroups and namespaces of their own.

use std::{
    fs,
    io::{PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};

use crate::{
    sys::{self, Forked},
    tree::Cgroup,
};

/// Kinds of namespaces.
pub type Namespaces = UnshareFlags;

/// Namespaces that a process makes, or enters, for its children; and user namespaces, which own the others.
const FOR_CHILDREN: Namespaces =
    Namespaces::NEWPID.union(Namespaces::NEWTIME).union(Namespaces::NEWUSER);

/// A process to be: where it runs, and what it is not to share.
#[derive(Debug, Default)]
pub struct Spawn {
    procs: Vec<OwnedFd>,
    join: Vec<(OwnedFd, LinkNameSpaceType)>,
    new: Option<Namespaces>,
    boottime: Option<i64>,
    mount_proc: bool,
}

impl Spawn {
    /// A process like this one.
    #[must_use]
    pub fn new() -> Spawn {
        Spawn::default()
    }

    /// It runs in a cgroup, in each hierarchy that the cgroup is in. It enters before it makes namespaces,
    /// so that a new cgroup namespace begins there.
    #[must_use]
    pub fn cgroup(mut self, cgroup: &Cgroup) -> Spawn {
        for dir in cgroup.dirs() {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let procs = rustix::fs::open(dir.join("cgroup.procs"), flags, Mode::empty());
            self.procs.push(procs.unwrap());
        }
        self
    }

    /// It has new namespaces of these kinds.
    #[must_use]
    pub fn new_namespaces(mut self, namespaces: Namespaces) -> Spawn {
        self.new = Some(self.new.unwrap_or(Namespaces::empty()) | namespaces);
        self
    }

    /// What containers have: new pid, mount and cgroup namespaces, and a `/proc` to match.
    #[must_use]
    pub fn container(mut self) -> Spawn {
        self.mount_proc = true;
        self.new_namespaces(Namespaces::NEWPID | Namespaces::NEWNS | Namespaces::NEWCGROUP)
    }

    /// Its boot clock is so many seconds ahead, by a new time namespace.
    #[must_use]
    pub fn boottime_offset(mut self, seconds: i64) -> Spawn {
        self.boottime = Some(seconds);
        self.new_namespaces(Namespaces::NEWTIME)
    }

    /// It enters namespaces of another process, by their names in `/proc/PID/ns`, as `docker exec` does.
    #[must_use]
    pub fn join(mut self, process: &Process, names: &[&str]) -> Spawn {
        for name in names {
            let kind = match *name {
                "cgroup" => LinkNameSpaceType::ControlGroup,
                "mnt" => LinkNameSpaceType::Mount,
                "pid" => LinkNameSpaceType::ProcessID,
                "time" => LinkNameSpaceType::Time,
                "user" => LinkNameSpaceType::User,
                _ => panic!("no namespace is named {name}"),
            };
            let file = fs::File::open(format!("/proc/{}/ns/{name}", process.pid())).unwrap();
            self.join.push((file.into(), kind));
        }
        self
    }

    /// Starts it. `body` runs in it, and its result is the exit status; [`pause`](crate::pause) if it only
    /// has to be there. When this returns, it is in its cgroups and namespaces.
    pub fn run(self, body: impl FnOnce() -> i32) -> Process {
        tell_of_panics();
        let (mut heard, told) = std::io::pipe().unwrap();
        let supervisor = match sys::fork().unwrap() {
            Forked::Parent(pid) => pid,
            Forked::Child => {
                let status = catch_unwind(AssertUnwindSafe(|| self.supervise(told, body)));
                sys::exit(status.unwrap_or(101));
            }
        };
        drop(told);
        let mut process = Process { pid: 0, supervisor: Some(supervisor), heard: None };
        let mut line = [0; 5];
        heard.read_exact(&mut line).expect("the process failed to start; its message is above");
        let [ready, pid @ ..] = line;
        assert_eq!(ready, b'+');
        process.pid = u32::from_le_bytes(pid);
        process.heard = Some(heard);
        process
    }

    /// The child: a thread of the test waits for it, and it for the process itself. It is what a runtime is
    /// to a container: outside of the cgroup, and of the namespaces but those that only a child can be in.
    fn supervise(self, mut told: PipeWriter, body: impl FnOnce() -> i32) -> i32 {
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        self.enter(FOR_CHILDREN);
        if let Some(seconds) = self.boottime {
            fs::write("/proc/self/timens_offsets", format!("boottime {seconds} 0")).unwrap();
        }
        // The process says when it is set up, and only then its pid is told.
        let (mut ready, done) = std::io::pipe().unwrap();
        let child = match sys::fork().unwrap() {
            Forked::Parent(pid) => pid,
            Forked::Child => {
                drop((ready, told));
                set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
                let run = || {
                    for procs in &self.procs {
                        rustix::io::write(procs, b"0").expect("cannot enter the cgroup");
                    }
                    self.enter(!FOR_CHILDREN);
                    self.mount_proc();
                    { done }.write_all(b"+").unwrap();
                    body()
                };
                sys::exit(catch_unwind(AssertUnwindSafe(run)).unwrap_or(101));
            }
        };
        drop(done);
        let mut byte = [0];
        if ready.read_exact(&mut byte).is_ok() {
            let mut line = vec![b'+'];
            line.extend(child.as_raw_nonzero().get().to_le_bytes());
            told.write_all(&line).unwrap();
        }
        loop {
            match waitpid(Some(child), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    return status.exit_status().unwrap_or_else(|| {
                        status.terminating_signal().map_or(101, |signal| 128 + signal)
                    });
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => panic!("cannot wait: {errno}"),
            }
        }
    }

    /// Enters those of the namespaces that are of these kinds.
    fn enter(&self, kinds: Namespaces) {
        for (namespace, kind) in &self.join {
            if kinds.contains(Namespaces::from_bits_retain(*kind as u32)) {
                move_into_link_name_space(namespace.as_fd(), Some(*kind)).expect("cannot join");
            }
        }
        let new = self.new.unwrap_or(Namespaces::empty()) & kinds;
        sys::unshare(new).expect("cannot make namespaces");
        if new.contains(Namespaces::NEWUSER) {
            // Only root, so that no more rights are needed than to make the namespace.
            fs::write("/proc/self/setgroups", "deny").unwrap();
            fs::write("/proc/self/uid_map", "0 0 1").unwrap();
            fs::write("/proc/self/gid_map", "0 0 1").unwrap();
        }
    }

    fn mount_proc(&self) {
        if self.mount_proc {
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("proc", "/proc", "proc", flags, None).unwrap();
        }
    }
}

/// Has the panics of children written to the standard error. What libtest captures of a test would be lost
/// with the child.
///
/// It is set up before there is any: a child could wait for ever for what another thread held when it was
/// made.
fn tell_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (test, default) = (std::process::id(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            if std::process::id() == test {
                return default(panic);
            }
            let text = format!("{panic}\n");
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        }));
    });
}

/// A running process. Dropping it kills it, and with it its pid namespace if it is the first in that.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    supervisor: Option<Pid>,
    /// Held so that the other end does not break.
    heard: Option<PipeReader>,
}

impl Process {
    /// Its pid, as the test sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The ids of its threads, the first being its pid.
    #[must_use]
    pub fn threads(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut tids: Vec<u32> =
            tasks.map(|entry| name(entry).to_str().unwrap().parse().unwrap()).collect();
        tids.sort_unstable();
        tids
    }

    /// Waits for its end, and gives its exit status: 128 and the signal, if that ended it.
    pub fn wait(mut self) -> i32 {
        let supervisor = self.supervisor.take().unwrap();
        reap(supervisor)
    }

    /// Kills it and waits for its end.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(supervisor) = self.supervisor.take() else { return };
        // It is not reaped before the supervisor ends, so the pid is still its own.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        } else {
            let _ = kill_process(supervisor, Signal::KILL);
        }
        reap(supervisor);
    }
}

fn reap(supervisor: Pid) -> i32 {
    loop {
        match waitpid(Some(supervisor), WaitOptions::empty()) {
            Ok(Some((_, status))) => return status.exit_status().unwrap_or(101),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 101,
        }
    }
}
