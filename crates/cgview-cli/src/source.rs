//! Where texts come from: the same service as the daemon's, with the daemon's settings and ledger.

use std::{fs, path::Path};

use cgview_core::Policy;
use cgview_fuse::{Service, arguments::Arguments, ledger, ledger::Kind, settings::Settings};
use cgview_host::{Host, boot_id};
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
    let root = host_root.unwrap_or(Path::new("/"));
    let running = running_daemons().find(|settings| settings.host_root == root);
    let is_running = running.is_some();
    let settings = running.map_or_else(configuration, Ok)?;
    let host = if root == Path::new("/") { Host::live()? } else { Host::at(root)? };
    let service = Service::new(host, settings.view);
    // Without a daemon there is no ledger, and counters begin with the container. A ledger of another
    // machine, or of an earlier boot, is refused.
    if let Ok(mut records) = ledger::read(&settings.ledger_file(), &boot_id(root)) {
        // What was chosen holds for a daemon that runs.
        records.retain(|record| is_running || record.kind != Kind::Chosen);
        service.restore_records(records);
    }
    Ok(Source { service, policy: settings.view.policy })
}

/// The settings of the daemons that run.
fn running_daemons() -> impl Iterator<Item = Settings> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let comm = fs::read(entry.path().join("comm")).ok()?;
        if comm.trim_ascii_end() != b"cgview-fuse" {
            return None;
        }
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let arguments = Arguments::try_parse_from(line.split_terminator('\0')).ok()?;
        Settings::load(&arguments).ok()
    })
}
