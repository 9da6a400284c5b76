//! The read states of one user, sorted by channel number: one block, or a list of them.
//!
//! ```text
//! blocks   | 3 … 90 | 95 … 400 | 402 … 7001 |     every number of a block is below the next block's
//! ```
//!
//! A block holds at most 512 states, so that neither an insertion nor a page of a list moves
//! more than that, however many channels the user has. Almost every user has one block, which
//! lies in the set itself.

use smallvec::SmallVec;

use crate::block::{Block, MAX_BLOCK};
use crate::read_state::ReadState;

/// Two neighbours that fit into half a block are merged.
const MERGE: usize = MAX_BLOCK / 2;

/// See the module.
#[derive(Debug)]
pub struct ReadStateSet {
    blocks: SmallVec<[Block; 1]>,
    len: u32,
    counters: u8,
}

/// Where a state is in a set; valid until the set changes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    block: usize,
    index: usize,
}

impl ReadStateSet {
    /// A set without states, whose states will have this many counters.
    pub fn new(counters: usize) -> Self {
        ReadStateSet {
            blocks: SmallVec::new(),
            len: 0,
            counters: counters as u8,
        }
    }

    /// A set of clean states. `rows` must be sorted by number, each number once.
    pub fn from_sorted(counters: usize, rows: &[(u32, ReadState)]) -> Self {
        let mut set = Self::new(counters);
        let blocks = rows.len().div_ceil(MAX_BLOCK);
        if blocks > 0 {
            for chunk in rows.chunks(rows.len().div_ceil(blocks)) {
                let mut block = Block::with_room(chunk.len(), counters);
                for (index, (number, state)) in chunk.iter().enumerate() {
                    block.insert(index, *number, state);
                }
                set.blocks.push(block);
            }
        }
        set.len = rows.len() as u32;
        set
    }

