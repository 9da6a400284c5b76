//! A table of a shard's users by the hash of their id, which moves and grows without looking at them.
//!
//! ```text
//! tags    | 2 bytes each: 15 bits of the hash, or 0 for an empty place   |
//! places  | 8 bytes each: where the user is                             |     found at the tag's index
//! ```
//!
//! Open addressing: a user is at the place that the tag names, or at the first empty one after
//! that. The tag is all the table needs to know of the hash, so neither growing nor removing touches
//! the users, who lie wherever they lie; and both columns can be fetched before either is read.

use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;

use crate::fail_point::fail_point;
use crate::prefetch::prefetch;
use crate::slabs::Slabs;

/// Set in every tag that is not empty.
const TAKEN: u16 = 1 << 15;

/// Places of the smallest table that is not empty.
const LEAST: usize = 8;

/// See the module. `T` is a pointer, for its niche.
#[derive(Debug)]
pub(crate) struct Table<T> {
    tags: Box<[u16], Slabs>,
    places: Box<[Option<T>], Slabs>,
    len: usize,
}

/// Which bits of the hash are the tag. The highest ones choose nothing else.
fn tag(hash: u64) -> u16 {
    TAKEN | (hash >> 49) as u16
}

/// The first place for a tag in a table of that many.
fn home(tag: u16, places: usize) -> usize {
    (usize::from(tag & !TAKEN) * places) >> 15
}

impl<T> Table<T> {
    pub fn new() -> Self {
        Table {
            tags: Vec::new_in(Slabs).into_boxed_slice(),
            places: Vec::new_in(Slabs).into_boxed_slice(),
            len: 0,
        }
    }

    /// Number of places, for [`Table::place`].
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        Slabs::size(size_of_val(&*self.tags)) + Slabs::size(size_of_val(&*self.places))
    }

    /// Has the processor fetch where [`Table::find`] will look first.
    pub fn prefetch(&self, hash: u64) {
        let at = home(tag(hash), self.places.len());
        prefetch(self.tags.as_ptr().wrapping_add(at));
        prefetch(self.places.as_ptr().wrapping_add(at));
    }

    pub fn find(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let at = self.search(hash, is_it)?;
        self.places[at].as_mut()
    }

    pub fn peek(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        let at = self.search(hash, is_it)?;
        self.places[at].as_ref()
    }

    /// The same, if it may be at a place that is known.
    pub fn find_at(
        &mut self,
        place: Option<usize>,
        hash: u64,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Option<&mut T> {
        let at = match place {
            Some(at) if self.at(at).is_some_and(&mut is_it) => at,
            _ => self.search(hash, is_it)?,
        };
        self.places[at].as_mut()
    }

    /// The place of the first with the hash's tag: almost always the one, if it is there at all.
    pub fn first(&self, hash: u64) -> Option<usize> {
        self.search(hash, |_| true)
    }

    /// What is at a place, if anything is.
    pub fn at(&self, place: usize) -> Option<&T> {
        self.places.get(place)?.as_ref()
    }

    fn search(&self, hash: u64, mut is_it: impl FnMut(&T) -> bool) -> Option<usize> {
        self.prefetch(hash);
        let wanted = tag(hash);
        let mut at = home(wanted, self.places.len());
        // There is always an empty place, except in a table without any.
        while let Some(tag) = self.tags.get(at) {
            if *tag == 0 {
                return None;
            }
            if *tag == wanted && self.places[at].as_ref().is_some_and(&mut is_it) {
                return Some(at);
            }
            at = self.next(at);
        }
        None
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.places.len() {
            0
        } else {
            at + 1
        }
    }

    /// Adds what is not there yet.
    pub fn insert(&mut self, hash: u64, value: T) {
        self.reserve();
        self.put(tag(hash), value);
        self.len += 1;
    }

    fn put(&mut self, tag: u16, value: T) {
        let mut at = home(tag, self.places.len());
        while self.tags[at] != 0 {
            at = self.next(at);
        }
        self.tags[at] = tag;
        self.places[at] = Some(value);
    }

    /// What is at a place, if anything is.
    pub fn place(&mut self, at: usize) -> Option<&mut T> {
        self.places.get_mut(at)?.as_mut()
    }

    pub fn take(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let at = self.search(hash, is_it)?;
        self.take_at(at)
    }

    /// Takes what is at a place; others may move back to it and to those after it.
    pub fn take_at(&mut self, at: usize) -> Option<T> {
        let taken = self.places[at].take()?;
        let places = self.places.len();
        self.tags[at] = 0;
        self.len -= 1;
        // Whoever has been put off by the taken one moves up, and so on until a gap.
        let mut gap = at;
        let mut at = self.next(at);
        while self.tags[at] != 0 {
            let home = home(self.tags[at], places);
            // How far it is from home, and how far it would be in the gap, round the end.
            let distance = (at + places - home) % places;
            let moved = (at + places - gap) % places;
            if distance >= moved {
                self.tags.swap(gap, at);
                self.places.swap(gap, at);
                gap = at;
            }
            at = self.next(at);
        }
        Some(taken)
    }

    /// Gives memory back if most places are empty.
    pub fn shrink(&mut self) {
        let places = self.places.len();
        if self.len * 3 < places && places > LEAST {
            self.resize();
        }
    }

    /// Makes room for one more, so that the next [`Table::insert`] moves nothing.
    pub fn reserve(&mut self) {
        if (self.len + 1) * 5 > self.places.len() * 4 {
            fail_point!();
            self.resize();
        }
    }

    /// Takes as many places as leave it three fifths full: it grows from four, and shrinks from one third.
    fn resize(&mut self) {
        let places = ((self.len + 1) * 5 / 3).max(LEAST);
        let mut tags = Vec::with_capacity_in(places, Slabs);
        tags.resize(places, 0);
        let mut empty = Vec::with_capacity_in(places, Slabs);
        empty.resize_with(places, || None);
        let mut resized = Table {
            tags: tags.into_boxed_slice(),
            places: empty.into_boxed_slice(),
            len: self.len,
        };
        for (tag, place) in self.tags.iter().zip(self.places.iter_mut()) {
            if let Some(value) = place.take() {
                resized.put(*tag, value);
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
            steps in prop::collection::vec((0..3u8, 0..300u64, any::<bool>()), 0..2000),
        ) {
            let mut table = Table::new();
            let mut model: HashMap<u64, std::boxed::Box<u64>> = HashMap::new();
            for (step, key, clash) in steps {
                // Every second one at the same few homes, the last of them at the end.
                let clashing = |key: u64| (0x7FFF - key % 3) << 49;
                let key = if clash { 1_000 + key } else { key };
                let hash = if clash { clashing(key) } else { key.wrapping_mul(0x9E37_79B9_7F4A_7C15) };
                match step {
                    0 => {
                        model.entry(key).or_insert_with(|| {
                            table.insert(hash, std::boxed::Box::new(key));
                            std::boxed::Box::new(key)
                        });
                    }
                    1 => prop_assert_eq!(table.take(hash, |other| **other == key), model.remove(&key)),
                    _ => prop_assert_eq!(
                        table.find(hash, |other| **other == key).is_some(),
                        model.contains_key(&key)
                    ),
                }
                prop_assert_eq!(table.len, model.len());
                prop_assert!(table.len * 5 <= table.places() * 4 || table.places() == 0);
                prop_assert!(table.places() <= LEAST.max(4 * table.len + 4));
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
