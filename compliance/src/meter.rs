//! What cgroups had used at the moments when somebody read a file.

use std::{
    fs,
    io::{PipeReader, PipeWriter},
    os::fd::AsFd as _,
    path::Path,
    thread::JoinHandle,
    time::Duration,
};

use cgview_testkit::Cgroup;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags,
    Response,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::truth::{boottime, cpu_used};

/// Watches who reads a file, and notes what the reader's cgroup has used when the read begins, and when it
/// has ended (fanotify(7)). So numbers that a program makes from two reads can be compared with the truth
/// between these two, however late the program was.
#[derive(Debug)]
pub struct Meter {
    stop: PipeWriter,
    thread: JoinHandle<Vec<Reading>>,
}

/// What a cgroup has used by a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Used {
    /// The moment, on the boot clock.
    pub at: Duration,
    /// Its CPU time.
    pub cpu: Duration,
}

/// A read that gave some text.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The name of the program.
    pub program: String,
    /// Which of the cgroups it is in.
    pub cgroup: usize,
    /// Just before it.
    pub before: Used,
    /// Just after it.
    pub after: Used,
}

/// The time from one look at a file to another, each of which took a moment itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    first: [Used; 2],
    last: [Used; 2],
}

impl Window {
    /// The least and the most that was used, in CPUs.
    #[must_use]
    pub fn cpus(&self) -> (f64, f64) {
        let rates = self.first.iter().flat_map(|first| {
            self.last.iter().map(|last| {
                (last.cpu - first.cpu).as_secs_f64() / (last.at - first.at).as_secs_f64()
            })
        });
        rates.fold((f64::MAX, 0.0), |(least, most), rate| (rate.min(least), rate.max(most)))
    }

    /// Its length.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.last[0].at - self.first[0].at
    }
}

impl Meter {
    /// Watches `file`, for reads by processes in `cgroups` or below.
    #[must_use]
    pub fn start(file: &Path, cgroups: &[Cgroup]) -> Meter {
        // A reader waits until it is known what its cgroup has used: FAN_ACCESS_PERM.
        let events = Fanotify::init(
            InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK,
            EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC,
        );
        let events = events.unwrap();
        let mask = MaskFlags::FAN_ACCESS | MaskFlags::FAN_ACCESS_PERM;
        events.mark(MarkFlags::FAN_MARK_ADD, mask, rustix::fs::CWD, Some(file)).unwrap();
        let (stopped, stop) = std::io::pipe().unwrap();
        let cgroups = cgroups.to_vec();
        let thread = std::thread::spawn(move || {
            let mut log = Log { cgroups, ..Log::default() };
            watch(&events, &stopped, &mut log);
            log.readings
        });
        Meter { stop, thread }
    }

    /// All reads so far, in order.
    #[must_use]
    pub fn stop(self) -> Vec<Reading> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

fn watch(events: &Fanotify, stopped: &PipeReader, log: &mut Log) {
    loop {
        let (events_fd, stopped_fd) = (events.as_fd(), stopped.as_fd());
        let mut fds =
            [PollFd::new(&events_fd, PollFlags::IN), PollFd::new(&stopped_fd, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        if fds[0].revents().is_empty() {
            return;
        }
        for event in events.read_events().unwrap_or_default() {
            log.note(&event);
            if let (true, Some(file)) =
                (event.mask().contains(MaskFlags::FAN_ACCESS_PERM), event.fd())
            {
                let allow = FanotifyResponse::new(file, Response::FAN_ALLOW);
                // The reader may have been killed while it waited.
                let _ = events.write_response(allow);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Log {
    cgroups: Vec<Cgroup>,
    /// The programs of processes, and their cgroups: who reads last may be gone before it is looked at.
    known: Vec<(i32, String, usize)>,
    begun: Vec<(i32, Used)>,
    readings: Vec<Reading>,
}

impl Log {
    fn note(&mut self, event: &FanotifyEvent) {
        let pid = event.pid();
        let is_known = |&&(known, ..): &&(i32, String, usize)| known == pid;
        if !self.known.iter().any(|known| is_known(&known)) {
            let Some((program, cgroup)) = identify(pid, &self.cgroups) else { return };
            self.known.push((pid, program, cgroup));
        }
        let Some((_, program, cgroup)) = self.known.iter().find(is_known) else { return };
        let Some(own) = self.cgroups.get(*cgroup) else { return };
        let now = Used { at: boottime(), cpu: cpu_used(own) };
        if event.mask().contains(MaskFlags::FAN_ACCESS_PERM) {
            self.begun.retain(|&(begun, _)| begun != pid);
            self.begun.push((pid, now));
        } else if let Some(place) = self.begun.iter().position(|&(begun, _)| begun == pid) {
            let (_, before) = self.begun.remove(place);
            let (program, cgroup) = (program.clone(), *cgroup);
            self.readings.push(Reading { program, cgroup, before, after: now });
        }
    }
}

/// The program of a process, and which of the cgroups it is in.
fn identify(pid: i32, cgroups: &[Cgroup]) -> Option<(String, usize)> {
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let paths: Vec<&str> = text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    let is_in = |cgroup: &Cgroup| {
        let own = cgroup.path();
        let rest = paths.iter().filter_map(|path| path.strip_prefix(&own));
        rest.into_iter().any(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    Some((program, cgroups.iter().position(is_in)?))
}

/// The time between the last two looks of a program at the file. Reads within `gap` of each other are of one
/// look.
#[must_use]
pub fn last_window(readings: &[Reading], program: &str, cgroup: usize, gap: Duration) -> Window {
    let own = || readings.iter().filter(|it| it.program == program && it.cgroup == cgroup);
    let end = own().next_back();
    let end = end.unwrap_or_else(|| panic!("{program} did not read: {readings:?}")).before.at;
    let (before, last): (Vec<_>, Vec<_>) = own().partition(|it| it.before.at + gap < end);
    let (Some(first), Some(last)) = (before.last(), last.first()) else {
        panic!("{program} read but once: {readings:?}");
    };
    Window { first: [first.before, first.after], last: [last.before, last.after] }
}
