//! What was read, and in which order it is told.
//!
//! Readers ask at the same time, and each reads the kernel's file at some moment between when it begins and when it
//! ends. Told in the order in which they end, a counter could go back for somebody who asks twice. So nothing is told
//! that was begun before something else was told: who is overtaken tells what the other one read, or reads again.

use std::time::{Duration, Instant};

/// What the kernel said, and when it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Fetched<T> {
    pub(crate) at: Instant,
    pub(crate) value: T,
}

impl<T> Fetched<T> {
    pub(crate) fn is_fresh(&self, freshness: Duration) -> bool {
        self.at.elapsed() < freshness
    }
}

/// What is told.
#[derive(Clone, Debug)]
pub(crate) struct Told<T> {
    pub(crate) fetched: Fetched<T>,
    /// Since when.
    since: Instant,
}

/// What is to be told by somebody who has read.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Turn<T> {
    /// What was read.
    Own,
    /// What somebody else has told meanwhile.
    Other(T),
    /// That is not new enough: it is to be read again.
    Again,
}

impl<T: Clone> Told<T> {
    /// Something that is told from `now` on.
    pub(crate) fn from(now: Instant, fetched: Fetched<T>) -> Told<T> {
        Told { fetched, since: now }
    }

    /// Whose turn it is after this was told. The other one began to read at `began`, and what it tells must not have
    /// been begun before `oldest`.
    ///
    /// Whoever has to read again need not do so twice: what was told meanwhile is new enough then.
    pub(crate) fn turn(&self, began: Instant, oldest: Option<Instant>) -> Turn<Fetched<T>> {
        if self.is_before(began) {
            Turn::Own
        } else if oldest.is_some_and(|oldest| self.fetched.at < oldest) {
            Turn::Again
        } else {
            Turn::Other(self.fetched.clone())
        }
    }

    /// Whether what was begun then may be told after this.
    pub(crate) fn is_before(&self, began: Instant) -> bool {
        self.since <= began
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How old what is told may be.
    const FRESHNESS: u64 = 3;

    /// A reader: when it asked first and began to read, and what it has read. A counter says what time it is.
    #[derive(Clone, Copy, Debug, Default)]
    struct Reader {
        asked: Option<u64>,
        began: u64,
        read: Option<u64>,
        told: u64,
        again: u32,
    }

    proptest! {
        // Readers of one file, who take their steps in any order and in any time.
        #[test]
        fn nobody_is_told_less_than_before(steps: Vec<(u8, u8)>) {
            let start = Instant::now();
            let time = |time: u64| start + Duration::from_secs(time);
            let mut place: Option<Told<u64>> = None;
            let mut readers = [Reader::default(); 4];
            let mut now = FRESHNESS;
            for (who, pause) in steps {
                now += u64::from(pause % 4);
                let reader = &mut readers[usize::from(who) % 4];
                let Some(asked) = reader.asked else {
                    let fresh = |told: &Told<u64>| told.fetched.at > time(now - FRESHNESS);
                    if let Some(told) = place.as_ref().filter(|told| fresh(told)) {
                        prop_assert!(told.fetched.value >= reader.told);
                        reader.told = told.fetched.value;
                    } else {
                        *reader = Reader { asked: Some(now), began: now, told: reader.told, ..Reader::default() };
                    }
                    continue;
                };
                let Some(read) = reader.read else {
                    reader.read = Some(now);
                    continue;
                };
                let turn = place.as_ref().map_or(Turn::Own, |told| {
                    told.turn(time(reader.began), Some(time(asked - FRESHNESS)))
                });
                // Each is at a moment of its own.
                now += 1;
                let told = match turn {
                    Turn::Own => {
                        let fetched = Fetched { at: time(reader.began), value: read };
                        place = Some(Told::from(time(now), fetched));
                        read
                    }
                    Turn::Other(other) => other.value,
                    Turn::Again => {
                        reader.again += 1;
                        prop_assert!(reader.again < 2);
                        (reader.began, reader.read) = (now, None);
                        continue;
                    }
                };
                prop_assert!(told >= reader.told, "{told} after {}", reader.told);
                prop_assert!(told + FRESHNESS >= asked, "{told} for whoever asked at {asked}");
                (reader.told, reader.asked) = (told, None);
            }
        }
    }
}
