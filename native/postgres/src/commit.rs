//! Writing a batch.
//!
//! A batch without deletes is one statement, whose rows replace older ones and no newer ones. One with deletes is a transaction:
//! the deletes are noted, what they delete is removed, the rows are written, and deletes that are old enough are
//! forgotten. Whatever comes late in between does not count when it is [read](crate::page), and is removed with the forgetting.

use std::cmp::Reverse;

use deadpool_postgres::Object;
use futures_util::future::try_join;
use read_states_engine::batch::{Batch, Entry, Row, Version};
use read_states_engine::id::Channel;
use read_states_engine::read_state::MAX_COUNTERS;
use read_states_remote::{Error, Reason};
use tokio_postgres::types::ToSql;

use crate::options::Options;
use crate::page::WHOLE_USER;

/// How far below the newest version a delete is forgotten, in microseconds: an hour. A statement is given up within a minute
/// at most, and who wrote it stamps the next try anew. What else there is to cover is how far apart the clocks of
/// several instances are.
const REMEMBERED: Version = 3_600_000_000;

/// Deletes forgotten by a commit that brings some, beyond twice what it brings: so they come to an end.
const FORGOTTEN: usize = 1_000;

/// Makes the order of signed numbers that of the unsigned ones with the same bits.
const UNSIGNED: &str = "# '-9223372036854775808'::bigint";

/// The statements.
pub struct Statements {
    note: String,
    write: String,
    delete: String,
    remove_users: String,
    remove_deletes: String,
    remove_older: String,
    remove_late: String,
    forget: String,
}

impl Statements {
    /// For rows of so many counters.
    pub fn new(options: &Options, counters: usize) -> Self {
        let (states, deletes, notes) = (options.states(), options.deletes(), options.notes());
        let numbers = 1..=counters;
        let names: String = numbers.clone().map(|n| format!(", counter_{n}")).collect();
        let sets = numbers
            .clone()
            .map(|n| format!(", counter_{n} = excluded.counter_{n}"));
        // Those that others have had appended meanwhile are not of this row.
        let unset = counters + 1..=MAX_COUNTERS;
        let sets: String = sets
            .chain(unset.map(|n| format!(", counter_{n} = NULL")))
            .collect();
        let arrays: String = numbers
            .map(|n| format!(", ${}::integer[]", 6 + n))
            .collect();
        let older = format!("(s.version {UNSIGNED}) < (excluded.version {UNSIGNED})");
        let below = format!("(s.version {UNSIGNED}) <= (d.version {UNSIGNED})");
        let given = "unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[]) AS d (\"user\", kind, channel, version)";
        let same = "s.\"user\" = d.\"user\" AND s.kind = d.kind AND s.channel = d.channel";
        Statements {
            // It need not be on disk for itself: it is before the rows that come after it are.
            note: format!(
                "UPDATE {notes} SET number = $1 FROM (SELECT set_config('synchronous_commit', 'off', true) AS off) AS s \
                 WHERE name = 'floor' AND (number {UNSIGNED}) < ($1 {UNSIGNED}) AND s.off IS NOT NULL"
            ),
            write: format!(
                "INSERT INTO {states} AS s (\"user\", kind, channel, version, writer, last_message_id{names}) \
                 SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]{arrays}) \
                 ON CONFLICT (\"user\", kind, channel) DO UPDATE SET version = excluded.version, writer = excluded.writer, \
                 last_message_id = excluded.last_message_id{sets} WHERE {older}"
            ),
            // Not where there is a row that is not below it: nothing older can take its place.
            delete: format!(
                "INSERT INTO {deletes} AS s (\"user\", kind, channel, version) SELECT d.* FROM {given} WHERE NOT EXISTS \
                 (SELECT FROM {states} AS s WHERE {same} AND (s.version {UNSIGNED}) >= (d.version {UNSIGNED})) \
                 ON CONFLICT (\"user\", kind, channel) DO UPDATE SET version = excluded.version WHERE {older}"
            ),
            remove_users: format!(
                "DELETE FROM {states} AS s USING {given} WHERE d.kind = {WHOLE_USER} AND s.\"user\" = d.\"user\" AND {below}"
            ),
            remove_deletes: format!(
                "DELETE FROM {deletes} AS s USING {given} WHERE d.kind = {WHOLE_USER} AND s.\"user\" = d.\"user\" \
                 AND s.kind <> {WHOLE_USER} AND {below}"
            ),
            // One with the same version was there first.
            remove_older: format!(
                "DELETE FROM {states} AS s USING {given} WHERE {same} AND (s.version {UNSIGNED}) < (d.version {UNSIGNED})"
            ),
            // One with the same version came after the delete, which would not have been noted otherwise.
            remove_late: format!(
                "DELETE FROM {states} AS s USING {given} WHERE {same} AND {below}"
            ),
            // Each partition of a table has its own places, so one of them may be of several rows.
            forget: format!(
                "DELETE FROM {deletes} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {deletes} WHERE version >= 0 AND version < $1 \
                 ORDER BY version LIMIT $2 FOR UPDATE SKIP LOCKED)) AND version >= 0 AND version < $1 RETURNING \"user\", kind, channel, version"
            ),
        }
    }
}

