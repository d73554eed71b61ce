//! CPU time of a cgroup: v2's `cpu.stat`, v1's `cpuacct.*`.

use alloc::vec::Vec;

use super::{ParseError, flat_keyed, lines, number, words};
use crate::{snapshot::CpuTime, units::Usec};

/// Reads `cpu.stat`: the CPU time by kind (`user` without `nice`), and the throttled time.
///
/// v2 has `user_usec` and `system_usec`, together `usage_usec`, and since Linux 6.13 `nice_usec`, which
/// `user_usec` holds too. `nice_usec` is counted in ticks where the other two are exact
/// (`cputime_adjust()`), so it may be ahead of `user_usec`, which then bounds it. Where the kernel does
/// not split the time, all of it is `user`. The throttled time is `throttled_usec`. v1's file of this
/// name, in the cpu controller, has no CPU time, and `throttled_time` in nanoseconds.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a key and a number.
pub fn cpu_stat(text: &[u8]) -> Result<(CpuTime, Usec), ParseError> {
    let (mut usage, mut user, mut system) = (Usec::ZERO, Usec::ZERO, Usec::ZERO);
    let (mut nice, mut throttled) = (Usec::ZERO, Usec::ZERO);
    flat_keyed(text, |key, value| match key {
        b"usage_usec" => usage = Usec(value),
        b"user_usec" => user = Usec(value),
        b"system_usec" => system = Usec(value),
        b"nice_usec" => nice = Usec(value),
        b"throttled_usec" => throttled = Usec(value),
        b"throttled_time" => throttled = Usec::from_nanos(value),
        _ => {}
    })?;
    if user == Usec::ZERO && system == Usec::ZERO {
        user = usage;
    }
    let nice = nice.min(user);
    Ok((CpuTime { user: user.saturating_sub(nice), nice, system }, throttled))
}

/// Reads v1's `cpuacct.usage_all`: user and system time of each possible CPU, in nanoseconds under the
/// header `cpu user system`, ascending. `user` holds `nice`, which v1 does not tell apart.
///
/// # Errors
///
/// [`ParseError`] at the first line that is not a CPU and two numbers.
pub fn cpuacct_usage_all(text: &[u8]) -> Result<Vec<(u32, CpuTime)>, ParseError> {
    let mut cpus = Vec::new();
    for (line_number, line) in lines(text).filter(|(_, line)| !line.starts_with(b"cpu")) {
        let mut words = words(line);
        let (Some(cpu), Some(user), Some(system)) = (words.next(), words.next(), words.next())
        else {
            return Err(ParseError::new(line_number, "a CPU, user and system time", line));
        };
        let cpu = u32::try_from(number(cpu, line_number)?)
            .map_err(|_| ParseError::new(line_number, "the number of a CPU", cpu))?;
        let user = Usec::from_nanos(number(user, line_number)?);
        let system = Usec::from_nanos(number(system, line_number)?);
        cpus.push((cpu, CpuTime { user, nice: Usec::ZERO, system }));
    }
    // They are, as the kernel writes them.
    cpus.sort_unstable_by_key(|&(cpu, _)| cpu);
    Ok(cpus)
}

/// Reads v1's `cpuacct.usage_percpu`: all time of each possible CPU, in the order of their numbers.
///
/// # Errors
///
/// [`ParseError`] at the first word that is not a number.
pub fn cpuacct_usage_percpu(text: &[u8]) -> Result<Vec<Usec>, ParseError> {
    words(text).map(|word| number(word, 1).map(Usec::from_nanos)).collect()
}

