//! The system calls that rustix has no safe name for.
#![expect(unsafe_code, reason = "an ioctl's number and argument are the caller's promise")]

use std::os::fd::AsFd;

use rustix::{
    io::Errno,
    ioctl::{Ioctl, IoctlOutput, Opcode, Updater, opcode},
};

/// `NS_GET_PID_FROM_PIDNS` of `linux/nsfs.h`, since Linux 6.11: `_IOR(NSIO, 0x6, int)`.
const NS_GET_PID_FROM_PIDNS: Opcode = opcode::read::<i32>(0xb7, 6);

/// The argument is a pid in the namespace, the result the same process's pid in the caller's.
struct PidFromPidns(usize);

// SAFETY: the argument is a number, which the kernel takes by value; it writes no memory (`ns_ioctl()` in
// `fs/nsfs.c`), and the result is what the system call returns.
unsafe impl Ioctl for PidFromPidns {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NS_GET_PID_FROM_PIDNS
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::without_provenance_mut(self.0)
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> Result<IoctlOutput, Errno> {
        Ok(out)
    }
}

/// The pid, as this process sees it, of the init of a pid namespace.
///
/// Before Linux 6.11 the kernel answers `ENOTTY`; if the init has no pid in this process's namespace,
/// `ESRCH`.
pub(crate) fn init_of_pid_namespace(namespace: impl AsFd) -> Result<u32, Errno> {
    // SAFETY: see the implementation of `Ioctl`.
    let pid = unsafe { rustix::ioctl::ioctl(namespace, PidFromPidns(1)) }?;
    u32::try_from(pid).map_err(|_| Errno::SRCH)
}

/// `struct pidfd_info` of `linux/pidfd.h`, as it is since Linux 6.13: later fields are not asked for.
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 12],
}

/// `PIDFD_INFO_CGROUPID`.
const CGROUP: u64 = 1 << 2;

/// `PIDFD_GET_INFO`: `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);

/// The number of the cgroup of a process in the unified hierarchy, by a descriptor of the process.
///
/// `ESRCH` if the process has ended and was waited for. Before Linux 6.13 the kernel answers `ENOTTY`.
pub(crate) fn cgroup_of(pidfd: impl AsFd) -> Result<u64, Errno> {
    let mut info = PidfdInfo { mask: CGROUP, ..PidfdInfo::default() };
    // SAFETY: the number says how long the argument is, and the kernel writes no more (`pidfd_info()` in
    // `fs/pidfs.c`).
    unsafe { rustix::ioctl::ioctl(pidfd, Updater::<PIDFD_GET_INFO, _>::new(&mut info)) }?;
    if info.mask & CGROUP == 0 { Err(Errno::NODATA) } else { Ok(info.cgroup) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    #[test]
    fn the_cgroup_of_a_process_has_the_number_of_its_directory() {
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(size_of::<PidfdInfo>(), 64);
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let told = cgroup_of(&pidfd);
        if told == Err(Errno::NOTTY) {
            return cgview_testkit::skip("needs PIDFD_GET_INFO, of Linux 6.13");
        }
        let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = membership.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let root = roots
            .into_iter()
            .find(|root| std::path::Path::new(root).join("cgroup.controllers").exists());
        let Some(root) = root else { return cgview_testkit::skip("needs the unified hierarchy") };
        let dir = std::fs::metadata(format!("{root}{path}")).unwrap();
        assert_eq!(told, Ok(dir.ino()));
    }
}
