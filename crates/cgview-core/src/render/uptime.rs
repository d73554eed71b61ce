//! `/proc/uptime`.

use crate::{
    explain::{Output, Source, Why},
    policy::UptimePolicy,
    units::{Ticks, Usec},
    view::View,
};

/// Renders `/proc/uptime` (`uptime_proc_show()` of `fs/proc/uptime.c`): two numbers of seconds, with
/// hundredths that are cut off.
///
/// The first is the container's age: the time since its init started. For what has no init of its own it
/// is the host's, as it is by [`UptimePolicy::Host`]. In a time namespace whose boot clock has an offset
/// the kernel's own answer holds, the host's with that offset, since the kernel tells start times on the
/// same clock.
///
/// It is the clock's of the moment when the text is rendered, so that no process is younger than it.
///
/// The second is the idle time of all visible CPUs when the snapshot was taken: the `cpu` line of
/// `/proc/stat`, to the tick. That holds for every policy, so that the two files agree.
///
/// Where the container is the whole host, the text is the host's, but for the offset.
pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    let offset = view.reader.timens.boottime != 0;
    if view.cpus.is_whole_host(view.snapshot, view.host) {
        let shifted = if offset { split_first(host) } else { None };
        let Some((up, rest)) = shifted else { return out.copy(host) };
        seconds(view.reader.timens.apply(up).ticks(), in_namespace(), out);
        return out.copy(rest);
    }

    let (up, why) = age(view);
    seconds(up.ticks(), why, out);
    out.copy(b" ");
    let idle: Ticks = view.cpu_view.cpus().iter().map(|cpu| cpu.shown_idle().ticks()).sum();
    seconds(idle, Why::of(Source::CpuView, "idle time of all visible CPUs"), out);
    if host.is_empty() || host.ends_with(b"\n") {
        out.copy(b"\n");
    }
}

/// The age, where the container is not the whole host.
fn age(view: &View<'_>) -> (Usec, Why) {
    let now = view.now.max(view.snapshot.taken);
    match (view.snapshot.started, view.policy.uptime) {
        _ if view.reader.timens.boottime != 0 => (view.reader.timens.apply(now), in_namespace()),
        (Some(started), UptimePolicy::Container) => {
            (now.saturating_sub(started), Why::of(Source::Init, "time since then"))
        }
        (None, UptimePolicy::Container) => {
            (now, Why::host("/proc/uptime", "there is no init of its own"))
        }
        (_, UptimePolicy::Host) => (now, Why::host("/proc/uptime", "by the policy")),
    }
}

/// The moment, on the clock of the snapshot, at which the age is another one. The host's text that the whole host is shown
/// is no older than that.
pub(crate) fn next_tick(view: &View<'_>) -> Usec {
    let now = view.now.max(view.snapshot.taken);
    let up = if view.cpus.is_whole_host(view.snapshot, view.host) {
        view.reader.timens.apply(now)
    } else {
        age(view).0
    };
    let next = Ticks(up.ticks().0.saturating_add(1)).usec();
    now.saturating_add(next.saturating_sub(up))
}

const fn in_namespace() -> Why {
    Why::of(Source::TimeNamespace, "the boot clock of the reader")
}

/// Appends seconds and hundredths.
fn seconds(ticks: Ticks, why: Why, out: &mut Output<'_>) {
    let start = out.text.len();
    out.copy(itoa::Buffer::new().format(ticks.0 / Ticks::PER_SECOND).as_bytes());
    out.copy(b".");
    two_digits(ticks.0 % Ticks::PER_SECOND, out);
    out.note(start, why);
}

/// Appends a number below 100 as the kernel's `%02lu`.
pub(super) fn two_digits(value: u64, out: &mut Output<'_>) {
    if value < 10 {
        out.copy(b"0");
    }
    out.copy(itoa::Buffer::new().format(value).as_bytes());
}

/// The first number of the host's text, and what follows it.
fn split_first(host: &[u8]) -> Option<(Usec, &[u8])> {
    let (first, rest) = host.split_at_checked(memchr::memchr(b' ', host)?)?;
    let (whole, part) = first.split_at_checked(memchr::memchr(b'.', first)?)?;
    let &[b'.', tens, ones] = part else { return None };
    let hundredths = crate::parse::decimal(&[tens, ones])?;
    let ticks = crate::parse::decimal(whole)?.saturating_mul(Ticks::PER_SECOND);
    Some((Ticks(ticks.saturating_add(hundredths)).usec(), rest))
}
