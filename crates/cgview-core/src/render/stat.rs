//! `/proc/stat`.

use alloc::vec::Vec;

use crate::{
    cpu_view::VisibleCpu,
    explain::{Output, Source, Why},
    snapshot::{Controller, Version},
    units::{Ticks, Usec},
    view::View,
};

/// Renders `/proc/stat` (`show_stat()` of `fs/proc/stat.c`): the lines of the host's text, in its order,
/// with as many columns as this kernel has.
///
/// | line | value |
/// |---|---|
/// | `cpuN` | one for each visible CPU: user, nice, system, idle and steal of the [CPU view](crate::cpu_view). iowait, irq, softirq and guest are not known of a container, and so 0, as is any later column |
/// | `cpu` | the sum of the `cpuN` lines, as they are printed |
/// | `intr`, `softirq` | as many zeros as the host has columns: interrupts belong to no container |
/// | `ctxt` | 0: the kernel counts context switches by task and not by cgroup |
/// | `btime` | the host's, less the boot clock's offset in the reader's time namespace, as the kernel does |
/// | `processes` | pids handed out in the container's pid namespace, or else its tasks: the most that were seen |
/// | `procs_running`, `procs_blocked` | tasks of the container in R and D; the reader itself runs |
/// | any other | its name, and zeros for its numbers |
///
/// Without a time namespace `btime` stays the host's, although `/proc/uptime` tells the container's age:
/// start times in `/proc/PID/stat` count from the host's boot, and tools add them to `btime`.
///
/// Where the container is the whole host, so is its text, but for `btime`.
pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    let whole_host = view.cpus.is_whole_host(view.snapshot, view.host);
    for Line { name, text, end } in (Lines { rest: host, with_cpus: whole_host, cpu_seen: false }) {
        match name {
            b"btime" => btime(view, text, out),
            _ if whole_host => out.copy(text),
            _ if is_cpu(name) => {
                cpu_lines(view, text, end, out);
                continue;
            }
            b"processes" => processes(view, text, out),
            b"procs_running" => {
                let running = view.snapshot.tasks.map_or(1, |tasks| tasks.running.max(1));
                number(text, running, Why::of(Source::Tasks, "in state R, with the reader"), out);
            }
            b"procs_blocked" => {
                let blocked = view.snapshot.tasks.map_or(0, |tasks| tasks.blocked);
                number(text, blocked, Why::of(Source::Tasks, "in state D"), out);
            }
            name => zeros(text, name.len(), out),
        }
        out.copy(end);
    }
}

/// What of the host's `/proc/stat` a container's is made from: which lines and columns there are, and `btime`. It is a
/// text of that file, too, and rendered in place of the host's it gives the same for any container that is not the
/// whole host.
///
/// To render by it costs the same however many CPUs the host has; and it changes only when the clock is set or an
/// interrupt comes or goes. So whoever renders for many containers keeps it.
///
/// ```
/// let host = b"cpu  5 0 2\ncpu0 3 0 1\ncpu1 2 0 1\nctxt 88\nbtime 1700000000\n";
/// let outline = cgview_core::stat_outline(host);
/// assert_eq!(outline, b"cpu  0 0 0\nctxt 0\nbtime 1700000000\n");
/// ```
#[must_use]
pub fn stat_outline(host: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut out = Output::new(&mut text, None);
    for line in (Lines { rest: host, with_cpus: false, cpu_seen: false }) {
        match line.name {
            b"btime" => out.copy(line.text),
            name => zeros(line.text, name.len(), &mut out),
        }
        out.copy(line.end);
    }
    text
}

/// A line, its first word, and the newline that ends it.
struct Line<'a> {
    name: &'a [u8],
    text: &'a [u8],
    end: &'a [u8],
}

