//! Why mounts were not looked at, or not replaced.

use std::{io, path::PathBuf};

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing could be done at all. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Entering mount namespaces needs `CAP_SYS_ADMIN`.
    #[error("cannot change the mounts of containers: only root may; run it with sudo")]
    NotRoot,
    /// `/proc` cannot be listed.
    #[error("cannot list the processes in /proc")]
    Processes(#[source] io::Error),
    /// A process is not there any more.
    #[error("process {pid} has ended, and its mount namespace may have ended with it")]
    Gone {
        /// Its id.
        pid: u32,
    },
    /// A process may not be looked at.
    #[error("cannot look at the mounts of process {pid}")]
    Process {
        /// Its id.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A process has the mounts of the host.
    #[error(
        "process {pid} is in no container: it has the mounts of the host, which stay as they are; name a process of a \
         container"
    )]
    Host {
        /// Its id.
        pid: u32,
    },
    /// What is mounted for a process is mounted for the host too.
    #[error(
        "cannot attach to process {pid}: what is mounted below {} there is seen on the host too, as their mounts are \
         shared; make them private there with `mount --make-rprivate /`",
        path.display()
    )]
    Shared {
        /// Its id.
        pid: u32,
        /// What would be mounted over.
        path: PathBuf,
    },
    /// A daemon would read its own files where it asks for the kernel's, and wait for itself.
    #[error(
        "cannot attach to process {pid}: a cgview-fuse runs there, which would read its own files and wait for itself; \
         leave it out with --exclude"
    )]
    Daemon {
        /// Its id.
        pid: u32,
    },
    /// The kernel has no `mount_setattr()`, or does not let it through.
    #[error("cannot attach to containers: this takes Linux 5.12")]
    OldKernel,
    /// No process could be started.
    #[error("cannot start a process to enter the mount namespace of process {pid}")]
    Helper {
        /// Whose namespace.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is nothing to take the place of dead mounts.
    #[error("cannot find a view: no cgview is mounted that answers; start cgview-fuse first")]
    NoView,
    /// More than one could take the place of dead mounts.
    #[error(
        "cannot tell which view to take: cgview is mounted at {}; name one with --mountpoint",
        list(mountpoints)
    )]
    Several {
        /// Where those are that answer.
        mountpoints: Vec<PathBuf>,
    },
    /// At the named mountpoint is no view of cgview.
    #[error("cannot take the view from {0}: no cgview is mounted there; start cgview-fuse {0} first", path.display())]
    NotMounted {
        /// The mountpoint.
        path: PathBuf,
    },
    /// The view at the named mountpoint does not answer.
    #[error("cannot take the view from {0}: it {state}; start cgview-fuse {0} first", path.display())]
    NotServed {
        /// The mountpoint.
        path: PathBuf,
        /// What comes of asking.
        state: String,
    },
    /// The view at the named mountpoint is the fast mount.
    #[error(
        "cannot take the view from {}: it has a directory for each container; name the other mountpoint of its cgview-fuse",
        path.display()
    )]
    NotShared {
        /// The mountpoint.
        path: PathBuf,
    },
    /// The view at the named mountpoint is not the fast mount.
    #[error(
        "cannot take files from {}: it has no directory for each container; name what its cgview-fuse has as --by-id",
        path.display()
    )]
    NotById {
        /// The mountpoint.
        path: PathBuf,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" and ")
}
