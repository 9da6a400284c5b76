//! Pages: of the rows and deletes that the server has, those that count.
//!
//! Both tables come merged in the order of places, with the delete of a user before the rest of the user. A row counts if it is above
//! that delete and above the delete of its own place. Of the two that may be at one place the newer is given, for the
//! older one says nothing more.

use read_states_engine::batch::{BatchBuilder, Entry, Row as StateRow, Version};
use read_states_engine::id::{Channel, Id};
use read_states_engine::read_state::ReadState;
use read_states_remote::{Error, Page, Reason};
use tokio_postgres::Row;

/// The kind of the delete of a user.
pub const WHOLE_USER: i16 = -1;

/// Where the next page starts: after a place, whose user was deleted at a version, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// As in the table.
    pub user: i64,
    /// As in the table.
    pub kind: i16,
    /// As in the table.
    pub channel: i64,
    /// Of the delete of the user.
    pub deleted: Option<Version>,
}

impl Cursor {
    /// As it is given to whoever asks for the next page.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.user.to_be_bytes().to_vec();
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.channel.to_be_bytes());
        if let Some(deleted) = self.deleted {
            bytes.extend(deleted.to_be_bytes());
        }
        bytes
    }

    /// As it came back.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let (user, rest) = bytes.split_first_chunk().ok_or(Reason::InvalidCursor)?;
        let (kind, rest) = rest.split_first_chunk().ok_or(Reason::InvalidCursor)?;
        let (channel, rest) = rest.split_first_chunk().ok_or(Reason::InvalidCursor)?;
        let deleted = match rest {
            [] => None,
            rest => {
                let bytes = rest.try_into().map_err(|_| Reason::InvalidCursor)?;
                Some(Version::from_be_bytes(bytes))
            }
        };
        Ok(Cursor {
            user: i64::from_be_bytes(*user),
            kind: i16::from_be_bytes(*kind),
            channel: i64::from_be_bytes(*channel),
            deleted,
        })
    }
}

/// One row of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    user: i64,
    kind: i16,
    channel: i64,
    version: Version,
    /// None is a delete.
    row: Option<(u64, ReadState)>,
}

impl Found {
    /// From the columns user, kind, channel, version, writer, last_message_id, counters.
    pub fn from_row(row: &Row, counters: usize) -> Result<Self, tokio_postgres::Error> {
        let writer: Option<i64> = row.try_get(4)?;
        let state = match writer {
            None => None,
            Some(writer) => {
                let mut state = ReadState {
                    last_message_id: row.try_get::<_, i64>(5)? as u64,
                    ..ReadState::default()
                };
                for (at, counter) in state.counters[..counters].iter_mut().enumerate() {
                    // Null in rows from before there was this counter.
                    *counter = row.try_get::<_, Option<i32>>(6 + at)?.unwrap_or(0) as u32;
                }
                Some((writer as u64, state))
            }
        };
        Ok(Found {
            user: row.try_get(0)?,
            kind: row.try_get(1)?,
            channel: row.try_get(2)?,
            version: row.try_get::<_, i64>(3)? as Version,
            row: state,
        })
    }

    fn place(&self) -> (i64, i16, i64) {
        (self.user, self.kind, self.channel)
    }

    fn entry(&self) -> Entry {
        let (user, version) = (self.user as Id, self.version);
        let channel = Channel {
            kind: self.kind as u8,
            id: self.channel as Id,
        };
        match self.row {
            Some((writer, state)) => Entry::Row(StateRow {
                user,
                channel,
                version,
                writer,
                state,
            }),
            None if self.kind == WHOLE_USER => Entry::DeleteUser { user, version },
            None => Entry::DeleteChannel {
                user,
                channel,
                version,
            },
        }
    }
}

