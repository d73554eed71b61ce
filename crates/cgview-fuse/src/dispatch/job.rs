//! One request, from its arrival to its answer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use cgview_core::tree::{Dir, Entry, File};
use cgview_host::ContainerId;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::lanes::Weight;
use crate::{
    metrics::Outcome,
    service::{Caller, Error, Service},
};

/// What may be asked: what takes the kernel to answer, or has to wait for its turn.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ask {
    /// The text of an open file.
    Read {
        /// The file.
        file: File,
        /// Of the open file.
        handle: u64,
        /// Where the read begins.
        offset: u64,
    },
    /// The text of a file for a caller that is known: see `Dispatcher::submit_for`.
    Text {
        /// The file.
        file: File,
        /// How old its numbers may be.
        age: Duration,
    },
    /// An entry of a directory whose entries depend on who asks.
    Lookup {
        /// The directory.
        dir: Dir,
        /// The entry's name.
        name: Box<[u8]>,
    },
    /// All entries of a directory.
    List {
        /// The directory.
        dir: Dir,
    },
    /// To take what is written to an open file.
    Write {
        /// The file.
        file: File,
        /// Of the open file.
        handle: u64,
        /// What is written.
        text: Box<[u8]>,
    },
    /// To forget an open file that has a trigger: the kernel waits for its own readers then.
    Release {
        /// Of the open file.
        handle: u64,
    },
    /// Its turn, no more: what else there is to do takes next to nothing, and is the reply's. See `Dispatcher::pass`.
    Turn,
}

/// What the answer is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// To [`Ask::Read`] and [`Ask::Text`]: the whole text.
    Text(Arc<[u8]>),
    /// To [`Ask::Lookup`].
    Entry(Entry),
    /// To [`Ask::List`].
    Entries(Vec<Entry>),
    /// To [`Ask::Write`], [`Ask::Release`] and [`Ask::Turn`].
    Done,
}

/// Takes the answer to whoever asked.
pub type Reply = Box<dyn FnOnce(Result<Told, Errno>) + Send>;

/// A request. It is answered once, by whoever is first.
pub(super) struct Job {
    number: u64,
    caller: Caller,
    ask: Ask,
    came: Instant,
    who: OnceLock<cgview_host::Caller>,
    reply: Mutex<Option<Reply>>,
}

impl Job {
    pub(super) fn new(number: u64, caller: Caller, ask: Ask, reply: Reply) -> Job {
        let reply = Mutex::new(Some(reply));
        Job { number, caller, ask, came: Instant::now(), who: OnceLock::new(), reply }
    }

    /// What the connection knows it by.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// One of a caller that is known.
    pub(super) fn of(number: u64, who: cgview_host::Caller, ask: Ask, reply: Reply) -> Job {
        let job = Job::new(number, Caller { tid: 0, uid: 0 }, ask, reply);
        let _ = job.who.set(who);
        job
    }

    pub(super) fn came(&self) -> Instant {
        self.came
    }

    pub(super) fn weight(&self) -> Weight {
        match self.ask {
            Ask::Turn => Weight::Light,
            _ => Weight::Full,
        }
    }

    /// Whether somebody else has answered.
    pub(super) fn is_answered(&self) -> bool {
        self.reply.lock().is_none()
    }

    /// Finds out whose request it is, if that can be told.
    pub(super) fn identify(&self, service: &Service) -> Option<ContainerId> {
        // What is wrong is found again, and told, when it is answered.
        let who = guarded(service, || service.find(self.caller.tid).ok()).ok()??;
        let id = who.container.id().clone();
        let _ = self.who.set(who);
        Some(id)
    }

