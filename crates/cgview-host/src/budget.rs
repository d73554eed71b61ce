//! How many descriptors may be kept open.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rustix::process::{Resource, getrlimit};

/// The part of `RLIMIT_NOFILE` that is left for everything else: requests, sockets, directories.
const RESERVE: u64 = 128;

/// The descriptors that may be kept open between reads.
///
/// Each purpose has its own, so that many files of cgroups do not take those of who asks: a caller that is found anew
/// for each request costs ten times as much as all else.
#[derive(Debug)]
pub(crate) struct Budget {
    /// For directories of cgroups, and for their files.
    cgroups: Stock,
    /// For those who ask.
    pub(crate) callers: Stock,
    /// For the inits of containers.
    pub(crate) inits: Stock,
    callers_in_all: usize,
}

/// How many descriptors are kept of each caller, at most.
const OF_A_CALLER: usize = 3;

/// A stock of descriptors that may be kept open between reads.
///
/// A kept descriptor makes a read of a cgroup's file several times as cheap, but there may be more cgroups
/// than descriptors. Without a token in hand a file is opened for each read.
#[derive(Debug)]
pub(crate) struct Stock {
    most: usize,
    left: Arc<AtomicUsize>,
}

/// The right to keep some descriptors open; it goes back to the stock when dropped.
#[derive(Debug)]
pub(crate) struct Token {
    left: Arc<AtomicUsize>,
    count: usize,
}

impl Budget {
    /// Most of what this process may open.
    pub(crate) fn of_this_process() -> Budget {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let kept = limit.saturating_sub(RESERVE) / 8 * 7;
        Budget::new(usize::try_from(kept.min(1 << 20)).unwrap_or(0))
    }

    pub(crate) fn new(count: usize) -> Budget {
        let eighth = count / 8;
        let callers = 2 * eighth;
        Budget {
            cgroups: Stock::new(count - callers - eighth),
            callers: Stock::new(callers),
            inits: Stock::new(eighth),
            callers_in_all: callers / OF_A_CALLER,
        }
    }

    /// The right to keep a cgroup's directory open.
    pub(crate) fn dir(&self) -> Option<Token> {
        self.cgroups.take(1)
    }

    /// The right to keep a file of a cgroup open. Half of all is left to directories: without its directory, a file is
    /// found by its whole path for each read.
    pub(crate) fn file(&self) -> Option<Token> {
        self.cgroups.take_leaving(1, self.cgroups.most / 2)
    }

    /// How many callers there are descriptors for.
    pub(crate) fn callers_in_all(&self) -> usize {
        self.callers_in_all
    }
}

impl Stock {
    fn new(count: usize) -> Stock {
        Stock { most: count, left: Arc::new(AtomicUsize::new(count)) }
    }

    /// Takes the right to `count` descriptors, if there is that much left.
    pub(crate) fn take(&self, count: usize) -> Option<Token> {
        self.take_leaving(count, 0)
    }

    /// The same, if `rest` is left then.
    fn take_leaving(&self, count: usize, rest: usize) -> Option<Token> {
        let take = |left: usize| left.checked_sub(count).filter(|&left| left >= rest);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .ok()
            .map(|_| Token { left: self.left.clone(), count })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.left.fetch_add(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let stock = Stock::new(3);
        let two = stock.take(2).unwrap();
        assert!(stock.take(2).is_none());
        let one = stock.take(1).unwrap();
        drop(two);
        assert!(stock.take(2).is_some());
        drop(one);
        assert!(stock.take(3).is_some());
    }

    #[test]
    fn files_leave_enough_for_directories_and_callers() {
        let budget = Budget::new(16);
        let files: Vec<_> = std::iter::from_fn(|| budget.file()).collect();
        let dirs: Vec<_> = std::iter::from_fn(|| budget.dir()).collect();
        assert_eq!((files.len(), dirs.len()), (5, 5));
        drop(files);
        assert!(budget.file().is_none() && budget.dir().is_some());
        assert!(budget.callers.take(4).is_some() && budget.inits.take(2).is_some());
        assert_eq!(Budget::new(48_000).callers_in_all(), 4_000);
        assert_eq!(Budget::new(0).callers_in_all(), 0);
    }
}
