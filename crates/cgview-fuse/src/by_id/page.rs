//! Texts as the page cache has them: of one length, whatever the numbers in them.
//!
//! The kernel learns of a new length and drops the pages of the old text at two moments. A reader in between gets
//! the old text cut off, or with zeros behind it; and a reader who looks for more behind the end of the text that it
//! has got is given the rest of a longer one. Neither can happen to texts whose length is always the same: so lines
//! have blanks at their end, which all readers skip, and are as long as they have ever been, and the last one has
//! room for lines of CPUs and devices to come.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use cgview_core::tree::ProcFile;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::node::Node;

/// The texts that the kernel may have pages of.
#[derive(Default)]
pub(crate) struct Pages {
    entries: Mutex<HashMap<Node, Entry>>,
    /// Who waits for which text, while it is being made: once for all of them, so that no text is put in the place
    /// of a newer one.
    waiting: Mutex<HashMap<Node, Vec<Waiter>>>,
}

/// Takes a text, or an error, to whoever asked.
pub(crate) type Waiter = Box<dyn FnOnce(Result<Page, Errno>) + Send>;

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// The text of a file at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) text: Arc<[u8]>,
    /// Another one for each text: by that the kernel knows that it is a new one.
    pub(crate) changed: SystemTime,
    taken: Instant,
}

#[derive(Debug)]
struct Entry {
    page: Page,
    widths: Widths,
}

/// How many there may be: all files of two thousand containers.
const MOST: usize = 32_768;

/// What nobody has asked for is forgotten.
const IDLE: Duration = Duration::from_secs(60);

impl Pages {
    /// The text of a file, however old it is.
    pub(crate) fn get(&self, node: Node) -> Option<Page> {
        self.entries.lock().get(&node).map(|entry| entry.page.clone())
    }

    /// The same, if it is not older than that.
    pub(crate) fn fresh(&self, node: Node, age: Duration) -> Option<Page> {
        self.get(node).filter(|page| page.taken.elapsed() < age)
    }

    /// Waits for the text of a file. Returns whether it is to be made, because nobody else has it made.
    pub(crate) fn wait(&self, node: Node, waiter: Waiter) -> bool {
        let mut waiting = self.waiting.lock();
        let all = waiting.entry(node).or_default();
        all.push(waiter);
        all.len() == 1
    }

    /// Tells all who wait.
    pub(crate) fn tell(&self, node: Node, told: Result<Page, Errno>) {
        let all = self.waiting.lock().remove(&node).unwrap_or_default();
        for waiter in all {
            waiter(told.clone());
        }
    }

    /// Puts a text in the place of the one of before, and returns it as it is told.
    pub(crate) fn put(&self, node: Node, file: ProcFile, text: &[u8]) -> Page {
        let mut pages = self.entries.lock();
        if pages.len() >= MOST {
            pages.retain(|_, entry| entry.page.taken.elapsed() < IDLE);
        }
        let before = pages.remove(&node);
        let now = SystemTime::now();
        let (changed, mut widths) = match before {
            Some(Entry { page, widths }) => (now.max(page.changed + TICK), widths),
            None => (now, Widths::default()),
        };
        let text = widths.lay_out(file, text).into();
        let page = Page { text, changed, taken: Instant::now() };
        if pages.len() < MOST {
            pages.insert(node, Entry { page: page.clone(), widths });
        }
        page
    }

    /// Forgets what nobody asks for.
    pub(crate) fn sweep(&self) {
        self.entries.lock().retain(|_, entry| entry.page.taken.elapsed() < IDLE);
    }
}

/// The least difference of two times of a file.
const TICK: Duration = Duration::from_nanos(1);

/// How long the lines of a text have been, at most, and all of it.
#[derive(Debug, Default)]
struct Widths {
    lines: Vec<u32>,
    whole: usize,
}

impl Widths {
    fn lay_out(&mut self, file: ProcFile, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.whole.max(text.len() + text.len() / 4));
        // Where lines come or go, the others are in other places, and each is as long there as it is itself.
        if text.split_inclusive(|&byte| byte == b'\n').count() != self.lines.len() {
            self.lines.clear();
        }
        for (place, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let (line, end) = match line.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (line, false),
            };
            let wanted = u32::try_from(wanted(file, line.len())).unwrap_or(u32::MAX);
            match self.lines.get_mut(place) {
                Some(width) => *width = wanted.max(*width),
                None => self.lines.push(wanted),
            }
            let width = self.lines.get(place).map_or(0, |&width| width as usize);
            out.extend_from_slice(line);
            out.resize(out.len() + width.saturating_sub(line.len()), b' ');
            if end {
                out.push(b'\n');
            }
        }
        if out.len() > self.whole {
            self.whole = room(file, out.len());
        }
        let more = self.whole - out.len();
        // `cpuinfo` ends with an empty line, which is to stay one.
        if let Some(last) = out.iter().rposition(|&byte| byte != b'\n') {
            out.splice(last + 1..last + 1, std::iter::repeat_n(b' ', more));
        }
        out
    }
}

