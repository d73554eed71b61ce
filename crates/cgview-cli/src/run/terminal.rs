//! Whose the terminal is after the command.
//!
//! The command stays in the process group of `cgview`, as it would under env(1): so a pipeline is one
//! job, and Ctrl-C, Ctrl-Z and changes of the window's size reach all of it from the kernel. An
//! interactive shell takes the terminal for a group of its own, and cannot give it back: the group that
//! it came from has no number in its pid namespace.

use std::fs::File;

use rustix::{
    process::{Pid, getpgrp},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// The terminal, if this process is in its foreground.
#[derive(Debug)]
pub(super) struct Terminal {
    file: File,
    foreground: Pid,
}

impl Terminal {
    /// The controlling terminal, if there is one and it is ours to use.
    pub(super) fn in_foreground() -> Option<Terminal> {
        let file = File::open("/dev/tty").ok()?;
        let foreground = tcgetpgrp(&file).ok()?;
        (foreground == getpgrp()).then_some(Terminal { file, foreground })
    }

    /// Puts this process back into the foreground. SIGTTOU must be blocked.
    pub(super) fn take_back(&self) {
        if tcgetpgrp(&self.file) != Ok(self.foreground) {
            // Without a terminal any more, there is nothing to take back.
            let _ = tcsetpgrp(&self.file, self.foreground);
        }
    }
}
