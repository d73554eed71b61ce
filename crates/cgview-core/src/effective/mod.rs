//! What holds for a container once the limits of all its ancestors and the size of the host are folded
//! in. Every file takes its numbers from here, so that they all agree.

mod cpu;
mod memory;

pub use cpu::CpuLimits;
pub use memory::MemoryLimits;
pub(crate) use memory::swap_in_use;
