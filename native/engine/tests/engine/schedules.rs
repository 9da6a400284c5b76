//! The shard protocol under many schedules: resident, dirty, committing and evicted, all at once on the same few
//! users, without and with a journal. See `read_states_sync` for how they are explored, and `script/schedules`.
//!
//! Two writers count mentions of the same users, each by numbers of his own, so that a sum says which increments are in
//! it. A third has a user of his own, whom he also acks and deletes, and compares with a model. Others load, commit and evict
//! meanwhile, or fail to; with a journal one of them copies its files at some moment, as a crash leaves them, and
//! another engine is opened on the copy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use read_states_engine::Policy;
use read_states_engine::WriteError;
use read_states_engine::batch::{Batch, Entry, Version};
use read_states_engine::commit::Commit;
use read_states_engine::engine::{Config, Engine, Resize, UserOperation};
use read_states_engine::id::{Channel, Id};
use read_states_engine::list::Query;
use read_states_engine::now::Now;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read::Found;
use read_states_journal::{Journal, Options};
use read_states_sync::{Effort, explore, join, spawn, thread};
use tempfile::TempDir;

use crate::model::Model;
use crate::store::Store;

/// Users whom both writers count mentions of.
const SHARED: [Id; 2] = [1, 5];

/// Whom one writer has for himself.
const OWN: Id = 3;

/// Nobody writes to him, but he is read.
const READ: Id = 4;

/// Where single operations go.
const CHANNEL: Channel = Channel { kind: 0, id: 7 };

/// Where batches go, which count each shared user once.
const BATCHES: Channel = Channel { kind: 0, id: 8 };

/// A clock that stands still: versions grow nevertheless.
const NOW: Now = Now {
    monotonic: 1_000_000,
    unix: 1_000_000,
};

/// When all that was accepted at [`NOW`] is due, and a segment is old.
const LATER: Now = Now {
    monotonic: 100_000_000,
    unix: 1_000_000,
};

/// What the writers know. Plain locks, held for no step.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Sums of what was begun, and of what was acknowledged.
    begun: BTreeMap<(Id, Channel), u32>,
    acknowledged: BTreeMap<(Id, Channel), u32>,
    /// The own user's states after each of his operations, and how many were acknowledged.
    own: Vec<Model>,
    own_acknowledged: usize,
}

/// The store, and what was ever written to each place of the shared users.
#[derive(Debug, Default)]
struct Written {
    store: Store,
    versions: BTreeMap<(Id, Channel), BTreeMap<Version, u32>>,
}

struct Subject {
    engine: Arc<Engine>,
    written: Mutex<Written>,
    known: Mutex<Known>,
    directory: TempDir,
}

/// A directory that costs no disk, where there is one.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

fn journal(directory: &Path) -> Journal {
    let options = Options {
        segment: 1 << 16,
        most: 6,
        id_width: 8,
        owner: 1,
        exact: true,
    };
    Journal::open(directory, options).unwrap()
}

fn config(policy: Policy) -> Config {
    Config {
        policy,
        // Half of the users.
        capacity: 2,
        commit_after: 1_000,
        shards: 2,
        ..Config::default()
    }
}

fn increment(user: Id, channel: Channel, by: u32) -> UserOperation {
    let (message, counter) = (1, 0);
    let change = Change::Increment {
        message,
        counter,
        by,
    };
    let operation = Operation::Change { channel, change };
    UserOperation { user, operation }
}

impl Subject {
    fn new(policy: Policy, with_journal: bool) -> Arc<Self> {
        let by_shard = Engine::new(Config {
            partitions: 2,
            ..config(policy)
        });
        let [one, other] = SHARED.map(|user| by_shard.partition_of(user));
        assert_ne!(one, other, "a batch is on two shards");
        let directory = directory();
        let journal = with_journal.then(|| journal(&directory.path().join("live")));
        let engine = Engine::with_journal(config(policy), journal);
        engine.recover(NOW).unwrap();
        Arc::new(Subject {
            engine: Arc::new(engine),
            written: Mutex::default(),
            known: Mutex::new(Known {
                own: vec![Model::default()],
                ..Known::default()
            }),
            directory,
        })
    }

    /// Counts mentions, as a batch if they are several; or is refused, and nothing is counted.
    fn count(&self, operations: &[UserOperation]) -> bool {
        let add = |sums: &mut BTreeMap<_, u32>| {
            for UserOperation { user, operation } in operations {
                let Operation::Change {
                    channel,
                    change: Change::Increment { by, .. },
                } = operation
                else {
                    unreachable!("only mentions are counted");
                };
                *sums.entry((*user, *channel)).or_default() += by;
            }
        };
        add(&mut self.known.lock().unwrap().begun);
        let done = match operations {
            [one] => self.engine.apply(one.user, &one.operation, NOW),
            many => self.engine.apply_all(many, NOW),
        };
        let mut known = self.known.lock().unwrap();
        if done.is_ok() {
            add(&mut known.acknowledged);
        }
        done.is_ok()
    }

