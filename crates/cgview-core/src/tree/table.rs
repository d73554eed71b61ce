//! The tables of sysfs: an allow-list of names that any user may read on the host.
//!
//! They are only ever appended to, since a place in a table is a part of an inode number.

use super::{Dir, SysRule};

pub(super) type Table = &'static [(&'static str, SysRule)];

const CPU: Table = &[
    ("online", SysRule::VisibleCpus),
    ("offline", SysRule::Empty),
    ("possible", SysRule::VisibleCpus),
    ("present", SysRule::VisibleCpus),
    ("enabled", SysRule::VisibleCpus),
    ("kernel_max", SysRule::Host),
    ("isolated", SysRule::CpuList),
    ("nohz_full", SysRule::CpuList),
    ("uevent", SysRule::Host),
    ("modalias", SysRule::Host),
    ("dispatching", SysRule::Host),
];
const VULNERABILITIES: Table = &[
    ("gather_data_sampling", SysRule::Host),
    ("ghostwrite", SysRule::Host),
    ("indirect_target_selection", SysRule::Host),
    ("itlb_multihit", SysRule::Host),
    ("l1tf", SysRule::Host),
    ("mds", SysRule::Host),
    ("meltdown", SysRule::Host),
    ("mmio_stale_data", SysRule::Host),
    ("old_microcode", SysRule::Host),
    ("reg_file_data_sampling", SysRule::Host),
    ("retbleed", SysRule::Host),
    ("spec_rstack_overflow", SysRule::Host),
    ("spec_store_bypass", SysRule::Host),
    ("spectre_v1", SysRule::Host),
    ("spectre_v2", SysRule::Host),
    ("srbds", SysRule::Host),
    ("tsa", SysRule::Host),
    ("tsx_async_abort", SysRule::Host),
    ("vmscape", SysRule::Host),
];
const SMT: Table = &[("active", SysRule::Host), ("control", SysRule::Host)];
const CPU_N: Table = &[
    ("online", SysRule::Host),
    ("uevent", SysRule::Host),
    ("cpu_capacity", SysRule::Host),
    // s390x.
    ("address", SysRule::Host),
    ("polarization", SysRule::Host),
    ("dedicated", SysRule::Host),
    ("configure", SysRule::Host),
];
const TOPOLOGY: Table = &[
    ("core_id", SysRule::Host),
    ("physical_package_id", SysRule::Host),
    ("die_id", SysRule::Host),
    ("cluster_id", SysRule::Host),
    ("book_id", SysRule::Host),
    ("drawer_id", SysRule::Host),
    ("core_cpus", SysRule::CpuMask),
    ("core_cpus_list", SysRule::CpuList),
    ("core_siblings", SysRule::CpuMask),
    ("core_siblings_list", SysRule::CpuList),
    ("thread_siblings", SysRule::CpuMask),
    ("thread_siblings_list", SysRule::CpuList),
    ("package_cpus", SysRule::CpuMask),
    ("package_cpus_list", SysRule::CpuList),
    ("die_cpus", SysRule::CpuMask),
    ("die_cpus_list", SysRule::CpuList),
    ("cluster_cpus", SysRule::CpuMask),
    ("cluster_cpus_list", SysRule::CpuList),
    ("book_siblings", SysRule::CpuMask),
    ("book_siblings_list", SysRule::CpuList),
    ("drawer_siblings", SysRule::CpuMask),
    ("drawer_siblings_list", SysRule::CpuList),
];
const CPUFREQ: Table = &[
    ("base_frequency", SysRule::Host),
    ("cpuinfo_max_freq", SysRule::Host),
    ("cpuinfo_min_freq", SysRule::Host),
    ("scaling_cur_freq", SysRule::Host),
    ("scaling_driver", SysRule::Host),
    ("scaling_governor", SysRule::Host),
    ("scaling_max_freq", SysRule::Host),
    ("scaling_min_freq", SysRule::Host),
];
const CACHE_INDEX: Table = &[
    ("allocation_policy", SysRule::Host),
    ("coherency_line_size", SysRule::Host),
    ("id", SysRule::Host),
    ("level", SysRule::Host),
    ("number_of_sets", SysRule::Host),
    ("physical_line_partition", SysRule::Host),
    ("shared_cpu_list", SysRule::CpuList),
    ("shared_cpu_map", SysRule::CpuMask),
    ("size", SysRule::Host),
    ("type", SysRule::Host),
    ("ways_of_associativity", SysRule::Host),
    ("write_policy", SysRule::Host),
];
const NODE: Table = &[
    ("online", SysRule::NodeList),
    ("possible", SysRule::NodeList),
    ("has_cpu", SysRule::NodeList),
    ("has_memory", SysRule::NodeList),
    ("has_normal_memory", SysRule::NodeList),
    ("has_high_memory", SysRule::NodeList),
    ("has_generic_initiator", SysRule::NodeList),
    ("uevent", SysRule::Host),
];
const NODE_N: Table = &[
    ("cpulist", SysRule::CpuList),
    ("cpumap", SysRule::CpuMask),
    ("distance", SysRule::Distance),
    ("meminfo", SysRule::NodeMeminfo),
    ("numastat", SysRule::Numastat),
    ("uevent", SysRule::Host),
];

impl Dir {
    /// The files of sysfs in this directory, each with what it shows.
    pub(super) const fn table(self) -> Table {
        match self {
            Dir::Cpu => CPU,
            Dir::Vulnerabilities => VULNERABILITIES,
            Dir::Smt => SMT,
            Dir::CpuN(_) => CPU_N,
            Dir::Topology(_) => TOPOLOGY,
            Dir::Cpufreq(_) => CPUFREQ,
            Dir::CacheIndex(..) => CACHE_INDEX,
            Dir::Node => NODE,
            Dir::NodeN(_) => NODE_N,
            Dir::Root
            | Dir::Proc
            | Dir::Pressure
            | Dir::Sys
            | Dir::Devices
            | Dir::System
            | Dir::Cache(_) => &[],
        }
    }
}
