//! The texts that open files are read from.
//!
//! A text is never changed: a rewind puts a new one in its place, and whoever is being answered from the
//! old one still has it. Nothing here is more than a text, which can be rendered again: so the oldest
//! ones are dropped when there are too many, and a handle that is not known (another process opened it,
//! on the same connection) is like one that was not read yet.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cgview_host::ContainerId;
use foldhash::HashMap;
use parking_lot::Mutex;
use rustix::{
    io::Errno,
    time::{ClockId, clock_gettime},
};

/// The open files of one connection that were read.
#[derive(Debug)]
pub struct Handles {
    /// The first number of this process.
    first: u64,
    next: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
    most: Held,
    /// What each container's hold; locked after a shard, if with one.
    owners: Mutex<HashMap<ContainerId, Held>>,
}

/// The part of all that may be held which one container may hold.
const SHARE: Held = Held { handles: 8, bytes: 4 };

/// How much the handles hold, or may hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// How many have a text.
    pub handles: usize,
    /// How many bytes the texts have in all.
    pub bytes: usize,
}

const SHARDS: usize = 8;

#[derive(Debug, Default)]
struct Shard {
    /// By number, and so by age: [`Handles::open`] counts up.
    texts: BTreeMap<u64, Text>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Text {
    text: Arc<[u8]>,
    owner: Option<ContainerId>,
}

impl Handles {
    /// No handles yet, and never more than `most`.
    #[must_use]
    pub fn new(most: Held) -> Handles {
        // Not those of a process that had this connection before: nanoseconds pass faster than files are opened, and a
        // connection is as old as the boot at most, whatever somebody sets the clock to.
        let since = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
        let next = since.as_secs().wrapping_mul(1_000_000_000) + u64::from(since.subsec_nanos());
        Handles {
            first: next,
            next: AtomicU64::new(next),
            shards: Default::default(),
            most,
            owners: Mutex::default(),
        }
    }

    /// The same, whose first number is the one that `first` makes of it, which is no smaller.
    pub(crate) fn beginning_at(self, first: impl FnOnce(u64) -> u64) -> Handles {
        let first = first(self.first).max(self.first);
        Handles { first, next: AtomicU64::new(first), ..self }
    }

    /// A number that no other open file has.
    pub fn open(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a process before this one gave that number.
    pub fn is_older(&self, number: u64) -> bool {
        number < self.first
    }

    /// The text that it is being read from.
    pub fn text(&self, number: u64) -> Option<Arc<[u8]>> {
        self.shard(number)?.lock().texts.get(&number).map(|text| Arc::clone(&text.text))
    }

    /// Gives it a text, in place of the one that it has: the text of that container.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, as of any file of procfs whose text finds no room, if the container's open files hold as much
    /// as they may. Those of all together push out the oldest.
    pub fn put(
        &self,
        number: u64,
        owner: Option<ContainerId>,
        text: Arc<[u8]>,
    ) -> Result<(), Errno> {
        let Some(shard) = self.shard(number) else { return Ok(()) };
        let mut shard = shard.lock();
        if let Some(before) = shard.texts.remove(&number) {
            self.give_back(&mut shard, before);
        }
        if let Some(owner) = &owner {
            let mut owners = self.owners.lock();
            let held = owners.entry(owner.clone()).or_default();
            if held.handles >= self.most.handles / SHARE.handles
                || held.bytes.saturating_add(text.len()) > self.most.bytes / SHARE.bytes
                    && held.handles > 0
            {
                return Err(Errno::NOMEM);
            }
            held.handles += 1;
            held.bytes += text.len();
        }
        shard.bytes = shard.bytes.saturating_add(text.len());
        shard.texts.insert(number, Text { text, owner });
        while shard.texts.len() > 1
            && (shard.texts.len() > self.most.handles / SHARDS
                || shard.bytes > self.most.bytes / SHARDS)
        {
            let Some((_, oldest)) = shard.texts.pop_first() else { break };
            self.give_back(&mut shard, oldest);
        }
        Ok(())
    }

    /// Counts a text that is held no more.
    fn give_back(&self, shard: &mut Shard, text: Text) {
        shard.bytes = shard.bytes.saturating_sub(text.text.len());
        let Some(owner) = text.owner else { return };
        let mut owners = self.owners.lock();
        let Some(held) = owners.get_mut(&owner) else { return };
        held.handles = held.handles.saturating_sub(1);
        held.bytes = held.bytes.saturating_sub(text.text.len());
        if held.handles == 0 {
            owners.remove(&owner);
        }
    }

    /// Forgets it.
    pub fn release(&self, number: u64) {
        let Some(shard) = self.shard(number) else { return };
        let mut shard = shard.lock();
        if let Some(text) = shard.texts.remove(&number) {
            self.give_back(&mut shard, text);
        }
    }

    /// How many have a text, and how much that is.
    pub fn held(&self) -> Held {
        let mut held = Held::default();
        for shard in &self.shards {
            let shard = shard.lock();
            held.handles += shard.texts.len();
            held.bytes += shard.bytes;
        }
        held
    }

    fn shard(&self, number: u64) -> Option<&Mutex<Shard>> {
        self.shards.get(usize::try_from(number % SHARDS as u64).ok()?)
    }
}

/// The part of a text that a read at `offset` gets: nothing past its end.
#[must_use]
pub fn slice(text: &[u8], offset: u64, size: usize) -> &[u8] {
    let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..));
    let rest = rest.unwrap_or_default();
    rest.get(..size).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOST: Held = Held { handles: 64, bytes: 8000 };