    /// Finds the answer, which is to be told. `None` if it was told, as this ended in a panic.
    pub(super) fn find_answer(&self, service: &Service) -> Option<Result<Told, Errno>> {
        let told = guarded(service, || match &self.ask {
            Ask::Read { file, .. } => service
                .text_of(self.caller.tid, self.who.get(), *file)
                .map(Told::Text)
                .map_err(|error| error.errno()),
            Ask::Text { file, age } => match self.who.get() {
                Some(who) => service
                    .text_within(who, *file, *age)
                    .map(Told::Text)
                    .map_err(|error| error.errno()),
                None => Err(Errno::IO),
            },
            Ask::Lookup { dir, name } => service.lookup(self.caller, *dir, name).map(Told::Entry),
            Ask::List { dir } => service
                .list_for(self.caller, *dir)
                .map(Told::Entries)
                .map_err(|error| error.errno()),
            Ask::Write { file, handle, text } => {
                service.write(self.caller, *file, *handle, text).map(|()| Told::Done)
            }
            Ask::Release { handle } => {
                service.release(*handle);
                Ok(Told::Done)
            }
            Ask::Turn => Ok(Told::Done),
        });
        let panicked = |Panicked| self.give_up(service, Error::Panic, true);
        told.map_err(panicked).ok()
    }

    /// Answers it without asking the kernel, and if nothing is known with an error if this is the last chance.
    /// Returns whether it is answered.
    pub(super) fn give_up(&self, service: &Service, error: Error, is_last: bool) -> bool {
        if self.is_answered() {
            return true;
        }
        let told = guarded(service, || {
            let recent = || service.recent(self.caller.tid, self.came.elapsed());
            let who = self.who.get().cloned().or_else(recent);
            match &self.ask {
                Ask::Read { file, .. } | Ask::Text { file, .. } => service
                    .text_without_asking(who.as_ref(), *file, error, is_last)
                    .map(Told::Text)
                    .map_err(|error| error.errno()),
                Ask::Lookup { dir, name } => {
                    service.lookup_without_asking(who.as_ref(), *dir, name).map(Told::Entry)
                }
                Ask::Release { .. } | Ask::Turn => Ok(Told::Done),
                Ask::List { .. } | Ask::Write { .. } => Err(error.errno()),
            }
        });
        let told = told.unwrap_or(Err(Errno::IO));
        // What cannot be shown is known.
        let is_known = told.is_ok() || matches!(told, Err(Errno::NOENT));
        if is_known || is_last {
            self.tell(service, told);
        }
        is_known || is_last
    }

    /// Answers it with an error, as so many processes have ended while they worked on it.
    pub(super) fn refuse(&self, service: &Service, deaths: u64) {
        let what = match &self.ask {
            Ask::Read { file, .. } | Ask::Text { file, .. } | Ask::Write { file, .. } => {
                Entry::File(*file).path()
            }
            Ask::Lookup { dir, .. } | Ask::List { dir } => Entry::Dir(*dir).path(),
            Ask::Release { .. } | Ask::Turn => "an open file".into(),
        };
        service.metrics().error("fatal", Outcome::Fail);
        tracing::error!(
            "cannot answer a request for {what}: {deaths} workers crashed at it; the reader got an error"
        );
        self.tell(service, Err(Errno::IO));
    }

    /// Answers it, unless somebody else has.
    pub(super) fn tell(&self, service: &Service, told: Result<Told, Errno>) {
        let Some(reply) = self.reply.lock().take() else { return };
        service.acquit(self.number);
        let _ = guarded(service, || {
            // Later reads go on with the text that this one got, and no other.
            let held = match (&self.ask, &told) {
                (Ask::Read { handle, .. }, Ok(Told::Text(text))) => {
                    let whose = self.who.get().map(|who| who.container.id().clone());
                    service.hold(*handle, whose, text)
                }
                _ => Ok(()),
            };
            reply(held.and(told));
        });
    }
}

/// A panic was caught and counted.
#[derive(Debug)]
struct Panicked;

/// The one place where a panic ends.
fn guarded<T>(service: &Service, run: impl FnOnce() -> T) -> Result<T, Panicked> {
    // The service's locks do not poison, and what they guard is replaced as a whole.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
        service.metrics().panics.inc();
        tracing::error!("a request ended in a panic");
        Panicked
    })
}
