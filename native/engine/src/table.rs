//! A table of a shard's users by the hash of their id, which moves and grows without looking at them.
//!
//! ```text
//! line     | places: 6 of 8 bytes | tags: 6 of 2 bytes | rest: 4 |    64 bytes, a line of the cache
//! place    | where the user is                                   |
//! tag      | 15 bits of the hash, or 0 for an empty place        |    found at the place's index in the line
//! ```
//!
//! Open addressing: a user is at the place that the tag names, or at the first empty one after
//! that, mostly in the same line. The tag is all the table needs to know of the hash, so neither growing nor
//! removing touches the users, who lie wherever they lie.

use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use read_states_sync::fail_point;

use crate::prefetch::prefetch;
use crate::slabs::Slabs;

/// Set in every tag that is not empty.
const TAKEN: u16 = 1 << 15;

/// Places of a line.
const WIDTH: usize = 6;

/// See the module. `T` is a pointer, for its niche.
#[derive(Debug)]
pub(crate) struct Table<T> {
    lines: Box<[Line<T>], Slabs>,
    len: usize,
}

/// See the module.
#[derive(Debug)]
#[repr(C, align(64))]
struct Line<T> {
    places: [Option<T>; WIDTH],
    tags: [u16; WIDTH],
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        const { assert!(size_of::<Self>() == 64) };
        Line {
            places: [const { None }; WIDTH],
            tags: [0; WIDTH],
        }
    }
}

/// Which bits of the hash are the tag. The highest ones choose nothing else.
#[inline]
fn tag(hash: u64) -> u16 {
    TAKEN | (hash >> 49) as u16
}

/// The first place for a tag in a table of that many lines: its line, and which it is there.
#[inline]
fn home(tag: u16, lines: usize) -> (usize, usize) {
    const BITS: u32 = TAKEN.ilog2();
    let scaled = usize::from(tag & !TAKEN) * lines;
    let below = scaled & (usize::from(TAKEN) - 1);
    (scaled >> BITS, (below * WIDTH) >> BITS)
}

