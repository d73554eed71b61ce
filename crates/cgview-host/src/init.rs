//! The init of a pid namespace: who it is, and which cgroup it makes the container.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use cgview_core::{
    parse::{ParseError, status_nspid},
    units::Usec,
};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::{
    budget::Token,
    error::{Error, Result},
    hierarchy::parent,
    host::Host,
    ioctl,
    namespace::Paths,
    process::{Namespace, Process},
    root::{check_whole, read_once},
};

/// How long the cgroup namespace of an init is taken to be what it was. It changes while a runtime sets a
/// container up, and hardly ever after.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// How many descriptors are kept of an init.
const OF_AN_INIT: usize = 2;

/// How many ancestors of a process are looked at for the init.
const PARENTS: usize = 64;

/// The names of cgroups that only host an init: systemd's, that of Docker in Docker and kind, LXC's and
/// supervise's.
const INIT_LEAVES: [&str; 4] = ["init.scope", "init", ".lxc", "supervise"];

/// Where there are no descriptors for another init, those that have ended are looked for no oftener.
const SWEEP: Duration = Duration::from_secs(10);

/// The inits that are known, by their pid namespaces.
#[derive(Debug, Default)]
pub(crate) struct Inits {
    known: Mutex<HashMap<Namespace, Arc<Init>>>,
    /// When those that have ended were forgotten last.
    swept: Mutex<Option<Instant>>,
}

/// The init of a pid namespace.
#[derive(Debug)]
pub(crate) struct Init {
    process: Process,
    started: Usec,
    /// How many pid namespaces deep its own is: the place of that namespace's pids in `NSpid`.
    depth: usize,
    membership: OwnedFd,
    home: Mutex<Home>,
    token: Option<Token>,
}

/// The cgroups that an init makes the container's.
#[derive(Debug)]
struct Home {
    text: Box<[u8]>,
    checked: Instant,
    namespaces: Option<Namespace>,
    paths: Paths,
}

impl Init {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn started(&self) -> Usec {
        self.started
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    fn open(host: &Host, process: Process) -> Result<Init> {
        let mut text = Vec::new();
        let started = process.started(&host.root, &mut text)?;
        process.read(&host.root, "status", &mut text)?;
        let no_depth = || ParseError::new(1, "NSpid", &text);
        let depth = status_nspid(&text).ok_or_else(no_depth);
        let (_, depth) = depth.map_err(|source| Error::parse(process.path("status"), source))?;
        let membership = process.open_file(&host.root, "cgroup")?;
        let home = Home {
            text: Box::default(),
            checked: Instant::now(),
            namespaces: None,
            paths: Arc::new([]),
        };
        Ok(Init {
            process,
            started,
            depth,
            membership,
            home: Mutex::new(home),
            token: host.budget.inits.take(OF_AN_INIT),
        })
    }

    /// The cgroups that make the container, in each hierarchy.
    ///
    /// They are the init's own; but where it was given a cgroup namespace of its own, that namespace's
    /// root, since such an init may move itself to a cgroup further down.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if the init ended, and with it its pid namespace.
    pub(crate) fn paths(&self, host: &Host) -> Result<Paths> {
        let mut text = Vec::new();
        read_once(self.membership.as_fd(), &mut text).map_err(|errno| match errno {
            Errno::SRCH => Error::Gone { pid: self.pid() },
            errno => Error::read(self.process.path("cgroup"), errno),
        })?;
        check_whole(&text).map_err(|source| Error::parse(self.process.path("cgroup"), source))?;
        let (namespaces, paths) = {
            let home = self.home.lock();
            let same = *text == *home.text;
            if same && home.checked.elapsed() < TRUSTED_FOR {
                return Ok(home.paths.clone());
            }
            (home.namespaces, Some(home.paths.clone()).filter(|paths| same && !paths.is_empty()))
        };
        // The kernel is asked without the lock: other readers of the container have what was found before.
        let checked = Instant::now();
        let own = self.own_cgroup_namespace(host)?;
        let paths = match paths.filter(|_| own == namespaces) {
            Some(paths) => paths,
            None => {
                let paths = host.absolute_paths(self.pid(), &text)?;
                let roots = own.map(|own| host.namespace_roots(&self.process, own, &paths));
                let root =
                    |index: usize| roots.as_ref().and_then(|roots| roots.get(index)?.clone());
                let cut =
                    |path: &Option<String>| path.as_deref().map(|path| cut_leaf(path).to_owned());
                paths
                    .iter()
                    .enumerate()
                    .map(|(index, path)| root(index).or_else(|| cut(path)))
                    .collect()
            }
        };
        let mut home = self.home.lock();
        if home.checked <= checked {
            // The buffer has room for far more.
            let text = text.into_boxed_slice();
            *home = Home { text, checked, namespaces: own, paths: Paths::clone(&paths) };
        }
        Ok(paths)
    }

