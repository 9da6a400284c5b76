//! The store, open.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use deadpool_postgres::Object;
use read_states_engine::batch::Version;
use read_states_engine::id::Id;
use read_states_remote::{Database, Error, Page, Reason, header_to_note};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::commit::{self, Statements, Writes};
use crate::options::Options;
use crate::page::{Cursor, Found, WHOLE_USER, page};
use crate::server::{Server, failed};
use crate::{schema, session};

/// Read states in three tables of a database.
pub struct Postgres {
    server: Server,
    counters: usize,
    statements: Statements,
    load: String,
    scan: String,
    /// The floor is noted as high as this.
    noted: AtomicU64,
}

impl Postgres {
    fn new(server: Server, options: &Options, counters: usize, floor: Version) -> Self {
        let (states, deletes) = (options.states(), options.deletes());
        let numbers = 1..=counters;
        let values: String = numbers.clone().map(|n| format!(", counter_{n}")).collect();
        let nulls: String = numbers.map(|_| ", NULL::integer").collect();
        // What there is after a place, of both tables in one order. Each has a limit of its own, or the server reads it to its end
        // and sorts.
        let both = |user: &str, after: &str, order: &str| {
            let order = format!("ORDER BY {order} LIMIT $4::bigint");
            format!(
                "(SELECT {user}kind, channel, version, writer, last_message_id{values} FROM {states} WHERE {after} {order}) \
                 UNION ALL \
                 (SELECT {user}kind, channel, version, NULL::bigint, NULL::bigint{nulls} FROM {deletes} WHERE {after} {order}) \
                 {order}"
            )
        };
        let one = both(
            "",
            "\"user\" = u.id AND (kind, channel) > (u.kind, u.channel)",
            "kind, channel",
        );
        // Only of the first user something may have been read before; all kinds are above -2.
        let before_all = WHOLE_USER - 1;
        let load = format!(
            "SELECT u.id, e.* FROM (SELECT id, at, CASE WHEN at = 1 THEN $2::smallint ELSE {before_all}::smallint END AS kind, \
             CASE WHEN at = 1 THEN $3::bigint ELSE 0 END AS channel FROM unnest($1::bigint[]) WITH ORDINALITY AS u (id, at)) AS u \
             CROSS JOIN LATERAL ({one}) AS e ORDER BY u.at, e.kind, e.channel LIMIT $4::bigint"
        );
        let scan = both(
            "\"user\", ",
            "(\"user\", kind, channel) > ($1::bigint, $2::smallint, $3::bigint)",
            "\"user\", kind, channel",
        );
        Postgres {
            server,
            counters,
            statements: Statements::new(options, counters),
            load,
            scan,
            noted: AtomicU64::new(floor),
        }
    }

