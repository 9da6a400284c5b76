//! The version rule written plainly, and both stores against it on random histories.

use crate::{Local, MemoryData, Store, StoreError};
use proptest::collection::vec;
use proptest::prelude::*;
use read_states_engine::batch::{Batch, BatchBuilder, Entry, Row, Version};
use read_states_engine::id::{Channel, Id};
use read_states_engine::read_state::ReadState;
use std::collections::BTreeMap;

/// What a store with one counter should hold.
#[derive(Debug, Default)]
pub struct Model {
    users: BTreeMap<Id, Option<Version>>,
    rows: BTreeMap<(Id, Channel), Entry>,
    floor: Version,
}

impl Model {
    pub fn commit(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.apply(*entry);
        }
    }

    fn apply(&mut self, entry: Entry) {
        let (user, version) = (entry.user(), entry.version());
        self.floor = self.floor.max(version);
        let deleted = self.users.entry(user).or_default();
        if Some(version) <= *deleted {
            return;
        }
        let channel = match entry {
            Entry::Row(row) => row.channel,
            Entry::DeleteChannel { channel, .. } => channel,
            Entry::DeleteUser { .. } => {
                *deleted = Some(version);
                let keep = |(of, _): &(Id, Channel), row: &mut Entry| {
                    *of != user || row.version() > version
                };
                self.rows.retain(keep);
                return;
            }
        };
        let row = self.rows.entry((user, channel)).or_insert(entry);
        if version > row.version() {
            *row = entry;
        }
    }

    /// As a store on disk does when it is opened.
    pub fn forget_deletes(&mut self) {
        self.users.clear();
        self.rows.retain(|_, row| matches!(row, Entry::Row(_)));
    }

    /// All that is kept of one user, in the order of a page.
    pub fn load(&self, user: Id) -> Vec<Entry> {
        let delete = self.users.get(&user).copied().flatten();
        let delete = delete.map(|version| Entry::DeleteUser { user, version });
        let rows = self.rows.iter().filter(|((of, _), _)| *of == user);
        delete
            .into_iter()
            .chain(rows.map(|(_, row)| *row))
            .collect()
    }

    pub fn scan(&self) -> Vec<Entry> {
        let users = self
            .users
            .keys()
            .chain(self.rows.keys().map(|(user, _)| user));
        let users: std::collections::BTreeSet<_> = users.copied().collect();
        users.into_iter().flat_map(|user| self.load(user)).collect()
    }
}

pub fn batch(entries: &[Entry]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1);
    for entry in entries {
        builder.push(entry);
    }
    builder.finish()
}

pub fn entries(batch: &[u8]) -> Vec<Entry> {
    Batch::parse(batch).unwrap().map(Result::unwrap).collect()
}

/// A row whose values depend on its version.
pub fn row(user: Id, id: Id, version: Version) -> Entry {
    let state = ReadState {
        last_message_id: version.wrapping_mul(3),
        counters: [version as u32, 0, 0, 0],
    };
    Entry::Row(Row {
        user,
        channel: Channel { kind: 0, id },
        version,
        writer: 9,
        state,
    })
}

/// Follows the cursors of `page` to the end; no page has more than `limit` entries.
pub fn pages(
    limit: usize,
    page: impl Fn(Option<&[u8]>) -> Result<crate::Page, StoreError>,
) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut cursor: Option<Vec<u8>> = None;
    loop {
        let page = page(cursor.as_deref()).unwrap();
        let read = entries(&page.batch);
        assert!(read.len() <= limit);
        assert!(page.next.is_none() || read.len() == limit);
        all.extend(read);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return all,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Entry>),
    Reopen,
}

const USERS: [Id; 4] = [0, 1, 1 << 60, Id::MAX];

fn entry() -> impl Strategy<Value = Entry> {
    let user = prop::sample::select(&USERS[..]);
    let kind = prop::sample::select(&[0, 1, 255][..]);
    let id = prop::sample::select(&[0, 5, Id::MAX][..]);
    let values = (any::<u64>(), any::<u64>(), any::<u32>());
    (0..8u8, user, kind, id, 0..40u64, values).prop_map(
        |(form, user, kind, id, version, (writer, last_message_id, counter))| {
            let channel = Channel { kind, id };
            match form {
                0 => Entry::DeleteUser { user, version },
                1..=2 => Entry::DeleteChannel {
                    user,
                    channel,
                    version,
                },
                _ => Entry::Row(Row {
                    user,
                    channel,
                    version,
                    writer,
                    state: ReadState {
                        last_message_id,
                        counters: [counter, 0, 0, 0],
                    },
                }),
            }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let commit = vec(entry(), 0..12).prop_map(Step::Commit);
    vec(prop_oneof![6 => commit, 1 => Just(Step::Reopen)], 1..24)
}

fn check(store: &dyn Store, model: &Model, limit: usize) -> Result<(), TestCaseError> {
    prop_assert_eq!(store.floor().unwrap(), model.floor);
    prop_assert_eq!(
        pages(limit, |cursor| store.scan(cursor, limit)),
        model.scan()
    );
    for user in USERS {
        let read = pages(limit, |cursor| store.load(&[user], cursor, limit));
        prop_assert_eq!(read, model.load(user));
    }
    let some = [Id::MAX, 0, 77, 0];
    let read = pages(limit, |cursor| store.load(&some, cursor, limit));
    prop_assert_eq!(read, [model.load(0), model.load(Id::MAX)].concat());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn the_store_in_memory_holds_what_the_model_does(steps in steps(), limit in 1..20usize) {
        let data = MemoryData::new();
        let mut store = data.open(1);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Commit(entries) => {
                    store.commit(&batch(&entries)).unwrap();
                    model.commit(&entries);
                }
                Step::Reopen => {
                    store.close();
                    store = data.open(1);
                }
            }
            check(&store, &model, limit)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_store_on_disk_holds_what_the_model_does(steps in steps(), limit in 1..20usize) {
        let directory = tempfile::tempdir().unwrap();
        let open = || Local::open(directory.path(), &["count".to_owned()]).unwrap();
        let mut store = open();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Commit(entries) => {
                    store.commit(&batch(&entries)).unwrap();
                    model.commit(&entries);
                }
                Step::Reopen => {
                    store.close();
                    store = open();
                    model.forget_deletes();
                }
            }
            check(&store, &model, limit)?;
        }
    }
}

#[test]
fn commits_of_many_threads_end_as_the_model_does_in_any_order() {
    let data = MemoryData::new();
    let store = data.open(1);
    let mut model = Model::default();
    // Every version once, so that the order of the commits cannot matter.
    let batches: Vec<Vec<Entry>> = (0..400u64)
        .map(|number| {
            (0..20)
                .map(|index| {
                    let version = 1 + (number * 20 + index) * 7_919 % 8_009;
                    let user = version % 5;
                    let channel = Channel {
                        kind: 0,
                        id: version % 11,
                    };
                    match version % 13 {
                        0 => Entry::DeleteUser { user, version },
                        1 | 2 => Entry::DeleteChannel {
                            user,
                            channel,
                            version,
                        },
                        _ => row(user, channel.id, version),
                    }
                })
                .collect()
        })
        .collect();
    for entries in &batches {
        model.commit(entries);
    }
    std::thread::scope(|scope| {
        for batches in batches.chunks(100) {
            let store = &store;
            scope.spawn(move || {
                for entries in batches {
                    store.commit(&batch(entries)).unwrap();
                }
            });
        }
    });
    assert_eq!(pages(100, |cursor| store.scan(cursor, 100)), model.scan());
}
