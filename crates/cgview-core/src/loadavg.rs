//! The load average of a container: the kernel's formula as a step function.

use crate::{
    parse::{lines, words},
    units::Usec,
};

/// Three decaying averages of the number of runnable and uninterruptible tasks, as
/// `kernel/sched/loadavg.c` computes them: in fixed point, every five seconds.
///
/// ```
/// use cgview_core::{Usec, loadavg::LoadAverage};
///
/// // Two busy tasks in a container that is a minute old.
/// let mut load = LoadAverage::estimated(Usec::ZERO, Usec::from_secs(60), 2, 2, b"");
/// assert_eq!(load.hundredths(), [127, 36, 13]);
/// load.step(Usec::from_secs(65), 2);
/// assert_eq!(load.hundredths(), [133, 39, 14]);
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LoadAverage {
    /// Over 1, 5 and 15 minutes, in parts of [`ONE`].
    averages: [u64; 3],
    /// When they moved last.
    last: Usec,
}

/// How often the averages move: the kernel's `LOAD_FREQ`.
const PERIOD: Usec = Usec::from_secs(5);

/// The fixed point has 11 bits below one: the kernel's `FSHIFT`.
const SHIFT: u32 = 11;

/// One task: the kernel's `FIXED_1`.
const ONE: u64 = 1 << SHIFT;

/// What is left of a load after a period: `exp(-5 s / 1 min)`, and over 5 and 15 minutes. The kernel's
/// `EXP_1`, `EXP_5` and `EXP_15`.
const DECAY: [u64; 3] = [1884, 2014, 2037];

/// `exp(-5 s / 10 s)`: what is left of the shortest average of the pressure after a period.
const DECAY_10S: u64 = 1242;

/// More tasks than any kernel has (`PID_MAX_LIMIT` is 2^22), so that nothing overflows.
const MOST_TASKS: u64 = 1 << 32;

impl LoadAverage {
    /// Starts at `now` from averages that are already known, in hundredths.
    #[must_use]
    pub fn seeded(now: Usec, hundredths: [u64; 3]) -> LoadAverage {
        let fixed = |hundredths: u64| (hundredths.min(MOST_TASKS * 100) * ONE + 50) / 100;
        LoadAverage { averages: hundredths.map(fixed), last: now }
    }

    /// Starts at `now` from what can be told of a container that was not watched until then.
    ///
    /// The averages are those of a machine that booted when the container `started` and has had the same
    /// load ever since, so that a young container rises from zero as a machine does. That load is the
    /// number of tasks that are `active` (in state R or D) now, scaled by `cpu_pressure`, the text of the
    /// container's `cpu.pressure`: if its tasks waited for a CPU less over the last minute, or the last
    /// five, than over the last ten seconds, there was less of a load by as much. If they waited more,
    /// then for that share of the time all `cpus` were busy and at least one more task was waiting. A text
    /// that says nothing (`psi=0`, v1) leaves the load at the present number. The averages of the pressure
    /// have risen from zero since the container started, too, and are scaled up by what they lack.
    ///
    /// The kernel keeps no pressure over 15 minutes; that of five stands for it.
    #[must_use]
    pub fn estimated(
        started: Usec,
        now: Usec,
        active: u64,
        cpus: u32,
        cpu_pressure: &[u8],
    ) -> LoadAverage {
        let active = active.min(MOST_TASKS) * ONE;
        let periods = now.saturating_sub(started).0 / PERIOD.0;
        let mut averages = [0; 3];
        let levels =
            pressure_of_some(cpu_pressure).map_or([active; 3], |[avg10, avg60, avg300]| {
                let steady = |waited: u64, decay| {
                    let risen = ONE - power(decay, periods);
                    (waited * ONE).checked_div(risen).unwrap_or(waited).min(10_000)
                };
                let avg10 = steady(avg10, DECAY_10S);
                let avg60 = steady(avg60, DECAY[0]);
                let avg300 = steady(avg300, DECAY[1]);
                let level = |waited: u64| {
                    let scaled = if waited < avg10 { active * waited / avg10 } else { active };
                    // The pressure is in hundredths of a percent.
                    scaled.max((u64::from(cpus) + 1) * ONE * waited / 10_000)
                };
                [level(avg60), level(avg300), level(avg300)]
            });
        for ((average, decay), level) in averages.iter_mut().zip(DECAY).zip(levels) {
            *average = mix(0, power(decay, periods), level);
        }
        LoadAverage { averages, last: now }
    }

