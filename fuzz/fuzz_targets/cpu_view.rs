//! Steps of the CPU view: whatever the limits and the usage do, no reader sees a counter go back.
#![no_main]

use cgview_core::{
    Ticks, Usec,
    cpu_view::{CpuView, VisibleCpu},
    effective::CpuLimits,
    policy::StealPolicy,
    snapshot::Version,
};
use cgview_fuzz::situation;
use libfuzzer_sys::{arbitrary::Unstructured, fuzz_target};

fuzz_target!(|input: &[u8]| {
    let mut u = Unstructured::new(input);
    let _ = steps(&mut u);
});

fn steps(u: &mut Unstructured<'_>) -> libfuzzer_sys::arbitrary::Result<()> {
    let mut view = CpuView::default();
    let started = Usec(situation::number(u)?);
    let mut now = started;
    let steal = *u.choose(&[StealPolicy::Zero, StealPolicy::Throttled])?;
    let host = situation::host(u, b"")?;
    while !u.is_empty() {
        let snapshot = situation::snapshot(u)?;
        let limits = CpuLimits::of(&snapshot, &host, &situation::policy(u)?);
        let usage = match u.arbitrary()? {
            true => Some(situation::cpu_usage(u, situation::cgroup(0, Version::V2))?),
            false => None,
        };
        now = now.saturating_add(Usec(situation::number(u)?));
        let before = view.cpus().to_vec();
        let (idle, shown) = (view.idle(), shown_idle(&view));
        view.step(now, started, &limits, usage.as_ref(), steal);

        assert_eq!(view.cpus().len(), limits.visible.len() as usize, "one for each visible CPU");
        assert!(view.idle() >= idle || view.cpus().len() < before.len(), "idle goes back");
        // Of CPUs that vanish too, but that a sum of all is no larger than the largest number.
        let fits = view.idle() < Usec(u64::MAX / 2);
        assert!(shown_idle(&view) >= shown || !fits, "the sum of stat and uptime goes back");
        for (before, after) in before.iter().zip(view.cpus()) {
            assert!(not_before(before, after), "{before:?} becomes {after:?}");
        }
        // The same moment again.
        let same = view.clone();
        view.step(now, started, &limits, usage.as_ref(), steal);
        assert_eq!(view, same, "no time has passed");
    }
    Ok(())
}

/// The idle column of the line `cpu`.
fn shown_idle(view: &CpuView) -> Ticks {
    view.cpus().iter().map(|cpu| cpu.shown_idle().ticks()).sum()
}

fn not_before(before: &VisibleCpu, after: &VisibleCpu) -> bool {
    before.busy.user <= after.busy.user
        && before.busy.nice <= after.busy.nice
        && before.busy.system <= after.busy.system
        && before.idle <= after.idle
        && before.shown_idle() <= after.shown_idle()
        && before.steal <= after.steal
}
