//! Where blocks lie: slabs of objects of one size, cut from regions on huge pages.
//!
//! ```text
//! region   | index | 32 slabs of 64 KB                         |    2 MB, at a multiple of 2 MB
//! slab     | object | object | …                        | rest |    all of one size class
//! object   | next free one: 2 bytes | …                        |    while it is free
//! ```
//!
//! What an evicted user had is free for the next user at once, whatever thread he comes with: there
//! is one pool for the process. The general allocators keep a thread's memory for that
//! thread, and small pages cost a block one more miss, in the table of pages.
//!
//! A slab that empties serves other sizes, and so does a region. New objects go to the slab and
//! to the region with the lowest index, so that those at the end empty.
//!
//! The system gives memory when it is touched, and all of a huge page at once: it clears 2 MB then, and on a virtual
//! machine its host may have to find them first, which took 4.5 ms on one. So once fewer slabs are unused than a region has, one
//! more is touched on a thread of its own. Who wants an object waits for the system only where all of them are gone before.

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use allocator_api2::alloc::{AllocError, Allocator, Global};
use parking_lot::Mutex;
use read_states_sync::fail_point;

use crate::pages::{REGION, map, map_large, unmap, unmap_large};

const SLAB: usize = 1 << 16;
const SLABS: usize = REGION / SLAB;
/// Every object is at a multiple of this, as a line of the cache is.
pub(crate) const LINE: usize = 64;
/// Objects up to this size come from slabs.
pub(crate) const LARGEST: usize = 16 << 10;
const CLASSES: usize = class_of(LARGEST) + 1;
/// What the system gives memory in.
const PAGE: usize = 4 << 10;
/// Empty regions that are kept.
const SPARE: usize = 4;
const NONE: u16 = u16::MAX;

/// An allocator of the process's slabs, and of what is larger than they serve.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slabs;

// One of parking_lot in tests of schedules too: it outlives each of them, and nobody stops while holding it.
static POOL: Mutex<Pool> = Mutex::new(Pool::new());
static HELD: AtomicUsize = AtomicUsize::new(0);

impl Slabs {
    /// Bytes that an object of `bytes` takes.
    pub fn size(bytes: usize) -> usize {
        if bytes == 0 {
            0
        } else if bytes <= LARGEST {
            size_of_class(class_of(bytes))
        } else if bytes < SLAB {
            bytes
        } else {
            bytes.next_multiple_of(PAGE)
        }
    }

    /// Bytes held for objects to come, of the whole process.
    pub fn held() -> usize {
        HELD.load(Relaxed)
    }
}

/// Eight classes from one power of two to the next, from 512 bytes on; below, every line.
const fn class_of(bytes: usize) -> usize {
    if bytes <= 16 * LINE {
        let lines = bytes.div_ceil(LINE);
        return if lines == 0 { 0 } else { lines - 1 };
    }
    // The highest bit, and the three below it, of the last byte's offset.
    let last = bytes - 1;
    let log = last.ilog2() as usize;
    let eighth = (last >> (log - 3)) & 7;
    16 + (log - 10) * 8 + eighth
}

const fn size_of_class(class: usize) -> usize {
    if class < 16 {
        return (class + 1) * LINE;
    }
    let (log, eighth) = (10 + (class - 16) / 8, (class - 16) % 8);
    (9 + eighth) << (log - 3)
}

#[derive(Debug)]
struct Pool {
    regions: Vec<Option<Region>>,
    /// Regions with an unused slab.
    roomy: BTreeSet<u32>,
    /// Unused slabs, of all regions.
    unused: usize,
    /// Regions all of whose slabs are unused.
    empty: usize,
    /// Whether a thread is about to add one more.
    region_coming: bool,
    /// By class, slabs in which an object is free: `SLABS` a region, in the order of the regions.
    partial: [BTreeSet<u32>; CLASSES],
}

#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    /// A bit for each unused slab.
    unused: u32,
    slabs: [Slab; SLABS],
}

// SAFETY: the region's memory belongs to no thread; what is in it is only touched under the
// pool's lock, apart from the objects, which belong to who has allocated them.
unsafe impl Send for Region {}

#[derive(Clone, Copy, Debug, Default)]
struct Slab {
    class: u8,
    /// Objects given out.
    used: u16,
    /// Objects given out once at least; those after them were never touched.
    touched: u16,
    /// The first of the list of free ones among these.
    free: u16,
}

