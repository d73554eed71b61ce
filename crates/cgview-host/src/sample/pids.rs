//! The pids controller.

use cgview_core::snapshot::{Controller, PidsLevel};

use super::{Sampler, cgroup};
use crate::error::Result;

impl Sampler<'_> {
    pub(super) fn pids(&mut self, out: &mut Vec<PidsLevel>) -> Result<()> {
        out.clear();
        let levels = self.levels(Controller::Pids)?;
        out.reserve_exact(levels.len());
        for level in levels.iter() {
            if self.is_top(Controller::Pids, level) {
                break;
            }
            let (Some(current), Some(max)) =
                (self.number(level, "pids.current")?, self.limit(level, "pids.max")?)
            else {
                continue;
            };
            out.push(PidsLevel { cgroup: cgroup(level), current, max });
        }
        Ok(())
    }
}
