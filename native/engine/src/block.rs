//! A packed block: up to 512 read states of one user, column by column, in one allocation with
//! what its owner keeps in front of them.
//!
//! ```text
//! head | length, room, counters | words of 4 bytes, for room for `c` states with `n` counters each:
//!
//! | channel numbers | last messages  | counter 0 | … | dirty bits | in-flight bits |
//! | c, ascending    | 2c (low, high) | c         |   | ⌈c/32⌉     | ⌈c/32⌉         |
//! ```
//!
//! The search reads only the first column, and the sum of a counter only that
//! counter's, so each touches as few cache lines as it can. A state with one
//! counter takes 16 bytes and 2 bits. A state is *dirty* when it changed since its
//! last snapshot, and *in flight* while a commit of such a snapshot is under way;
//! it can be both, and then stays dirty when the commit is done.
//!
//! The pointer to a block says in the bits that are 0 in every address how many cache lines it
//! takes, so that they can be fetched all at once, before its length is known.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;

use crate::id::Id;
use crate::prefetch::prefetch;
use crate::read_state::{MAX_COUNTERS, ReadState};
use crate::slabs::{LARGEST, LINE, Slabs};

/// Most states a block holds. Bounds what one insertion moves: 8 KB with one counter.
pub const MAX_BLOCK: usize = 512;

/// Lines of a block that are fetched ahead, all of them or the first.
const FETCHED: usize = 20;

/// See the module.
pub struct Block<H = ()> {
    /// With the number of lines in the low bits, at most `LINE - 1`.
    tagged: NonNull<Inner<H>>,
}

/// What is at the address of a block; the words follow.
#[repr(C, align(8))]
struct Inner<H> {
    head: H,
    len: u16,
    room: u16,
    counters: u8,
}

// SAFETY: a block owns its memory, which nothing else points to, like a box of its head and words.
unsafe impl<H: Send> Send for Block<H> {}
// SAFETY: as above; through a shared block nothing changes but what the head lets change.
unsafe impl<H: Sync> Sync for Block<H> {}

/// Words one bit column takes.
const fn bit_words(room: usize) -> usize {
    room.div_ceil(32)
}

const fn words_for(room: usize, counters: usize) -> usize {
    room * (3 + counters) + 2 * bit_words(room)
}

/// Where the words begin.
const fn words_at<H>() -> usize {
    let largest = size_of::<Inner<H>>() + 4 * words_for(MAX_BLOCK, MAX_COUNTERS);
    assert!(align_of::<Inner<H>>() <= LINE && largest <= LARGEST);
    size_of::<Inner<H>>()
}

fn layout<H>(room: usize, counters: usize) -> Layout {
    let bytes = Slabs::size(words_at::<H>() + 4 * words_for(room, counters));
    Layout::from_size_align(bytes, LINE).expect("the size is bounded, see `words_at`")
}

impl<H> Block<H> {
    #[inline]
    fn at(&self) -> NonNull<Inner<H>> {
        let address = |tagged: usize| tagged & !(LINE - 1);
        // SAFETY: the tag is less than a line, and no memory lies in the first one.
        unsafe { NonNull::new_unchecked(self.tagged.as_ptr().map_addr(address)) }
    }

    #[inline]
    fn inner(&self) -> &Inner<H> {
        // SAFETY: the block owns it, from `with_room` until it is dropped.
        unsafe { self.at().as_ref() }
    }

    #[inline]
    fn inner_mut(&mut self) -> &mut Inner<H> {
        // SAFETY: as in `inner`, and nobody else has the block.
        unsafe { self.at().as_mut() }
    }
}

impl<H: Default> Block<H> {
    /// Bytes a block with this room takes.
    fn bytes_for(room: usize, counters: usize) -> usize {
        layout::<H>(room, counters).size()
    }

