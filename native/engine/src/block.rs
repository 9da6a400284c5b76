//! A packed block: up to 512 read states of one user, column by column, in one allocation.
//!
//! ```text
//! words of 4 bytes, for room for `c` states with `n` counters each:
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

use crate::id::Id;
use crate::read_state::{MAX_COUNTERS, ReadState};

/// Most states a block holds. Bounds what one insertion moves: 8 KB with one counter.
pub const MAX_BLOCK: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Block {
    words: Box<[u32]>,
    len: u16,
    room: u16,
    counters: u8,
}

/// Words one bit column takes.
fn bit_words(room: usize) -> usize {
    room.div_ceil(32)
}

fn words_for(room: usize, counters: usize) -> usize {
    room * (3 + counters) + 2 * bit_words(room)
}

/// Room to take for at least `len` states: a twelfth more, in steps of two.
fn room_for(len: usize) -> usize {
    match len {
        0..=2 => len,
        _ => (len + len / 12).next_multiple_of(2).min(MAX_BLOCK),
    }
}

impl Block {
    /// An empty block with room for exactly `room` states.
    pub fn with_room(room: usize, counters: usize) -> Self {
        assert!(room <= MAX_BLOCK && (1..=MAX_COUNTERS).contains(&counters));
        Block {
            words: vec![0; words_for(room, counters)].into_boxed_slice(),
            len: 0,
            room: room as u16,
            counters: counters as u8,
        }
    }