/// Puts v1's two files together: the time of each CPU is that of `cpuacct.usage_percpu`, split as
/// `cpuacct.usage_all` splits its own.
///
/// The former is exact. The latter is counted in ticks since Linux 5.17, and so may be off by some
/// milliseconds either way; before, its sum is exact, but its kinds are those of the moments at which
/// the scheduler charged the time. Both list the possible CPUs in the same order; without a
/// `usage_all` (before 4.7) they are numbered from 0 and all their time is `user`.
#[must_use]
pub fn cpuacct_per_cpu(usage_percpu: &[Usec], usage_all: &[(u32, CpuTime)]) -> Vec<(u32, CpuTime)> {
    let aligned = usage_percpu.len() == usage_all.len();
    (0u32..)
        .zip(usage_percpu)
        .enumerate()
        .map(|(index, (position, &exact))| {
            let listed = usage_all.get(index).filter(|_| aligned);
            let (cpu, sampled) = listed.copied().unwrap_or((position, CpuTime::default()));
            let system = exact.scale(sampled.system.0, sampled.sum().0);
            let user = exact.saturating_sub(system);
            (cpu, CpuTime { user, nice: Usec::ZERO, system })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(user: u64, nice: u64, system: u64) -> CpuTime {
        CpuTime { user: Usec(user), nice: Usec(nice), system: Usec(system) }
    }

    #[test]
    fn user_does_not_hold_nice() {
        let text = b"usage_usec 1000\nuser_usec 700\nsystem_usec 300\nnice_usec 200\n\
            core_sched.force_idle_usec 0\nnr_periods 5\nthrottled_usec 42\n";
        assert_eq!(cpu_stat(text).unwrap(), (time(500, 200, 300), Usec(42)));
        // Counted in ticks, and thus ahead of the exact time.
        let text = b"usage_usec 3000\nuser_usec 3000\nsystem_usec 0\nnice_usec 4000\n";
        assert_eq!(cpu_stat(text).unwrap(), (time(0, 3000, 0), Usec::ZERO));
    }

    #[test]
    fn time_that_is_not_split_is_user_time() {
        assert_eq!(cpu_stat(b"usage_usec 7\n").unwrap(), (time(7, 0, 0), Usec::ZERO));
        assert_eq!(cpu_stat(b"").unwrap(), (CpuTime::default(), Usec::ZERO));
        assert!(cpu_stat(b"usage_usec many\n").is_err());
    }

    #[test]
    fn v1_counts_in_nanoseconds() {
        let text = b"nr_periods 10\nnr_throttled 9\nthrottled_time 1500000\n";
        assert_eq!(cpu_stat(text).unwrap(), (CpuTime::default(), Usec(1500)));
        let all = cpuacct_usage_all(b"cpu user system\n0 411912789 1555712388\n3 1987443640 0\n");
        assert_eq!(all.unwrap(), [(0, time(411_912, 0, 1_555_712)), (3, time(1_987_443, 0, 0))]);
        assert_eq!(cpuacct_usage_percpu(b"1974359897 999 \n").unwrap(), [Usec(1_974_359), Usec(0)]);
        assert!(cpuacct_usage_all(b"cpu user system\n0 1\n").is_err());
        assert!(cpuacct_usage_all(b"4294967296 1 2\n").is_err());
        assert!(cpuacct_usage_percpu(b"1 x").is_err());
    }

    /// As read on Linux 6.18 while a CPU ran `dd` and another a shell loop.
    #[test]
    fn the_sum_is_exact_and_the_split_is_sampled() {
        let all = [(0, time(411_912, 0, 1_555_712)), (3, time(1_987_443, 0, 0))];
        let exact = [Usec(1_974_359), Usec(1_984_153)];
        let cpus = cpuacct_per_cpu(&exact, &all);
        assert_eq!(cpus, [(0, time(413_322, 0, 1_561_037)), (3, time(1_984_153, 0, 0))]);
        assert_eq!(cpus.iter().map(|(_, time)| time.sum()).sum::<Usec>(), exact.into_iter().sum());
    }

    #[test]
    fn without_a_split_all_is_user_time() {
        let exact = [Usec(5), Usec(6)];
        let user = [(0, time(5, 0, 0)), (1, time(6, 0, 0))];
        assert_eq!(cpuacct_per_cpu(&exact, &[]), user);
        assert_eq!(cpuacct_per_cpu(&exact, &[(7, time(1, 0, 1))]), user);
        assert_eq!(cpuacct_per_cpu(&exact, &[(0, time(0, 0, 0)), (1, time(0, 0, 0))]), user);
    }
}
