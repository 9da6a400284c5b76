//! Dropping things that are too large to be dropped on a scheduler.
//!
//! The garbage collector of the BEAM drops a resource wherever it happens to run.

use std::ops::{Deref, DerefMut};
use std::panic::RefUnwindSafe;
use std::thread;

use parking_lot::Mutex;

/// Drops what it holds on a thread of its own.
pub struct Disposed<T: Send + 'static>(Option<T>);

impl<T: Send> Disposed<T> {
    /// Holds `value`.
    pub fn new(value: T) -> Self {
        Disposed(Some(value))
    }

    /// Gives `value` back, to be dropped by the caller.
    pub fn into_inner(mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T: Send> Deref for Disposed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("emptied only when it is consumed")
    }
}

impl<T: Send> DerefMut for Disposed<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("emptied only when it is consumed")
    }
}

impl<T: Send> Drop for Disposed<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        if value.is_some() {
            // Without a thread the value is dropped here: slow is better than leaked.
            let _ = thread::Builder::new().spawn(move || drop(value));
        }
    }
}

/// Holds something until it is taken, which succeeds once; if nobody takes it, it is disposed of.
pub struct UntilTaken<T: Send + 'static>(Mutex<Option<Disposed<T>>>);

// A lock that is let go by a panic guards an engine that is whole: the engine checks what can
// fail before it changes anything.
impl<T: Send> RefUnwindSafe for UntilTaken<T> {}

impl<T: Send> UntilTaken<T> {
    /// Holds `value`.
    pub fn new(value: T) -> Self {
        UntilTaken(Mutex::new(Some(Disposed::new(value))))
    }

    /// `None` if somebody has taken it before.
    pub fn take(&self) -> Option<T> {
        self.0.lock().take().and_then(Disposed::into_inner)
    }

    /// Lets `change` at it, unless somebody has taken it.
    pub fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.lock().as_deref_mut().map(change)
    }
}
