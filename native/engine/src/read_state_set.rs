//! The read states of one user, sorted by channel number: one block, or a list of them.
//!
//! ```text
//! blocks   | 3 … 90 | 95 … 400 | 402 … 7001 |     every number of a block is below the next block's
//! ```
//!
//! A block holds at most 512 states, so that neither an insertion nor a page of a list moves
//! more than that, however many channels the user has.

use std::ops::{Deref, DerefMut};

use crate::block::{Block, MAX_BLOCK};
use crate::read_state::ReadState;

/// Two neighbours that fit into half a block are merged.
const MERGE: usize = MAX_BLOCK / 2;

/// See the module. `H` is what the owner keeps with the states, in the memory of the only block.
#[derive(Debug)]
pub struct ReadStateSet<H: Default>(Block<Head<H>>);

/// What is in front of the states.
#[derive(Debug, Default)]
struct Head<H: Default> {
    owner: H,
    /// Of a user with very many channels, two blocks or more. Then this is in front of no states.
    many: Option<Box<Many<H>>>,
}

#[derive(Debug)]
struct Many<H: Default> {
    blocks: Vec<Block<Head<H>>>,
    /// States in all of them.
    len: usize,
    /// Bytes of all of them.
    bytes: usize,
}

/// Where a state is in a set; valid until the set changes. Small, for it is handed about.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    block: u32,
    index: u32,
}

impl Place {
    /// A user has no more channels than there are numbers of them.
    #[inline]
    fn new(block: usize, index: usize) -> Self {
        Place {
            block: block as u32,
            index: index as u32,
        }
    }

    #[inline]
    fn block(self) -> usize {
        self.block as usize
    }

    #[inline]
    fn index(self) -> usize {
        self.index as usize
    }
}

impl<H: Default> ReadStateSet<H> {
    /// A set without states, whose states will have this many counters.
    pub fn new(counters: usize) -> Self {
        ReadStateSet(Block::with_room(0, counters, Head::default()))
    }

    /// A set of clean states. `rows` must be sorted by number, each number once.
    pub fn from_sorted(counters: usize, rows: &[(u32, ReadState)]) -> Self {
        let block = |rows: &[(u32, ReadState)]| {
            let mut block = Block::with_room(rows.len(), counters, Head::default());
            for (index, (number, state)) in rows.iter().enumerate() {
                block.insert(index, *number, state);
            }
            block
        };
        if rows.len() <= MAX_BLOCK {
            return ReadStateSet(block(rows));
        }
        let mut set = Self::new(counters);
        let count = rows.len().div_ceil(MAX_BLOCK);
        let blocks = rows.chunks(rows.len().div_ceil(count)).map(block);
        set.0.many = Some(Box::new(Many::of(blocks.collect())));
        set
    }

    #[inline]
    fn blocks(&self) -> &[Block<Head<H>>] {
        match &self.0.many {
            None => std::slice::from_ref(&self.0),
            Some(many) => &many.blocks,
        }
    }

    #[inline]
    fn block_mut(&mut self, at: usize) -> &mut Block<Head<H>> {
        // The first look ends before the block itself is given out.
        if self.0.many.is_none() {
            return &mut self.0;
        }
        let many = self.0.many.as_mut().expect("it is there, see above");
        &mut many.blocks[at]
    }

    /// Has the processor fetch the states, if they are not very many.
    pub fn prefetch(&self) {
        self.0.prefetch();
    }

    /// The same with what one state needs, see [`Block::prefetch_about`].
    #[inline]
    pub fn prefetch_about(&self, tag: u8) {
        self.0.prefetch_about(tag);
    }

    /// The same with what is to be searched alone, and not what is found then.
    #[inline]
    pub fn prefetch_tags(&self) {
        self.0.prefetch_tags();
    }

    /// Puts an empty set in its place, and what is in front of the states in front of that.
    pub fn take_states(&mut self) -> Self {
        let empty = Self::new(self.0.counters());
        let mut states = std::mem::replace(self, empty);
        std::mem::swap(&mut states.0.owner, &mut self.0.owner);
        states
    }

