//! Which entries a caller has.

use cgview_core::tree::{Dir, Entry, File};
use rustix::io::Errno;

use super::{Caller, Error, Service};

impl Service {
    /// Whether an entry is the same for all callers: neither its existence nor what is below depends on a
    /// container's CPUs or nodes.
    #[must_use]
    pub fn is_fixed(entry: Entry) -> bool {
        let of_dir = |dir| {
            !matches!(
                dir,
                Dir::CpuN(_)
                    | Dir::Topology(_)
                    | Dir::Cpufreq(_)
                    | Dir::Cache(_)
                    | Dir::CacheIndex(..)
                    | Dir::NodeN(_)
            )
        };
        match entry {
            Entry::Dir(dir) => of_dir(dir),
            Entry::File(_) | Entry::Link(_) => of_dir(entry.parent()),
        }
    }

    /// The mode bits of a file.
    #[must_use]
    pub fn mode(&self, file: File) -> u16 {
        if self.takes_triggers(file) { file.mode() | 0o222 } else { file.mode() }
    }

    /// Whether a file may be written to: since Linux 6.4 anybody may set triggers on `/proc/pressure`.
    pub(super) fn takes_triggers(&self, file: File) -> bool {
        let is_pressure = Entry::File(file).parent() == Dir::Pressure;
        self.triggers.is_some() && is_pressure
    }

    /// The entry of that name in `dir`. Whoever cannot be told to be in a container has the host's
    /// entries.
    ///
    /// # Errors
    ///
    /// `ENOENT`; what [`Error::errno`] gives if it cannot be told which container asks.
    pub fn lookup(&self, caller: Caller, dir: Dir, name: &[u8]) -> Result<Entry, Errno> {
        let entry = dir.child(name).ok_or(Errno::NOENT)?;
        let on_host = |path: &str| if self.host.has(path) { Ok(entry) } else { Err(Errno::NOENT) };
        if Self::is_fixed(entry) {
            return on_host(&entry.path());
        }
        match self.container_of(caller.tid).map_err(|error| error.errno())? {
            None => on_host(&entry.path()),
            Some(ready) => {
                let view = ready.entries();
                let path = view.host_path(entry).filter(|_| view.shows(entry));
                path.map_or(Err(Errno::NOENT), |path| on_host(&path))
            }
        }
    }

    /// Whether a container had the entry of that name when it was looked at last. The kernel is not asked.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EIO` if that is not known.
    pub(crate) fn lookup_without_asking(
        &self,
        caller: Option<&cgview_host::Caller>,
        dir: Dir,
        name: &[u8],
    ) -> Result<Entry, Errno> {
        let entry = dir.child(name).ok_or(Errno::NOENT)?;
        let known = caller.and_then(|caller| self.known_container(caller));
        let ready = known.ok_or(Errno::IO)?;
        if ready.entries().shows(entry) { Ok(entry) } else { Err(Errno::NOENT) }
    }

    /// The entries of `dir`, for a caller that may be nobody that is known.
    ///
    /// # Errors
    ///
    /// [`Error`], if it is known, but not what its container has.
    pub fn list_for(&self, caller: Caller, dir: Dir) -> Result<Vec<Entry>, Error> {
        if Self::is_fixed_list(dir) {
            let mut entries = dir.fixed_children();
            entries.retain(|entry| self.host.has(&entry.path()));
            return Ok(entries);
        }
        Ok(match self.container_of(caller.tid)? {
            Some(ready) => ready.entries().list(dir, |path| self.host.has(path)),
            None => {
                // Not every kernel has all directories.
                let path = Entry::Dir(dir).path();
                let names = if self.host.has(&path) { self.host.list(&path)? } else { Vec::new() };
                names.iter().filter_map(|name| dir.child(name.as_bytes())).collect()
            }
        })
    }

    /// Whether all callers have the same entries in `dir`.
    pub(crate) fn is_fixed_list(dir: Dir) -> bool {
        Self::is_fixed(Entry::Dir(dir)) && !matches!(dir, Dir::Cpu | Dir::Node)
    }

    /// The entries of `dir` for a thread.
    ///
    /// # Errors
    ///
    /// [`Error`], if it cannot be told which container it is in.
    pub fn list(&self, tid: u32, dir: Dir) -> Result<Vec<Entry>, Error> {
        self.find(tid)?;
        self.list_for(Caller { tid, uid: 0 }, dir)
    }

    /// Whether a caller may do this with an entry.
    ///
    /// # Errors
    ///
    /// `EACCES`, and `EROFS` for writing.
    pub fn access(
        &self,
        caller: Caller,
        entry: Entry,
        read: bool,
        write: bool,
        execute: bool,
    ) -> Result<(), Errno> {
        match entry {
            _ if write && self.triggers.is_none() => Err(Errno::ROFS),
            Entry::File(file) if write && !self.takes_triggers(file) => Err(Errno::ACCESS),
            Entry::File(_) if execute => Err(Errno::ACCESS),
            Entry::File(file) if read => may_read(caller, file),
            Entry::Dir(_) if write => Err(Errno::ACCESS),
            Entry::Dir(_) | Entry::Link(_) | Entry::File(_) => Ok(()),
        }
    }

    /// Whether a caller may set the size of a file, as opening it with `O_TRUNC` does, or its times; neither
    /// changes anything.
    ///
    /// # Errors
    ///
    /// `EACCES` for the size by whoever may not write, `EPERM` for the times by whoever does not own it, which
    /// is root (`setattr_prepare()`).
    pub fn change(&self, caller: Caller, file: File, size: bool, times: bool) -> Result<(), Errno> {
        match caller.uid {
            0 => Ok(()),
            _ if size && !self.takes_triggers(file) => Err(Errno::ACCESS),
            _ if times && !size => Err(Errno::PERM),
            _ => Ok(()),
        }
    }
}

/// By the mode bits: all files are root's, and some are for root alone.
pub(super) fn may_read(caller: Caller, file: File) -> Result<(), Errno> {
    if caller.uid == 0 || file.mode() & 0o004 != 0 { Ok(()) } else { Err(Errno::ACCESS) }
}