impl Slab {
    fn size(self) -> usize {
        size_of_class(usize::from(self.class))
    }
}

/// The first slab begins after the index of its region.
fn begin(slab: usize) -> usize {
    if slab == 0 { LINE } else { slab * SLAB }
}

fn capacity(slab: usize, size: usize) -> u16 {
    (((slab + 1) * SLAB - begin(slab)) / size) as u16
}

impl Pool {
    const fn new() -> Self {
        Pool {
            regions: Vec::new(),
            roomy: BTreeSet::new(),
            unused: 0,
            empty: 0,
            region_coming: false,
            partial: [const { BTreeSet::new() }; CLASSES],
        }
    }

    fn take(&mut self, class: usize) -> Option<NonNull<u8>> {
        let at = match self.partial[class].first() {
            Some(at) => *at,
            None => self.new_slab(class)?,
        };
        let (region, index) = (at as usize / SLABS, at as usize % SLABS);
        let region = self.regions[region].as_mut().expect("it has a slab in use");
        let slab = &mut region.slabs[index];
        let size = slab.size();
        let object = |number: u16| {
            let offset = begin(index) + usize::from(number) * size;
            // SAFETY: `number` is below the slab's capacity, so the object lies in the region.
            unsafe { region.start.add(offset) }
        };
        let taken = if slab.free == NONE {
            slab.touched += 1;
            object(slab.touched - 1)
        } else {
            let taken = object(slab.free);
            // SAFETY: a free object holds the number of the next one, written when it was given
            // back, and nobody else uses it. It is aligned to a line.
            slab.free = unsafe { taken.cast::<u16>().read() };
            taken
        };
        slab.used += 1;
        if slab.used == capacity(index, size) {
            self.partial[class].remove(&at);
        }
        HELD.fetch_sub(size, Relaxed);
        Some(taken)
    }

    fn new_slab(&mut self, class: usize) -> Option<u32> {
        let at = match self.roomy.first() {
            Some(at) => *at,
            None => self.add(map()?),
        };
        let region = self.regions[at as usize].as_mut().expect("it has room");
        self.unused -= 1;
        self.empty -= usize::from(region.unused == u32::MAX);
        let index = region.unused.trailing_zeros();
        region.unused &= !(1 << index);
        if region.unused == 0 {
            self.roomy.remove(&at);
        }
        region.slabs[index as usize] = Slab {
            class: class as u8,
            free: NONE,
            ..Slab::default()
        };
        let at = at * SLABS as u32 + index;
        self.partial[class].insert(at);
        Some(at)
    }

    /// Adds a region that was mapped, and returns its index.
    fn add(&mut self, start: NonNull<u8>) -> u32 {
        let region = Region {
            start,
            unused: u32::MAX,
            slabs: [Slab::default(); SLABS],
        };
        let free = self.regions.iter().position(Option::is_none);
        let at = free.unwrap_or(self.regions.len());
        // SAFETY: the region is new, so nobody else uses it, and begins with room for this.
        unsafe { region.start.cast::<u32>().write(at as u32) };
        if at == self.regions.len() {
            self.regions.push(Some(region));
        } else {
            self.regions[at] = Some(region);
        }
        self.roomy.insert(at as u32);
        self.unused += SLABS;
        self.empty += 1;
        HELD.fetch_add(REGION, Relaxed);
        at as u32
    }

    /// Whether one more region should be ready. Were the whole regions counted instead, each that is added would be begun
    /// before others that have unused slabs, and the next one wanted at once.
    fn wants_region(&self) -> bool {
        self.unused < SLABS
    }

    /// # Safety
    ///
    /// The object came from [`Pool::take`], and nobody uses it any more.
    unsafe fn give(&mut self, object: NonNull<u8>) {
        let offset = object.addr().get() % REGION;
        // SAFETY: regions are aligned to their size and objects lie in them, so this is the start
        // of the object's region. It begins with its index, which nobody writes after `add`.
        let at = unsafe { object.sub(offset).cast::<u32>().read() };
        let region = self.regions[at as usize].as_mut();
        let region = region.expect("a region with an object in use is not given back");
        let index = offset / SLAB;
        let slab = &mut region.slabs[index];
        let (class, size) = (usize::from(slab.class), slab.size());
        // SAFETY: the caller uses the object no more, and it is aligned to a line.
        unsafe { object.cast::<u16>().write(slab.free) };
        slab.free = ((offset - begin(index)) / size) as u16;
        let was_full = slab.used == capacity(index, size);
        slab.used -= 1;
        let slab_at = at * SLABS as u32 + index as u32;
        HELD.fetch_add(size, Relaxed);
        if slab.used > 0 {
            if was_full {
                self.partial[class].insert(slab_at);
            }
            return;
        }
        self.partial[class].remove(&slab_at);
        if region.unused == 0 {
            self.roomy.insert(at);
        }
        region.unused |= 1 << index;
        self.unused += 1;
        if region.unused == u32::MAX {
            self.empty += 1;
            if self.empty > SPARE {
                self.drop_region(at);
            }
        }
    }

