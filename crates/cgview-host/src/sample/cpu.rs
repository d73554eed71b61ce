//! The cpu, cpuacct and cpuset controllers.

use cgview_core::{
    Mask,
    parse::{
        ParseError, cpu_max, cpu_stat, cpuacct_per_cpu, cpuacct_usage_all, cpuacct_usage_percpu,
        quota_v1,
    },
    snapshot::{Controller, CpuLevel, CpuTime, CpuUsage, Cpuset, Version},
    units::Usec,
};

use super::{Sampler, cgroup, name};
use crate::{cgroup::CgroupDir, error::Result};

impl Sampler<'_> {
    pub(super) fn quota(&mut self, out: &mut Vec<CpuLevel>) -> Result<()> {
        out.clear();
        let levels = self.levels(Controller::Cpu)?;
        out.reserve_exact(levels.len());
        for level in levels.iter() {
            if self.is_top(Controller::Cpu, level) {
                break;
            }
            let quota = match level.version() {
                Version::V2 => self.parse(level, "cpu.max", cpu_max)?,
                Version::V1 => self.quota_v1(level)?,
            };
            if let Some((quota, period)) = quota {
                out.push(CpuLevel { cgroup: cgroup(level), quota, period });
            }
        }
        Ok(())
    }

    fn quota_v1(&mut self, level: &CgroupDir) -> Result<Option<(cgview_core::Limit<Usec>, Usec)>> {
        let Some(quota) = self.parse(level, "cpu.cfs_quota_us", quota_v1)? else { return Ok(None) };
        let period = self.number(level, "cpu.cfs_period_us")?;
        Ok(period.map(|period| (quota, Usec(period))))
    }

    pub(super) fn cpu_usage(&mut self) -> Result<Option<CpuUsage>> {
        for level in self.levels(Controller::Cpuacct)?.iter() {
            let usage = match level.version() {
                Version::V2 => self.usage_v2(level)?,
                Version::V1 => self.usage_v1(level)?,
            };
            if usage.is_some() {
                return Ok(usage);
            }
        }
        Ok(None)
    }

    /// `cpu.stat`, which all cgroups of v2 have, whether the controller is enabled there or not.
    fn usage_v2(&mut self, level: &CgroupDir) -> Result<Option<CpuUsage>> {
        let stat = self.parse(level, "cpu.stat", cpu_stat)?;
        Ok(stat.map(|(total, throttled)| CpuUsage {
            cgroup: cgroup(level),
            total,
            per_cpu: Vec::new(),
            throttled,
        }))
    }

    fn usage_v1(&mut self, level: &CgroupDir) -> Result<Option<CpuUsage>> {
        let Some(each) = self.parse(level, "cpuacct.usage_percpu", cpuacct_usage_percpu)? else {
            return Ok(None);
        };
        let count = each.len();
        let kinds = self.parse(level, "cpuacct.usage_all", |text| {
            // Both are of all possible CPUs.
            let kinds = cpuacct_usage_all(text)?;
            if kinds.len() == count {
                Ok(kinds)
            } else {
                Err(ParseError::new(
                    kinds.len() + 1,
                    "as many CPUs as in cpuacct.usage_percpu",
                    b"",
                ))
            }
        })?;
        let per_cpu = cpuacct_per_cpu(&each, &kinds.unwrap_or_default());
        let total = per_cpu.iter().fold(CpuTime::default(), |sum, (_, time)| CpuTime {
            user: sum.user.saturating_add(time.user),
            nice: sum.nice.saturating_add(time.nice),
            system: sum.system.saturating_add(time.system),
        });
        let throttled = self.throttled_v1()?;
        Ok(Some(CpuUsage { cgroup: cgroup(level), total, per_cpu, throttled }))
    }

    /// The throttled time is the cpu controller's, which may be on another hierarchy than cpuacct.
    fn throttled_v1(&mut self) -> Result<Usec> {
        let levels = self.levels(Controller::Cpu)?;
        let Some(level) = levels.first() else { return Ok(Usec::ZERO) };
        let stat = self.parse(level, "cpu.stat", cpu_stat)?;
        Ok(stat.map_or(Usec::ZERO, |(_, throttled)| throttled))
    }

    /// The effective CPUs, and nodes if they are wanted, of the nearest level that has any CPUs: a cgroup of v1 that
    /// was not configured has none.
    pub(super) fn cpuset(&mut self, with_nodes: bool) -> Result<Option<Cpuset>> {
        for level in self.levels(Controller::Cpuset)?.iter() {
            let cpus = name(level, "cpuset.effective_cpus", "cpuset.cpus.effective");
            let cpus = self.parse(level, cpus, Mask::parse_list)?;
            let Some(cpus) = cpus.filter(|cpus| !cpus.is_empty()) else { continue };
            let mems = name(level, "cpuset.effective_mems", "cpuset.mems.effective");
            let mems = match with_nodes {
                true => self.parse(level, mems, Mask::parse_list)?,
                false => Some(Mask::new()),
            };
            let Some(mems) = mems else { continue };
            return Ok(Some(Cpuset { cgroup: cgroup(level), cpus, mems }));
        }
        Ok(None)
    }
}
