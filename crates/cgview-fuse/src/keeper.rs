//! The keeper: it holds a connection, and has a worker that serves it. When the worker dies, hangs or is stopped,
//! it starts another one, which takes up the same connection, and readers have but waited.
//!
//! It is made to have no reason to die itself: after its start it parses nothing, takes no memory, has one thread
//! and never waits for the file system that it keeps. A worker ends with its keeper.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid},
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::{
    filesystem::resend,
    handover::{Manager, has_ended},
    mount::{self, Mount},
    pid_file::PidFile,
    session::PATIENCE,
    settings::Settings,
    spawn::{Program, Told, start_prober},
    succession::{Listener, Peer, Succession},
};

/// What the worker is told: to end.
const STOP: &[u8] = b"STOP";

/// The same, but another process is to go on with the connection.
pub(crate) const DRAIN: &[u8] = b"DRAIN";

/// How long a worker may take until it serves.
const START: Duration = Duration::from_secs(30);

/// How long a worker that was killed may take to end. A thread of it may be in the midst of a system call that
/// nothing interrupts, and is nobody to wait for.
const DYING: Duration = Duration::from_secs(5);

/// How many of those there may be whose end is still looked for.
const ABANDONED: usize = 16;

/// How long a worker may take to end.
const STOPPING: Duration = Duration::from_secs(5);

/// How often the file system is asked how it is, at least.
const PROBE: Duration = Duration::from_millis(500);

/// A worker that was killed for its silence may have been slow rather than stuck: the next one is given twice the
/// time, up to this.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Whoever ends sooner after it began to serve has died at once.
const AT_ONCE: Duration = Duration::from_millis(50);

/// So many workers in a row may die at once without the next one having to wait.
const AT_ONCE_ALLOWED: u32 = 3;

/// How long the next one waits then, and twice as long with each that dies at once, up to a second.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Signals that have been sent to this process, each by a pipe of its own.
///
/// It is made before there is a mount, so that no signal ends the process and leaves the mount behind.
#[derive(Debug)]
pub struct Signals {
    pipes: [OwnedFd; SIGNALS.len()],
}

const SIGNALS: [i32; 6] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD];

impl Signals {
    /// Takes signals from now on.
    ///
    /// # Errors
    ///
    /// If there are no more descriptors.
    pub fn new() -> io::Result<Signals> {
        let mut pipes = Vec::with_capacity(SIGNALS.len());
        for signal in SIGNALS {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            signal_hook::low_level::pipe::register(signal, write)?;
            pipes.push(read);
        }
        let pipes = <[OwnedFd; SIGNALS.len()]>::try_from(pipes);
        Ok(Signals { pipes: pipes.map_err(|_| io::ErrorKind::OutOfMemory)? })
    }

    /// Whether a signal was sent since the last time.
    fn take(pipe: &OwnedFd) -> bool {
        let mut bytes = [0_u8; 64];
        rustix::io::read(pipe, &mut bytes).is_ok_and(|length| length > 0)
    }
}

/// What a keeper keeps.
#[derive(Debug)]
pub struct Custody {
    /// The device of the connection.
    pub device: OwnedFd,
    /// The file of the [`Ledger`](crate::ledger::Ledger).
    pub ledger: OwnedFd,
    /// Where it is mounted.
    pub mount: Mount,
    /// Whether the mount was there before this process.
    pub adopted: bool,
    /// The fast mount, where there is one.
    pub by_id: Option<Second>,
}

/// Another connection of the same service.
#[derive(Debug)]
pub struct Second {
    /// Its device.
    pub device: OwnedFd,
    /// Where it is mounted.
    pub mount: Mount,
}

