//! The containers that run on a host, whatever has started them.
//!
//! No runtime is asked. What tells a container is its first process: it has a mount namespace of its own, and either a
//! cgroup whose path is that of a container by the conventions of a runtime
//! ([`container_path`](cgview_core::parse::container_path())), or, where a runtime lets its user choose the path, a pid
//! namespace of its own and a cgroup that is neither its parent's nor a unit of systemd. Services of systemd with a
//! private mount namespace, sandboxes of browsers and the like are none.
//!
//! Names that are not in the cgroup's path are found by the process that watches over the container: conmon has it among
//! its arguments, and the shim of containerd works in the directory with the container's `config.json`.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use cgview_core::{
    parse::{Runtime, cgroup_membership, container_path, is_unit, status_nspid},
    units::Usec,
};
use rustix::{
    fs::{AtFlags, StatxFlags, stat, statx},
    io::Errno,
};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    host::Host,
    process::{Namespace, Process},
};

/// A container that runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Running {
    /// What has started it.
    pub runtime: Runtime,
    /// Its id; its name, where the runtime goes by names.
    pub id: String,
    /// Its name, if it has one beside the id and that is found: `web`; of a pod's, `NAMESPACE/POD/CONTAINER`.
    pub name: Option<String>,
    /// Its first process, as the host's `/proc` numbers it.
    pub pid: u32,
    /// Its cgroup, in the hierarchy that told it.
    pub cgroup: String,
    /// All its processes that are known, the first one too.
    pub pids: Vec<u32>,
}

impl Running {
    /// What to call it: its name, or its id, shortened as runtimes do.
    #[must_use]
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.short_id())
    }

    /// Its id, of which twelve digits are enough.
    #[must_use]
    pub fn short_id(&self) -> &str {
        let is_long = self.id.len() == 64 && self.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.id.get(..12).filter(|_| is_long).unwrap_or(&self.id)
    }
}

/// What is to be said of a process that may be the first one of a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It is in no container, or not in one of its own yet: it has the host's mounts.
    Outside,
    /// It is in a container that is still being set up.
    Starting,
    /// It is in a container that runs.
    Running(Running),
}

/// How long a runtime may take for setting a container up whose first process is never seen to run a program of its
/// own.
const SETTING_UP: Usec = Usec::from_secs(2);

/// What is to be said of one process.
enum Found {
    /// It has the mounts of the host, or is a process of the host that has its own.
    Outside,
    /// It is of a container, the first process or another one.
    Member(Box<Member>),
    /// It is in these cgroups, which may be those of a container that another process tells.
    Other(Vec<(String, String)>),
}

/// A process in a container.
struct Member {
    process: Process,
    runtime: Runtime,
    id: String,
    cgroup: String,
    started: Usec,
    ppid: u32,
    is_first: bool,
}

impl Host {
    /// All containers that run, in the order of their cgroups.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be listed. What ends meanwhile is left out.
    pub fn running(&self) -> Result<Vec<Running>> {
        let outside = self.mount_namespaces_of_host();
        let mut containers: BTreeMap<(String, String), Vec<Member>> = BTreeMap::new();
        let mut others = Vec::new();
        for name in self.list("/proc")? {
            let Ok(pid) = name.parse() else { continue };
            match self.member(pid, &outside) {
                Ok(Found::Member(member)) => {
                    let key = (member.cgroup.clone(), member.id.clone());
                    containers.entry(key).or_default().push(*member);
                }
                Ok(Found::Other(paths)) => others.push((pid, paths)),
                Ok(Found::Outside) | Err(_) => {}
            }
        }
        let now = self.boottime()?;
        let set_up = containers.into_values().filter_map(|mut members| {
            members.sort_by_key(|member| (!member.is_first, member.started, member.process.pid()));
            // Where the first process stays the runtime's, as LXC's init for a single command, another one tells.
            if !members.iter().any(|member| self.is_set_up(member, now).unwrap_or(false)) {
                return None;
            }
            let mut pids: Vec<u32> = members.iter().map(|member| member.process.pid()).collect();
            let first = members.into_iter().next()?;
            let is_below = |(_, path): &(String, String)| is_at_or_below(path, &first.cgroup);
            let below = others.iter().filter(|(_, paths)| paths.iter().any(is_below));
            pids.extend(below.map(|(pid, _)| *pid));
            Some(self.describe(first, pids))
        });
        Ok(set_up.collect())
    }

