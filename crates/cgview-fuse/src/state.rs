//! What must not be forgotten of a container while it lives: its CPU view and its load average.

use std::collections::HashMap;

use cgview_core::{Usec, cpu_view::CpuView, loadavg::LoadAverage};
use serde::{Deserialize, Serialize};

/// The state of one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    /// When it was saved, on the host's boot clock.
    pub(crate) saved: Usec,
    pub(crate) cpu: CpuView,
    pub(crate) load: Option<SavedLoad>,
}

impl Saved {
    /// Whether no reader was shown anything that could go back.
    pub(crate) fn is_empty(&self) -> bool {
        self.load.is_none() && self.cpu == CpuView::default()
    }
}

/// A load average, and when it was stepped last, on the host's boot clock.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct SavedLoad {
    pub(crate) average: LoadAverage,
    pub(crate) stepped: Usec,
}

/// The states of all containers, by their ids.
pub type States = HashMap<Box<str>, Saved>;
