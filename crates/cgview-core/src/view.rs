//! The view of one container: which entries it has, and what each file says.

use alloc::{string::String, vec::Vec};

use crate::{
    cpu_view::CpuView,
    effective::CpuLimits,
    explain::{Explanation, Output},
    host::HostFacts,
    loadavg::LoadAverage,
    parse::TimensOffsets,
    policy::Policy,
    render::{self, cpuinfo::CpuinfoOutline},
    snapshot::Snapshot,
    tree::{Dir, Entry, File, Link, ProcFile, SysRule},
    units::Usec,
};

/// All that a text is rendered from.
///
/// A view borrows everything: it is put together for one rendering, from a snapshot that other
/// renderings share.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the kernel said of the container. It has the parts that [`File::parts`] names.
    pub snapshot: &'a Snapshot,
    /// The clock of the snapshot, `CLOCK_BOOTTIME`, when the text is rendered: `/proc/uptime` tells that moment,
    /// as the kernel's does, and counters are those of the snapshot. What is before the snapshot counts as its
    /// moment.
    pub now: Usec,
    /// What the host has: its memory, too, where [`File::parts`] has [`Parts::MEMORY`] in it.
    pub host: &'a HostFacts,
    /// The administrator's choices.
    pub policy: &'a Policy,
    /// The container's CPUs: [`CpuLimits::of`] the snapshot.
    pub cpus: &'a CpuLimits,
    /// The container's CPU times, stepped to the snapshot's moment.
    pub cpu_view: &'a CpuView,
    /// The container's load; `None` where it has the host's: the policy has it off, or the container is the
    /// root of the hierarchy.
    pub load: Option<&'a LoadAverage>,
    /// Who reads.
    pub reader: Reader,
}

/// What depends on the reader and not on the container.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reader {
    /// Its time namespace: if the boot clock has an offset there, the kernel already tells the
    /// container's age in `/proc/PID/stat`, and all files follow it.
    pub timens: TimensOffsets,
}

/// Why a file has no text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The container does not have this CPU or node.
    #[error("the container has no such CPU or node")]
    NotShown,
    /// The kernel keeps no pressure for this resource, or does so for nobody (`psi=0`).
    #[error("the kernel accounts for no such pressure")]
    NoPressure,
}

/// The parts of a snapshot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Parts(u16);

