//! What [`versioned`](crate::versioned) needs of the place where records lie.

use crate::StoreError;
use crate::key::Key;
use crate::record::Record;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// A range of keys, ends included unless the start says otherwise.
pub type KeyRange = (Bound<Key>, Bound<Key>);

/// What one write does: the record a key gets, or `None` to remove the key.
pub type Changes = BTreeMap<Key, Option<Record>>;

/// An ordered map that takes several changes as one.
pub trait Table: Send + Sync {
    /// The record under a key.
    fn get(&self, key: Key) -> Result<Option<Record>, StoreError>;

    /// Calls `each` with what lies in `ranges`, one range after the other, in
    /// the order of the keys, until it breaks. What it sees is of one moment.
    fn visit(
        &self,
        ranges: &mut dyn Iterator<Item = KeyRange>,
        each: &mut dyn FnMut(Key, Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Makes all changes, or none: also if the machine dies in between. With
    /// `durable` they, and all before them, survive that once this returned.
    fn write(&self, changes: Changes, durable: bool) -> Result<(), StoreError>;
}