/// The lines of a text; of those of CPUs the first alone, unless all are wanted.
struct Lines<'a> {
    rest: &'a [u8],
    with_cpus: bool,
    cpu_seen: bool,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        loop {
            let skips_cpus = self.cpu_seen && !self.with_cpus;
            // A large host has hundreds of them.
            while skips_cpus && let Some(after) = after_cpu(self.rest) {
                self.rest = after;
            }
            if self.rest.is_empty() {
                return None;
            }
            // memchr, since a line may be long: a column of `intr` for each interrupt.
            let length = memchr::memchr(b'\n', self.rest).unwrap_or(self.rest.len());
            let (text, after) = self.rest.split_at_checked(length)?;
            let (end, after) = after.split_at_checked(1).unwrap_or((b"", b""));
            self.rest = after;
            let name = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
            let is_cpu = is_cpu(name);
            self.cpu_seen |= is_cpu;
            if !(is_cpu && skips_cpus) {
                return Some(Line { name, text, end });
            }
        }
    }
}

/// What follows the line of a CPU that `text` begins with, if it does.
fn after_cpu(text: &[u8]) -> Option<&[u8]> {
    let number = text.strip_prefix(b"cpu")?;
    let digits = number.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let columns = number.get(digits..)?.strip_prefix(b" ")?;
    let (_, after) = columns.split_at_checked(memchr::memchr(b'\n', columns)? + 1)?;
    Some(after)
}

/// Whether `name` is that of a CPU line: `cpu` or `cpu17`.
fn is_cpu(name: &[u8]) -> bool {
    name.strip_prefix(b"cpu").is_some_and(|number| number.iter().all(u8::is_ascii_digit))
}

/// More columns than a CPU line will ever have, so that a strange text cannot make a huge one. Linux has
/// ten since 2.6.33.
const MOST_COLUMNS: usize = 32;

/// The container's CPU lines, with as many columns as `host_line` has.
fn cpu_lines(view: &View<'_>, host_line: &[u8], end: &[u8], out: &mut Output<'_>) {
    let columns = crate::parse::words(host_line).skip(1).take(MOST_COLUMNS).count();
    let cpus = view.cpu_view.cpus();
    let reasons = Reasons::of(view);
    let sum_of = |of: fn(&VisibleCpu) -> Ticks| -> Ticks { cpus.iter().map(of).sum() };
    // The kernel pads the name of the sum to the width of `cpuN`.
    out.copy(b"cpu ");
    for column in 0..columns {
        let (of, why) = reasons.column(column);
        out.copy(b" ");
        out.number(sum_of(of).0, why);
    }
    for (index, cpu) in cpus.iter().enumerate() {
        // Every line but the last has a newline, whatever the host's text ends with.
        out.copy(b"\ncpu");
        out.copy(itoa::Buffer::new().format(index).as_bytes());
        for column in 0..columns {
            let (of, why) = reasons.column(column);
            out.copy(b" ");
            out.number(of(cpu).0, why);
        }
    }
    out.copy(end);
}

/// Why each column is what it is.
struct Reasons {
    used: Why,
    idle: Why,
    steal: Why,
}

impl Reasons {
    fn of(view: &View<'_>) -> Reasons {
        let used = match view.snapshot.cpu_usage.as_ref().map(|usage| usage.cgroup.version) {
            Some(version) => {
                let file = match version {
                    Version::V1 => "cpuacct.usage_all",
                    Version::V2 => "cpu.stat",
                };
                Why::cgroup(Controller::Cpuacct, 0, file, "time used, within the entitlement")
            }
            None => Why::of(Source::CpuView, "no account of the time used"),
        };
        Reasons {
            used,
            idle: view.cpus.why(view.snapshot, "time entitled to and not used"),
            steal: match view.policy.steal {
                crate::policy::StealPolicy::Zero => {
                    Why::of(Source::CpuView, "the entitlement is all there is: nothing is stolen")
                }
                crate::policy::StealPolicy::Throttled => {
                    Why::of(Source::CpuView, "time that the quota withheld")
                }
            },
        }
    }