    /// Number of states.
    pub fn len(&self) -> usize {
        match &self.0.many {
            None => self.0.len(),
            Some(many) => many.len,
        }
    }

    /// Whether there is no state.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let many = self.0.many.as_ref().map_or(0, |many| {
            many.bytes + many.blocks.capacity() * size_of::<Self>() + size_of::<Many<H>>()
        });
        self.0.bytes() + many
    }

    /// Most bytes by which [`ReadStateSet::bytes`] can grow when a state is inserted.
    pub fn growth(&self) -> usize {
        if self.0.many.is_none() && !self.0.is_full() {
            self.0.growth()
        } else {
            self.growth_by_block()
        }
    }

    /// Most bytes by which [`ReadStateSet::bytes`] grows at once when several states are inserted.
    pub fn next_growth(&self) -> usize {
        if self.0.many.is_none() && !self.0.is_full() {
            self.0.next_growth()
        } else {
            self.growth_by_block()
        }
    }

    fn growth_by_block(&self) -> usize {
        let list = (2 * self.blocks().len()).max(4) * size_of::<Self>();
        self.0.most_bytes() + size_of::<Many<H>>() + list
    }

    /// The block in which `number` is or belongs.
    #[inline]
    fn block_of(&self, number: u32) -> usize {
        let blocks = self.blocks();
        if blocks.len() == 1 {
            return 0;
        }
        let after = blocks.partition_point(|block| block.begins_by(number));
        after.saturating_sub(1)
    }

    /// Where `number` is, if it is.
    #[inline]
    pub fn find(&self, number: u32) -> Option<Place> {
        if self.0.many.is_none() {
            return Some(Place::new(0, self.0.find(number)?));
        }
        self.find_of_many(number)
    }

    /// Where `number` probably is, if it is. In a single block its row is not looked at, see [`Block::guess`].
    #[inline]
    pub fn guess(&self, number: u32) -> Option<Place> {
        if self.0.many.is_some() {
            return self.find_of_many(number);
        }
        Some(Place::new(0, self.0.guess(number)?))
    }

    #[cold]
    fn find_of_many(&self, number: u32) -> Option<Place> {
        let block = self.block_of(number);
        Some(Place::new(block, self.blocks()[block].find(number)?))
    }

    /// Whether that number is at a place that was valid once.
    #[inline]
    pub fn is_at(&self, place: Place, number: u32) -> bool {
        let block = self.blocks().get(place.block());
        block.is_some_and(|block| {
            place.index() < block.len() && block.number(place.index()) == number
        })
    }

    /// The state at `place`.
    #[inline]
    pub fn get(&self, place: Place) -> ReadState {
        self.blocks()[place.block()].get(place.index())
    }

    /// Replaces the state at `place` and marks it dirty.
    #[inline]
    pub fn change(&mut self, place: Place, state: &ReadState) {
        let block = self.block_mut(place.block());
        block.set(place.index(), state);
        block.set_dirty(place.index());
    }

    /// Replaces the state at `place` by what is made of it, if anything is, and marks it dirty.
    #[inline(always)]
    pub fn revise<E>(
        &mut self,
        place: Place,
        make: impl FnOnce(ReadState) -> Result<Option<ReadState>, E>,
    ) -> Result<(), E> {
        self.block_mut(place.block()).revise(place.index(), make)
    }

    /// Inserts a state that is not there yet, dirty.
    pub fn insert(&mut self, number: u32, state: &ReadState) {
        let mut at = self.block_of(number);
        if self.blocks()[at].is_full() {
            let many = self.many();
            many.blocks.reserve(1);
            let before = many.blocks[at].bytes();
            let upper = many.blocks[at].split();
            let above = number >= upper.number(0);
            many.bytes = many.bytes + many.blocks[at].bytes() + upper.bytes() - before;
            many.blocks.insert(at + 1, upper);
            at += usize::from(above);
        }
        let block = self.block_mut(at);
        let Err(index) = block.search(number) else {
            unreachable!("the caller looked for the number under the same lock");
        };
        let before = block.bytes();
        block.insert(index, number, state);
        block.set_dirty(index);
        let grown = block.bytes() - before;
        if let Some(many) = &mut self.0.many {
            many.len += 1;
            many.bytes += grown;
        }
    }

    /// The list of blocks, even if there is one only.
    fn many(&mut self) -> &mut Many<H> {
        if self.0.many.is_none() {
            let first = self.0.part(0..self.0.len());
            let mut blocks = Vec::with_capacity(4);
            blocks.push(first);
            let many = Box::new(Many::of(blocks));
            let mut front = Block::with_room(0, self.0.counters(), Head::default());
            std::mem::swap(&mut *front, &mut *self.0);
            self.0 = front;
            self.0.many = Some(many);
        }
        self.0.many.as_mut().expect("it is there, see above")
    }

    /// Removes the state at `place`. Memory is given back by [`ReadStateSet::compact`].
    pub fn remove(&mut self, place: Place) {
        let (block, index) = (place.block(), place.index());
        let Some(many) = &mut self.0.many else {
            self.0.remove(index);
            return;
        };
        many.blocks[block].remove(index);
        many.len -= 1;
        if many.blocks[block].len() == 0 {
            many.bytes -= many.blocks.remove(block).bytes();
        }
    }

    /// Gives back what a state that was removed at `place` has left.
    pub fn compact(&mut self, place: Place) {
        let Some(many) = &mut self.0.many else {
            self.0.shrink();
            return;
        };
        if let Some(block) = many.blocks.get_mut(place.block()) {
            let before = block.bytes();
            block.shrink();
            many.bytes -= before - block.bytes();
            many.merge(place.block());
        }
        if let [last] = &many.blocks[..] {
            let len = last.len();
            self.0.reserve(len);
            if let Some(many) = self.0.many.take() {
                self.0.append(&many.blocks[0]);
            }
        }
    }

    /// Sum of one counter over the states whose number is `from` or higher, whole blocks at a time, until there are `limit`;
    /// and the number to go on from, `None` at the end.
    pub fn total(&self, counter: usize, from: u32, limit: usize) -> (u64, Option<u32>) {
        let (mut sum, mut states) = (0, 0);
        for block in self.blocks().iter().skip(self.block_of(from)) {
            if states >= limit {
                return (sum, Some(block.number(0)));
            }
            // Blocks may have been merged since the page before.
            let start = block.search(from).unwrap_or_else(|start| start);
            sum += match start {
                0 => block.total(counter),
                _ => {
                    let counts = block.states_from(start);
                    counts.map(|(_, it)| u64::from(it.counters[counter])).sum()
                }
            };
            states += block.len() - start;
        }
        (sum, None)
    }

    /// Adds the states whose number is `from` or higher to `to`, whole blocks at a time, until at
    /// least `limit` are added; returns the number to go on from, `None` at the end.
    pub fn page(&self, from: u32, limit: usize, to: &mut Vec<(u32, ReadState)>) -> Option<u32> {
        let full = to.len() + limit;
        for block in self.blocks().iter().skip(self.block_of(from)) {
            if to.len() >= full {
                return Some(block.number(0));
            }
            let start = block.search(from).unwrap_or_else(|start| start);
            // With `extend`, or shown to a closure on its way, each would be put together in memory first, and the processor
            // wait for what it has just written there.
            to.reserve(block.len() - start);
            for numbered in block.states_from(start) {
                to.push(numbered);
            }
        }
        None
    }

    /// The channel numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.blocks().iter().flat_map(Block::numbers)
    }

    /// Takes the snapshot of up to `limit` dirty states, see [`Block::snapshot`].
    pub fn snapshot(&mut self, limit: usize, mut take: impl FnMut(u32, ReadState)) -> usize {
        let mut taken = 0;
        for at in 0..self.blocks().len() {
            if taken == limit {
                break;
            }
            taken += self.block_mut(at).snapshot(limit - taken, &mut take);
        }
        taken
    }

    /// Settles the snapshot in flight, see [`Block::settle`].
    pub fn settle(&mut self, done: bool) {
        for at in 0..self.blocks().len() {
            self.block_mut(at).settle(done);
        }
    }

    /// Whether a state changed since its last snapshot.
    pub fn is_dirty(&self) -> bool {
        self.blocks().iter().any(|block| block.dirty() > 0)
    }
}

