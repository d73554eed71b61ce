//! The tasks of a container: how many there are, and how many of them are active.

use cgview_core::{
    parse::{ParseError, pid_stat},
    snapshot::{Controller, Tasks, Version},
    units::Usec,
};

use crate::{
    cgroup::{Access, CgroupDir},
    container::{Container, Task},
    error::{Error, Result},
    host::Host,
    init::numbers,
    process::Process,
};

/// How many tasks are asked for their state in one pass. Of more, an even sample is.
pub const TASK_BUDGET: usize = 1024;

/// A list of tasks: its path, and its text.
pub(crate) type TaskList = (String, Vec<u8>);

/// How many cgroups below a container are visited in one pass.
const CGROUPS: usize = 4096;

/// How many processes are looked at for the oldest.
const PROCESSES: usize = 4096;

impl Host {
    /// The hierarchy by whose cgroups a container's tasks are found: one in which it has a cgroup of its
    /// own. On a hybrid host the unified hierarchy comes last, since not all runtimes use it there.
    fn task_hierarchy(&self, paths: &[Option<String>]) -> Option<usize> {
        let controllers = [
            Controller::Pids,
            Controller::Memory,
            Controller::Cpu,
            Controller::Cpuacct,
            Controller::Cpuset,
            Controller::Io,
            Controller::Pressure,
        ];
        controllers.into_iter().filter_map(|controller| self.hierarchies.of(controller)).find(
            |&index| {
                let path = paths.get(index).and_then(Option::as_ref);
                let hierarchy = self.hierarchies.get(index);
                hierarchy.zip(path).is_some_and(|(hierarchy, path)| !hierarchy.is_top(path))
            },
        )
    }

    /// Calls `visit` with a list of pids, and the directory that it is of: a cgroup's, and then those of all
    /// cgroups below it, until it returns false.
    fn walk(
        &self,
        at: &Access<'_>,
        top: &CgroupDir,
        name: &str,
        mut visit: impl FnMut(&str, &[u8]) -> bool,
    ) -> Result<()> {
        let mut text = Vec::new();
        if top.read_list(at, name, &mut text)? && !visit(top.path(), &text) {
            return Ok(());
        }
        let mut dirs = Vec::new();
        if top.may_have_children() {
            dirs.push(top.path().to_owned());
        }
        let mut left = CGROUPS;
        while let Some(dir) = dirs.pop() {
            // A cgroup that is removed meanwhile has no tasks.
            for child in self.root.list_dirs(&dir).unwrap_or_default() {
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
                let child = format!("{dir}/{child}");
                if self.root.read(&format!("{child}/{name}"), &mut text).is_ok()
                    && !visit(&child, &text)
                {
                    return Ok(());
                }
                dirs.push(child);
            }
        }
        Ok(())
    }
}

impl Container {
    /// Counts the tasks in state R and D of the container and all below it, at any depth.
    ///
    /// The cost is bounded: at most [`TASK_BUDGET`] tasks are asked for their state. Where there are more,
    /// they are an even sample, and the counts are scaled up.
    ///
    /// # Errors
    ///
    /// [`Vanished`](crate::Error::Vanished) if the cgroup was removed, and
    /// [`Read`](crate::Error::Read).
    pub fn active_tasks(&self, host: &Host) -> Result<Tasks> {
        let mut tids: Vec<u32> = Vec::new();
        let (mut wrong, mut listed) = (None, false);
        let walked = self.walk_tasks(host, |dir, text| {
            listed = true;
            let before = tids.len();
            tids.extend(numbers(text));
            let lines = text.iter().filter(|&&byte| byte == b'\n').count();
            if tids.len() - before != lines {
                wrong = Some((dir.to_owned(), ParseError::new(1, "a list of tasks", text)));
            }
        })?;
        match (wrong, walked) {
            (Some((dir, source)), Some(name)) => Err(Error::parse(format!("{dir}/{name}"), source)),
            // Whoever asks is one.
            (_, Some(name)) if listed && tids.is_empty() => {
                Err(Error::parse(name, ParseError::new(1, "a task", b"")))
            }
            (_, Some(_)) => self.count(host, &tids),
            (_, None) => all_tasks(host),
        }
    }

    /// The paths and texts of the lists that [`Container::active_tasks`] reads; `None` for the host.
    pub(crate) fn task_lists(&self, host: &Host) -> Result<Option<Vec<TaskList>>> {
        let mut lists = Vec::new();
        let walked =
            self.walk_tasks(host, |dir, text| lists.push((dir.to_owned(), text.to_vec())))?;
        Ok(walked.map(|name| {
            lists.into_iter().map(|(dir, text)| (format!("{dir}/{name}"), text)).collect()
        }))
    }

