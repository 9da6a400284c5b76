//! A page of some users: many partitions at a time, and those of large users in parts.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use read_states_engine::batch::{BatchBuilder, Entry, Row};
use read_states_engine::id::{Channel, Id};
use read_states_remote::{Error, Page, Reason};
use scylla::response::{PagingState, PagingStateResponse};

use crate::Cassandra;
use crate::cell;
use crate::server::unexpected;

/// Users whose partitions are read at the same time. With [`FIRST`] rows each they are less than a page.
const USERS: usize = 32;
/// Rows that are read of a user at first, and of a large one from there on.
pub(crate) const FIRST: i32 = 300;
/// Rows that are read at a time of a user who has more.
pub(crate) const MORE: i32 = 5_000;

/// Where in a user's rows the next ones start: the server's own note of it.
pub(crate) type Position = Vec<u8>;

/// Where a page starts: at these positions of large users, and then with the users from `next` on.
///
/// ```text
/// whether there is a next | next | (user | length of the position | position)...
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
struct Cursor {
    next: Option<Id>,
    large: VecDeque<(Id, Position)>,
}

impl Cursor {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.next.is_some())];
        bytes.extend_from_slice(&self.next.unwrap_or_default().to_be_bytes());
        for (user, position) in &self.large {
            bytes.extend_from_slice(&user.to_be_bytes());
            bytes.extend_from_slice(&(position.len() as u32).to_be_bytes());
            bytes.extend_from_slice(position);
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[flag], rest) = bytes.split_first_chunk()?;
        let (next, mut rest) = rest.split_first_chunk()?;
        let next = match flag {
            0 => None,
            1 => Some(Id::from_be_bytes(*next)),
            _ => return None,
        };
        let mut large = VecDeque::new();
        while !rest.is_empty() {
            let (user, after) = rest.split_first_chunk()?;
            let (length, after) = after.split_first_chunk()?;
            let length = u32::from_be_bytes(*length) as usize;
            let (position, after) = after.split_at_checked(length)?;
            large.push_back((Id::from_be_bytes(*user), position.to_vec()));
            rest = after;
        }
        Some(Cursor { next, large })
    }
}

impl Cassandra {
    /// A page of about `limit` rows of `users`.
    pub(crate) async fn load_page(
        &self,
        mut users: Vec<Id>,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Page, Error> {
        let cursor = match cursor {
            None => Cursor {
                next: Some(0),
                large: VecDeque::new(),
            },
            Some(bytes) => Cursor::from_bytes(&bytes).ok_or(Reason::InvalidCursor)?,
        };
        users.sort_unstable();
        users.dedup();
        let from = cursor.next.map_or(users.len(), |next| {
            users.partition_point(|user| *user < next)
        });
        let mut users = users[from..].iter().copied().peekable();
        let mut large = cursor.large;
        let mut page = BatchBuilder::new(self.counters);

        while page.len() < limit
            && let Some((user, position)) = large.pop_front()
        {
            let (rows, more) = self.rows(user, Some(&position), true).await?;
            add(&mut page, &rows);
            large.extend(more.map(|position| (user, position)));
        }

        let mut reads = FuturesUnordered::new();
        loop {
            while page.len() < limit
                && reads.len() < USERS
                && let Some(user) = users.next()
            {
                let rows = self.rows(user, None, false);
                reads.push(rows.map(move |rows| (user, rows)));
            }
            let Some((user, rows)) = reads.next().await else {
                break;
            };
            let (rows, more) = rows?;
            add(&mut page, &rows);
            large.extend(more.map(|position| (user, position)));
        }

        let next = Cursor {
            next: users.peek().copied(),
            large,
        };
        Ok(Page {
            batch: page.finish(),
            next: (next != Cursor::default()).then(|| next.to_bytes()),
        })
    }

    /// Rows of a user from a position on, few or `many` at a time, and where there are more.
    pub(crate) async fn rows(
        &self,
        user: Id,
        position: Option<&Position>,
        many: bool,
    ) -> Result<(Vec<Row>, Option<Position>), Error> {
        let id = user as i64;
        let statement = match many {
            true => &self.statements.load_many,
            false => &self.statements.load,
        };
        let read = || {
            self.session
                .execute_single_page(statement, (id,), start(position))
        };
        let (result, paging) = self.reads.run(read).await?;
        let result = result.into_rows_result().map_err(unexpected)?;
        let mut rows = Vec::with_capacity(result.rows_num());
        for row in result
            .rows::<(i8, i64, Option<&[u8]>)>()
            .map_err(unexpected)?
        {
            let (kind, channel, state) = row.map_err(unexpected)?;
            rows.push(decode(id, kind, channel, state)?);
        }
        Ok((rows, next(paging)))
    }
}

/// As the driver takes a position.
pub(crate) fn start(position: Option<&Position>) -> PagingState {
    match position {
        None => PagingState::start(),
        Some(bytes) => PagingState::new_from_raw_bytes(&bytes[..]),
    }
}

/// The position that the server has answered, if there is more.
pub(crate) fn next(paging: PagingStateResponse) -> Option<Position> {
    match paging.into_paging_control_flow() {
        ControlFlow::Break(()) => None,
        ControlFlow::Continue(state) => state.as_bytes_slice().map(|bytes| bytes.to_vec()),
    }
}

pub(crate) fn add(page: &mut BatchBuilder, rows: &[Row]) {
    for row in rows {
        page.push(&Entry::Row(*row));
    }
}

/// A row as it is stored.
pub(crate) fn decode(
    user: i64,
    kind: i8,
    channel: i64,
    state: Option<&[u8]>,
) -> Result<Row, Error> {
    let user = user as Id;
    let channel = Channel {
        kind: kind as u8,
        id: channel as Id,
    };
    // A row that somebody else has inserted may have none.
    state
        .and_then(|state| cell::decode(user, channel, state))
        .ok_or_else(|| {
            let text = format!(
                "table: the state of user {user}, kind {}, channel {} is in none of the formats of this version",
                channel.kind, channel.id
            );
            Error::new(Reason::NotOurs, text)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back() {
        for next in [None, Some(0), Some(Id::MAX)] {
            for large in [0, 1, 32] {
                let position = |n| vec![n as u8; n as usize];
                let large = (0..large).map(|n| (Id::MAX - n, position(n))).collect();
                let cursor = Cursor { next, large };
                assert_eq!(Cursor::from_bytes(&cursor.to_bytes()), Some(cursor));
            }
        }
    }

    #[test]
    fn other_bytes_are_no_cursor() {
        for bytes in [&[][..], &[1; 8], &[2; 9], &[1; 10], &[1; 27]] {
            assert_eq!(Cursor::from_bytes(bytes), None, "{bytes:?}");
        }
    }
}
