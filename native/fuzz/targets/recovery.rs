//! Any records in a journal: an engine starts with it, brings in whoever is in it, and answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use read_states_engine::engine::{Config, Engine};
use read_states_engine::now::Now;
use read_states_fuzz::{Directory, MAX_WORDS, OPTIONS, record};
use read_states_journal::{Journal, Tag};
use std::sync::Arc;

thread_local! {
    static DIRECTORY: Directory = Directory::new();
}

fuzz_target!(|records: Vec<(Tag, Vec<u64>)>| {
    let mut bytes = vec![];
    for (tag, words) in &records {
        bytes.extend(record(*tag, &words[..words.len().min(MAX_WORDS)]));
    }
    DIRECTORY.with(|directory| {
        directory.write(&bytes);
        let journal = Journal::open(directory.path(), OPTIONS).unwrap();
        let config = Config {
            shards: 1,
            partitions: 1,
            ..Config::default()
        };
        let engine = Arc::new(Engine::with_journal(config, Some(journal)));
        let now = Now::default();
        let recovered = engine.recover(now).unwrap();
        assert!(recovered.damage.is_empty() && recovered.operations <= records.len() as u64);
        engine.recover_more(now).unwrap();
        engine.flush(0);
        while let Some(load) = engine.begin_load(0, 100).load {
            load.finish(now);
        }
        while let Some(commit) = engine.begin_commit(0, 100, now) {
            commit.succeed(now);
        }
    });
});
