//! The directory: every channel that a resident read state is of has a number of 32 bits.
//!
//! ```text
//! number    | partition: 8 bits | index within the partition: 24 bits |
//! slot      | channel id: 8 bytes | kind: 1 | references: 4 |           found by number
//! cell      | 8 bits of the hash | a slot's index: 24 bits |             found by the channel's hash
//! ```
//!
//! A read state counts as one reference to its channel's number, so thousands of users of a
//! channel store 4 bytes each instead of 9. A number without references is free again.
//!
//! Reading takes no lock. A reader pins the epoch (crossbeam-epoch) first, and what follows from
//! that is the whole safety argument:
//!
//! - A table that was replaced is freed only after every reader who could hold it has unpinned.
//! - A number whose references reached zero is taken out of the table, and is given to another
//!   channel only after every reader who could have seen it has unpinned. So a number that a
//!   pinned reader found, or copied from a set of read states, means the same channel until it unpins.
//! - References that reached zero are never raised again; the channel gets another number.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use allocator_api2::boxed::Box;
use crossbeam_epoch::{Atomic, Guard, Owned};
use read_states_sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use read_states_sync::{Mutex, fail_point};

use crate::id::Channel;
use crate::prefetch::prefetch;
use crate::slabs::Slabs;

const PARTITION_BITS: u32 = 8;
const PARTITIONS: usize = 1 << PARTITION_BITS;
const INDEX_BITS: u32 = u32::BITS - PARTITION_BITS;
const MAX_INDEX: u32 = (1 << INDEX_BITS) - BIAS;
/// Slots of the first segment; each further segment doubles the room.
const FIRST_SEGMENT: u32 = 16;
const SEGMENTS: usize = ((1u32 << INDEX_BITS) / FIRST_SEGMENT).ilog2() as usize + 1;

/// Numbers that wait together until nobody can see them.
const RETIRED_AT_ONCE: usize = 64;

/// Cells that are moved to a larger table in one go.
const AT_ONCE: usize = 16;

const EMPTY: u32 = 0;
const REMOVED: u32 = 1;
/// A cell holds the slot's index plus this.
const BIAS: u32 = 2;
/// Where in a cell the bits of the hash are: a slot is looked at only if they are the same.
const TAG: u32 = !0 << INDEX_BITS;

/// See the module.
#[derive(Debug)]
pub struct Directory {
    partitions: Box<[Partition]>,
    hasher: RandomState,
    bytes: AtomicUsize,
}

/// A channel that is looked for, with its hash, which is worked out once. The partition is the highest byte of the
/// hash, and of the number, for the sake of [blocks](crate::block).
#[derive(Clone, Copy, Debug)]
pub struct Sought {
    channel: Channel,
    hash: u64,
}

/// A number that is perhaps that of a channel that is looked for, as long as the guard lives with which it was made.
#[derive(Clone, Copy, Debug)]
pub struct Guess<'a> {
    number: u32,
    slot: &'a Slot,
}

impl Guess<'_> {
    /// The number, if it is the channel's.
    #[inline]
    pub fn number(self, sought: Sought) -> Option<u32> {
        self.slot.is_of(sought.channel).then_some(self.number)
    }
}

impl Sought {
    /// Whether it is this channel that is looked for.
    #[inline]
    pub(crate) fn is_of(self, channel: Channel) -> bool {
        self.channel == channel
    }

    #[inline]
    pub(crate) fn hash(self) -> u64 {
        self.hash
    }

    /// The highest byte of the number, if there is one.
    pub(crate) fn tag(self) -> u8 {
        self.partition() as u8
    }

    pub(crate) fn partition(self) -> usize {
        // The table uses the low bits.
        (self.hash >> (u64::BITS - PARTITION_BITS)) as usize
    }
}

#[derive(Debug)]
struct Partition {
    table: Atomic<Table>,
    segments: [OnceLock<Box<[Slot], Slabs>>; SEGMENTS],
    writer: Mutex<Writer>,
}

