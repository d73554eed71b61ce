//! cgview and the OCI's specifications: what makes a runtime give a container its own `/proc` and `/sys`.
//!
//! All ways lead to one **hook** of stage `createContainer` (runtime-spec, `config.md`, "POSIX-platform
//! Hooks"), `cgview oci-hook`: it is started in the container's mount namespace before its root becomes the
//! root, and mounts files there that runc's list of allowed mounts refuses (`checkProcMount()` of
//! `libcontainer/rootfs_linux.go`). What differs is who tells the runtime of the hook:
//!
//! - [`hooks_dir`]: Podman and CRI-O, by a file in `hooks.d`;
//! - [`cdi`]: Docker, Podman, containerd and CRI-O, by a device that is asked for;
//! - [`spec`]: whoever writes the bundle's `config.json`: the program `cgview-runtime`, which is put in the place of
//!   runc, and containerd's base runtime spec.
//!
//! [`state`] is what the hook is told by the runtime. What this crate does not do: mount anything, or write
//! the configuration of an engine.

pub mod cdi;
pub mod hooks_dir;
pub mod log;
pub mod runtime;
pub mod spec;
pub mod state;

use std::path::{Path, PathBuf};

use serde::Serialize;

/// Containers with this annotation and the value `none` are left as they are.
pub const ANNOTATION: &str = "cgview.dev/view";

/// So are those whose process has this in its environment: it can be given with every engine.
pub const OPT_OUT: &str = "CGVIEW=none";

/// How long a runtime waits for the hook before it kills it, and the container's start fails, in seconds
/// (`timeout` of the runtime-spec). The hook's own deadline is far shorter.
const TIMEOUT: u32 = 30;

/// The program that is to run as a hook.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Hook {
    path: PathBuf,
    args: Vec<String>,
    timeout: u32,
}

impl Hook {
    /// The hook of a program `cgview`, by its absolute path, with further arguments of `cgview oci-hook`.
    #[must_use]
    pub fn new(cgview: &Path, arguments: &[String]) -> Hook {
        let args = ["cgview", "oci-hook"].map(str::to_owned).into_iter();
        Hook {
            path: cgview.to_owned(),
            args: args.chain(arguments.iter().cloned()).collect(),
            timeout: TIMEOUT,
        }
    }

    /// The same with more time for the view's daemon to answer, in milliseconds.
    #[must_use]
    pub fn with_deadline(mut self, deadline: u32) -> Hook {
        self.args.push(format!("--deadline={deadline}"));
        self.timeout = TIMEOUT + deadline.div_ceil(1000);
        self
    }
}
