//! The file in `hooks.d` that Podman, Buildah and CRI-O read: `oci-hooks.5.md` of containers/common, schema 1.0.0.

use serde_json::{Value, json};

use crate::{ANNOTATION, Hook};

/// Where Podman and CRI-O look without being told to.
pub const DIRECTORY: &str = "/usr/share/containers/oci/hooks.d";

/// Which containers are to have the hook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// All of them.
    Always,
    /// Those with the annotation `cgview.dev/view`.
    Annotated,
}

/// The file's content.
#[must_use]
pub fn file(hook: &Hook, when: When) -> Value {
    let when = match when {
        When::Always => json!({ "always": true }),
        // Regular expressions, of which all have to match.
        When::Annotated => {
            json!({ "annotations": { format!("^{}$", ANNOTATION.replace('.', "\\.")): "^all$" } })
        }
    };
    json!({ "version": "1.0.0", "hook": hook, "when": when, "stages": ["createContainer"] })
}
