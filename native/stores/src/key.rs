//! The keys of a table, in order, and their bytes.
//!
//! ```text
//! 0                                                    the floor
//! 1 | version | user [| kind | channel]                the index of remembered deletes
//! 2 | user [| kind | channel]                          records
//! ```
//!
//! A table may keep something of its own under keys that start with 3.
//!
//! Numbers are big-endian, so the bytes are ordered as the keys are: a user's
//! own delete comes before the user's read states. One key space holds all
//! three, because fjall keeps its journal until every key space in it was
//! flushed, and a rarely written one would hold it back.

use read_states_engine::batch::Version;
use read_states_engine::id::{Channel, Id};

const ID: usize = size_of::<Id>();
const FLOOR: u8 = 0;
const DELETED: u8 = 1;
const RECORD: u8 = 2;

/// Bytes of the longest key.
pub const MAX_KEY: usize = 1 + size_of::<Version>() + ID + 1 + ID;

/// What a record is of: one read state, or a user (whose record is the delete of the user).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Whose.
    pub user: Id,
    /// Of what; `None` for the user as a whole.
    pub channel: Option<Channel>,
}

impl Place {
    /// Before every place.
    pub const FIRST: Place = Place::first(0);
    /// After every other place.
    pub const LAST: Place = Place::last(Id::MAX);

    /// The first place of a user.
    pub const fn first(user: Id) -> Place {
        Place {
            user,
            channel: None,
        }
    }

    /// The last place of a user.
    pub const fn last(user: Id) -> Place {
        let channel = Channel {
            kind: u8::MAX,
            id: Id::MAX,
        };
        Place {
            user,
            channel: Some(channel),
        }
    }

    /// 8 or 17 bytes, ordered as places are.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_KEY);
        self.write(&mut bytes);
        bytes
    }

    /// The place that has these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Place> {
        let (user, rest) = id(bytes)?;
        if rest.is_empty() {
            return Some(Place::first(user));
        }
        let (kind, rest) = rest.split_first()?;
        let (id, rest) = id(rest)?;
        let channel = Some(Channel { kind: *kind, id });
        rest.is_empty().then_some(Place { user, channel })
    }

    fn write(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.user.to_be_bytes());
        if let Some(channel) = self.channel {
            bytes.push(channel.kind);
            bytes.extend_from_slice(&channel.id.to_be_bytes());
        }
    }
}

/// A key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Its record's version is the highest version ever committed.
    Floor,
    /// There was a delete of this version at this place; oldest first.
    Deleted(Version, Place),
    /// The record of a place.
    Record(Place),
}

impl Key {
    /// The bytes, ordered as keys are.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_KEY);
        match self {
            Key::Floor => bytes.push(FLOOR),
            Key::Deleted(version, place) => {
                bytes.push(DELETED);
                bytes.extend_from_slice(&version.to_be_bytes());
                place.write(&mut bytes);
            }
            Key::Record(place) => {
                bytes.push(RECORD);
                place.write(&mut bytes);
            }
        }
        bytes
    }

    /// The key that has these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Key> {
        match bytes.split_first()? {
            (&FLOOR, []) => Some(Key::Floor),
            (&DELETED, rest) => {
                let (version, place) = rest.split_first_chunk()?;
                let version = Version::from_be_bytes(*version);
                Some(Key::Deleted(version, Place::from_bytes(place)?))
            }
            (&RECORD, rest) => Some(Key::Record(Place::from_bytes(rest)?)),
            _ => None,
        }
    }
}

fn id(bytes: &[u8]) -> Option<(Id, &[u8])> {
    let (id, rest) = bytes.split_first_chunk::<ID>()?;
    Some((Id::from_be_bytes(*id), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = Place> {
        let id = prop_oneof![Just(0), Just(u64::MAX), 0..3u64, any::<u64>()];
        let channel = proptest::option::of((any::<u8>(), id.clone()));
        (id, channel).prop_map(|(user, channel)| Place {
            user,
            channel: channel.map(|(kind, id)| Channel { kind, id }),
        })
    }

    fn key() -> impl Strategy<Value = Key> {
        let version = prop_oneof![0..3u64, any::<u64>()];
        prop_oneof![
            Just(Key::Floor),
            (version, place()).prop_map(|(version, place)| Key::Deleted(version, place)),
            place().prop_map(Key::Record),
        ]
    }

    proptest! {
        #[test]
        fn bytes_are_read_back_and_ordered_as_the_keys(a in key(), b in key()) {
            let (bytes_a, bytes_b) = (a.to_bytes(), b.to_bytes());
            prop_assert_eq!(Key::from_bytes(&bytes_a), Some(a));
            prop_assert_eq!(bytes_a.cmp(&bytes_b), a.cmp(&b));
            prop_assert!(bytes_a.len() <= MAX_KEY);
        }

        #[test]
        fn every_place_lies_between_the_first_and_the_last(place in place()) {
            prop_assert!(Place::FIRST <= place && place <= Place::LAST);
            prop_assert!(Place::first(place.user) <= place && place <= Place::last(place.user));
            prop_assert_eq!(Place::from_bytes(&place.to_bytes()), Some(place));
        }

        #[test]
        fn foreign_bytes_are_no_key(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            if let Some(key) = Key::from_bytes(&bytes) {
                prop_assert_eq!(key.to_bytes(), bytes);
            }
        }
    }
}
