//! Requests that end the process. Whatever was not answered then is asked for again by the kernel, and so one request
//! that no process survives would end them all, one after the other.
//!
//! A thread notes which request it works on in a page of the [`Ledger`](crate::ledger::Ledger). If it crashes, a
//! handler of the signal marks that note; so the other requests which were worked on then are not suspected, and
//! neither is any by a process that somebody killed. The next process counts the marks, and a request that has
//! ended some of them is answered with an error.

use std::{
    cell::Cell,
    io,
    mem::MaybeUninit,
    os::fd::BorrowedFd,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};

use crate::ledger::numbers;

/// How many processes a request may end.
const MOST_DEATHS: u64 = 2;

/// Notes of threads; a thread that finds no room notes nothing.
const NOTES: usize = 192;

/// Requests that ended a process and are not answered: the number of each, and how often.
const SUSPECTS: usize = 32;

/// The page, of which the first part is the ledger's own.
pub(crate) const PAGE: usize = 4096;
pub(crate) const START: usize = PAGE - (NOTES + 2 * SUSPECTS) * size_of::<u64>();

/// Of a note: the process crashed at this request.
const CRASHED: u64 = 1 << 63;

/// Of the number of a request: it is asked for again (`FUSE_UNIQUE_RESEND` of linux/fuse.h).
const RESENT: u64 = 1 << 63;

/// The notes, in memory that outlives the process.
#[derive(Debug)]
pub(crate) struct Notes {
    words: &'static [AtomicU64],
    /// Whether any request is suspected, so that nobody has to look.
    suspected: AtomicUsize,
}

thread_local! {
    /// What this thread has noted, for the handler.
    static NOTED: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
}

impl Notes {
    /// Takes up the notes of the process before this one, and notes crashes from now on. The page is the first
    /// of `ledger`.
    pub(crate) fn take_up(ledger: BorrowedFd<'_>) -> io::Result<Notes> {
        let words = numbers::map(ledger, START, NOTES + 2 * SUSPECTS)?;
        let notes = Notes { words, suspected: AtomicUsize::new(0) };
        for note in notes.words(0, NOTES) {
            let noted = note.swap(0, Ordering::Relaxed);
            if noted & CRASHED != 0 {
                notes.suspect(noted & !CRASHED);
            }
        }
        let suspected = notes.suspects().filter(|(number, _)| number.load(Ordering::Relaxed) != 0);
        notes.suspected.store(suspected.count(), Ordering::Relaxed);
        Ok(notes)
    }

    fn words(&self, first: usize, count: usize) -> impl Iterator<Item = &'static AtomicU64> {
        self.words.iter().skip(first).take(count)
    }

    fn suspects(&self) -> impl Iterator<Item = (&'static AtomicU64, &'static AtomicU64)> {
        self.words(NOTES, SUSPECTS).zip(self.words(NOTES + SUSPECTS, SUSPECTS))
    }

    fn suspect(&self, request: u64) {
        let known = self.suspects().find(|(number, _)| number.load(Ordering::Relaxed) == request);
        let place = known
            .or_else(|| self.suspects().find(|(number, _)| number.load(Ordering::Relaxed) == 0));
        // Of more than there is room for, some will be answered or end a process again.
        let Some((number, deaths)) = place else { return };
        if number.swap(request, Ordering::Relaxed) != request {
            deaths.store(0, Ordering::Relaxed);
        }
        deaths.fetch_add(1, Ordering::Relaxed);
    }

    /// How many processes a request has ended, if it is not to be tried again.
    pub(crate) fn is_fatal(&self, request: u64) -> Option<u64> {
        if self.suspected.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let is_it = |number: &AtomicU64| {
            number.load(Ordering::Relaxed) == request & !RESENT && request != 0
        };
        let (_, deaths) = self.suspects().find(|(number, _)| is_it(number))?;
        Some(deaths.load(Ordering::Relaxed)).filter(|&deaths| deaths >= MOST_DEATHS)
    }

    /// It is answered, with whatever.
    pub(crate) fn acquit(&self, request: u64) {
        if self.suspected.load(Ordering::Relaxed) == 0 {
            return;
        }
        for (number, _) in self.suspects() {
            let was =
                number.compare_exchange(request & !RESENT, 0, Ordering::Relaxed, Ordering::Relaxed);
            if was.is_ok() && request & !RESENT != 0 {
                self.suspected.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Notes that the calling thread works on a request, until what is returned is dropped.
    pub(crate) fn note(&self, request: u64) -> Noted {
        let take = |note: &&'static AtomicU64| {
            note.compare_exchange(0, request & !RESENT, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        let note = self.words(0, NOTES).find(take);
        Noted { before: NOTED.replace(note) }
    }
}

/// What a thread works on.
#[derive(Debug)]
pub(crate) struct Noted {
    before: Option<&'static AtomicU64>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(note) = NOTED.replace(self.before) {
            note.store(0, Ordering::Relaxed);
        }
    }
}

/// The signals of a crash.
const SIGNALS: [libc::c_int; 5] = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV];

