//! What the benchmarks measure on, measure with, and write down.

pub mod arguments;
mod machine;
pub mod placement;
pub mod readers;
pub mod record;
pub mod servers;
pub mod trace;

pub use machine::{FILES, MEMORY_STAT, Machine};
