//! Processes of the keeper. What they need is prepared before there is any hurry, so that starting one takes no
//! memory: a keeper that is needed because memory is short must not be short of it itself.

use std::{
    env,
    ffi::{CStr, CString, c_char, c_int},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::ffi::OsStringExt as _,
    },
    ptr,
    time::Duration,
};

use rustix::process::Pid;

use crate::{descriptors::FIRST, handover};

/// What a worker is told in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// How many workers there were before it.
    pub(crate) before: u32,
    /// How the one before it ended, as wait(2) has it.
    pub(crate) status: u32,
}

/// The variables of the environment that have numbers.
pub(crate) const BEFORE: &str = "CGVIEW_WORKERS_BEFORE";
pub(crate) const STATUS: &str = "CGVIEW_WORKER_STATUS";

/// This program, as the keeper starts it to be a worker.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    numbers: [Vec<u8>; 3],
    /// The worker's `oom_score_adj`.
    oom_score: CString,
    /// How many descriptors it is given.
    left: usize,
    // What the pointers point to.
    _strings: Vec<CString>,
}

/// Where memory runs out, a worker is killed before its keeper, without whom all mounts would be dead: this much
/// is added to its `oom_score_adj` (proc(5)), in thousandths of the memory that there is. One that has just been
/// started is smaller than its keeper.
const BEFORE_KEEPER: i32 = 200;

/// Digits of the largest number.
const DIGITS: usize = 10;

