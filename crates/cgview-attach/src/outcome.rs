//! What became of a file, as a helper tells it: the numbers that go through its pipe.

use cgview_core::tree::Entry;
use rustix::io::Errno;

use crate::{
    Bound,
    helper::{Teller, Word},
    step::{Failure, Step},
};

const BOUND: [Bound; 4] = [Bound::Bound, Bound::Already, Bound::Absent, Bound::Left];

/// From here on, it is the step that failed.
const FAILED: u32 = 0x100;

/// Says what became of a file.
pub(crate) fn tell(teller: &Teller, entry: Entry, outcome: Result<Bound, Failure>) {
    let (index, kind, result) = to_word(entry, outcome);
    teller.tell(index, kind, result);
}

/// The number of an entry has 48 bits: the upper 16 go beside the kind.
fn to_word(entry: Entry, outcome: Result<Bound, Failure>) -> (u32, u32, Result<(), Errno>) {
    let [_, _, a, b, low @ ..] = entry.id().to_be_bytes();
    let high = u32::from_be_bytes([a, b, 0, 0]);
    let position =
        |found: Option<usize>| u32::try_from(found.unwrap_or_default()).unwrap_or_default();
    let (code, result) = match outcome {
        Ok(bound) => (position(BOUND.iter().position(|known| *known == bound)), Ok(())),
        Err(Failure { step, errno }) => (FAILED + step.number(), Err(errno)),
    };
    (u32::from_be_bytes(low), high | code, result)
}

/// What a word is about, if it is about a file.
pub(crate) fn heard(word: Word) -> Option<(Entry, Result<Bound, Failure>)> {
    let [a, b, ..] = word.kind.to_be_bytes();
    let [c, d, e, f] = word.index.to_be_bytes();
    let entry = Entry::from_id(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))?;
    let code = word.kind & 0xffff;
    let outcome = match code.checked_sub(FAILED) {
        None => Ok(*BOUND.get(usize::try_from(code).ok()?)?),
        Some(step) => {
            let step = Step::numbered(step)?;
            Err(Failure { step, errno: Errno::from_raw_os_error(word.errno) })
        }
    };
    Some((entry, outcome))
}

#[cfg(test)]
mod tests {
    use cgview_core::tree::Dir;

    use super::*;
    use crate::Files;

    #[test]
    fn outcomes_go_through_a_pipe() {
        let outcomes = [
            Ok(Bound::Left),
            Ok(Bound::Bound),
            Err(Failure { step: Step::Attach, errno: Errno::BUSY }),
            Err(Failure { step: Step::Open, errno: Errno::NOTCONN }),
        ];
        // Files of directories may be bound in their stead.
        let files = Files::all();
        let children = [Dir::Cpu, Dir::Node].into_iter().flat_map(Dir::fixed_children);
        for entry in files.entries().iter().copied().chain(children) {
            for outcome in outcomes {
                let (index, kind, result) = to_word(entry, outcome);
                let errno = result.err().map_or(0, Errno::raw_os_error);
                assert_eq!(heard(Word { index, kind, errno }), Some((entry, outcome)));
            }
        }
    }
}
