//! The driver alone, as bench/beam/cassandra.exs asks for it: what a store on Cassandra is measured beside.
//!
//!     cargo run --release --bin cassandra -- HOST:PORT KEYSPACE.TABLE
//!
//! The table is that of `mix read_states.cassandra.setup`. It reads one line after the other, and answers each with a line:
//!
//! ```text
//! commit USERS ROWS AT_ONCE ROUND   writes ROWS rows of each of USERS users, in a batch a user     seconds
//! load USER                         reads the rows of a user                                       seconds
//! load_all USERS AT_ONCE            reads those of users 0 to USERS - 1                            seconds
//! ```

use std::io::{BufRead, Write, stdin, stdout};
use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use tokio::runtime::Builder;

struct Bare {
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
    // As many threads as the store has.
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let bare = Arc::new(runtime.block_on(Bare::open(&point, &table)));
    println!("ready");
    for line in stdin().lock().lines() {
        let line = line.expect("a line");
        let started = Instant::now();
        // A task of the runtime, as a call of the store is. What `block_on` has itself is on this thread, outside of the runtime.
        let work = runtime.spawn(bare.clone().answer(line));
        runtime.block_on(work).expect("an answer");
        println!("{}", started.elapsed().as_secs_f64());
        stdout().flush().expect("a reader");
    }
}

impl Bare {
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
        Bare {
            session,
            write,
            load,
        }
    }

    /// Does what a line asks for.
    async fn answer(self: Arc<Self>, line: String) {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| -> u64 { words[at].parse().expect("a number") };
        match words[0] {
            "commit" => {
                let (rows, round) = (number(2) as i64, number(4));
                let mut writes = stream::iter(0..number(1) as i64)
                    .map(|user| self.commit(user, rows, round))
                    .buffer_unordered(number(3) as usize);
                while let Some(()) = writes.next().await {}
            }
            "load" => {
                self.load(number(1) as i64).await;
            }
            "load_all" => {
                let mut reads = stream::iter(0..number(1) as i64)
                    .map(|user| self.load(user))
                    .buffer_unordered(number(2) as usize);
                while let Some(_rows) = reads.next().await {}
            }
            other => panic!("what is {other}?"),
        }
    }

    /// Each round writes the same rows with a later version.
    async fn commit(&self, user: i64, rows: i64, round: u64) {
        let state = [round as u8; 30];
        let version = round as i64;
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

    /// The number of rows, each of them looked at.
    async fn load(&self, user: i64) -> usize {
        let read = self.session.execute_unpaged(&self.load, (user,)).await;
        let rows = read.expect("a read").into_rows_result().expect("rows");
        let rows = rows.rows::<(i8, i64, &[u8])>().expect("these columns");
        rows.map(|row| row.expect("a row").2.len().min(1)).sum()
    }
}
