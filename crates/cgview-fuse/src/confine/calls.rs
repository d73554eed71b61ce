//! seccomp: which system calls there are.
//!
//! Two filters are in force for each thread. One has the calls that a daemon which was taken over would make
//! first, and which end the process. The other has the calls that are answered; of all others, and of these
//! with other arguments, a thread is told that the kernel does not have them (`ENOSYS`): that is the answer
//! for which C libraries have another way, so that a later one which tries a new call first goes on to work.

use std::collections::BTreeMap;

use libc::{
    AF_UNIX, CLONE_NEWCGROUP, CLONE_THREAD, O_CREAT, O_RDWR, O_TRUNC, O_WRONLY, PROT_EXEC, c_long,
};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Whose filter it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Who {
    /// The threads that answer requests, and those beside them.
    Service,
    /// The thread with more capabilities.
    Deputy {
        /// Whether it unmounts.
        unmounts: bool,
    },
}

/// Limits this thread, and those that it starts, to the calls of `who`.
pub(super) fn limit(who: Who) -> Result<String, String> {
    filter(who).map_err(|error| format!("seccomp: {error}"))
}

fn filter(who: Who) -> Result<String, Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let (forbidden, allowed) = (forbidden(who, arch)?, allowed(who, arch)?);
    seccompiler::apply_filter(&forbidden)?;
    seccompiler::apply_filter(&allowed)?;
    let count = match who {
        Who::Service => SERVICE.len() + SERVICE_IF.len() + LEGACY.len(),
        Who::Deputy { .. } => DEPUTY.len() + DEPUTY_IF.len(),
    };
    Ok(format!("{count} system calls by seccomp"))
}

/// What is compared: the number of the argument, how, and with what.
type Condition = (u8, SeccompCmpOp, u64);

/// Flags of open(2) with which something can be changed.
const CHANGING: u64 = bits(O_WRONLY | O_RDWR | O_CREAT | O_TRUNC);

/// `FUSE_DEV_IOC_CLONE` of `linux/fuse.h`: `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: u64 = 0x8004_e500;

/// `NS_GET_PID_FROM_PIDNS` of `linux/nsfs.h`: `_IOR(0xb7, 0x6, int)`.
const NS_GET_PID_FROM_PIDNS: u64 = 0x8004_b706;

/// `PIDFD_GET_INFO` of `linux/pidfd.h`: `_IOWR(0xff, 11, struct pidfd_info)`, in its first size.
const PIDFD_GET_INFO: u64 = 0xc040_ff0b;

/// `FIONBIO` of `asm-generic/ioctls.h`.
const FIONBIO: u64 = 0x5421;

/// `PR_GET_AUXV` of `linux/prctl.h`, since Linux 6.4.
const PR_GET_AUXV: u64 = 0x4155_5856;

const fn bits(flags: i32) -> u64 {
    // No flag here is the sign.
    flags.unsigned_abs() as u64
}

