//! Where each rendered number came from.

use alloc::{string::String, vec::Vec};
use core::{fmt, ops::Range};

use crate::snapshot::{Controller, Snapshot};

/// Why a number is what it is: where it was read, and by which rule it became what is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Why {
    /// The file that decided.
    pub source: Source,
    /// The rule, in a few words: `the tightest limit up to the root`.
    pub rule: &'static str,
}

impl Why {
    /// By a file of a cgroup: `level` counts from the container outwards.
    #[must_use]
    pub const fn cgroup(
        controller: Controller,
        level: usize,
        file: &'static str,
        rule: &'static str,
    ) -> Why {
        Why { source: Source::Cgroup { controller, level, file }, rule }
    }

    /// By a file of the host.
    #[must_use]
    pub const fn host(file: &'static str, rule: &'static str) -> Why {
        Why { source: Source::Host { file }, rule }
    }

    /// By something else.
    #[must_use]
    pub const fn of(source: Source, rule: &'static str) -> Why {
        Why { source, rule }
    }
}

/// Where a number was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// A file of the cgroup at `level`, 0 being the container's own.
    Cgroup {
        /// The controller whose levels are counted.
        controller: Controller,
        /// Counted from the container outwards.
        level: usize,
        /// The file's name in that cgroup.
        file: &'static str,
    },
    /// A file of the host.
    Host {
        /// Its path.
        file: &'static str,
    },
    /// The start of the container's init: `/proc/PID/stat`.
    Init,
    /// The container's tasks, counted.
    Tasks,
    /// The CPU view: capacity by entitlement, and CPU time spread over the visible CPUs.
    CpuView,
    /// The load average, sampled every five seconds.
    LoadAverage,
    /// The time namespace of the reader.
    TimeNamespace,
    /// Nothing of the kind is known of a container: always the same.
    Constant,
}

/// The reasons for one rendered text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Explanation {
    /// Each with the bytes of the text that it explains, in the order of the text.
    pub notes: Vec<(Range<usize>, Why)>,
}

impl Explanation {
    /// The reasons for the bytes in `range`, such as those of a line.
    pub fn within(&self, range: Range<usize>) -> impl Iterator<Item = &Why> {
        self.notes
            .iter()
            .filter(move |(noted, _)| noted.start < range.end && range.start < noted.end)
            .map(|(_, why)| why)
    }
}

impl Why {
    /// In words, with the cgroup's path as it is in `snapshot`: `memory.max of /app: the tightest ...`.
    #[must_use]
    pub fn describe<'a>(&'a self, snapshot: &'a Snapshot) -> impl fmt::Display + 'a {
        Described { why: self, snapshot }
    }
}

struct Described<'a> {
    why: &'a Why,
    snapshot: &'a Snapshot,
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why.source {
            Source::Cgroup { controller, level, file } => {
                write!(f, "{file}")?;
                if let Some(cgroup) = self.snapshot.cgroup(controller, level) {
                    write!(f, " of {}", cgroup.path)?;
                }
            }
            Source::Host { file } => write!(f, "host {file}")?,
            Source::Init => write!(f, "start of the container's init")?,
            Source::Tasks => write!(f, "tasks of the container")?,
            Source::CpuView => write!(f, "cpu view")?,
            Source::LoadAverage => write!(f, "load of the container")?,
            Source::TimeNamespace => write!(f, "time namespace")?,
            Source::Constant => write!(f, "not known of a container")?,
        }
        write!(f, ": {}", self.why.rule)
    }
}

/// Where a renderer writes: the text, and the reasons if somebody asked for them.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    pub(crate) text: &'a mut Vec<u8>,
    explanation: Option<&'a mut Explanation>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(
        text: &'a mut Vec<u8>,
        explanation: Option<&'a mut Explanation>,
    ) -> Output<'a> {
        Output { text, explanation }
    }

    /// Appends bytes that are the host's own.
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    /// Notes why everything from `start` to the end of the text is what it is.
    pub(crate) fn note(&mut self, start: usize, why: Why) {
        if let Some(explanation) = &mut self.explanation {
            explanation.notes.push((start..self.text.len(), why));
        }
    }

    /// Appends a number, with its reason.
    pub(crate) fn number(&mut self, value: u64, why: Why) {
        let start = self.text.len();
        self.text.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.note(start, why);
    }

    /// Appends text, with its reason.
    pub(crate) fn put(&mut self, bytes: &[u8], why: Why) {
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        self.note(start, why);
    }

    /// Appends `line` with its first number after the name replaced, ended at the same column.
    ///
    /// The kernel pads these numbers with `seq_put_decimal_ull_width()`. A line without a number is
    /// copied.
    pub(crate) fn replace_number(&mut self, line: &[u8], value: u64, why: Why) {
        let Some((prefix, width, suffix)) = split_number(line) else {
            return self.copy(line);
        };
        let start = self.text.len();
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(value).as_bytes();
        self.text.extend_from_slice(prefix);
        // At least one blank, if the host's line has one.
        let blanks = width.saturating_sub(digits.len()).max(usize::from(width > 1));
        self.text.resize(self.text.len() + blanks, b' ');
        self.text.extend_from_slice(digits);
        self.text.extend_from_slice(suffix);
        self.note(start, why);
    }
}

/// Splits `MemTotal:       16384 kB` into `MemTotal:`, the 12 columns to the number's end, and ` kB`.
fn split_number(line: &[u8]) -> Option<(&[u8], usize, &[u8])> {
    let (prefix, rest) = line.split_at_checked(memchr::memchr(b':', line)? + 1)?;
    let start = rest.iter().position(u8::is_ascii_digit)?;
    let digits = rest.get(start..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (field, suffix) = rest.split_at_checked(start + digits)?;
    Some((prefix, field.len(), suffix))
}

/// Renders reasons for people: `memory.max of /app: the tightest limit up to the root`.
#[must_use]
pub fn join<'a>(whys: impl Iterator<Item = &'a Why>, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for why in whys {
        if !text.is_empty() {
            text.push_str("; ");
        }
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{}", why.describe(snapshot)));
    }
    text
}
