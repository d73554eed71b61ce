//! Renders `/proc/stat` in an arbitrary situation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| cgview_fuzz::laws::stat(input));
