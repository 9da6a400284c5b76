//! The engine from outside: through its public API, against a plain model.

mod bounds;
mod large_users;
mod model;
mod recovery;
#[cfg(feature = "shuttle")]
mod schedules;
mod store;
mod stragglers;
mod threads;
