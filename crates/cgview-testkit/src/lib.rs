//! Cgroups, namespaces and processes for cgview's tests on a real kernel.
//!
//! A test makes a [`Tree`] of cgroups, puts processes into it ([`Spawn`]), and looks at them through cgview.
//! Everything goes away when its value is dropped, also when the test panics.
//!
//! Nothing here uses cgview's own code to find or to read anything: it is what that is judged by.
#![expect(clippy::missing_panics_doc, reason = "a test fails by panicking")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;
mod fake_container;
mod machine;
mod process;
mod sys;
mod tree;

pub use fake::{FakeHost, FakeProcess};
pub use fake_container::{FAKE_HOST_PID, FAKE_MEMINFO, FakeContainer};
pub use machine::{is_guest, is_own_machine, kernel_is_at_least};
pub use process::{Namespaces, Process, Spawn};
pub use sys::{block, pause};
pub use tree::{Cgroup, Tree};

/// Says that the running test is skipped, and why, in the words that `ci/test` counts.
#[expect(clippy::print_stdout, reason = "libtest shows a test's output")]
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("main");
    println!("SKIPPED: {test}: {reason}");
}

/// Whether this process may do what the tests do; if not, says that the test is skipped.
#[must_use]
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}
