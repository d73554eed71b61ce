//! The size of a container, as given on the command line.

use cgview_core::{
    mask::Mask,
    units::{Bytes, Cpus, Usec},
};

/// The period that quotas are given for, the kernel's own default: `default_cfs_period()`.
pub(super) const PERIOD: Usec = Usec(100_000);

/// The smallest quota that the kernel takes: `min_cfs_quota_period` of `kernel/sched/core.c`.
const LEAST_QUOTA: Usec = Usec(1000);

/// The limits of a container. What is `None` is not limited.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Size {
    /// Memory, in bytes or with a suffix K, M, G or T (powers of 1024)
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(super) memory: Option<Bytes>,

    /// Swap, beside the memory; 0 for none
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(super) swap: Option<Bytes>,

    /// CPU time, in CPUs: 1.5 is one CPU and a half
    ///
    /// The quota of the cpu controller. So that nproc, which counts the CPUs that a process may run
    /// on, says the same as all else, the command is kept on that many CPUs (1.5 makes 2): those that
    /// the fewest other runs have. Give --cpuset to choose them.
    #[arg(long, value_name = "NUMBER", value_parser = cpus)]
    pub(super) cpus: Option<Cpus>,

    /// The CPUs to run on, such as 0-1,4
    #[arg(long, value_name = "LIST", value_parser = list)]
    pub(super) cpuset: Option<Mask>,

    /// How many tasks there may be, threads included; cgview's own init is one
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) pids: Option<u64>,
}

impl Size {
    /// The quota for each [`PERIOD`].
    pub(super) fn quota(&self) -> Option<Usec> {
        self.cpus.map(|cpus| cpus.during(PERIOD))
    }
}

/// Reads `512M`, `1.5G`, `268435456`. All suffixes are powers of 1024, with or without `B` or `iB`.
fn bytes(text: &str) -> Result<Bytes, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("expected a size such as 512M".into()),
    };
    let (number, scale) = decimal(digits).ok_or("expected a size such as 512M")?;
    u64::try_from((number << shift) / scale)
        .ok()
        // The kernel's files take signed numbers, in v1 even as "no limit".
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .map(Bytes)
        .ok_or_else(|| "that is more than a kernel can count".into())
}

/// Reads `1.5` CPUs.
fn cpus(text: &str) -> Result<Cpus, String> {
    let (number, scale) = decimal(text).ok_or("expected a number such as 1.5")?;
    let cpus = u64::try_from(number * u128::from(Cpus::ONE.0) / scale).map(Cpus);
    let cpus = cpus.ok().filter(|cpus| cpus.0 / Cpus::ONE.0 <= u64::from(u16::MAX));
    let cpus = cpus.ok_or("that is more than a kernel can count")?;
    if cpus.during(PERIOD) < LEAST_QUOTA {
        return Err("the kernel gives no less than 0.01 CPUs".into());
    }
    Ok(cpus)
}

/// Reads `0-1,4`.
fn list(text: &str) -> Result<Mask, String> {
    match Mask::parse_list(text.as_bytes()) {
        Ok(mask) if !mask.is_empty() => Ok(mask),
        _ => Err("expected a list of CPUs such as 0-1,4".into()),
    }
}

/// Reads a decimal number as an integer and the power of ten to divide it by.
fn decimal(text: &str) -> Option<(u128, u128)> {
    const MOST_DIGITS: usize = 20;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = [whole, part].concat();
    let plain = !whole.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // 20 digits shifted by a tebibyte's 40 bits are far from 128 bits.
    if !plain || digits.len() > MOST_DIGITS || (part.is_empty() && text.contains('.')) {
        return None;
    }
    let scale = 10u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    Some((digits.parse().ok()?, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, size) in [
            ("268435456", 256 << 20),
            ("256M", 256 << 20),
            ("256m", 256 << 20),
            ("256MB", 256 << 20),
            ("256MiB", 256 << 20),
            ("1.5G", 3 << 29),
            ("0", 0),
            ("0.5k", 512),
            ("100b", 100),
            ("2T", 2 << 40),
        ] {
            assert_eq!(bytes(text), Ok(Bytes(size)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "+1",
            "1,5G",
            "1.5.2G",
            "1.",
            ".5G",
            "512X",
            "5iB",
            "1e3",
            "9999999999G",
            "123456789012345678901",
            "max",
            "٣",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_are_exact() {
        let quota = |text| Size { cpus: Some(cpus(text).unwrap()), ..Size::default() }.quota();
        assert_eq!(quota("1.5"), Some(Usec(150_000)));
        assert_eq!(quota("0.01"), Some(Usec(1000)));
        assert_eq!(quota("64"), Some(Usec(6_400_000)));
        assert_eq!(quota("0.1"), Some(Usec(10_000)));
        for text in ["0", "0.009", "-1", "", "one", "1.5x", "99999999999"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }
}
