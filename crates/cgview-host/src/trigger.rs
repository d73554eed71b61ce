//! Triggers on the pressure of a container.

use std::os::fd::OwnedFd;

use cgview_core::{snapshot::Controller, tree::ProcFile};
use rustix::{
    io::Errno,
    thread::{CapabilitySet, capabilities, set_capabilities},
};

use crate::{container::Container, host::Host};

impl Container {
    /// Sets a trigger on the container's pressure, and gives the descriptor on which `POLLPRI` tells that it
    /// went off. The trigger lives as long as the descriptor.
    ///
    /// `text` is what was written to the file: `some|full THRESHOLD WINDOW`, in microseconds. What it may
    /// be is for the kernel to say, which is asked with the rights of an unprivileged process: whoever is
    /// in a container is not to have the kernel start real-time threads (`psi_trigger_create()`).
    ///
    /// # Errors
    ///
    /// The kernel's own: `EINVAL` for a text that it does not take; `EOPNOTSUPP` where it keeps no such
    /// pressure for the container.
    pub fn set_trigger(&self, host: &Host, file: ProcFile, text: &[u8]) -> Result<OwnedFd, Errno> {
        let name = match file {
            ProcFile::PressureCpu => "cpu.pressure",
            ProcFile::PressureIo => "io.pressure",
            ProcFile::PressureIrq => "irq.pressure",
            ProcFile::PressureMemory => "memory.pressure",
            _ => return Err(Errno::OPNOTSUPP),
        };
        let hierarchy = host.hierarchies.of(Controller::Pressure).ok_or(Errno::OPNOTSUPP)?;
        let levels = self.levels(host, hierarchy).map_err(|error| error.errno())?;
        let level = levels.first().ok_or(Errno::OPNOTSUPP)?;
        // Its own pressure or none: the root's is that of all others.
        if level.cgroup().is_root() && !self.is_host() {
            return Err(Errno::OPNOTSUPP);
        }
        let path = level.path_of(name);
        unprivileged(|| {
            let trigger = host.root.open_trigger(&path).map_err(|errno| match errno {
                Errno::NOENT => Errno::OPNOTSUPP,
                errno => errno,
            })?;
            if !level.is_alive(&host.root) {
                return Err(Errno::NODEV);
            }
            rustix::io::write(&trigger, text)?;
            Ok(trigger)
        })
    }
}

/// Runs something in a thread that has no `CAP_SYS_RESOURCE`: the kernel keeps the rights of the one that
/// opened a file with the file. In that thread alone `CAP_DAC_OVERRIDE` is in effect, if this process may
/// have it: pressure files belong to the container's user where the cgroup was delegated to it.
fn unprivileged<T: Send>(run: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
    let without = || {
        let mut sets = capabilities(None)?;
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        sets.effective |= sets.permitted & CapabilitySet::DAC_OVERRIDE;
        set_capabilities(None, sets)?;
        run()
    };
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("trigger".into()).spawn_scoped(scope, without);
        let thread =
            thread.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
        thread.join().unwrap_or(Err(Errno::IO))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_is_given_up_in_the_thread_alone() {
        let before = capabilities(None).unwrap().effective;
        let inside = unprivileged(|| Ok(capabilities(None)?.effective)).unwrap();
        assert!(!inside.contains(CapabilitySet::SYS_RESOURCE));
        assert_eq!(capabilities(None).unwrap().effective, before);
    }
}
