//! What the next process is to know, written down as it happens: see [`Ledger`].

use std::{
    os::fd::AsFd as _,
    sync::{Arc, atomic::Ordering},
};

use cgview_core::{Usec, cpu_view::CpuView};
use serde::{Deserialize, Serialize};

#[cfg(not(feature = "other-version"))]
use serde_json::to_vec as encode;

use super::Service;
#[cfg(feature = "other-version")]
use crate::other_version::encode;
use crate::{
    fatal::{Noted, Notes},
    ledger::{CONFIG, Kind, Ledger, OFF, Record, marks::Marks},
    state::{SavedLoad, States},
    tenant::Tenant,
};

/// How many texts are written down of which readers have a part, and how long each may be: beyond that, the rest is
/// of a new text after a crash.
const MOST_TEXTS: usize = 1024;
const LONGEST_TEXT: usize = 64 << 10;

/// Of how many open files it is written down at least that a reader has but a part.
const MOST_MARKS: usize = 16_384;

/// The CPU times of a container, as a record has them.
#[derive(Debug, Serialize)]
struct CpuRecord<'a> {
    saved: Usec,
    cpu: &'a CpuView,
}

/// The same, as it is read.
#[derive(Debug, Deserialize)]
struct FoundCpu {
    saved: Usec,
    cpu: CpuView,
}

impl Service {
    /// The same, writing to `ledger` what readers are told and must not be told otherwise later.
    #[must_use]
    pub fn with_ledger(self, ledger: Arc<Ledger>) -> Service {
        let notes = Notes::take_up(ledger.as_fd());
        let notes = notes.inspect_err(|error| {
            tracing::warn!("cannot note which requests are worked on: {error}");
        });
        let marks = Marks::of(ledger.as_fd());
        let marks = marks.inspect_err(|error| {
            tracing::warn!("cannot mark which open files were read: {error}");
        });
        let marks = marks.ok();
        let handles = self.handles.beginning_at(|number| match &marks {
            Some(marks) => marks.first(number),
            None => number,
        });
        Service { notes: notes.ok(), marks, handles, ledger: Some(ledger), ..self }
    }

    /// Notes that the calling thread works on a request, until what is returned is dropped.
    pub(crate) fn note(&self, request: u64) -> Option<Noted> {
        self.notes.as_ref().map(|notes| notes.note(request))
    }

    /// How many processes a request has ended, if it is not to be tried again.
    pub(crate) fn is_fatal(&self, request: u64) -> Option<u64> {
        self.notes.as_ref()?.is_fatal(request)
    }

    /// Forgets that a request has ended processes: it is answered.
    pub(crate) fn acquit(&self, request: u64) {
        if let Some(notes) = &self.notes {
            notes.acquit(request);
        }
    }

    /// Takes over what a process before this one wrote, up to its last answer.
    pub fn restore_records(&self, records: Vec<Record>) {
        let mut states = States::new();
        for Record { kind, name, body } in records {
            let found = match kind {
                Kind::Free => continue,
                Kind::Chosen => {
                    if *name == *OFF {
                        self.off.store(!body.is_empty(), Ordering::Relaxed);
                    }
                    continue;
                }
                Kind::Text => {
                    let Ok(handle) = name.parse() else { continue };
                    if self.marks.as_ref().is_some_and(|marks| marks.is_released(handle)) {
                        if let Some(ledger) = &self.ledger {
                            ledger.release(kind, &name);
                        }
                    } else {
                        let text: Arc<[u8]> = body.into();
                        self.texts_kept.lock().insert(handle);
                        if !text.is_empty() {
                            // Whose it was is not kept, and so there is room.
                            let _ = self.handles.put(handle, None, text);
                        }
                    }
                    continue;
                }
                Kind::Cpu => serde_json::from_slice(&body).map(|FoundCpu { saved, cpu }| {
                    let state = states.entry(name.clone()).or_default();
                    (state.saved, state.cpu) = (saved, cpu);
                }),
                Kind::Load => serde_json::from_slice(&body).map(|load: SavedLoad| {
                    let state = states.entry(name.clone()).or_default();
                    state.saved = state.saved.max(load.stepped);
                    state.load = Some(load);
                }),
            };
            if let Err(error) = found {
                tracing::warn!(
                    "began anew with {name}, whose state is of another version: {error}"
                );
            }
        }
        self.restore(states);
    }

    /// Writes down the configuration file, as it was read.
    pub fn keep_config(&self, text: Option<&str>) {
        if let (Some(ledger), Some(text)) = (&self.ledger, text)
            && let Err(error) = ledger.put(Kind::Chosen, CONFIG, text.as_bytes())
        {
            tracing::warn!("cannot write down the configuration: {error}");
        }
    }