/// What a batch writes, column by column.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// The highest version in it, if it is not empty.
    pub highest: Option<Version>,
    rows: Rows,
    deletes: Deletes,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Rows {
    users: Vec<i64>,
    kinds: Vec<i16>,
    channels: Vec<i64>,
    versions: Vec<i64>,
    writers: Vec<i64>,
    messages: Vec<i64>,
    counters: Vec<Vec<i32>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Deletes {
    users: Vec<i64>,
    kinds: Vec<i16>,
    channels: Vec<i64>,
    versions: Vec<i64>,
}

type Arguments<'a> = Vec<&'a (dyn ToSql + Sync)>;

impl Rows {
    fn push(&mut self, row: &Row) {
        self.users.push(row.user as i64);
        self.kinds.push(row.channel.kind.into());
        self.channels.push(row.channel.id as i64);
        self.versions.push(row.version as i64);
        self.writers.push(row.writer as i64);
        self.messages.push(row.state.last_message_id as i64);
        for (column, counter) in self.counters.iter_mut().zip(row.state.counters) {
            column.push(counter as i32);
        }
    }

    fn arguments(&self) -> Arguments<'_> {
        let mut arguments: Arguments<'_> = vec![
            &self.users,
            &self.kinds,
            &self.channels,
            &self.versions,
            &self.writers,
            &self.messages,
        ];
        arguments.extend(
            self.counters
                .iter()
                .map(|column| column as &(dyn ToSql + Sync)),
        );
        arguments
    }
}

impl Deletes {
    fn push(&mut self, (user, kind, channel): Place, version: Version) {
        self.users.push(user as i64);
        self.kinds.push(kind);
        self.channels.push(channel as i64);
        self.versions.push(version as i64);
    }

    fn arguments(&self) -> Arguments<'_> {
        vec![&self.users, &self.kinds, &self.channels, &self.versions]
    }
}

/// User, kind and channel; the delete of a user comes before all else of him.
type Place = (u64, i16, u64);

fn place(entry: &Entry) -> Place {
    let (user, channel) = match *entry {
        Entry::DeleteUser { user, .. } => return (user, WHOLE_USER, 0),
        Entry::DeleteChannel { user, channel, .. } => (user, channel),
        Entry::Row(Row { user, channel, .. }) => (user, channel),
    };
    let Channel { kind, id } = channel;
    (user, kind.into(), id)
}

impl Writes {
    /// The newest entry of each place, of equal ones the first, in an order that all commits have in common: so commits of
    /// rows do not wait for each other in a circle. Those with deletes may, for the server removes rows in the order in which it finds
    /// them. It ends one of them then, which is tried again.
    pub fn new(batch: &[u8], counters: usize) -> Result<Self, Error> {
        let batch = Batch::check(batch)?;
        if batch.counters() != counters {
            let why = format!("{} counters, expected {counters}", batch.counters());
            return Err(Error::new(Reason::InvalidBatch, why));
        }
        let mut entries = batch.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(|entry| (place(entry), Reverse(entry.version())));
        entries.dedup_by_key(|entry| place(entry));
        let mut writes = Writes {
            highest: entries.iter().map(Entry::version).max(),
            ..Writes::default()
        };
        writes.rows.counters = vec![Vec::new(); counters];
        let mut deleted = None;
        for entry in &entries {
            if let Entry::DeleteUser { user, version } = entry {
                deleted = Some((*user, *version));
            } else if deleted
                .is_some_and(|(user, below)| user == entry.user() && entry.version() <= below)
            {
                continue;
            }
            match entry {
                Entry::Row(row) => writes.rows.push(row),
                delete => writes.deletes.push(place(delete), delete.version()),
            }
        }
        Ok(writes)
    }
}

