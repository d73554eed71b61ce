//! A capture: the files of a host that the view of one process is made from, as a tree of its own.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use cgview_core::{
    parse::pid_stat,
    snapshot::{Snapshot, Version},
    tree::{Dir, Entry, File, ProcFile},
    units::Ticks,
    view::Parts,
};

use crate::{
    caller::Caller,
    container::Container,
    error::{Error, Result},
    hierarchy::Hierarchy,
    host::Host,
    init::numbers,
    process::Process,
    tasks::sampled,
};

/// Files of `/proc` that say what kind of host it was.
const ABOUT: [&str; 2] = ["/proc/version", "/proc/cmdline"];

/// The lines of `/proc/PID/status` that are kept.
const STATUS: [&str; 6] = ["Name:", "State:", "Tgid:", "Pid:", "PPid:", "NSpid:"];

impl Host {
    /// Writes the files that the view of a process or thread is made from to `dir`, in the same places, so
    /// that [`Host::at`] that directory gives the same view for the same pid.
    ///
    /// These are the host's own files of the view, those of the container's cgroups and their ancestors,
    /// and what identity needs of the process, of its container's init, and of the tasks that are counted.
    /// Of processes nothing else is kept: no addresses, no arguments, no mounts but those of cgroups.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if `dir` is not empty or cannot be written to; else those of [`Host::caller`] and
    /// [`Container::sample`].
    pub fn capture(&self, tid: u32, dir: &Path) -> Result<()> {
        let capture = Capture::create(self, dir)?;
        let process = Process::open(&self.root, tid)?;
        let Caller { container, .. } = self.caller(tid)?;
        capture.hierarchies()?;
        capture.first_process()?;
        capture.process(&process)?;
        if let Some(pid) = container.init() {
            let init = Process::open(&self.root, pid)?;
            capture.process(&init)?;
            // Whose cgroup namespace the init has depends on the process that started it.
            let parent = init.stat(&self.root, &mut Vec::new())?.ppid;
            if parent > 1
                && let Ok(parent) = Process::open(&self.root, parent)
            {
                capture.process(&parent)?;
            }
        }
        capture.cgroups(&container)?;
        capture.tasks(&container)?;
        // The clock comes after what was counted until then.
        for path in ProcFile::ALL.map(ProcFile::path).into_iter().chain(ABOUT) {
            capture.copy(path)?;
        }
        capture.sysfs(Dir::Cpu)?;
        capture.sysfs(Dir::Node)
    }
}

/// Where a capture is written to, and from what.
struct Capture<'a> {
    host: &'a Host,
    dir: &'a Path,
}