/// What the threads of the service may call, with any arguments.
const SERVICE: &[c_long] = &[
    // Files: of the host, the ledger, the pid file.
    libc::SYS_openat,     // opens all of them; Landlock says which
    libc::SYS_openat2,    // opens those below --host-root, without a way out
    libc::SYS_close,      // closes them
    libc::SYS_pidfd_open, // callers that ask again, for their cgroup
    libc::SYS_read,       // requests of the kernel, files, signals from the handler's pipe
    libc::SYS_pread64,    // host files that are kept open
    libc::SYS_readv,      // where the standard library reads into parts
    libc::SYS_write,      // log, triggers, and short answers to the kernel
    libc::SYS_pwrite64,   // the ledger
    libc::SYS_writev,     // answers to the kernel: a header, and the text
    libc::SYS_lseek,      // pid file; standard library, for the size of a file
    libc::SYS_fstat,      // pid file, number of links of a cgroup's directory
    libc::SYS_newfstatat, // pid file and socket, by name
    libc::SYS_statx,      // the same, as the standard library does
    libc::SYS_fstatfs,    // whether /proc is procfs
    libc::SYS_statfs,     // the watchdog's request to the mount
    libc::SYS_getdents64, // directories of /proc and of cgroups
    libc::SYS_readlinkat, // links below --host-root
    libc::SYS_faccessat,  // whether the host has a file
    libc::SYS_faccessat2, // the same, since glibc 2.33
    libc::SYS_fcntl,      // duplicates descriptors; O_CLOEXEC
    libc::SYS_ftruncate,  // pid file
    libc::SYS_flock,      // pid file
    libc::SYS_unlinkat,   // pid file and socket at the end
    libc::SYS_fchmodat,   // the socket's mode
    libc::SYS_mkdirat,    // the runtime directory, should it have been removed
    libc::SYS_dup,        // standard library, for clones of descriptors
    libc::SYS_dup3,       // puts the connection in its place
    libc::SYS_pipe2,      // tells a thread to end
    // Waiting.
    libc::SYS_futex,           // locks, channels, joins
    libc::SYS_ppoll,           // standard library, signals
    libc::SYS_epoll_create1,   // triggers
    libc::SYS_epoll_ctl,       // triggers
    libc::SYS_epoll_pwait,     // triggers
    libc::SYS_clock_nanosleep, // sleeps
    libc::SYS_nanosleep,       // sleeps, in musl
    libc::SYS_restart_syscall, // the kernel's own, after a stop
    libc::SYS_sched_yield,     // spinning locks
    // Clocks, where the kernel answers them by calls.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    // The socket of the metrics, systemd's, and the pair that tells of signals.
    libc::SYS_bind,        // metrics
    libc::SYS_listen,      // metrics
    libc::SYS_accept4,     // metrics
    libc::SYS_connect,     // systemd; whether another daemon has the socket
    libc::SYS_shutdown,    // metrics
    libc::SYS_sendto,      // systemd; the signal handler
    libc::SYS_sendmsg,     // systemd, with descriptors
    libc::SYS_recvfrom,    // metrics, signals
    libc::SYS_recvmsg,     // descriptors from the keeper
    libc::SYS_setsockopt,  // time limits of clients
    libc::SYS_getsockopt,  // their errors
    libc::SYS_getsockname, // standard library
    // Memory; mmap and mprotect are below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads, also those that a trigger or the service's own timers take; clone is below.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,       // the guard against stack overflows
    libc::SYS_sched_getaffinity, // glibc, for the bounds of a stack
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_capget, // a trigger is set with fewer rights, and one more
    libc::SYS_capset, // the same; nothing can be gained by it
    // Signals: USR1 and its like, panics that abort.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    // Who and where it is. Libraries rely on these never to fail.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getcwd,    // the names of a panic's files
    libc::SYS_uname,     // standard library and panics
    libc::SYS_getrandom, // seeds of hash maps
    libc::SYS_sysinfo,   // allocator of musl; also what sysconf(3) asks
];

/// What x86-64 has besides for the same, and C libraries use there.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[c_long] = &[
    libc::SYS_open,       // musl
    libc::SYS_stat,       // musl
    libc::SYS_lstat,      // musl
    libc::SYS_access,     // musl
    libc::SYS_readlink,   // a panic asks for its program
    libc::SYS_unlink,     // glibc and musl
    libc::SYS_mkdir,      // glibc and musl
    libc::SYS_chmod,      // glibc and musl
    libc::SYS_poll,       // glibc and musl
    libc::SYS_epoll_wait, // glibc and musl
    libc::SYS_dup2,       // musl
    libc::SYS_pipe,       // musl
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[c_long] = &[];

