//! Memory from the operating system, in regions of 2 MB on huge pages where it has them.

use std::ptr::NonNull;

/// Bytes of a region, and what its address is a multiple of.
pub(crate) const REGION: usize = 1 << 21;

/// A region, all zero, or `None` if there is no memory.
#[cfg(unix)]
pub(crate) fn map() -> Option<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at an address of the system's choice, overlaps no other memory.
    let start = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            2 * REGION,
            protection,
            MapFlags::PRIVATE,
        )
    };
    let start = start.ok()?.cast::<u8>();
    // What is before and after the aligned region in it goes back.
    let before = start.align_offset(REGION);
    let region = start.wrapping_add(before);
    for (part, bytes) in [
        (start, before),
        (region.wrapping_add(REGION), REGION - before),
    ] {
        if bytes > 0 {
            // SAFETY: the part lies in the mapping made above, and nobody has seen it yet.
            // Should it fail, that much address space is lost, and no memory.
            let _ = unsafe { munmap(part.cast(), bytes) };
        }
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        // SAFETY: the region is ours, and the advice does not change what is in it. A system
        // without huge pages may refuse.
        let _ = unsafe { madvise(region.cast(), REGION, Advice::LinuxHugepage) };
    }
    NonNull::new(region)
}

/// Gives a region back.
///
/// # Safety
///
/// It came from [`map`], and nobody uses it any more.
#[cfg(unix)]
pub(crate) unsafe fn unmap(region: NonNull<u8>) {
    // SAFETY: the caller's promise; the region is what `map` left of its mapping.
    let _ = unsafe { rustix::mm::munmap(region.as_ptr().cast(), REGION) };
}

#[cfg(not(unix))]
const LAYOUT: std::alloc::Layout = match std::alloc::Layout::from_size_align(REGION, REGION) {
    Ok(layout) => layout,
    Err(_) => panic!("both are the same power of two"),
};

/// A region, all zero, or `None` if there is no memory.
#[cfg(not(unix))]
pub(crate) fn map() -> Option<NonNull<u8>> {
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(LAYOUT) })
}

/// Gives a region back.
///
/// # Safety
///
/// It came from [`map`], and nobody uses it any more.
#[cfg(not(unix))]
pub(crate) unsafe fn unmap(region: NonNull<u8>) {
    // SAFETY: the caller's promise.
    unsafe { std::alloc::dealloc(region.as_ptr(), LAYOUT) };
}
