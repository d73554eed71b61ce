//! Faults on purpose: containers full of readers, and a daemon that is killed, starved and replaced under
//! them.
//!
//! A test starts a [`Daemon`] and a [`Load`], makes something go wrong for some seconds ([`seconds`]), and
//! looks at what the readers saw ([`Totals`]). Each text that a reader gets is judged against what its
//! container was given ([`Checker`]), each system call is timed, and what goes wrong is written down.
//!
//! How long a read may take is not said in seconds alone: [`Stalls`] measures how long a thread that asks for
//! nothing waits on the same machine at the same time.
#![expect(clippy::missing_panics_doc, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "libtest shows a test's output")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod board;
mod container;
mod daemon;
mod fault;
mod flood;
mod load;
mod meter;
mod reader;
mod scale;
mod texts;

pub use board::Totals;
pub use cgview_testkit::{is_guest, kernel_is_at_least};
pub use container::{Files, bind};
pub use daemon::{Daemon, Dirs, command, eventually, other_program, program};
pub use fault::{Fault, Oom, Storm, Struck};
pub use flood::{Act, Flood, Reads};
pub use load::{Load, Shape};
pub use meter::{Resources, Stalls};
pub use scale::{Scale, alone, seconds, seed};
pub use texts::{Checker, Truth, Wrong};
