//! Steps of the load average: it stays between the least and the most that it was fed.
#![no_main]

use cgview_core::{Usec, loadavg::LoadAverage};
use cgview_fuzz::situation;
use libfuzzer_sys::{arbitrary::Unstructured, fuzz_target};

fuzz_target!(|input: &[u8]| {
    let mut u = Unstructured::new(input);
    let _ = steps(&mut u);
});

fn steps(u: &mut Unstructured<'_>) -> libfuzzer_sys::arbitrary::Result<()> {
    let mut now = Usec(situation::number(u)?);
    let tasks = |u: &mut Unstructured<'_>| u.int_in_range(0..=100_000u64);
    let mut most = tasks(u)?;
    let mut load = LoadAverage::seeded(now, [most * 100, most * 50, 0]);
    while !u.is_empty() {
        let active = tasks(u)?;
        most = most.max(active);
        now = now.saturating_add(Usec(situation::number(u)?));
        load.step(now, active);
        for hundredths in load.hundredths() {
            // The kernel rounds by half a hundredth.
            assert!(hundredths <= most * 100 + 1, "{hundredths} of at most {most}");
        }
        let same = load;
        load.step(now, active);
        assert_eq!(load, same, "no time has passed");
    }
    Ok(())
}
