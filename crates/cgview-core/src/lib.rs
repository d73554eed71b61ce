//! The pure core of cgview: cgroup snapshots and a host's `/proc` text in, the text that a container
//! should see out.
//!
//! A container shares its host's `/proc` and `/sys`, so everything that runs in it sees the host's
//! CPUs and memory. This crate knows what each line of each file should say instead. It reads no
//! file, knows no clock and holds no lock: whoever embeds it brings the text and the time, and gets
//! back bytes (and, if asked, where each number came from).
//!
//! The way through the crate:
//!
//! 1. [`parse`] turns the text of cgroup files into a [`snapshot::Snapshot`] and the host's into
//!    [`host::HostFacts`];
//! 2. [`effective`] folds the limits of all ancestors into what holds for the container;
//! 3. [`cpu_view::CpuView`] and [`loadavg::LoadAverage`] are the two parts with a memory: step
//!    functions that take the time as an argument;
//! 4. [`view::View`] renders a [`tree::File`] from all of that.
//!
//! What the crate does not do: find out which cgroup a process belongs to, open files, cache. See
//! `cgview-host` for that.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod cpu_view;
pub mod effective;
pub mod explain;
pub mod host;
pub mod loadavg;
pub mod mask;
pub mod parse;
pub mod policy;
mod render;
pub mod shape;
pub mod snapshot;
pub mod tree;
pub mod units;
pub mod view;

pub use explain::{Explanation, Source, Why};
pub use host::HostFacts;
pub use mask::Mask;
pub use policy::Policy;
pub use render::{cpuinfo::CpuinfoOutline, stat::stat_outline};
pub use snapshot::Snapshot;
pub use tree::File;
pub use units::{Bytes, Cpus, Limit, Ticks, Usec};
pub use view::{Reader, View};
