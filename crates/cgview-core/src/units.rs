//! Quantities with their unit in their type, and limits that may be absent.
//!
//! Arithmetic saturates: the kernel's numbers are read one file after the other, so a part may be
//! larger than a whole that was read a moment before, and a difference may be negative for a moment.

use core::fmt;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0);

            /// The sum, at most `u64::MAX`.
            #[must_use]
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference, at least zero.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// `self * numerator / denominator` without overflow in between; zero for a denominator
            /// of zero.
            #[must_use]
            pub fn scale(self, numerator: u64, denominator: u64) -> Self {
                if denominator == 0 {
                    return Self::ZERO;
                }
                let scaled = u128::from(self.0) * u128::from(numerator) / u128::from(denominator);
                Self(u64::try_from(scaled).unwrap_or(u64::MAX))
            }
        }

        impl core::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, Self::saturating_add)
            }
        }
    };
}

quantity! {
    /// An amount of memory or of I/O, in bytes.
    Bytes
}
quantity! {
    /// A time or a duration, in microseconds. Times are those of `CLOCK_BOOTTIME` on the host, as
    /// `/proc/uptime` counts them.
    Usec
}
quantity! {
    /// A CPU time in clock ticks of `USER_HZ`, 100 a second on every architecture that Linux runs
    /// containers on: the unit of `/proc/stat` and `/proc/PID/stat`.
    Ticks
}
quantity! {
    /// A number of CPUs in millionths: the unit of an entitlement, so that 1.5 CPUs are
    /// `Cpus(1_500_000)`.
    Cpus
}

impl Bytes {
    /// Of so many KiB, the unit of `/proc/meminfo`.
    #[must_use]
    pub const fn from_kib(kib: u64) -> Bytes {
        Bytes(kib.saturating_mul(1024))
    }

    /// In whole KiB, rounded down as the kernel's `K()` does.
    #[must_use]
    pub const fn kib(self) -> u64 {
        self.0 / 1024
    }
}

impl Usec {
    /// Microseconds of a second.
    pub const PER_SECOND: u64 = 1_000_000;

    /// Of so many nanoseconds, rounded down.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Usec {
        Usec(nanos / 1000)
    }

    /// Of so many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Usec {
        Usec(secs.saturating_mul(Self::PER_SECOND))
    }

    /// In clock ticks, rounded down as `nsec_to_clock_t()` does.
    #[must_use]
    pub const fn ticks(self) -> Ticks {
        Ticks(self.0 / (Self::PER_SECOND / Ticks::PER_SECOND))
    }
}

impl Ticks {
    /// `USER_HZ`.
    pub const PER_SECOND: u64 = 100;

    /// In microseconds.
    #[must_use]
    pub const fn usec(self) -> Usec {
        Usec(self.0.saturating_mul(Usec::PER_SECOND / Self::PER_SECOND))
    }
}

impl Cpus {
    /// One CPU.
    pub const ONE: Cpus = Cpus(1_000_000);

    /// Of so many whole CPUs.
    #[must_use]
    pub const fn whole(count: u64) -> Cpus {
        Cpus(count.saturating_mul(Self::ONE.0))
    }

    /// `quota / period`, as in `cpu.max`; `None` for a period of zero.
    #[must_use]
    pub fn from_quota(quota: Usec, period: Usec) -> Option<Cpus> {
        (period.0 != 0).then(|| Cpus(quota.scale(Cpus::ONE.0, period.0).0))
    }

    /// The whole CPUs that hold this many, at least one: 1.5 are shown as 2.
    #[must_use]
    pub const fn ceil(self) -> u64 {
        let count = self.0.div_ceil(Cpus::ONE.0);
        if count == 0 { 1 } else { count }
    }

    /// The CPU time that so many CPUs have in `wall` time.
    #[must_use]
    pub fn during(self, wall: Usec) -> Usec {
        wall.scale(self.0, Cpus::ONE.0)
    }
}

impl fmt::Display for Cpus {
    /// As people write it: `1.5`, `2`, `0.05`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, mut part) = (self.0 / Self::ONE.0, self.0 % Self::ONE.0);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let mut width = 6;
        while part.is_multiple_of(10) {
            part /= 10;
            width -= 1;
        }
        write!(f, "{whole}.{part:0width$}")
    }
}

/// A limit, or the absence of one: the number or the word `max` of a file such as `memory.max`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Limit<T> {
    /// At most this.
    At(T),
    /// No limit at this level.
    #[default]
    Max,
}

impl<T> Limit<T> {
    /// The same limit in another unit.
    #[must_use]
    pub fn map<U>(self, unit: impl FnOnce(T) -> U) -> Limit<U> {
        match self {
            Limit::At(at) => Limit::At(unit(at)),
            Limit::Max => Limit::Max,
        }
    }
}

impl<T: Copy + Ord> Limit<T> {
    /// The tighter of the two.
    #[must_use]
    pub fn min(self, other: Limit<T>) -> Limit<T> {
        match (self, other) {
            (Limit::At(a), Limit::At(b)) => Limit::At(a.min(b)),
            (Limit::At(at), Limit::Max) | (Limit::Max, Limit::At(at)) => Limit::At(at),
            (Limit::Max, Limit::Max) => Limit::Max,
        }
    }

    /// What holds where no more than `capacity` exists.
    #[must_use]
    pub fn within(self, capacity: T) -> T {
        match self {
            Limit::At(at) => at.min(capacity),
            Limit::Max => capacity,
        }
    }

    /// The number, if there is one.
    #[must_use]
    pub fn at(self) -> Option<T> {
        match self {
            Limit::At(at) => Some(at),
            Limit::Max => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn entitlements_read_as_people_write_them() {
        let half = Cpus::from_quota(Usec(50_000), Usec(100_000)).unwrap();
        assert_eq!((half.to_string(), half.ceil()), ("0.5".into(), 1));
        assert_eq!((Cpus(1_500_000).to_string(), Cpus(1_500_000).ceil()), ("1.5".into(), 2));
        assert_eq!(
            (Cpus(1_050_000).to_string(), Cpus(2_000_000).to_string()),
            ("1.05".into(), "2".into())
        );
        assert_eq!(Cpus::from_quota(Usec(1), Usec(0)), None);
    }

    #[test]
    fn half_a_cpu_has_half_of_the_time() {
        assert_eq!(Cpus(500_000).during(Usec::from_secs(3)), Usec(1_500_000));
        assert_eq!(Cpus(u64::MAX).during(Usec(u64::MAX)), Usec(u64::MAX));
    }

    #[test]
    fn the_tighter_limit_holds() {
        assert_eq!(Limit::At(3).min(Limit::Max), Limit::At(3));
        assert_eq!(Limit::At(3).min(Limit::At(2)).within(9), 2);
        assert_eq!(Limit::<u64>::Max.within(9), 9);
        assert_eq!(Limit::At(4096).map(Bytes), Limit::At(Bytes(4096)));
    }
}
