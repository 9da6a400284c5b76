//! The options of the store, as `ReadStates.Store.Postgres` has checked them.

use std::time::Duration;

use read_states_remote::Tls;
use serde::Deserialize;

/// The options. There is a password in them, so they are not to be shown.
#[derive(Clone, Deserialize)]
pub struct Options {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// Who we are.
    pub user: String,
    /// And how we show that.
    pub password: Option<String>,
    /// The schema of the tables.
    pub schema: String,
    /// The table of the read states; those of the deletes and of the notes have something appended.
    pub table: String,
    /// Connections.
    pub pool: usize,
    /// An encrypted connection.
    pub tls: Option<Tls>,
    /// Milliseconds a statement may take, or a connection to be made.
    pub timeout: u64,
}

impl Options {
    /// How long a statement may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }

    /// What is wrong where the server is there and says nothing.
    pub fn late(&self) -> String {
        let Options {
            host,
            port,
            timeout,
            ..
        } = self;
        format!("url: {host}:{port} does not answer within {timeout} ms")
    }

    /// The table of the read states, for a statement. The names are of small letters, digits and underscores.
    pub fn states(&self) -> String {
        self.qualified(&self.table)
    }

    /// The table of the deletes.
    pub fn deletes(&self) -> String {
        self.qualified(&self.deletes_table())
    }

    /// The table of the notes.
    pub fn notes(&self) -> String {
        self.qualified(&self.notes_table())
    }

    /// The name of the table of the deletes.
    pub fn deletes_table(&self) -> String {
        format!("{}_deletes", self.table)
    }

    /// The name of the table of the notes.
    pub fn notes_table(&self) -> String {
        format!("{}_notes", self.table)
    }

    fn qualified(&self, table: &str) -> String {
        format!("\"{}\".\"{table}\"", self.schema)
    }
}
