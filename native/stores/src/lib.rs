//! The stores of read_states that are written in Rust: on disk ([`Local`]) and in memory ([`MemoryData`]).
//!
//! Both keep [records](record) under [ordered keys](key) in a [`table`], and
//! share the one place that knows which of two writes wins, [`versioned`].

mod background;
mod directory;
mod error;
mod fjall_files;
mod fjall_table;
mod header_file;
mod instance;
pub mod key;
mod local;
mod memory;
pub mod record;
mod store;
pub mod table;
pub mod versioned;
mod written;

pub use error::StoreError;
pub use instance::Instance;
pub use local::Local;
pub use memory::{Memory, MemoryData, MemoryTable};
pub use store::{Page, Store};

#[cfg(test)]
mod model;
