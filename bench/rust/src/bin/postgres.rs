//! The driver of PostgreSQL alone, see [`read_states_bench::bare`]. A statement writes many rows, and `by` is how many; or 0, for
//! all of them at once, which are copied into a table beside first.
//!
//!     DATABASE_URL=postgres://... cargo run --release --bin postgres -- TABLE
//!
//! The table is that of `mix read_states.postgres.setup`.

use std::pin::pin;

use read_states_bench::bare::{Bare, serve};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Statement};

/// As many as the store has by default.
const CONNECTIONS: usize = 8;

struct Connection {
    client: Client,
    write: Statement,
    copy: Statement,
    write_copied: Statement,
    load: Statement,
}

struct Postgres(Vec<Connection>);

fn main() {
    let (Some(table), Ok(url)) = (std::env::args().nth(1), std::env::var("DATABASE_URL")) else {
        eprintln!("argument: TABLE, and DATABASE_URL in the environment");
        std::process::exit(2);
    };
    serve(async {
        let mut connections = vec![];
        for _ in 0..CONNECTIONS {
            connections.push(connect(&url, &table).await);
        }
        Postgres(connections)
    });
}

async fn connect(url: &str, table: &str) -> Connection {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a server");
    tokio::spawn(connection);
    let beside = "CREATE TEMPORARY TABLE copied (u bigint, k smallint, c bigint, v bigint, w bigint, m bigint, n integer) ON COMMIT DELETE ROWS";
    client.batch_execute(beside).await.expect("a table beside");
    let write_from = |source: &str| {
        format!(
            "INSERT INTO {table} AS s (\"user\", kind, channel, version, writer, last_message_id, counter_1) \
             SELECT u, k, c, v, w, m, n FROM {source} \
             ON CONFLICT (\"user\", kind, channel) DO UPDATE SET version = excluded.version, writer = excluded.writer, \
             last_message_id = excluded.last_message_id, counter_1 = excluded.counter_1 WHERE s.version < excluded.version"
        )
    };
    let given = "unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[]) AS r (u, k, c, v, w, m, n)";
    let load = format!(
        "SELECT kind, channel, version, writer, last_message_id, counter_1 FROM {table} WHERE \"user\" = $1 ORDER BY kind, channel"
    );
    let prepare = async |text: &str| client.prepare(text).await.expect("the table");
    let write = prepare(&write_from(given)).await;
    let copy = prepare("COPY copied FROM STDIN BINARY").await;
    let write_copied = prepare(&write_from("copied")).await;
    let load = prepare(&load).await;
    Connection {
        client,
        write,
        copy,
        write_copied,
        load,
    }
}

impl Connection {
    async fn write(&self, rows: &[(i64, i64)], round: i64) {
        let (users, channels): (Vec<i64>, Vec<i64>) = rows.iter().copied().unzip();
        let (kinds, counters) = (vec![0i16; rows.len()], vec![1i32; rows.len()]);
        // Of versions, writers and messages.
        let rounds = vec![round; rows.len()];
        let arguments: [&(dyn ToSql + Sync); 7] = [
            &users, &kinds, &channels, &rounds, &rounds, &rounds, &counters,
        ];
        let written = self.client.execute(&self.write, &arguments);
        written.await.expect("a write");
    }

    async fn write_copied(&self, rows: &[(i64, i64)], round: i64) {
        self.client
            .batch_execute("BEGIN")
            .await
            .expect("a transaction");
        let sink = self.client.copy_in(&self.copy).await.expect("a copy");
        let (long, short, int) = (Type::INT8, Type::INT2, Type::INT4);
        let types = [&long, &short, &long, &long, &long, &long, &int].map(Type::clone);
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        for (user, channel) in rows {
            let row: [&(dyn ToSql + Sync); 7] =
                [user, &0i16, channel, &round, &round, &round, &1i32];
            writer.as_mut().write(&row).await.expect("a row");
        }
        writer.finish().await.expect("all rows");
        let written = self.client.execute(&self.write_copied, &[]);
        written.await.expect("a write");
        self.client.batch_execute("COMMIT").await.expect("a commit");
    }
}

impl Bare for Postgres {
    async fn commit(&self, users: i64, rows: i64, a_statement: usize, round: i64) {
        let connection = &self.0[0];
        let all = (0..users).flat_map(|user| (0..rows).map(move |channel| (user, channel)));
        let all = Vec::from_iter(all);
        if a_statement == 0 {
            return connection.write_copied(&all, round).await;
        }
        for some in all.chunks(a_statement) {
            connection.write(some, round).await;
        }
    }

    async fn load(&self, user: i64) -> usize {
        let connection = &self.0[user as usize % self.0.len()];
        let rows = connection.client.query(&connection.load, &[&user]).await;
        let rows = rows.expect("a read");
        let messages = rows.iter().map(|row| row.get::<_, i64>(4).min(1));
        messages.count()
    }
}