type Table = Box<[AtomicU32], Slabs>;

#[derive(Debug, Default)]
struct Slot {
    id: AtomicU64,
    references: AtomicU32,
    kind: AtomicU8,
}

/// What only the holder of a partition's lock changes.
#[derive(Debug, Default)]
struct Writer {
    /// Slots that were ever used.
    used: u32,
    /// Cells of the table that are not empty.
    filled: usize,
    /// Cells of the table that hold a slot.
    live: usize,
    /// Indexes to use again.
    free: Vec<u32>,
    /// Indexes that somebody may still see, oldest first.
    retired: VecDeque<Retired>,
    /// Indexes to retire together, as soon as they are many or one is needed.
    released: Vec<u32>,
}

/// Indexes that are free as soon as all who are pinned now have unpinned.
#[derive(Debug)]
struct Retired {
    indexes: Vec<u32>,
    /// Set by the epoch then. It runs what it has to on anybody's time, so it is not
    /// given each index, and not the lists.
    is_free: Arc<AtomicBool>,
}

impl Writer {
    /// An index that nobody can see any more, or a new one.
    fn next_index(&mut self, guard: &Guard) -> u32 {
        if self.free.is_empty() {
            let oldest = self.retired.front();
            if oldest.is_some_and(|retired| retired.is_free.load(Ordering::Acquire)) {
                self.free = self
                    .retired
                    .pop_front()
                    .map_or(vec![], |oldest| oldest.indexes);
            } else if oldest.is_none() {
                self.retire(guard);
            }
        }
        self.free.pop().unwrap_or_else(|| {
            assert!(
                self.used < MAX_INDEX,
                "a partition has 2^24 channels at most"
            );
            self.used += 1;
            self.used - 1
        })
    }

    fn release(&mut self, index: u32, guard: &Guard) {
        self.released.push(index);
        if self.released.len() == RETIRED_AT_ONCE {
            self.retire(guard);
        }
    }

    fn retire(&mut self, guard: &Guard) {
        if !self.released.is_empty() {
            let is_free = Arc::new(AtomicBool::new(false));
            let indexes = std::mem::take(&mut self.released);
            self.retired.push_back(Retired {
                indexes,
                is_free: Arc::clone(&is_free),
            });
            guard.defer(move || is_free.store(true, Ordering::Release));
            // Else it may wait for more to do that never comes.
            guard.flush();
        }
    }
}

impl Slot {
    fn channel(&self) -> Channel {
        Channel {
            kind: self.kind.load(Ordering::Relaxed),
            id: self.id.load(Ordering::Relaxed),
        }
    }

    /// Whether it is the channel's, and not one that the channel had: it may have another.
    fn is_of(&self, channel: Channel) -> bool {
        self.channel() == channel && self.references.load(Ordering::Relaxed) > 0
    }

    /// Adds a reference if it is the channel's, unless there is none left to share.
    fn share(&self, channel: Channel) -> bool {
        self.is_of(channel)
            && self
                .references
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |references| {
                    (references > 0).then_some(references + 1)
                })
                .is_ok()
    }
}

/// Segment and offset of a slot: segment 0 has the first 16 slots, segment `s` the next `16 << (s - 1)`.
fn segment(index: u32) -> (usize, usize) {
    match (index / FIRST_SEGMENT).checked_ilog2() {
        None => (0, index as usize),
        Some(log) => (log as usize + 1, (index - (FIRST_SEGMENT << log)) as usize),
    }
}

fn segment_len(segment: usize) -> usize {
    (FIRST_SEGMENT as usize) << segment.saturating_sub(1)
}

/// Slots that take no memory before they are used: a segment has room for as many as there are.
fn new_slots(count: usize) -> Box<[Slot], Slabs> {
    // SAFETY: what is zero throughout is a slot without references: atomic numbers are like plain ones.
    unsafe { new_zeroed(count) }
}