impl Parts {
    /// [`Snapshot::memory`], without [`MemoryStat::events`](crate::snapshot::MemoryStat::events).
    pub const MEMORY: Parts = Parts(1);
    /// [`Snapshot::cpu`] and the CPUs of [`Snapshot::cpuset`]: what [`CpuLimits`] needs, but for its nodes.
    pub const CPUS: Parts = Parts(2);
    /// [`Snapshot::cpu_usage`]: what [`CpuView`] needs beside the limits.
    pub const CPU_USAGE: Parts = Parts(4);
    /// [`Snapshot::io`].
    pub const IO: Parts = Parts(8);
    /// [`Snapshot::pids`].
    pub const PIDS: Parts = Parts(16);
    /// [`Snapshot::hugetlb`].
    pub const HUGETLB: Parts = Parts(32);
    /// [`Snapshot::tasks`].
    pub const TASKS: Parts = Parts(64);
    /// [`Snapshot::pressure`].
    pub const PRESSURE: Parts = Parts(128);
    /// The events of the container's own level of [`Snapshot::memory`].
    pub const EVENTS: Parts = Parts(256);
    /// The nodes of [`Snapshot::cpuset`], with [`Parts::CPUS`].
    pub const NODES: Parts = Parts(512 | Parts::CPUS.0);
    /// The whole snapshot.
    pub const ALL: Parts = Parts(1023);

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Parts) -> Parts {
        Parts(self.0 | other.0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Parts) -> Parts {
        Parts(self.0 & !other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contain(self, other: Parts) -> bool {
        self.0 & other.0 == other.0
    }
}

impl File {
    /// The parts of a snapshot that its text is rendered from.
    #[must_use]
    pub fn parts(self) -> Parts {
        let times = Parts::CPUS.and(Parts::CPU_USAGE);
        match self {
            File::Proc(file) => match file {
                ProcFile::Cpuinfo => Parts::CPUS,
                ProcFile::Meminfo => Parts::MEMORY.and(Parts::HUGETLB).and(Parts::NODES),
                // The size of the cpuset's nodes bounds the memory.
                ProcFile::Vmstat => Parts::MEMORY.and(Parts::EVENTS).and(Parts::NODES),
                ProcFile::Swaps | ProcFile::Slabinfo => Parts::MEMORY,
                ProcFile::Diskstats | ProcFile::Partitions => Parts::IO,
                ProcFile::PressureCpu
                | ProcFile::PressureIo
                | ProcFile::PressureIrq
                | ProcFile::PressureMemory => Parts::PRESSURE,
                ProcFile::Loadavg => Parts::TASKS,
                ProcFile::Stat => times.and(Parts::TASKS),
                ProcFile::Uptime => times,
            },
            File::Sys(file) => match file.rule() {
                SysRule::NodeMeminfo => Parts::MEMORY.and(Parts::NODES).and(Parts::HUGETLB),
                SysRule::Numastat => times.and(Parts::NODES),
                _ => Parts::NODES,
            },
        }
    }
}

impl View<'_> {
    /// Appends the text of `file` to `out`.
    ///
    /// `host` is the text of the host's file at [`View::host_path`]; its lines, columns and order are
    /// kept. No bytes make this panic.
    ///
    /// # Errors
    ///
    /// [`Error`] if the file has no text for this container.
    pub fn render(&self, file: File, host: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.render_to(file, host, &mut Output::new(out, None))
    }

    /// Like [`View::render`] of `/proc/cpuinfo`, for whoever has kept the outline of the host's text: it costs as
    /// much as the container has CPUs, however many the host has.
    ///
    /// With the outline of another text, it is that of another text; no outline makes this panic.
    pub fn render_cpuinfo(&self, host: &[u8], outline: &CpuinfoOutline, out: &mut Vec<u8>) {
        let mut out = Output::new(out, None);
        if self.policy.passthrough.contains(ProcFile::Cpuinfo) {
            return out.copy(host);
        }
        render::cpuinfo::render(self, host, outline, &mut out);
    }

    /// Until when, on the clock of [`View::now`], the text of `/proc/uptime` tells this moment: it has hundredths of a
    /// second. Whoever keeps texts has to render it again then, though the snapshot is new enough.
    #[must_use]
    pub fn next_tick(&self) -> Usec {
        render::uptime::next_tick(self)
    }

    /// Like [`View::render`], and says where each number came from.
    ///
    /// # Errors
    ///
    /// [`Error`] if the file has no text for this container.
    pub fn explain(
        &self,
        file: File,
        host: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Explanation, Error> {
        let mut explanation = Explanation::default();
        self.render_to(file, host, &mut Output::new(out, Some(&mut explanation)))?;
        Ok(explanation)
    }

    fn render_to(&self, file: File, host: &[u8], out: &mut Output<'_>) -> Result<(), Error> {
        match file {
            File::Proc(file) if self.policy.passthrough.contains(file) => out.copy(host),
            File::Proc(file) => match file {
                ProcFile::Cpuinfo => {
                    render::cpuinfo::render(self, host, &CpuinfoOutline::of(host), out);
                }
                ProcFile::Diskstats => render::diskstats::render(self, host, out),
                ProcFile::Loadavg => render::loadavg::render(self, host, out),
                ProcFile::Meminfo => render::meminfo::render(self, host, out),
                ProcFile::Partitions => render::partitions::render(self, host, out),
                ProcFile::PressureCpu
                | ProcFile::PressureIo
                | ProcFile::PressureIrq
                | ProcFile::PressureMemory => {
                    return render::pressure::render(self, file, host, out);
                }
                ProcFile::Slabinfo => render::slabinfo::render(self, host, out),
                ProcFile::Stat => render::stat::render(self, host, out),
                ProcFile::Swaps => render::swaps::render(self, host, out),
                ProcFile::Uptime => render::uptime::render(self, host, out),
                ProcFile::Vmstat => render::vmstat::render(self, host, out),
            },
            File::Sys(file) => return render::sysfs::render(self, file, host, out),
        }
        Ok(())
    }

    /// Whether the container has `entry`: false for CPUs and nodes that it does not have. Whether the
    /// host has it is for the host to say, at [`View::host_path`].
    #[must_use]
    pub fn shows(&self, entry: Entry) -> bool {
        render::sysfs::shows(self, entry)
    }

    /// The path of the host's entry that stands behind `entry`: with the physical CPU's number where
    /// the entry has a visible one's. `None` where the container does not have it.
    #[must_use]
    pub fn host_path(&self, entry: Entry) -> Option<String> {
        render::sysfs::host_path(self, entry)
    }

    /// The entries of `dir` that the container has, of which the host may have fewer: `host_has` is
    /// asked for the path of each.
    pub fn list(&self, dir: Dir, mut host_has: impl FnMut(&str) -> bool) -> Vec<Entry> {
        let mut entries = dir.fixed_children();
        match dir {
            Dir::Cpu => entries.extend(self.visible_cpus().map(|cpu| Entry::Dir(Dir::CpuN(cpu)))),
            Dir::Node => {
                entries.extend(self.visible_nodes().map(|node| Entry::Dir(Dir::NodeN(node))))
            }
            Dir::CpuN(cpu) => {
                entries.extend(
                    self.visible_nodes().map(|node| Entry::Link(Link::NodeOfCpu { cpu, node })),
                );
            }
            Dir::NodeN(node) => {
                entries.extend(
                    self.visible_cpus().map(|cpu| Entry::Link(Link::CpuOfNode { node, cpu })),
                );
            }
            _ => {}
        }
        entries.retain(|&entry| self.host_path(entry).is_some_and(|path| host_has(&path)));
        entries
    }

    fn visible_cpus(&self) -> impl Iterator<Item = u16> {
        (0..self.cpus.visible.len()).filter_map(|cpu| u16::try_from(cpu).ok())
    }

    fn visible_nodes(&self) -> impl Iterator<Item = u16> {
        self.cpus.nodes.iter().filter_map(|node| u16::try_from(node).ok())
    }
}
