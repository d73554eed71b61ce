//! What a process that serves may take of the machine.

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    system::sysinfo,
};

/// How many descriptors are enough for thousands of containers: `LimitNOFILE` of the unit.
const DESCRIPTORS: u64 = 524_288;

/// The part of the machine's memory that is enough for whatever there is to tell of it, and its bounds in bytes. A
/// thousand containers take 32 MiB.
const MEMORY: u64 = 4;
const LEAST_MEMORY: u64 = 256 << 20;
const MOST_MEMORY: u64 = 1 << 30;

/// Sets the limits. Those that somebody has set lower hold.
pub(crate) fn set() {
    raise_descriptors();
    bound_memory();
}

/// Half of the descriptors are for callers and for files of cgroups that ask, and are read, again and again. With
/// fewer they are opened more often.
fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let set = |maximum| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // More than it was given takes CAP_SYS_RESOURCE.
    let more = maximum.map(|maximum| maximum.max(DESCRIPTORS));
    let _ = set(more).or_else(|_| set(maximum));
}

/// A request that would take all memory fails itself then, and is known by that for what it is; otherwise the kernel
/// would end this process, and others, without telling why.
fn bound_memory() {
    let info = sysinfo();
    let memory = info.totalram.saturating_mul(info.mem_unit.into()) / MEMORY;
    let memory = memory.clamp(LEAST_MEMORY, MOST_MEMORY);
    let Rlimit { current, maximum } = getrlimit(Resource::Data);
    let current = Some(current.map_or(memory, |current| current.min(memory)));
    let _ = setrlimit(Resource::Data, Rlimit { current, maximum });
}