    fn text(length: usize) -> Arc<[u8]> {
        vec![b'x'; length].into()
    }

    #[test]
    fn numbers_are_not_used_twice() {
        let handles = Handles::new(MOST);
        let (a, b) = (handles.open(), handles.open());
        assert_ne!(a, b);
        handles.put(a, None, text(10)).unwrap();
        assert_eq!(handles.text(a), Some(text(10)));
        assert_eq!(handles.text(b), None);
        handles.release(a);
        assert_eq!(handles.text(a), None);
        assert_ne!(handles.open(), a);
    }

    #[test]
    fn the_oldest_make_room() {
        let handles = Handles::new(MOST);
        let first = handles.open();
        handles.put(first, None, text(1)).unwrap();
        for _ in 0..1000 {
            handles.put(handles.open(), None, text(1)).unwrap();
        }
        assert_eq!(handles.held(), Held { handles: MOST.handles, bytes: MOST.handles });
        assert_eq!(handles.text(first), None);
    }

    #[test]
    fn a_text_that_is_more_than_all_room_is_kept_while_it_is_the_newest() {
        let handles = Handles::new(MOST);
        let big = handles.open();
        handles.put(big, None, text(MOST.bytes * 2)).unwrap();
        assert_eq!(handles.text(big), Some(text(MOST.bytes * 2)));
        for _ in 0..SHARDS {
            handles.put(handles.open(), None, text(0)).unwrap();
        }
        assert_eq!(handles.held().bytes, 0);
    }

    #[test]
    fn past_the_end_is_nothing() {
        assert_eq!(slice(b"abc", 1, 1), b"b");
        assert_eq!(slice(b"abc", 1, 9), b"bc");
        assert_eq!(slice(b"abc", 3, 9), b"");
        assert_eq!(slice(b"abc", u64::MAX, usize::MAX), b"");
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_is_counted(steps: Vec<(u8, u8, u16)>) {
            let handles = Handles::new(MOST);
            let mut open = Vec::new();
            for (step, which, length) in steps {
                match (step % 4, open.len()) {
                    (0, _) | (_, 0) => open.push(handles.open()),
                    (1, count) => handles.release(open.swap_remove(usize::from(which) % count)),
                    (_, count) => {
                        let number = open[usize::from(which) % count];
                        handles.put(number, None, text(length.into())).unwrap();
                    }
                }
                let mut held = Held::default();
                for shard in &handles.shards {
                    for text in shard.lock().texts.values() {
                        held.handles += 1;
                        held.bytes += text.text.len();
                    }
                }
                prop_assert_eq!(handles.held(), held);
                prop_assert!(held.handles <= MOST.handles);
            }
        }
    }
}
