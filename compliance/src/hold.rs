//! Memory of known kinds and sizes.

use std::{fs::File, ptr};

use cgview_testkit::{Process, Spawn, pause};
use rustix::{
    fs::MemfdFlags,
    mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous},
};

/// What a process holds until it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Anonymous memory, in small pages.
    Anonymous,
    /// Anonymous memory, in huge pages as far as there are any.
    Huge,
    /// Shared memory that is locked.
    LockedShared,
    /// Shared memory.
    Shared,
}

/// The size of a huge page on the machines that tests run on.
const HUGE: usize = 2 << 20;

impl Hold {
    /// Starts a process that takes so many bytes. It may take its time: wait for what the cgroup says.
    #[must_use]
    pub fn start(self, spawn: Spawn, bytes: u64) -> Process {
        let length = usize::try_from(bytes).unwrap();
        spawn.run(|| {
            self.take(length);
            pause()
        })
    }

    fn take(self, length: usize) {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which nothing else knows; all that is touched is within it.
        #[expect(unsafe_code, reason = "memory is taken by system calls")]
        unsafe {
            let start = match self {
                Hold::Anonymous | Hold::Huge => {
                    let space = length + HUGE;
                    let start =
                        mmap_anonymous(ptr::null_mut(), space, protection, MapFlags::PRIVATE);
                    let start = start.unwrap();
                    let huge = self == Hold::Huge;
                    let advice = if huge { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
                    madvise(start, space, advice).unwrap();
                    start.byte_add(start.align_offset(HUGE))
                }
                Hold::LockedShared | Hold::Shared => {
                    let file = rustix::fs::memfd_create("hold", MemfdFlags::CLOEXEC).unwrap();
                    let file = File::from(file);
                    file.set_len(length.try_into().unwrap()).unwrap();
                    let start =
                        mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, &file, 0);
                    start.unwrap()
                }
            };
            ptr::write_bytes(start.cast::<u8>(), 1, length);
            if self == Hold::LockedShared {
                mlock(start, length).unwrap();
            }
        }
    }
}