/// How long a line of that length is made at first.
fn wanted(file: ProcFile, length: usize) -> usize {
    match file {
        // The kernel aligns numbers by itself, and there are constants.
        ProcFile::Meminfo | ProcFile::Cpuinfo | ProcFile::Partitions | ProcFile::Slabinfo => length,
        // Room for numbers to grow.
        _ => (length + 16).next_multiple_of(16),
    }
}

/// How long a text of that length is made at first: for CPUs and devices to come, as many again as there are.
fn room(file: ProcFile, length: usize) -> usize {
    match file {
        ProcFile::Cpuinfo
        | ProcFile::Diskstats
        | ProcFile::Partitions
        | ProcFile::Stat
        | ProcFile::Swaps => {
            // Who reads by lines may take no longer ones than 64 KiB.
            let more = length.clamp(256, 16 << 10);
            (length + more).next_multiple_of(1024)
        }
        _ => length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_and_the_text_does_not() {
        let mut widths = Widths::default();
        let first = widths.lay_out(ProcFile::Stat, b"cpu  9 9\nctxt 0\n");
        let second = widths.lay_out(ProcFile::Stat, b"cpu  10 10\nctxt 0\n");
        let lines = |text: &[u8]| String::from_utf8_lossy(text).trim_end().to_owned();
        assert_eq!(lines(&first), "cpu  9 9                        \nctxt 0");
        assert_eq!(lines(&second), "cpu  10 10                      \nctxt 0");
        assert_eq!(first.len(), second.len());
        let large = widths.lay_out(ProcFile::Stat, b"cpu  1000000000000 1000000000000\nctxt 0\n");
        let small = widths.lay_out(ProcFile::Stat, b"cpu  1 1\nctxt 0\n");
        assert_eq!(large.len(), small.len());
    }

    #[test]
    fn lines_come_and_go_and_the_text_is_as_long_as_it_was() {
        let texts = |file, line: &str, end: &str| -> Vec<usize> {
            let mut widths = Widths::default();
            let mut length = |count| {
                let text = line.repeat(count) + end;
                let out = widths.lay_out(file, text.as_bytes());
                let out = String::from_utf8(out).unwrap();
                let trimmed: Vec<_> = out.lines().map(str::trim_end).collect();
                assert_eq!(trimmed, text.lines().map(str::trim_end).collect::<Vec<_>>());
                assert!(out.ends_with('\n'), "{out:?}");
                out.len()
            };
            [4, 8, 1, 5, 80, 4].map(&mut length).into()
        };
        let intr = format!("intr{}\nctxt 1\n", " 0".repeat(300));
        for (file, line, end) in [
            (ProcFile::Stat, "cpu0 1000 1000 1000 1000 1000\n", &*intr),
            (ProcFile::Cpuinfo, &*format!("{}\n\n", "flags\t: fpu ".repeat(80)), "\n"),
            (ProcFile::Partitions, " 254        0   10485760 vda\n", "\n"),
        ] {
            let lengths = texts(file, line, end);
            let [four, eight, one, five, most, last] = lengths.as_slice() else { panic!() };
            assert!([eight, one, five].iter().all(|&length| length == four), "{lengths:?}");
            assert!(most > four && last == most, "{lengths:?}");
        }
    }

    #[test]
    fn what_the_kernel_aligns_is_as_it_was() {
        let text = b"MemTotal:         262144 kB\nMemFree:          999999 kB\n";
        assert_eq!(Widths::default().lay_out(ProcFile::Meminfo, text), text);
    }

    #[test]
    fn each_text_has_another_time() {
        let pages = Pages::default();
        let node = Node::Root;
        let mut last = None;
        for _ in 0..100 {
            let page = pages.put(node, ProcFile::Uptime, b"1.00 1.00\n");
            assert!(last.is_none_or(|last| page.changed > last));
            last = Some(page.changed);
        }
        assert!(pages.fresh(node, Duration::MAX).is_some());
        assert!(pages.fresh(node, Duration::ZERO).is_none());
    }
}
