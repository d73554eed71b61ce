//! `/proc/slabinfo`.
//!
//! The kernel keeps no slabs of a cgroup's own since 5.9, when all cgroups came to share them: the
//! header alone is true of a container. Who is in the root of the hierarchy has the host's text;
//! the file's mode lets nobody but root read it, as on the host.

use crate::{explain::Output, view::View};

pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    if view.snapshot.memory.is_empty() {
        return out.copy(host);
    }
    host.split_inclusive(|&byte| byte == b'\n')
        .take_while(|line| line.starts_with(b"slabinfo") || line.starts_with(b"# name"))
        .for_each(|line| out.copy(line));
}

#[cfg(test)]
mod tests {
    use crate::{render::memory::tests::Situation, tree::ProcFile};

    const HEADER: &str = "slabinfo - version: 2.1\n\
        # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables\n";
    const ROW: &str =
        "dentry             25000  25000    192   21    1 : tunables    0    0    0\n";

    #[test]
    fn a_container_sees_the_header() {
        let host = [HEADER, ROW].concat();
        let container = Situation::unlimited();
        assert_eq!(container.show(ProcFile::Slabinfo, &host).0, HEADER);
        assert_eq!(container.show(ProcFile::Slabinfo, ROW).0, "");
    }

    #[test]
    fn the_root_is_the_host() {
        let host = [HEADER, ROW].concat();
        assert_eq!(Situation::root().show(ProcFile::Slabinfo, &host).0, host);
    }
}
