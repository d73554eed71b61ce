//! Binding by a process of its own, for those who must not wait for ever.

use std::{os::fd::BorrowedFd, path::Path, time::Duration};

use rustix::io::Errno;

use crate::{
    Error, Files, Health, Maker, Result, View,
    bind::{Outcomes, bind},
    helper::{Helper, wait_for},
    outcome::{heard, tell},
};

/// Words of the helper that are not about a file.
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
                tell(teller, entry, outcome);
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
            _ => outcomes.extend(heard(word)),
        }
    }
    Err(not_served(if helper.is_late() { Health::Silent } else { Health::Unknown(Errno::SRCH) }))
}