fn new_table(cells: usize) -> Table {
    const { assert!(EMPTY == 0) };
    // SAFETY: what is zero throughout are cells that are empty: atomic numbers are like plain ones.
    unsafe { new_zeroed(cells) }
}

/// Memory that is zero throughout.
///
/// # Safety
///
/// That is the default value.
#[cfg(not(feature = "shuttle"))]
unsafe fn new_zeroed<T: Default>(count: usize) -> Box<[T], Slabs> {
    let zeroed = Box::new_zeroed_slice_in(count, Slabs);
    // SAFETY: the caller says that it is a value.
    unsafe { zeroed.assume_init() }
}

/// The same of shuttle's atomics, which know more than a number.
#[cfg(feature = "shuttle")]
unsafe fn new_zeroed<T: Default>(count: usize) -> Box<[T], Slabs> {
    let mut values = allocator_api2::vec::Vec::new_in(Slabs);
    values.resize_with(count, T::default);
    values.into_boxed_slice()
}

impl Directory {
    /// An empty directory. `seed` makes its hashes unpredictable to who chooses the ids.
    pub fn new(seed: u64) -> Self {
        let partition = |_| Partition {
            table: Atomic::new(new_table(0)),
            segments: [const { OnceLock::new() }; SEGMENTS],
            writer: Mutex::default(),
        };
        Directory {
            partitions: (0..PARTITIONS).map(partition).collect(),
            hasher: RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x5EED),
            bytes: AtomicUsize::new(PARTITIONS * size_of::<Partition>()),
        }
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Channels that have a number.
    pub fn len(&self) -> usize {
        self.partitions
            .iter()
            .map(|partition| {
                let writer = partition.writer.lock();
                fail_point!();
                writer.live
            })
            .sum()
    }

    /// What the following look for.
    pub fn seek(&self, channel: Channel) -> Sought {
        Sought {
            channel,
            hash: self.hasher.hash_one(channel),
        }
    }

    /// The channel's number, if it has one. It means the channel as long as `guard` lives.
    pub fn find(&self, sought: Sought, guard: &Guard) -> Option<u32> {
        let partition = sought.partition();
        let is_it = |slot: &Slot| slot.is_of(sought.channel);
        let (index, _slot) = self.partitions[partition].find(sought.hash, guard, is_it)?;
        Some(number(partition, index))
    }

    /// Has the processor fetch where [`Directory::find`] will look first.
    pub fn prefetch(&self, sought: Sought, guard: &Guard) {
        let partition = &self.partitions[sought.partition()];
        let table = partition.table.load(Ordering::Acquire, guard);
        // SAFETY: as in `make_room`.
        if let Some(cell) = probe(unsafe { table.deref() }, sought.hash).next() {
            prefetch(cell);
        }
    }

    /// Has the processor fetch all that [`Directory::acquire`] looks at, at the same time.
    pub fn prefetch_all(&self, sought: &[Sought], guard: &Guard) {
        for sought in sought {
            self.prefetch(*sought, guard);
        }
        for sought in sought {
            self.guess(*sought, guard);
        }
    }

    /// The number that is the channel's if it has one, by what the cells say. Has the processor
    /// fetch what [`Guess::number`] looks at.
    #[inline]
    pub fn guess<'a>(&'a self, sought: Sought, guard: &'a Guard) -> Option<Guess<'a>> {
        let partition = sought.partition();
        let (index, slot) = self.partitions[partition].find(sought.hash, guard, |_| true)?;
        prefetch(slot);
        Some(Guess {
            number: number(partition, index),
            slot,
        })
    }

    /// The channel's number, with one reference more; the channel gets a number if it has none.
    pub fn acquire(&self, sought: Sought, guard: &Guard) -> u32 {
        let Sought { channel, hash } = sought;
        let at = sought.partition();
        let partition = &self.partitions[at];
        let index = partition
            .find(hash, guard, |slot| slot.share(channel))
            .map_or_else(
                || self.insert(partition, channel, hash, guard),
                |(index, _slot)| index,
            );
        number(at, index)
    }

