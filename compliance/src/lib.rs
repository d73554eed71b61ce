//! One suite that judges cgview and LXCFS alike: what a container reads, by the kernel's own numbers.
//!
//! A test makes a tree of cgroups, starts the [`Server`] that is under test, starts a [`Container`] with the
//! files of the server bound over its own, reads them there, and compares with what the cgroup's files say
//! ([`truth`]). Nothing here uses cgview's code to read or to parse.
//!
//! `CGVIEW_UNDER_TEST` names the server: `cgview` (the default) or `lxcfs`; `CGVIEW_LXCFS` the program of the
//! latter. A test that shows a known defect of LXCFS says so with a [`Defect`]: under cgview the right value
//! is asserted, and under a version of LXCFS that has the defect the wrong one, which proves that the test
//! can fail. Where both are right in their own way, that is a [`Difference`].
#![expect(clippy::missing_panics_doc, reason = "a test fails by panicking")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]

pub mod burn;
mod container;
pub mod disk;
mod hold;
pub mod meminfo;
pub mod memory;
pub mod meter;
mod server;
mod subject;
pub mod text;
pub mod truth;
mod verdict;
pub mod worker;

use std::{
    thread,
    time::{Duration, Instant},
};

use cgview_testkit::Tree;
pub use container::{Container, Output, mount_proc, run};
pub use hold::Hold;
pub use server::{Mount, Options, Server};
pub use subject::{Subject, Version, under_test};
pub use verdict::{Defect, Difference};

/// How long anything may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A tree of cgroups with these controllers, by their names in v2, and the server that is under test. Says
/// that the test is skipped where this machine cannot have them.
#[must_use]
pub fn start(controllers: &[&str], options: &Options) -> Option<(Tree, Server)> {
    if !Server::is_possible() {
        return None;
    }
    let tree = Tree::with(controllers)?;
    Some((tree, Server::start(options)))
}

/// The name of the running test.
pub(crate) fn test_name() -> String {
    thread::current().name().unwrap_or("main").to_owned()
}
