//! Writing a batch: the entries of a user in one batch of the server's, and many users at a time.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join;
use futures_util::{StreamExt, stream};
use read_states_engine::batch::{Batch, Entry, Row, Version};
use read_states_engine::id::{Channel, Id};
use read_states_remote::{Error, Reason};
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use scylla::statement::batch::{Batch as Statements, BatchType};
use scylla::statement::prepared::PreparedStatement;

use crate::Cassandra;
use crate::cell::{Cell, timestamp};

/// Users of a batch who are written at the same time.
const USERS: usize = 256;

/// When no user was written for as long, the next ones are not tried.
const PATIENCE: Duration = Duration::from_secs(20);

/// Entries of a user that are written in one request. A batch of one partition is one write for the server, which takes
/// 16 MB and more, and warns of large ones.
const ENTRIES: usize = 100;

/// What a batch has for one place: a read state, or the whole user.
#[derive(Clone, Copy)]
struct Change {
    user: Id,
    channel: Option<Channel>,
    version: Version,
    row: Option<Row>,
}

impl From<Entry> for Change {
    fn from(entry: Entry) -> Self {
        let (channel, row) = match entry {
            Entry::Row(row) => (Some(row.channel), Some(row)),
            Entry::DeleteChannel { channel, .. } => (Some(channel), None),
            Entry::DeleteUser { .. } => (None, None),
        };
        Change {
            user: entry.user(),
            channel,
            version: entry.version(),
            row,
        }
    }
}

/// The values of one statement, in its order.
enum Values {
    Write(i64, Cell, i64, i8, i64),
    Delete(i64, i64, i8, i64),
    DeleteUser(i64, i64),
}

impl SerializeRow for Values {
    fn serialize(
        &self,
        context: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        match self {
            Values::Write(at, state, user, kind, channel) => {
                (at, state.bytes(), user, kind, channel).serialize(context, writer)
            }
            Values::Delete(at, user, kind, channel) => {
                (at, user, kind, channel).serialize(context, writer)
            }
            Values::DeleteUser(at, user) => (at, user).serialize(context, writer),
        }
    }

    fn is_empty(&self) -> bool {
        false
    }
}

impl Cassandra {
    /// Writes a batch. An error may leave a part, and then it is to be written again.
    pub(crate) async fn write_batch(&self, batch: &[u8]) -> Result<(), Error> {
        let batch = Batch::check(batch)?;
        if batch.counters() != self.counters {
            let text = format!("{} counters, expected {}", batch.counters(), self.counters);
            return Err(Error::new(Reason::InvalidBatch, text));
        }
        let changes = batch
            .map(|entry| Ok(Change::from(entry?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let Some(floor) = changes.iter().map(|change| change.version).max() else {
            return Ok(());
        };
        let changes = newest(changes);
        // Together, for each waits for the server's disk. Of a commit that is not done the floor need not know.
        let (noted, written) = join(self.raise_floor(floor), self.write_users(&changes)).await;
        noted.and(written)
    }

    /// Writes changes, sorted by user. One who cannot be written keeps nobody else from it: the replicas of some may be away, and
    /// those of all others there. Returns the first error.
    async fn write_users(&self, changes: &[Change]) -> Result<(), Error> {
        let mut next = 0;
        let users = changes.chunk_by(|a, b| a.user == b.user).map(|user| {
            next += user.len();
            next - user.len()..next
        });
        // By their places, for a closure in a future that is sent to a thread cannot take slices.
        let mut writes = stream::iter(Vec::from_iter(users))
            .map(|places| self.write_user(&changes[places]))
            .buffer_unordered(USERS);
        let mut result = Ok(());
        let mut got_through = Instant::now();
        while let Some(written) = writes.next().await {
            match written {
                Ok(()) => got_through = Instant::now(),
                Err(error) => {
                    result = result.and(Err(error));
                    if got_through.elapsed() > PATIENCE {
                        break;
                    }
                }
            }
        }
        result
    }

    /// Writes the changes of one user, each of another place and that of the user first.
    async fn write_user(&self, changes: &[Change]) -> Result<(), Error> {
        let user = changes[0].user;
        let mut changes = Vec::from_iter(changes);
        if let Change {
            channel: None,
            version: deleted,
            ..
        } = changes[0]
        {
            changes.retain(|change| change.channel.is_none() || change.version > *deleted);
        }
        let versions = changes.iter().map(|change| change.version);
        let known = self.known.raise(user, versions.max().unwrap_or(0));
        // The delete of a user is the same whenever it comes.
        let unsure = |change: &&Change| change.channel.is_some() && change.version <= known;
        if changes.iter().any(unsure) {
            let there = self.versions(user).await?;
            changes.retain(|change| {
                let there = change.channel.and_then(|channel| there.get(&channel));
                there.is_none_or(|there| change.version > *there)
            });
        }
        for changes in changes.chunks(ENTRIES) {
            self.write_chunk(changes).await?;
        }
        Ok(())
    }

    /// The versions of what is there of a user.
    async fn versions(&self, user: Id) -> Result<HashMap<Channel, Version>, Error> {
        let mut versions = HashMap::new();
        let mut position = None;
        loop {
            let (rows, more) = self.rows(user, position.as_ref(), true).await?;
            versions.extend(rows.iter().map(|row| (row.channel, row.version)));
            if more.is_none() {
                return Ok(versions);
            }
            position = more;
        }
    }

    async fn write_chunk(&self, changes: &[&Change]) -> Result<(), Error> {
        let values: Vec<_> = changes.iter().map(|change| self.values(change)).collect();
        if let [values] = &values[..] {
            let statement = self.statement(values);
            let write = || self.session.execute_unpaged(statement, values);
            self.writes.run(write).await?;
            return Ok(());
        }
        let statements = values
            .iter()
            .map(|values| self.statement(values).clone().into());
        let mut batch = Statements::new_with_statements(BatchType::Unlogged, statements.collect());
        batch.set_is_idempotent(true);
        batch.set_consistency(self.write_level);
        self.writes
            .run(|| self.session.batch(&batch, &values))
            .await?;
        Ok(())
    }

    fn values(&self, change: &Change) -> Values {
        let (at, user) = (timestamp(change.version), change.user as i64);
        match (change.channel, &change.row) {
            (Some(Channel { kind, id }), Some(row)) => {
                let state = Cell::encode(row, self.counters);
                Values::Write(at, state, user, kind as i8, id as i64)
            }
            (Some(Channel { kind, id }), None) => Values::Delete(at, user, kind as i8, id as i64),
            (None, _) => Values::DeleteUser(at, user),
        }
    }

    fn statement(&self, values: &Values) -> &PreparedStatement {
        match values {
            Values::Write(..) => &self.statements.write,
            Values::Delete(..) => &self.statements.delete,
            Values::DeleteUser(..) => &self.statements.delete_user,
        }
    }
}

/// Of each place only the one that wins: the highest version, of equal ones the first. Sorted by user, the delete of the
/// user first.
fn newest(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by_key(|change| (change.user, change.channel, Reverse(change.version)));
    changes.dedup_by_key(|change| (change.user, change.channel));
    changes
}
