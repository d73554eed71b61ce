//! `/proc/pressure/*`.

use crate::{
    explain::{Output, Why},
    snapshot::Controller,
    tree::ProcFile,
    view::{Error, View},
};

/// The text of the container's own `*.pressure`, which has the form of the host's file
/// (`psi_show()` writes both).
///
/// A container that is the root of the unified hierarchy is the host, and gets the host's bytes. One that
/// has no cgroup there (a container of cgroup v1) has no pressure of its own, and the host's would be that
/// of its neighbours.
///
/// # Errors
///
/// [`Error::NoPressure`] where the kernel keeps none for the container.
pub(crate) fn render(
    view: &View<'_>,
    file: ProcFile,
    host: &[u8],
    out: &mut Output<'_>,
) -> Result<(), Error> {
    let pressures = &view.snapshot.pressure;
    let cgroup = pressures.cgroup.as_ref().ok_or(Error::NoPressure)?;
    let (own, name) = match file {
        ProcFile::PressureCpu => (&pressures.cpu, "cpu.pressure"),
        ProcFile::PressureIo => (&pressures.io, "io.pressure"),
        ProcFile::PressureIrq => (&pressures.irq, "irq.pressure"),
        ProcFile::PressureMemory => (&pressures.memory, "memory.pressure"),
        _ => return Err(Error::NoPressure),
    };
    if cgroup.is_root() && !host.is_empty() {
        out.copy(host);
        return Ok(());
    }
    let own = own.as_deref().filter(|text| !text.is_empty()).ok_or(Error::NoPressure)?;
    out.put(own, Why::cgroup(Controller::Pressure, 0, name, "the container's own pressure"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Snapshot,
        render::diskstats::tests::{cgroup, show},
        snapshot::{Pressures, Version},
    };

    const HOST: &str = "some avg10=9.00 avg60=8.00 avg300=7.00 total=123456\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    const OWN: &str = "some avg10=1.50 avg60=0.25 avg300=0.01 total=4711\n\
                       full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";

    fn at(path: &str) -> Snapshot {
        let pressure = Pressures {
            cgroup: Some(cgroup(path, Version::V2)),
            cpu: Some(OWN.into()),
            ..Pressures::default()
        };
        Snapshot { pressure, ..Snapshot::default() }
    }

    #[test]
    fn the_containers_own_text() {
        let (text, whys) = show(&at("/app"), ProcFile::PressureCpu, HOST).unwrap();
        assert_eq!(text, OWN);
        assert_eq!(whys, ["cpu.pressure of /app: the container's own pressure"]);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_an_error() {
        for file in [ProcFile::PressureIo, ProcFile::PressureIrq, ProcFile::PressureMemory] {
            assert_eq!(show(&at("/app"), file, HOST), Err(Error::NoPressure));
        }
        // On cgroup v1, and of a container without a cgroup in the unified hierarchy.
        assert_eq!(show(&Snapshot::default(), ProcFile::PressureCpu, HOST), Err(Error::NoPressure));
    }

    #[test]
    fn the_root_is_the_host() {
        let (text, _) = show(&at("/"), ProcFile::PressureIo, HOST).unwrap();
        assert_eq!(text, HOST);
    }
}
