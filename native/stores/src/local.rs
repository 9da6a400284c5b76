//! The store on disk.

use crate::directory::Directory;
use crate::fjall_table::FjallTable;
use crate::key::Key;
use crate::record::Record;
use crate::table::{Changes, KeyRange, Table};
use crate::versioned::Versioned;
use crate::{Instance, StoreError};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The store on disk, open. A commit that returned survives the death of the
/// process and of the machine.
///
/// ```
/// use read_states_engine::batch::{BatchBuilder, Entry};
/// use read_states_stores::{Local, Store};
///
/// let directory = tempfile::tempdir().unwrap();
/// let counters = ["mention_count".to_owned()];
/// let store = Local::open(directory.path(), &counters).unwrap();
/// let mut batch = BatchBuilder::new(1);
/// batch.push(&Entry::DeleteUser { user: 7, version: 3 });
/// store.commit(&batch.finish()).unwrap();
/// assert_eq!(Local::open(directory.path(), &counters).unwrap_err().reason(), "in_use");
///
/// store.close();
/// assert_eq!(Local::open(directory.path(), &counters).unwrap().floor().unwrap(), 3);
/// ```
pub type Local = Instance<LocalTable>;

impl Local {
    /// Opens the store in the directory `path`, or makes both, for rows with
    /// these counters (1 to 4).
    pub fn open(path: &Path, counters: &[String]) -> Result<Self, StoreError> {
        let directory = Directory::open(path, counters)?;
        let open = |rows: &Path| FjallTable::open(rows, counters.len());
        let rows = directory.rows(|rows| open(rows).map(drop))?;
        let table = LocalTable {
            rows: open(&rows)?,
            _directory: directory,
        };
        let versioned = Versioned::new(table)?;
        // The directory was nobody's until now.
        versioned.forget_deletes()?;
        Ok(Instance::new(Arc::new(versioned), counters.len()))
    }
}

/// Rows in a directory that is ours: fjall lets go of its files before the lock goes.
#[derive(Debug)]
pub struct LocalTable {
    rows: FjallTable,
    _directory: Directory,
}

impl Table for LocalTable {
    fn get(&self, key: Key) -> Result<Option<Record>, StoreError> {
        self.rows.get(key)
    }

    fn visit(
        &self,
        ranges: &mut dyn Iterator<Item = KeyRange>,
        each: &mut dyn FnMut(Key, Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.rows.visit(ranges, each)
    }

    fn write(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
        self.rows.write(changes, durable)
    }
}
