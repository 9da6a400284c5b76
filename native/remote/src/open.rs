//! A database as an instance has it open, or had.

use std::future::Future;
use std::panic::RefUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::{Database, Error, Reason, call};

/// Most calls under way. An instance makes 8 or 12 at a time; others who call the store may make some.
const MOST_CALLS: u32 = 64;

/// How long closing waits for the calls under way.
const CLOSING: Duration = Duration::from_secs(10);

/// A database, until it is closed.
pub struct Open<D: Database> {
    database: Mutex<Option<Arc<D>>>,
    calls: Arc<Semaphore>,
}

// A lock that is let go by a panic guards a handle, which is there or not.
impl<D: Database> RefUnwindSafe for Open<D> {}

impl<D: Database> Open<D> {
    /// Open.
    pub fn new(database: D) -> Self {
        Open {
            database: Mutex::new(Some(Arc::new(database))),
            calls: Arc::new(Semaphore::new(MOST_CALLS as usize)),
        }
    }

    /// The work of a call, which may be waited for anywhere.
    pub fn call<A, F, W>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<A, Error>> + Send + use<A, F, W, D>
    where
        F: Future<Output = Result<A, Error>> + Send,
        W: FnOnce(Arc<D>) -> F + Send,
    {
        let database = self.database.lock().clone();
        let room = self.calls.clone().try_acquire_owned();
        async move {
            let database = database.ok_or(Reason::Closed)?;
            let _room = room.map_err(|_| Reason::Busy)?;
            work(database).await
        }
    }

    /// Calls that come from now on are refused; those under way are waited for, though not for ever.
    pub fn close(&self) -> impl Future<Output = Result<(), Error>> + Send + use<D> {
        let database = self.database.lock().take();
        let calls = self.calls.clone();
        async move {
            if let Some(database) = database {
                let _ = timeout(CLOSING, calls.acquire_many(MOST_CALLS)).await;
                database.close().await;
            }
            Ok(())
        }
    }
}

impl<D: Database> Drop for Open<D> {
    /// The garbage collector of the BEAM drops it on a scheduler, where nothing must wait.
    fn drop(&mut self) {
        if self.database.get_mut().is_some() {
            call::runtime().spawn(self.close());
        }
    }
}