/// What the threads of the service may call with some arguments.
const SERVICE_IF: &[(c_long, &[Condition])] = &[
    // No memory is ever made executable.
    (libc::SYS_mmap, &[(2, SeccompCmpOp::MaskedEq(bits(PROT_EXEC)), 0)]),
    (libc::SYS_mprotect, &[(2, SeccompCmpOp::MaskedEq(bits(PROT_EXEC)), 0)]),
    // Threads, not processes. The flags of clone3 cannot be seen, so there is none.
    (libc::SYS_clone, &[(0, SeccompCmpOp::MaskedEq(bits(CLONE_THREAD)), bits(CLONE_THREAD))]),
    // Sockets of this machine.
    (libc::SYS_socket, &[(0, SeccompCmpOp::Eq, bits(AF_UNIX))]),
    (libc::SYS_socketpair, &[(0, SeccompCmpOp::Eq, bits(AF_UNIX))]),
    (libc::SYS_ioctl, &[(1, SeccompCmpOp::Eq, FIONBIO)]), // standard library, for sockets
    (libc::SYS_ioctl, &[(1, SeccompCmpOp::Eq, FUSE_DEV_IOC_CLONE)]), // a descriptor for each thread
    (libc::SYS_ioctl, &[(1, SeccompCmpOp::Eq, NS_GET_PID_FROM_PIDNS)]), // the init of a container
    (libc::SYS_ioctl, &[(1, SeccompCmpOp::Eq, PIDFD_GET_INFO)]), // whether a caller is who it was
    (libc::SYS_prctl, &[(0, SeccompCmpOp::Eq, bits(libc::PR_SET_NAME))]), // names of threads
    (libc::SYS_prctl, &[(0, SeccompCmpOp::Eq, PR_GET_AUXV)]), // rustix, for the size of a page
    // Whether a process exists that /proc hides.
    (libc::SYS_kill, &[(1, SeccompCmpOp::Eq, 0)]),
    // Limits are read, not set.
    (libc::SYS_prlimit64, &[(2, SeccompCmpOp::Eq, 0)]),
];

/// What the deputy may call, with any arguments.
const DEPUTY: &[c_long] = &[
    libc::SYS_readlinkat,    // which namespaces a process is in
    libc::SYS_read,          // the configuration, when it is read again
    libc::SYS_pread64,       // cgroups as seen from another namespace
    libc::SYS_close,         // what it opened
    libc::SYS_fstat,         // standard library, for the size of a file
    libc::SYS_newfstatat,    // the same
    libc::SYS_statx,         // the same
    libc::SYS_lseek,         // the same
    libc::SYS_futex,         // waits for work
    libc::SYS_sched_yield,   // the same
    libc::SYS_brk,           // allocator
    libc::SYS_munmap,        // allocator
    libc::SYS_mremap,        // allocator
    libc::SYS_madvise,       // allocator
    libc::SYS_getrandom,     // seeds of hash maps
    libc::SYS_clock_gettime, // where the kernel answers it by a call
    libc::SYS_sendto,        // the signal handler, should it run here
    libc::SYS_rt_sigaction,  // a panic that aborts
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack, // the end of the thread
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What the deputy may call with some arguments.
const DEPUTY_IF: &[(c_long, &[Condition])] = &[
    // It writes nothing but the message of a panic.
    (libc::SYS_openat, &[(2, SeccompCmpOp::MaskedEq(CHANGING), 0)]),
    (libc::SYS_write, &[(0, SeccompCmpOp::Eq, bits(libc::STDERR_FILENO))]),
    (libc::SYS_writev, &[(0, SeccompCmpOp::Eq, bits(libc::STDERR_FILENO))]),
    (libc::SYS_fcntl, &[(1, SeccompCmpOp::Eq, bits(libc::F_GETFD))]), // debug builds, at each close
    // Where a cgroup namespace begins is seen from inside alone.
    (libc::SYS_setns, &[(1, SeccompCmpOp::Eq, bits(CLONE_NEWCGROUP))]),
    (libc::SYS_mmap, &[(2, SeccompCmpOp::MaskedEq(bits(PROT_EXEC)), 0)]),
    (libc::SYS_mprotect, &[(2, SeccompCmpOp::MaskedEq(bits(PROT_EXEC)), 0)]),
];

/// What ends the process. None of it is ever called, whatever the options are.
const FORBIDDEN: &[c_long] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes and their memory.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts.
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    // Files without a path, and so without Landlock.
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    // Other users, and other namespaces.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_unshare,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
];

