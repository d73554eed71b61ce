//! What hook and wrapper have to say: they never fail, so nobody would ask them.
//!
//! Runtimes throw away what a hook that succeeds has written to its standard error, so it goes to the machine's
//! log as well, by the datagram of syslog(3) (RFC 3164; systemd's journal takes it, too).

use std::{fmt::Display, fs, io::Write as _, os::unix::net::UnixDatagram, path::Path};

/// `LOG_DAEMON | LOG_WARNING` of syslog(3).
const PRIORITY: u8 = 3 << 3 | 4;

/// Says a line to the standard error, to a file if there is one, and else to the machine's log. Never waits, never
/// fails.
pub fn warn(program: &str, file: Option<&Path>, line: impl Display) {
    let line = format!("{program}: {line}");
    let _ = writeln!(std::io::stderr(), "{line}");
    match file {
        Some(file) => {
            let opened = fs::File::options().append(true).create(true).open(file);
            let _ = opened.and_then(|mut file| writeln!(file, "{line}"));
        }
        None => {
            let send = || {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                let pid = std::process::id();
                let (_, text) = line.split_once(": ").unwrap_or(("", &line));
                socket
                    .send_to(format!("<{PRIORITY}>{program}[{pid}]: {text}").as_bytes(), "/dev/log")
            };
            let _ = send();
        }
    }
}