    /// Carries out an operation on the own user.
    fn change_own(&self, operation: Operation) {
        let mut known = self.known.lock().unwrap();
        let mut next = known.own.last().unwrap().clone();
        next.apply(OWN, &operation);
        known.own.push(next);
        drop(known);
        self.engine.apply(OWN, &operation, NOW).unwrap();
        let mut known = self.known.lock().unwrap();
        known.own_acknowledged += 1;
    }

    /// Reads the own user, if he is resident.
    fn read_own(&self) {
        let found = self.engine.list(OWN, Query::default(), true, NOW).unwrap();
        if let Found::Resident(states) = found {
            let known = self.known.lock().unwrap();
            assert_eq!(
                states.to_vec(),
                known.own.last().unwrap().list(OWN, Query::default())
            );
        }
    }

    /// Reads what both writers count, if the user is resident: all that was acknowledged before, and nothing that was not begun.
    fn read(&self, user: Id) {
        let sum = |sums: &BTreeMap<_, u32>| sums.get(&(user, CHANNEL)).copied().unwrap_or_default();
        let least = sum(&self.known.lock().unwrap().acknowledged);
        if let Found::Resident(state) = self.engine.get(user, CHANNEL).unwrap() {
            let most = sum(&self.known.lock().unwrap().begun);
            let count = state.counters[0];
            assert!((least..=most).contains(&count), "{least}..={most}: {count}");
        }
    }

    /// What a store has of the users of a load.
    fn load(&self) {
        let Some(mut load) = self.engine.begin_load(0, 2).load else {
            return;
        };
        for user in load.users().to_vec() {
            let page = self.written.lock().unwrap().store.load(user, 1);
            thread::yield_now();
            load.add(&page).unwrap();
        }
        load.finish(NOW);
    }

    /// A load that fails.
    fn fail_to_load(&self) {
        if let Some(load) = self.engine.begin_load(0, 2).load {
            load.fail();
        }
    }