    /// Moves on to `now`, when `active` tasks were in state R or D.
    ///
    /// Between the periods of five seconds nothing moves. If more than one has passed, `active` stands for
    /// all of them, as in the kernel's `calc_global_nohz()`.
    pub fn step(&mut self, now: Usec, active: u64) {
        if now < self.last {
            // Either another reader was faster, or it is another clock.
            if self.last.saturating_sub(now) > PERIOD {
                self.last = now;
            }
            return;
        }
        let periods = now.saturating_sub(self.last).0 / PERIOD.0;
        if periods == 0 {
            return;
        }
        let active = active.min(MOST_TASKS) * ONE;
        for (average, decay) in self.averages.iter_mut().zip(DECAY) {
            *average = mix(*average, power(decay, periods), active);
        }
        self.last = self.last.saturating_add(Usec(periods.saturating_mul(PERIOD.0)));
    }

    /// The averages over 1, 5 and 15 minutes in hundredths, rounded as `/proc/loadavg` does.
    #[must_use]
    pub fn hundredths(&self) -> [u64; 3] {
        // `loadavg_proc_show()` adds FIXED_1/200 and cuts off.
        self.averages.map(|average| average.saturating_add(ONE / 200).saturating_mul(100) >> SHIFT)
    }
}

/// The weighted mean of `load`, by `weight` of [`ONE`], and `active`. It is rounded towards `active`, so
/// that a constant load is reached in the end: the kernel's `calc_load()`.
fn mix(load: u64, weight: u64, active: u64) -> u64 {
    let weight = weight.min(ONE);
    let sum = load.saturating_mul(weight).saturating_add(active.saturating_mul(ONE - weight));
    if active >= load { sum.saturating_add(ONE - 1) / ONE } else { sum / ONE }
}

/// `base` to the power of `exponent`, where [`ONE`] is one: squared for each bit, and rounded each time
/// as the kernel's `fixed_power_int()` does.
fn power(base: u64, exponent: u64) -> u64 {
    let times = |a: u64, b: u64| (a * b + ONE / 2) >> SHIFT;
    let (mut result, mut square, mut rest) = (ONE, base.min(ONE), exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result = times(result, square);
        }
        rest >>= 1;
        square = times(square, square);
    }
    result
}

