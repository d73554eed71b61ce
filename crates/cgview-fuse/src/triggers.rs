//! Triggers on pressure files: who wrote one, and who waits for it.
//!
//! One thread waits for all of them. A trigger belongs to an open file, as on the host: closing it ends
//! the trigger. How many there may be is bounded, for each container and in all.

use std::{
    collections::HashMap,
    fmt,
    io::{self, PipeWriter},
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{self, SendError, Sender},
    },
    thread,
};

use parking_lot::Mutex;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
};

/// How many triggers one container may have.
const MOST_OF_ONE: usize = 32;

/// How many more of one container's may be about to end, which takes the kernel its time.
const MOST_ENDING: usize = 4 * MOST_OF_ONE;

/// How many triggers all containers may have together, with those that are about to end.
const MOST_OF_ALL: usize = 1024;

/// Tells the kernel that a poll may be answered anew.
pub type Wake = Box<dyn FnOnce() + Send>;

/// What a poll of a pressure file is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ready {
    /// The pressure rose above the threshold since the last poll.
    Fired,
    /// It did not.
    Waiting,
    /// There is no trigger, or the container is gone.
    Broken,
}

/// All triggers of one service. Dropping it ends its thread.
#[derive(Debug)]
pub struct Triggers {
    shared: Arc<Shared>,
    /// Takes those that end, by their handles.
    ending: Sender<(u64, OwnedFd)>,
    /// The thread ends when the other end of this is closed.
    _stop: PipeWriter,
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    /// By the handle of the open file.
    triggers: Mutex<HashMap<u64, Trigger>>,
}

struct Trigger {
    container: Box<str>,
    /// Polled by the thread; the trigger ends when it is closed. None while that happens.
    file: Option<OwnedFd>,
    fired: bool,
    broken: bool,
    waiting: Option<Wake>,
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trigger").field("container", &self.container).finish_non_exhaustive()
    }
}

/// What the end of the thread's pipe is known by: no open file has it, they count up from the time.
const STOP: u64 = 0;

impl Triggers {
    /// No triggers yet.
    ///
    /// # Errors
    ///
    /// If there are no more descriptors or threads.
    pub fn start() -> io::Result<Triggers> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let (stopped, stop) = io::pipe()?;
        // Its other end closing needs no flag.
        epoll::add(&epoll, &stopped, EventData::new_u64(STOP), EventFlags::empty())?;
        let shared = Arc::new(Shared { epoll, triggers: Mutex::default() });
        let waiter = Arc::clone(&shared);
        thread::Builder::new().name("triggers".into()).spawn(move || {
            waiter.wait();
            drop(stopped);
        })?;
        let (ending, ended) = mpsc::channel::<(u64, OwnedFd)>();
        let closer = Arc::clone(&shared);
        thread::Builder::new().name("triggers-end".into()).spawn(move || {
            for (handle, file) in ended {
                // The kernel waits for its own readers (`synchronize_rcu()` in `psi_trigger_destroy()`).
                drop(file);
                closer.triggers.lock().remove(&handle);
            }
        })?;
        Ok(Triggers { shared, ending, _stop: stop })
    }

    /// Keeps a trigger for an open file. `set` makes it, if there is room.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the file has one already, as the kernel has it (`psi_write()`); `ENOMEM` if there are too
    /// many; and those of `set`.
    pub fn add(
        &self,
        handle: u64,
        container: &str,
        set: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<(), Errno> {
        self.check(handle, container)?;
        // The kernel is asked without the lock, so there may be a few more than allowed.
        let file = set()?;
        let flags = EventFlags::PRI | EventFlags::ET;
        let mut triggers = self.shared.triggers.lock();
        if triggers.contains_key(&handle) {
            return Err(Errno::BUSY);
        }
        epoll::add(&self.shared.epoll, &file, EventData::new_u64(handle), flags)?;
        let trigger = Trigger {
            container: container.into(),
            file: Some(file),
            fired: false,
            broken: false,
            waiting: None,
        };
        triggers.insert(handle, trigger);
        Ok(())
    }

    fn check(&self, handle: u64, container: &str) -> Result<(), Errno> {
        let triggers = self.shared.triggers.lock();
        if triggers.contains_key(&handle) {
            return Err(Errno::BUSY);
        }
        let of_container = triggers.values().filter(|trigger| *trigger.container == *container);
        let (mut own, mut ending) = (0, 0);
        for trigger in of_container {
            let count = if trigger.file.is_some() { &mut own } else { &mut ending };
            *count += 1;
        }
        if own >= MOST_OF_ONE || ending >= MOST_ENDING || triggers.len() >= MOST_OF_ALL {
            return Err(Errno::NOMEM);
        }
        Ok(())
    }

    /// Whether the trigger of an open file went off since the last time. If it did not, `wake` is called when
    /// it does.
    pub fn poll(&self, handle: u64, wake: Option<Wake>) -> Ready {
        let mut triggers = self.shared.triggers.lock();
        let usable = |trigger: &&mut Trigger| !trigger.broken && trigger.file.is_some();
        let Some(trigger) = triggers.get_mut(&handle).filter(usable) else {
            return Ready::Broken;
        };
        if std::mem::take(&mut trigger.fired) {
            return Ready::Fired;
        }
        trigger.waiting = wake.or(trigger.waiting.take());
        Ready::Waiting
    }

    /// Whether an open file has a trigger.
    pub fn has(&self, handle: u64) -> bool {
        self.shared.triggers.lock().get(&handle).is_some_and(|trigger| trigger.file.is_some())
    }

    /// Ends the trigger of an open file, if it has one. It does not wait for the kernel, which may take a tenth
    /// of a second: all else that its container asks for would wait, too.
    pub fn release(&self, handle: u64) {
        let file = match self.shared.triggers.lock().get_mut(&handle) {
            Some(trigger) => {
                trigger.waiting = None;
                trigger.file.take()
            }
            None => None,
        };
        let Some(file) = file else { return };
        // Its thread ends with this value.
        if let Err(SendError((handle, file))) = self.ending.send((handle, file)) {
            drop(file);
            self.shared.triggers.lock().remove(&handle);
        }
    }
}

