//! The store of read_states on PostgreSQL, as a NIF library of its own.
//!
//! Every read state is a row, and every delete that is remembered a row of a second table. A batch is written by one statement, which
//! keeps of each row the newest. That a late row is below a delete is found when it is [read](page), so writing looks at
//! nothing but the row itself.

mod commit;
mod options;
mod page;
mod postgres;
mod schema;
mod server;
mod session;

pub use postgres::Postgres;

read_states_remote::nif!("Elixir.ReadStates.Store.Postgres.Native", Postgres);
