//! Memory of a known size and kind.

use std::{ffi::c_void, fs::File, ptr};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};

/// Mapped memory, each page of which has been written to or read. Dropping it unmaps it.
#[derive(Debug)]
pub struct Mapping {
    start: *mut c_void,
    length: usize,
}

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;

impl Mapping {
    /// Anonymous memory.
    #[must_use]
    pub fn anonymous(length: u64) -> Mapping {
        let mapping = Mapping::new(length, MapFlags::PRIVATE);
        mapping.write(PAGE);
        mapping
    }

    /// Anonymous memory that is asked to be of transparent huge pages (madvise(2), `MADV_HUGEPAGE`).
    #[must_use]
    pub fn transparent_huge(length: u64) -> Mapping {
        let length = usize::try_from(length).unwrap();
        let whole = Mapping::new((length + HUGE) as u64, MapFlags::PRIVATE);
        let aligned = whole.start.addr().next_multiple_of(HUGE) - whole.start.addr();
        // SAFETY: it is within what was mapped.
        #[expect(unsafe_code, reason = "mappings are raw memory")]
        unsafe {
            let start = whole.start.byte_add(aligned);
            madvise(start, length, Advice::LinuxHugepage).unwrap();
            for offset in (0..length).step_by(PAGE) {
                start.byte_add(offset).cast::<u8>().write_volatile(1);
            }
        }
        whole
    }

    /// Memory of huge pages of 2 MiB (mmap(2), `MAP_HUGETLB`).
    #[must_use]
    pub fn hugetlb(length: u64) -> Mapping {
        let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        let mapping = Mapping::new(length, flags);
        mapping.write(HUGE);
        mapping
    }

    /// Anonymous memory of which one page in 2 MiB is there, so that each has a page table of its own.
    #[must_use]
    pub fn sparse(pages: u64) -> Mapping {
        let mapping = Mapping::new(pages * HUGE as u64, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: it is what was mapped.
        #[expect(unsafe_code, reason = "mappings are raw memory")]
        unsafe {
            madvise(mapping.start, mapping.length, Advice::LinuxNoHugepage).unwrap();
        }
        mapping.write(HUGE);
        mapping
    }

    /// A file's first bytes, shared and read.
    #[must_use]
    pub fn of(file: &File, length: u64) -> Mapping {
        let length = usize::try_from(length).unwrap();
        // SAFETY: a new mapping, at a place that the kernel chooses.
        #[expect(unsafe_code, reason = "mappings are raw memory")]
        let start = unsafe {
            mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0).unwrap()
        };
        let mapping = Mapping { start, length };
        for offset in (0..length).step_by(PAGE) {
            // SAFETY: the file is as long.
            #[expect(unsafe_code, reason = "mappings are raw memory")]
            unsafe {
                start.byte_add(offset).cast::<u8>().read_volatile();
            }
        }
        mapping
    }

    /// Locks it (mlock(2)).
    pub fn lock(&self) {
        // SAFETY: it is what was mapped.
        #[expect(unsafe_code, reason = "mappings are raw memory")]
        unsafe {
            mlock(self.start, self.length).unwrap();
        }
    }

    fn new(length: u64, flags: MapFlags) -> Mapping {
        let length = usize::try_from(length).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        #[expect(unsafe_code, reason = "mappings are raw memory")]
        let start = unsafe { mmap_anonymous(ptr::null_mut(), length, protection, flags).unwrap() };
        Mapping { start, length }
    }

    /// Writes to one page in each `stride`. All differ, and none is easily compressed away.
    fn write(&self, stride: usize) {
        for offset in (0..self.length).step_by(stride) {
            // SAFETY: it is within what was mapped.
            #[expect(unsafe_code, reason = "mappings are raw memory")]
            unsafe {
                self.start.byte_add(offset).cast::<usize>().write_volatile(offset + 1);
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        #[expect(unsafe_code, reason = "mappings are raw memory")]
        let unmapped = unsafe { munmap(self.start, self.length) };
        unmapped.unwrap();
    }
}