/// What was done about them before.
static BEFORE: [OnceLock<libc::sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; 5];

/// Marks the note of the thread that crashes, from now on.
pub fn mark_crashes() {
    for (signal, before) in SIGNALS.into_iter().zip(&BEFORE) {
        // SAFETY: the handler has the type that SA_SIGINFO asks for, and does nothing but what signal-safety(7)
        // allows. A zeroed mask is empty.
        #[expect(unsafe_code, reason = "there is no other way to hear of a crash")]
        unsafe {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = mark;
            action.sa_sigaction = handler as libc::sighandler_t;
            // On the stack that threads have for the case that theirs overflows.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut old = MaybeUninit::<libc::sigaction>::zeroed();
            if libc::sigaction(signal, ptr::null(), old.as_mut_ptr()) == 0
                && before.set(old.assume_init()).is_ok()
            {
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
    }
}

extern "C" fn mark(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `siginfo_t`, and these calls are allowed in handlers.
    #[expect(unsafe_code, reason = "system calls of a signal's handler")]
    unsafe {
        let code = (*info).si_code;
        // The kernel's own, or by abort(3).
        let is_crash = code > 0 || code == libc::SI_TKILL && (*info).si_pid() == libc::getpid();
        if is_crash && let Some(note) = NOTED.get() {
            note.fetch_or(CRASHED, Ordering::Relaxed);
        }
        // What would have been done is done now: the instruction fails again, abort(3) goes on, and what
        // somebody sent is sent again.
        let before = SIGNALS.iter().position(|&known| known == signal);
        if let Some(before) = before.and_then(|place| BEFORE.get(place)?.get()) {
            libc::sigaction(signal, ptr::from_ref(before), ptr::null_mut());
        }
        if !is_crash {
            libc::raise(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::{greeting::Greeting, ledger::Ledger};

    #[test]
    fn a_request_that_ended_some_processes_is_tried_no_more() {
        let ledger = Ledger::in_memory(&Greeting { request: vec![1], reply: vec![2] }).unwrap();
        // A process that works on two requests, and crashes at the second.
        let crash = || {
            let notes = Notes::take_up(ledger.as_fd()).unwrap();
            let other = notes.words(0, 1).next().unwrap();
            other.store(3, Ordering::Relaxed);
            let noted = notes.note(5 | RESENT);
            NOTED.get().unwrap().fetch_or(CRASHED, Ordering::Relaxed);
            std::mem::forget(noted);
        };
        for deaths in 1..=MOST_DEATHS {
            crash();
            let next = Notes::take_up(ledger.as_fd()).unwrap();
            let fatal = (deaths >= MOST_DEATHS).then_some(deaths);
            assert_eq!(next.is_fatal(5), fatal);
            assert_eq!(next.is_fatal(5 | RESENT), fatal);
            assert_eq!([0, 3, 7].map(|request| next.is_fatal(request)), [None; 3]);
        }
        // Somebody killed one in between.
        let next = Notes::take_up(ledger.as_fd()).unwrap();
        drop(next.note(7));
        assert!(next.is_fatal(5).is_some());
        next.acquit(5 | RESENT);
        assert_eq!(next.is_fatal(5), None);
        assert_eq!(Notes::take_up(ledger.as_fd()).unwrap().is_fatal(5), None);
    }

    #[test]
    fn notes_are_taken_back_and_never_too_many() {
        let ledger = Ledger::in_memory(&Greeting { request: vec![1], reply: vec![2] }).unwrap();
        let notes = Notes::take_up(ledger.as_fd()).unwrap();
        let noted =
            || notes.words(0, NOTES).filter(|note| note.load(Ordering::Relaxed) != 0).count();
        let many: Vec<_> = (0..NOTES as u64 + 5).map(|number| notes.note(number + 1)).collect();
        assert_eq!(noted(), NOTES);
        for one in many.into_iter().rev() {
            drop(one);
        }
        assert_eq!(noted(), 0);
        // It is all there was on the page.
        Ledger::greeting(&ledger.as_fd().try_clone_to_owned().unwrap()).unwrap();
    }
}