    fn drop_region(&mut self, at: u32) {
        let region = self.regions[at as usize].take().expect("it is there");
        self.roomy.remove(&at);
        self.unused -= SLABS;
        self.empty -= 1;
        HELD.fetch_sub(REGION, Relaxed);
        // SAFETY: it came from `map`, none of its slabs is in use, and the pool forgot it.
        unsafe { unmap(region.start) };
    }
}

/// An object of a pool, which has one more region ready before it is needed.
fn take(pool: &'static Mutex<Pool>, class: usize) -> Option<NonNull<u8>> {
    let (object, adds_region) = {
        let mut pool = pool.lock();
        let unused = pool.unused;
        let object = pool.take(class);
        // Asked once a slab, however long no thread can be had.
        let began_slab = pool.unused != unused;
        let adds_region = began_slab && pool.wants_region() && !pool.region_coming;
        pool.region_coming |= adds_region;
        (object, adds_region)
    };
    if adds_region {
        let name = "region".to_owned();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(|| add_touched(pool));
        if thread.is_err() {
            pool.lock().region_coming = false;
        }
    }
    object
}

/// Adds a region all of whose memory the system has given, unless enough has come to be unused meanwhile.
fn add_touched(pool: &Mutex<Pool>) {
    let region = map();
    if let Some(start) = region {
        for page in (0..REGION).step_by(PAGE) {
            // SAFETY: it lies in the region, which is new, so nobody else uses it. Volatile, for it is zero already.
            unsafe { start.add(page).write_volatile(0) };
        }
    }
    let mut pool = pool.lock();
    pool.region_coming = false;
    let Some(start) = region else { return };
    if pool.wants_region() {
        pool.add(start);
    } else {
        drop(pool);
        // SAFETY: it came from `map`, and nobody else knows of it.
        unsafe { unmap(start) };
    }
}

/// Whether memory comes from the slabs, from the global allocator, or straight from the system.
enum Source {
    Slabs,
    Global,
    System,
}

fn source(layout: Layout) -> Source {
    let bytes = layout.size();
    if cfg!(read_states_sanitize) {
        // A sanitizer knows what is in use of that, and nothing of slabs.
        Source::Global
    } else if layout.align() > LINE || bytes == 0 || LARGEST < bytes && bytes < SLAB {
        Source::Global
    } else if bytes < SLAB {
        Source::Slabs
    } else {
        // The global allocator would keep what is given back, in pieces that nothing fits.
        Source::System
    }
}

