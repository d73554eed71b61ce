//! `cgview doctor`: what this host supports, what is mounted, and how to mend what is broken.

mod host;
mod mounts;
mod repair;

use std::{fmt::Write, process::ExitCode};

use cgview_attach::Survey;
use serde::Serialize;
use serde_json::Value;

use crate::{output::print, run};

/// Check what this host supports, what is mounted, and what is broken
///
/// Looks at the kernel, the cgroup hierarchies, FUSE, and the mounts of cgview and LXCFS in all mount
/// namespaces, and says how to mend what is broken. Removes what killed runs have left behind. Sees
/// everything as root only. With --repair, mends mounts whose daemon is gone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 if all is well, 1 if something is broken.")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    repair: repair::RepairArgs,
}

/// How it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it should be.
    Ok,
    /// Something is missing that the view can do without.
    Note,
    /// Containers see something wrong, or nothing.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    status: Status,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Check {
        Check { name: name.into(), status: Status::Ok, found: found.into(), mend: None }
    }

    fn note(name: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { status: Status::Note, mend: Some(mend.into()), ..Check::ok(name, found) }
    }

    fn broken(name: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { status: Status::Broken, mend: Some(mend.into()), ..Check::ok(name, found) }
    }
}

/// Runs all checks.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (checks, repaired) = if args.repair.is_given() {
        let report = args.repair.repair()?;
        (repair::checks(&report), Some(repair::json(&report)))
    } else {
        let mut checks = host::checks();
        checks.extend(mounts::checks(&Survey::take()?));
        checks.extend(leftovers());
        (checks, None)
    };
    let text = if args.json { json(&checks, repaired)? } else { table(&checks) };
    print(text.as_bytes())?;
    let broken = checks.iter().any(|check| check.status == Status::Broken);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Clears up after runs that were killed together with their keepers.
fn leftovers() -> Option<Check> {
    let name = "leftovers of runs";
    match run::sweep() {
        Ok(swept) if swept.is_empty() => None,
        Ok(swept) => {
            let list: Vec<_> = swept.iter().map(|path| path.display().to_string()).collect();
            Some(Check::ok(name, format!("removed {}", list.join(", "))))
        }
        Err(error) => Some(Check::note(name, format!("{error:#}"), "run it as root")),
    }
}

fn json(checks: &[Check], repair: Option<Value>) -> anyhow::Result<String> {
    let mut value = serde_json::json!({ "checks": checks });
    if let (Some(repair), Some(object)) = (repair, value.as_object_mut()) {
        object.insert("repair".into(), repair);
    }
    let mut text = serde_json::to_string_pretty(&value)?;
    text.push('\n');
    Ok(text)
}

fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Broken => "broken",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{status:<7} {:<width$}  {}", check.name, check.found);
        if let Some(mend) = &check.mend {
            let _ = writeln!(text, "{:<7} {:<width$}  -> {mend}", "", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_says_how_to_mend() {
        let checks =
            [Check::ok("kernel", "6.12"), Check::broken("/dev/fuse", "missing", "modprobe fuse")];
        assert_eq!(
            table(&checks),
            "\
ok      kernel     6.12
broken  /dev/fuse  missing
                   -> modprobe fuse
"
        );
    }

    #[test]
    fn json_leaves_out_what_there_is_not() {
        let text = json(&[Check::ok("kernel", "6.12")], None).unwrap();
        assert!(text.contains("\"status\": \"ok\"") && !text.contains("mend"), "{text}");
        assert!(!text.contains("repair"), "{text}");
    }
}