impl<T> Table<T> {
    pub fn new() -> Self {
        Table {
            lines: Vec::new_in(Slabs).into_boxed_slice(),
            len: 0,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of places, for [`Table::place`].
    #[inline]
    pub fn places(&self) -> usize {
        self.lines.len() * WIDTH
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        Slabs::size(size_of_val(&*self.lines))
    }

    /// Has the processor fetch where [`Table::find`] will look first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        let (line, _within) = home(tag(hash), self.lines.len());
        prefetch(self.lines.as_ptr().wrapping_add(line));
    }

    pub fn find(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let (line, within) = self.search(hash, is_it)?;
        self.lines[line].places[within].as_mut()
    }

    pub fn peek(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        let (line, within) = self.search(hash, is_it)?;
        self.lines[line].places[within].as_ref()
    }

    /// The first with the hash's tag, and its place: almost always the one, if it is there at all.
    #[inline]
    pub fn first(&self, hash: u64) -> Option<(usize, &T)> {
        let (line, within) = self.search(hash, |_| true)?;
        let value = self.lines[line].places[within].as_ref()?;
        Some((line * WIDTH + within, value))
    }

    /// What is at a place, if anything is.
    #[inline]
    pub fn at(&self, place: usize) -> Option<&T> {
        self.lines.get(place / WIDTH)?.places[place % WIDTH].as_ref()
    }

    /// The same, to be changed.
    #[inline]
    pub fn place(&mut self, place: usize) -> Option<&mut T> {
        self.lines.get_mut(place / WIDTH)?.places[place % WIDTH].as_mut()
    }

    /// The line of what is looked for, and which place of it.
    #[inline]
    fn search(&self, hash: u64, mut is_it: impl FnMut(&T) -> bool) -> Option<(usize, usize)> {
        let wanted = tag(hash);
        let (mut at, mut within) = home(wanted, self.lines.len());
        // There is always an empty place, except in a table without any.
        while let Some(line) = self.lines.get(at) {
            let tag = line.tags[within];
            if tag == 0 {
                return None;
            }
            if tag == wanted && line.places[within].as_ref().is_some_and(&mut is_it) {
                return Some((at, within));
            }
            within += 1;
            if within == WIDTH {
                within = 0;
                at = if at + 1 == self.lines.len() {
                    0
                } else {
                    at + 1
                };
            }
        }
        None
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        if at + 1 == self.places() { 0 } else { at + 1 }
    }

    #[inline]
    fn tag(&self, at: usize) -> u16 {
        self.lines[at / WIDTH].tags[at % WIDTH]
    }

    fn set(&mut self, at: usize, tag: u16, value: Option<T>) {
        let line = &mut self.lines[at / WIDTH];
        line.tags[at % WIDTH] = tag;
        line.places[at % WIDTH] = value;
    }

    /// Adds what is not there yet.
    pub fn insert(&mut self, hash: u64, value: T) {
        self.reserve();
        self.put(tag(hash), value);
        self.len += 1;
    }

    fn put(&mut self, tag: u16, value: T) {
        let (line, within) = home(tag, self.lines.len());
        let mut at = line * WIDTH + within;
        while self.tag(at) != 0 {
            at = self.next(at);
        }
        self.set(at, tag, Some(value));
    }

    pub fn take(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let (line, within) = self.search(hash, is_it)?;
        self.take_at(line * WIDTH + within)
    }

    /// Takes what is at a place; others may move back to it and to those after it.
    pub fn take_at(&mut self, at: usize) -> Option<T> {
        let taken = self.lines[at / WIDTH].places[at % WIDTH].take()?;
        let places = self.places();
        self.set(at, 0, None);
        self.len -= 1;
        // Whoever has been put off by the taken one moves up, and so on until a gap.
        let mut gap = at;
        let mut at = self.next(at);
        while self.tag(at) != 0 {
            let tag = self.tag(at);
            let (line, within) = home(tag, self.lines.len());
            let home = line * WIDTH + within;
            // How far it is from home, and how far it would be in the gap, round the end.
            let distance = (at + places - home) % places;
            let moved = (at + places - gap) % places;
            if distance >= moved {
                let value = self.lines[at / WIDTH].places[at % WIDTH].take();
                self.set(gap, tag, value);
                self.set(at, 0, None);
                gap = at;
            }
            at = self.next(at);
        }
        Some(taken)
    }

    /// Gives memory back if most places are empty.
    pub fn shrink(&mut self) {
        if self.len * 3 < self.places() && self.fitting() < self.lines.len() {
            self.resize();
        }
    }

    /// Makes room for one more, so that the next [`Table::insert`] moves nothing.
    pub fn reserve(&mut self) {
        if (self.len + 1) * 5 > self.places() * 4 {
            fail_point!();
            self.resize();
        }
    }

    /// Lines with which it is three fifths full: it grows from four, and shrinks from one third.
    fn fitting(&self) -> usize {
        ((self.len + 1) * 5).div_ceil(3 * WIDTH)
    }

    fn resize(&mut self) {
        let mut lines = Vec::with_capacity_in(self.fitting(), Slabs);
        lines.resize_with(self.fitting(), Line::default);
        let mut resized = Table {
            lines: lines.into_boxed_slice(),
            len: self.len,
        };
        for line in self.lines.iter_mut() {
            for (tag, place) in line.tags.iter().zip(&mut line.places) {
                if let Some(value) = place.take() {
                    resized.put(*tag, value);
                }
            }
        }
        *self = resized;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_table_equals_a_map(
            steps in prop::collection::vec((0..5u8, 0..300u64, any::<bool>()), 0..2000),
        ) {
            let mut table = Table::new();
            let mut model: HashMap<u64, std::boxed::Box<u64>> = HashMap::new();
            for (step, key, clash) in steps {
                // Every second one at the same few homes, the last of them at the end.
                let clashing = |key: u64| (0x7FFF - key % 3) << 49;
                let key = if clash { 1_000 + key } else { key };
                let hash_of = |key: u64| match key < 1_000 {
                    true => key.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                    false => clashing(key),
                };
                let (hash, tag_of) = (hash_of(key), |key: u64| tag(hash_of(key)));
                match step {
                    0 => {
                        model.entry(key).or_insert_with(|| {
                            table.insert(hash, std::boxed::Box::new(key));
                            std::boxed::Box::new(key)
                        });
                    }
                    1 => prop_assert_eq!(table.take(hash, |other| **other == key), model.remove(&key)),
                    2 => {
                        table.shrink();
                        prop_assert!(table.places() <= 4 * table.len + 2 * WIDTH);
                    }
                    3 => {
                        let is_at = |(place, _)| table.at(place).map(|other| tag_of(**other));
                        let first = table.first(hash).and_then(is_at);
                        let any = model.keys().map(|other| tag_of(*other)).find(|other| *other == tag(hash));
                        prop_assert_eq!(first, any);
                    }
                    _ => prop_assert_eq!(
                        table.find(hash, |other| **other == key).is_some(),
                        model.contains_key(&key)
                    ),
                }
                prop_assert_eq!(table.len, model.len());
                prop_assert!(table.len * 5 <= table.places() * 4 || table.places() == 0);
            }
            let mut left: std::vec::Vec<u64> = (0..table.places())
                .filter_map(|at| table.place(at).map(|key| **key))
                .collect();
            left.sort_unstable();
            let mut expected: std::vec::Vec<u64> = model.into_keys().collect();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }
}
