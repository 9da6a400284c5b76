//! The store in memory: its data belongs to no process and outlives the instances that open it.

use crate::key::Key;
use crate::record::Record;
use crate::table::{Changes, KeyRange, Table};
use crate::versioned::Versioned;
use crate::{Instance, StoreError};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What is kept, whoever has it open.
///
/// ```
/// use read_states_engine::batch::{BatchBuilder, Entry};
/// use read_states_stores::{MemoryData, Store};
///
/// let data = MemoryData::new();
/// let store = data.open(1);
/// let mut batch = BatchBuilder::new(1);
/// batch.push(&Entry::DeleteUser { user: 7, version: 3 });
/// store.commit(&batch.finish()).unwrap();
/// store.close();
/// assert_eq!(data.open(1).floor().unwrap(), 3);
/// ```
#[derive(Debug)]
pub struct MemoryData(Arc<Versioned<MemoryTable>>);

/// The store in memory, open.
pub type Memory = Instance<MemoryTable>;

impl MemoryData {
    /// Empty.
    pub fn new() -> Self {
        let versioned = Versioned::new(MemoryTable::default());
        MemoryData(Arc::new(versioned.expect("an empty map cannot fail")))
    }

    /// Opens it for rows of `counters` counters (1 to 4).
    pub fn open(&self, counters: usize) -> Memory {
        Instance::new(self.0.clone(), counters)
    }
}

impl Default for MemoryData {
    fn default() -> Self {
        Self::new()
    }
}

/// A map behind a lock.
#[derive(Debug, Default)]
pub struct MemoryTable(RwLock<BTreeMap<Key, Record>>);

impl Table for MemoryTable {
    fn get(&self, key: Key) -> Result<Option<Record>, StoreError> {
        Ok(self.0.read().get(&key).copied())
    }

    fn visit(
        &self,
        ranges: &mut dyn Iterator<Item = KeyRange>,
        each: &mut dyn FnMut(Key, Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let map = self.0.read();
        for range in ranges {
            for (key, record) in map.range(range) {
                if each(*key, *record).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write(&self, changes: Changes, _durable: bool) -> Result<(), StoreError> {
        let mut map = self.0.write();
        for (key, record) in changes {
            match record {
                Some(record) => map.insert(key, record),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}
