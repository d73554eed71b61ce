//! What readers write down while they read: in memory that they share with the test, so that it can be seen
//! of a reader that hangs or was killed, too.
#![expect(unsafe_code, reason = "shared memory has no safe name")]

use std::{
    io, ptr,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// One reader's numbers.
#[derive(Debug)]
pub(crate) struct Slot {
    /// When the system call began that it is in, on the monotonic clock in nanoseconds; 0 if it is in none.
    began: AtomicU64,
    /// Which [`Call`] that is.
    current: AtomicU32,
    /// How long its longest one took, in nanoseconds, and which [`Call`] it was.
    longest: AtomicU64,
    longest_call: AtomicU32,
    pub(crate) calls: AtomicU64,
    pub(crate) texts: AtomicU64,
    /// Calls that ended with `ECONNABORTED`.
    pub(crate) aborted: AtomicU64,
    /// Calls that ended with any other error.
    pub(crate) failed: AtomicU64,
    /// Texts that were not what they should be.
    pub(crate) wrong: AtomicU64,
    /// Texts with a counter that had gone back.
    pub(crate) back: AtomicU64,
    /// 1 once it reads, 2 once it has ended.
    pub(crate) state: AtomicU32,
}

/// What a reader asks for.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Call {
    #[default]
    Open,
    Read,
    List,
    Stat,
}

impl Call {
    fn of(number: u32) -> Call {
        [Call::Read, Call::List, Call::Stat]
            .into_iter()
            .find(|call| *call as u32 == number)
            .unwrap_or_default()
    }

    fn name(self) -> &'static str {
        match self {
            Call::Open => "open",
            Call::Read => "read",
            Call::List => "list",
            Call::Stat => "stat",
        }
    }
}

/// The readers' numbers, and what they are to do.
#[derive(Debug)]
pub(crate) struct Board {
    /// A page of which the first word is set when the readers are to end, and then their slots.
    start: *mut AtomicU64,
    count: usize,
}

// SAFETY: all of it is atomic.
unsafe impl Send for Board {}
// SAFETY: all of it is atomic.
unsafe impl Sync for Board {}

const HEAD: usize = 4096;

impl Board {
    /// A board for so many readers. Processes that are forked from now on share it.
    pub(crate) fn new(count: usize) -> Board {
        let length = HEAD + count * size_of::<Slot>();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses where.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, protection, MapFlags::SHARED) };
        Board { start: start.unwrap().cast(), count }
    }

    pub(crate) fn slot(&self, number: usize) -> &Slot {
        assert!(number < self.count);
        // SAFETY: it is within the mapping, which is aligned to a page and begins as zeros; a slot is all
        // atomics, for which zeros are a value.
        unsafe { &*self.start.cast::<u8>().add(HEAD).cast::<Slot>().add(number) }
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        (0..self.count).map(|number| self.slot(number))
    }

    fn ended(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { &*self.start }
    }

    pub(crate) fn end(&self) {
        self.ended().store(1, SeqCst);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended().load(SeqCst) != 0
    }

    /// All readers' numbers together.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals { readers: self.count, ..Totals::default() };
        let now = now();
        for slot in self.slots() {
            totals.calls += slot.calls.load(Relaxed);
            totals.texts += slot.texts.load(Relaxed);
            totals.aborted += slot.aborted.load(Relaxed);
            totals.failed += slot.failed.load(Relaxed);
            totals.wrong += slot.wrong.load(Relaxed);
            totals.back += slot.back.load(Relaxed);
            let began = slot.began.load(Relaxed);
            let current = if began == 0 { 0 } else { now.saturating_sub(began) };
            let current = (current, slot.current.load(Relaxed));
            let longest =
                current.max((slot.longest.load(Relaxed), slot.longest_call.load(Relaxed)));
            let longest = (Duration::from_nanos(longest.0), Call::of(longest.1));
            (totals.longest, totals.longest_call) =
                longest.max((totals.longest, totals.longest_call));
        }
        totals
    }

    /// Forgets how long calls took that have ended.
    pub(crate) fn forget_longest(&self) {
        for slot in self.slots() {
            slot.longest.store(0, Relaxed);
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: no reference outlives the board, and it is the mapping that `new` made.
        let _ = unsafe { munmap(self.start.cast(), HEAD + self.count * size_of::<Slot>()) };
    }
}

impl Slot {
    /// Makes a system call, and writes down how long it took.
    pub(crate) fn call<T>(
        &self,
        kind: Call,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let began = now();
        self.current.store(kind as u32, Relaxed);
        self.began.store(began, Relaxed);
        let result = call();
        let took = now().saturating_sub(began);
        if took > self.longest.fetch_max(took, Relaxed) {
            self.longest_call.store(kind as u32, Relaxed);
        }
        self.began.store(0, Relaxed);
        self.calls.fetch_add(1, Relaxed);
        result
    }
}

/// The monotonic clock, in nanoseconds; the same for all processes of one time namespace.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// What readers saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// How many read.
    pub readers: usize,
    /// System calls: opens, reads, stats and listings.
    pub calls: u64,
    /// Texts that were read whole and judged.
    pub texts: u64,
    /// Calls that failed with `ECONNABORTED`, as one does that a dead worker had taken where the kernel cannot
    /// send requests anew.
    pub aborted: u64,
    /// Calls that failed in any other way.
    pub failed: u64,
    /// Texts that were malformed or not true.
    pub wrong: u64,
    /// Texts with a counter that was less than the same reader had been told.
    pub back: u64,
    /// The longest call, also one that has not ended.
    pub longest: Duration,
    /// What that one was.
    longest_call: Call,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Totals { readers, calls, texts, aborted, failed, wrong, back, longest, longest_call } =
            self;
        write!(
            f,
            "{readers} readers, {calls} calls, {texts} texts, {failed} failed, {aborted} aborted, \
             {wrong} wrong texts, {back} went back, longest call {} ms ({})",
            longest.as_millis(),
            longest_call.name()
        )
    }
}
