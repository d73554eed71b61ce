//! The CPUs of a container.

use crate::{
    explain::{Source, Why},
    host::HostFacts,
    mask::Mask,
    policy::{CpuPolicy, Policy},
    snapshot::{Controller, Snapshot, Version},
    units::Cpus,
};

/// The CPUs of a container: which, how many, and how much of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CpuLimits {
    /// The physical CPUs that the container may run on: its effective cpuset, of those that are online.
    pub set: Mask,
    /// The physical CPUs that are shown, the first of [`CpuLimits::set`]: visible CPU `n` stands for
    /// `visible.nth(n)`.
    pub visible: Mask,
    /// How much CPU time the container may have: the smallest quota up to the root, at most the set's
    /// size.
    pub entitlement: Cpus,
    /// The level of [`Snapshot::cpu`] whose quota decided; `None` if the set did.
    pub quota_level: Option<usize>,
    /// The NUMA nodes of the container: `cpuset.mems`, of those that the host has.
    pub nodes: Mask,
}

impl CpuLimits {
    /// Folds the quotas of all levels with the cpuset.
    ///
    /// The set is the *effective* one (`cpuset.cpus.effective`), which knows the ancestors' sets; where
    /// none of it is online, or there is no cpuset controller, it is all that is online. Of the set as
    /// many CPUs are visible as hold the entitlement, so 1.5 CPUs are two; weights do not count, since
    /// they take nothing away on an idle host.
    ///
    /// At least one CPU is visible, whatever the input.
    #[must_use]
    pub fn of(snapshot: &Snapshot, host: &HostFacts, policy: &Policy) -> CpuLimits {
        let set = set_of(snapshot, host);
        let size = Cpus::whole(u64::from(set.len()));
        let quota = match policy.cpu_view {
            CpuPolicy::Quota => tightest_quota(snapshot).filter(|&(_, quota)| quota < size),
            CpuPolicy::Cpuset => None,
        };
        let entitlement = quota.map_or(size, |(_, quota)| quota);
        CpuLimits {
            visible: set.lowest(entitlement.ceil()),
            nodes: nodes_of(snapshot, host, &set),
            set,
            entitlement,
            quota_level: quota.map(|(level, _)| level),
        }
    }

    /// Why the container has as many CPUs as it has, in the words of `rule`: the quota that decided, or
    /// else the set of CPUs.
    #[must_use]
    pub fn why(&self, snapshot: &Snapshot, rule: &'static str) -> Why {
        if let Some(level) = self.quota_level {
            let version = snapshot.cpu.get(level).map(|level| level.cgroup.version);
            let file = match version {
                Some(Version::V1) => "cpu.cfs_quota_us",
                _ => "cpu.max",
            };
            return Why::cgroup(Controller::Cpu, level, file, rule);
        }
        match snapshot.cpuset.as_ref().map(|cpuset| cpuset.cgroup.version) {
            Some(Version::V1) => Why::cgroup(Controller::Cpuset, 0, "cpuset.effective_cpus", rule),
            Some(Version::V2) => Why::cgroup(Controller::Cpuset, 0, "cpuset.cpus.effective", rule),
            None => Why::of(Source::Host { file: "/sys/devices/system/cpu/online" }, rule),
        }
    }

    /// Whether nothing sets the container apart from the host, as far as CPU time goes: it is the root
    /// of the hierarchy that accounts for it (or nothing does), no quota bounds it, and it may run
    /// wherever the host runs. Its `/proc/stat` and `/proc/uptime` are the host's.
    #[must_use]
    pub fn is_whole_host(&self, snapshot: &Snapshot, host: &HostFacts) -> bool {
        let is_root = snapshot.cpu_usage.as_ref().is_none_or(|usage| usage.cgroup.is_root());
        is_root && snapshot.cpu.is_empty() && self.set.len() >= host.online.len()
    }
}

fn set_of(snapshot: &Snapshot, host: &HostFacts) -> Mask {
    let allowed = snapshot.cpuset.as_ref().map(|cpuset| cpuset.cpus.intersection(&host.online));
    if let Some(set) = allowed.filter(|set| !set.is_empty()) {
        return set;
    }
    if host.online.is_empty() { Mask::first(1) } else { host.online.clone() }
}

/// The smallest quota, with its level: the outermost of equal ones, since it holds for the others too.
fn tightest_quota(snapshot: &Snapshot) -> Option<(usize, Cpus)> {
    let quotas =
        snapshot.cpu.iter().enumerate().filter_map(|(level, cpu)| {
            Some((level, Cpus::from_quota(cpu.quota.at()?, cpu.period)?))
        });
    quotas.reduce(|best, next| if next.1 <= best.1 { next } else { best })
}