impl<H: Default> Deref for ReadStateSet<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.0.owner
    }
}

impl<H: Default> DerefMut for ReadStateSet<H> {
    fn deref_mut(&mut self) -> &mut H {
        &mut self.0.owner
    }
}

impl<H: Default> Many<H> {
    fn of(blocks: Vec<Block<Head<H>>>) -> Self {
        Many {
            len: blocks.iter().map(Block::len).sum(),
            bytes: blocks.iter().map(Block::bytes).sum(),
            blocks,
        }
    }

    /// Merges the block with a neighbour if both are small.
    fn merge(&mut self, block: usize) {
        for lower in block.saturating_sub(1)..=block {
            if let (Some(a), Some(b)) = (self.blocks.get(lower), self.blocks.get(lower + 1))
                && a.len() + b.len() <= MERGE
            {
                let (first, others) = self.blocks.split_at_mut(lower + 1);
                let before = first[lower].bytes();
                first[lower].append(&others[0]);
                self.bytes = self.bytes + first[lower].bytes() - before;
                self.bytes -= self.blocks.remove(lower + 1).bytes();
                return;
            }
        }
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

    /// Of few partitions of the directory, and many.
    fn numbers() -> impl Strategy<Value = u32> {
        prop_oneof![0..3000u32, (0..3000u32).prop_map(|number| number << 20)]
    }

    fn check(set: &ReadStateSet<u8>, model: &BTreeMap<u32, ReadState>) {
        assert_eq!(set.len(), model.len());
        assert!(set.numbers().eq(model.keys().copied()));
        let blocks = set.blocks();
        assert!(blocks.len() == 1 || blocks.iter().all(|block| block.len() > 0));
        if let Some(many) = &set.0.many {
            let bytes: usize = blocks.iter().map(Block::bytes).sum();
            assert_eq!(many.bytes, bytes);
        }
        let total: u64 = model
            .values()
            .map(|state| u64::from(state.counters[0]))
            .sum();
        let (mut sum, mut from) = (0, Some(0));
        while let Some(number) = from {
            let some;
            (some, from) = set.total(0, number, 600);
            sum += some;
        }
        assert_eq!(sum, total);
        assert_eq!(set.total(0, 0, usize::MAX), (total, None));
        let middle = set.numbers().nth(set.len() / 2).unwrap_or(0);
        let above = model
            .range(middle..)
            .map(|(_, it)| u64::from(it.counters[0]));
        assert_eq!(set.total(0, middle, usize::MAX), (above.sum(), None));
        let mut listed = BTreeMap::new();
        let mut from = Some(0);
        while let Some(number) = from {
            let mut page = Vec::new();
            from = set.page(number, 100, &mut page);
            for (number, state) in page {
                assert!(listed.insert(number, state).is_none());
            }
        }
        assert_eq!(&listed, model);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_set_equals_a_map(
            first in prop::collection::btree_set(numbers(), 0..3000),
            steps in prop::collection::vec((any::<bool>(), numbers(), any::<u32>()), 0..4000),
        ) {
            let rows: Vec<_> = first.iter().map(|n| (*n, state(u64::from(*n)))).collect();
            let mut set = ReadStateSet::<u8>::from_sorted(1, &rows);
            *set = 7;
            let mut model: BTreeMap<u32, ReadState> = rows.into_iter().collect();
            prop_assert!(!set.is_dirty());
            check(&set, &model);
            for (remove, number, message) in steps {
                let message = state(u64::from(message));
                match set.find(number) {
                    Some(place) if remove => {
                        set.remove(place);
                        set.compact(place);
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
            prop_assert_eq!(*set, 7, "what is in front stays");
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
        let mut set = ReadStateSet::<u8>::new(1);
        for number in 0..100_000 {
            set.insert(number, &state(0));
        }
        let full = set.bytes();
        for number in 0..99_990 {
            let place = set.find(number).unwrap();
            set.remove(place);
            set.compact(place);
        }
        assert_eq!(set.len(), 10);
        assert!(set.bytes() < full / 100, "{} of {full} bytes", set.bytes());
    }
}
