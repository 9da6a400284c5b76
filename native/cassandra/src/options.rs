//! The options of the store, as `ReadStates.Store.Cassandra` has checked them.

use std::time::Duration;

use read_states_remote::Tls;
use serde::Deserialize;

use crate::consistency::Level;

/// The options. There is a password in them, so they are not to be shown.
#[derive(Clone, Deserialize)]
pub struct Options {
    /// Host or host:port of some nodes, from which the others are learnt.
    pub contact_points: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// The table in it; that of the notes has `_notes` appended.
    pub table: String,
    /// How many replicas a load asks.
    pub read: Level,
    /// How many replicas have to have a commit.
    pub write: Level,
    /// Whose nodes are asked.
    pub datacentre: Option<String>,
    /// Who we are.
    pub user: Option<String>,
    /// And how we show that.
    pub password: Option<String>,
    /// An encrypted connection.
    pub tls: Option<Tls>,
    /// Milliseconds a request may take, before it is tried again.
    pub timeout: u64,
    /// Replicas of a keyspace that is made, in each datacentre.
    pub replication_factor: u32,
}

impl Options {
    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }

    /// The table in its keyspace, for a statement. The names are of small letters, digits and underscores.
    pub fn states(&self) -> String {
        format!("\"{}\".\"{}\"", self.keyspace, self.table)
    }

    /// The name of the other table.
    pub fn notes_table(&self) -> String {
        format!("{}_notes", self.table)
    }

    /// The other table in its keyspace.
    pub fn notes(&self) -> String {
        format!("\"{}\".\"{}\"", self.keyspace, self.notes_table())
    }
}
