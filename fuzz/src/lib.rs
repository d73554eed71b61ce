//! What the fuzz targets share: situations made of arbitrary bytes, and the laws of `docs/semantics.md`
//! that every rendered text must keep.
//!
//! The input of a renderer's target is the host's text, a NUL byte, and bytes that become the rest of the
//! situation. So a plain file of a kernel is a good seed, and mutations of either part stay with it.

pub mod container;
pub mod laws;
pub mod situation;

use arbitrary::Unstructured;
pub use situation::Situation;

/// Splits an input into a text, which kernels write without NUL bytes, and what stands behind it.
pub fn split(input: &[u8]) -> (&[u8], Unstructured<'_>) {
    let end = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    (&input[..end], Unstructured::new(input.get(end + 1..).unwrap_or_default()))
}