    /// Room to take for `len` states: what the memory has that they take.
    fn room_for(len: usize, counters: usize) -> usize {
        let words = (Self::bytes_for(len, counters) - words_at::<H>()) / 4;
        // A state takes its words, and two bits of the last ones.
        let mut room = (words / (3 + counters)).min(MAX_BLOCK);
        while words_for(room, counters) > words {
            room -= 1;
        }
        room
    }

    /// An empty block with room for `len` states, and perhaps some more.
    pub fn with_room(len: usize, counters: usize, head: H) -> Self {
        assert!(len <= MAX_BLOCK && (1..=MAX_COUNTERS).contains(&counters));
        let room = Self::room_for(len, counters);
        let layout = layout::<H>(room, counters);
        let Ok(memory) = Slabs.allocate(layout) else {
            handle_alloc_error(layout);
        };
        let at: NonNull<Inner<H>> = memory.cast();
        // SAFETY: the memory is new, and large and aligned enough for the head, and after
        // it for the words, which are 0 from then on.
        unsafe {
            at.write(Inner {
                head,
                len: 0,
                room: room as u16,
                counters: counters as u8,
            });
            let words = at.cast::<u8>().add(words_at::<H>()).cast::<u32>();
            words.write_bytes(0, words_for(room, counters));
        }
        let lines = (layout.size() / LINE).min(LINE - 1);
        // Memory of the slabs is aligned to a line.
        let tagged = at.map_addr(|address| address | lines);
        Block { tagged }
    }

    #[inline]
    fn words(&self) -> &[u32] {
        let words = words_for(self.room(), self.counters());
        // SAFETY: so many follow the head, all written, since `with_room`.
        unsafe {
            let at = self.at().cast::<u8>().add(words_at::<H>());
            std::slice::from_raw_parts(at.cast().as_ptr(), words)
        }
    }

    #[inline]
    fn words_mut(&mut self) -> &mut [u32] {
        let words = words_for(self.room(), self.counters());
        // SAFETY: as in `words`, and nobody else has the block.
        unsafe {
            let at = self.at().cast::<u8>().add(words_at::<H>());
            std::slice::from_raw_parts_mut(at.cast().as_ptr(), words)
        }
    }

