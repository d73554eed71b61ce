//! Why the host could not be read.

use std::{
    io,
    path::{Path, PathBuf},
};

use cgview_core::parse::ParseError;
use rustix::io::Errno;

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the host could not be read.
///
/// A message says what was being done and to what; the cause is its [`source`], printed after a colon
/// by whoever reports the chain, and never repeated here.
///
/// [`source`]: std::error::Error::source
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory that should be the host's root is none.
    #[error("cannot use {} as the root of a host", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of the host could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file, as the host names it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of the host did not hold what it should.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// The file, as the host names it.
        path: PathBuf,
        /// Where and why.
        source: ParseError,
    },
    /// A file of a capture could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process that asked is gone.
    #[error("process {pid} is gone")]
    Gone {
        /// In the pid namespace of the host's `/proc`.
        pid: u32,
    },
    /// The process exists, but `/proc` does not show it: it is mounted with `hidepid`.
    #[error("process {pid} is hidden by the hidepid option of /proc")]
    Hidden {
        /// In the pid namespace of the host's `/proc`.
        pid: u32,
    },
    /// The process is in a cgroup that this process cannot name: outside of its cgroup namespace.
    #[error("cgroup {path} of process {pid} is outside of this cgroup namespace")]
    Outside {
        /// In the pid namespace of the host's `/proc`.
        pid: u32,
        /// The path, as seen from here: it begins with `/..`.
        path: String,
    },
    /// The cgroup was removed, and with it the container.
    #[error("cgroup {path} is gone")]
    Vanished {
        /// Its path in its hierarchy.
        path: String,
    },
}

impl Error {
    /// What a reader of the view gets for this.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Error::Gone { .. } | Error::Hidden { .. } => Errno::SRCH,
            Error::Vanished { .. } => Errno::NODEV,
            // The reader would take it for a limit of its own.
            _ if self.is_out_of_descriptors() => Errno::IO,
            Error::Root { source, .. }
            | Error::Read { source, .. }
            | Error::Write { source, .. } => Errno::from_io_error(source).unwrap_or(Errno::IO),
            Error::Parse { .. } | Error::Outside { .. } => Errno::IO,
        }
    }

    /// Whether there are no more descriptors: this process's limit, or the machine's, is reached.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        let (Error::Root { source, .. } | Error::Read { source, .. } | Error::Write { source, .. }) =
            self
        else {
            return false;
        };
        matches!(Errno::from_io_error(source), Some(Errno::MFILE | Errno::NFILE))
    }

    /// Whether the caller is nobody that this process may know: it ended, is hidden, or belongs to cgroups
    /// that have no name here.
    #[must_use]
    pub fn is_about_caller(&self) -> bool {
        matches!(self, Error::Gone { .. } | Error::Hidden { .. } | Error::Outside { .. })
    }

    /// Whether what was read is no more: the process or the cgroup. Whoever keeps something for it can
    /// let go of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Gone { .. } | Error::Vanished { .. })
    }

    pub(crate) fn read(path: impl AsRef<Path>, source: impl Into<io::Error>) -> Error {
        Error::Read { path: path.as_ref().into(), source: source.into() }
    }

    pub(crate) fn parse(path: impl AsRef<Path>, source: ParseError) -> Error {
        Error::Parse { path: path.as_ref().into(), source }
    }
}