    /// The init's cgroup namespace, if it was made for this container: it is neither the host's nor that
    /// of the process that started the init. (A container in a container may have its pid namespace for
    /// itself and share the outer one's cgroup namespace.)
    fn own_cgroup_namespace(&self, host: &Host) -> Result<Option<Namespace>> {
        let Some(own) = self.process.namespace("cgroup")? else { return Ok(None) };
        if Some(own) == host.cgroup_namespace {
            return Ok(None);
        }
        let ppid = self.process.stat(&host.root, &mut Vec::new())?.ppid;
        let outer = match ppid {
            // Not visible from here.
            0 => return Ok(None),
            1 => host.cgroup_namespace,
            _ => match Process::open(&host.root, ppid) {
                Ok(parent) => parent.namespace("cgroup").ok().flatten(),
                Err(_) => None,
            },
        };
        Ok((outer.is_some() && outer != Some(own)).then_some(own))
    }
}

/// Cuts off a last name that only hosts an init.
fn cut_leaf(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    if INIT_LEAVES.contains(&name) { parent(path).unwrap_or(path) } else { path }
}

impl Inits {
    /// The init of the pid namespace that `member` is in, with the cgroups that make the container.
    ///
    /// `None` if there is none to be found: it may have no pid in this host's `/proc`.
    pub(crate) fn of(
        &self,
        host: &Host,
        namespace: Namespace,
        member: &Process,
        cgroups: &[Option<String>],
    ) -> Result<Option<(Arc<Init>, Paths)>> {
        let known = self.known.lock().get(&namespace).cloned();
        if let Some(init) = known {
            match init.paths(host) {
                Ok(paths) => return Ok(Some((init, paths))),
                // The namespace's number now belongs to another one.
                Err(Error::Gone { .. }) => self.forget(namespace, &init),
                Err(error) => return Err(error),
            }
        }
        let Some(process) = find(host, namespace, member, cgroups)? else { return Ok(None) };
        let mut init = Init::open(host, process)?;
        if init.token.is_none() && self.swept.lock().is_none_or(|at| at.elapsed() >= SWEEP) {
            self.sweep();
            init.token = host.budget.inits.take(OF_AN_INIT);
        }
        let init = Arc::new(init);
        let paths = init.paths(host)?;
        if init.token.is_some() {
            self.known.lock().insert(namespace, init.clone());
        }
        Ok(Some((init, paths)))
    }

    /// Forgets those that have ended. Their descriptors are for others then.
    pub(crate) fn sweep(&self) {
        *self.swept.lock() = Some(Instant::now());
        let known: Vec<_> =
            self.known.lock().iter().map(|(&of, init)| (of, init.clone())).collect();
        for (of, init) in known.into_iter().filter(|(_, init)| !init.is_alive()) {
            self.forget(of, &init);
        }
    }

