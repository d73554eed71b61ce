//! A text with the reasons for its lines.

use std::ops::Range;

use cgview_core::{Explanation, Snapshot, Source, Why, explain::join, snapshot::Controller};
use cgview_fuse::service::Explained;
use serde_json::{Value, json};

use crate::file_name::FileName;

/// A comment stands behind a line of up to this length; behind a longer one it would be out of sight,
/// and stands in front of it.
const WIDEST: usize = 60;

/// The texts, with a comment for each line that has reasons, and a heading where there are several.
pub(super) fn annotate(files: &[(FileName, Explained)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (file, explained) in files {
        if files.len() > 1 {
            let separator = if out.is_empty() { "" } else { "\n" };
            out.extend_from_slice(format!("{separator}==> {file} <==\n").as_bytes());
        }
        annotate_one(explained, &mut out);
    }
    out
}

fn annotate_one(explained: &Explained, out: &mut Vec<u8>) {
    let lines: Vec<_> = lines(&explained.text).collect();
    let reasons = |range: &Range<usize>| distinct(&explained.explanation, range.clone());
    let width = lines
        .iter()
        .filter(|(range, line)| line.len() <= WIDEST && !reasons(range).is_empty())
        .map(|(_, line)| line.len())
        .max()
        .unwrap_or(0);
    for (range, line) in &lines {
        let comment = join(reasons(range).into_iter(), &explained.snapshot);
        let is_long = line.len() > WIDEST;
        if !comment.is_empty() && is_long {
            out.extend_from_slice(format!("# {comment}\n").as_bytes());
        }
        out.extend_from_slice(line);
        if !comment.is_empty() && !is_long {
            out.resize(out.len() + width - line.len(), b' ');
            out.extend_from_slice(format!("  # {comment}").as_bytes());
        }
        out.push(b'\n');
    }
}

/// How many lines there are, how many the host has, and how many are not the host's.
pub(super) fn count_lines(explained: &Explained) -> [usize; 3] {
    let mut host = HostLines::new(&explained.host);
    let changed = lines(&explained.text).filter(|(_, line)| host.of(line) != Some(line)).count();
    [lines(&explained.text).count(), host.rest.len(), changed]
}

/// The text, or its lines with their reasons.
pub(super) fn document(file: FileName, explained: &Explained, reasons: bool) -> Value {
    let path = file.to_string();
    if !reasons {
        return json!({ "path": path, "text": String::from_utf8_lossy(&explained.text) });
    }
    let mut host = HostLines::new(&explained.host);
    let lines: Vec<Value> = lines(&explained.text)
        .map(|(range, line)| {
            let host = host.of(line);
            let reasons: Vec<Value> = distinct(&explained.explanation, range)
                .into_iter()
                .map(|why| reason(why, &explained.snapshot))
                .collect();
            json!({
                "line": String::from_utf8_lossy(line),
                "host": host.map(String::from_utf8_lossy),
                "changed": host != Some(line),
                "reasons": reasons,
            })
        })
        .collect();
    json!({ "path": path, "lines": lines })
}

fn reason(why: &Why, snapshot: &Snapshot) -> Value {
    match why.source {
        Source::Cgroup { controller, level, file } => json!({
            "source": "cgroup",
            "controller": name(controller),
            "cgroup": snapshot.cgroup(controller, level).map(|cgroup| &cgroup.path),
            "level": level,
            "file": file,
            "rule": why.rule,
        }),
        Source::Host { file } => json!({ "source": "host", "file": file, "rule": why.rule }),
        other => json!({ "source": kind(other), "rule": why.rule }),
    }
}

fn name(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "memory",
        Controller::Cpu => "cpu",
        Controller::Cpuacct => "cpuacct",
        Controller::Cpuset => "cpuset",
        Controller::Pids => "pids",
        Controller::Hugetlb => "hugetlb",
        Controller::Io => "io",
        Controller::Pressure => "pressure",
    }
}

fn kind(source: Source) -> &'static str {
    match source {
        Source::Cgroup { .. } => "cgroup",
        Source::Host { .. } => "host",
        Source::Init => "init",
        Source::Tasks => "tasks",
        Source::CpuView => "cpu-view",
        Source::LoadAverage => "load-average",
        Source::TimeNamespace => "time-namespace",
        Source::Constant => "constant",
    }
}

/// The lines of a text without their newlines, each with its place.
fn lines(text: &[u8]) -> impl Iterator<Item = (Range<usize>, &[u8])> {
    let mut end = 0;
    text.split_inclusive(|&byte| byte == b'\n').map(move |line| {
        let range = end..end + line.len();
        end = range.end;
        (range, line.strip_suffix(b"\n").unwrap_or(line))
    })
}