    /// Writes down whether the view is turned off.
    pub(super) fn keep_off(&self, off: bool) {
        let text: &[u8] = if off { b"1" } else { b"" };
        if let Some(Err(error)) =
            self.ledger.as_ref().map(|ledger| ledger.put(Kind::Chosen, OFF, text))
        {
            tracing::warn!("cannot write down that the view is turned off: {error}");
        }
    }

    /// Writes down that an open file was read, and the text of which a reader is told a part, so that the rest of it is
    /// of the same text. `size` is how many bytes the reader takes from `offset` on.
    pub(crate) fn keep_text(&self, handle: u64, text: &[u8], offset: u64, size: usize) {
        let Some(ledger) = &self.ledger else { return };
        let is_first = self.marks.as_ref().is_some_and(|marks| marks.read(handle));
        let rest = text.len().saturating_sub(usize::try_from(offset).unwrap_or(usize::MAX));
        let is_whole = {
            let mut kept = self.texts_kept.lock();
            // One that was kept before must not be taken for this one. If it is not answered any more, a first read
            // elsewhere than at the start is asked for again, and would be taken for one after the end.
            let is_worth_it = (rest > size || is_first && offset > 0) && kept.len() < MOST_MARKS;
            if !is_worth_it && !kept.contains(&handle) {
                return;
            }
            kept.insert(handle);
            kept.len() <= MOST_TEXTS && text.len() <= LONGEST_TEXT
        };
        // Of the others, that there is more.
        let text = if is_whole { text } else { &[] };
        if let Err(error) = ledger.put(Kind::Text, &handle.to_string(), text) {
            tracing::debug!("cannot write down the text of an open file: {error}");
        }
    }

    /// Whether a reader that goes on with an open file has had all of its text: it was given by a process before
    /// this one, which wrote nothing down but that. A new text may be longer, and its end would be taken for the old
    /// one's.
    pub(crate) fn is_read_out(&self, handle: u64, offset: u64) -> bool {
        offset > 0
            && self.ledger.is_some()
            && self.handles.is_older(handle)
            && !self.marks.as_ref().is_some_and(|marks| marks.is_unread(handle))
            && !self.texts_kept.lock().contains(&handle)
    }

    /// Forgets the text of an open file, if it was written down.
    pub(super) fn forget_text(&self, handle: u64) {
        let (true, Some(ledger)) = (self.texts_kept.lock().remove(&handle), &self.ledger) else {
            return;
        };
        let name = handle.to_string();
        let forgotten = match &self.marks {
            Some(marks) => {
                marks.release(handle);
                ledger.release(Kind::Text, &name);
                Ok(())
            }
            None => ledger.forget(Kind::Text, &name),
        };
        if let Err(error) = forgotten {
            tracing::debug!("cannot forget the text of an open file: {error}");
        }
    }

    /// Has the ledger say of itself what marks say of it so far: these are shared by open files.
    pub(super) fn settle_ledger(&self) {
        if let Some(Err(error)) = self.ledger.as_ref().map(|ledger| ledger.settle()) {
            tracing::debug!("cannot forget the texts of open files: {error}");
        }
    }

    /// Writes down the CPU times of a container, before anybody is told.
    pub(super) fn keep_cpu(&self, tenant: &Tenant, now: Usec, cpu: &CpuView) {
        self.keep(Kind::Cpu, tenant, &CpuRecord { saved: now, cpu });
    }

    /// Writes down the load average of a container.
    pub(super) fn keep_load(&self, tenant: &Tenant) {
        if self.ledger.is_some()
            && let Some(load) = tenant.saved_load()
        {
            self.keep(Kind::Load, tenant, &load);
        }
    }

    /// Forgets a container, by its id.
    pub(super) fn forget_kept(&self, id: &str) {
        let Some(ledger) = &self.ledger else { return };
        for kind in [Kind::Cpu, Kind::Load] {
            if let Err(error) = ledger.forget(kind, id) {
                tracing::debug!("cannot forget {id}: {error}");
            }
        }
    }

    fn keep(&self, kind: Kind, tenant: &Tenant, record: &impl Serialize) {
        let Some(ledger) = &self.ledger else { return };
        let written = encode(record)
            .map_err(std::io::Error::from)
            .and_then(|body| ledger.put(kind, tenant.container().id().as_str(), &body));
        if let Err(error) = written
            && let Some(more) = self.unkept.pass(kind)
        {
            tracing::warn!(
                "cannot write down what containers are told, {more} times before: {error}; after a crash, \
                 they may be told what was so before"
            );
        }
    }
}
