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
    /// For directories and files of cgroups.
    pub(crate) files: Stock,
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
/// A kept descriptor makes a read of a cgroup's file ten times as cheap, but there may be more cgroups
/// than descriptors. Without a token in hand a file is opened for each read.
#[derive(Debug)]
pub(crate) struct Stock {
    left: Arc<AtomicUsize>,
}

/// The right to keep some descriptors open; it goes back to the stock when dropped.
#[derive(Debug)]
pub(crate) struct Token {
    left: Arc<AtomicUsize>,
    count: usize,
}

impl Budget {
    /// Half of what this process may open.
    pub(crate) fn of_this_process() -> Budget {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let kept = limit.saturating_sub(RESERVE) / 2;
        Budget::new(usize::try_from(kept.min(1 << 20)).unwrap_or(0))
    }

    pub(crate) fn new(count: usize) -> Budget {
        let eighth = count / 8;
        let callers = 3 * eighth;
        Budget {
            files: Stock::new(count - callers - 2 * eighth),
            callers: Stock::new(callers),
            inits: Stock::new(2 * eighth),
            callers_in_all: callers / OF_A_CALLER,
        }
    }

    /// How many callers there are descriptors for.
    pub(crate) fn callers_in_all(&self) -> usize {
        self.callers_in_all
    }
}

impl Stock {
    fn new(count: usize) -> Stock {
        Stock { left: Arc::new(AtomicUsize::new(count)) }
    }

    /// Takes the right to `count` descriptors, if there is that much left.
    pub(crate) fn take(&self, count: usize) -> Option<Token> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count))
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
    fn files_leave_enough_for_callers() {
        let budget = Budget::new(16);
        assert!(budget.files.take(6).is_some_and(|_files| budget.files.take(1).is_none()));
        assert!(budget.callers.take(6).is_some() && budget.inits.take(4).is_some());
        assert_eq!(Budget::new(40_000).callers_in_all(), 5_000);
        assert_eq!(Budget::new(0).callers_in_all(), 0);
    }
}
