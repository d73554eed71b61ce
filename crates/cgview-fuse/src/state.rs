//! What must not be forgotten over a restart: the CPU view and the load average of each container.
//!
//! The file is a line with a name, a version, the host's boot and a checksum, and then JSON. A file that is
//! of another boot, damaged, or from a later version is left aside: then counters begin anew, from the
//! start of the container, which is what a first read shows.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use cgview_core::{Usec, cpu_view::CpuView, loadavg::LoadAverage};
use serde::{Deserialize, Serialize};

/// The state of one container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Saved {
    /// When it was saved, on the host's boot clock.
    pub(crate) saved: Usec,
    pub(crate) cpu: CpuView,
    pub(crate) load: Option<SavedLoad>,
}

impl Saved {
    /// Whether no reader was shown anything that could go back.
    pub(crate) fn is_empty(&self) -> bool {
        self.load.is_none() && self.cpu == CpuView::default()
    }
}

/// A load average, and when it was stepped last, on the host's boot clock.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct SavedLoad {
    pub(crate) average: LoadAverage,
    pub(crate) stepped: Usec,
}

/// The states of all containers, by their ids.
pub type States = HashMap<Box<str>, Saved>;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be read or written.
    #[error("cannot access the state file")]
    Io(#[from] io::Error),
    /// It was written before the last boot, whose clock was another.
    #[error("the state is of another boot")]
    OtherBoot,
    /// It was written by a later version, or is no state file.
    #[error("the state has an unknown format")]
    Format,
    /// It is not as it was written.
    #[error("the state is damaged")]
    Damaged,
}

const NAME: &str = "cgview-state";
const VERSION: &str = "1";

/// Writes the states to `path`, in place of what it held: either all of it or nothing.
///
/// # Errors
///
/// [`Error::Io`].
pub fn save(path: &Path, boot: &str, states: &States) -> Result<(), Error> {
    let body = serde_json::to_vec(states).map_err(io::Error::from)?;
    let next = path.with_extension("state.new");
    // Whoever can write it can show containers any CPU time.
    let mut file = File::from(
        rustix::fs::open(
            &next,
            rustix::fs::OFlags::WRONLY
                | rustix::fs::OFlags::CREATE
                | rustix::fs::OFlags::TRUNC
                | rustix::fs::OFlags::NOFOLLOW
                | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .map_err(io::Error::from)?,
    );
    let boot = boot.trim();
    writeln!(file, "{NAME} {VERSION} {boot} {:016x}", checksum(&body))?;
    file.write_all(&body)?;
    drop(file);
    std::fs::rename(&next, path)?;
    Ok(())
}

/// Reads the states that [`save`] wrote during this boot.
///
/// # Errors
///
/// [`Error`]; a file that is not there is an [`Error::Io`] too.
pub fn load(path: &Path, boot: &str) -> Result<States, Error> {
    let text = std::fs::read(path)?;
    let end = text.iter().position(|&byte| byte == b'\n').ok_or(Error::Format)?;
    let (head, body) = text.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| Error::Format)?;
    let mut words = head.split(' ');
    if (words.next(), words.next()) != (Some(NAME), Some(VERSION)) {
        return Err(Error::Format);
    }
    let (Some(written), Some(sum), None) = (words.next(), words.next(), words.next()) else {
        return Err(Error::Format);
    };
    if written != boot.trim() {
        return Err(Error::OtherBoot);
    }
    if sum != format!("{:016x}", checksum(body)) {
        return Err(Error::Damaged);
    }
    serde_json::from_slice(body).map_err(|_| Error::Format)
}

/// FNV-1a, 64 bits: it is about files that were cut off, not about ones that were forged.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> States {
        let average = LoadAverage::seeded(Usec(7), [150, 20, 3]);
        let load = Some(SavedLoad { average, stepped: Usec(7) });
        let saved = Saved { saved: Usec(9), cpu: CpuView::default(), load };
        [(Box::from("pid:1@2"), saved)].into()
    }

    #[test]
    fn what_is_saved_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cgview-fuse.state");
        save(&path, "boot\n", &states()).unwrap();
        assert_eq!(load(&path, "boot").unwrap(), states());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_boot_counts_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        save(&path, "a", &states()).unwrap();
        assert!(matches!(load(&path, "b"), Err(Error::OtherBoot)));
    }

    #[test]
    fn any_cut_or_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        save(&path, "boot", &states()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(load(&path, "boot").is_err(), "{length}");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(load(&path, "boot").is_err(), "{place}");
        }
    }
}
