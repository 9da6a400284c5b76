//! A plain store that keeps to the version rule.

use std::collections::BTreeMap;

use crate::model::Model;
use read_states_engine::batch::{Batch, BatchBuilder, Entry, Row, Version};
use read_states_engine::id::{Channel, Id};
use read_states_engine::read_state::ReadState;

/// What is at a place: the writer and the values, or a delete.
type Written = (Version, Option<(u64, ReadState)>);

/// Rows and deletes with their versions.
#[derive(Clone, Debug, Default)]
pub struct Store {
    rows: BTreeMap<(Id, Channel), Written>,
    deleted: BTreeMap<Id, Version>,
}

impl Store {
    pub fn commit(&mut self, batch: &[u8]) {
        for entry in Batch::check(batch).unwrap() {
            match entry.unwrap() {
                Entry::Row(row) => {
                    let written = Some((row.writer, row.state));
                    self.write(row.user, row.channel, row.version, written);
                }
                Entry::DeleteChannel {
                    user,
                    channel,
                    version,
                } => self.write(user, channel, version, None),
                Entry::DeleteUser { user, version } => {
                    let deleted = self.deleted.entry(user).or_default();
                    *deleted = version.max(*deleted);
                    self.rows
                        .retain(|(owner, _), (written, _)| *owner != user || *written > version);
                }
            }
        }
    }

    fn write(
        &mut self,
        user: Id,
        channel: Channel,
        version: Version,
        row: Option<(u64, ReadState)>,
    ) {
        let deleted = self.deleted.get(&user).copied().unwrap_or_default();
        let written = self
            .rows
            .get(&(user, channel))
            .map_or(0, |(version, _)| *version);
        if version > deleted.max(written) {
            self.rows.insert((user, channel), (version, row));
        }
    }

    /// Everything of a user, in one page.
    pub fn load(&self, user: Id, counters: usize) -> Vec<u8> {
        let mut page = BatchBuilder::new(counters);
        if let Some(version) = self.deleted.get(&user) {
            page.push(&Entry::DeleteUser {
                user,
                version: *version,
            });
        }
        let rows = self.rows.iter().filter(|((owner, _), _)| *owner == user);
        for ((_, channel), (version, row)) in rows {
            page.push(&match row {
                Some((writer, state)) => Entry::Row(Row {
                    user,
                    channel: *channel,
                    version: *version,
                    writer: *writer,
                    state: *state,
                }),
                None => Entry::DeleteChannel {
                    user,
                    channel: *channel,
                    version: *version,
                },
            });
        }
        page.finish()
    }

    /// As a store may that knows that no commit can arrive that is older.
    #[allow(dead_code, reason = "only the tests of schedules do")]
    pub fn forget_deletes(&mut self) {
        self.rows.retain(|_, (_, row)| row.is_some());
        self.deleted.clear();
    }

    pub fn contents(&self) -> Model {
        let rows = self.rows.iter();
        Model(
            rows.filter_map(|(key, (_, row))| Some((*key, (*row)?.1)))
                .collect(),
        )
    }
}
