//! How many descriptors may be kept open.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rustix::process::{Resource, getrlimit};

/// The part of `RLIMIT_NOFILE` that is left for everything else: requests, sockets, directories.
const RESERVE: u64 = 128;

/// A stock of descriptors that may be kept open between reads.
///
/// A kept descriptor makes a read of a cgroup's file ten times as cheap, but there may be more cgroups
/// than descriptors. Without a token in hand a file is opened for each read.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
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
        Budget { left: Arc::new(AtomicUsize::new(count)) }
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
        let budget = Budget::new(3);
        let two = budget.take(2).unwrap();
        assert!(budget.take(2).is_none());
        let one = budget.take(1).unwrap();
        drop(two);
        assert!(budget.take(2).is_some());
        drop(one);
        assert!(budget.take(3).is_some());
    }
}
