//! A table in the files of fjall, an embedded log-structured store.

use crate::StoreError;
use crate::directory::Directory;
use crate::key::Key;
use crate::record::Record;
use crate::table::{Changes, KeyRange, Table};
use fjall::config::FilterPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};
use parking_lot::RwLock;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// Blocks of files that were read.
const CACHE: u64 = 16 * MIB;
/// Writes that are in no file but the journal. Of such tables there are up to five
/// when writes come faster than they can be filed, and they are most of the memory
/// fjall takes: all in, 85 MB under constant load, and 190 MB with its default of 64.
/// Smaller ones are filed more often, and each time all reads wait while fjall syncs
/// its list of files.
const MEMTABLE: u64 = 16 * MIB;
/// On disk; the least that fjall takes.
const JOURNAL: u64 = 64 * MIB;
/// Files held open.
const FILES: usize = 128;
/// With two of them, one asks in a loop, as fast as it can, whether the other has
/// finished a merge.
const WORKERS: usize = 3;

/// A key space of fjall.
pub struct FjallTable {
    path: PathBuf,
    counters: usize,
    /// `None` after a failed write, until the files could be opened again.
    open: RwLock<Option<Open>>,
    /// Ours until fjall has let go of its files: fields are dropped in this order.
    _directory: Directory,
}

struct Open {
    keyspace: Keyspace,
    database: Database,
}

impl FjallTable {
    /// Opens the files in `directory`, or makes them. Rows are written with
    /// `counters` counters.
    pub fn open(directory: Directory, counters: usize) -> Result<Self, StoreError> {
        let path = directory.rows(|path| Open::new(path).map(drop))?;
        Ok(FjallTable {
            open: RwLock::new(Some(Open::new(&path)?)),
            path,
            counters,
            _directory: directory,
        })
    }

    fn with<R>(
        &self,
        call: impl FnOnce(&Open) -> Result<R, fjall::Error>,
    ) -> Result<R, StoreError> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(fjall::Error::Poisoned);
        open.and_then(call).map_err(|error| self.error(error))
    }

    /// After a failed write, for example to a full disk, fjall refuses all
    /// others, for it does not know what of it is in the files. Reading them
    /// anew, it does.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.write();
        if open.take().is_some() {
            // A worker holds its share of the old journal until just after the
            // database counted it as gone.
            std::thread::sleep(Duration::from_millis(100));
        }
        *open = Some(Open::new(&self.path)?);
        Ok(())
    }

    fn error(&self, error: fjall::Error) -> StoreError {
        StoreError::fjall(&self.path, error)
    }

    fn damaged(&self, what: &[u8]) -> StoreError {
        StoreError::Damaged(self.path.clone(), format!("unknown entry {what:?}"))
    }
}

impl Open {
    fn new(path: &Path) -> Result<Self, StoreError> {
        let open = || {
            let database = Database::builder(path)
                .cache_size(CACHE)
                .max_journaling_size(JOURNAL)
                .max_cached_files(Some(FILES))
                .worker_threads(WORKERS)
                .open()?;
            // Almost every read is of a range, which has no use for filters.
            let options = || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE)
                    .filter_policy(FilterPolicy::disabled())
            };
            let keyspace = database.keyspace("records", options)?;
            Ok(Open { keyspace, database })
        };
        // Damaged files make fjall panic in places.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(result) => result.map_err(|error| StoreError::fjall(path, error)),
            Err(panic) => {
                let why = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied());
                let why = why.unwrap_or("fjall panicked").to_owned();
                Err(StoreError::Damaged(path.to_owned(), why))
            }
        }
    }

    fn write(&self, changes: &Changes, counters: usize, durable: bool) -> Result<(), fjall::Error> {
        let mode = if durable {
            PersistMode::SyncData
        } else {
            PersistMode::Buffer
        };
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), changes.len())
            .durability(Some(mode));
        for (key, record) in changes {
            match record {
                Some(record) => {
                    batch.insert(&self.keyspace, key.to_bytes(), record.to_bytes(counters));
                }
                None => batch.remove(&self.keyspace, key.to_bytes()),
            }
        }
        batch.commit()
    }
}

impl Table for FjallTable {
    fn get(&self, key: Key) -> Result<Option<Record>, StoreError> {
        let value = self.with(|open| open.keyspace.get(key.to_bytes()))?;
        let record = |value: fjall::UserValue| {
            Record::from_bytes(&value).ok_or_else(|| self.damaged(&value))
        };
        value.map(record).transpose()
    }

    fn visit(
        &self,
        ranges: &mut dyn Iterator<Item = KeyRange>,
        each: &mut dyn FnMut(Key, Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let open = self.open.read();
        let open = open
            .as_ref()
            .ok_or_else(|| self.error(fjall::Error::Poisoned))?;
        let snapshot = open.database.snapshot();
        for (start, end) in ranges {
            let range = (start.map(Key::to_bytes), end.map(Key::to_bytes));
            for guard in snapshot.range(&open.keyspace, range) {
                let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
                let entry = Key::from_bytes(&key).zip(Record::from_bytes(&value));
                let (key, record) = entry.ok_or_else(|| self.damaged(&key))?;
                if each(key, record).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
        let attempt = self
            .open
            .read()
            .as_ref()
            .map(|open| open.write(&changes, self.counters, durable));
        match attempt {
            None | Some(Err(fjall::Error::Poisoned)) => {
                self.reopen()?;
                self.with(|open| open.write(&changes, self.counters, durable))
            }
            Some(result) => result.map_err(|error| self.error(error)),
        }
    }
}

impl fmt::Debug for FjallTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FjallTable").field(&self.path).finish()
    }
}
