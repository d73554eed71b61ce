//! Open files: what a handle reads, writes and waits for.

use std::{sync::Arc, time::Duration};

use cgview_core::tree::File;
use cgview_host::ContainerId;
use rustix::io::Errno;

use super::{Caller, Service, entries::may_read};
use crate::{
    metrics::Outcome,
    triggers::{Ready, Wake},
};

impl Service {
    /// Opens a file, and returns the number of the handle.
    ///
    /// # Errors
    ///
    /// `EACCES` for writing, and for whoever may not read it.
    pub fn open(&self, caller: Caller, file: File, write: bool) -> Result<u64, Errno> {
        if write && !self.takes_triggers(file) {
            return Err(Errno::ACCESS);
        }
        may_read(caller, file)?;
        Ok(self.handles.open())
    }

    /// The text that a read at `offset` is answered from: a new one at the start of the file, and the one of
    /// before elsewhere.
    ///
    /// The text is the caller's, who may be another than the one that opened the file.
    ///
    /// # Errors
    ///
    /// What the reader gets: [`Error::errno`](super::Error::errno).
    pub fn read(
        &self,
        caller: Caller,
        file: File,
        handle: u64,
        offset: u64,
    ) -> Result<Arc<[u8]>, Errno> {
        if let Some(text) = self.held(handle, offset) {
            return Ok(text);
        }
        let text = self.text_of(caller.tid, None, file).map_err(|error| error.errno())?;
        self.hold(handle, self.whose(caller.tid), &text)?;
        Ok(text)
    }

    /// The text that a read at `offset` goes on with, if it is not to be a new one.
    pub(crate) fn held(&self, handle: u64, offset: u64) -> Option<Arc<[u8]>> {
        if offset == 0 { None } else { self.handles.text(handle) }
    }

    /// Has later reads of the handle go on with that text.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, if the container's open files hold too much already.
    pub(crate) fn hold(
        &self,
        handle: u64,
        whose: Option<ContainerId>,
        text: &Arc<[u8]>,
    ) -> Result<(), Errno> {
        self.handles.put(handle, whose, Arc::clone(text))
    }

    /// Whose a request of that thread seems to be, for what it costs to look: the one whose it was the last
    /// time.
    pub(crate) fn whose(&self, tid: u32) -> Option<ContainerId> {
        self.callers.whose(tid)
    }

    /// The caller behind a thread that sent a request `ago`, where the kernel is not to be asked.
    pub(crate) fn recent(&self, tid: u32, ago: Duration) -> Option<cgview_host::Caller> {
        self.callers.recent(tid, ago)
    }

    /// How long a reader waits, at most.
    pub(crate) fn deadline(&self) -> Duration {
        self.settings.read().request_deadline
    }

    /// Whether there is more to releasing a handle than to forget it.
    pub(crate) fn has_trigger(&self, handle: u64) -> bool {
        self.triggers.as_ref().is_some_and(|triggers| triggers.has(handle))
    }

    /// Forgets a handle.
    pub fn release(&self, handle: u64) {
        self.handles.release(handle);
        self.forget_text(handle);
        if let Some(triggers) = &self.triggers {
            triggers.release(handle);
        }
    }

    /// Takes what was written to a file: a trigger.
    ///
    /// # Errors
    ///
    /// `EINVAL` and `EBUSY` as the kernel has them, `ENOMEM` for too many; `EACCES` for other files.
    pub fn write(&self, caller: Caller, file: File, handle: u64, text: &[u8]) -> Result<(), Errno> {
        let (Some(triggers), File::Proc(pressure), true) =
            (&self.triggers, file, self.takes_triggers(file))
        else {
            return Err(Errno::ACCESS);
        };
        let caller = self.find(caller.tid).map_err(|error| {
            self.report(file, &error, Outcome::Fail);
            error.errno()
        })?;
        let container = &caller.container;
        triggers.add(handle, container.id().as_str(), || {
            container.set_trigger(&self.host, pressure, text)
        })
    }

    /// What a poll of a pressure file is answered; `wake` is kept until that changes. `None` for other files,
    /// which are always ready, and for all where triggers are not taken.
    pub fn poll(&self, file: File, handle: u64, wake: Option<Wake>) -> Option<Ready> {
        let triggers = self.triggers.as_ref().filter(|_| self.takes_triggers(file))?;
        Some(triggers.poll(handle, wake))
    }

    /// Whether files may be polled for anything.
    #[must_use]
    pub fn has_triggers(&self) -> bool {
        self.triggers.is_some()
    }
}