    /// A commit that may be given to the store: not while as many as there are partitions wait for the disk.
    fn begin_commit(&self, most: usize) -> Option<Commit> {
        let commit = self.engine.begin_commit(0, most, LATER)?;
        match commit.write_ahead().run() {
            Ok(()) => Some(commit),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
                None
            }
        }
    }

    fn commit(&self, most: usize) {
        if let Some(commit) = self.begin_commit(most) {
            self.write(commit.batch());
            commit.succeed(NOW);
        }
    }

    /// A commit that fails, or seems to: the store gets it late.
    fn fail_to_commit(&self, late: bool) {
        if let Some(commit) = self.begin_commit(3) {
            let batch = commit.batch().to_vec();
            drop(commit);
            thread::yield_now();
            if late {
                self.write(&batch);
            }
        }
    }

    fn write(&self, batch: &[u8]) {
        let mut written = self.written.lock().unwrap();
        written.store.commit(batch);
        for entry in Batch::check(batch).unwrap() {
            if let Entry::Row(row) = entry.unwrap()
                && SHARED.contains(&row.user)
            {
                let versions = written.versions.entry((row.user, row.channel)).or_default();
                let count = row.state.counters[0];
                let before = versions.insert(row.version, count);
                assert!(
                    before.is_none_or(|before| before == count),
                    "one version, two values"
                );
                // Versions are in the order of what they have: nothing but increments is done here.
                assert!(versions.values().is_sorted(), "{versions:?}");
            }
        }
    }

    fn tend(&self) {
        self.engine.tend_journal(LATER).unwrap();
    }

    /// Stops here, and says what another engine makes of it, and of a store that forgets deletes.
    fn after_crash(&self) -> Model {
        let copy = TempDir::new_in(self.directory.path()).unwrap();
        for entry in fs::read_dir(self.directory.path().join("live")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let mut store = self.written.lock().unwrap().store.clone();
        store.forget_deletes();
        let engine = Engine::with_journal(config(Policy::Clock), Some(journal(copy.path())));
        let next = Subject {
            engine: Arc::new(engine),
            written: Mutex::new(Written {
                store,
                ..Written::default()
            }),
            known: Mutex::default(),
            directory: copy,
        };
        let recovered = next.engine.recover(NOW).unwrap();
        next.engine.recover_more(NOW).unwrap();
        // A record that is half written is damage, and then a batch without an end may have had one.
        let is_damaged = recovered.damage.iter().any(|damage| !damage.zero);
        assert!(is_damaged || recovered.broken == 0);
        next.drain();
        let written = next.written.lock().unwrap();
        written.store.contents()
    }

    /// Stops here, and nothing is missing, counted twice or cut in two.
    fn crash(&self) {
        let known = self.known.lock().unwrap().clone();
        let contents = self.after_crash();
        let count = |user, channel| contents.get(user, channel).counters[0];
        for ((user, channel), most) in &known.begun {
            let least = known.acknowledged.get(&(*user, *channel)).copied();
            let (least, count) = (least.unwrap_or_default(), count(*user, *channel));
            assert!(
                (least..=*most).contains(&count),
                "{least}..={most}: {count}"
            );
        }
        assert_eq!(
            count(SHARED[0], BATCHES),
            count(SHARED[1], BATCHES),
            "a part of a batch"
        );
        let own = contents.list(OWN, Query::default());
        let possible = &known.own[known.own_acknowledged..];
        let mut possible = possible.iter().map(|own| own.list(OWN, Query::default()));
        assert!(
            possible.any(|possible| possible == own),
            "{own:?} after {known:?}"
        );
    }

    /// Commits everything.
    fn drain(&self) {
        let flush = self.engine.flush(0);
        let mut turns = 0;
        while !self.engine.is_flushed(0, flush) {
            self.load();
            self.commit(3);
            // Somebody else may be at it.
            thread::yield_now();
            turns += 1;
            assert!(turns < 1_000, "{:?}", self.engine.stats());
        }
    }

    /// All that was acknowledged is in the store, each once, and the engine's books are empty.
    fn finish(&self) {
        self.drain();
        let known = self.known.lock().unwrap();
        let mut contents = self.written.lock().unwrap().store.contents();
        assert_eq!(
            contents.list(OWN, Query::default()),
            known.own.last().unwrap().list(OWN, Query::default())
        );
        contents.0.retain(|(user, _), _| *user != OWN);
        let counts = contents
            .0
            .into_iter()
            .map(|(place, state)| (place, state.counters[0]));
        assert_eq!(counts.collect::<BTreeMap<_, _>>(), known.acknowledged);
        drop(known);
        // Until nobody waits for a load that was begun for a reader.
        while self.engine.load_queue() > 0 {
            self.load();
        }
        let stats = self.engine.stats();
        let left = (
            stats.dirty_users,
            stats.dirty_memory,
            stats.pending_operations,
            stats.load_queue,
        );
        assert_eq!(left, (0, 0, 0, 0), "{stats:?}");
        // Who was waited for may go only later.
        let nobody = Resize {
            capacity: Some(0),
            ..Resize::default()
        };
        self.engine.resize(nobody, LATER);
        self.engine.reclaim();
        let stats = self.engine.stats();
        assert_eq!(
            (stats.users, stats.states, stats.channels),
            (0, 0, 0),
            "{stats:?}"
        );
    }
}

/// The writers, a reader, and two who load and commit.
fn everybody(subject: &Arc<Subject>) -> Vec<thread::JoinHandle<()>> {
    let count = |first: u32| {
        move |subject: &Subject| {
            subject.count(&[increment(SHARED[0], CHANNEL, first)]);
            subject.count(&SHARED.map(|user| increment(user, BATCHES, first)));
            subject.count(&[increment(SHARED[1], CHANNEL, first)]);
            subject.count(&[increment(SHARED[0], CHANNEL, 10 * first)]);
        }
    };
    let own = |subject: &Subject| {
        let UserOperation { operation, .. } = increment(OWN, CHANNEL, 1);
        let (channel, change) = (CHANNEL, Change::Delete);
        subject.change_own(operation);
        subject.change_own(Operation::Change { channel, change });
        subject.read_own();
        subject.change_own(operation);
        subject.change_own(Operation::DeleteUser);
        subject.change_own(increment(OWN, BATCHES, 5).operation);
        subject.read_own();
    };
    let read = |subject: &Subject| {
        for user in SHARED {
            subject.read(user);
        }
        subject.read(READ);
    };
    let serve = |subject: &Subject| {
        subject.load();
        subject.commit(3);
        subject.load();
        subject.commit(3);
    };
    let serve_badly = |subject: &Subject| {
        subject.load();
        subject.fail_to_commit(true);
        subject.fail_to_load();
        subject.fail_to_commit(false);
        subject.commit(3);
    };
    vec![
        spawn(subject, count(1)),
        spawn(subject, count(100)),
        spawn(subject, own),
        spawn(subject, read),
        spawn(subject, serve),
        spawn(subject, serve_badly),
    ]
}

fn with_policy(policy: Policy, schedules: usize) {
    explore(Effort { schedules }, move || {
        let subject = Subject::new(policy, false);
        join(everybody(&subject));
        subject.finish();
    });
}

