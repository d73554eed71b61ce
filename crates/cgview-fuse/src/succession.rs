//! How one keeper takes over from another that lives: for a new version, or an old one.
//!
//! The keeper listens on a socket. Whoever asks there is given what [`handover`](crate::handover) names, and the lock
//! of the pid file, when the worker has answered all that it had read. The keeper goes on by itself if the other
//! ends before it serves, so that a version that cannot start harms nobody.
//!
//! The first line of each message tells the number of this protocol. Within a number, names of descriptors may be
//! added, which older versions leave aside, but none may be missed.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags,
        SocketAddrUnix, SocketFlags, SocketType, sockopt::socket_peercred,
    },
};

use crate::handover::{BY_ID, DEVICE, LEDGER, send_with};

const TAKE: &[u8] = b"cgview-handover 1\nTAKE";
const SERVING: &[u8] = b"cgview-handover 1\nSERVING";
const VERSION: &str = "cgview-handover 1";

/// The lock of the pid file, among what is handed over.
const LOCK: &str = "cgview-pid-file";

/// How long a peer may take to say what it wants.
const ASKING: Duration = Duration::from_secs(1);

/// How soon a keeper that did not hand over is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a keeper may take to hand over: its worker has to answer what it has read.
const HANDING: Duration = Duration::from_secs(20);

/// How long a successor may take until it serves.
const STARTING: Duration = Duration::from_secs(30);

/// Where a keeper can be asked to hand over. Dropping it leaves the socket, which may be another's by then.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, in place of whoever did. Only root may connect.
    pub(crate) fn new(path: &Path) -> io::Result<Listener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        rustix::net::listen(&socket, 4)?;
        Ok(Listener { socket, path: path.into() })
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Listens no more.
    pub(crate) fn close(&self) {
        // Left behind, the next daemon removes it.
        let _ = fs::remove_file(&self.path);
    }

    /// Somebody who asks, and may.
    pub(crate) fn accept(&self) -> Option<Peer> {
        let socket = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC).ok()?;
        let root = socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
        let mut message = [0_u8; 64];
        let asked = root
            && wait(&socket, ASKING)
            && rustix::net::recv(&socket, &mut message, RecvFlags::DONTWAIT)
                .is_ok_and(|(length, _)| message.get(..length) == Some(TAKE));
        asked.then_some(Peer { socket })
    }
}

/// Whoever is to take over.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: OwnedFd,
}

impl Peer {
    /// Hands over, and returns whether the other serves then. Nobody may serve meanwhile.
    pub(crate) fn hand(
        &self,
        device: BorrowedFd<'_>,
        ledger: BorrowedFd<'_>,
        lock: BorrowedFd<'_>,
        by_id: Option<BorrowedFd<'_>>,
    ) -> bool {
        #[cfg(not(feature = "other-version"))]
        const NAMES: &[u8] =
            b"cgview-handover 1\ncgview-device:cgview-ledger:cgview-pid-file:cgview-by-id";
        #[cfg(feature = "other-version")]
        const NAMES: &[u8] =
            b"cgview-handover 1\ncgview-later:cgview-device:cgview-ledger:cgview-pid-file:cgview-by-id";
        let left = [
            #[cfg(feature = "other-version")]
            ledger,
            device,
            ledger,
            lock,
            by_id.unwrap_or(lock),
        ];
        // A name without a descriptor is left aside.
        let count = if by_id.is_some() { left.len() } else { left.len() - 1 };
        let mut message = [0_u8; 64];
        send_with(&self.socket, NAMES, left.get(..count).unwrap_or_default()).is_ok()
            && wait(&self.socket, STARTING)
            && rustix::net::recv(&self.socket, &mut message, RecvFlags::DONTWAIT)
                .is_ok_and(|(length, _)| message.get(..length) == Some(SERVING))
    }
}

/// What a keeper that lives has handed over. It goes on if this is dropped.
#[derive(Debug)]
pub struct Succession {
    socket: OwnedFd,
    /// [`DEVICE`].
    pub device: Option<OwnedFd>,
    /// [`BY_ID`].
    pub by_id: Option<OwnedFd>,
    /// [`LEDGER`].
    pub ledger: Option<OwnedFd>,
    /// The pid file, with its lock.
    pub lock: Option<OwnedFd>,
}

impl Succession {
    /// Asks the keeper that listens at `path`. `None` if there is none.
    ///
    /// # Errors
    ///
    /// If there is one, and it does not hand over.
    pub fn ask(path: &Path) -> io::Result<Option<Succession>> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let end = Instant::now() + HANDING;
        loop {
            match Succession::try_to_ask(path) {
                // Its worker does not serve yet, or it has not waited for a question that came late.
                Err(error)
                    if [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind())
                        && Instant::now() < end =>
                {
                    thread::sleep(AGAIN);
                }
                asked => return asked,
            }
        }
    }

    fn try_to_ask(path: &Path) -> io::Result<Option<Succession>> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR) => return Ok(None),
            connected => connected?,
        }
        rustix::net::send(&socket, TAKE, SendFlags::NOSIGNAL)?;
        if !wait(&socket, HANDING) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut text = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut text)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = rustix::net::recvmsg(&socket, &mut parts, &mut control, flags)?.bytes;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
        let other = || io::Error::new(io::ErrorKind::Unsupported, "it speaks another language");
        let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
        let names = text
            .and_then(|text| text.strip_prefix(VERSION)?.strip_prefix('\n'))
            .ok_or_else(other)?;
        let mut handed = Succession { socket, device: None, by_id: None, ledger: None, lock: None };
        for (descriptor, name) in descriptors.into_iter().zip(names.split(':')) {
            match name {
                DEVICE => handed.device = Some(descriptor),
                BY_ID => handed.by_id = Some(descriptor),
                LEDGER => handed.ledger = Some(descriptor),
                LOCK => handed.lock = Some(descriptor),
                _ => {}
            }
        }
        if handed.device.is_none() || handed.ledger.is_none() || handed.lock.is_none() {
            return Err(other());
        }
        Ok(Some(handed))
    }

    /// Tells the keeper of before that its time is over.
    pub(crate) fn complete(self) {
        // It is gone otherwise, which is what it is told.
        let _ = rustix::net::send(self.socket.as_fd(), SERVING, SendFlags::NOSIGNAL);
    }
}

/// Waits for a message. It is not known whether there is one, or the other end is gone.
fn wait(socket: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}
