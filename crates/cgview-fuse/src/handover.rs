//! What one process leaves to the next: descriptors, by their names.
//!
//! There is one interface for all who leave something: the environment that sd_listen_fds(3) tells of. systemd's
//! file descriptor store gives back through it what it was given to keep, and the keeper starts its
//! workers with it. Names that are not known are those of a later version, and are left aside.

use std::{
    env, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt as _,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType,
    },
};

use crate::descriptors::take_inherited;

/// The device of the connection.
pub const DEVICE: &str = "cgview-device";

/// The device of the fast mount's connection, where there is one.
pub const BY_ID: &str = "cgview-by-id";

/// The file of the [`Ledger`](crate::ledger::Ledger).
pub const LEDGER: &str = "cgview-ledger";

/// A socket to the keeper. Whoever has it is a worker.
pub const KEEPER: &str = "cgview-keeper";

/// What this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// [`DEVICE`].
    pub device: Option<OwnedFd>,
    /// [`BY_ID`].
    pub by_id: Option<OwnedFd>,
    /// [`LEDGER`].
    pub ledger: Option<OwnedFd>,
    /// [`KEEPER`].
    pub keeper: Option<OwnedFd>,
}

impl Inherited {
    /// Takes it; the second time there is nothing.
    ///
    /// # Errors
    ///
    /// If the environment names descriptors that there are not.
    pub fn take() -> io::Result<Inherited> {
        let number = |name| env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
        let mut inherited = Inherited::default();
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(inherited);
        }
        let count = usize::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0);
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        for (descriptor, name) in take_inherited(count)?.into_iter().zip(names.split(':')) {
            match name {
                DEVICE => inherited.device = Some(descriptor),
                BY_ID => inherited.by_id = Some(descriptor),
                LEDGER => inherited.ledger = Some(descriptor),
                KEEPER => inherited.keeper = Some(descriptor),
                _ => {}
            }
        }
        Ok(inherited)
    }
}

/// Whether a connection has ended: its last mount is gone, or it was aborted.
#[must_use]
pub fn has_ended(device: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(device, PollFlags::IN)];
    let told = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    // `fuse_dev_poll()`.
    told.is_ok() && polled.iter().any(|polled| polled.revents().contains(PollFlags::ERR))
}

/// The service manager that this process was started by: `$NOTIFY_SOCKET` of sd_notify(3).
#[derive(Debug)]
pub struct Manager {
    socket: OwnedFd,
}

impl Manager {
    /// The manager, if there is one.
    #[must_use]
    pub fn new() -> Option<Manager> {
        let name = env::var_os("NOTIFY_SOCKET")?;
        let name = name.as_bytes();
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name),
            None => SocketAddrUnix::new(name),
        };
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        );
        let socket = socket.ok()?;
        rustix::net::connect(&socket, &address.ok()?).ok()?;
        Some(Manager { socket })
    }

    /// Whether it keeps descriptors for this service over a restart: `$FDSTORE`. systemd tells it since version
    /// 254 and keeps them before, too, so that the unit has to say it there.
    #[must_use]
    pub fn keeps_descriptors(&self) -> bool {
        let most = env::var("FDSTORE").ok().and_then(|most| most.parse::<u32>().ok());
        most.is_some_and(|most| most >= 2)
    }

    /// Tells it something. It may be busy; then it is not told.
    pub fn tell(&self, message: &[u8]) {
        let _ = rustix::net::send(&self.socket, message, SendFlags::NOSIGNAL);
    }

    /// Gives it a connection to keep, in place of one that it may have.
    ///
    /// It is not to poll the descriptors, and to drop those that tell of an error, as it would without being
    /// told so: requests that wait are none of its concern.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    pub fn store(
        &self,
        device: &OwnedFd,
        ledger: BorrowedFd<'_>,
        by_id: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let kept = [
            #[cfg(feature = "other-version")]
            (crate::other_version::LATER, ledger),
            (DEVICE, device.as_fd()),
            (LEDGER, ledger),
        ];
        for (name, descriptor) in kept.into_iter().chain(by_id.map(|by_id| (BY_ID, by_id))) {
            let remove = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
            rustix::net::send(&self.socket, remove.as_bytes(), SendFlags::NOSIGNAL)?;
            let store = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
            send_with(&self.socket, store.as_bytes(), &[descriptor])?;
        }
        Ok(())
    }

    /// Has it forget the connection, which has ended.
    pub fn remove(&self) {
        for name in [DEVICE, LEDGER, BY_ID] {
            self.tell(format!("FDSTOREREMOVE=1\nFDNAME={name}\n").as_bytes());
        }
    }
}

/// Sends a message with descriptors.
pub(crate) fn send_with(
    socket: &OwnedFd,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    let parts = [io::IoSlice::new(message)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).map(drop)
}