impl<'a> Capture<'a> {
    fn create(host: &'a Host, dir: &'a Path) -> Result<Capture<'a>> {
        let write = |source| Error::Write { path: dir.into(), source };
        fs::create_dir_all(dir).map_err(write)?;
        if fs::read_dir(dir).map_err(write)?.next().is_some() {
            return Err(write(io::ErrorKind::DirectoryNotEmpty.into()));
        }
        Ok(Capture { host, dir })
    }

    /// The place of a host's path in the capture, with the directories above it.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let place = self.dir.join(path.trim_start_matches('/'));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)
                .map_err(|source| Error::Write { path: parent.into(), source })?;
        }
        Ok(place)
    }

    fn write(&self, path: &str, text: &[u8]) -> Result<()> {
        let place = self.place(path)?;
        fs::write(&place, text).map_err(|source| Error::Write { path: place, source })
    }

    fn link(&self, path: &str, target: &str) -> Result<()> {
        let place = self.place(path)?;
        match symlink(target, &place) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::Write { path: place, source })
            }
            _ => Ok(()),
        }
    }

    /// Copies a file of the host. One that the host does not have, or that cannot be read there, is missing
    /// from the capture too.
    fn copy(&self, path: &str) -> Result<()> {
        let mut text = Vec::new();
        match self.host.read(path, &mut text) {
            Ok(()) => self.write(path, &text),
            Err(_) => Ok(()),
        }
    }

    /// The mount points, with the files by which they are known.
    fn hierarchies(&self) -> Result<()> {
        let mut mountinfo = String::new();
        for (id, hierarchy) in (100..).zip(self.host.hierarchies()) {
            mountinfo.push_str(&mount_line(id, hierarchy, hierarchy.mount_root()));
            let at = |name: &str| format!("{}/{name}", hierarchy.mount_point());
            self.write(&at("cgroup.procs"), b"")?;
            match hierarchy.version() {
                Version::V1 if hierarchy.top => self.write(&at("release_agent"), b"\n")?,
                Version::V1 => {}
                Version::V2 => {
                    self.copy(&at("cgroup.controllers"))?;
                    if !hierarchy.top {
                        self.copy(&at("cgroup.type"))?;
                    }
                }
            }
        }
        self.write("/proc/1/mountinfo", mountinfo.as_bytes())
    }

    /// The namespaces of the host, by those of its first process.
    fn first_process(&self) -> Result<()> {
        for (name, namespace) in
            [("pid", self.host.pid_namespace), ("cgroup", self.host.cgroup_namespace)]
        {
            if let Some(namespace) = namespace {
                let target = format!("{name}:[{}]", namespace.0);
                self.link(&format!("/proc/1/ns/{name}"), &target)?;
            }
        }
        if let Ok(first) = Process::open(&self.host.root, 1) {
            self.write_stat(&first)?;
        }
        Ok(())
    }

    /// What identity needs of a process.
    fn process(&self, process: &Process) -> Result<()> {
        let root = &self.host.root;
        let mut text = Vec::new();
        process.read(root, "cgroup", &mut text)?;
        let paths = self.host.absolute_paths(process.pid(), &text)?;
        self.write(
            &process.path("cgroup"),
            membership(self.host.hierarchies(), &paths).as_bytes(),
        )?;
        self.write_stat(process)?;

        let namespaces = self.host.namespaces_of(process)?;
        let namespace = namespaces.cgroup;
        if process.pid() != 1 {
            for name in ["pid", "cgroup", "time", "time_for_children"] {
                if let Some(namespace) = process.namespace(name)? {
                    let kind = name.trim_end_matches("_for_children");
                    let target = format!("{kind}:[{}]", namespace.0);
                    self.link(&process.path(&format!("ns/{name}")), &target)?;
                }
            }
            // A captured namespace cannot be entered: its root is told by what is mounted in it.
            let mut mountinfo = String::new();
            if let Some(namespace) = namespace
                && Some(namespace) != self.host.cgroup_namespace
            {
                let roots = self.host.namespace_roots(process, namespace, &paths);
                for (id, (hierarchy, path)) in
                    (100..).zip(self.host.hierarchies().iter().zip(roots.iter()))
                {
                    if let Some(path) = path {
                        mountinfo.push_str(&mount_line(id, hierarchy, path));
                    }
                }
            }
            self.write(&process.path("mountinfo"), mountinfo.as_bytes())?;
        }
        let offsets = self.host.timens(process, namespaces.time, &mut text)?;
        let (seconds, rest) =
            (offsets.boottime.div_euclid(1_000_000), offsets.boottime.rem_euclid(1_000_000));
        let offsets = format!("boottime {seconds} {}\n", rest.saturating_mul(1000));
        self.write(&process.path("timens_offsets"), offsets.as_bytes())
    }

    /// `stat` up to the start of the process, and a few lines of `status`.
    fn write_stat(&self, process: &Process) -> Result<()> {
        let mut text = Vec::new();
        process.read(&self.host.root, "stat", &mut text)?;
        self.write(&process.path("stat"), short_stat(&text).as_bytes())?;
        process.read(&self.host.root, "status", &mut text)?;
        self.write(&process.path("status"), short_status(&text).as_bytes())
    }

    /// The files of all levels that a sample reads, and the lists of processes of the container.
    fn cgroups(&self, container: &Container) -> Result<()> {
        container.sample(self.host, Parts::ALL, &mut Snapshot::default())?;
        let mut text = Vec::new();
        let at = self.host.access()?;
        for hierarchy in 0..self.host.hierarchies().len() {
            for (level, dir) in container.levels(self.host, hierarchy)?.iter().enumerate() {
                let place = self.place(&dir.path_of("any"))?;
                debug_assert!(place.parent().is_some_and(Path::is_dir));
                for name in dir.known_files() {
                    if dir.read(&at, &name, &mut text)? {
                        self.write(&dir.path_of(&name), &text)?;
                    }
                }
                if level == 0 && dir.read_list(&at, "cgroup.procs", &mut text)? {
                    self.write(&dir.path_of("cgroup.procs"), &text)?;
                }
            }
        }
        Ok(())
    }

    /// The lists of tasks of the container and all below it, and the state of those that a count asks.
    fn tasks(&self, container: &Container) -> Result<()> {
        let mut tids = Vec::new();
        let Some(lists) = container.task_lists(self.host)? else { return Ok(()) };
        for (path, text) in &lists {
            self.write(path, text)?;
            tids.extend(numbers(text));
            if let Some((dir, _)) = path.rsplit_once('/') {
                self.copy(&format!("{dir}/cgroup.procs"))?;
            }
        }
        let mut newest: Option<(Ticks, u32)> = None;
        let mut text = Vec::new();
        for tid in sampled(&tids) {
            let path = format!("/proc/{tid}/task/{tid}/stat");
            if self.host.read(&path, &mut text).is_ok() {
                newest = newest.max(pid_stat(&text).ok().map(|stat| (stat.starttime, tid)));
                self.write(&path, short_stat(&text).as_bytes())?;
            }
        }
        if let Some((_, tid)) = newest {
            let path = format!("/proc/{tid}/status");
            if self.host.read(&path, &mut text).is_ok() {
                self.write(&path, short_status(&text).as_bytes())?;
            }
        }
        Ok(())
    }

    /// Copies what the tables of the view have of a directory of sysfs.
    fn sysfs(&self, dir: Dir) -> Result<()> {
        let path = Entry::Dir(dir).path();
        let Ok(names) = self.host.list(&path) else { return Ok(()) };
        for name in names {
            match dir.child(name.as_bytes()) {
                Some(entry @ Entry::File(File::Sys(_))) => self.copy(&entry.path())?,
                Some(entry @ Entry::Link(link)) => self.link(&entry.path(), &link.target())?,
                Some(Entry::Dir(below)) => self.sysfs(below)?,
                Some(Entry::File(File::Proc(_))) | None => {}
            }
        }
        Ok(())
    }
}