/// A page of what was found, in order, after `cursor`. If there are `asked` of them there may be more, so that the last
/// place may not be whole and is left for the next page. (So `asked` is 3 at least: two may be at one place.)
pub fn page(mut found: Vec<Found>, cursor: Option<Cursor>, asked: usize, counters: usize) -> Page {
    let is_last = found.len() < asked;
    if !is_last && let Some(last) = found.last().map(Found::place) {
        found.retain(|found| found.place() != last);
    }
    let mut user = cursor.map(|cursor| cursor.user);
    let mut deleted = cursor.and_then(|cursor| cursor.deleted);
    let mut builder = BatchBuilder::new(counters);
    let mut next = None;
    for same in found.chunk_by(|a, b| a.place() == b.place()) {
        let place = &same[0];
        if user != Some(place.user) {
            user = Some(place.user);
            deleted = None;
        }
        if place.kind == WHOLE_USER {
            deleted = Some(place.version);
        }
        // Of equal versions the delete, whichever came first, for then it is sure that both were written.
        let newest = same
            .iter()
            .max_by_key(|found| (found.version, found.row.is_none()));
        let newest = newest.expect("a chunk is never empty");
        if newest.kind == WHOLE_USER || Some(newest.version) > deleted {
            builder.push(&newest.entry());
        }
        next = Some(Cursor {
            user: place.user,
            kind: place.kind,
            channel: place.channel,
            deleted,
        });
    }
    Page {
        batch: builder.finish(),
        next: next.filter(|_| !is_last).map(Cursor::to_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use read_states_engine::batch::Batch;

    fn found(user: i64, kind: i16, channel: i64, version: Version, is_row: bool) -> Found {
        Found {
            user,
            kind,
            channel,
            version,
            row: is_row.then(|| (9, ReadState::default())),
        }
    }

    /// Place and version of what is on all pages of so many that are asked for at a time.
    fn pages(all: &[Found], asked: usize) -> Vec<(Id, Option<Id>, Version, bool)> {
        let (mut entries, mut cursor) = (Vec::new(), None);
        loop {
            let after = cursor.map(|cursor: Cursor| (cursor.user, cursor.kind, cursor.channel));
            let rest = all.iter().filter(|found| Some(found.place()) > after);
            let page = page(rest.take(asked).copied().collect(), cursor, asked, 1);
            for entry in Batch::parse(&page.batch).unwrap() {
                let entry = entry.unwrap();
                let channel = match entry {
                    Entry::Row(row) => Some(row.channel.id),
                    Entry::DeleteChannel { channel, .. } => Some(channel.id),
                    Entry::DeleteUser { .. } => None,
                };
                let is_row = matches!(entry, Entry::Row(_));
                entries.push((entry.user(), channel, entry.version(), is_row));
            }
            match page.next {
                None => return entries,
                Some(next) => cursor = Some(Cursor::from_bytes(&next).unwrap()),
            }
        }
    }

    #[test]
    fn rows_below_a_delete_do_not_count_wherever_a_page_ends() {
        let all = [
            found(1, -1, 0, 10, false),
            found(1, 0, 1, 9, true),
            found(1, 0, 2, 10, true),
            found(1, 0, 3, 11, true),
            found(1, 0, 4, 12, false),
            found(1, 0, 4, 11, true),
            found(1, 0, 5, 12, false),
            found(1, 0, 5, 13, true),
            found(1, 0, 6, 12, false),
            found(1, 0, 6, 12, true),
            found(2, 0, 1, 1, true),
        ];
        let expected = [
            (1, None, 10, false),
            (1, Some(3), 11, true),
            (1, Some(4), 12, false),
            (1, Some(5), 13, true),
            (1, Some(6), 12, false),
            (2, Some(1), 1, true),
        ];
        for asked in 3..=12 {
            assert_eq!(pages(&all, asked), expected, "{asked}");
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let cursor = Cursor {
            user: -1,
            kind: 255,
            channel: 7,
            deleted: Some(3),
        };
        assert_eq!(Cursor::from_bytes(&cursor.to_bytes()), Ok(cursor));
        for length in (0..18).chain(19..26) {
            let error = Cursor::from_bytes(&cursor.to_bytes()[..length]).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidCursor);
        }
    }
}