/// The averages of the `some` line over 10, 60 and 300 seconds, in hundredths of a percent
/// (`psi_show()` of `kernel/sched/psi.c` prints two digits after the point).
fn pressure_of_some(text: &[u8]) -> Option<[u64; 3]> {
    let (_, line) = lines(text).find(|(_, line)| line.starts_with(b"some "))?;
    let average = |name: &[u8]| {
        let value = words(line).find_map(|word| word.strip_prefix(name))?;
        let (whole, part) = value.split_at_checked(memchr::memchr(b'.', value)?)?;
        let whole = crate::parse::decimal(whole)?;
        let &[b'.', tens, ones] = part else { return None };
        let part = crate::parse::decimal(&[tens, ones])?;
        Some((whole.min(100) * 100 + part).min(10_000))
    };
    Some([average(b"avg10=")?, average(b"avg60=")?, average(b"avg300=")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Usec = Usec::from_secs(60);

    #[test]
    fn what_was_seeded_is_shown() {
        for hundredths in 0..5000 {
            let load = LoadAverage::seeded(Usec(7), [hundredths; 3]);
            assert_eq!(load.hundredths(), [hundredths; 3]);
        }
    }

    #[test]
    fn it_moves_every_five_seconds() {
        let mut load = LoadAverage::seeded(Usec::from_secs(100), [0; 3]);
        load.step(Usec(104_999_999), 1);
        assert_eq!(load.hundredths(), [0, 0, 0]);
        load.step(Usec::from_secs(105), 1);
        assert_eq!(load.hundredths(), [8, 2, 1]);
        load.step(Usec(109_999_999), 1);
        assert_eq!(load.hundredths(), [8, 2, 1]);
        // Late, and yet in step.
        load.step(Usec(110_300_000), 1);
        assert_eq!(load.last, Usec::from_secs(110));
    }

    #[test]
    fn a_constant_load_is_reached() {
        for active in [0, 1, 3, 400] {
            let mut load = LoadAverage::seeded(Usec::ZERO, [150; 3]);
            for second in 0..14_400 {
                load.step(Usec::from_secs(second), active);
            }
            assert_eq!(load.hundredths(), [active * 100; 3]);
        }
    }

    #[test]
    fn missed_periods_are_made_up_for() {
        let mut late = LoadAverage::seeded(Usec::ZERO, [400, 400, 400]);
        let mut steady = late;
        for period in 1..=12 {
            steady.step(Usec::from_secs(period * 5), 1);
        }
        late.step(MINUTE, 1);
        for (late, steady) in late.hundredths().into_iter().zip(steady.hundredths()) {
            assert!(late.abs_diff(steady) <= 3, "{late} {steady}");
        }
        late.step(Usec(u64::MAX), u64::MAX);
        let same = late;
        late.step(Usec(u64::MAX), 0);
        assert_eq!(late, same);
    }

    #[test]
    fn a_clock_that_went_back_does_not_freeze_it() {
        let mut load = LoadAverage::seeded(Usec::from_secs(100_000), [0; 3]);
        load.step(Usec::from_secs(10), 1);
        load.step(Usec::from_secs(15), 1);
        assert_eq!(load.hundredths(), [8, 2, 1]);
    }

    #[test]
    fn an_estimate_never_starts_from_nothing() {
        let old = Usec::from_secs(100_000);
        let of = |started, active, pressure: &str| {
            LoadAverage::estimated(started, old, active, 1, pressure.as_bytes()).hundredths()
        };
        // Without pressure, the present count holds.
        assert_eq!(of(Usec::ZERO, 3, ""), [300, 300, 300]);
        assert_eq!(of(Usec::ZERO, 0, ""), [0, 0, 0]);
        // A container that is as old as a period.
        assert_eq!(of(Usec(old.0 - 5_000_000), 1, ""), [8, 2, 1]);
        // As busy as ever, and busy of late only.
        let line = |avg10, avg60, avg300| {
            std::format!("some avg10={avg10} avg60={avg60} avg300={avg300} total=1\n")
        };
        assert_eq!(of(Usec::ZERO, 4, &line("80.00", "80.00", "81.12")), [400, 400, 400]);
        assert_eq!(of(Usec::ZERO, 4, &line("80.00", "40.00", "8.00")), [200, 40, 40]);
        // As busy as ever, but only for ten seconds: avg60 and avg300 are on their way.
        let young = Usec(old.0 - 10_000_000);
        assert_eq!(of(young, 4, &line("50.57", "12.28", "2.62")), [61, 13, 4]);
        // Idle now; a minute ago somebody waited for half of the time, so two tasks were active then.
        assert_eq!(of(Usec::ZERO, 0, &line("0.00", "50.00", "12.50")), [100, 25, 25]);
    }

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = b"some avg10=35.48 avg60=8.97 avg300=100.00 total=6891588\nfull avg10=1.00";
        assert_eq!(pressure_of_some(text), Some([3548, 897, 10_000]));
        for text in
            ["", "some", "some avg10=1", "some avg10=1.0 avg60=1.00 avg300=1.00", "full avg10=1.00"]
        {
            assert_eq!(pressure_of_some(text.as_bytes()), None);
        }
    }
}