    /// States in the block.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.inner().len)
    }

    #[inline]
    fn room(&self) -> usize {
        usize::from(self.inner().room)
    }

    /// Counters of a state.
    #[inline]
    pub fn counters(&self) -> usize {
        usize::from(self.inner().counters)
    }

    /// Whether nothing more fits, whatever the room.
    pub fn is_full(&self) -> bool {
        self.len() == MAX_BLOCK
    }

    /// Bytes of the allocation.
    pub fn bytes(&self) -> usize {
        Self::bytes_for(self.room(), self.counters())
    }

    /// Bytes by which the allocation grows when one more state is inserted.
    pub fn growth(&self) -> usize {
        if self.len() < self.room() {
            0
        } else {
            Self::bytes_for(self.len() + 1, self.counters()) - self.bytes()
        }
    }

    /// Bytes by which the allocation grows when there is no room left.
    pub fn next_growth(&self) -> usize {
        let room = (self.room() + 1).min(MAX_BLOCK);
        Self::bytes_for(room, self.counters()) - self.bytes()
    }

    /// Has the processor fetch the block, if it is not large: its lines at once, not one after the
    /// other as the search comes to need them.
    pub fn prefetch(&self) {
        let lines = self.tagged.addr().get() % LINE;
        let at = self.at().as_ptr();
        for line in 0..lines.min(FETCHED) {
            prefetch(at.wrapping_byte_add(line * LINE));
        }
    }

    /// The same with the first column alone.
    #[inline]
    pub fn prefetch_numbers(&self) {
        let lines = self.tagged.addr().get() % LINE;
        let at = self.at().as_ptr();
        // With one counter it is a quarter of the words.
        for line in 0..(lines / 4 + 1).min(FETCHED) {
            prefetch(at.wrapping_byte_add(line * LINE));
        }
    }

    /// Has the processor fetch what is at `index` in the other columns.
    #[inline]
    pub fn prefetch_state(&self, index: usize) {
        let (room, words) = (self.room(), self.words().as_ptr());
        prefetch(words.wrapping_add(room + 2 * index));
        for counter in 0..self.counters() {
            prefetch(words.wrapping_add(room * (3 + counter) + index));
        }
        let [dirty, _] = self.bit_columns();
        prefetch(words.wrapping_add(dirty.start + index / 32));
    }

    /// The channel numbers, ascending.
    #[inline]
    pub fn numbers(&self) -> &[u32] {
        &self.words()[..self.len()]
    }

    /// Where `number` is, or where it belongs.
    #[inline]
    pub fn search(&self, number: u32) -> Result<usize, usize> {
        self.numbers().binary_search(&number)
    }

    /// The values of one counter, in the order of [`Block::numbers`].
    pub fn counter(&self, counter: usize) -> &[u32] {
        debug_assert!(counter < self.counters());
        let from = self.room() * (3 + counter);
        &self.words()[from..from + self.len()]
    }

    /// The state at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> ReadState {
        assert!(index < self.len());
        let (words, room) = (self.words(), self.room());
        let message = room + 2 * index;
        let mut state = ReadState {
            last_message_id: Id::from(words[message]) | Id::from(words[message + 1]) << 32,
            ..ReadState::default()
        };
        for counter in 0..self.counters() {
            state.counters[counter] = words[room * (3 + counter) + index];
        }
        state
    }

    /// The states from `start` on, with their channel numbers.
    pub fn states_from(&self, start: usize) -> impl Iterator<Item = (u32, ReadState)> {
        let (words, room, len) = (self.words(), self.room(), self.len());
        let column = move |counter: usize| {
            let from = room * (3 + counter);
            &words[from + start..from + len]
        };
        let numbers = words[start..len].iter();
        let messages = words[room + 2 * start..room + 2 * len].chunks_exact(2);
        let rows = numbers.zip(messages).zip(column(0)).enumerate();
        rows.map(move |(at, ((number, message), first))| {
            let last_message_id = Id::from(message[0]) | Id::from(message[1]) << 32;
            let other = |counter| match counter < self.counters() {
                true => column(counter)[at],
                false => 0,
            };
            // Element by element: an array that is filled in a loop goes through memory.
            let counters = [*first, other(1), other(2), other(3)];
            let state = ReadState {
                last_message_id,
                counters,
            };
            (*number, state)
        })
    }

    #[inline]
    fn put(&mut self, index: usize, state: &ReadState) {
        let (room, counters) = (self.room(), self.counters());
        let words = self.words_mut();
        let message = room + 2 * index;
        words[message] = state.last_message_id as u32;
        words[message + 1] = (state.last_message_id >> 32) as u32;
        for counter in 0..counters {
            words[room * (3 + counter) + index] = state.counters[counter];
        }
    }

    /// Replaces the values at `index`; says nothing about dirty.
    #[inline]
    pub fn set(&mut self, index: usize, state: &ReadState) {
        assert!(index < self.len());
        self.put(index, state);
    }

    /// Inserts a clean state at the place [`Block::search`] named. The block must not be full.
    pub fn insert(&mut self, index: usize, number: u32, state: &ReadState) {
        let len = self.len();
        assert!(index <= len && !self.is_full());
        if len == self.room() {
            self.resize(len + 1);
        }
        let (room, counters, bits) = (self.room(), self.counters(), self.bit_columns());
        let words = self.words_mut();
        words.copy_within(index..len, index + 1);
        words.copy_within(room + 2 * index..room + 2 * len, room + 2 * index + 2);
        for counter in 0..counters {
            let column = room * (3 + counter);
            words.copy_within(column + index..column + len, column + index + 1);
        }
        for bits in bits {
            open_bit(&mut words[bits], index);
        }
        words[index] = number;
        self.inner_mut().len += 1;
        self.put(index, state);
    }

    /// Removes the state at `index`.
    pub fn remove(&mut self, index: usize) {
        let (room, len) = (self.room(), self.len());
        assert!(index < len);
        let (counters, bits) = (self.counters(), self.bit_columns());
        let words = self.words_mut();
        words.copy_within(index + 1..len, index);
        words.copy_within(room + 2 * (index + 1)..room + 2 * len, room + 2 * index);
        for counter in 0..counters {
            let column = room * (3 + counter);
            words.copy_within(column + index + 1..column + len, column + index);
        }
        for bits in bits {
            close_bit(&mut words[bits], index);
        }
        self.inner_mut().len -= 1;
    }

    /// Shrinks a block that is mostly empty.
    pub fn shrink(&mut self) {
        let len = self.len();
        if len * 2 < self.room() && Self::bytes_for(len, self.counters()) < self.bytes() {
            self.resize(len);
        }
    }

    /// Bytes of the allocation of the largest block with these counters.
    pub fn most_bytes(&self) -> usize {
        Self::bytes_for(MAX_BLOCK, self.counters())
    }

    /// Moves the upper half to a new block.
    pub fn split(&mut self) -> Self {
        let upper = self.part(self.len() / 2..self.len());
        let mut lower = self.part(0..self.len() / 2);
        std::mem::swap(&mut lower.inner_mut().head, &mut self.inner_mut().head);
        *self = lower;
        upper
    }

    /// The states in `range` as a block of their own, with nothing in front of them.
    pub fn part(&self, range: Range<usize>) -> Self {
        let mut part = Block::with_room(range.len(), self.counters(), H::default());
        part.copy_states(self, range);
        part
    }

    /// Moves every state of `upper`, whose numbers are all higher, to the end of this one.
    pub fn append(&mut self, upper: &Self) {
        self.reserve(upper.len());
        self.copy_states(upper, 0..upper.len());
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        let len = self.len() + more;
        assert!(len <= MAX_BLOCK);
        if len > self.room() {
            self.resize(len);
        }
    }

    /// Takes the memory that `len` states need, which are as many as there are at least.
    fn resize(&mut self, len: usize) {
        let mut resized = Block::with_room(len, self.counters(), H::default());
        resized.copy_states(self, 0..self.len());
        std::mem::swap(&mut resized.inner_mut().head, &mut self.inner_mut().head);
        *self = resized;
    }

    fn copy_states(&mut self, from: &Self, range: Range<usize>) {
        debug_assert!(
            self.len() == 0
                || range.is_empty()
                || self.numbers()[self.len() - 1] < from.words()[range.start]
        );
        let (at, room, counters) = (self.len(), self.room(), self.counters());
        let (source, source_words) = (from.room(), from.words());
        let words = self.words_mut();
        let mut copy = |to: usize, range: Range<usize>| {
            words[to..to + range.len()].copy_from_slice(&source_words[range]);
        };
        copy(at, range.clone());
        let messages = source + 2 * range.start..source + 2 * range.end;
        copy(room + 2 * at, messages);
        for counter in 0..counters {
            let column = source * (3 + counter);
            let values = column + range.start..column + range.end;
            copy(room * (3 + counter) + at, values);
        }
        self.inner_mut().len += range.len() as u16;
        for (offset, index) in range.enumerate() {
            if from.is_dirty(index) {
                self.set_dirty(at + offset);
            }
            if from.is_in_flight(index) {
                self.set_in_flight(at + offset);
            }
        }
    }

    fn bit_columns(&self) -> [Range<usize>; 2] {
        let start = self.room() * (3 + self.counters());
        let middle = start + bit_words(self.room());
        [start..middle, middle..middle + bit_words(self.room())]
    }

    fn dirty_bits(&self) -> &[u32] {
        let [dirty, _] = self.bit_columns();
        &self.words()[dirty]
    }

    fn in_flight_bits(&self) -> &[u32] {
        let [_, in_flight] = self.bit_columns();
        &self.words()[in_flight]
    }

    /// Whether the state changed since its last snapshot.
    pub fn is_dirty(&self, index: usize) -> bool {
        bit(self.dirty_bits(), index)
    }

    /// Whether a snapshot of the state is being committed.
    pub fn is_in_flight(&self, index: usize) -> bool {
        bit(self.in_flight_bits(), index)
    }

    /// Marks the state as changed.
    #[inline]
    pub fn set_dirty(&mut self, index: usize) {
        assert!(index < self.len());
        let [dirty, _] = self.bit_columns();
        set_bit(&mut self.words_mut()[dirty], index);
    }

    fn set_in_flight(&mut self, index: usize) {
        let [_, in_flight] = self.bit_columns();
        set_bit(&mut self.words_mut()[in_flight], index);
    }

    /// Takes the snapshot of up to `limit` states that are dirty and not in flight: they are no
    /// longer dirty, but in flight. More can be taken into the same snapshot later.
    pub fn snapshot(&mut self, limit: usize, mut take: impl FnMut(u32, ReadState)) -> usize {
        let [dirty, in_flight] = self.bit_columns();
        let mut taken = 0;
        for word in 0..dirty.len() {
            let words = self.words();
            let mut bits = words[dirty.start + word] & !words[in_flight.start + word];
            while bits != 0 && taken < limit {
                let lowest = bits & bits.wrapping_neg();
                let index = 32 * word + bits.trailing_zeros() as usize;
                bits ^= lowest;
                let words = self.words_mut();
                words[dirty.start + word] ^= lowest;
                words[in_flight.start + word] |= lowest;
                take(self.numbers()[index], self.get(index));
                taken += 1;
            }
        }
        taken
    }

    /// Nothing is in flight any more: what was is clean if the commit was `done` and nothing
    /// changed since, else dirty.
    pub fn settle(&mut self, done: bool) {
        let [dirty, in_flight] = self.bit_columns();
        let words = self.words_mut();
        for (dirty, in_flight) in dirty.zip(in_flight) {
            if !done {
                words[dirty] |= words[in_flight];
            }
            words[in_flight] = 0;
        }
    }

    /// States that are dirty.
    pub fn dirty(&self) -> usize {
        let ones = |word: &u32| word.count_ones() as usize;
        self.dirty_bits().iter().map(ones).sum()
    }
}

