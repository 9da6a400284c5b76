//! Dropping things that are too large to be dropped on a scheduler.
//!
//! The garbage collector of the BEAM drops a resource wherever it happens to run.

use std::ops::{Deref, DerefMut};
use std::thread;

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
