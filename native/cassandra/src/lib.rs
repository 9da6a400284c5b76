//! The store of read_states on Cassandra, as a NIF library of its own.
//!
//! One partition a user, every read state a row, its value, version and writer in one [`cell`]; the version is the time
//! stamp of the write. So Cassandra itself keeps the newest of each row, whatever comes late, twice or out of order.

mod cassandra;
mod cell;
mod commit;
mod consistency;
mod known;
mod load;
mod options;
mod permissions;
mod scan;
mod schema;
mod server;
mod session;

pub use cassandra::Cassandra;

read_states_remote::nif!("Elixir.ReadStates.Store.Cassandra.Native", Cassandra);
