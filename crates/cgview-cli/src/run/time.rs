//! A time namespace that begins now, so that the kernel itself counts a run's age from zero.

use std::fs;

use anyhow::Context;
use rustix::{
    thread::UnshareFlags,
    time::{ClockId, Timespec, clock_gettime},
};

use super::process;

/// Makes the processes that this one forks from now on live in a time namespace whose clocks start
/// from zero: `/proc/uptime`, `btime` of `/proc/stat`, the start times in `/proc/PID/stat` and
/// sysinfo(2) all follow it.
pub(super) fn start_from_zero() -> anyhow::Result<()> {
    process::unshare(UnshareFlags::NEWTIME).context("cannot create a time namespace")?;
    let offsets = format!(
        "monotonic {}\nboottime {}\n",
        negated(clock_gettime(ClockId::Monotonic)),
        negated(clock_gettime(ClockId::Boottime)),
    );
    fs::write("/proc/self/timens_offsets", offsets)
        .context("cannot write /proc/self/timens_offsets")
}

/// The seconds and nanoseconds to add so that `now` becomes zero. Only the seconds may be negative.
fn negated(now: Timespec) -> String {
    const SECOND: i64 = 1_000_000_000;
    match now.tv_nsec {
        0 => format!("{} 0", -now.tv_sec),
        part => format!("{} {}", -now.tv_sec - 1, SECOND - part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_and_the_time_make_zero() {
        assert_eq!(negated(Timespec { tv_sec: 10, tv_nsec: 0 }), "-10 0");
        assert_eq!(negated(Timespec { tv_sec: 10, tv_nsec: 250_000_000 }), "-11 750000000");
    }
}
