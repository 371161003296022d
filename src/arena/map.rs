//! Anonymous memory mappings; under Miri the heap stands in for mmap.

use std::io;
use std::ptr::NonNull;

/// A private, zeroed, page-aligned mapping, unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is plain memory of the process; who may touch which range is decided by the
// slots cut from it (M3), not by the thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods only hand out the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    #[cfg(not(miri))]
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, bytes })
    }

    #[cfg(miri)]
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let layout = Self::layout(bytes)?;
        // SAFETY: the callers map whole slots or chunks, never zero bytes.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, bytes })
    }

    #[cfg(miri)]
    fn layout(bytes: usize) -> io::Result<std::alloc::Layout> {
        std::alloc::Layout::from_size_align(bytes, 4096)
            .map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

/// Gives the pages of a part of a mapping back to the kernel; it reads as zero from then on. Does
/// nothing where the kernel refuses.
///
/// # Safety
/// `start` is page-aligned, the part lies in a live [`Mapping`], and nobody refers to its bytes.
pub(super) unsafe fn release_pages(start: *mut u8, bytes: usize) {
    #[cfg(not(miri))]
    // SAFETY: by the contract above only the content of memory that nobody uses is lost.
    unsafe {
        libc::madvise(start.cast(), bytes, libc::MADV_DONTNEED);
    }
    #[cfg(miri)]
    // SAFETY: as above.
    unsafe {
        start.write_bytes(0, bytes);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[cfg(not(miri))]
        // SAFETY: this value owns the mapping, and whoever owns this value has seen the last slot
        // come home (M1), or leaks it on purpose (I8).
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
        #[cfg(miri)]
        if let Ok(layout) = Self::layout(self.bytes) {
            // SAFETY: allocated in `new` with the same layout.
            unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) };
        }
    }
}
