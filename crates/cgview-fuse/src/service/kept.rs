//! What the next process is to know, written down as it happens: see [`Ledger`].

use std::sync::Arc;

use cgview_core::{Usec, cpu_view::CpuView};
use serde::{Deserialize, Serialize};

use super::Service;
use crate::{
    ledger::{Kind, Ledger, Record},
    state::{SavedLoad, States},
    tenant::Tenant,
};

/// The CPU times of a container, as a record has them.
#[derive(Debug, Serialize)]
struct CpuRecord<'a> {
    saved: Usec,
    cpu: &'a CpuView,
}

/// The same, as it is read.
#[derive(Debug, Deserialize)]
struct FoundCpu {
    saved: Usec,
    cpu: CpuView,
}

impl Service {
    /// The same, writing to `ledger` what readers are told and must not be told otherwise later.
    #[must_use]
    pub fn with_ledger(self, ledger: Arc<Ledger>) -> Service {
        Service { ledger: Some(ledger), ..self }
    }

    /// Takes over what a process before this one wrote, up to its last answer.
    pub fn restore_records(&self, records: Vec<Record>) {
        let mut states = States::new();
        for Record { kind, name, body } in records {
            let found = match kind {
                Kind::Free => continue,
                Kind::Cpu => serde_json::from_slice(&body).map(|FoundCpu { saved, cpu }| {
                    let state = states.entry(name.clone()).or_default();
                    (state.saved, state.cpu) = (saved, cpu);
                }),
                Kind::Load => serde_json::from_slice(&body).map(|load: SavedLoad| {
                    let state = states.entry(name.clone()).or_default();
                    state.saved = state.saved.max(load.stepped);
                    state.load = Some(load);
                }),
            };
            if let Err(error) = found {
                tracing::warn!(
                    "began anew with {name}, whose state is of another version: {error}"
                );
            }
        }
        self.restore(states);
    }

    /// Writes down the CPU times of a container, before anybody is told.
    pub(super) fn keep_cpu(&self, tenant: &Tenant, now: Usec, cpu: &CpuView) {
        self.keep(Kind::Cpu, tenant, &CpuRecord { saved: now, cpu });
    }

    /// Writes down the load average of a container.
    pub(super) fn keep_load(&self, tenant: &Tenant) {
        if self.ledger.is_some()
            && let Some(load) = tenant.saved_load()
        {
            self.keep(Kind::Load, tenant, &load);
        }
    }

    /// Forgets a container, by its id.
    pub(super) fn forget_kept(&self, id: &str) {
        let Some(ledger) = &self.ledger else { return };
        for kind in [Kind::Cpu, Kind::Load] {
            if let Err(error) = ledger.forget(kind, id) {
                tracing::debug!("cannot forget {id}: {error}");
            }
        }
    }

    fn keep(&self, kind: Kind, tenant: &Tenant, record: &impl Serialize) {
        let Some(ledger) = &self.ledger else { return };
        let written = serde_json::to_vec(record)
            .map_err(std::io::Error::from)
            .and_then(|body| ledger.put(kind, tenant.container().id().as_str(), &body));
        // The state file has it, if later.
        if let Err(error) = written
            && let Some(more) = self.unkept.pass(kind)
        {
            tracing::warn!(
                "cannot write down what containers are told, {more} times before: {error}; after a crash, \
                 they may be told what was so some seconds earlier"
            );
        }
    }
}
