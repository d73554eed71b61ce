//! `cgview status`: which containers run, and which of them have a view.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, process::ExitCode};

use cgview_attach::{
    Health, Survey,
    mounts::{CGVIEW, Device, Mount},
    namespaces::{self, Namespace},
};
use cgview_host::{Host, Running};
use serde::Serialize;

use crate::{attach::process_title, output::print};

/// Show which containers run, and which of them have a view
///
/// Lists the views that are mounted here, and the containers of this machine with the files that are attached to them or
/// that their runtimes have mounted. Needs root to look into containers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// All that is shown.
#[derive(Debug, Serialize)]
struct Status {
    /// The views that are mounted in the mount namespace of this process.
    views: Vec<View>,
    containers: Vec<Container>,
    /// Mount namespaces of no container that have been attached to.
    others: Vec<Other>,
}

/// A view that is mounted here.
#[derive(Debug, Serialize)]
struct View {
    mountpoint: PathBuf,
    fstype: String,
    state: String,
}

/// A container.
#[derive(Debug, Serialize)]
struct Container {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    runtime: &'static str,
    pid: u32,
    cgroup: String,
    #[serde(skip)]
    short: String,
    #[serde(flatten)]
    files: Files,
}

/// A process of another mount namespace.
#[derive(Debug, Serialize)]
struct Other {
    pid: u32,
    #[serde(skip)]
    title: String,
    #[serde(flatten)]
    files: Files,
}

/// The files of views that are mounted in a namespace.
#[derive(Debug, Default, Serialize)]
struct Files {
    /// By `cgview attach`.
    attached: Vec<PathBuf>,
    /// By anybody else: those of cgview.
    by_runtime: Vec<PathBuf>,
    /// Those of LXCFS.
    lxcfs: Vec<PathBuf>,
    /// Those of them that nobody answers for.
    dead: Vec<PathBuf>,
}

/// Shows it.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let status = status(&Survey::take()?, &Host::live()?.running()?);
    let text =
        if args.json { serde_json::to_string_pretty(&status)? + "\n" } else { table(&status) };
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn status(survey: &Survey, running: &[Running]) -> Status {
    let health = |mount: &Mount| {
        survey.filesystems.get(&mount.device).map_or(Health::Alive, |found| found.health)
    };
    let mut views: BTreeMap<Device, View> = BTreeMap::new();
    for mount in survey.namespaces.first().map(|own| own.table.mounts()).unwrap_or_default() {
        if mount.is_view() && mount.is_whole() {
            views.entry(mount.device).or_insert_with(|| View {
                mountpoint: mount.mountpoint.clone(),
                fstype: mount.fstype.clone(),
                state: health(mount).to_string(),
            });
        }
    }
    let files = |namespace: &Namespace| {
        let mut files = Files::default();
        for mount in namespace.table.mounts().iter().filter(|mount| mount.is_view()) {
            let is_seen = namespace.table.is_visible(mount);
            let place = || mount.mountpoint.clone();
            // One that something else covers may have to be detached all the same.
            match () {
                // A repair before Linux 6.5 leaves two at one place.
                () if mount.is_attached() && files.attached.contains(&mount.mountpoint) => {}
                () if mount.is_attached() => files.attached.push(place()),
                () if mount.is_whole() || !is_seen => {}
                () if mount.fstype == CGVIEW => files.by_runtime.push(place()),
                () => files.lxcfs.push(place()),
            }
            if is_seen && !mount.is_whole() && health(mount) == Health::Dead {
                files.dead.push(place());
            }
        }
        files
    };
    let mut known = Vec::new();
    let containers = running
        .iter()
        .map(|container| {
            let number = namespaces::number_of(container.pid);
            known.extend(container.pids.iter().filter_map(|&pid| namespaces::number_of(pid)));
            let namespace = survey.namespaces.iter().find(|found| Some(found.id) == number);
            Container {
                id: container.id.clone(),
                name: container.name.clone(),
                runtime: container.runtime.name(),
                pid: container.pid,
                cgroup: container.cgroup.clone(),
                short: container.short_id().to_owned(),
                files: namespace.map(files).unwrap_or_default(),
            }
        })
        .collect();
    let is_other = |namespace: &&Namespace| {
        !known.contains(&namespace.id) && namespace.table.mounts().iter().any(Mount::is_attached)
    };
    let others = survey.namespaces.iter().filter(is_other).map(|namespace| Other {
        pid: namespace.process.pid,
        title: process_title(&namespace.process),
        files: files(namespace),
    });
    Status { views: views.into_values().collect(), containers, others: others.collect() }
}

impl Files {
    /// What there is, in a few words.
    fn summary(&self) -> String {
        let mut parts = Vec::new();
        for (files, words) in [
            (&self.attached, "attached"),
            (&self.by_runtime, "by its runtime"),
            (&self.lxcfs, "of LXCFS"),
        ] {
            match files.len() {
                0 => {}
                1 => parts.push(format!("1 file {words}")),
                count => parts.push(format!("{count} files {words}")),
            }
        }
        if parts.is_empty() {
            return "none".to_owned();
        }
        if !self.dead.is_empty() {
            parts.push("whose daemon is gone: see `cgview doctor`".to_owned());
        }
        parts.join(", ")
    }
}

fn table(status: &Status) -> String {
    let mut text = String::new();
    for view in &status.views {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} at {}: {}", view.fstype, view.mountpoint.display(), view.state);
    }
    if status.views.is_empty() {
        text.push_str("no view is mounted here: start cgview-fuse\n");
    }
    text.push('\n');
    let mut rows = vec![["CONTAINER", "NAME", "RUNTIME", "PID", "VIEW"].map(str::to_owned)];
    rows.extend(status.containers.iter().map(|container| {
        [
            container.short.clone(),
            container.name.clone().unwrap_or_default(),
            container.runtime.to_owned(),
            container.pid.to_string(),
            container.files.summary(),
        ]
    }));
    rows.extend(status.others.iter().map(|other| {
        let pid = other.pid.to_string();
        [other.title.clone(), String::new(), "none".to_owned(), pid, other.files.summary()]
    }));
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..5).map(|column| width(column).unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_containers() {
        let files = Files {
            attached: vec!["/proc/stat".into(), "/proc/meminfo".into()],
            dead: vec!["/proc/stat".into()],
            ..Files::default()
        };
        let container = |name: Option<&str>, files| Container {
            id: "0c".repeat(32),
            name: name.map(str::to_owned),
            runtime: "docker",
            pid: 4711,
            cgroup: "/docker".into(),
            short: "0c0c0c0c0c0c".into(),
            files,
        };
        let status = Status {
            views: Vec::new(),
            containers: vec![container(Some("web"), files), container(None, Files::default())],
            others: Vec::new(),
        };
        assert_eq!(
            table(&status),
            "\
no view is mounted here: start cgview-fuse

CONTAINER     NAME  RUNTIME  PID   VIEW
0c0c0c0c0c0c  web   docker   4711  2 files attached, whose daemon is gone: see `cgview doctor`
0c0c0c0c0c0c        docker   4711  none
"
        );
    }
}
