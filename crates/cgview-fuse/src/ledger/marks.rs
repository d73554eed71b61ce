//! Which open files were read, so that the next process can tell the first read of one from a later one: the first
//! gets a new text at whatever offset, and what was read to its end has no more.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use super::numbers;

/// How many there are. An open file shares its mark with the one that is opened so many later.
const MARKS: usize = 4096;

/// How many files that a process has opened, and nobody has read yet, keep their marks to themselves when the next
/// one opens files.
const GAP: u64 = 256;

/// How many bytes of the file they take.
pub(super) const LENGTH: usize = MARKS * size_of::<AtomicU64>();

/// For each open file, by its number, the last one with the same mark that was read; or the number after that, once it
/// was released, which is no number of a file with that mark.
#[derive(Debug)]
pub(crate) struct Marks(&'static [AtomicU64]);

impl Marks {
    /// Those of a ledger's file.
    pub(crate) fn of(ledger: BorrowedFd<'_>) -> io::Result<Marks> {
        Ok(Marks(numbers::map(ledger, super::MARKS_START, MARKS)?))
    }

    fn mark(&self, handle: u64) -> Option<&AtomicU64> {
        self.0.get(usize::try_from(handle % MARKS as u64).ok()?)
    }

    /// Marks an open file as one that was read. Returns whether this is known to be the first read of it.
    pub(crate) fn read(&self, handle: u64) -> bool {
        let Some(mark) = self.mark(handle) else { return false };
        mark.load(Ordering::Relaxed) < handle && mark.fetch_max(handle, Ordering::Relaxed) < handle
    }

    /// Marks an open file that was read as one that is open no more.
    pub(crate) fn release(&self, handle: u64) {
        if let Some(mark) = self.mark(handle) {
            mark.fetch_max(handle.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Whether an open file is known to be open no more.
    pub(crate) fn is_released(&self, handle: u64) -> bool {
        self.mark(handle)
            .is_some_and(|mark| mark.load(Ordering::Relaxed) == handle.saturating_add(1))
    }

    /// The number, from `number` on, that the first file is to have which this process opens: its mark is behind
    /// those of the files that the process before opened.
    pub(crate) fn first(&self, number: u64) -> u64 {
        let last = self.0.iter().map(|mark| mark.load(Ordering::Relaxed)).max().unwrap_or(0);
        let wanted = last.wrapping_add(GAP);
        number.saturating_add(wanted.wrapping_sub(number) % MARKS as u64)
    }

    /// Whether an open file was never read: neither it was, nor one that was opened later and has the same mark.
    pub(crate) fn is_unread(&self, handle: u64) -> bool {
        self.mark(handle).is_some_and(|mark| mark.load(Ordering::Relaxed) < handle)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::{greeting::Greeting, ledger::Ledger};

    #[test]
    fn what_was_read_is_known_to_the_next_process_until_its_mark_is_taken() {
        let ledger = Ledger::in_memory(&Greeting { request: vec![1], reply: vec![2] }).unwrap();
        let marks = || Marks::of(ledger.as_fd()).unwrap();
        let (handle, later) = (1_000_000, 1_000_000 + MARKS as u64);
        assert!(marks().is_unread(handle));
        assert!(marks().read(handle));
        assert!(!marks().read(handle) && !marks().is_unread(handle));
        assert!(marks().is_unread(handle + 1) && marks().is_unread(later));
        assert!(marks().read(later));
        // It is not told to be unread where that is not known.
        assert!(!marks().is_unread(handle) && !marks().read(handle));
        assert!(!marks().is_unread(later));
    }

    #[test]
    fn what_was_released_is_known_to_the_next_process_until_its_mark_is_taken() {
        let ledger = Ledger::in_memory(&Greeting { request: vec![1], reply: vec![2] }).unwrap();
        let marks = || Marks::of(ledger.as_fd()).unwrap();
        let (handle, later) = (1_000_000, 1_000_000 + MARKS as u64);
        assert!(marks().read(handle) && !marks().is_released(handle));
        marks().release(handle);
        assert!(marks().is_released(handle));
        // It is still one that was read, and its neighbour is not.
        assert!(!marks().read(handle) && !marks().is_unread(handle));
        assert!(marks().is_unread(handle + 1) && !marks().is_released(handle + 1));
        assert!(marks().is_unread(later) && marks().read(later));
        assert!(!marks().is_released(later) && !marks().is_released(handle));
        // One that was released late does not take it from another.
        marks().release(handle);
        assert!(!marks().is_unread(later) && !marks().is_released(handle));
    }

    #[test]
    fn the_next_process_has_other_marks_than_what_was_opened_last() {
        let ledger = Ledger::in_memory(&Greeting { request: vec![1], reply: vec![2] }).unwrap();
        let marks = Marks::of(ledger.as_fd()).unwrap();
        let mut next = 12_345_678;
        for _ in 0..10 {
            let first = marks.first(next);
            assert!((next..next + MARKS as u64).contains(&first));
            (first..first + 1000).for_each(|handle| assert!(marks.read(handle)));
            let unread = first + 1000..first + 1000 + GAP - 1;
            // Whatever the clock says.
            next = first + 123_457;
            let first = marks.first(next);
            (first..first + 1000).for_each(|handle| assert!(marks.read(handle)));
            assert!(unread.into_iter().all(|handle| marks.is_unread(handle)));
            next = first + 654_321;
        }
    }

    #[test]
    fn a_file_without_room_for_marks_has_none() {
        let ledger = Ledger::in_memory(&Greeting { request: vec![1], reply: vec![2] }).unwrap();
        rustix::fs::ftruncate(&ledger, super::super::HEAD - 1).unwrap();
        Marks::of(ledger.as_fd()).unwrap_err();
    }

    #[test]
    fn marks_and_records_are_in_each_others_way_nowhere() {
        let ledger = Ledger::in_memory(&Greeting { request: vec![1], reply: vec![2] }).unwrap();
        let marks = Marks::of(ledger.as_fd()).unwrap();
        for handle in u64::MAX - MARKS as u64..u64::MAX {
            marks.read(handle);
        }
        ledger.put(crate::ledger::Kind::Text, "1", &[0; 10_000]).unwrap();
        let copy = ledger.as_fd().try_clone_to_owned().unwrap();
        Ledger::greeting(&copy).unwrap();
        let (_, records) = Ledger::open(copy).unwrap();
        assert_eq!(records.len(), 1);
        assert!((u64::MAX - MARKS as u64..u64::MAX).all(|handle| !marks.is_unread(handle)));
    }
}
