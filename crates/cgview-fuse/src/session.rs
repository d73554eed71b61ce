//! A connection that is being served, and the mount that it belongs to.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cgview_host::Host;

use crate::{
    filesystem::{Connection, Drain, Which},
    greeting::Greeting,
    mount::{self, Mount},
    service::Service,
    settings::Settings,
    upkeep::Upkeep,
};

/// Has glibc ask the kernel for whatever is large, always, and have two heaps for all threads together and not one for
/// each, of which all have gaps: `M_MMAP_THRESHOLD` and `M_ARENA_MAX` of mallopt(3).
///
/// fuser reads to a buffer of 16 MiB for each thread, of which no more is in memory than was read. Once one has been
/// freed, as after the greeting, glibc would take such memory from its heap, and write zeros to all of it: 16 MiB
/// resident, in some starts and not in others.
fn keep_memory_small() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_MMAP_THRESHOLD, 1 << 20), (libc::M_ARENA_MAX, 2)] {
        // SAFETY: it takes numbers, and a lock of the allocator's.
        #[expect(unsafe_code, reason = "there is no safe way to call mallopt(3)")]
        unsafe {
            libc::mallopt(option, value);
        }
    }
}

/// A connection of the kernel's FUSE that is being served by threads of its own.
///
/// Dropping it does not end them: they end when the connection does, which is when its last mount is gone.
#[derive(Debug)]
pub struct Session {
    thread: JoinHandle<io::Result<()>>,
    ended: Arc<AtomicBool>,
    drain: (Arc<Drain>, usize),
}

impl Session {
    /// Answers the kernel's greeting on a connection that is new. Nobody can be served before.
    ///
    /// # Errors
    ///
    /// If the kernel does not begin with its greeting.
    pub fn greet(which: Which, connection: &OwnedFd) -> io::Result<Greeting> {
        Connection::greet(which, connection)
    }

    /// Takes up a connection that was greeted, and that nobody serves any more or yet, and serves it by
    /// `threads` threads. What is to be done when it ends is `then`.
    ///
    /// # Errors
    ///
    /// If the connection has ended, or there are no threads or descriptors.
    pub fn start(
        which: Which,
        service: Arc<Service>,
        connection: OwnedFd,
        greeting: &Greeting,
        threads: usize,
        then: impl FnOnce() + Send + 'static,
    ) -> io::Result<Session> {
        keep_memory_small();
        let connection = Connection::adopt(which, service, connection, greeting, threads)?;
        let drain = connection.drain.clone();
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let thread = thread::Builder::new().name("session".into()).spawn(move || {
            let result = connection.serve();
            told.store(true, Ordering::Release);
            then();
            result
        })?;
        Ok(Session { thread, ended, drain })
    }

    /// Answers what was read from the connection, and reads no more of it, for another process to go on. Then
    /// this one has to end. Returns whether that was done in time; it is not where the mount is not at
    /// `mountpoint` any more.
    pub fn drain(&self, mountpoint: &Path, patience: Duration) -> bool {
        let (drain, threads) = &self.drain;
        drain.run(*threads, mountpoint, patience)
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until the connection ends.
    ///
    /// # Errors
    ///
    /// What ended it, if that was not the unmount.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the session panicked")))
    }

    /// Waits until the connection ends, but no longer than `patience`. It goes on where files of it are bound
    /// elsewhere.
    fn wait(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while !self.has_ended() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no mount.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// The host cannot be read.
    #[error("cannot read the host")]
    Host(#[from] cgview_host::Error),
    /// The kernel does not speak FUSE with us.
    #[error("cannot serve the mount")]
    Session(#[from] io::Error),
}

/// A mount that this process serves, as `cgview run` needs it. Dropping it unmounts.
#[derive(Debug)]
pub struct Guard {
    mount: Mount,
    session: Session,
    service: Arc<Service>,
    _upkeep: Upkeep,
}

impl Guard {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Who answers.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.mount.unmount() {
            tracing::warn!("{error}");
        }
        self.session.wait(PATIENCE);
    }
}

/// How long the answers to the last requests are waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// Mounts the view at `mountpoint` and serves it from this process until the guard is dropped.
///
/// # Errors
///
/// [`Error`].
pub fn serve_in_background(mountpoint: &Path, settings: &Settings) -> Result<Guard, Error> {
    let host = match &settings.host_root {
        root if root == Path::new("/") => Host::live()?,
        root => Host::at(root)?,
    };
    let mut service = Service::new(host, settings.view);
    if settings.psi_triggers {
        service = service.with_triggers()?;
    }
    let service = Arc::new(service);
    let upkeep = Upkeep::start(Arc::clone(&service))?;
    let options = mount::Options { writable: settings.psi_triggers, ..mount::Options::default() };
    let (connection, mount) = Mount::new(mountpoint, &options)?;
    let which = Which::Shared;
    let session = Session::greet(which, &connection).and_then(|greeting| {
        let service = Arc::clone(&service);
        Session::start(which, service, connection, &greeting, settings.threads, || {})
    });
    match session {
        Ok(session) => Ok(Guard { mount, session, service, _upkeep: upkeep }),
        Err(error) => {
            // What matters is why it cannot be served.
            let _ = mount.unmount();
            Err(error.into())
        }
    }
}