impl<H> Deref for Block<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.inner().head
    }
}

impl<H> DerefMut for Block<H> {
    fn deref_mut(&mut self) -> &mut H {
        &mut self.inner_mut().head
    }
}

impl<H> Drop for Block<H> {
    fn drop(&mut self) {
        let Inner { room, counters, .. } = *self.inner();
        let layout = layout::<H>(usize::from(room), usize::from(counters));
        // SAFETY: the block owns its memory, which came with this layout, and its head, which
        // was written once; neither is used again.
        unsafe {
            self.at().drop_in_place();
            Slabs.deallocate(self.at().cast(), layout);
        }
    }
}

impl<H: Default> fmt::Debug for Block<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries((0..self.len()).map(|index| (self.numbers()[index], self.get(index))))
            .finish()
    }
}

fn bit(words: &[u32], index: usize) -> bool {
    words[index / 32] & 1 << (index % 32) != 0
}

fn set_bit(words: &mut [u32], index: usize) {
    words[index / 32] |= 1 << (index % 32);
}

/// Moves the bits from `index` on one up and puts a 0 at `index`. The top bit must be 0.
fn open_bit(words: &mut [u32], index: usize) {
    let (first, below) = (index / 32, (1u32 << (index % 32)) - 1);
    for word in (first + 1..words.len()).rev() {
        words[word] = words[word] << 1 | words[word - 1] >> 31;
    }
    words[first] = words[first] & below | (words[first] & !below) << 1;
}