    /// The page after `cursor` that `statement` finds with these arguments and, as its last, how many.
    async fn page(
        &self,
        statement: &str,
        arguments: &[&(dyn ToSql + Sync)],
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, Error> {
        let asked = limit.max(2) + 1;
        let most = asked as i64;
        let arguments = [arguments, &[&most]].concat();
        let found = self
            .server
            .run(|client| {
                let arguments = &arguments;
                async move {
                    let found = self.find(&client, statement, arguments).await;
                    (client, found)
                }
            })
            .await?;
        Ok(page(found, cursor, asked, self.counters))
    }

    async fn find(
        &self,
        client: &Object,
        statement: &str,
        arguments: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Found>, tokio_postgres::Error> {
        let statement = client.prepare_cached(statement).await?;
        let rows = client.query(&statement, arguments).await?;
        rows.iter()
            .map(|row| Found::from_row(row, self.counters))
            .collect()
    }
}

/// A first connection, whose errors are those of the start.
async fn connect(options: &Options) -> Result<(Server, Object), Error> {
    let pool = session::pool(options)?;
    let server = Server::new(pool, options);
    let client = server.client().await.map_err(|(error, _again)| error)?;
    Ok((server, client))
}

impl Database for Postgres {
    type Options = Options;

    async fn open(options: Options, counters: Vec<String>) -> Result<(Self, Version), Error> {
        let (server, client) = connect(&options).await?;
        let checked = schema::check(&**client, &options);
        server.in_time(checked).await??;
        let notes = options.notes();
        let select = format!("SELECT text, number FROM {notes} WHERE name = $1");
        let note = async |name: &str| {
            let row = server.in_time(client.query_opt(&select, &[&name])).await?;
            row.map_err(|error| failed(&error))
        };
        let place = format!("table {}.{}", options.schema, options.table);
        // Not in place of one that somebody else has noted meanwhile, which is looked at then.
        let statement = format!(
            "INSERT INTO {notes} AS n (name, text) VALUES ('header', $1) ON CONFLICT (name) DO UPDATE SET text = excluded.text \
             WHERE n.text IS NOT DISTINCT FROM $2"
        );
        loop {
            let before: Option<String> = note("header").await?.and_then(|row| row.get(0));
            let Some(header) = header_to_note(before.as_deref(), &counters, &place)? else {
                break;
            };
            let values: [&(dyn ToSql + Sync); 2] = [&header, &before];
            let written = server.in_time(client.execute(&statement, &values)).await?;
            written.map_err(|error| failed(&error))?;
        }
        let Some(floor) = note("floor")
            .await?
            .and_then(|row| row.get::<_, Option<i64>>(1))
        else {
            let text = format!(
                "table: {}.{} has no floor; run mix read_states.postgres.setup again",
                options.schema,
                options.notes_table()
            );
            return Err(Error::new(Reason::NotOurs, text));
        };
        let floor = floor as Version;
        drop(client);
        Ok((
            Postgres::new(server, &options, counters.len(), floor),
            floor,
        ))
    }

    fn schema(options: &Options) -> Result<Vec<String>, Error> {
        Ok(schema::statements(options))
    }

    async fn set_up(options: Options) -> Result<(), Error> {
        let (server, mut client) = connect(&options).await?;
        // Two who make the same table at the same time would be in each other's way.
        let lock = "SELECT pg_advisory_xact_lock(hashtext('read_states setup'))".to_owned();
        let statements = [vec![lock], schema::statements(&options)].concat();
        let run = async {
            let transaction = client.transaction().await?;
            for statement in statements {
                transaction.batch_execute(&statement).await?;
            }
            transaction.commit().await
        };
        run.await.map_err(|error| match error.code() {
            Some(code) if *code == SqlState::INVALID_SCHEMA_NAME => {
                let (schema, database) = (&options.schema, &options.database);
                let text = format!(
                    "schema: there is no schema {schema} in {database}: CREATE SCHEMA {schema}"
                );
                Error::new(Reason::Missing, text)
            }
            _ => failed(&error),
        })?;
        server.close();
        Ok(())
    }

    async fn load(
        &self,
        mut users: Vec<Id>,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Page, Error> {
        let cursor = cursor.as_deref().map(Cursor::from_bytes).transpose()?;
        users.sort_unstable();
        users.dedup();
        let mut kind = WHOLE_USER - 1;
        let mut channel = 0;
        if let Some(cursor) = &cursor {
            users.retain(|user| *user >= cursor.user as Id);
            // He may be somebody else than the first of those left only if the cursor is of another load.
            if users.first() == Some(&(cursor.user as Id)) {
                (kind, channel) = (cursor.kind, cursor.channel);
            }
        }
        let users: Vec<i64> = users.into_iter().map(|user| user as i64).collect();
        self.page(&self.load, &[&users, &kind, &channel], cursor, limit)
            .await
    }

    async fn commit(&self, batch: Vec<u8>) -> Result<(), Error> {
        let writes = Writes::new(&batch, self.counters)?;
        let Some(highest) = writes.highest else {
            return Ok(());
        };
        let floor = (highest > self.noted.load(Relaxed)).then_some(highest);
        self.server
            .run(|mut client| {
                let writes = &writes;
                async move {
                    let written = commit::write(&mut client, &self.statements, writes, floor).await;
                    (client, written)
                }
            })
            .await?;
        self.noted.fetch_max(highest, Relaxed);
        Ok(())
    }

    async fn scan(&self, cursor: Option<Vec<u8>>, limit: usize) -> Result<Page, Error> {
        let cursor = cursor.as_deref().map(Cursor::from_bytes).transpose()?;
        // Nothing is at this place, which is before all.
        let (user, kind, channel) = match &cursor {
            None => (i64::MIN, WHOLE_USER - 1, 0),
            Some(cursor) => (cursor.user, cursor.kind, cursor.channel),
        };
        self.page(&self.scan, &[&user, &kind, &channel], cursor, limit)
            .await
    }

    async fn close(&self) {
        self.server.close();
    }
}
