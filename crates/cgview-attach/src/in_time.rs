//! Binding by a process of its own, for those who must not wait for ever.

use std::{os::fd::BorrowedFd, path::Path, time::Duration};

use cgview_core::tree::Entry;
use rustix::io::Errno;

use crate::{
    Bound, Error, Files, Health, Maker, Result, View,
    bind::{Failure, Outcomes, Step, bind},
    helper::{Helper, Word, wait_for},
};

/// What a word of the helper is about: what became of a file, or of all.
const BOUND: [Bound; 4] = [Bound::Bound, Bound::Already, Bound::Absent, Bound::Left];
const FAILED: u32 = 0x100;
const NOT_MOUNTED: u32 = 0x200;
const NOT_SERVED: u32 = 0x201;
const DONE: u32 = 0x202;

/// Binds files of the view that is mounted at `view` over those below `root`, as [`bind()`] does, within a time. What is
/// left to do then is not done, or is done by a process that is left behind when the daemon answers.
///
/// # Errors
///
/// As [`View::open()`], and [`Error::NotServed`] if the daemon does not answer in time.
pub fn bind_in_time(
    view: &Path,
    files: &Files,
    maker: Maker,
    root: BorrowedFd<'_>,
    patience: Duration,
) -> Result<Outcomes> {
    let not_served =
        |state: Health| Error::NotServed { path: view.into(), state: state.to_string() };
    let helper = Helper::start(&[root], |teller| match View::open(view) {
        Ok(view) => {
            for (entry, outcome) in bind(&view, files, maker, root) {
                let (index, kind, result) = to_word(entry, outcome);
                teller.tell(index, kind, result);
            }
            teller.tell(0, DONE, Ok(()));
        }
        Err(Error::NotMounted { .. }) => teller.tell(0, NOT_MOUNTED, Ok(())),
        Err(_) => teller.tell(0, NOT_SERVED, Ok(())),
    });
    let mut helpers = [helper.map_err(Error::Processes)?];
    wait_for(&mut helpers, patience);
    let [helper] = &helpers;
    let mut outcomes = Outcomes::new();
    for word in helper.words() {
        match word.kind {
            DONE => return Ok(outcomes),
            NOT_MOUNTED => return Err(Error::NotMounted { path: view.into() }),
            NOT_SERVED => return Err(not_served(Health::Dead)),
            _ => outcomes.extend(from_word(word)),
        }
    }
    Err(not_served(if helper.is_late() { Health::Silent } else { Health::Unknown(Errno::SRCH) }))
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

fn from_word(word: Word) -> Option<(Entry, Result<Bound, Failure>)> {
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
    use super::*;

    #[test]
    fn outcomes_go_through_a_pipe() {
        let outcomes = [
            Ok(Bound::Left),
            Ok(Bound::Bound),
            Err(Failure { step: Step::Attach, errno: Errno::BUSY }),
            Err(Failure { step: Step::Open, errno: Errno::NOTCONN }),
        ];
        for entry in Files::all().entries() {
            for outcome in outcomes {
                let (index, kind, result) = to_word(*entry, outcome);
                let errno = result.err().map_or(0, Errno::raw_os_error);
                assert_eq!(from_word(Word { index, kind, errno }), Some((*entry, outcome)));
            }
        }
    }
}
