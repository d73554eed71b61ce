//! A container for programs that read `/proc` and `/sys`.
#![expect(dead_code, reason = "each test program uses a part of it")]

use std::{collections::BTreeMap, path::Path, process::Command, time::Instant};

use cgview_compliance::{Container, MIB, Options, Server};
use cgview_testkit::{Tree, skip};

/// What it may use: 256 MiB, and half a CPU, which is one that is seen.
pub(crate) const MEMORY: u64 = 256 * MIB;

/// A container, and all that it needs.
pub(crate) struct Case {
    pub(crate) container: Container,
    pub(crate) server: Server,
    started: Instant,
    _tree: Tree,
}

/// A container, where this machine has the program; if not, says that the test is skipped.
pub(crate) fn case(program: &str) -> Option<Case> {
    let found = Command::new("sh").arg("-c").arg(format!("command -v {program}")).output();
    if !found.unwrap().status.success() {
        skip(&format!("needs {program}"));
        return None;
    }
    if !Server::is_possible() {
        return None;
    }
    let tree = Tree::with(&["memory", "cpu", "cpuset"])?;
    let started = Instant::now();
    let cgroup = tree.cgroup("container");
    cgroup.limit_memory(MEMORY).limit_cpu(50_000);
    let server = Server::start(&Options::new());
    let container = Container::start(&server, &cgroup);
    Some(Case { container, server, started, _tree: tree })
}

impl Case {
    /// The container is no older than this, in seconds.
    pub(crate) fn most_age(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// What programs say of an age that the container may have.
    pub(crate) fn is_age_in_minutes(&self, text: &str, before: &str, after: &str) -> bool {
        let most = self.started.elapsed().as_secs() / 60;
        (0..=most).any(|minutes| text.contains(&format!("{before}{minutes}{after}")))
    }
}

/// The words of each line.
pub(crate) fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// The numbers of a table whose names are in one row and values in the next, by name.
pub(crate) fn columns(names: &[&str], values: &[&str]) -> BTreeMap<String, f64> {
    // Names of groups, or of the time, may be in front.
    let pairs = names.iter().rev().zip(values.iter().rev());
    pairs.filter_map(|(name, value)| Some(((*name).to_owned(), value.parse().ok()?))).collect()
}

/// Whether a file is there, as seen from the test.
pub(crate) fn exists(path: &str) -> bool {
    Path::new(path).exists()
}
