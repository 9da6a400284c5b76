//! The driver of Cassandra alone, see [`read_states_bench::bare`]. Rows of a user are written in a batch, and `by` is how many of
//! these are under way at once.
//!
//!     cargo run --release --bin cassandra -- HOST:PORT KEYSPACE.TABLE
//!
//! The table is that of `mix read_states.cassandra.setup`.

use futures_util::{StreamExt, stream};
use read_states_bench::bare::{Bare, serve};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;

struct Cassandra {
    session: Session,
    write: PreparedStatement,
    load: PreparedStatement,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(point), Some(table)) = (arguments.next(), arguments.next()) else {
        eprintln!("arguments: HOST:PORT KEYSPACE.TABLE");
        std::process::exit(2);
    };
    serve(Cassandra::open(&point, &table));
}

impl Cassandra {
    async fn open(point: &str, table: &str) -> Self {
        let session = SessionBuilder::new().known_node(point).build().await;
        let session = session.expect("a cluster");
        let prepare = async |text: String| {
            let mut statement = session.prepare(text).await.expect("the table");
            statement.set_is_idempotent(true);
            statement.set_consistency(Consistency::LocalQuorum);
            statement
        };
        let write = prepare(format!(
            "UPDATE {table} USING TIMESTAMP ? SET state = ? WHERE user = ? AND kind = ? AND channel = ?"
        ));
        let load = prepare(format!(
            "SELECT kind, channel, state FROM {table} WHERE user = ?"
        ));
        let (write, load) = (write.await, load.await);
        Cassandra {
            session,
            write,
            load,
        }
    }

    async fn write(&self, user: i64, rows: i64, version: i64) {
        let state = [version as u8; 30];
        let values: Vec<_> = (0..rows)
            .map(|channel| (version, &state[..], user, 0i8, channel))
            .collect();
        if let [values] = &values[..] {
            let written = self.session.execute_unpaged(&self.write, values).await;
            written.expect("a write");
            return;
        }
        let statements = values.iter().map(|_| self.write.clone().into()).collect();
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_is_idempotent(true);
        batch.set_consistency(Consistency::LocalQuorum);
        let written = self.session.batch(&batch, &values).await;
        written.expect("a batch");
    }
}

impl Bare for Cassandra {
    async fn commit(&self, users: i64, rows: i64, at_once: usize, round: i64) {
        let mut writes = stream::iter(0..users)
            .map(|user| self.write(user, rows, round))
            .buffer_unordered(at_once);
        while let Some(()) = writes.next().await {}
    }

    async fn load(&self, user: i64) -> usize {
        let read = self.session.execute_unpaged(&self.load, (user,)).await;
        let rows = read.expect("a read").into_rows_result().expect("rows");
        let rows = rows.rows::<(i8, i64, &[u8])>().expect("these columns");
        rows.map(|row| row.expect("a row").2.len().min(1)).sum()
    }
}
