//! What the kernel says of a container: its cgroups' files, parsed into a snapshot.
//!
//! Each part of a snapshot has a module, with v1's files and v2's side by side.

mod cpu;
mod hugetlb;
mod io;
mod memory;
mod pids;
mod pressure;

pub(crate) use hugetlb::PageSize;

use std::{cell::RefCell, sync::Arc};

use cgview_core::{
    parse::{self, ParseError},
    snapshot::{Cgroup, Controller, Snapshot, Version},
    units::Limit,
    view::Parts,
};

use crate::{
    cgroup::{Access, CgroupDir},
    container::{Container, Levels},
    error::{Error, Result},
    host::Host,
};

thread_local! {
    /// Where files are read to: one buffer for each thread, grown once.
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Container {
    /// Fills the named parts of a snapshot, and when it was taken. Other parts stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Vanished`] if the container's cgroup was removed, and then for ever; [`Error::Read`] and
    /// [`Error::Parse`] for its files. The snapshot is then not fit for use.
    pub fn sample(&self, host: &Host, parts: Parts, snapshot: &mut Snapshot) -> Result<()> {
        if self.is_gone() {
            return Err(self.vanished());
        }
        let mut text = TEXT.take();
        let mut result = self.sample_parts(host, parts, snapshot, &mut text);
        if matches!(result, Err(Error::Vanished { .. })) {
            // It may be an ancestor that was removed and made again before this container was.
            self.close_levels();
            if self.exists(host) {
                result = self.sample_parts(host, parts, snapshot, &mut text);
            } else {
                self.set_gone();
            }
        }
        TEXT.set(text);
        result
    }

    fn sample_parts(
        &self,
        host: &Host,
        parts: Parts,
        snapshot: &mut Snapshot,
        text: &mut Vec<u8>,
    ) -> Result<()> {
        let mut sampler = Sampler { host, container: self, at: host.access()?, text };
        if parts.contain(Parts::MEMORY) {
            sampler.memory(parts.contain(Parts::EVENTS), &mut snapshot.memory)?;
        }
        if parts.contain(Parts::CPUS) {
            sampler.quota(&mut snapshot.cpu)?;
            snapshot.cpuset = sampler.cpuset(parts.contain(Parts::NODES))?;
        }
        if parts.contain(Parts::IO) {
            snapshot.io = sampler.io()?;
        }
        if parts.contain(Parts::PIDS) {
            sampler.pids(&mut snapshot.pids)?;
        }
        if parts.contain(Parts::HUGETLB) {
            sampler.hugetlb(&mut snapshot.hugetlb)?;
        }
        if parts.contain(Parts::PRESSURE) {
            sampler.pressure(&mut snapshot.pressure)?;
        }
        if parts.contain(Parts::TASKS) {
            snapshot.tasks = Some(self.active_tasks(host)?);
        }
        // The clock is read next to the CPU time, and after it: what was used by then fits in the time
        // that had passed.
        if parts.contain(Parts::CPU_USAGE) {
            snapshot.cpu_usage = sampler.cpu_usage()?;
        }
        snapshot.taken = host.boottime()?;
        snapshot.started = self.started();
        Ok(())
    }
}

/// One pass over a container's files.
struct Sampler<'a> {
    host: &'a Host,
    container: &'a Container,
    at: Access<'a>,
    text: &'a mut Vec<u8>,
}

impl<'a> Sampler<'a> {
    /// The levels of the container in a controller's hierarchy, the root left out.
    fn levels(&self, controller: Controller) -> Result<Levels> {
        match self.host.hierarchies.of(controller) {
            Some(index) => self.container.levels(self.host, index),
            None => Ok(Arc::new([])),
        }
    }

    /// Whether a level is the root of its hierarchy, which is the host.
    fn is_top(&self, controller: Controller, level: &CgroupDir) -> bool {
        let hierarchy = self.host.hierarchy(controller);
        hierarchy.is_some_and(|hierarchy| hierarchy.is_top(&level.cgroup().path))
    }

    /// Reads a file; false if the level does not have it.
    fn read(&mut self, level: &CgroupDir, name: &str) -> Result<bool> {
        level.read(&self.at, name, self.text)
    }

    /// Reads a file and what it says; `None` if the level does not have it.
    fn parse<T>(
        &mut self,
        level: &CgroupDir,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<Option<T>> {
        if !self.read(level, name)? {
            return Ok(None);
        }
        // The kernel writes something to all of them but these.
        let may_be_empty = name.starts_with("cpuset.") || name == "io.stat";
        let parsed = if !may_be_empty && !name.ends_with(".pressure") && is_blank(self.text) {
            Err(ParseError::new(1, "a line", self.text))
        } else {
            parse(self.text)
        };
        parsed.map(Some).map_err(|source| Error::parse(level.path_of(name), source))
    }

    /// Reads a file that holds a number.
    fn number(&mut self, level: &CgroupDir, name: &str) -> Result<Option<u64>> {
        self.parse(level, name, parse::number_file)
    }

    /// Reads a file that holds a number or `max`.
    fn limit(&mut self, level: &CgroupDir, name: &str) -> Result<Option<Limit<u64>>> {
        self.parse(level, name, parse::limit)
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

/// The cgroup of a level, to go with its numbers.
fn cgroup(level: &CgroupDir) -> Arc<Cgroup> {
    level.cgroup().clone()
}

/// Picks the name of a file by the version of the level's hierarchy.
fn name<'n>(level: &CgroupDir, v1: &'n str, v2: &'n str) -> &'n str {
    match level.version() {
        Version::V1 => v1,
        Version::V2 => v2,
    }
}
