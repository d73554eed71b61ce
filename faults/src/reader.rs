//! One reader in a container: it opens, reads and lists for ever, in all the ways that programs do.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    thread,
    time::Duration,
};

use fastrand::Rng;
use rustix::io::Errno;

use crate::{
    board::{Board, Call, Slot},
    container::Files,
    texts::{Checker, Wrong},
};

/// What a reader reads with: from what `read(1)` of a shell uses to what `cat` does.
const BUFFERS: [usize; 6] = [1, 7, 64, 1024, 4096, 128 * 1024];

/// After so many reads of a text with a small buffer, the rest is read with a large one.
const SMALL_READS: usize = 24;

/// How many files it keeps open and reads again and again.
const KEPT: usize = 4;

/// How many of the errors that it gets a reader writes down.
const COMPLAINTS: u32 = 20;

/// A reader.
pub(crate) struct Reader<'a> {
    pub(crate) board: &'a Board,
    pub(crate) slot: &'a Slot,
    pub(crate) name: String,
    pub(crate) mountpoint: &'a Path,
    /// Whether the files are bound over their namesakes too.
    pub(crate) is_bound: bool,
    pub(crate) files: &'a Files,
    pub(crate) checker: Checker,
    pub(crate) pause: Duration,
    pub(crate) rng: Rng,
    /// What goes wrong is written here.
    pub(crate) report: &'a File,
    pub(crate) kept: VecDeque<(String, File)>,
    pub(crate) errors: u32,
}

/// The directory with the CPUs.
const CPUS: &str = "sys/devices/system/cpu";

impl Reader<'_> {
    /// Reads until the board says that it ends.
    pub(crate) fn run(mut self) {
        while !self.board.has_ended() {
            self.step();
            // Twice the average at most.
            let pause = u64::try_from(self.pause.as_micros()).unwrap();
            thread::sleep(Duration::from_micros(self.rng.u64(0..=2 * pause)));
        }
    }

    fn step(&mut self) {
        match self.rng.u32(0..20) {
            0 => self.list(),
            1 => self.stat(),
            2..=6 => self.read_kept(),
            _ => {
                let file = self.file();
                self.read_opened(&file);
            }
        }
    }

    /// Files of `proc` are what programs read most.
    fn file(&mut self) -> String {
        let Files { proc, sys, .. } = self.files;
        let files = if sys.is_empty() || self.rng.u32(0..10) < 7 { proc } else { sys };
        self.rng.choice(files).unwrap().clone()
    }

    /// Where it reads a file: through the mountpoint, or where it is bound.
    fn path(&mut self, file: &str) -> PathBuf {
        if self.is_bound && self.rng.bool() {
            let bound = Path::new("/").join(file);
            // A file that the host does not have has nothing to be bound over.
            if bound.starts_with("/proc/pressure") && !bound.exists() {
                return self.mountpoint.join(file);
            }
            return bound;
        }
        self.mountpoint.join(file)
    }

    fn read_opened(&mut self, file: &str) {
        let path = self.path(file);
        let slot = self.slot;
        let opened = slot.call(Call::Open, || File::open(&path));
        let Some(mut opened) = self.done(file, "open", opened) else { return };
        if self.kept.len() < KEPT && self.rng.u32(0..4) == 0 {
            let clone = opened.try_clone().unwrap();
            self.kept.push_back((file.to_owned(), clone));
        }
        let text = self.read_all(file, |buffer, _| slot.call(Call::Read, || opened.read(buffer)));
        self.judge(file, &path, text);
    }

    /// Reads anew through a descriptor that has been open for a while.
    fn read_kept(&mut self) {
        let Some((file, kept)) = self.kept.pop_front() else { return };
        let slot = self.slot;
        let text = self.read_all(&file, |buffer, offset| {
            slot.call(Call::Read, || kept.read_at(buffer, offset))
        });
        let is_good = text.is_some();
        self.judge(&file, Path::new("an open file"), text);
        // A descriptor of a dead connection stays dead.
        if is_good && self.rng.u32(0..8) != 0 {
            self.kept.push_back((file, kept));
        }
    }

    fn read_all(
        &mut self,
        file: &str,
        mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    ) -> Option<Vec<u8>> {
        let mut size = *self.rng.choice(&BUFFERS).unwrap();
        let mut text = Vec::new();
        for count in 0.. {
            if count == SMALL_READS {
                size = 128 * 1024;
            }
            let mut buffer = vec![0; size];
            let result = read(&mut buffer, text.len() as u64);
            match self.done(file, "read", result)? {
                0 => break,
                length => text.extend_from_slice(buffer.get(..length).unwrap()),
            }
        }
        Some(text)
    }

    fn list(&mut self) {
        let dir = self.path(CPUS);
        let list = || {
            let mut count = 0;
            for entry in fs::read_dir(&dir)? {
                let name = entry?.file_name();
                let number = name.to_str().and_then(|name| name.strip_prefix("cpu"));
                count += usize::from(number.is_some_and(|number| number.parse::<u32>().is_ok()));
            }
            Ok(count)
        };
        let listed = self.slot.call(Call::List, list);
        if let Some(count) = self.done(CPUS, "list", listed) {
            let judgement = self.checker.check_cpus(count);
            self.count(&dir, judgement, &[]);
        }
    }

    fn stat(&mut self) {
        let file = self.file();
        let path = self.path(&file);
        let result = self.slot.call(Call::Stat, || fs::metadata(&path));
        self.done(&file, "stat", result);
    }

    fn judge(&mut self, file: &str, path: &Path, text: Option<Vec<u8>>) {
        let Some(text) = text else { return };
        let judgement = self.checker.check(file, &text).map_err(|wrong| match wrong {
            Wrong::Text(what) => Wrong::Text(format!("{file}: {what}")),
            Wrong::Back(what) => Wrong::Back(format!("{file}: {what}")),
        });
        self.count(path, judgement, &text);
    }

    fn count(&mut self, path: &Path, judgement: Result<(), Wrong>, text: &[u8]) {
        self.slot.texts.fetch_add(1, Relaxed);
        if let Err(what) = judgement {
            let counter = match what {
                Wrong::Back(_) => &self.slot.back,
                Wrong::Text(_) => &self.slot.wrong,
            };
            counter.fetch_add(1, Relaxed);
            let text = String::from_utf8_lossy(text);
            self.complain(&format!("{}: {what}; it is {text:?}", path.display()));
        }
    }

    fn done<T>(&mut self, file: &str, call: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if error.raw_os_error() == Some(Errno::CONNABORTED.raw_os_error()) {
                    self.slot.aborted.fetch_add(1, Relaxed);
                } else {
                    self.slot.failed.fetch_add(1, Relaxed);
                }
                self.errors += 1;
                if self.errors <= COMPLAINTS {
                    self.complain(&format!("cannot {call} {file}: {error}"));
                }
                None
            }
        }
    }

    fn complain(&mut self, what: &str) {
        // In one piece, as others write there too.
        let line = format!("{}: {what}\n", self.name);
        let mut report = self.report;
        let _ = report.write_all(line.as_bytes());
    }
}
