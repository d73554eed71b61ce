//! The one system call that rustix has no safe name for.
#![expect(unsafe_code, reason = "an ioctl's number and argument are the caller's promise")]

use std::os::fd::AsFd;

use rustix::{
    io::Errno,
    ioctl::{Ioctl, IoctlOutput, Opcode, opcode},
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