/// A line of `mountinfo`.
fn mount_line(id: u32, hierarchy: &Hierarchy, root: &str) -> String {
    let escape = |path: &str| {
        path.bytes().fold(String::new(), |mut text, byte| {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' => text.push_str(&format!("\\{byte:03o}")),
                byte => text.push(char::from(byte)),
            }
            text
        })
    };
    let (kind, options) = match hierarchy.version() {
        Version::V1 => {
            let bare = if hierarchy.bare_names { ",noprefix" } else { "" };
            ("cgroup", format!("rw,{}{bare}", hierarchy.controllers().join(",")))
        }
        Version::V2 => ("cgroup2", "rw".into()),
    };
    format!(
        "{id} 1 0:{id} {} {} rw - {kind} {kind} {options}\n",
        escape(root),
        escape(hierarchy.mount_point()),
    )
}

/// The text of a `/proc/PID/cgroup`, as seen from the host's cgroup namespace.
fn membership(hierarchies: &[Hierarchy], paths: &[Option<String>]) -> String {
    let mut text = String::new();
    for (number, (hierarchy, path)) in (1..).zip(hierarchies.iter().zip(paths)) {
        let Some(path) = path else { continue };
        match hierarchy.version() {
            Version::V1 => {
                let controllers = hierarchy.controllers().join(",");
                text.push_str(&format!("{number}:{controllers}:{path}\n"));
            }
            Version::V2 => text.push_str(&format!("0::{path}\n")),
        }
    }
    text
}

/// The first 22 fields of a `stat`.
fn short_stat(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let Some((name, rest)) = text.rsplit_once(") ") else { return text.into_owned() };
    let fields: Vec<&str> = rest.split_whitespace().take(20).collect();
    format!("{name}) {}\n", fields.join(" "))
}

fn short_status(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .filter(|line| STATUS.iter().any(|name| line.starts_with(name)))
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_cut_behind_the_start() {
        let text = b"7 (my) init) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 100 1 2\n";
        let short = short_stat(text);
        assert_eq!(short, "7 (my) init) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242\n");
        assert_eq!(pid_stat(short.as_bytes()), pid_stat(text));
    }

    #[test]
    fn a_status_keeps_what_identity_needs() {
        let text = b"Name:\ta\nUmask:\t0022\nState:\tS (sleeping)\nNSpid:\t70\t7\nVmPeak:\t1 kB\n";
        assert_eq!(short_status(text), "Name:\ta\nState:\tS (sleeping)\nNSpid:\t70\t7\n");
    }
}