    /// The channel a number stands for. The caller holds a reference to it, or has found it
    /// while pinned and still is.
    pub fn channel(&self, number: u32) -> Channel {
        let (partition, index) = split(number);
        self.partitions[partition].slot(index).channel()
    }

    /// Has the processor fetch what [`Directory::channel`] reads.
    pub fn prefetch_number(&self, number: u32) {
        let (partition, index) = split(number);
        prefetch(self.partitions[partition].slot(index));
    }

    /// Gives back one reference. The number must not be used afterwards, except by who is pinned.
    pub fn release(&self, number: u32, guard: &Guard) {
        let (partition, index) = split(number);
        let partition = &self.partitions[partition];
        let slot = partition.slot(index);
        if slot.references.fetch_sub(1, Ordering::AcqRel) == 1 {
            partition.remove(index, self.hasher.hash_one(slot.channel()), guard);
            fail_point!();
        }
    }

    fn insert(&self, partition: &Partition, channel: Channel, hash: u64, guard: &Guard) -> u32 {
        let mut writer = partition.writer.lock();
        fail_point!();
        // Another writer may have been quicker.
        if let Some((index, _slot)) = partition.find(hash, guard, |slot| slot.share(channel)) {
            return index;
        }
        self.make_room(partition, &mut writer, guard);
        let used = writer.used;
        let index = writer.next_index(guard);
        if writer.used > used {
            self.bytes.fetch_add(size_of::<Slot>(), Ordering::Relaxed);
        }
        let (segment, offset) = segment(index);
        let slots = partition.segments[segment].get_or_init(|| new_slots(segment_len(segment)));
        let slot = &slots[offset];
        slot.id.store(channel.id, Ordering::Relaxed);
        slot.kind.store(channel.kind, Ordering::Relaxed);
        slot.references.store(1, Ordering::Relaxed);
        // Who reads the cell sees the slot as written above.
        partition.fill(&mut writer, hash, index, guard);
        index
    }

    /// Replaces the table if less than a quarter of it would stay empty.
    fn make_room(&self, partition: &Partition, writer: &mut Writer, guard: &Guard) {
        let old = partition.table.load(Ordering::Acquire, guard);
        // SAFETY: the pointer is never null (`new` puts a table there, and only whole tables
        // replace it), and a replaced table is destroyed only after all who were pinned when it
        // was replaced have unpinned; `guard` is pinned since before the load.
        let cells = unsafe { old.deref() };
        if (writer.filled + 1) * 4 <= cells.len() * 3 {
            return;
        }
        let table = new_table(((writer.live + 1) * 2).next_power_of_two().max(8));
        let slot = |value| partition.slot((value & !TAG) - BIAS);
        for cells in cells.chunks(AT_ONCE) {
            let values = cells.iter().map(|cell| cell.load(Ordering::Relaxed));
            let values = values.filter(|value| *value > REMOVED);
            // All at once, not one after the other.
            values.clone().for_each(|value| prefetch(slot(value)));
            for value in values {
                let hash = self.hasher.hash_one(slot(value).channel());
                let free = probe(&table, hash).find(|cell| cell.load(Ordering::Relaxed) == EMPTY);
                let free = free.expect("the new table has twice the cells");
                free.store(value, Ordering::Relaxed);
            }
        }
        writer.filled = writer.live;
        self.bytes
            .fetch_add(Slabs::size(size_of_val(&*table)), Ordering::Relaxed);
        self.bytes
            .fetch_sub(Slabs::size(size_of_val(&**cells)), Ordering::Relaxed);
        partition.table.store(Owned::new(table), Ordering::Release);
        // SAFETY: the table is no longer reachable from the partition, whose lock we hold, and it
        // was put there by `Owned::new`, so it is destroyed exactly once. Readers still in it are pinned.
        unsafe { guard.defer_destroy(old) };
        guard.flush();
    }
}

