//! A file of a fixed size in memory.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// What a page is a multiple of on every system this runs on, or the page itself.
const PAGE: usize = 1 << 16;

/// What no page is smaller than.
const LEAST_PAGE: usize = 1 << 12;

/// A mapping that is shared with the file. Its words are atomics, because several threads write to
/// it; each of them to words that are its own.
#[derive(Debug)]
pub(crate) struct Map {
    words: NonNull<AtomicU64>,
    bytes: usize,
    /// Whether the next sync says that it has failed, as one that could not write what it leaves as written.
    #[cfg(test)]
    pub fails: std::sync::atomic::AtomicBool,
    /// What was synced: all that a power cut leaves.
    #[cfg(all(test, feature = "shuttle"))]
    disk: std::sync::Mutex<Vec<u8>>,
}

// SAFETY: the mapping belongs to no thread, and all access is through atomics or by the system.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `bytes` of a file, for which the disk must have room: a write to memory that finds
    /// none kills the process.
    pub fn new(file: &File, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address of the system's choice, overlaps no other memory. That
        // somebody else changes or cuts the file is ruled out by its permissions and the lock of the
        // directory; who has both may kill this process as well.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )?
        };
        let words = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Map {
            words,
            bytes,
            #[cfg(test)]
            fails: std::sync::atomic::AtomicBool::new(false),
            #[cfg(all(test, feature = "shuttle"))]
            disk: std::sync::Mutex::new(vec![0; bytes]),
        })
    }

    /// Has the system make every page ready to be written, which it would else do on the time of who writes
    /// first. A sync makes them as they were.
    pub fn populate(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use rustix::mm::{Advice, madvise};
            // SAFETY: the range is the mapping, and the advice does not change what is in it.
            let advised = unsafe {
                madvise(
                    self.words.as_ptr().cast(),
                    self.bytes,
                    Advice::LinuxPopulateWrite,
                )
            };
            match advised {
                // A system that is too old for it.
                Err(rustix::io::Errno::INVAL) => Ok(()),
                advised => Ok(advised?),
            }
        }
        #[cfg(not(target_os = "linux"))]
        Ok(())
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes words, at a place in bytes that is a multiple of 8.
    #[inline]
    pub fn write(&self, at: usize, words: &[u64]) {
        assert!(at.is_multiple_of(8) && at + 8 * words.len() <= self.bytes);
        #[cfg(feature = "shuttle")]
        read_states_sync::step();
        for (index, word) in words.iter().enumerate() {
            // SAFETY: the place is in the mapping, and aligned, see above.
            let place = unsafe { self.words.add(at / 8 + index).as_ref() };
            place.store(word.to_le(), Relaxed);
        }
    }

    /// Has the system take the pages up to here for changed, as they are.
    pub fn touch(&self, to: usize) {
        for at in (0..to.min(self.bytes)).step_by(LEAST_PAGE) {
            // SAFETY: the place is in the mapping, and aligned.
            let word = unsafe { self.words.add(at / 8).as_ref() };
            // A write, whatever others write there meanwhile. Of a nought that it knows the compiler would make none.
            word.fetch_or(black_box(0), Relaxed);
        }
    }

    /// Waits until the pages of this range are on the disk.
    pub fn sync(&self, from: usize, to: usize) -> io::Result<()> {
        #[cfg(feature = "shuttle")]
        read_states_sync::step();
        #[cfg(all(test, feature = "shuttle"))]
        self.note_synced(from, to.min(self.bytes));
        let from = from / PAGE * PAGE;
        let to = to.min(self.bytes);
        if from < to {
            // SAFETY: the range is part of the mapping, and starts at a page.
            unsafe {
                msync(
                    self.words.as_ptr().cast::<u8>().add(from).cast(),
                    to - from,
                    MsyncFlags::SYNC,
                )?;
            }
            #[cfg(test)]
            if self.fails.swap(false, Relaxed) {
                return Err(rustix::io::Errno::IO.into());
            }
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "shuttle"))]
impl Map {
    /// What was synced, and zeros.
    pub fn on_disk(&self) -> Vec<u8> {
        self.disk.lock().unwrap().clone()
    }

    /// These bytes and no others, although the system syncs whole pages.
    fn note_synced(&self, from: usize, to: usize) {
        let mut disk = self.disk.lock().unwrap();
        let disk = &mut disk[from..to.max(from)];
        // SAFETY: the range is in the mapping and the copy of it, and all threads of shuttle are one of the system's, so
        // nobody writes meanwhile.
        unsafe {
            let words = self.words.as_ptr().cast::<u8>().add(from);
            words.copy_to_nonoverlapping(disk.as_mut_ptr(), disk.len());
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody refers to it any more. Should it fail, that much
        // address space is lost.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), self.bytes) };
    }
}