// SAFETY: an object is handed out once until it is given back, stays where it is, and is at least as
// large and as aligned as asked for: sizes are rounded up to multiples of a line, and
// so are the places of objects; what the system maps is aligned to a page. All `Slabs` are the same
// pool, so each can give back what another has handed out; which way an object came says its layout.
unsafe impl Allocator for Slabs {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        fail_point!();
        let (object, bytes) = match source(layout) {
            Source::Global => return Global.allocate(layout),
            Source::Slabs => {
                let class = class_of(layout.size());
                (take(&POOL, class), size_of_class(class))
            }
            Source::System => (map_large(layout.size()), layout.size()),
        };
        Ok(NonNull::slice_from_raw_parts(
            object.ok_or(AllocError)?,
            bytes,
        ))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let object = self.allocate(layout)?;
        // What the system maps is zero already, and not touched before it is used.
        if !matches!(source(layout), Source::System) {
            // SAFETY: the object is new, and that large.
            unsafe { object.cast::<u8>().write_bytes(0, object.len()) };
        }
        Ok(object)
    }

    unsafe fn deallocate(&self, object: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise, and with this layout it came from there.
        unsafe {
            match source(layout) {
                Source::Global => Global.deallocate(object, layout),
                Source::Slabs => POOL.lock().give(object),
                Source::System => unmap_large(object, layout.size()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_class_is_as_large_as_what_is_in_it_and_an_eighth_more_at_most() {
        for bytes in 1..=LARGEST {
            let size = Slabs::size(bytes);
            assert!(
                size >= bytes && size - bytes < LINE.max(bytes / 8),
                "{bytes}: {size}"
            );
            assert_eq!((size % LINE, class_of(size)), (0, class_of(bytes)));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn when_a_region_is_begun_the_system_is_asked_for_the_memory_of_the_next() {
        use std::fs::File;
        use std::os::unix::fs::FileExt;
        use std::time::{Duration, Instant};

        /// Of a page in use, in the system's map of them.
        const PRESENT: u64 = 1 << 63;
        static POOL: Mutex<Pool> = Mutex::new(Pool::new());
        let began = Instant::now();
        let pages = File::open("/proc/self/pagemap").unwrap();
        let class = class_of(LARGEST);
        for region in 0..3 {
            let is_begun = |pool: &Pool| {
                let region = pool.regions.get(region).and_then(Option::as_ref);
                region.is_some_and(|region| region.unused != u32::MAX)
            };
            while !is_begun(&POOL.lock()) {
                take(&POOL, class).unwrap();
            }
            while POOL.lock().regions.len() == region + 1 {
                assert!(began.elapsed() < Duration::from_secs(60), "nobody makes it");
                thread::yield_now();
            }
            let start = POOL.lock().regions[region + 1].as_ref().unwrap().start;
            for page in 0..REGION / PAGE {
                let mut entry = [0; 8];
                let at = (start.addr().get() / PAGE + page) * entry.len();
                pages.read_exact_at(&mut entry, at as u64).unwrap();
                assert_ne!(u64::from_ne_bytes(entry) & PRESENT, 0, "page {page}");
            }
        }
    }

    #[test]
    fn a_region_is_added_only_where_fewer_slabs_are_unused_than_it_has() {
        static POOL: Mutex<Pool> = Mutex::new(Pool::new());
        for _ in 0..2 {
            POOL.lock().region_coming = true;
            add_touched(&POOL);
            let pool = POOL.lock();
            assert_eq!((pool.regions.len(), pool.unused), (1, SLABS));
            assert!(!pool.region_coming);
        }
        POOL.lock().take(0).unwrap();
        add_touched(&POOL);
        assert_eq!(POOL.lock().unused, 2 * SLABS - 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn objects_do_not_overlap_and_everything_is_given_back(
            steps in prop::collection::vec((any::<bool>(), 1..20_000usize, any::<usize>()), 0..3000),
        ) {
            // The pool of this test alone.
            let mut pool = Pool::new();
            let mut objects: Vec<(NonNull<u8>, usize, u8)> = Vec::new();
            let check = |(object, size, mark): (NonNull<u8>, usize, u8)| {
                // SAFETY: the object is taken and has that size.
                let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), size) };
                assert!(bytes.iter().all(|byte| *byte == mark));
            };
            for (number, (take, bytes, which)) in steps.into_iter().enumerate() {
                if take || objects.is_empty() {
                    let class = class_of(bytes.min(LARGEST));
                    let (size, mark) = (size_of_class(class), number as u8);
                    let object = pool.take(class).unwrap();
                    assert_eq!(object.addr().get() % LINE, 0);
                    // SAFETY: the object is taken and has that size.
                    unsafe { object.write_bytes(mark, size) };
                    objects.push((object, size, mark));
                } else {
                    let object = objects.swap_remove(which % objects.len());
                    check(object);
                    // SAFETY: it was taken, and is forgotten.
                    unsafe { pool.give(object.0) };
                }
            }
            for object in objects {
                check(object);
                // SAFETY: it was taken, and is forgotten.
                unsafe { pool.give(object.0) };
            }
            prop_assert!(pool.partial.iter().all(BTreeSet::is_empty));
            prop_assert_eq!(pool.regions.iter().flatten().count(), pool.empty);
            prop_assert!(pool.empty <= SPARE);
            prop_assert_eq!(pool.unused, pool.empty * SLABS);
            for at in 0..pool.regions.len() {
                if pool.regions[at].is_some() {
                    pool.drop_region(at as u32);
                }
            }
        }
    }
}