impl Custody {
    /// Unmounts all.
    ///
    /// # Errors
    ///
    /// Those of [`Mount::unmount`].
    pub fn unmount(&self) -> Result<(), mount::Error> {
        let second = self.by_id.as_ref().map_or(Ok(()), |second| second.mount.unmount());
        self.mount.unmount().and(second)
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Another keeper has taken over.
    HandedOver,
    /// It was told to, or the mount is gone.
    Stopped,
    /// It was told to, and that nobody is to go on with the connection.
    Interrupted,
    /// The first worker could not serve, and has said why: this is its exit status.
    Failed(i32),
}

/// A process that serves.
#[derive(Debug)]
struct Worker {
    pid: Pid,
    control: OwnedFd,
    started: Instant,
    ready: Option<Instant>,
    /// When it was killed.
    killed: Option<Instant>,
}

impl Worker {
    fn kill(&mut self) {
        self.killed.get_or_insert_with(Instant::now);
        let _ = kill_process(self.pid, Signal::KILL);
    }
}

/// What there is to do next.
enum Next {
    GoOn,
    Stop,
    End(End),
}

/// A keeper with its worker.
#[derive(Debug)]
pub struct Keeper {
    custody: Custody,
    lock: PidFile,
    signals: Signals,
    listener: Option<Listener>,
    /// Where it is going to listen.
    socket: PathBuf,
    /// The keeper of before, which waits until this one serves.
    succession: Option<Succession>,
    manager: Option<Manager>,
    /// Whether the manager keeps the connection when this process ends.
    kept_on: bool,
    program: Program,
    mountpoint: CString,
    worker: Option<Worker>,
    /// Those that were killed and not waited for.
    abandoned: [Option<Pid>; ABANDONED],
    /// When the next one is started, while there is none.
    next: Instant,
    told: Told,
    /// Whether any worker has served.
    served: bool,
    died_at_once: u32,
    prober: Option<Pid>,
    probe: Duration,
    beats: OwnedFd,
    beating: OwnedFd,
    /// The prober was answered then, or could not be expected to be before.
    heard: Instant,
    /// The worker is replaced after this time without an answer.
    silence: Option<Duration>,
    longest: Option<Duration>,
}

impl Keeper {
    /// Prepares to keep a connection, which another keeper may have handed over.
    ///
    /// # Errors
    ///
    /// If there are no more descriptors.
    pub fn new(
        custody: Custody,
        lock: PidFile,
        signals: Signals,
        settings: &Settings,
        succession: Option<Succession>,
    ) -> io::Result<Keeper> {
        let manager = Manager::new();
        let silence = settings.watchdog;
        let (beats, beating) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let wanted = sd_notify::watchdog_enabled();
        let probe = [silence.map(|silence| silence / 4), wanted.map(|wanted| wanted / 3)];
        let mut kept_on = false;
        if let Some(manager) = manager.as_ref().filter(|manager| manager.keeps_descriptors()) {
            let by_id = custody.by_id.as_ref().map(|second| second.device.as_fd());
            manager.store(&custody.device, custody.ledger.as_fd(), by_id)?;
            kept_on = true;
        }
        let mut keeper = Keeper {
            mountpoint: CString::new(custody.mount.path().as_os_str().as_bytes())?,
            program: Program::new(custody.by_id.is_some())?,
            custody,
            lock,
            signals,
            listener: None,
            socket: settings.keeper_socket(),
            succession,
            manager,
            kept_on,
            worker: None,
            abandoned: [None; ABANDONED],
            next: Instant::now(),
            told: Told::default(),
            served: false,
            died_at_once: 0,
            prober: None,
            probe: probe.into_iter().flatten().fold(PROBE, Duration::min),
            beats,
            beating,
            heard: Instant::now(),
            silence,
            longest: silence,
        };
        if keeper.succession.is_none() {
            keeper.listen();
        }
        Ok(keeper)
    }

    fn listen(&mut self) {
        match Listener::new(&self.socket) {
            Ok(listener) => self.listener = Some(listener),
            // Nothing else depends on it.
            Err(error) => tracing::warn!(
                "cannot be replaced by --replace, for want of the socket {}: {error}",
                self.socket.display()
            ),
        }
    }

