//! Renders `/sys/devices/system/{cpu,node}` in an arbitrary situation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| cgview_fuzz::laws::sysfs(input));