    /// Whether a process is in a container, and in which. Of a container that runs, it need not be the first process;
    /// the others are not looked for.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if it has ended.
    pub fn standing(&self, pid: u32) -> Result<Standing> {
        let Found::Member(member) = self.member(pid, &self.mount_namespaces_of_host())? else {
            return Ok(Standing::Outside);
        };
        if !self.is_set_up(&member, self.boottime()?)? {
            return Ok(Standing::Starting);
        }
        Ok(Standing::Running(self.describe(*member, vec![pid])))
    }

    /// Those whose mounts are the host's.
    fn mount_namespaces_of_host(&self) -> HashSet<Namespace> {
        let of = |pid: u32| Process::open(&self.root, pid).ok()?.namespace("mnt").ok()?;
        [1, std::process::id()].into_iter().filter_map(of).collect()
    }

    fn member(&self, pid: u32, outside: &HashSet<Namespace>) -> Result<Found> {
        let process = Process::open(&self.root, pid)?;
        let mounts = process.namespace("mnt")?;
        if mounts.is_none_or(|mounts| outside.contains(&mounts)) {
            return Ok(Found::Outside);
        }
        let mut text = Vec::new();
        let stat = process.stat(&self.root, &mut text)?;
        process.read(&self.root, "status", &mut text)?;
        let is_first = status_nspid(&text).is_some_and(|(pid, depth)| pid == 1 && depth > 1);
        process.read(&self.root, "cgroup", &mut text)?;
        let paths = paths(&text);
        let known = paths.iter().find_map(|(_, path)| container_path(path));
        let (runtime, id, cgroup) = match known {
            Some(known) => (known.runtime, known.id, known.path.to_owned()),
            None if !is_first => return Ok(Found::Other(paths)),
            None => {
                // Whoever has started it is not in its cgroup.
                let parent = self.paths_of(stat.ppid);
                let own = paths
                    .iter()
                    .find(|own| own.1 != "/" && !is_unit(&own.1) && !parent.contains(own));
                let Some((_, path)) = own else { return Ok(Found::Outside) };
                let id = path.rsplit('/').next().unwrap_or_default();
                (Runtime::Other, id.to_owned(), path.clone())
            }
        };
        let started = stat.starttime.usec();
        let ppid = stat.ppid;
        let member = Member { process, runtime, id, cgroup, started, ppid, is_first };
        Ok(Found::Member(Box::new(member)))
    }

    /// The cgroups of a process; none if it has ended.
    fn paths_of(&self, pid: u32) -> Vec<(String, String)> {
        let mut text = Vec::new();
        let read = Process::open(&self.root, pid)
            .and_then(|process| process.read(&self.root, "cgroup", &mut text));
        read.map_or_else(|_| Vec::new(), |()| paths(&text))
    }

    /// Whether the container that a process is in has all its mounts: the process runs a program that is in the
    /// container and not the runtime's, which is the last thing that a runtime does.
    fn is_set_up(&self, member: &Member, now: Usec) -> Result<bool> {
        let mut text = Vec::new();
        member.process.read(&self.root, "mountinfo", &mut text)?;
        let mounts: Vec<(u64, &str, &str)> = text
            .split(|&byte| byte == b'\n')
            .filter_map(|line| {
                let line = std::str::from_utf8(line).ok()?;
                let (front, back) = line.split_once(" - ")?;
                let mut words = front.split(' ');
                let id = words.next()?.parse().ok()?;
                Some((id, words.nth(3)?, back.split(' ').next()?))
            })
            .collect();
        if !mounts.iter().any(|(_, place, fstype)| (*place, *fstype) == ("/proc", "proc")) {
            return Ok(false);
        }
        let path = member.process.path("exe");
        let program = statx(rustix::fs::CWD, &path, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID);
        match program {
            // The runtime's own is in a mount of the host's, or nowhere.
            Ok(stat) if mounts.iter().any(|(id, ..)| *id == stat.stx_mnt_id) => return Ok(true),
            Err(Errno::NOENT | Errno::SRCH) => {
                return Err(Error::Gone { pid: member.process.pid() });
            }
            _ => {}
        }
        // Until it has a root of its own, what it has at /proc is a copy of the host's mount, which it leaves behind:
        // however long that takes.
        Ok(now.saturating_sub(member.started) > SETTING_UP && self.has_own_root(&member.process))
    }

    /// Whether a process has another root directory than the host's first one, and than this one.
    fn has_own_root(&self, process: &Process) -> bool {
        let root = |process: &Process| {
            let root = stat(process.path("root")).ok()?;
            Some((root.st_dev, root.st_ino))
        };
        let Some(own) = root(process) else { return false };
        // Some first processes keep theirs to themselves.
        let of = |pid: u32| Process::open(&self.root, pid).ok().and_then(|process| root(&process));
        [1, std::process::id()].into_iter().filter_map(of).all(|hosts| hosts != own)
    }

