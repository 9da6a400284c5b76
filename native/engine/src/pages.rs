//! Memory from the operating system: regions of 2 MB on huge pages where it has them, and what is
//! large, page by page as it is used.

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

/// So many bytes or a little more, all zero, or `None` if there is no memory.
#[cfg(unix)]
pub(crate) fn map_large(bytes: usize) -> Option<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at an address of the system's choice, overlaps no other memory.
    let start =
        unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) };
    NonNull::new(start.ok()?.cast())
}

/// Gives it back.
///
/// # Safety
///
/// It came from [`map_large`] with so many bytes, and nobody uses it any more.
#[cfg(unix)]
pub(crate) unsafe fn unmap_large(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), bytes) };
}

#[cfg(not(unix))]
fn large(bytes: usize) -> std::alloc::Layout {
    let layout = std::alloc::Layout::from_size_align(bytes, 4_096);
    layout.expect("far smaller than the memory")
}

/// So many bytes, all zero, or `None` if there is no memory.
#[cfg(not(unix))]
pub(crate) fn map_large(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(large(bytes)) })
}

/// Gives it back.
///
/// # Safety
///
/// It came from [`map_large`] with so many bytes, and nobody uses it any more.
#[cfg(not(unix))]
pub(crate) unsafe fn unmap_large(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::alloc::dealloc(start.as_ptr(), large(bytes)) };
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
