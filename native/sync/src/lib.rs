//! The locks, atomics and epochs of the crates here: those of parking_lot, the standard library and
//! crossbeam-epoch, under one name each, so that shuttle's can take their place; and [`mod@fail_point`], where a test makes
//! those who use them panic.
//!
//! With the feature `shuttle` each use of one is a place where shuttle may go on with another thread, and a test
//! explores (`explore`) many such schedules, each of which can be run again. Without it, which is always but for
//! `script/schedules`, this is nothing but other names for the same types.
//!
//! Shuttle takes every atomic for sequentially consistent: a wrong `Ordering` it does not find. Loom would, but not
//! here: it treats `SeqCst` as `AcqRel`, on which waiting at a gate would rightly fail, and has no words in a mapped
//! file, no slots that are zeros, and no more than a few threads with some dozens of steps.

#[cfg(feature = "shuttle")]
mod explore;
pub mod fail_point;

#[cfg(feature = "shuttle")]
pub use explore::{Effort, atomic, explore, join, pin, spawn, step, thread};
#[cfg(feature = "shuttle")]
pub use shuttle_parking_lot::{Mutex, MutexGuard, RwLock};

#[cfg(not(feature = "shuttle"))]
pub use crossbeam_epoch::pin;
#[cfg(not(feature = "shuttle"))]
pub use parking_lot::{Mutex, MutexGuard, RwLock};
#[cfg(not(feature = "shuttle"))]
pub use std::{sync::atomic, thread};
