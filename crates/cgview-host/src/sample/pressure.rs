//! Pressure files, which are on the unified hierarchy and need no controller.

use cgview_core::{
    shape,
    snapshot::{Controller, Pressures},
};

use super::{Sampler, cgroup};
use crate::{cgroup::CgroupDir, error::Result};

impl Sampler<'_> {
    pub(super) fn pressure(&mut self, out: &mut Pressures) -> Result<()> {
        let levels = self.levels(Controller::Pressure)?;
        // Most runtimes for v1 leave a container in the root of the unified hierarchy, where the pressure
        // is everybody's. Only the host itself is shown that.
        let own = levels
            .first()
            .filter(|level| self.container.is_host() || !self.is_top(Controller::Pressure, level));
        let Some(level) = own else {
            *out = Pressures::default();
            return Ok(());
        };
        out.cgroup = Some(cgroup(level));
        self.copy(level, "cpu.pressure", &mut out.cpu)?;
        self.copy(level, "memory.pressure", &mut out.memory)?;
        self.copy(level, "io.pressure", &mut out.io)?;
        self.copy(level, "irq.pressure", &mut out.irq)
    }

    /// Copies a file, into the room of the text that was there before.
    fn copy(&mut self, level: &CgroupDir, name: &str, out: &mut Option<Vec<u8>>) -> Result<()> {
        if self.parse(level, name, shape::pressure)?.is_some() {
            let text = out.get_or_insert_default();
            text.clear();
            text.extend_from_slice(self.text);
        } else {
            *out = None;
        }
        Ok(())
    }
}