/// Moves the bits above `index` one down.
fn close_bit(words: &mut [u32], index: usize) {
    let (first, below) = (index / 32, (1u32 << (index % 32)) - 1);
    words[first] = words[first] & below | words[first] >> 1 & !below;
    for word in first + 1..words.len() {
        words[word - 1] |= words[word] << 31;
        words[word] >>= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(seed: u64) -> ReadState {
        ReadState {
            last_message_id: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            counters: [seed as u32, !seed as u32, 0, 0],
        }
    }

    /// A row of the model: number, values, dirty, in flight.
    type Row = (u32, ReadState, bool, bool);

    fn rows(block: &Block) -> Vec<Row> {
        (0..block.len())
            .map(|i| {
                let (dirty, in_flight) = (block.is_dirty(i), block.is_in_flight(i));
                (block.numbers()[i], block.get(i), dirty, in_flight)
            })
            .collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, u64),
        Remove(u32),
        Touch(u32, u64),
        Snapshot(usize),
        Settle(bool),
        SplitAndAppend,
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = 0..700u32;
        prop_oneof![
            12 => (number.clone(), any::<u64>()).prop_map(|(n, s)| Step::Insert(n, s)),
            4 => number.clone().prop_map(Step::Remove),
            6 => (number, any::<u64>()).prop_map(|(n, s)| Step::Touch(n, s)),
            1 => (0..40usize).prop_map(Step::Snapshot),
            1 => any::<bool>().prop_map(Step::Settle),
            1 => Just(Step::SplitAndAppend),
        ]
    }

    proptest! {
        #[test]
        fn a_block_equals_a_sorted_list_of_rows(steps in prop::collection::vec(step(), 0..1500)) {
            let mut block = Block::with_room(0, 2, ());
            let mut model: Vec<Row> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(number, seed) => {
                        let found = block.search(number);
                        prop_assert_eq!(found, model.binary_search_by_key(&number, |row| row.0));
                        if let (Err(index), false) = (found, block.is_full()) {
                            let bytes = block.bytes() + block.growth();
                            block.insert(index, number, &state(seed));
                            prop_assert_eq!(block.bytes(), bytes);
                            model.insert(index, (number, state(seed), false, false));
                        }
                    }
                    Step::Remove(number) => {
                        if let Ok(index) = block.search(number) {
                            block.remove(index);
                            model.remove(index);
                        }
                    }
                    Step::Touch(number, seed) => {
                        if let Ok(index) = block.search(number) {
                            block.set(index, &state(seed));
                            block.set_dirty(index);
                            (model[index].1, model[index].2) = (state(seed), true);
                        }
                    }
                    Step::Snapshot(limit) => {
                        let mut taken = Vec::new();
                        block.snapshot(limit, |number, state| taken.push((number, state)));
                        let dirty = model.iter_mut().filter(|row| row.2 && !row.3).take(limit);
                        let expected: Vec<_> = dirty
                            .map(|row| {
                                (row.2, row.3) = (false, true);
                                (row.0, row.1)
                            })
                            .collect();
                        prop_assert_eq!(taken, expected);
                    }
                    Step::Settle(done) => {
                        block.settle(done);
                        for row in &mut model {
                            (row.2, row.3) = (row.2 || row.3 && !done, false);
                        }
                    }
                    Step::SplitAndAppend => {
                        let upper = block.split();
                        prop_assert_eq!(block.len(), model.len() / 2);
                        block.append(&upper);
                    }
                }
                prop_assert_eq!(block.dirty(), model.iter().filter(|row| row.2).count());
            }
            prop_assert_eq!(rows(&block), model.clone());
            let second: Vec<u32> = model.iter().map(|row| row.1.counters[1]).collect();
            prop_assert_eq!(block.counter(1), second);
        }
    }

    #[test]
    fn fifty_states_take_at_most_eighteen_bytes_each() {
        let mut block = Block::with_room(0, 1, ());
        for number in 0..50 {
            block.insert(number as usize, number, &ReadState::default());
        }
        assert!(block.bytes() <= 50 * 18, "{} bytes", block.bytes());
    }
}