    /// Calls `visit` with the directory and the text of each list of tasks, and gives the name of the lists.
    /// `None` if the container has no cgroup of its own, being the host.
    fn walk_tasks(
        &self,
        host: &Host,
        mut visit: impl FnMut(&str, &[u8]),
    ) -> Result<Option<&'static str>> {
        let Some(index) = host.task_hierarchy(self.paths()) else { return Ok(None) };
        let levels = self.levels(host, index)?;
        let Some(top) = levels.first() else { return Ok(None) };
        let name = match top.version() {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        };
        host.walk(&host.access()?, top, name, |dir, text| {
            visit(dir, text);
            true
        })?;
        Ok(Some(name))
    }

    fn count(&self, host: &Host, tids: &[u32]) -> Result<Tasks> {
        let mut text = Vec::new();
        let (mut running, mut blocked, mut seen) = (0, 0, 0);
        let mut newest: Option<Task> = None;
        for tid in sampled(tids) {
            // The one thread's file: that of the process sums up the times of all of its threads.
            let path = format!("/proc/{tid}/task/{tid}/stat");
            match host.read(&path, &mut text) {
                // It ended.
                Err(Error::Read { .. }) => continue,
                read => read?,
            }
            let stat = pid_stat(&text).map_err(|source| Error::parse(&path, source))?;
            seen += 1;
            match stat.state {
                b'R' => running += 1,
                b'D' => blocked += 1,
                _ => {}
            }
            newest = newest.max(Some((stat.starttime, tid)));
        }
        let total = tids.len() as u64;
        let scale = |count: u64| {
            let whole = tids.len() <= TASK_BUDGET || seen == 0;
            if whole { count } else { (count * total + seen / 2) / seen }
        };
        let last_pid = match newest {
            Some(newest) => self.inner_pid(host, newest, &mut text)?,
            None => 0,
        };
        Ok(Tasks { running: scale(running), blocked: scale(blocked), total, last_pid })
    }

    /// The number of the newest task in the container's own pid namespace: the field of `NSpid` as deep as that is.
    fn inner_pid(&self, host: &Host, newest: Task, text: &mut Vec<u8>) -> Result<u64> {
        if let Some((known, pid)) = *self.newest.lock()
            && known == newest
        {
            return Ok(pid);
        }
        let (_, tid) = newest;
        let path = format!("/proc/{tid}/status");
        match host.read(&path, text) {
            Err(Error::Read { .. }) => return Ok(0),
            read => read?,
        }
        let pids = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"));
        let bad = || Error::parse(&path, ParseError::new(1, "NSpid", text));
        let pids = pids.and_then(|pids| std::str::from_utf8(pids).ok()).ok_or_else(bad)?;
        let own = pids.split_whitespace().take(self.depth()).last();
        let pid: u32 = own.and_then(|pid| pid.parse().ok()).ok_or_else(bad)?;
        *self.newest.lock() = Some((newest, pid.into()));
        Ok(pid.into())
    }
}

/// The tasks that are asked for their state: all of them, or an even sample and the one with the highest
/// number, which is the newest one's until numbers begin again.
pub(crate) fn sampled(tids: &[u32]) -> impl Iterator<Item = u32> {
    let (total, count) = (tids.len(), tids.len().min(TASK_BUDGET));
    let sample = (0..count).filter_map(move |index| tids.get(index * total / count));
    sample.chain(tids.iter().max().filter(move |_| count < total)).copied()
}

/// The tasks of the host, which counts them itself: `/proc/loadavg` and `/proc/stat`.
fn all_tasks(host: &Host) -> Result<Tasks> {
    let mut text = Vec::new();
    host.read("/proc/loadavg", &mut text)?;
    let loadavg = String::from_utf8_lossy(&text).into_owned();
    let mut words = loadavg.split_whitespace().skip(3);
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).unwrap_or(0);
    let (running, total) = words.next().and_then(|word| word.split_once('/')).unwrap_or_default();
    let last_pid = number(words.next());
    host.read("/proc/stat", &mut text)?;
    let blocked = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| std::str::from_utf8(line.strip_prefix(b"procs_blocked ")?).ok());
    Ok(Tasks {
        running: number(Some(running)),
        blocked: number(blocked),
        total: number(Some(total)),
        last_pid,
    })
}

/// The start of the oldest process in a container's cgroups.
pub(crate) fn oldest(host: &Host, paths: &[Option<String>]) -> Result<Option<Usec>> {
    let Some(index) = host.task_hierarchy(paths) else { return Ok(None) };
    let path = paths.get(index).and_then(Option::as_deref).unwrap_or("/");
    let Some(top) = host.cgroup(index, path)? else { return Ok(None) };
    let mut left = PROCESSES;
    let mut stat = Vec::new();
    let mut oldest: Option<Usec> = None;
    host.walk(&host.access()?, &top, "cgroup.procs", |_, text| {
        for pid in numbers(text).take(left) {
            left -= 1;
            let process = Process::open(&host.root, pid);
            let Ok(started) = process.and_then(|process| process.started(&host.root, &mut stat))
            else {
                continue;
            };
            oldest = Some(oldest.map_or(started, |oldest| oldest.min(started)));
        }
        left > 0
    })?;
    Ok(oldest)
}