    /// Keeps the connection until it ends, or a signal says so.
    pub fn run(mut self) -> End {
        let end = loop {
            if self.worker.is_none() && Instant::now() >= self.next {
                self.start_worker();
            }
            let before = Instant::now();
            let timeout = self.timeout(before);
            self.wait(timeout);
            // This process was not running either: it was frozen with all others, or the machine slept.
            if before.elapsed() > timeout + PROBE {
                self.heard = Instant::now();
            }
            match self.look() {
                Next::GoOn => {}
                Next::Stop => break End::Stopped,
                Next::End(end) => break end,
            }
        };
        self.finish(end);
        end
    }

    /// Until when there is nothing to do.
    fn timeout(&self, now: Instant) -> Duration {
        let mut timeout = PROBE;
        if self.worker.is_none() {
            timeout = timeout.min(self.next.saturating_duration_since(now));
        }
        timeout
    }

    fn wait(&self, timeout: Duration) {
        let [term, int, hup, usr1, usr2, child] = &self.signals.pipes;
        // Any descriptor does where there is no worker.
        let control = self.worker.as_ref().map_or(child, |worker| &worker.control);
        let listener = self.listener.as_ref().map_or(child, Listener::socket);
        let watched = [term, int, hup, usr1, usr2, child, &self.beats, control, listener];
        let mut polled = watched.map(|descriptor| PollFd::new(descriptor, PollFlags::IN));
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // Interrupted or not, all of them are looked at.
        if poll(&mut polled, Some(&timeout)).is_err_and(|errno| errno != Errno::INTR) {
            thread::sleep(PAUSE);
        }
    }

    fn look(&mut self) -> Next {
        let [term, int, hup, usr1, usr2, child] = &self.signals.pipes;
        // None of them is left unread.
        let stop = Signals::take(term);
        let interrupted = Signals::take(int);
        let forwarded = [(hup, Signal::HUP), (usr1, Signal::USR1), (usr2, Signal::USR2)];
        for (pipe, signal) in forwarded {
            if Signals::take(pipe)
                && let Some(worker) = &self.worker
            {
                let _ = kill_process(worker.pid, signal);
            }
        }
        let child = Signals::take(child);
        // Both, where a unit's stop sends the one and systemd then the other.
        if interrupted {
            return Next::End(End::Interrupted);
        }
        if stop {
            return Next::Stop;
        }
        self.hear_worker();
        self.hear_prober();
        if child {
            self.reap_prober();
            self.reap_abandoned();
            if let Some(status) = self.reap_worker() {
                return self.worker_ended(status);
            }
        }
        if let Some(peer) = self.listener.as_ref().and_then(Listener::accept)
            && self.hand_over(&peer)
        {
            return Next::End(End::HandedOver);
        }
        self.watch();
        Next::GoOn
    }

    /// Has the worker answer what it has read, and hands the connection over. If the other one does not serve
    /// then, another worker is started.
    fn hand_over(&mut self, peer: &Peer) -> bool {
        if self.worker.as_ref().is_some_and(|worker| worker.ready.is_none()) {
            return false;
        }
        self.end_worker(DRAIN);
        let Custody { device, ledger, by_id, .. } = &self.custody;
        let by_id = by_id.as_ref().map(|second| second.device.as_fd());
        let handed = peer.hand(device.as_fd(), ledger.as_fd(), self.lock.as_fd(), by_id);
        self.next = Instant::now();
        handed
    }

    fn end_worker(&mut self, message: &[u8]) {
        if let Some(worker) = &self.worker {
            let _ = rustix::net::send(&worker.control, message, SendFlags::NOSIGNAL);
        }
        if !self.worker_ends(STOPPING)
            && let Some(worker) = &self.worker
        {
            let _ = kill_process(worker.pid, Signal::KILL);
            self.worker_ends(STOPPING);
        }
    }