fn nodes_of(snapshot: &Snapshot, host: &HostFacts, set: &Mask) -> Mask {
    let all: Mask = host.nodes.iter().map(|node| node.number).collect();
    let allowed = snapshot.cpuset.as_ref().map(|cpuset| cpuset.mems.intersection(&all));
    if let Some(nodes) = allowed.filter(|nodes| !nodes.is_empty()) {
        return nodes;
    }
    let of_set = |node: &&crate::host::HostNode| !node.cpus.intersection(set).is_empty();
    let nodes: Mask = host.nodes.iter().filter(of_set).map(|node| node.number).collect();
    if nodes.is_empty() || snapshot.cpuset.is_none() { all } else { nodes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::HostNode,
        snapshot::{Cgroup, CpuLevel, CpuTime, CpuUsage, Cpuset},
        units::{Bytes, Limit, Usec},
    };
    use alloc::{sync::Arc, vec, vec::Vec};

    fn cgroup(path: &str) -> Arc<Cgroup> {
        Arc::new(Cgroup { path: path.into(), version: Version::V2 })
    }

    fn mask(list: &str) -> Mask {
        Mask::parse_list(list.as_bytes()).unwrap()
    }

    fn host(online: &str) -> HostFacts {
        let node = |number, cpus| HostNode { number, cpus: mask(cpus), total: Bytes(1) };
        let nodes = vec![node(0, "0-3"), node(1, "4-7")];
        HostFacts { online: mask(online), nodes, ..HostFacts::default() }
    }

    fn snapshot(quotas: &[Limit<Usec>], set: Option<(&str, &str)>) -> Snapshot {
        let level = |&quota| CpuLevel { cgroup: cgroup("/a"), quota, period: Usec(100_000) };
        let cpuset =
            |(cpus, mems)| Cpuset { cgroup: cgroup("/a"), cpus: mask(cpus), mems: mask(mems) };
        Snapshot {
            cpu: quotas.iter().map(level).collect(),
            cpuset: set.map(cpuset),
            ..Snapshot::default()
        }
    }

    fn limits(quotas: &[Limit<Usec>], set: Option<(&str, &str)>) -> CpuLimits {
        CpuLimits::of(&snapshot(quotas, set), &host("0-7"), &Policy::default())
    }

    #[test]
    fn the_smallest_quota_up_to_the_root_decides() {
        let (half, four) = (Limit::At(Usec(50_000)), Limit::At(Usec(400_000)));
        let found = limits(&[four, Limit::Max, half], Some(("2-5", "0-1")));
        assert_eq!((found.entitlement, found.quota_level), (Cpus(500_000), Some(2)));
        assert_eq!((found.set, found.visible, found.nodes), (mask("2-5"), mask("2"), mask("0-1")));
    }

    #[test]
    fn a_part_of_a_cpu_is_shown_as_a_whole_one() {
        let found = limits(&[Limit::At(Usec(110_000))], Some(("2-5", "1")));
        assert_eq!((found.entitlement, found.visible), (Cpus(1_100_000), mask("2-3")));
    }

    #[test]
    fn a_quota_beyond_the_set_does_not_count() {
        let found = limits(&[Limit::At(Usec(400_000))], Some(("2-5", "0")));
        assert_eq!((found.entitlement, found.quota_level), (Cpus::whole(4), None));
        assert_eq!(found.visible, mask("2-5"));
    }

    #[test]
    fn by_the_cpuset_alone_no_quota_counts() {
        let policy = Policy { cpu_view: CpuPolicy::Cpuset, ..Policy::default() };
        let snapshot = snapshot(&[Limit::At(Usec(50_000))], Some(("2-5", "0")));
        let found = CpuLimits::of(&snapshot, &host("0-7"), &policy);
        assert_eq!((found.entitlement, found.quota_level), (Cpus::whole(4), None));
    }

    #[test]
    fn offline_cpus_are_not_shown() {
        let snapshot = snapshot(&[], Some(("0-3", "")));
        let found = CpuLimits::of(&snapshot, &host("0,3-5"), &Policy::default());
        assert_eq!((found.visible, found.nodes), (mask("0,3"), mask("0")));
    }

    #[test]
    fn at_least_one_cpu_is_visible() {
        assert_eq!(limits(&[Limit::At(Usec(0))], None).visible, mask("0"));
        assert_eq!(limits(&[Limit::At(Usec(1))], Some(("6", "1"))).visible, mask("6"));
        assert_eq!(limits(&[], Some(("", ""))).visible, mask("0-7"));
        let found = CpuLimits::of(&snapshot(&[], None), &HostFacts::default(), &Policy::default());
        assert_eq!((found.visible, found.entitlement), (mask("0"), Cpus::ONE));
    }

    #[test]
    fn the_reason_names_the_file_that_decided() {
        let of = |quotas: &[Limit<Usec>], set| {
            let snapshot = snapshot(quotas, set);
            let limits = CpuLimits::of(&snapshot, &host("0-7"), &Policy::default());
            alloc::format!("{}", limits.why(&snapshot, "so many CPUs").describe(&snapshot))
        };
        assert_eq!(of(&[Limit::At(Usec(1))], None), "cpu.max of /a: so many CPUs");
        assert_eq!(of(&[], Some(("1", "0"))), "cpuset.cpus.effective of /a: so many CPUs");
        assert_eq!(of(&[], None), "host /sys/devices/system/cpu/online: so many CPUs");
    }

    #[test]
    fn the_root_of_the_hierarchy_is_the_host() {
        let is_host = |snapshot: &Snapshot| {
            let host = host("0-7");
            CpuLimits::of(snapshot, &host, &Policy::default()).is_whole_host(snapshot, &host)
        };
        let usage = |path| {
            let (total, throttled) = (CpuTime::default(), Usec::ZERO);
            Some(CpuUsage { cgroup: cgroup(path), total, per_cpu: Vec::new(), throttled })
        };
        assert!(is_host(&snapshot(&[], None)));
        assert!(is_host(&Snapshot { cpu_usage: usage("/"), ..snapshot(&[], Some(("0-7", "0"))) }));
        assert!(!is_host(&Snapshot { cpu_usage: usage("/a"), ..snapshot(&[], None) }));
        assert!(!is_host(&Snapshot { cpu_usage: usage("/"), ..snapshot(&[], Some(("0-6", "0"))) }));
        assert!(!is_host(&snapshot(&[Limit::Max], None)));
    }
}
