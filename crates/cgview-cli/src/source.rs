//! Where texts come from: the same service as the daemon's, with the daemon's settings and state.

use std::{fs, path::Path};

use anyhow::Context;
use cgview_core::Policy;
use cgview_fuse::{
    Service,
    arguments::Arguments,
    settings::{OnError, Settings, ViewSettings},
};
use cgview_host::Host;
use clap::Parser;

/// The settings of a daemon that would be started without any options.
pub(crate) fn configuration() -> anyhow::Result<Settings> {
    Ok(Settings::load(&Arguments::parse_from(["cgview-fuse", "/"]))?)
}

/// Where texts come from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) service: Service,
    /// What the service goes by.
    pub(crate) policy: Policy,
}

/// A service that says what the daemon says, or would say: of this machine, or of another root.
pub(crate) fn open(host_root: Option<&Path>) -> anyhow::Result<Source> {
    let settings = match running_daemon() {
        Some(arguments) => {
            Settings::load(&arguments).context("cannot use the daemon's settings")?
        }
        None => configuration()?,
    };
    let host = match host_root {
        Some(root) => Host::at(root)?,
        None => Host::live()?,
    };
    // Whoever asks why should not be told something of before.
    let view = ViewSettings { on_error: OnError::Fail, ..settings.view };
    let service = Service::new(host, view);
    // Without a daemon there is no state, and counters begin with the container. A state of another
    // machine, or of an earlier boot, is refused.
    let _ = service.restore_from(&settings.state_file());
    Ok(Source { service, policy: view.policy })
}

/// The options that a daemon runs with, if one does.
fn running_daemon() -> Option<Arguments> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let comm = fs::read(entry.path().join("comm")).ok()?;
        if comm.trim_ascii_end() != b"cgview-fuse" {
            return None;
        }
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        Arguments::try_parse_from(line.split_terminator('\0')).ok()
    })
}