    /// The value and the reason of a column, counted from 0.
    fn column(&self, column: usize) -> (fn(&VisibleCpu) -> Ticks, Why) {
        match column {
            0 => (|cpu| cpu.busy.user.ticks(), self.used),
            1 => (|cpu| cpu.busy.nice.ticks(), self.used),
            2 => (|cpu| cpu.busy.system.ticks(), self.used),
            3 => (|cpu| cpu.shown_idle().ticks(), self.idle),
            7 => (|cpu| cpu.steal.ticks(), self.steal),
            _ => (|_| Ticks(0), NOT_KNOWN),
        }
    }
}

const NOT_KNOWN: Why = Why::of(Source::Constant, "the kernel does not count it by cgroup");

fn btime(view: &View<'_>, line: &[u8], out: &mut Output<'_>) {
    let offset = view.reader.timens.boottime;
    let host = crate::parse::words(line).nth(1).and_then(crate::parse::decimal);
    let Some(host) = host.filter(|_| offset != 0) else {
        let start = out.text.len();
        out.copy(line);
        out.note(start, Why::host("/proc/stat", "start times in /proc/PID/stat count from it"));
        return;
    };
    // In seconds, rounded down as timens_sub_boottime() normalizes it.
    let shift = offset.unsigned_abs();
    let booted = if offset > 0 {
        host.saturating_sub(shift.div_ceil(Usec::PER_SECOND))
    } else {
        host.saturating_add(shift / Usec::PER_SECOND)
    };
    number(line, booted, Why::of(Source::TimeNamespace, "the boot of the reader's clock"), out);
}

fn processes(view: &View<'_>, line: &[u8], out: &mut Output<'_>) {
    let tasks = view.snapshot.tasks;
    let rule = match tasks {
        Some(tasks) if tasks.last_pid > 0 => "pids handed out so far",
        Some(_) => "the most that there have been",
        None => "not counted",
    };
    let count = tasks.map_or(0, |tasks| tasks.newest());
    // A counter, of which the newest task tells no more once it has ended.
    number(line, count.max(view.cpu_view.forks()), Why::of(Source::Tasks, rule), out);
}

/// A line of a name and one number.
fn number(line: &[u8], value: u64, why: Why, out: &mut Output<'_>) {
    let name = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    let start = out.text.len();
    out.copy(name);
    out.copy(b" ");
    out.copy(itoa::Buffer::new().format(value).as_bytes());
    out.note(start, why);
}

/// A line with zeros for all numbers after its name.
fn zeros(line: &[u8], name: usize, out: &mut Output<'_>) {
    let start = out.text.len();
    let (name, rest) = line.split_at_checked(name).unwrap_or((line, b""));
    out.copy(name);
    if let Some(mut columns) = plain_columns(rest) {
        while columns > 0 {
            let some = columns.min(ZEROS.len() / 2);
            out.copy(ZEROS.get(..some * 2).unwrap_or_default());
            columns -= some;
        }
    } else {
        let mut in_number = false;
        for &byte in rest {
            let is_digit = byte.is_ascii_digit();
            if !is_digit || !in_number {
                out.text.push(if is_digit { b'0' } else { byte });
            }
            in_number = is_digit;
        }
    }
    out.note(start, NOT_KNOWN);
}

/// Columns of zeros, to be copied many at a time: `intr` has thousands of them on a large host.
const ZEROS: &[u8; 64] = b" 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";

/// How many numbers `text` has, if each of them has one blank before it and there is nothing else. In
/// passes without branches, since it is long.
fn plain_columns(text: &[u8]) -> Option<usize> {
    let is_number_or_blank = |byte: u8| (byte == b' ') | byte.is_ascii_digit();
    let next = text.get(1..).unwrap_or_default();
    let is_plain = text.last().is_none_or(u8::is_ascii_digit)
        && text.iter().fold(true, |plain, &byte| plain & is_number_or_blank(byte))
        && !text.iter().zip(next).fold(false, |two, (&a, &b)| two | ((a == b' ') & (b == b' ')));
    is_plain.then(|| memchr::memchr_iter(b' ', text).count())
}