    /// States in the block.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    fn room(&self) -> usize {
        usize::from(self.room)
    }

    fn counters(&self) -> usize {
        usize::from(self.counters)
    }

    /// Whether nothing more fits, whatever the room.
    pub fn is_full(&self) -> bool {
        self.len() == MAX_BLOCK
    }

    /// Bytes of the allocation.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Bytes of the allocation of the largest block with these counters.
    pub fn most_bytes(&self) -> usize {
        4 * words_for(MAX_BLOCK, self.counters())
    }

    /// Bytes by which the allocation grows when one more state is inserted.
    pub fn growth(&self) -> usize {
        if self.len < self.room {
            0
        } else {
            4 * words_for(room_for(self.len() + 1), self.counters()) - self.bytes()
        }
    }

    /// Bytes by which the allocation grows when there is no room left.
    pub fn next_growth(&self) -> usize {
        let room = room_for((self.room() + 1).min(MAX_BLOCK));
        4 * words_for(room, self.counters()) - self.bytes()
    }

    /// The channel numbers, ascending.
    pub fn numbers(&self) -> &[u32] {
        &self.words[..self.len()]
    }

    /// Where `number` is, or where it belongs.
    pub fn search(&self, number: u32) -> Result<usize, usize> {
        self.numbers().binary_search(&number)
    }

    /// The values of one counter, in the order of [`Block::numbers`].
    pub fn counter(&self, counter: usize) -> &[u32] {
        debug_assert!(counter < self.counters());
        let from = self.room() * (3 + counter);
        &self.words[from..from + self.len()]
    }

    /// The state at `index`.
    pub fn get(&self, index: usize) -> ReadState {
        assert!(index < self.len());
        let room = self.room();
        let message = room + 2 * index;
        let mut state = ReadState {
            last_message_id: Id::from(self.words[message])
                | Id::from(self.words[message + 1]) << 32,
            ..ReadState::default()
        };
        for counter in 0..self.counters() {
            state.counters[counter] = self.words[room * (3 + counter) + index];
        }
        state
    }

    fn put(&mut self, index: usize, state: &ReadState) {
        let room = self.room();
        let message = room + 2 * index;
        self.words[message] = state.last_message_id as u32;
        self.words[message + 1] = (state.last_message_id >> 32) as u32;
        for counter in 0..self.counters() {
            self.words[room * (3 + counter) + index] = state.counters[counter];
        }
    }

    /// Replaces the values at `index`; says nothing about dirty.
    pub fn set(&mut self, index: usize, state: &ReadState) {
        assert!(index < self.len());
        self.put(index, state);
    }

    /// Inserts a clean state at the place [`Block::search`] named. The block must not be full.
    pub fn insert(&mut self, index: usize, number: u32, state: &ReadState) {
        assert!(index <= self.len() && !self.is_full());
        if self.len == self.room {
            self.resize(room_for(self.len() + 1));
        }
        let (room, len) = (self.room(), self.len());
        self.words.copy_within(index..len, index + 1);
        let messages = room + 2 * index..room + 2 * len;
        self.words.copy_within(messages, room + 2 * index + 2);
        for counter in 0..self.counters() {
            let column = room * (3 + counter);
            self.words
                .copy_within(column + index..column + len, column + index + 1);
        }
        for bits in self.bit_columns() {
            open_bit(&mut self.words[bits], index);
        }
        self.len += 1;
        self.words[index] = number;
        self.put(index, state);
    }

    /// Removes the state at `index`; shrinks a block that is mostly empty.
    pub fn remove(&mut self, index: usize) {
        assert!(index < self.len());
        let (room, len) = (self.room(), self.len());
        self.words.copy_within(index + 1..len, index);
        let messages = room + 2 * (index + 1)..room + 2 * len;
        self.words.copy_within(messages, room + 2 * index);
        for counter in 0..self.counters() {
            let column = room * (3 + counter);
            self.words
                .copy_within(column + index + 1..column + len, column + index);
        }
        for bits in self.bit_columns() {
            close_bit(&mut self.words[bits], index);
        }
        self.len -= 1;
        if room > 8 && self.len() * 2 < room {
            self.resize(room_for(self.len()));
        }
    }

    /// Moves the upper half to a new block.
    pub fn split(&mut self) -> Block {
        let from = self.len() / 2;
        let mut upper = Block::with_room(room_for(self.len() - from), self.counters());
        upper.copy_states(self, from..self.len());
        let mut lower = Block::with_room(room_for(from), self.counters());
        lower.copy_states(self, 0..from);
        *self = lower;
        upper
    }

    /// Moves every state of `upper`, whose numbers are all higher, to the end of this one.
    pub fn append(&mut self, upper: &Block) {
        let len = self.len() + upper.len();
        assert!(len <= MAX_BLOCK);
        if len > self.room() {
            self.resize(room_for(len));
        }
        self.copy_states(upper, 0..upper.len());
    }

    fn resize(&mut self, room: usize) {
        let mut resized = Block::with_room(room, self.counters());
        resized.copy_states(self, 0..self.len());
        *self = resized;
    }

    fn copy_states(&mut self, from: &Block, range: std::ops::Range<usize>) {
        debug_assert!(
            self.len == 0
                || range.is_empty()
                || self.numbers()[self.len() - 1] < from.words[range.start]
        );
        let (at, room) = (self.len(), self.room());
        let mut copy = |to: usize, from_words: &[u32]| {
            self.words[to..to + from_words.len()].copy_from_slice(from_words);
        };
        copy(at, &from.words[range.clone()]);
        let source = from.room();
        copy(
            room + 2 * at,
            &from.words[source + 2 * range.start..source + 2 * range.end],
        );
        for counter in 0..from.counters() {
            let column = source * (3 + counter);
            copy(
                room * (3 + counter) + at,
                &from.words[column + range.start..column + range.end],
            );
        }
        self.len += range.len() as u16;
        for (offset, index) in range.enumerate() {
            if from.is_dirty(index) {
                self.set_dirty(at + offset);
            }
            if from.is_in_flight(index) {
                self.set_in_flight(at + offset);
            }
        }
    }

    fn bit_columns(&self) -> [std::ops::Range<usize>; 2] {
        let start = self.room() * (3 + self.counters());
        let middle = start + bit_words(self.room());
        [start..middle, middle..self.words.len()]
    }

    fn dirty_bits(&self) -> &[u32] {
        let [dirty, _] = self.bit_columns();
        &self.words[dirty]
    }

    fn in_flight_bits(&self) -> &[u32] {
        let [_, in_flight] = self.bit_columns();
        &self.words[in_flight]
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
    pub fn set_dirty(&mut self, index: usize) {
        assert!(index < self.len());
        let [dirty, _] = self.bit_columns();
        set_bit(&mut self.words[dirty], index);
    }

    fn set_in_flight(&mut self, index: usize) {
        let [_, in_flight] = self.bit_columns();
        set_bit(&mut self.words[in_flight], index);
    }

    /// Takes the snapshot of up to `limit` states that are dirty and not in flight: they are no
    /// longer dirty, but in flight. More can be taken into the same snapshot later.
    pub fn snapshot(&mut self, limit: usize, mut take: impl FnMut(u32, ReadState)) -> usize {
        let [dirty, in_flight] = self.bit_columns();
        let mut taken = 0;
        for word in 0..dirty.len() {
            let mut bits = self.words[dirty.start + word] & !self.words[in_flight.start + word];
            while bits != 0 && taken < limit {
                let lowest = bits & bits.wrapping_neg();
                let index = 32 * word + bits.trailing_zeros() as usize;
                bits ^= lowest;
                self.words[dirty.start + word] ^= lowest;
                self.words[in_flight.start + word] |= lowest;
                take(self.words[index], self.get(index));
                taken += 1;
            }
        }
        taken
    }

    /// Nothing is in flight any more: what was is clean if the commit was `done` and nothing
    /// changed since, else dirty.
    pub fn settle(&mut self, done: bool) {
        let [dirty, in_flight] = self.bit_columns();
        for word in 0..dirty.len() {
            if !done {
                self.words[dirty.start + word] |= self.words[in_flight.start + word];
            }
            self.words[in_flight.start + word] = 0;
        }
    }

    /// States that are dirty.
    pub fn dirty(&self) -> usize {
        self.dirty_bits()
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
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
            let mut block = Block::with_room(0, 2);
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
        let mut block = Block::with_room(0, 1);
        for number in 0..50 {
            block.insert(number as usize, number, &ReadState::default());
        }
        assert!(block.bytes() <= 50 * 18, "{} bytes", block.bytes());
    }
}
