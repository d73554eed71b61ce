//! The device by which Docker, Podman, containerd and CRI-O are asked for the view: Container Device Interface,
//! `SPEC.md`.

use serde_json::{Value, json};

use crate::Hook;

/// Vendor and class.
pub const KIND: &str = "cgview.dev/view";

/// The device that has all files.
pub const DEVICE: &str = "all";

/// Where it is looked for.
pub const DIRECTORY: &str = "/etc/cdi";

/// The specification. It has a hook and no mounts: a mount of a view that nobody serves would keep the
/// container from starting.
#[must_use]
pub fn specification(hook: &Hook) -> Value {
    // The oldest version that has all fields, as a reader refuses those that it does not know.
    json!({
        "cdiVersion": "0.3.0",
        "kind": KIND,
        "devices": [{
            "name": DEVICE,
            "containerEdits": {
                "hooks": [{
                    "hookName": "createContainer",
                    "path": hook.path,
                    "args": hook.args,
                    "timeout": hook.timeout,
                }],
            },
        }],
    })
}
