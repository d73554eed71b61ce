//! How the kernel and the daemon greeted each other, which they do once in the life of a connection.
//!
//! The kernel sends `FUSE_INIT` when the file system is mounted, and never again. A process that takes over
//! a connection has to know what was agreed: so both messages are kept, and the kernel's is played to it.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
};
use serde::{Deserialize, Serialize};

/// What the kernel said, and what it was answered: `fuse_init_in` and `fuse_init_out` of linux/fuse.h, with
/// their headers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Greeting {
    pub(crate) request: Vec<u8>,
    pub(crate) reply: Vec<u8>,
}

/// Room for any greeting: the kernel refuses a read with less room than for the smallest write
/// (`FUSE_MIN_READ_BUFFER`).
const ROOM: usize = 64 << 10;

impl Greeting {
    /// Answers the kernel's greeting on a connection that is new, with what `answer` makes of it.
    pub(crate) fn exchange(
        device: &OwnedFd,
        answer: impl FnOnce(OwnedFd) -> io::Result<()>,
    ) -> io::Result<Greeting> {
        let request = receive(device)?;
        let stage = Stage::new(&request)?;
        answer(stage.theirs)?;
        let reply = receive(&stage.ours)?;
        rustix::io::write(device, &reply)?;
        Ok(Greeting { request, reply })
    }

    /// Plays the kernel's greeting to `answer`, and returns what that gives, and whether the answer was the same
    /// as the kernel had.
    pub(crate) fn replay<T>(
        &self,
        answer: impl FnOnce(OwnedFd) -> io::Result<T>,
    ) -> io::Result<(T, bool)> {
        let stage = Stage::new(&self.request)?;
        let answered = answer(stage.theirs)?;
        let reply = receive(&stage.ours)?;
        Ok((answered, reply == self.reply))
    }
}

/// A pair of sockets that keeps messages apart as `/dev/fuse` does, with a request waiting at one end.
struct Stage {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Stage {
    fn new(request: &[u8]) -> io::Result<Stage> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::write(&ours, request)?;
        Ok(Stage { ours, theirs })
    }
}

/// One message.
fn receive(from: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut message = vec![0; ROOM];
    loop {
        match rustix::io::read(from, &mut *message) {
            Ok(length) => {
                message.truncate(length);
                return Ok(message);
            }
            // A request that was taken back (`fuse_dev_do_read()`), or a signal.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