impl Partition {
    fn slot(&self, index: u32) -> &Slot {
        let (segment, offset) = segment(index);
        let slots = self.segments[segment].get();
        &slots.expect("a number comes from a slot that was filled")[offset]
    }

    /// The first slot for this hash that is `good`.
    #[inline]
    fn find(&self, hash: u64, guard: &Guard, good: impl Fn(&Slot) -> bool) -> Option<(u32, &Slot)> {
        let table = self.table.load(Ordering::Acquire, guard);
        // SAFETY: as in `make_room`.
        for cell in probe(unsafe { table.deref() }, hash) {
            let value = cell.load(Ordering::Acquire);
            if value == EMPTY {
                return None;
            }
            if let Some(index) = index_in(value, hash) {
                let slot = self.slot(index);
                if good(slot) {
                    return Some((index, slot));
                }
            }
        }
        None
    }

    fn fill(&self, writer: &mut Writer, hash: u64, index: u32, guard: &Guard) {
        let table = self.table.load(Ordering::Acquire, guard);
        // SAFETY: as in `make_room`.
        let cell = probe(unsafe { table.deref() }, hash)
            .find(|cell| cell.load(Ordering::Relaxed) <= REMOVED)
            .expect("make_room left empty cells");
        writer.filled += usize::from(cell.load(Ordering::Relaxed) == EMPTY);
        writer.live += 1;
        cell.store(value_of(index, hash), Ordering::Release);
    }

    fn remove(&self, index: u32, hash: u64, guard: &Guard) {
        let mut writer = self.writer.lock();
        let table = self.table.load(Ordering::Acquire, guard);
        // SAFETY: as in `make_room`.
        let cell = probe(unsafe { table.deref() }, hash)
            .find(|cell| cell.load(Ordering::Relaxed) == value_of(index, hash))
            .expect("a number is in the table until its last reference is gone");
        cell.store(REMOVED, Ordering::Release);
        writer.live -= 1;
        writer.release(index, guard);
    }
}

/// What a cell holds for a slot. Never [`EMPTY`] or [`REMOVED`], whatever the hash.
fn value_of(index: u32, hash: u64) -> u32 {
    // Neither the bits that choose the partition nor, but in very large tables, the cell.
    (hash >> 24) as u32 & TAG | (index + BIAS)
}

/// The slot a cell names, unless it is that of a channel with another hash.
fn index_in(value: u32, hash: u64) -> Option<u32> {
    let is_of = (value ^ (hash >> 24) as u32) & TAG == 0;
    // What is left of an empty one is too low.
    let index = (value & !TAG).checked_sub(BIAS)?;
    is_of.then_some(index)
}

/// The cells at which a channel with this hash can be, in order.
fn probe(table: &[AtomicU32], hash: u64) -> impl Iterator<Item = &AtomicU32> {
    // Their number is a power of two, or 0.
    let mask = table.len().wrapping_sub(1);
    (0..table.len()).map(move |step| &table[(hash as usize).wrapping_add(step) & mask])
}

fn number(partition: usize, index: u32) -> u32 {
    (partition as u32) << INDEX_BITS | index
}

fn split(number: u32) -> (usize, u32) {
    ((number >> INDEX_BITS) as usize, number & !TAG)
}

