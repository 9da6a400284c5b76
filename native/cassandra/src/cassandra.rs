//! The store, open.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use read_states_engine::batch::Version;
use read_states_engine::id::Id;
use read_states_remote::{Database, Error, Page, header_to_note};
use scylla::client::session::Session;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;

use crate::cell::timestamp;
use crate::known::Known;
use crate::load::{FIRST, MORE};
use crate::options::Options;
use crate::server::{Requests, unexpected, unprepared};
use crate::{schema, session};

/// The note that has the highest version ever committed.
const FLOOR: &str = "floor";
/// The note that has the header.
pub(crate) const HEADER: &str = "header";

/// Read states in two tables of a cluster.
pub struct Cassandra {
    pub(crate) session: Session,
    pub(crate) counters: usize,
    pub(crate) statements: Statements,
    pub(crate) reads: Requests,
    pub(crate) writes: Requests,
    pub(crate) write_level: Consistency,
    pub(crate) known: Known,
    /// The floor is noted as high as this.
    noted: AtomicU64,
}

/// The prepared statements.
pub(crate) struct Statements {
    pub write: PreparedStatement,
    pub delete: PreparedStatement,
    pub delete_user: PreparedStatement,
    /// A user's rows in small pages: most users have few.
    pub load: PreparedStatement,
    /// The same in large pages.
    pub load_many: PreparedStatement,
    pub scan: PreparedStatement,
    pub note: PreparedStatement,
    read_note: PreparedStatement,
}

impl Statements {
    async fn prepare(session: &Session, options: &Options) -> Result<Self, Error> {
        let (states, notes) = (options.states(), options.notes());
        let prepare = async |text: String, level: Consistency| {
            let mut statement = session
                .prepare(text)
                .await
                .map_err(|error| unprepared(&error))?;
            statement.set_is_idempotent(true);
            statement.set_consistency(level);
            Ok::<_, Error>(statement)
        };
        let (read, write) = (options.read.consistency(), options.write.consistency());
        let place = "user = ? AND kind = ? AND channel = ?";
        // Not an INSERT, which writes that there is a row in a second cell.
        let update = format!("UPDATE {states} USING TIMESTAMP ? SET state = ? WHERE {place}");
        let delete = format!("DELETE FROM {states} USING TIMESTAMP ? WHERE {place}");
        let delete_user = format!("DELETE FROM {states} USING TIMESTAMP ? WHERE user = ?");
        let load = format!("SELECT kind, channel, state FROM {states} WHERE user = ?");
        let scan = format!("SELECT user, kind, channel, state FROM {states}");
        let note = format!("UPDATE {notes} USING TIMESTAMP ? SET value = ? WHERE name = ?");
        let read_note = format!("SELECT value FROM {notes} WHERE name = ?");
        let mut load_few = prepare(load, read).await?;
        load_few.set_page_size(FIRST);
        let mut load_many = load_few.clone();
        load_many.set_page_size(MORE);
        Ok(Statements {
            write: prepare(update, write).await?,
            delete: prepare(delete, write).await?,
            delete_user: prepare(delete_user, write).await?,
            load: load_few,
            load_many,
            scan: prepare(scan, read).await?,
            note: prepare(note, write).await?,
            read_note: prepare(read_note, read).await?,
        })
    }
}

impl Cassandra {
    async fn read_note(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let statement = &self.statements.read_note;
        let result = self
            .reads
            .run(|| self.session.execute_unpaged(statement, (name,)))
            .await?;
        let rows = result.into_rows_result().map_err(unexpected)?;
        let row = rows.maybe_first_row::<(Option<Vec<u8>>,)>();
        Ok(row.map_err(unexpected)?.and_then(|(value,)| value))
    }

    async fn note(&self, name: &str, value: &[u8], version: Version) -> Result<(), Error> {
        let values = (timestamp(version), value, name);
        let statement = &self.statements.note;
        self.writes
            .run(|| self.session.execute_unpaged(statement, values))
            .await?;
        Ok(())
    }

    /// Notes that versions up to this one are about to be in the store. The version is its own time stamp, so that the
    /// highest stays, whoever else notes his.
    pub(crate) async fn raise_floor(&self, version: Version) -> Result<(), Error> {
        if version > self.noted.load(Relaxed) {
            self.note(FLOOR, &version.to_be_bytes(), version).await?;
            self.noted.fetch_max(version, Relaxed);
        }
        Ok(())
    }
}

impl Database for Cassandra {
    type Options = Options;

    async fn open(options: Options, counters: Vec<String>) -> Result<(Self, Version), Error> {
        let session = session::connect(&options).await?;
        schema::check(&session, &options).await?;
        let statements = Statements::prepare(&session, &options).await?;
        let mut store = Cassandra {
            session,
            counters: counters.len(),
            statements,
            reads: Requests::new(),
            writes: Requests::new(),
            write_level: options.write.consistency(),
            known: Known::new(0),
            noted: AtomicU64::new(0),
        };

        store.check_permissions().await?;
        let header = store.read_note(HEADER).await?;
        let header = header.map(|header| String::from_utf8_lossy(&header).into_owned());
        let place = format!("table {}.{}", options.keyspace, options.notes_table());
        if let Some(header) = header_to_note(header.as_deref(), &counters, &place)? {
            // Counters are only ever appended, so the longer one is the newer.
            let version = header.len() as Version;
            store.note(HEADER, header.as_bytes(), version).await?;
        }

        let floor = match store.read_note(FLOOR).await? {
            None => 0,
            Some(floor) => Version::from_be_bytes(
                floor
                    .try_into()
                    .map_err(|_| unexpected(format!("{place}: the floor is none")))?,
            ),
        };
        store.known = Known::new(floor);
        store.noted = AtomicU64::new(floor);
        Ok((store, floor))
    }

    fn schema(options: &Options) -> Result<Vec<String>, Error> {
        Ok(schema::statements(options).into())
    }

    async fn set_up(options: Options) -> Result<(), Error> {
        let session = session::connect(&options).await?;
        schema::set_up(&session, &options).await
    }

    async fn load(
        &self,
        users: Vec<Id>,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.load_page(users, cursor, limit).await
    }

    async fn commit(&self, batch: Vec<u8>) -> Result<(), Error> {
        self.write_batch(&batch).await
    }

    async fn scan(&self, cursor: Option<Vec<u8>>, limit: usize) -> Result<Page, Error> {
        self.scan_page(cursor, limit).await
    }

    async fn close(&self) {
        // The driver ends its connections when the session is dropped, which is when nobody calls any more.
    }
}
