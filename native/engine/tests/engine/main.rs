//! The engine from outside: through its public API, against a plain model.

mod bounds;
mod histories;
mod large_users;
mod model;
#[cfg(feature = "shuttle")]
mod schedules;
mod threads;