    fn forget(&self, namespace: Namespace, init: &Arc<Init>) {
        let mut inits = self.known.lock();
        if inits.get(&namespace).is_some_and(|known| Arc::ptr_eq(known, init)) {
            inits.remove(&namespace);
        }
    }
}

impl Init {
    fn is_alive(&self) -> bool {
        let mut byte = [0];
        rustix::io::pread(&self.membership, &mut byte, 0).is_ok()
    }
}

/// Finds the init of a pid namespace, by the cheapest way that works here.
fn find(
    host: &Host,
    namespace: Namespace,
    member: &Process,
    cgroups: &[Option<String>],
) -> Result<Option<Process>> {
    let ways: [&dyn Fn() -> Result<Option<Process>>; 4] = [
        &|| Ok(by_kernel(host, namespace, member)),
        &|| by_parents(host, namespace, member),
        &|| by_cgroups(host, namespace, cgroups),
        &|| by_scan(host, namespace),
    ];
    for way in ways {
        if let Some(init) = way()? {
            return Ok(Some(init));
        }
    }
    Ok(None)
}

/// Asks the kernel (since Linux 6.11).
fn by_kernel(host: &Host, namespace: Namespace, member: &Process) -> Option<Process> {
    if !host.procfs || !host.own_pids {
        return None;
    }
    let fd = member.open_namespace("pid").ok()?;
    let pid = ioctl::init_of_pid_namespace(fd).ok()?;
    checked(host, namespace, pid)
}

/// Climbs from a process to its parents. A process that entered the namespace from outside has a parent
/// that is not in it.
fn by_parents(host: &Host, namespace: Namespace, member: &Process) -> Result<Option<Process>> {
    let mut text = Vec::new();
    let mut pid = member.pid();
    for _ in 0..PARENTS {
        let Ok(process) = Process::open(&host.root, pid) else { return Ok(None) };
        if process.namespace("pid").ok().flatten() != Some(namespace) {
            return Ok(None);
        }
        if is_init(host, &process) {
            return Ok(Some(process));
        }
        match process.stat(&host.root, &mut text) {
            Ok(stat) => pid = stat.ppid,
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// Looks through the cgroups of a process: those below, its own, and then those above.
fn by_cgroups(
    host: &Host,
    namespace: Namespace,
    cgroups: &[Option<String>],
) -> Result<Option<Process>> {
    // Where it is deepest, there are the fewest others.
    let Some((index, path)) = cgroups
        .iter()
        .enumerate()
        .filter_map(|(index, path)| Some((index, path.as_deref()?)))
        .max_by_key(|(_, path)| path.matches('/').count())
    else {
        return Ok(None);
    };
    let mut at = Some(path);
    let mut first = true;
    while let Some(path) = at {
        let Some(hierarchy) = host.hierarchies.get(index) else { return Ok(None) };
        let Some(dir) = hierarchy.dir(path) else { return Ok(None) };
        let mut pids = Vec::new();
        let mut dirs = vec![dir];
        while let Some(dir) = dirs.pop() {
            let mut text = Vec::new();
            if host.root.read(&format!("{dir}/cgroup.procs"), &mut text).is_ok() {
                pids.extend(numbers(&text));
            }
            // Those below the ancestors are other containers' for the most part, and left to the scan.
            if first && dirs.len() < SUBTREE {
                let names = host.root.list_dirs(&dir).unwrap_or_default();
                dirs.extend(names.into_iter().map(|name| format!("{dir}/{name}")));
            }
        }
        if let Some(init) = pids.into_iter().find_map(|pid| checked(host, namespace, pid)) {
            return Ok(Some(init));
        }
        first = false;
        at = parent(path);
    }
    Ok(None)
}

/// How many cgroups below a process's own are looked through for its init.
const SUBTREE: usize = 1024;

/// Looks through all of `/proc`.
fn by_scan(host: &Host, namespace: Namespace) -> Result<Option<Process>> {
    let names = host.list("/proc")?;
    let pids = names.iter().filter_map(|name| name.parse().ok());
    Ok(pids.into_iter().find_map(|pid| checked(host, namespace, pid)))
}

/// The process of that pid, if it is the init of the namespace.
fn checked(host: &Host, namespace: Namespace, pid: u32) -> Option<Process> {
    let process = Process::open(&host.root, pid).ok()?;
    let same = process.namespace("pid").ok().flatten() == Some(namespace);
    (same && is_init(host, &process)).then_some(process)
}

/// Whether a process is number 1 in its own pid namespace.
fn is_init(host: &Host, process: &Process) -> bool {
    let mut text = Vec::new();
    process.read(&host.root, "status", &mut text).is_ok()
        && matches!(status_nspid(&text), Some((1, _)))
}

/// The numbers in a list of pids, one on each line.
pub(crate) fn numbers(text: &[u8]) -> impl Iterator<Item = u32> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgview_testkit::{FakeHost, FakeProcess, Namespaces, Spawn, Tree, pause};

    #[test]
    fn leaves_that_only_host_an_init_are_cut() {
        assert_eq!(cut_leaf("/ct/init.scope"), "/ct");
        assert_eq!(cut_leaf("/docker/1f3c/init"), "/docker/1f3c");
        assert_eq!(cut_leaf("/lxc.payload.a/.lxc"), "/lxc.payload.a");
        assert_eq!(cut_leaf("/init.scope"), "/");
        assert_eq!(cut_leaf("/docker/initial"), "/docker/initial");
        assert_eq!(cut_leaf("/"), "/");
    }

    const NAMESPACE: u64 = 4_026_532_100;

    fn process(pid: u32, ppid: u32, nspid: &[u32], cgroup: &'static str) -> FakeProcess<'static> {
        let nspid = nspid.to_vec().leak();
        let pid_namespace = NAMESPACE;
        FakeProcess { pid, ppid, nspid, cgroup, pid_namespace, ..FakeProcess::default() }
    }

    /// Which of the ways finds the init of 300, in cgroup `/ct/app`.
    fn ways(fake: &FakeHost) -> [bool; 3] {
        let host = Host::at(fake.path()).unwrap();
        let namespace = Namespace(NAMESPACE);
        let member = Process::open(&host.root, 300).unwrap();
        assert!(by_kernel(&host, namespace, &member).is_none(), "a copied link leads nowhere");
        let cgroups = [Some("/ct/app".into())];
        let found = [
            by_parents(&host, namespace, &member).unwrap(),
            by_cgroups(&host, namespace, &cgroups).unwrap(),
            by_scan(&host, namespace).unwrap(),
        ];
        for init in found.iter().flatten() {
            assert_eq!(init.pid(), 200);
        }
        found.map(|init| init.is_some())
    }

    #[test]
    fn each_way_finds_the_inits_within_its_reach() {
        let mut fake = FakeHost::new();
        fake.mount_v2("/sys/fs/cgroup").file("/sys/fs/cgroup/ct/app/cgroup.procs", "300\n250\n");
        // Both 1 of their namespaces, but of others.
        fake.file("/sys/fs/cgroup/ct/cgroup.procs", "1\n40\n");
        fake.process(&FakeProcess { pid_namespace: 7, ..process(40, 1, &[40, 1], "") });
        fake.process(&process(50, 1, &[50, 2], "")).link("/proc/50/ns/pid", "pid:[4026531836]");
        fake.process(&process(250, 300, &[250, 8], "0::/ct/app\n"));
        // Started from outside, as by `docker exec`.
        fake.process(&process(300, 50, &[300, 7], "0::/ct/app\n"));
        assert_eq!(ways(&fake), [false, false, false], "there is none");

        fake.process(&process(200, 50, &[200, 1], ""));
        assert_eq!(ways(&fake), [false, false, true]);
        for list in [
            "/ct/app/a/b/cgroup.procs",
            "/ct/app/cgroup.procs",
            "/ct/cgroup.procs",
            "/cgroup.procs",
        ] {
            let path = format!("/sys/fs/cgroup{list}");
            fake.file(&path, "50\n200\n");
            assert_eq!(ways(&fake), [false, true, true], "{list}");
            fake.file(&path, "50\n");
        }
        fake.process(&process(250, 200, &[250, 8], "")).process(&process(300, 250, &[300, 9], ""));
        assert_eq!(ways(&fake), [true, false, true]);
    }

    // ct          pid
    // └─ exec     entered, as by `docker exec`
    #[test]
    fn the_kernel_and_the_searches_find_the_same() {
        let Some(tree) = Tree::new() else { return };
        let (ct, below) = (tree.bare_cgroup("ct"), tree.bare_cgroup("ct/exec"));
        let init = Spawn::new().cgroup(&ct).new_namespaces(Namespaces::NEWPID).run(pause);
        let exec = Spawn::new().cgroup(&below).join(&init, &["pid"]).run(pause);
        let host = Host::live().unwrap();
        let found = |process: Option<Process>| process.map(|process| process.pid());
        let of = |pid| {
            let member = Process::open(&host.root, pid).unwrap();
            let namespace = member.namespace("pid").unwrap().unwrap();
            let mut text = Vec::new();
            member.read(&host.root, "cgroup", &mut text).unwrap();
            let cgroups = host.absolute_paths(pid, &text).unwrap();
            let asked = member.open_namespace("pid").unwrap();
            let new = ioctl::init_of_pid_namespace(asked) != Err(Errno::NOTTY);
            [
                if new { found(by_kernel(&host, namespace, &member)) } else { Some(init.pid()) },
                found(by_parents(&host, namespace, &member).unwrap()),
                found(by_cgroups(&host, namespace, &cgroups).unwrap()),
                found(by_scan(&host, namespace).unwrap()),
            ]
        };
        assert_eq!(of(init.pid()), [Some(init.pid()); 4]);
        let expected = [Some(init.pid()), None, Some(init.pid()), Some(init.pid())];
        assert_eq!(of(exec.pid()), expected);
    }
}