impl Program {
    /// This program with the arguments of this process; `by_id` says whether there is a fast mount.
    pub(crate) fn new(by_id: bool) -> io::Result<Program> {
        let whole = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
        let arguments = env::args_os()
            .map(|argument| whole(argument.into_vec()))
            .collect::<io::Result<Vec<CString>>>()?;
        // systemd is spoken to by the keeper.
        let not_its = |name: &[u8]| {
            [&b"LISTEN_"[..], b"NOTIFY_SOCKET", b"WATCHDOG_", b"FDSTORE", b"CGVIEW_WORKER"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        let names = [handover::DEVICE, handover::LEDGER, handover::KEEPER, handover::BY_ID];
        let left = if by_id { names.len() } else { names.len() - 1 };
        let names: Vec<&str> = names.into_iter().take(left).collect();
        let mut environment = vec![
            CString::new(format!("LISTEN_FDS={left}"))?,
            CString::new(format!("LISTEN_FDNAMES={}", names.join(":")))?,
        ];
        for (name, value) in env::vars_os() {
            let mut variable = name.into_vec();
            if !not_its(&variable) {
                variable.push(b'=');
                variable.extend(value.into_vec());
                environment.push(whole(variable)?);
            }
        }
        let numbers = ["LISTEN_PID", BEFORE, STATUS].map(|name| {
            let mut variable = format!("{name}={}", "0".repeat(DIGITS)).into_bytes();
            variable.push(0);
            variable
        });
        let end = std::iter::once(ptr::null());
        let argv = arguments.iter().map(|argument| argument.as_ptr()).chain(end.clone()).collect();
        let envp = environment
            .iter()
            .map(|variable| variable.as_ptr())
            .chain(numbers.iter().map(|number| number.as_ptr().cast()))
            .chain(end)
            .collect();
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let own: i32 = own.trim().parse().unwrap_or(0);
        let oom_score = CString::new((own + BEFORE_KEEPER).min(1000).to_string())?;
        // Not by its name, which may be another version's by now.
        let path = CString::new("/proc/self/exe")?;
        let _strings = arguments.into_iter().chain(environment).collect();
        Ok(Program { path, argv, envp, numbers, oom_score, left, _strings })
    }

    /// Starts it with these descriptors, of which the last counts where there is a fast mount. It is killed when the calling thread ends.
    pub(crate) fn start(
        &mut self,
        told: Told,
        descriptors: [BorrowedFd<'_>; 4],
    ) -> io::Result<Pid> {
        let keeper = rustix::process::getpid();
        for (number, value) in self.numbers.iter_mut().zip([0, told.before, told.status]) {
            set_number(number, value);
        }
        // SAFETY: the child does system calls alone, and changes memory that is its own by then.
        #[expect(unsafe_code, reason = "fork(2)")]
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            self.become_it(keeper, descriptors);
        }
        started(pid)
    }

    /// The child's way to another program.
    fn become_it(&mut self, keeper: Pid, descriptors: [BorrowedFd<'_>; 4]) -> ! {
        if let Some(number) = self.numbers.first_mut() {
            set_number(number, std::process::id());
        }
        die_with(keeper);
        let numbers = descriptors.map(|descriptor| descriptor.as_raw_fd());
        // SAFETY: system calls with pointers that are valid for as long as `self`, and ended by null.
        #[expect(unsafe_code, reason = "there is no safe way to another program without memory")]
        unsafe {
            // Beyond those that they are to have.
            let beyond = numbers.map(|number| libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 16));
            for (place, number) in (FIRST..).zip(beyond).take(self.left) {
                libc::dup2(number, place);
            }
            // Where it cannot be had, the kernel chooses by size.
            let score =
                libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(score, self.oom_score.as_ptr().cast(), self.oom_score.count_bytes());
            libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
            libc::_exit(127)
        }
    }
}

/// Starts a process that asks a file system again and again how it is, and writes a byte to `told` each time
/// that it was answered. It is a process of its own since it may wait for an answer for ever, and nothing ends
/// that but an answer: not even being killed.
pub(crate) fn start_prober(
    mountpoint: &CStr,
    interval: Duration,
    told: BorrowedFd<'_>,
) -> io::Result<Pid> {
    let keeper = rustix::process::getpid();
    // SAFETY: the child does system calls alone.
    #[expect(unsafe_code, reason = "fork(2)")]
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        die_with(keeper);
        probe(mountpoint, interval, told.as_raw_fd());
    }
    started(pid)
}

fn probe(mountpoint: &CStr, interval: Duration, told: c_int) -> ! {
    let pause = libc::timespec {
        // `time_t`, a name that libc deprecates for musl.
        tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: interval.subsec_nanos().into(),
    };
    // SAFETY: system calls with pointers that are valid.
    #[expect(unsafe_code, reason = "after fork(2), nothing else may be used")]
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"cgview-prober".as_ptr());
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGUSR1, libc::SIGUSR2] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
        // It must not hold the device, whose end is what ends its waiting.
        libc::dup2(told, FIRST);
        libc::syscall(libc::SYS_close_range, FIRST + 1, c_int::MAX, 0);
        loop {
            // First, since whoever asks holds the mount: it cannot be unmounted meanwhile.
            libc::nanosleep(&raw const pause, ptr::null_mut());
            let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
            // An error is an answer, too.
            libc::statfs(mountpoint.as_ptr(), answer.as_mut_ptr());
            let byte = 0_u8;
            if libc::write(FIRST, (&raw const byte).cast(), 1) < 0
                && io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
            {
                libc::_exit(0);
            }
        }
    }
}

/// Ends this process when `parent`, which started it, ends; also if it has ended already.
fn die_with(parent: Pid) {
    // SAFETY: system calls without pointers.
    #[expect(unsafe_code, reason = "prctl(2)")]
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent.as_raw_nonzero().get() {
            libc::_exit(127);
        }
    }
}

fn started(pid: libc::pid_t) -> io::Result<Pid> {
    // -1 is an error, and no pid may be made of it: it would stand for all processes.
    let pid = if pid > 0 { Pid::from_raw(pid) } else { None };
    pid.ok_or_else(io::Error::last_os_error)
}

/// Writes the digits of a number at the end of `NAME=0000000000\0`.
fn set_number(variable: &mut [u8], mut value: u32) {
    for digit in variable.iter_mut().rev().skip(1).take(DIGITS) {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_place() {
        let mut variable = *b"LISTEN_PID=0000000000\0";
        set_number(&mut variable, 4321);
        assert_eq!(&variable, b"LISTEN_PID=0000004321\0");
        set_number(&mut variable, u32::MAX);
        assert_eq!(&variable, b"LISTEN_PID=4294967295\0");
    }
}
