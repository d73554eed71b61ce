//! What was being done when a mount could not be made.

use std::{fmt, io};

use rustix::io::Errno;

/// What it takes to put a file of a view in its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// Opening the file in the view.
    Open,
    /// Cloning its mount.
    Clone,
    /// Giving the clone its attributes (since Linux 5.12).
    Attributes,
    /// Entering the mount namespace.
    Enter,
    /// Opening what is to be covered, or replaced.
    Find,
    /// Putting the clone there.
    Attach,
    /// Unmounting a dead mount, with the clone in its place already.
    Unmount,
    /// Waiting for an answer of the view's daemon, or of a file system of the container.
    Wait,
}

impl Step {
    const ALL: [(Step, &str); 8] = [
        (Step::Open, "open this file in the view"),
        (Step::Clone, "clone the mount of the view"),
        (Step::Attributes, "set the attributes of the new mount (this takes Linux 5.12)"),
        (Step::Enter, "enter the mount namespace"),
        (Step::Find, "open the file that is to be covered"),
        (Step::Attach, "mount over it"),
        (Step::Unmount, "unmount the dead mount below the new one"),
        (Step::Wait, "wait any longer for the view, or for a file system of the container"),
    ];

    /// By which a helper tells of it.
    pub(crate) fn number(self) -> u32 {
        let mut numbered = Step::ALL.iter().zip(0..);
        numbered.find(|((step, _), _)| *step == self).map_or(u32::MAX, |(_, number)| number)
    }

    pub(crate) fn numbered(number: u32) -> Option<Step> {
        Step::ALL.get(usize::try_from(number).ok()?).map(|(step, _)| *step)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Step::ALL.iter().find(|(step, _)| step == self).map(|(_, words)| *words);
        f.write_str(words.unwrap_or_default())
    }
}

/// Why a mount was not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot {step}: {}", io::Error::from(*errno))]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// What the kernel, or the view, said.
    pub errno: Errno,
}

impl Failure {
    pub(crate) fn at(step: Step) -> impl Fn(Errno) -> Failure {
        move |errno| Failure { step, errno }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_numbers() {
        for (step, _) in Step::ALL {
            assert_eq!(Step::numbered(step.number()), Some(step));
        }
    }
}
