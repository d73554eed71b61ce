//! The container of the targets with a service in them: on a unified host of two CPUs, with 64 MiB and one CPU.

use cgview_testkit::{FakeContainer, FakeHost};

/// Its init.
pub const INIT: u32 = 200;
/// Another process in it.
pub const MEMBER: u32 = 201;
/// It.
pub const APP: FakeContainer = FakeContainer { name: "app", pids: [INIT, MEMBER], memory: 64 };

/// A host with it, in memory.
#[must_use]
pub fn host() -> FakeHost {
    FakeHost::with_containers(&[APP])
}
