//! `/sys/devices/system/cpu` and `node`: which entries there are, and what each file says.
//!
//! The visible CPUs are numbered anew from 0, so an entry of the view has another path on the host.
//! Nodes keep the kernel's numbers: mbind(2), set_mempolicy(2) and `Mems_allowed` of
//! `/proc/PID/status` use them in the container as well.

mod cpu;
mod node;
mod node_meminfo;
#[cfg(test)]
mod tests;

use alloc::{format, string::String};

use crate::{
    explain::Output,
    tree::{Dir, Entry, File, Link, SysFile, SysRule},
    view::{Error, View},
};

pub(crate) use cpu::{keeps_numbers, visible_why};

/// Renders one file, by the rule that [`crate::tree`]'s tables give it.
///
/// A file of a CPU or node that the container does not have is an error, so that a file that was looked
/// up before a limit changed never shows another CPU's text.
pub(crate) fn render(
    view: &View<'_>,
    file: SysFile,
    host: &[u8],
    out: &mut Output<'_>,
) -> Result<(), Error> {
    if !shows(view, Entry::File(File::Sys(file))) {
        return Err(Error::NotShown);
    }
    match file.rule() {
        SysRule::Host => out.copy(host),
        SysRule::VisibleCpus => cpu::visible(view, out),
        SysRule::Empty => out.put(b"\n", visible_why(view)),
        SysRule::CpuList => cpu::list(view, own_cpu(file.dir()), host, out),
        SysRule::CpuMask => cpu::mask(view, own_cpu(file.dir()), host, out),
        SysRule::NodeList => node::list(view, file.name(), host, out),
        SysRule::NodeMeminfo => node_meminfo::render(view, file.dir(), host, out),
        SysRule::Numastat => node::numastat(view, host, out),
        SysRule::Distance => node::distance(view, host, out),
    }
    Ok(())
}

/// The visible CPU whose directory it is.
fn own_cpu(dir: Dir) -> Option<u32> {
    match dir {
        Dir::CpuN(cpu)
        | Dir::Topology(cpu)
        | Dir::Cpufreq(cpu)
        | Dir::Cache(cpu)
        | Dir::CacheIndex(cpu, _) => Some(cpu.into()),
        _ => None,
    }
}

/// Whether the container has `entry`.
pub(crate) fn shows(view: &View<'_>, entry: Entry) -> bool {
    host_path(view, entry).is_some()
}

/// The path of the host's entry behind `entry`, if the container has it.
pub(crate) fn host_path(view: &View<'_>, entry: Entry) -> Option<String> {
    match entry {
        Entry::Dir(dir) => host_dir(view, dir),
        Entry::File(File::Proc(file)) => Some(file.path().into()),
        Entry::File(File::Sys(file)) => {
            host_dir(view, file.dir()).map(|dir| format!("{dir}/{}", file.name()))
        }
        Entry::Link(
            link @ (Link::NodeOfCpu { cpu, node: number } | Link::CpuOfNode { node: number, cpu }),
        ) => {
            let physical = view.cpus.visible.nth(cpu.into())?;
            if !node::is_visible(view, number.into()) || !node::holds(view, number.into(), physical)
            {
                return None;
            }
            Some(match link {
                Link::NodeOfCpu { .. } => {
                    format!("/sys/devices/system/cpu/cpu{physical}/node{number}")
                }
                Link::CpuOfNode { .. } => {
                    format!("/sys/devices/system/node/node{number}/cpu{physical}")
                }
            })
        }
    }
}

/// The directory of the host that stands behind `dir`, if the container has it.
fn host_dir(view: &View<'_>, dir: Dir) -> Option<String> {
    let name = match dir {
        Dir::Root | Dir::Proc | Dir::Sys => return Some(Entry::Dir(dir).path()),
        Dir::CpuN(cpu) => format!("cpu{}", view.cpus.visible.nth(cpu.into())?),
        Dir::NodeN(number) => {
            node::is_visible(view, number.into()).then(|| format!("node{number}"))?
        }
        _ => Entry::Dir(dir).name(),
    };
    host_dir(view, dir.parent()).map(|parent| format!("{parent}/{name}"))
}
