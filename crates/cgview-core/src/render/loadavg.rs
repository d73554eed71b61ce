//! `/proc/loadavg`.

use super::uptime::two_digits;
use crate::{
    explain::{Output, Source, Why},
    view::View,
};

/// Renders `/proc/loadavg` (`loadavg_proc_show()` of `fs/proc/loadavg.c`): three averages with two
/// decimals, running and all tasks, and the newest pid.
///
/// The averages are those of [`View::load`]. Running tasks are those in state R, at least one, the reader;
/// the newest pid is that of the container's pid namespace. Where there is no load of the container's own
/// (the policy has it off, or the container is the host), the whole text is the host's.
pub(crate) fn render(view: &View<'_>, host: &[u8], out: &mut Output<'_>) {
    let Some(load) = view.load.filter(|_| view.policy.loadavg) else {
        let start = out.text.len();
        out.copy(host);
        return out.note(start, Why::host("/proc/loadavg", "the container has no load of its own"));
    };
    for average in load.hundredths() {
        let start = out.text.len();
        out.copy(itoa::Buffer::new().format(average / 100).as_bytes());
        out.copy(b".");
        two_digits(average % 100, out);
        out.note(
            start,
            Why::of(Source::LoadAverage, "tasks in R and D, averaged as the kernel does"),
        );
        out.copy(b" ");
    }
    let tasks = view.snapshot.tasks.unwrap_or_default();
    let running = tasks.running.max(1);
    let total = tasks.total.max(running.saturating_add(tasks.blocked));
    out.number(running, Why::of(Source::Tasks, "in state R, with the reader"));
    out.copy(b"/");
    out.number(total, Why::of(Source::Tasks, "all of them, threads too"));
    out.copy(b" ");
    let newest = if tasks.last_pid > 0 { tasks.last_pid } else { total };
    out.number(newest, Why::of(Source::Tasks, "the newest pid in the container's pid namespace"));
    if host.is_empty() || host.ends_with(b"\n") {
        out.copy(b"\n");
    }
}
