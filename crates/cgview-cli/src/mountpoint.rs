//! Where the view is mounted.

use std::path::Path;

use cgview_attach::mounts::Table;

/// Where the packaged service mounts it.
pub(crate) const DEFAULT: &str = "/var/lib/cgview";

/// Whether a view is mounted at a path, which is not asked anything.
pub(crate) fn is_view(path: &Path) -> bool {
    let table = Table::parse(&std::fs::read("/proc/self/mountinfo").unwrap_or_default());
    table.at(path).is_some_and(|mount| mount.is_view() && mount.mountpoint == path)
}