impl Shared {
    fn wait(&self) {
        let mut events = Vec::with_capacity(32);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!("cannot wait for triggers: {errno}");
                    return;
                }
            }
            for event in events.drain(..) {
                let (handle, flags) = (event.data.u64(), event.flags);
                if handle == STOP {
                    return;
                }
                let wake = {
                    let mut triggers = self.triggers.lock();
                    let Some(trigger) = triggers.get_mut(&handle) else { continue };
                    trigger.fired |= flags.contains(EventFlags::PRI);
                    // The cgroup was removed (`psi_trigger_poll()`).
                    trigger.broken |= flags.contains(EventFlags::ERR);
                    trigger.waiting.take()
                };
                if let Some(wake) = wake {
                    wake();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn file() -> Result<OwnedFd, Errno> {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
    }

    #[test]
    fn an_open_file_has_one_trigger() {
        let triggers = Triggers::start().unwrap();
        triggers.add(7, "a", file).unwrap();
        assert_eq!(triggers.add(7, "a", file), Err(Errno::BUSY));
        assert_eq!(triggers.poll(7, None), Ready::Waiting);
        triggers.release(7);
        assert_eq!(triggers.poll(7, None), Ready::Broken);
        assert!(!triggers.has(7));
        triggers.add(8, "a", file).unwrap();
    }

    #[test]
    fn those_that_end_make_room() {
        let triggers = Triggers::start().unwrap();
        for handle in 0..10 * MOST_OF_ONE as u64 {
            let end = std::time::Instant::now() + Duration::from_secs(10);
            while triggers.add(handle, "a", file) == Err(Errno::NOMEM) {
                assert!(std::time::Instant::now() < end);
                thread::sleep(Duration::from_millis(1));
            }
            triggers.release(handle);
            triggers.release(handle);
            assert_eq!(triggers.poll(handle, None), Ready::Broken);
        }
        for _ in 0..1000 {
            if triggers.shared.triggers.lock().is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("some stay");
    }

    #[test]
    fn a_container_cannot_take_all() {
        let triggers = Triggers::start().unwrap();
        let mut handle = 0;
        let mut add = |container: &str| {
            handle += 1;
            triggers.add(handle, container, file)
        };
        for _ in 0..MOST_OF_ONE {
            add("a").unwrap();
        }
        assert_eq!(add("a"), Err(Errno::NOMEM));
        add("b").unwrap();
        let mut containers = 0..;
        while let Some(number) = containers.next().filter(|number| *number < MOST_OF_ALL) {
            if add(&number.to_string()).is_err() {
                break;
            }
        }
        assert_eq!(triggers.shared.triggers.lock().len(), MOST_OF_ALL);
    }

    #[test]
    fn who_waits_is_woken_once() {
        // Out-of-band data of a socket is what else gives POLLPRI.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sender = std::net::TcpStream::connect(address).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let triggers = Triggers::start().unwrap();
        triggers.add(7, "a", || Ok(receiver.into())).unwrap();
        let (told, heard) = mpsc::channel();
        let wake = Box::new(move || told.send(()).unwrap());
        assert_eq!(triggers.poll(7, Some(wake)), Ready::Waiting);
        assert!(heard.recv_timeout(Duration::from_millis(50)).is_err());
        rustix::net::send(&sender, b"x", rustix::net::SendFlags::OOB).unwrap();
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(triggers.poll(7, None), Ready::Fired);
        assert_eq!(triggers.poll(7, None), Ready::Waiting);
    }

    #[test]
    fn the_thread_ends_with_it() {
        let triggers = Triggers::start().unwrap();
        let shared = Arc::downgrade(&triggers.shared);
        drop(triggers);
        for _ in 0..1000 {
            if shared.strong_count() == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the thread goes on");
    }
}
