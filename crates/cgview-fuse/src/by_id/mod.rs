//! The fast mount: each container has files of its own, which the kernel keeps in its page cache for some
//! milliseconds. So a read costs what a read of any cached file does, and this process is asked a hundred times a
//! second at most, however many read.
//!
//! ```text
//! MOUNTPOINT/4711/proc/meminfo           by the number of the container's cgroup
//! MOUNTPOINT/<64 digits> -> 4711         by the runtime's id
//! ```

mod node;
mod page;
mod registry;

pub(crate) use self::{
    node::{Kind, Node},
    page::{Page, Pages},
    registry::Registry,
};

use std::time::Duration;

/// For how long the kernel may keep attributes, and with them the text: one tick of a kernel of 250 Hz. It counts
/// in ticks and from the next one on, so that is 8 ms at most there.
pub(crate) const KEPT: Duration = Duration::from_millis(4);

/// A text that is older is made anew when the kernel asks for the attributes again.
pub(crate) const FRESH: Duration = Duration::from_millis(1);
