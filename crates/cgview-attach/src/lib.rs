//! Mounts of cgview in the mount namespaces of others: found, judged and replaced.
//!
//! A container has files of cgview bound over its own. They are mounts of one file system, whose daemon
//! answers for all of them. Where the last process that held the connection is gone, every read says
//! `ENOTCONN`, and no new daemon can take the old connection up. [`repair()`] then puts mounts of a new
//! daemon's file system in the place of the dead ones, in every mount namespace, while the containers run.
//!
//! - [`attach()`] and [`detach()`]: views for containers that run, and taking them away again;
//! - [`bind()`]: binding the files of a view below any root, for hooks of runtimes;
//! - [`bind_in_time()`]: the same by a process that is left behind if it takes too long;
//! - [`Files`]: which files those are;
//! - [`namespaces`]: which mount namespaces there are, each once;
//! - [`mounts`]: what is mounted in one, and what of it a path leads to;
//! - [`survey`]: the file systems of cgview and LXCFS, where they are mounted, and whether they answer;
//! - [`repair()`]: the replacing.
//!
//! Whatever may block is done by helper processes, which are left behind when they take too long: neither
//! a daemon that hangs nor the file system of a container holds up whoever calls this crate.
//!
//! What this crate does not do: mount file systems, know the runtimes of containers, or read any view.

pub mod attach;
mod background;
pub mod bind;
mod error;
mod files;
mod helper;
mod in_time;
pub mod mounts;
pub mod namespaces;
mod outcome;
mod probe;
pub mod repair;
mod step;
pub mod survey;
mod swap;
mod sys;

pub use attach::{attach, detach, detach_all};
pub use background::repair_in_background;
pub use bind::{Bound, Copies, Maker, View, bind};
pub use error::{Error, Result};
pub use files::{Files, UnknownFile};
pub use in_time::bind_in_time;
pub use probe::Health;
pub use repair::{repair, repair_all};
pub use step::{Failure, Step};
pub use survey::Survey;