    fn start_worker(&mut self) {
        let started = self.try_to_start();
        let now = Instant::now();
        match started {
            Ok(worker) => {
                self.heard = now;
                self.worker = Some(worker);
            }
            // There are no more processes, or no memory.
            Err(_) => self.pause(now),
        }
        if self.prober.is_none() {
            let told = self.beating.as_fd();
            self.prober = start_prober(&self.mountpoint, self.probe, told).ok();
        }
    }

    fn try_to_start(&mut self) -> io::Result<Worker> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (control, its) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&its, false)?;
        let Custody { device, ledger, by_id, .. } = &self.custody;
        let by_id = by_id.as_ref().map_or(&its, |second| &second.device);
        let left: [BorrowedFd<'_>; 4] = [device, ledger, &its, by_id].map(|left| left.as_fd());
        let pid = self.program.start(self.told, left)?;
        Ok(Worker { pid, control, started: Instant::now(), ready: None, killed: None })
    }

    /// What the worker says is for the service manager, in its words (sd_notify(3)).
    fn hear_worker(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        let mut message = [0_u8; 512];
        while let Ok((length, _)) =
            rustix::net::recv(&worker.control, &mut message, RecvFlags::DONTWAIT)
            && let Some(message) = message.get(..length)
            && !message.is_empty()
        {
            if message.starts_with(b"READY=1") {
                let now = Instant::now();
                worker.ready = Some(now);
                self.heard = now;
                self.served = true;
            }
            if let Some(manager) = &self.manager {
                manager.tell(message);
            }
        }
        if self.served
            && let Some(succession) = self.succession.take()
        {
            self.lock.take_over();
            self.listen();
            succession.complete();
        }
    }

    fn hear_prober(&mut self) {
        if !Signals::take(&self.beats) {
            return;
        }
        self.heard = Instant::now();
        if let Some(manager) = &self.manager {
            manager.tell(b"WATCHDOG=1");
        }
        let settled =
            |worker: &Worker| worker.ready.is_some_and(|ready| ready.elapsed() > LONGEST_SILENCE);
        if self.worker.as_ref().is_some_and(settled) {
            self.silence = self.longest;
        }
    }

    /// How the worker ended, if it has.
    fn reap_worker(&mut self) -> Option<WaitStatus> {
        let worker = self.worker.as_mut()?;
        let (_, status) = waitpid(Some(worker.pid), CHANGES).ok()??;
        if status.stopped() {
            // Nobody is served by it, and what it has read is for the next one to answer.
            worker.kill();
            return None;
        }
        Some(status)
    }

    fn reap_abandoned(&mut self) {
        for abandoned in &mut self.abandoned {
            let has_ended = |pid: &mut Pid| !matches!(waitpid(Some(*pid), CHANGES), Ok(None));
            if abandoned.take_if(has_ended).is_some() {
                // What its last thread took after the next worker had begun is answered by nobody. What is
                // being answered is answered again, which the kernel leaves aside. Before Linux 6.9 it fails.
                let _ = resend(&self.custody.device);
            }
        }
    }

    fn reap_prober(&mut self) {
        let Some(pid) = self.prober else { return };
        match waitpid(Some(pid), CHANGES) {
            Ok(Some((_, status))) if status.stopped() => {
                let _ = kill_process(pid, Signal::KILL);
            }
            Ok(Some(_)) => {
                self.prober = start_prober(&self.mountpoint, self.probe, self.beating.as_fd()).ok();
            }
            _ => {}
        }
    }

