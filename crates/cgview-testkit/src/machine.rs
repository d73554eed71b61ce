//! The machine that the tests run on.

use crate::skip;

/// Whether it is one of `ci/test`'s guests: the tests' own, and emulated, so that its CPUs are slow.
#[must_use]
pub fn is_guest() -> bool {
    std::env::var_os("CGVIEW_TEST_VM").is_some()
}

/// Whether it is the tests' own, all of whose memory, mounts and CPUs they may take; if not, says that the test is
/// skipped.
#[must_use]
pub fn is_own_machine() -> bool {
    if !is_guest() {
        skip("needs a machine of its own");
    }
    is_guest()
}

/// Whether the kernel is of this version or a later one.
#[must_use]
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let mut words = name.release().to_bytes().split(|byte| !byte.is_ascii_digit());
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u32>().ok();
    (number().unwrap(), number().unwrap()) >= (major, minor)
}