impl Drop for Partition {
    fn drop(&mut self) {
        let table = std::mem::replace(&mut self.table, Atomic::null());
        // SAFETY: `&mut self` means that nobody else reads the table, and it was put there by
        // `Owned::new` or `Atomic::new`.
        drop(unsafe { table.try_into_owned() });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use read_states_sync::pin;

    fn channel(id: u64) -> Channel {
        Channel { kind: 0, id }
    }

    #[test]
    fn slots_are_numbered_without_gap_or_overlap() {
        let mut next = (0, 0);
        for index in 0..10_000 {
            assert_eq!(segment(index), next);
            next.1 += 1;
            if next.1 == segment_len(next.0) {
                next = (next.0 + 1, 0);
            }
        }
        assert_eq!(segment(MAX_INDEX - 1).0, SEGMENTS - 1);
    }

    #[test]
    fn a_channel_keeps_its_number_while_it_has_references() {
        let directory = Directory::new(1);
        let guard = pin();
        let same_id = [channel(7), Channel { kind: 1, id: 7 }];
        let numbers = same_id.map(|channel| directory.acquire(directory.seek(channel), &guard));
        assert_ne!(numbers[0], numbers[1]);
        assert_eq!(
            directory.acquire(directory.seek(channel(7)), &guard),
            numbers[0]
        );
        directory.release(numbers[0], &guard);
        assert_eq!(
            directory.find(directory.seek(channel(7)), &guard),
            Some(numbers[0])
        );
        assert_eq!(directory.channel(numbers[1]), same_id[1]);
        directory.release(numbers[0], &guard);
        assert_eq!(directory.find(directory.seek(channel(7)), &guard), None);
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn a_number_means_the_same_channel_until_the_reader_unpins() {
        let directory = Directory::new(2);
        let reader = pin();
        let number = directory.acquire(directory.seek(channel(1)), &reader);
        directory.release(number, &reader);
        for id in 2..2_000 {
            let other = directory.acquire(directory.seek(channel(id)), &pin());
            assert_ne!(other, number);
        }
        assert_eq!(directory.channel(number), channel(1));
    }

    /// Whether nobody can see any more what was retired.
    fn are_retired_free(directory: &Directory) -> bool {
        directory.partitions.iter().all(|partition| {
            let writer = partition.writer.lock();
            let mut retired = writer.retired.iter();
            retired.all(|retired| retired.is_free.load(Ordering::Acquire))
        })
    }

    #[test]
    fn numbers_and_memory_are_used_again() {
        let directory = Directory::new(3);
        let mut after_first = 0;
        for round in 0..50u64 {
            let ids = round * 10_000..(round + 1) * 10_000;
            let numbers: Vec<u32> = ids
                .map(|id| directory.acquire(directory.seek(channel(id)), &pin()))
                .collect();
            for number in numbers {
                directory.release(number, &pin());
            }
            // Threads of other tests may be pinned for a while.
            while !are_retired_free(&directory) {
                pin().flush();
                std::thread::yield_now();
            }
            if round == 0 {
                after_first = directory.bytes();
            }
        }
        assert_eq!(directory.len(), 0);
        assert!(
            directory.bytes() <= 3 * after_first,
            "{}",
            directory.bytes()
        );
    }

    #[test]
    fn threads_that_share_and_drop_channels_always_see_the_right_ones() {
        let directory = Directory::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let directory = &directory;
                scope.spawn(move || {
                    let mut held: HashMap<u64, u32> = HashMap::new();
                    let mut random = thread + 1;
                    for _ in 0..60_000 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let id = random % 300;
                        let guard = pin();
                        match held.remove(&id) {
                            Some(number) => {
                                assert_eq!(directory.channel(number), channel(id));
                                assert_eq!(
                                    directory.find(directory.seek(channel(id)), &guard),
                                    Some(number)
                                );
                                directory.release(number, &guard);
                            }
                            None => {
                                if let Some(number) =
                                    directory.find(directory.seek(channel(id)), &guard)
                                {
                                    assert_eq!(directory.channel(number), channel(id));
                                }
                                held.insert(
                                    id,
                                    directory.acquire(directory.seek(channel(id)), &guard),
                                );
                            }
                        }
                    }
                    for number in held.into_values() {
                        directory.release(number, &pin());
                    }
                });
            }
        });
        assert_eq!(directory.len(), 0);
    }
}
