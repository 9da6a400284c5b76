//! The engine of read_states: chat read states in packed, sorted sets, bounded in memory.
//!
//! An [`engine::Engine`] keeps users in shards, each behind one lock. A user is *resident*, with
//! all read states in one [`read_state_set`], or absent, with the operations that wait until the
//! store's rows are [loaded](load). What changed is *dirty* until it is [committed](commit) to
//! the store, and only who is clean can be [evicted](evict).
//!
//! The engine knows nothing of the BEAM, of a store or of a clock: [`now::Now`] comes in with
//! each call, and rows go in and out as a [`batch`].
//!
//! # What an operation reads
//!
//! With millions of users almost nothing of this is in the processor's caches, so it is laid out
//! for two waits, each for lines that are fetched together:
//!
//! ```text
//! 1   the user's tag and place in the shard's table      the channel's cell in the directory
//! 2   the user: what is known of him, tags, and about    the channel's slot
//!     where the row of his read state must be
//! ```
//!
//! A [batch](window) makes them for 32 operations at once, and a third one for just the rows that the tags say.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//!
//! use read_states_engine::engine::{Config, Engine};
//! use read_states_engine::id::Channel;
//! use read_states_engine::now::Now;
//! use read_states_engine::operation::{Change, Operation};
//! use read_states_engine::read::Found;
//!
//! let engine = Arc::new(Engine::new(Config::default()));
//! let (user, channel, now) = (1, Channel { kind: 0, id: 10 }, Now::default());
//!
//! // The user is not in memory: the operation waits, the caller does not.
//! let mention = Change::Increment { message: 5, counter: 0, by: 1 };
//! engine.apply(user, &Operation::Change { channel, change: mention }, now).unwrap();
//! assert_eq!(engine.get(user, channel), Ok(Found::Absent));
//!
//! // A load with nothing in the store brings the user in, and the operation with him.
//! let load = engine.begin_load(engine.partition_of(user), 100).load.unwrap();
//! assert_eq!(load.users(), [user]);
//! load.finish(now);
//! let Ok(Found::Resident(state)) = engine.get(user, channel) else { panic!() };
//! assert_eq!(state.counters[0], 1);
//! ```

pub mod batch;
mod block;
pub mod commit;
mod directory;
mod due;
pub mod engine;
mod evict;
mod flush;
mod garbage;
mod gate;
pub mod id;
mod insist;
mod journal_record;
pub mod journaling;
mod ledger;
pub mod list;
pub mod load;
mod load_queue;
pub mod now;
pub mod operation;
mod pages;
mod pending;
mod plan;
mod prefetch;
pub mod read;
pub mod read_state;
mod read_state_set;
mod recency;
pub mod recovery;
#[cfg(all(test, feature = "shuttle"))]
mod schedules;
mod shard;
mod shared;
mod sizes;
mod slabs;
mod stamp;
pub mod stats;
mod stragglers;
mod table;
mod totals;
mod user;
mod window;

pub use evict::Policy;
pub use shard::WriteError;
