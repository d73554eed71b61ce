//! `cgview diff`: the host's files against a process's.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use cgview_core::tree::{Dir, Entry};
use cgview_fuse::{Service, service::Error};
use similar::{ChangeTag, TextDiff};

use crate::{
    file_name::{self, FileName},
    output::{Color, print},
    report,
    source::{self, Source},
};

/// Compare what the host is told by /proc and /sys with what a process is told
///
/// Prints a unified diff: lines with - are the host's, lines with + the process's. Without FILE, of
/// all files.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 if nothing differs, 1 if something does, 2 if there was \
                        trouble, as diff(1).")]
pub(crate) struct Args {
    /// The process, as the host numbers it
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,

    /// Read the host below this directory: the root of a machine as mounted here, or a capture
    #[arg(long, value_name = "DIR")]
    host_root: Option<PathBuf>,

    /// Files such as /proc/meminfo, meminfo, pressure/cpu or /sys/devices/system/cpu/online
    #[arg(value_name = "FILE", value_parser = FileName::parse)]
    files: Vec<FileName>,
}

/// The exit status for trouble.
pub(crate) const TROUBLE: u8 = 2;

/// Prints the differences.
pub(crate) fn run(args: &Args, color: Color) -> anyhow::Result<ExitCode> {
    let Source { service, .. } = source::open(args.host_root.as_deref())?;
    let is_all = args.files.is_empty();
    let files = if is_all {
        file_name::all(&service, args.pid)
            .with_context(|| format!("cannot list the files of process {}", args.pid))?
    } else {
        args.files.clone()
    };
    let style = Style::new(color);
    let (mut differs, mut trouble) = (false, false);
    for file in files {
        match service.explain(args.pid, file.0) {
            Ok(explained) => {
                let names = [format!("host{file}"), format!("process {}{file}", args.pid)];
                let diff = style.diff(names, &explained.host, &explained.text);
                differs |= !diff.is_empty();
                print(diff.as_bytes())?;
            }
            // Nobody can read it, as the pressure files where the kernel has them switched off.
            Err(_)
                if is_all && service.host().read(&file.to_string(), &mut Vec::new()).is_err() => {}
            Err(error) => {
                let is_end = is_gone(&error);
                let error = anyhow::Error::from(error)
                    .context(format!("cannot compare {file} of process {}", args.pid));
                if is_end {
                    return Err(error);
                }
                // The other files are still worth comparing.
                report::error(&error);
                trouble = true;
            }
        }
    }
    if is_all {
        for path in only_on_host(&service, args.pid)? {
            differs = true;
            print(format!("only on the host: {path}\n").as_bytes())?;
        }
    }
    Ok(match (trouble, differs) {
        (true, _) => ExitCode::from(TROUBLE),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
}

fn is_gone(error: &Error) -> bool {
    use cgview_host::Error as HostError;
    matches!(error, Error::Host(HostError::Gone { .. } | HostError::Vanished { .. }))
}

/// The directories of CPUs and nodes that the process does not have.
fn only_on_host(service: &Service, pid: u32) -> Result<Vec<String>, Error> {
    let mut only = Vec::new();
    for dir in [Dir::Cpu, Dir::Node] {
        let own = service.list(pid, dir)?;
        // Some kernels have no nodes.
        let names = service.host().list(&Entry::Dir(dir).path()).unwrap_or_default();
        let entries = names.iter().filter_map(|name| dir.child(name.as_bytes()));
        let missing =
            entries.filter(|entry| matches!(entry, Entry::Dir(_)) && !own.contains(entry));
        let first = only.len();
        only.extend(missing.map(Entry::path));
        // cpu10 comes after cpu9.
        only.get_mut(first..).unwrap_or_default().sort_by_key(|path| (path.len(), path.clone()));
    }
    Ok(only)
}

/// How differences are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colored: bool,
}

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

impl Style {
    /// Coloured where that is wanted.
    pub(crate) fn new(color: Color) -> Style {
        Style { colored: color.on_stdout() }
    }

    /// The unified diff of two texts; empty if they are the same.
    pub(crate) fn diff(
        self,
        [host_name, own_name]: [String; 2],
        host: &[u8],
        own: &[u8],
    ) -> String {
        let diff = TextDiff::from_lines(host, own);
        let mut out = String::new();
        for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
            if out.is_empty() {
                self.line(&mut out, BOLD, &format!("--- {host_name}"));
                self.line(&mut out, BOLD, &format!("+++ {own_name}"));
            }
            self.line(&mut out, CYAN, &hunk.header().to_string());
            for change in hunk.iter_changes() {
                let (sign, color) = match change.tag() {
                    ChangeTag::Delete => ('-', RED),
                    ChangeTag::Insert => ('+', GREEN),
                    ChangeTag::Equal => (' ', ""),
                };
                let line = change.to_string_lossy();
                self.line(&mut out, color, &format!("{sign}{}", line.trim_end_matches('\n')));
                if change.missing_newline() {
                    self.line(&mut out, "", "\\ No newline at end of file");
                }
            }
        }
        out
    }

    fn line(self, out: &mut String, color: &str, line: &str) {
        if self.colored && !color.is_empty() {
            out.push_str(&format!("\x1b[{color}m{line}\x1b[0m\n"));
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(colored: bool, host: &str, own: &str) -> String {
        let names = ["host/x".to_owned(), "process 7/x".to_owned()];
        Style { colored }.diff(names, host.as_bytes(), own.as_bytes())
    }

    #[test]
    fn lines_of_the_host_come_first() {
        assert_eq!(
            diff(false, "a 1\nb 2\n", "a 1\nb 3\n"),
            "--- host/x\n+++ process 7/x\n@@ -1,2 +1,2 @@\n a 1\n-b 2\n+b 3\n"
        );
        assert_eq!(diff(false, "same\n", "same\n"), "");
    }

    #[test]
    fn colours_end_with_the_line() {
        assert_eq!(
            diff(true, "1\n", "2\n"),
            "\x1b[1m--- host/x\x1b[0m\n\x1b[1m+++ process 7/x\x1b[0m\n\
             \x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-1\x1b[0m\n\x1b[32m+2\x1b[0m\n"
        );
    }
}
