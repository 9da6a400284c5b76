//! What the stores on a server share.
//!
//! Such a store is a [`Database`], in a crate and a NIF library of its own, which is built only for an application that asks
//! for it. The macro [`nif!`] makes the library of it. No scheduler ever waits: a call of the library starts the
//! [work](call) on a runtime of its own and returns; the answer comes to the process that called as a message.

pub mod call;
mod database;
mod error;
mod header;
pub mod nif_support;
pub mod open;
pub mod tls;

pub use database::{Database, Page};
pub use error::{Error, Reason};
pub use header::header_to_note;
pub use tls::Tls;
