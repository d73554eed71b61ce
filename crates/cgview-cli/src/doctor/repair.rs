//! `cgview doctor --repair`: live mounts in the place of dead ones.

use std::path::PathBuf;

use anyhow::Context;
use cgview_attach::{
    Survey,
    repair::{Outcome, Repaired, Report, Scope},
};
use serde_json::{Value, json};

use super::{Check, mounts::name};

/// Where to take live mounts from, and which namespaces to put them in.
#[derive(Debug, clap::Args)]
pub(super) struct RepairArgs {
    /// Put live mounts in the place of dead ones, in every mount namespace
    ///
    /// Where the daemon and its keeper were killed, containers keep mounts that nobody answers for. This
    /// takes clones of a running cgview-fuse's mount and puts them in their place while the containers
    /// run: with the same file, options and propagation, and without a moment in which a container would
    /// see the host's file. Before Linux 6.5, and where a user namespace has the dead mount locked, the
    /// live one is put on top of it. Checks nothing but mounts. Needs root.
    #[arg(long)]
    repair: bool,

    /// The mountpoint of the running cgview-fuse; found if left out
    #[arg(long, value_name = "DIR", requires = "repair")]
    mountpoint: Option<PathBuf>,

    /// Repair the mount namespaces of these processes only
    #[arg(long, value_name = "PID", requires = "repair")]
    pid: Vec<u32>,
}

impl RepairArgs {
    pub(super) fn is_given(&self) -> bool {
        self.repair
    }

    /// Repairs what is asked for.
    pub(super) fn repair(&self) -> anyhow::Result<Report> {
        let survey = Survey::take_when_live(self.mountpoint.as_deref())?;
        let scope = if self.pid.is_empty() {
            Scope::All
        } else {
            let ids = self.pid.iter().map(|&pid| {
                cgview_attach::namespaces::number_of(pid)
                    .with_context(|| format!("cannot read the mount namespace of process {pid}"))
            });
            Scope::Only(ids.collect::<anyhow::Result<_>>()?)
        };
        Ok(cgview_attach::repair(&survey, self.mountpoint.as_deref(), &scope)?)
    }
}

/// What was done.
pub(super) fn checks(report: &Report) -> Vec<Check> {
    if report.namespaces.is_empty() {
        return vec![Check::ok("repair", "no mount of cgview is dead")];
    }
    report.namespaces.iter().flat_map(checks_of).collect()
}

fn checks_of(repaired: &Repaired) -> Vec<Check> {
    let whose = if repaired.is_own {
        "mounts here".to_owned()
    } else {
        format!("mounts of {}", name(&repaired.process))
    };
    let places = |wanted: fn(&Outcome) -> bool| -> Vec<String> {
        let mounts = repaired.mounts.iter().filter(|mount| wanted(&mount.outcome));
        mounts.map(|mount| mount.mountpoint.display().to_string()).collect()
    };
    let mut checks = Vec::new();
    let swapped = places(|outcome| matches!(outcome, Outcome::Swapped));
    if !swapped.is_empty() {
        checks
            .push(Check::ok(&whose, format!("{} replaced: {}", swapped.len(), swapped.join(", "))));
    }
    let covered = places(|outcome| matches!(outcome, Outcome::Covered));
    if !covered.is_empty() {
        checks.push(Check::ok(
            &whose,
            format!(
                "{} covered, with the dead ones underneath: {}",
                covered.len(),
                covered.join(", ")
            ),
        ));
    }
    for mount in &repaired.mounts {
        if matches!(mount.outcome, Outcome::Failed(_)) {
            checks.push(Check::broken(
                &whose,
                format!("{}: {}", mount.mountpoint.display(), mount.outcome),
                "run `cgview doctor --repair` again, or restart the container",
            ));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(&whose, "gone meanwhile"));
    }
    checks
}

/// All that was done, for programs.
pub(super) fn json(report: &Report) -> Value {
    let mount = |mount: &cgview_attach::repair::Replaced| {
        let (outcome, error) = match &mount.outcome {
            Outcome::Swapped => ("swapped", None),
            Outcome::Covered => ("covered", None),
            Outcome::Gone => ("gone", None),
            failed => ("failed", Some(failed.to_string())),
        };
        let mut value = json!({
            "mountpoint": mount.mountpoint.to_string_lossy(),
            "root": mount.root.to_string_lossy(),
            "outcome": outcome,
        });
        if let (Some(error), Some(object)) = (error, value.as_object_mut()) {
            object.insert("error".into(), error.into());
        }
        value
    };
    let namespace = |repaired: &Repaired| {
        json!({
            "namespace": repaired.id,
            "pid": repaired.process.pid,
            "name": repaired.process.name,
            "mounts": repaired.mounts.iter().map(mount).collect::<Vec<_>>(),
        })
    };
    json!({
        "mountpoint": report.live.to_string_lossy(),
        "namespaces": report.namespaces.iter().map(namespace).collect::<Vec<_>>(),
    })
}