#[test]
fn each_increment_counts_once() {
    with_policy(Policy::Clock, 1_000);
}

#[test]
fn each_increment_counts_once_with_an_lru() {
    // It looks for somebody to evict for longer.
    with_policy(Policy::Lru, 200);
}

#[test]
fn a_crash_loses_nothing_and_counts_nothing_twice() {
    explore(Effort { schedules: 1_000 }, || {
        let subject = Subject::new(Policy::Clock, true);
        let mut threads = everybody(&subject);
        threads.push(spawn(&subject, |subject| {
            subject.tend();
            subject.tend();
        }));
        threads.push(spawn(&subject, Subject::crash));
        join(threads);
        subject.finish();
    });
}

#[test]
fn a_crash_leaves_a_batch_whole_that_was_committed_and_sealed_meanwhile() {
    explore(Effort { schedules: 1_000 }, || {
        let subject = Subject::new(Policy::Clock, true);
        for user in SHARED {
            subject.engine.want(user).unwrap();
        }
        subject.load();
        join([
            spawn(&subject, |subject| {
                subject.count(&SHARED.map(|user| increment(user, BATCHES, 1)));
            }),
            spawn(&subject, |subject| {
                subject.commit(1);
                subject.crash();
            }),
            spawn(&subject, Subject::tend),
        ]);
        subject.crash();
        subject.finish();
    });
}

#[test]
fn a_delete_in_a_batch_stays_done_after_a_crash() {
    explore(Effort { schedules: 1_000 }, || {
        let subject = Subject::new(Policy::Clock, true);
        // Its room is taken when it begins: in an older segment, perhaps, than what it deletes.
        let (channel, change) = (CHANNEL, Change::Delete);
        let delete = UserOperation {
            user: OWN,
            operation: Operation::Change { channel, change },
        };
        let write = |operations: &'static [UserOperation]| {
            move |subject: &Subject| {
                subject.engine.apply_all(operations, NOW).unwrap();
            }
        };
        let batch = vec![increment(READ, CHANNEL, 1), delete].leak();
        let single = vec![increment(OWN, CHANNEL, 1)].leak();
        join([
            spawn(&subject, write(batch)),
            spawn(&subject, Subject::tend),
            spawn(&subject, write(single)),
        ]);
        subject.drain();
        subject.tend();
        let contents = subject.written.lock().unwrap().store.contents();
        assert_eq!(subject.after_crash(), contents);
    });
}

#[test]
fn a_load_that_was_overtaken_brings_nothing() {
    explore(Effort { schedules: 1_000 }, || {
        let subject = Subject::new(Policy::Clock, false);
        subject.change_own(increment(OWN, CHANNEL, 50).operation);
        subject.drain();
        let nobody = Resize {
            capacity: Some(0),
            ..Resize::default()
        };
        subject.engine.resize(nobody, LATER);
        subject.engine.want(OWN).unwrap();
        join([
            spawn(&subject, |subject| {
                subject.change_own(Operation::DeleteUser);
                subject.commit(3);
                subject.change_own(increment(OWN, CHANNEL, 1).operation);
            }),
            spawn(&subject, Subject::load),
            spawn(&subject, move |subject| {
                subject.engine.resize(nobody, LATER)
            }),
        ]);
        subject.finish();
    });
}

#[test]
fn what_was_accepted_before_an_engine_closed_is_committed_and_nothing_after_it() {
    explore(Effort { schedules: 1_000 }, || {
        let subject = Subject::new(Policy::Clock, true);
        let count = |first: u32| {
            spawn(&subject, move |subject| {
                for by in [first, 10 * first] {
                    subject.count(&[increment(SHARED[0], CHANNEL, by)]);
                    subject.count(&SHARED.map(|user| increment(user, BATCHES, by)));
                }
            })
        };
        let mut threads: Vec<_> = [1, 100].map(count).into_iter().collect();
        threads.push(spawn(&subject, |subject| {
            subject.load();
            subject.commit(3);
        }));
        threads.push(spawn(&subject, |subject| {
            subject.engine.close(true);
            let known = subject.known.lock().unwrap().acknowledged.clone();
            subject.drain();
            let one = increment(SHARED[0], CHANNEL, 1).operation;
            assert_eq!(
                subject.engine.apply(SHARED[0], &one, NOW),
                Err(WriteError::Closed)
            );
            let contents = subject.written.lock().unwrap().store.contents();
            for ((user, channel), count) in known {
                assert!(contents.get(user, channel).counters[0] >= count);
            }
            subject.engine.close_journal().unwrap();
        }));
        join(threads);
        subject.finish();
    });
}