/// What ends the process and only x86-64 has.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_LEGACY: &[c_long] =
    &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_mknod, libc::SYS_iopl, libc::SYS_ioperm];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_LEGACY: &[c_long] = &[];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allowed(who: Who, arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::new();
    let (plain, with_arguments) = match who {
        Who::Service => (SERVICE, SERVICE_IF),
        Who::Deputy { .. } => (DEPUTY, DEPUTY_IF),
    };
    add(&mut rules, plain);
    if who == Who::Service {
        add(&mut rules, LEGACY);
    }
    if who == (Who::Deputy { unmounts: true }) {
        add(&mut rules, &[libc::SYS_umount2]);
    }
    for (call, conditions) in with_arguments {
        add_if(&mut rules, *call, conditions)?;
    }
    // A panic that aborts sends a signal, to itself.
    add_if(&mut rules, libc::SYS_tgkill, &[(0, SeccompCmpOp::Eq, std::process::id().into())])?;
    compile(rules, SeccompAction::Errno(errno(libc::ENOSYS)), SeccompAction::Allow, arch)
}

fn forbidden(who: Who, arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::new();
    add(&mut rules, FORBIDDEN);
    add(&mut rules, FORBIDDEN_LEGACY);
    match who {
        Who::Service => add(&mut rules, &[libc::SYS_setns, libc::SYS_umount2]),
        Who::Deputy { unmounts } => {
            let other = [(1, SeccompCmpOp::Ne, bits(CLONE_NEWCGROUP))];
            add_if(&mut rules, libc::SYS_setns, &other)?;
            if !unmounts {
                add(&mut rules, &[libc::SYS_umount2]);
            }
        }
    }
    // A copy of the process.
    let fork = [(0, SeccompCmpOp::MaskedEq(bits(CLONE_THREAD)), 0)];
    add_if(&mut rules, libc::SYS_clone, &fork)?;
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess, arch)
}

/// Without conditions, a call matches with any arguments.
fn add(rules: &mut Rules, calls: &[c_long]) {
    rules.extend(calls.iter().map(|&call| (call, Vec::new())));
}

/// Several rules for one call are alternatives.
fn add_if(rules: &mut Rules, call: c_long, conditions: &[Condition]) -> Result<(), BackendError> {
    // The kernel takes these as 32 bits, but for a pointer, of which any bit counts.
    let length = |operation: &SeccompCmpOp, value| match operation {
        SeccompCmpOp::Eq if value == 0 => SeccompCmpArgLen::Qword,
        _ => SeccompCmpArgLen::Dword,
    };
    let conditions = conditions.iter().map(|(index, operation, value)| {
        SeccompCondition::new(*index, length(operation, *value), operation.clone(), *value)
    });
    let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
    rules.entry(call).or_default().push(rule);
    Ok(())
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, matching, arch)?.try_into()
}

fn errno(number: i32) -> u32 {
    number.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHES: [TargetArch; 2] = [TargetArch::x86_64, TargetArch::aarch64];

    #[test]
    fn the_filters_fit_into_what_the_kernel_takes() {
        for arch in ARCHES {
            for who in
                [Who::Service, Who::Deputy { unmounts: true }, Who::Deputy { unmounts: false }]
            {
                // BPF_MAXINSNS.
                assert!(allowed(who, arch).unwrap().len() < 4096);
                assert!(forbidden(who, arch).unwrap().len() < 4096);
            }
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_forbidden() {
        let forbidden: Vec<_> = FORBIDDEN.iter().chain(FORBIDDEN_LEGACY).collect();
        for call in SERVICE.iter().chain(LEGACY).chain(DEPUTY) {
            assert!(!forbidden.contains(&call), "{call}");
        }
    }
}