/// Writes it on this connection. `floor` is the highest version in it if that has to be noted.
pub async fn write(
    client: &mut Object,
    statements: &Statements,
    writes: &Writes,
    floor: Option<Version>,
) -> Result<(), tokio_postgres::Error> {
    let prepared = match floor {
        Some(_) => Some(client.prepare_cached(&statements.note).await?),
        None => None,
    };
    let number = floor.unwrap_or_default() as i64;
    let note = async |client: &Object| match &prepared {
        Some(note) => client.execute(note, &[&number]).await.map(drop),
        None => Ok(()),
    };
    if writes.deletes.users.is_empty() {
        let statement = client.prepare_cached(&statements.write).await?;
        let arguments = writes.rows.arguments();
        let rows = client.execute(&statement, &arguments);
        // Sent together, done one after the other: nothing is left to be prepared, so the note is sent first.
        return try_join(note(client), rows).await.map(drop);
    }
    note(client).await?;
    let transaction = client.transaction().await?;
    let deletes = writes.deletes.arguments();
    for statement in [
        &statements.delete,
        &statements.remove_users,
        &statements.remove_deletes,
        &statements.remove_older,
    ] {
        let statement = transaction.prepare_cached(statement).await?;
        transaction.execute(&statement, &deletes).await?;
    }
    if !writes.rows.users.is_empty() {
        let statement = transaction.prepare_cached(&statements.write).await?;
        transaction
            .execute(&statement, &writes.rows.arguments())
            .await?;
    }
    // No clock gives versions from the upper half.
    let highest = writes.highest.unwrap_or_default();
    let horizon = highest.saturating_sub(REMEMBERED).min(i64::MAX as Version) as i64;
    let most = (FORGOTTEN + 2 * writes.deletes.users.len()) as i64;
    let statement = transaction.prepare_cached(&statements.forget).await?;
    let forgotten = transaction.query(&statement, &[&horizon, &most]).await?;
    if !forgotten.is_empty() {
        let mut late = Deletes::default();
        for row in forgotten {
            late.users.push(row.try_get(0)?);
            late.kinds.push(row.try_get(1)?);
            late.channels.push(row.try_get(2)?);
            late.versions.push(row.try_get(3)?);
        }
        for statement in [&statements.remove_users, &statements.remove_late] {
            let statement = transaction.prepare_cached(statement).await?;
            transaction.execute(&statement, &late.arguments()).await?;
        }
    }
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use read_states_engine::batch::BatchBuilder;
    use read_states_engine::read_state::ReadState;

    fn row(user: u64, channel: u64, version: Version) -> Entry {
        let channel = Channel {
            kind: 0,
            id: channel,
        };
        let state = ReadState::default();
        Entry::Row(Row {
            user,
            channel,
            version,
            writer: 1,
            state,
        })
    }

    fn writes(entries: &[Entry]) -> Writes {
        let mut builder = BatchBuilder::new(1);
        for entry in entries {
            builder.push(entry);
        }
        Writes::new(&builder.finish(), 1).unwrap()
    }

    #[test]
    fn each_place_is_written_once_with_what_is_newest() {
        let deleted = Entry::DeleteUser {
            user: 1,
            version: 5,
        };
        let channel = Channel { kind: 0, id: 3 };
        let gone = Entry::DeleteChannel {
            user: 2,
            channel,
            version: 8,
        };
        let writes = writes(&[
            row(2, 3, 7),
            row(1, 2, 5),
            deleted,
            row(1, 1, 6),
            row(1, 1, 9),
            row(1, 1, 8),
            gone,
            row(2, 4, 1),
        ]);
        assert_eq!(writes.highest, Some(9));
        assert_eq!(
            (writes.rows.users, writes.rows.channels),
            (vec![1, 2], vec![1, 4])
        );
        assert_eq!(writes.rows.versions, [9, 1]);
        assert_eq!(
            (writes.deletes.users, writes.deletes.kinds),
            (vec![1, 2], vec![WHOLE_USER, 0])
        );
        assert_eq!(writes.deletes.versions, [5, 8]);
    }

    #[test]
    fn other_counters_are_refused() {
        let batch = BatchBuilder::new(2).finish();
        let error = Writes::new(&batch, 1).unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidBatch);
    }
}