    fn worker_ended(&mut self, status: WaitStatus) -> Next {
        let Some(worker) = self.worker.take() else { return Next::GoOn };
        if has_ended(&self.custody.device) {
            return Next::Stop;
        }
        if !self.served {
            if let Some(signal) = status.terminating_signal() {
                tracing::error!("the first worker was ended by signal {signal} before it served");
            }
            return Next::End(End::Failed(status.exit_status().unwrap_or(1)));
        }
        self.told = Told {
            before: self.told.before.saturating_add(1),
            status: u32::from_ne_bytes(status.as_raw().to_ne_bytes()),
        };
        let now = Instant::now();
        self.next = now;
        if worker.ready.is_none_or(|ready| ready.elapsed() < AT_ONCE) {
            self.pause(now);
        } else {
            self.died_at_once = 0;
        }
        Next::GoOn
    }

    /// Lets the next worker wait, if too many died at once.
    fn pause(&mut self, now: Instant) {
        self.died_at_once = self.died_at_once.saturating_add(1);
        let beyond = self.died_at_once.saturating_sub(AT_ONCE_ALLOWED);
        let pause = match beyond.checked_sub(1) {
            None => Duration::ZERO,
            Some(doubled) => PAUSE.saturating_mul(1 << doubled.min(8)).min(LONGEST_PAUSE),
        };
        self.next = now + pause;
    }

    /// Replaces a worker that does not answer.
    fn watch(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        if worker.killed.is_some_and(|killed| killed.elapsed() > DYING) {
            let place = self.abandoned.iter_mut().find(|place| place.is_none());
            place.into_iter().for_each(|place| *place = Some(worker.pid));
            self.worker = None;
            self.told.before = self.told.before.saturating_add(1);
            self.told.status = u32::try_from(Signal::KILL.as_raw()).unwrap_or_default();
            self.next = Instant::now();
            return;
        }
        let Some(silence) = self.silence else { return };
        let patience = if worker.ready.is_some() { silence } else { START.max(silence) };
        let since = if worker.ready.is_some() { self.heard } else { worker.started };
        if since.elapsed() > patience {
            self.heard = Instant::now();
            self.silence = Some((silence * 2).min(LONGEST_SILENCE.max(silence)));
            worker.kill();
        }
    }

    /// Ends the worker, and the mount unless it is kept on by somebody else.
    fn finish(&mut self, end: End) {
        if end == End::HandedOver {
            self.lock.leave();
            tracing::info!("another process has taken over");
            return;
        }
        if let Some(manager) = &self.manager {
            manager.tell(b"STOPPING=1");
        }
        if let Some(prober) = self.prober.take() {
            let _ = kill_process(prober, Signal::KILL);
        }
        let failed = matches!(end, End::Failed(_));
        let gone = has_ended(&self.custody.device);
        // A mount that nobody has been served by is not left to wait for a start that may fail again.
        let fresh = failed && !self.custody.adopted;
        let kept_on = self.kept_on && !gone && !fresh && end != End::Interrupted;
        if !(kept_on || failed && self.custody.adopted) {
            if let Err(error) = self.custody.unmount() {
                tracing::warn!("{error}");
            }
            if let Some(manager) = self.manager.as_ref().filter(|_| self.kept_on) {
                manager.remove();
            }
        }
        let patience = if kept_on { Duration::ZERO } else { PATIENCE };
        if !self.worker_ends(patience) {
            if !kept_on {
                tracing::info!(
                    "files are still bound into containers; they cannot be read until it runs again"
                );
            }
            self.end_worker(if kept_on { DRAIN } else { STOP });
        }
        if let Some(listener) = &self.listener {
            listener.close();
        }
        if kept_on {
            tracing::info!("stopped; readers wait for the next start");
        } else if !failed {
            tracing::info!("stopped");
        }
    }

    /// Waits for the worker to end. Returns whether it has.
    fn worker_ends(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let Some(worker) = &self.worker else { return true };
            match waitpid(Some(worker.pid), WaitOptions::NOHANG) {
                Ok(None) | Err(Errno::INTR) => {}
                _ => {
                    self.worker = None;
                    return true;
                }
            }
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A child that ended, and one that was stopped; but nobody is waited for.
const CHANGES: WaitOptions = WaitOptions::NOHANG.union(WaitOptions::UNTRACED);
