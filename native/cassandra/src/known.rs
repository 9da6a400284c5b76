//! Which entries are surely newer than all that the store has of their user.
//!
//! Cassandra keeps the newest of each row by itself, and of equal versions the greater bytes, or the delete. The version rule wants
//! the first: who writes the same version again changes nothing, whatever comes with it. So an entry whose version the store
//! may have already is compared with what is there, and that is asked only where it is needed: for each of [`SLOTS`] hashes of
//! users the highest version committed is kept, at the start the floor; an entry above it is written without a look.
//! An instance stamps every commit anew, above the floor, so that it never has to look.

use parking_lot::Mutex;
use read_states_engine::batch::Version;
use read_states_engine::id::Id;

/// Hashes of users: 2 MB, so many that the users of commits under way share few of them.
const SLOTS: usize = 1 << 18;

/// The highest versions.
pub struct Known(Mutex<Box<[Version]>>);

impl Known {
    /// All that is in the store is at or below `floor`.
    pub fn new(floor: Version) -> Self {
        Known(Mutex::new(vec![floor; SLOTS].into_boxed_slice()))
    }

    /// Notes that `user` is about to get entries, the newest of them with this version; returns the version at and below
    /// which the store may have something of the user.
    pub fn raise(&self, user: Id, version: Version) -> Version {
        // From the upper bits of a product, where all bits of the user have a part.
        let slot = user.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS.trailing_zeros());
        let known = &mut self.0.lock()[slot as usize];
        let before = *known;
        *known = before.max(version);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_user_rise_from_the_floor() {
        let known = Known::new(10);
        assert_eq!(known.raise(1, 20), 10);
        assert_eq!(known.raise(1, 15), 20);
        assert_eq!(known.raise(1, 20), 20);
        assert_eq!(known.raise(2, 20), 10);
        assert_eq!(known.raise(u64::MAX, 20), 10);
    }
}
