//! A store as one instance has it open.

use crate::table::Table;
use crate::versioned::Versioned;
use crate::{Page, Store, StoreError};
use parking_lot::RwLock;
use read_states_engine::batch::Version;
use read_states_engine::id::Id;
use std::sync::Arc;

/// A versioned table, until it is closed.
#[derive(Debug)]
pub struct Instance<T> {
    /// Read-locked by each call, so that closing waits for them.
    open: RwLock<Option<Arc<Versioned<T>>>>,
    counters: usize,
}

impl<T: Table> Instance<T> {
    pub(crate) fn new(versioned: Arc<Versioned<T>>, counters: usize) -> Self {
        Instance {
            open: RwLock::new(Some(versioned)),
            counters,
        }
    }

    fn with<R>(
        &self,
        call: impl FnOnce(&Versioned<T>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        call(self.open.read().as_ref().ok_or(StoreError::Closed)?)
    }
}

impl<T: Table> Store for Instance<T> {
    fn load(&self, users: &[Id], cursor: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        self.with(|open| open.load(users, cursor, limit, self.counters))
    }

    fn commit(&self, batch: &[u8]) -> Result<(), StoreError> {
        self.with(|open| open.commit(batch, self.counters))
    }

    fn scan(&self, cursor: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        self.with(|open| open.scan(cursor, limit, self.counters))
    }

    fn floor(&self) -> Result<Version, StoreError> {
        self.with(|open| Ok(open.floor()))
    }

    fn close(&self) {
        let open = self.open.write().take();
        drop(open);
    }
}