    /// Number of states.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no state.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes allocated outside the set itself.
    pub fn bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(Block::bytes).sum();
        let list = if self.blocks.spilled() {
            self.blocks.capacity() * size_of::<Block>()
        } else {
            0
        };
        blocks + list
    }

    /// Most bytes by which [`ReadStateSet::bytes`] can grow when a state is inserted.
    pub fn growth(&self) -> usize {
        match &self.blocks[..] {
            [] => Block::with_room(0, usize::from(self.counters)).growth(),
            [block] if !block.is_full() => block.growth(),
            [block, ..] => block.most_bytes() + 2 * self.blocks.len() * size_of::<Block>(),
        }
    }

    /// Most bytes by which [`ReadStateSet::bytes`] grows at once when several states are inserted.
    pub fn next_growth(&self) -> usize {
        match &self.blocks[..] {
            [block] if !block.is_full() => block.next_growth(),
            _ => self.growth(),
        }
    }

    /// The block in which `number` is or belongs.
    fn block_of(&self, number: u32) -> usize {
        if self.blocks.len() < 2 {
            return 0;
        }
        let after = self
            .blocks
            .partition_point(|block| block.numbers()[0] <= number);
        after.saturating_sub(1)
    }

    /// Where `number` is, if it is.
    pub fn find(&self, number: u32) -> Option<Place> {
        let block = self.block_of(number);
        let index = self.blocks.get(block)?.search(number).ok()?;
        Some(Place { block, index })
    }

    /// The state at `place`.
    pub fn get(&self, place: Place) -> ReadState {
        self.blocks[place.block].get(place.index)
    }

    /// Replaces the state at `place` and marks it dirty.
    pub fn change(&mut self, place: Place, state: &ReadState) {
        let block = &mut self.blocks[place.block];
        block.set(place.index, state);
        block.set_dirty(place.index);
    }

    /// Inserts a state that is not there yet, dirty.
    pub fn insert(&mut self, number: u32, state: &ReadState) {
        if self.blocks.is_empty() {
            let block = Block::with_room(0, usize::from(self.counters));
            self.blocks.push(block);
        }
        let mut at = self.block_of(number);
        if self.blocks[at].is_full() {
            let upper = self.blocks[at].split();
            if number >= upper.numbers()[0] {
                at += 1;
                self.blocks.insert(at, upper);
            } else {
                self.blocks.insert(at + 1, upper);
            }
        }
        let block = &mut self.blocks[at];
        let Err(index) = block.search(number) else {
            unreachable!("the caller looked for the number under the same lock");
        };
        block.insert(index, number, state);
        block.set_dirty(index);
        self.len += 1;
    }

    /// Removes the state at `place`.
    pub fn remove(&mut self, place: Place) {
        let Place { block, index } = place;
        self.blocks[block].remove(index);
        self.len -= 1;
        if self.blocks[block].len() == 0 {
            self.blocks.remove(block);
        } else {
            self.merge(block);
        }
        if self.blocks.len() <= 1 {
            self.blocks.shrink_to_fit();
        }
    }

    /// Merges the block with a neighbour if both are small.
    fn merge(&mut self, block: usize) {
        for lower in block.saturating_sub(1)..=block {
            if let (Some(a), Some(b)) = (self.blocks.get(lower), self.blocks.get(lower + 1))
                && a.len() + b.len() <= MERGE
            {
                let upper = self.blocks.remove(lower + 1);
                self.blocks[lower].append(&upper);
                return;
            }
        }
    }

    /// Sum of one counter over every state.
    pub fn total(&self, counter: usize) -> u64 {
        let values = self.blocks.iter().flat_map(|block| block.counter(counter));
        values.map(|value| u64::from(*value)).sum()
    }

    /// Passes the states whose number is `from` or higher to `take`, whole blocks at a time,
    /// until at least `limit` are passed; returns the number to go on from, `None` at the end.
    pub fn page(
        &self,
        from: u32,
        limit: usize,
        mut take: impl FnMut(u32, ReadState),
    ) -> Option<u32> {
        let mut passed = 0;
        for block in self.blocks.iter().skip(self.block_of(from)) {
            if passed >= limit {
                return Some(block.numbers()[0]);
            }
            let start = block.numbers().partition_point(|number| *number < from);
            for index in start..block.len() {
                take(block.numbers()[index], block.get(index));
            }
            passed += block.len() - start;
        }
        None
    }

    /// The channel numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.blocks
            .iter()
            .flat_map(|block| block.numbers().iter().copied())
    }

    /// Takes the snapshot of up to `limit` dirty states, see [`Block::snapshot`].
    pub fn snapshot(&mut self, limit: usize, mut take: impl FnMut(u32, ReadState)) -> usize {
        let mut taken = 0;
        for block in &mut self.blocks {
            if taken == limit {
                break;
            }
            taken += block.snapshot(limit - taken, &mut take);
        }
        taken
    }

    /// Settles the snapshot in flight, see [`Block::settle`].
    pub fn settle(&mut self, done: bool) {
        for block in &mut self.blocks {
            block.settle(done);
        }
    }

    /// Whether a state changed since its last snapshot.
    pub fn is_dirty(&self) -> bool {
        self.blocks.iter().any(|block| block.dirty() > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn state(message: u64) -> ReadState {
        ReadState {
            last_message_id: message,
            counters: [message as u32, 0, 0, 0],
        }
    }

    fn check(set: &ReadStateSet, model: &BTreeMap<u32, ReadState>) {
        assert_eq!(set.len(), model.len());
        assert!(set.numbers().eq(model.keys().copied()));
        for block in &set.blocks {
            assert!(block.len() > 0, "no block is empty");
        }
        let total: u64 = model
            .values()
            .map(|state| u64::from(state.counters[0]))
            .sum();
        assert_eq!(set.total(0), total);
        let mut listed = BTreeMap::new();
        let mut from = Some(0);
        while let Some(number) = from {
            from = set.page(number, 100, |number, state| {
                assert!(listed.insert(number, state).is_none());
            });
        }
        assert_eq!(&listed, model);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_set_equals_a_map(
            first in prop::collection::btree_set(0..6000u32, 0..3000),
            steps in prop::collection::vec((any::<bool>(), 0..6000u32, any::<u32>()), 0..4000),
        ) {
            let rows: Vec<_> = first.iter().map(|n| (*n, state(u64::from(*n)))).collect();
            let mut set = ReadStateSet::from_sorted(1, &rows);
            let mut model: BTreeMap<u32, ReadState> = rows.into_iter().collect();
            prop_assert!(!set.is_dirty());
            check(&set, &model);
            for (remove, number, message) in steps {
                let message = state(u64::from(message));
                match set.find(number) {
                    Some(place) if remove => {
                        set.remove(place);
                        model.remove(&number);
                    }
                    Some(place) => {
                        prop_assert_eq!(set.get(place), model[&number]);
                        set.change(place, &message);
                        model.insert(number, message);
                    }
                    None => {
                        let most = set.bytes() + set.growth();
                        set.insert(number, &message);
                        prop_assert!(set.bytes() <= most, "{} > {}", set.bytes(), most);
                        model.insert(number, message);
                    }
                }
            }
            check(&set, &model);
            let mut committed = BTreeMap::new();
            while set.snapshot(300, |number, state| {
                committed.insert(number, state);
            }) > 0
            {
                set.settle(true);
            }
            prop_assert!(committed.iter().all(|(number, state)| model[number] == *state));
            prop_assert!(!set.is_dirty());
        }
    }

    #[test]
    fn a_set_that_empties_gives_its_memory_back() {
        let mut set = ReadStateSet::new(1);
        for number in 0..100_000 {
            set.insert(number, &state(0));
        }
        let full = set.bytes();
        for number in 0..99_990 {
            let place = set.find(number).unwrap();
            set.remove(place);
        }
        assert_eq!(set.len(), 10);
        assert!(set.bytes() < full / 100, "{} of {full} bytes", set.bytes());
    }
}
