//! Serves the view of each container over FUSE.
//!
//! The way of a read: [`session`] takes requests from a connection that [`mount`] made, the glue to fuser
//! unwraps them, [`service`] finds out who asks and renders, and what has to be told again is taken from
//! caches. The service can be asked without FUSE too, and `cgview show` does.
//!
//! What the crate does not do: decide what a file says (`cgview-core`) or read cgroups (`cgview-host`).
#![deny(unsafe_code)]

pub mod arguments;
mod by_id;
mod cache;
pub mod confine;
mod descriptors;
pub mod dispatch;
pub mod fatal;
mod filesystem;
pub mod greeting;
pub mod handles;
pub mod handover;
pub mod keeper;
pub mod kept;
pub mod ledger;
pub mod logging;
pub mod metrics;
pub mod mount;
#[cfg(feature = "other-version")]
mod other_version;
pub mod pid_file;
pub mod service;
pub mod session;
pub mod settings;
mod spawn;
pub mod state;
pub mod succession;
mod tenant;
mod told;
pub mod triggers;
pub mod upkeep;

pub use filesystem::Which;
pub use service::Service;
pub use session::{Guard, serve_in_background};
