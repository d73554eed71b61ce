//! A connection of the kernel's FUSE: how it begins, and how it is taken over.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use fuser::{Config, Filesystem, InitFlags, KernelConfig, Request, Session, SessionACL};
use rustix::io::Errno;

use super::{Drain, ViewFilesystem, by_id::ByIdFilesystem, entries::Sizes, view::View};
use crate::{
    descriptors::{clone_device, replace},
    dispatch::{self, Dispatcher},
    greeting::Greeting,
    service::Service,
};

/// The largest read that is answered in one piece. fuser and the kernel derive the pages of a request
/// from the largest write; a machine of 512 CPUs has a `cpuinfo` of 700 KiB.
const MAX_REQUEST: u32 = 1 << 20;

/// A connection of the kernel's FUSE, taken up to be served.
pub(crate) struct Connection {
    serve: Box<dyn FnOnce() -> io::Result<()> + Send>,
    /// By which it comes to an end between two requests, and how many threads there are then to be ended.
    pub(crate) drain: (Arc<Drain>, usize),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("drain", &self.drain).finish_non_exhaustive()
    }
}

/// Which of the mounts a connection is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Which {
    /// That of LXCFS's layout, where each reader sees what is its own.
    Shared,
    /// The fast one, where each container has a directory.
    ById,
}

impl Connection {
    /// Answers the kernel's greeting on a new connection, which comes once in its life (`FUSE_INIT`).
    pub(crate) fn greet(which: Which, device: &OwnedFd) -> io::Result<Greeting> {
        Greeting::exchange(device, |stage| {
            Session::from_fd(Greeter(which), stage, SessionACL::All, Config::default()).map(drop)
        })
    }

    /// Takes up a connection that was greeted, by this process or by one that is gone, which may have left
    /// requests unanswered: these are answered now.
    ///
    /// fuser insists on a greeting, so it gets the one of then, from a socket; and then the device in
    /// place of the socket.
    pub(crate) fn adopt(
        which: Which,
        service: Arc<Service>,
        device: OwnedFd,
        greeting: &Greeting,
        threads: usize,
    ) -> io::Result<Connection> {
        let drain = (Arc::<Drain>::default(), dispatch::threads(threads));
        let dispatcher = Dispatcher::start(Arc::clone(&service), threads)?;
        let since = SystemTime::now();
        let drained = Arc::clone(&drain.0);
        let serve: Box<dyn FnOnce() -> io::Result<()> + Send> = match which {
            Which::Shared => {
                let notifier = Arc::new(OnceLock::new());
                let sizes = Sizes::Hidden;
                let view = View { service, since, sizes, notifier: Arc::clone(&notifier) };
                let filesystem =
                    ViewFilesystem { view: Arc::new(view), dispatcher, drain: drained };
                let session = adopt(which, filesystem, &device, greeting, drain.1)?;
                // It was empty.
                let _ = notifier.set(session.notifier());
                Box::new(move || session.run())
            }
            Which::ById => {
                let filesystem = ByIdFilesystem { dispatcher, service, since, drain: drained };
                let session = adopt(which, filesystem, &device, greeting, drain.1)?;
                Box::new(move || session.run())
            }
        };
        Ok(Connection { serve, drain })
    }

    /// Serves it until its last mount is gone.
    pub(crate) fn serve(self) -> io::Result<()> {
        (self.serve)()
    }
}

/// Gives fuser the greeting of then, and the connection in the place where that came from.
fn adopt<F: Filesystem>(
    which: Which,
    filesystem: F,
    device: &OwnedFd,
    greeting: &Greeting,
    threads: usize,
) -> io::Result<Session<F>> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads);
    let (session, same) =
        greeting.replay(|stage| Session::from_fd(filesystem, stage, SessionACL::All, config))?;
    // The ledger has the greeting of the shared mount; the kernel says the same on all connections.
    if !same && which == Which::Shared {
        tracing::warn!(
            "the connection was begun by a version that agreed on something else with the kernel"
        );
    }
    match resend(device) {
        Ok(()) => replace(session.as_fd(), device)?,
        // Before Linux 6.9, what one process read can be answered by no other. So it is read in a way that
        // fails it at once when the process ends, rather than never.
        Err(Errno::INVAL) => replace(session.as_fd(), &clone_device(device)?)?,
        Err(errno) => return Err(errno.into()),
    }
    Ok(session)
}

/// Has the kernel ask again for all that was read from the connection and not answered
/// (`FUSE_NOTIFY_RESEND`, since Linux 6.9). Whoever read it must be gone.
///
/// # Errors
///
/// `EINVAL` on a kernel that does not know this.
pub(crate) fn resend(device: &OwnedFd) -> Result<(), Errno> {
    /// `FUSE_NOTIFY_RESEND` of linux/fuse.h.
    const RESEND: i32 = 7;
    /// `struct fuse_out_header`, and nothing else.
    const LENGTH: u32 = 16;
    let mut message = [0; LENGTH as usize];
    let fields = [LENGTH.to_ne_bytes(), RESEND.to_ne_bytes()];
    for (place, byte) in message.iter_mut().zip(fields.iter().flatten()) {
        *place = *byte;
    }
    rustix::io::write(device, &message).map(drop)
}

/// What is agreed on with the kernel.
pub(super) fn agree(which: Which, config: &mut KernelConfig) {
    // Refused only where fuser's own bound is lower, and then that one stays.
    let _ = config.set_max_write(MAX_REQUEST);
    // Without it the kernel has one of all containers at a time look up a name in a directory, or list it
    // (`fuse_lock_inode()`), and the others cannot even be killed meanwhile. Linux 4.7 has it.
    let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
    if which == Which::ById {
        // Another time of change is another text. Whatever has FUSE at all has it.
        let _ = config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA);
    }
}

/// Answers the kernel's greeting, and nothing else.
struct Greeter(Which);

impl Filesystem for Greeter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        agree(self.0, config);
        Ok(())
    }
}