/// The reasons for a line, each once: the ten columns of a line of `/proc/stat` may have one reason.
fn distinct(explanation: &Explanation, range: Range<usize>) -> Vec<&Why> {
    let mut reasons: Vec<&Why> = Vec::new();
    for why in explanation.within(range) {
        if !reasons.contains(&why) {
            reasons.push(why);
        }
    }
    reasons
}

/// Finds the host's line behind each line of the view: renderers keep lines in order, and leave some
/// out.
struct HostLines<'a> {
    rest: Vec<&'a [u8]>,
    next: usize,
}

impl<'a> HostLines<'a> {
    fn new(text: &'a [u8]) -> HostLines<'a> {
        HostLines { rest: lines(text).map(|(_, line)| line).collect(), next: 0 }
    }

    fn of(&mut self, line: &[u8]) -> Option<&'a [u8]> {
        let rest = self.rest.get(self.next..).unwrap_or_default();
        // A file with one value has no names, and one line.
        let is_same = |host: &&[u8]| label(host) == label(line);
        let found = rest.iter().position(is_same).or((self.rest.len() == 1).then_some(0))?;
        let host = rest.get(found).copied();
        self.next += found + 1;
        host
    }
}

/// What a line is about: its first word, and in diskstats and partitions, whose lines begin with two
/// numbers, the third too.
fn label(line: &[u8]) -> Vec<&[u8]> {
    let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    if !first.iter().all(u8::is_ascii_digit) {
        let end = first.iter().position(|&byte| byte == b':');
        return vec![first.get(..end.unwrap_or(first.len())).unwrap_or(first)];
    }
    words.filter(|word| word.iter().any(u8::is_ascii_alphabetic)).take(1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn explained(text: &str, notes: &[(&str, &'static str)]) -> Explained {
        let mut explanation = Explanation::default();
        for &(line, rule) in notes {
            let start = text.find(line).unwrap();
            explanation.notes.push((start..start + line.len(), Why::of(Source::Tasks, rule)));
        }
        Explained {
            text: text.into(),
            explanation,
            snapshot: Arc::default(),
            host: Arc::from(text.replace('7', "9").into_bytes()),
        }
    }

    #[test]
    fn comments_are_aligned_behind_lines_and_in_front_of_long_ones() {
        let long = format!("intr {}", "0 ".repeat(40));
        let text = format!("a 7\nlonger 7\nsame 1\n{long}\n");
        let explained =
            explained(&text, &[("a 7", "one"), ("longer 7", "two"), (long.as_str(), "three")]);
        let out = annotate(&[(FileName::parse("stat").unwrap(), explained)]);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                "\
a 7       # tasks of the container: one
longer 7  # tasks of the container: two
same 1
# tasks of the container: three
{long}
"
            )
        );
    }

    #[test]
    fn a_line_is_compared_with_the_host_s_of_the_same_name() {
        let host = b"cpu 9 9\ncpu0 1\ncpu1 2\nintr 5\n";
        let mut lines = HostLines::new(host);
        assert_eq!(lines.of(b"cpu 1 1"), Some(&b"cpu 9 9"[..]));
        assert_eq!(lines.of(b"cpu0 1"), Some(&b"cpu0 1"[..]));
        assert_eq!(lines.of(b"intr 0"), Some(&b"intr 5"[..]));
        let mut lines = HostLines::new(b"   8  0 sda 1 2\n   8 16 sdb 3 4\n");
        assert_eq!(lines.of(b"   8 16 sdb 0 0"), Some(&b"   8 16 sdb 3 4"[..]));
        let mut lines = HostLines::new(b"0-7\n");
        assert_eq!(lines.of(b"0-1"), Some(&b"0-7"[..]));
    }

    #[test]
    fn json_has_the_line_and_the_host_s() {
        let explained = explained("MemTotal: 7 kB\nHugetlb: 0 kB\n", &[("MemTotal: 7 kB", "few")]);
        let value = document(FileName::parse("meminfo").unwrap(), &explained, true);
        assert_eq!(
            value,
            json!({ "path": "/proc/meminfo", "lines": [
                { "line": "MemTotal: 7 kB", "host": "MemTotal: 9 kB", "changed": true,
                  "reasons": [{ "source": "tasks", "rule": "few" }] },
                { "line": "Hugetlb: 0 kB", "host": "Hugetlb: 0 kB", "changed": false, "reasons": [] },
            ] })
        );
    }
}
