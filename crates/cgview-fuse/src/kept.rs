//! What a worker has to do with its keeper.

use std::{
    env, io, os::fd::OwnedFd, os::unix::process::ExitStatusExt as _, process::ExitStatus,
    sync::Arc, thread,
};

use rustix::net::{RecvFlags, SendFlags};

use crate::{
    keeper::DRAIN,
    spawn::{BEFORE, STATUS},
};

/// The socket between a worker and its keeper.
#[derive(Debug)]
pub struct Line {
    socket: OwnedFd,
}

impl Line {
    /// By the socket that the keeper left.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Line {
        Line { socket }
    }

    /// Tells the keeper how it goes, in the words of sd_notify(3).
    pub fn tell(&self, message: &str) {
        // It is busy, or gone; then this process ends, too.
        let _ = rustix::net::send(
            &self.socket,
            message.as_bytes(),
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
    }

    /// Does `stop` when the keeper says to end, or is gone. It is told whether another process is to go on, and
    /// so everything that was read from the connection is to be answered before.
    ///
    /// # Errors
    ///
    /// If there are no more threads.
    pub fn listen(self: &Arc<Line>, stop: impl FnOnce(bool) + Send + 'static) -> io::Result<()> {
        let line = Arc::clone(self);
        thread::Builder::new().name("keeper".into()).spawn(move || {
            let mut message = [0_u8; 16];
            let told = loop {
                match rustix::net::recv(&line.socket, &mut message, RecvFlags::empty()) {
                    Err(rustix::io::Errno::INTR) => {}
                    heard => break heard.map_or(0, |(length, _)| length),
                }
            };
            stop(message.get(..told) == Some(DRAIN));
        })?;
        Ok(())
    }
}

/// How many workers the keeper had before this one.
#[must_use]
pub fn workers_before() -> u32 {
    number(BEFORE).unwrap_or(0)
}

/// What became of the worker before this one, as in "it ...".
#[must_use]
pub fn predecessor() -> Option<String> {
    (workers_before() > 0).then(|| ending(number(STATUS).unwrap_or(0)))
}

fn number(name: &str) -> Option<u32> {
    env::var(name).ok()?.parse().ok()
}

/// By the status of wait(2).
fn ending(status: u32) -> String {
    let status = ExitStatus::from_raw(i32::from_ne_bytes(status.to_ne_bytes()));
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            format!("was ended by {name}")
        }
        (None, code) => format!("ended with status {}", code.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_told_in_words() {
        assert_eq!(ending(9), "was ended by SIGKILL");
        assert_eq!(ending(11 | 0x80), "was ended by SIGSEGV");
        assert_eq!(ending(3 << 8), "ended with status 3");
    }
}
