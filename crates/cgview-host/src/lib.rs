//! A Linux host, read for cgview: which container a process belongs to, and what the kernel says of it.
//!
//! This is the only crate of cgview that opens files of the host. It finds where the cgroup hierarchies
//! are mounted ([`Host::layout`]), which container a process is in ([`Host::caller`]), and what that
//! container's cgroups say ([`Container::sample`]); and which containers run at all ([`Host::running`]). What a container should see because of it is for
//! [`cgview_core`] to say.
//!
//! A host is a directory: `/` for the machine itself, or any tree with the `proc` and `sys` of one, such as
//! a capture or the root of the machine as mounted into a container.
//!
//! What this crate does not do: mount anything, limit cgroups, fork, or decide what a reader sees when
//! something cannot be read.

mod budget;
mod caller;
mod capture;
mod census;
mod cgroup;
mod container;
pub mod deputy;
mod error;
mod facts;
mod hierarchy;
mod host;
mod init;
mod ioctl;
mod namespace;
mod process;
mod root;
mod running;
mod sample;
mod tasks;
mod trigger;
mod watch;

pub use caller::{Caller, KeptCaller};
pub use census::{Census, CgroupId, Populated};
pub use container::{Container, ContainerId};
pub use error::{Error, Result};
pub use hierarchy::{Hierarchy, Layout};
pub use host::{Host, boot_id};
pub use running::{Running, Standing, is_at_or_below};
pub use tasks::TASK_BUDGET;
pub use watch::CgroupWatch;