    fn describe(&self, member: Member, pids: Vec<u32>) -> Running {
        let (runtime, name) = self.keeper(&member).unwrap_or((member.runtime, None));
        Running {
            runtime,
            name: name.filter(|name| *name != member.id),
            id: member.id,
            pid: member.process.pid(),
            cgroup: member.cgroup,
            pids,
        }
    }

    /// What the process that watches over a container says of it: the runtime, and the container's name.
    fn keeper(&self, member: &Member) -> Option<(Runtime, Option<String>)> {
        let mut line = Vec::new();
        self.read_raw(&format!("/proc/{}/cmdline", member.ppid), &mut line)?;
        let line = String::from_utf8_lossy(&line);
        let arguments: Vec<&str> = line.split('\0').collect();
        let after = |option: &str| {
            let place = arguments.iter().position(|argument| *argument == option)?;
            arguments.get(place + 1).map(|value| (*value).to_owned())
        };
        let program = Path::new(arguments.first()?).file_name()?.to_str()?;
        match program {
            "conmon" => Some((member.runtime, after("-n").or_else(|| after("--name")))),
            program if program.starts_with("containerd-shim") => {
                let runtime = match after("-namespace").as_deref() {
                    Some("moby") => Runtime::Docker,
                    _ => Runtime::Containerd,
                };
                let config = format!("/proc/{}/cwd/../{}/config.json", member.ppid, member.id);
                Some((runtime, self.name_in_bundle(&config, member.ppid)))
            }
            _ => None,
        }
    }

    /// The name of a container, by the `config.json` of its bundle.
    fn name_in_bundle(&self, path: &str, keeper: u32) -> Option<String> {
        let mut text = Vec::new();
        self.read_raw(path, &mut text)?;
        let config: Value = serde_json::from_slice(&text).ok()?;
        let annotation = |key: &str| config.get("annotations")?.get(key)?.as_str();
        if let Some(name) = annotation("nerdctl/name") {
            return Some(name.to_owned());
        }
        if let (Some(namespace), Some(pod)) = (
            annotation("io.kubernetes.cri.sandbox-namespace"),
            annotation("io.kubernetes.cri.sandbox-name"),
        ) {
            let container = annotation("io.kubernetes.cri.container-name").unwrap_or("POD");
            return Some(format!("{namespace}/{pod}/{container}"));
        }
        // Docker's own files are beside the one that it binds over /etc/hostname.
        let mounts = config.get("mounts")?.as_array()?;
        let hostname = mounts.iter().find(|mount| {
            mount.get("destination").and_then(Value::as_str) == Some("/etc/hostname")
        })?;
        let dir = Path::new(hostname.get("source")?.as_str()?).parent()?.to_str()?;
        self.read_raw(&format!("/proc/{keeper}/root{dir}/config.v2.json"), &mut text)?;
        let config: Value = serde_json::from_slice(&text).ok()?;
        Some(config.get("Name")?.as_str()?.trim_start_matches('/').to_owned())
    }

    /// Reads a file that need not end with a newline.
    fn read_raw(&self, path: &str, text: &mut Vec<u8>) -> Option<()> {
        self.root.read(path, text).ok()
    }
}

/// The cgroups of a process, by the controllers of each hierarchy; the unified one first.
fn paths(membership: &[u8]) -> Vec<(String, String)> {
    let mut paths: Vec<_> = cgroup_membership(membership)
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
            Some((entry.hierarchy, text(entry.controllers)?, text(entry.path)?))
        })
        .collect();
    paths.sort();
    paths.into_iter().map(|(_, controllers, path)| (controllers, path)).collect()
}

/// Whether a cgroup is another one, or below it.
#[must_use]
pub fn is_at_or_below(path: &str, above: &str) -> bool {
    let rest = path.strip_prefix(above.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_below_others() {
        assert!(is_at_or_below("/a/b", "/a") && is_at_or_below("/a", "/a"));
        assert!(is_at_or_below("/a", "/") && is_at_or_below("/", "/"));
        assert!(!is_at_or_below("/ab", "/a") && !is_at_or_below("/", "/a"));
    }

    #[test]
    fn ids_are_shortened_and_names_are_not() {
        let named = |id: &str| Running {
            runtime: Runtime::Other,
            id: id.to_owned(),
            name: None,
            pid: 1,
            cgroup: String::new(),
            pids: vec![1],
        };
        assert_eq!(named(&"0c".repeat(32)).title(), "0c0c0c0c0c0c");
        assert_eq!(named("a-container-of-some-name").title(), "a-container-of-some-name");
        assert_eq!(named("x").short_id(), "x");
    }
}
