//! Any bytes as a batch: a store takes it and an engine its pages, or both refuse it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use read_states_engine::batch::{Batch, BatchBuilder, Entry};
use read_states_engine::engine::{Config, Engine};
use read_states_engine::id::Id;
use read_states_engine::list::Query;
use read_states_engine::now::Now;
use read_states_engine::read::Found;
use read_states_stores::{MemoryData, Store};
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let Ok(batch) = Batch::check(bytes) else {
        assert!(MemoryData::new().open(1).commit(bytes).is_err());
        return;
    };
    let counters = batch.counters();
    let entries: Vec<Entry> = batch.map(Result::unwrap).collect();
    let mut builder = BatchBuilder::new(counters);
    entries.iter().for_each(|entry| builder.push(entry));
    let again = Batch::check(&builder.finish())
        .unwrap()
        .map(Result::unwrap)
        .collect::<Vec<_>>();
    assert_eq!(again, entries);

    let store = MemoryData::new().open(counters);
    store.commit(bytes).unwrap();
    let mut users: Vec<Id> = entries.iter().map(Entry::user).collect();
    users.sort_unstable();
    users.dedup();
    let page = store.load(&users, None, usize::MAX).unwrap();
    assert_eq!(store.scan(None, usize::MAX).unwrap(), page);
    let kept = Batch::check(&page.batch)
        .unwrap()
        .map(Result::unwrap)
        .collect::<Vec<_>>();
    assert!(kept.iter().all(|entry| entries.contains(entry)));

    let config = Config {
        counters,
        shards: 1,
        partitions: 1,
        ..Config::default()
    };
    let engine = Arc::new(Engine::new(config));
    for user in &users {
        engine.want(*user).unwrap();
    }
    let Some(mut load) = engine.begin_load(0, users.len()).load else {
        return;
    };
    // Not a page of a store, whose entries come once.
    if load.add(bytes).is_ok() {
        load.finish(Now::default());
        for user in users {
            let rows = entries
                .iter()
                .filter(|entry| matches!(entry, Entry::Row(row) if row.user == user));
            let Ok(Found::Resident(list)) =
                engine.list(user, Query::default(), true, Now::default())
            else {
                panic!("{user} was loaded");
            };
            assert!(list.len() <= rows.count());
        }
    }
});
