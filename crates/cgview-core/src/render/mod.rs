//! One module for each file: the host's text in, the container's out.
//!
//! A renderer edits the host's own text: the same lines in the same order and columns, with other
//! numbers. Its documentation is the specification of its file.

pub(crate) mod cpuinfo;
pub(crate) mod diskstats;
pub(crate) mod loadavg;
pub(crate) mod meminfo;
mod memory;
pub(crate) mod partitions;
pub(crate) mod pressure;
pub(crate) mod slabinfo;
pub(crate) mod stat;
pub(crate) mod swaps;
pub(crate) mod sysfs;
pub(crate) mod uptime;
pub(crate) mod vmstat;
