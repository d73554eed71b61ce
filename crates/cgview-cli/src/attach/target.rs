//! Which container a word on the command line means.

use std::collections::HashSet;

use cgview_attach::namespaces;
use cgview_host::Running;

use super::title;
use crate::report::Advice;

/// How alike a name has to be to what was typed to be meant perhaps, from 0 to 1.
const ALIKE: f64 = 0.75;

/// How many containers are named where one is to be chosen.
const CHOICE: usize = 5;

/// What is attached to: a container, or the mount namespace of a process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    /// What it is called in messages.
    pub(super) title: String,
    first: u32,
    pids: Vec<u32>,
}

impl Target {
    /// A container.
    pub(super) fn of(container: &Running) -> Target {
        Target { title: title(container), first: container.pid, pids: container.pids.clone() }
    }

    /// Finds it by a name, by a process, or by the beginning of an id.
    ///
    /// A name goes first: LXC's and Proxmox's may be numbers.
    pub(super) fn find(containers: &[Running], word: &str) -> anyhow::Result<Target> {
        if let Some(container) = only(containers, word, |container| is_named(container, word))? {
            return Ok(Target::of(container));
        }
        if let Ok(pid) = word.parse()
            && namespaces::exists(pid)
        {
            let container = containers.iter().find(|container| container.pids.contains(&pid));
            return Ok(container.map_or_else(
                || Target { title: format!("process {pid}"), first: pid, pids: vec![pid] },
                Target::of,
            ));
        }
        let begins = |container: &Running| !word.is_empty() && container.id.starts_with(word);
        match only(containers, word, begins)? {
            Some(container) => Ok(Target::of(container)),
            None => Err(missing(containers, word)),
        }
    }

    /// The first process.
    pub(super) fn pid(&self) -> u32 {
        self.first
    }

    /// A process of each mount namespace of it, that of the first one first.
    pub(super) fn namespaces(&self) -> Vec<u32> {
        let mut seen = HashSet::new();
        let all = [self.first].into_iter().chain(self.pids.iter().copied());
        let known = all.filter(|&pid| namespaces::number_of(pid).is_some_and(|id| seen.insert(id)));
        let mut known: Vec<_> = known.collect();
        if known.is_empty() {
            known.push(self.first);
        }
        known
    }
}

/// Whether it is called so: by its id, its name, or the last part of that.
fn is_named(container: &Running, word: &str) -> bool {
    let name = container.name.as_deref().unwrap_or_default();
    !word.is_empty()
        && (container.id == word || name == word || name.rsplit('/').next() == Some(word))
}

/// The one container of which something is so.
fn only<'a>(
    containers: &'a [Running],
    word: &str,
    is_meant: impl Fn(&Running) -> bool,
) -> anyhow::Result<Option<&'a Running>> {
    let meant: Vec<_> = containers.iter().filter(|container| is_meant(container)).collect();
    match meant.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(anyhow::Error::new(Advice::new(
            format!("cannot tell which container {word} is: {}", list(several)),
            "give a longer part of the id, or the whole of it.",
        ))),
    }
}

fn list(containers: &[&Running]) -> String {
    let mut titles: Vec<_> = containers.iter().take(CHOICE).map(|one| title(one)).collect();
    if containers.len() > CHOICE {
        titles.push(format!("{} more", containers.len() - CHOICE));
    }
    match titles.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => titles.concat(),
    }
}

fn missing(containers: &[Running], word: &str) -> anyhow::Error {
    let alike = |container: &&Running| {
        let names = [Some(container.id.as_str()), container.name.as_deref()].into_iter().flatten();
        names
            .flat_map(|name| [name, name.rsplit('/').next().unwrap_or(name)])
            .any(|name| strsim::jaro_winkler(name, word) >= ALIKE)
    };
    let near: Vec<_> = containers.iter().filter(alike).collect();
    let hint = if !near.is_empty() {
        format!("there is {}.", list(&near))
    } else if containers.is_empty() {
        "no container runs.".to_owned()
    } else {
        "`cgview status` lists the containers that run.".to_owned()
    };
    anyhow::Error::new(Advice::new(format!("no container and no process is called {word}"), hint))
}

#[cfg(test)]
mod tests {
    use cgview_core::parse::Runtime;

    use super::*;

    fn running() -> Vec<Running> {
        let container = |runtime, id: &str, name: Option<&str>, pid| Running {
            runtime,
            id: id.into(),
            name: name.map(str::to_owned),
            pid,
            cgroup: format!("/{id}"),
            // No process has such an id: the kernel's limit is 2^22.
            pids: vec![pid, pid + 1],
        };
        vec![
            container(Runtime::Docker, &"0c4d".repeat(16), Some("web"), 5_000_000),
            container(Runtime::Podman, &"0c5e".repeat(16), Some("database"), 5_000_010),
            container(Runtime::Lxc, "1", None, 5_000_020),
            container(Runtime::Containerd, &"aa01".repeat(16), Some("default/p/nginx"), 5_000_030),
        ]
    }

    fn find(word: &str) -> anyhow::Result<u32> {
        Target::find(&running(), word).map(|target| target.pid())
    }

    #[test]
    fn by_name_process_or_the_beginning_of_an_id() {
        assert_eq!(find("web").unwrap(), 5_000_000);
        assert_eq!(find("0c5").unwrap(), 5_000_010);
        assert_eq!(find(&"aa01".repeat(16)).unwrap(), 5_000_030);
        assert_eq!(find("nginx").unwrap(), 5_000_030);
        assert_eq!(find("default/p/nginx").unwrap(), 5_000_030);
        // A container of that name, though there is such a process too.
        assert_eq!(find("1").unwrap(), 5_000_020);
        let own = std::process::id();
        assert_eq!(find(&own.to_string()).unwrap(), own);
    }

    #[test]
    fn what_may_be_meant_is_named() {
        let text = |word: &str| {
            let error = find(word).unwrap_err();
            let hint = format!("{:?}", error.downcast_ref::<Advice>().unwrap());
            format!("{error} {hint}")
        };
        let ambiguous = text("0c");
        assert!(ambiguous.starts_with(
            "cannot tell which container 0c is: web (docker 0c4d0c4d0c4d) and database (podman 0c5e0c5e0c5e)"
        ), "{ambiguous}");
        assert!(text("databse").contains("there is database (podman"), "{}", text("databse"));
        assert!(text("xyzzy").contains("`cgview status` lists"));
        assert!(text("").starts_with("no container and no process is called "));
    }
}
