//! An engine with its journal and its store, what is under way between them, and a plain map of what they should have.

use std::mem;
use std::ops::AddAssign;
use std::path::Path;
use std::sync::Arc;

use read_states_engine::WriteError;
use read_states_engine::batch::{Batch, Entry};
use read_states_engine::commit::Commit;
use read_states_engine::engine::{Config, Engine, Resize, UserOperation};
use read_states_engine::id::Id;
use read_states_engine::list::Query;
use read_states_engine::load::Load;
use read_states_engine::now::Now;
use read_states_engine::read::Found;
use read_states_engine::recovery::{Recovered, Recovery};
use read_states_journal::{Journal, Options};
use read_states_stores::MemoryTable;
use read_states_stores::versioned::Versioned;
use tempfile::TempDir;

use super::files::Files;
use super::legal::Uncertain;
use super::model::Model;
use super::step::{
    COMMIT_AFTER, COUNTERS, Death, Disk, PARTITIONS, Settings, Step, USERS, WITNESSES, burst,
    witnessed,
};

/// Bytes of a segment: the least there can be.
const SEGMENT: usize = 1 << 16;

/// After which nobody waits for the answer of a store any more.
const HOURS: u64 = 2 * 3_600_000_000;

/// What happened, to be added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Operations that were accepted.
    pub operations: usize,
    /// Calls that were refused.
    pub refused: usize,
    /// Commits that the store has.
    pub commits: usize,
    /// Lives that ended.
    pub crashes: usize,
    /// Operations that were read from the journal.
    pub recovered: usize,
    /// Lives after which something was missing that might be missing.
    pub losses: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.refused += other.refused;
        self.commits += other.commits;
        self.crashes += other.crashes;
        self.recovered += other.recovered;
        self.losses += other.losses;
    }
}

/// A load, and where the next page starts.
struct Loading {
    load: Load,
    cursor: Option<Vec<u8>>,
    /// Whether there is no next page.
    read: bool,
}

/// A commit, and how far it is.
struct Committing {
    commit: Commit,
    ahead: bool,
    written: bool,
}

/// See the module.
pub struct World {
    settings: Settings,
    config: Config,
    engine: Arc<Engine>,
    files: Option<Files>,
    store: Versioned<MemoryTable>,
    /// What all operations that were accepted make of nothing.
    model: Model,
    /// What a cut of the power may leave of them.
    unsynced: Uncertain,
    /// What may be left of them if the journal is damaged, or if there is none.
    ever: Uncertain,
    /// Whether something was lost, so that the journal may have places that cannot be read.
    scarred: bool,
    /// Whether a file may have been refused since the journal was tended.
    refused: bool,
    loads: Vec<Loading>,
    commits: Vec<Committing>,
    /// Batches that the store was given, and may carry out at any time, again or for the first time.
    late: Vec<Vec<u8>>,
    /// Whether everybody can be loaded.
    draining: bool,
    now: Now,
    /// The clock on the wall is never set to before that.
    day: u64,
    lives: u64,
    tally: Tally,
}

/// Takes one of several, if there is any.
fn pick<T>(items: &mut Vec<T>, which: usize) -> Option<T> {
    (!items.is_empty()).then(|| items.swap_remove(which % items.len()))
}

/// One of several, if there is any.
fn look_at<T>(items: &mut [T], which: usize) -> Option<&mut T> {
    let count = items.len().max(1);
    items.get_mut(which % count)
}

impl World {
    /// In the beginning there is nothing.
    pub fn new(settings: Settings) -> Self {
        let config = Config {
            policy: settings.policy,
            counters: COUNTERS,
            capacity: 20,
            dirty_memory: settings.dirty_memory,
            commit_after: COMMIT_AFTER,
            shards: 4,
            partitions: PARTITIONS,
            ..Config::default()
        };
        let mut world = World {
            settings,
            config,
            engine: Arc::new(Engine::new(config)),
            files: settings.journal.map(|_| Files::new()),
            store: Versioned::new(MemoryTable::default()).unwrap(),
            model: Model::default(),
            unsynced: Uncertain::default(),
            ever: Uncertain::default(),
            scarred: false,
            refused: false,
            loads: vec![],
            commits: vec![],
            late: vec![],
            draining: false,
            now: Now {
                monotonic: 0,
                unix: 500_000,
            },
            day: 0,
            lives: 0,
            tally: Tally::default(),
        };
        world.begin();
        world
    }

    /// Lets something happen.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(operation) => {
                let UserOperation {
                    user,
                    operation: it,
                } = operation;
                let done = self.engine.apply(*user, it, self.now);
                self.answered(done.map(drop), &[*operation]);
            }
            Step::ApplyAll(operations, message) => {
                self.apply_all(&witnessed(operations.clone(), *message));
            }
            Step::Burst {
                user,
                channel,
                puts,
                batch,
            } => {
                let puts = burst(*user, *channel, *puts);
                if *batch {
                    self.apply_all(&puts);
                } else {
                    puts.into_iter()
                        .for_each(|put| self.step(&Step::Apply(put)));
                }
            }
            Step::Get(user, channel) => {
                if let Found::Resident(state) = self.engine.get(*user, *channel).unwrap() {
                    let expected = self.model.0.get(&(*user, *channel));
                    assert_eq!(state, expected.copied().unwrap_or_default());
                }
            }
            Step::List(user, query) => {
                let list = self.engine.list(*user, *query, false, self.now);
                if let Found::Resident(states) = list.unwrap() {
                    assert_eq!(states.to_vec(), self.model.list(*user, *query));
                }
            }
            Step::Total(user) => {
                if let Found::Resident(total) = self.engine.total(*user, 1).unwrap() {
                    let states = self.model.list(*user, Query::default()).into_iter();
                    let counts = states.map(|(_, state)| u64::from(state.counters[1]));
                    assert_eq!(total, counts.sum::<u64>());
                }
            }
            Step::BeginLoad(partition) => {
                let mut begun = begin_load(&self.engine, *partition);
                if let (Some(user), false) = (self.settings.unloadable, self.draining) {
                    let alone = begun.as_mut().and_then(|begun| begun.load.part(user));
                    alone.map(Load::fail);
                    begun = begun.filter(|begun| !begun.load.users().is_empty());
                }
                self.loads.extend(begun);
            }
            Step::ReadPage(which) => {
                if let Some(loading) = look_at(&mut self.loads, *which) {
                    loading.read_page(&self.store, self.settings.page);
                }
            }
            Step::ReadBadPage(which) => {
                if let Some(mut loading) = pick(&mut self.loads, *which) {
                    let users = loading.load.users().to_vec();
                    let mut page = self.store.load(&users, None, 100, COUNTERS).unwrap();
                    page.batch.pop();
                    loading.load.add(&page.batch).unwrap_err();
                }
            }
            Step::FinishLoad(which) => {
                if let Some(loading) = pick(&mut self.loads, *which) {
                    loading.finish(&self.store, self.settings.page, self.now);
                }
            }
            Step::FailLoad(which) => drop(pick(&mut self.loads, *which)),
            Step::BeginCommit(partition, most) => {
                let begun = self.engine.begin_commit(*partition, *most, self.now);
                self.commits.extend(begun.map(|commit| Committing {
                    commit,
                    ahead: false,
                    written: false,
                }));
            }
            Step::WriteAhead(which) => {
                if let Some(mut committing) = pick(&mut self.commits, *which)
                    && self.write_ahead(&mut committing)
                {
                    self.commits.push(committing);
                }
            }
            Step::Write(which) => {
                if let Some(mut committing) = pick(&mut self.commits, *which)
                    && self.write(&mut committing)
                {
                    self.commits.push(committing);
                }
            }
            Step::Succeed(which) => {
                if let Some(mut committing) = pick(&mut self.commits, *which)
                    && self.write(&mut committing)
                {
                    committing.commit.succeed(self.now);
                    self.tally.commits += 1;
                }
            }
            Step::Fail(which) => {
                if let Some(committing) = pick(&mut self.commits, *which) {
                    self.lose(&committing);
                }
            }
            Step::WriteLate(which) => {
                if let Some(batch) = pick(&mut self.late, *which) {
                    self.store.commit(&batch, COUNTERS).unwrap();
                }
            }
            Step::Flush(partition) => {
                self.engine.flush(*partition);
            }
            Step::Wait(micros) => {
                self.now.monotonic += micros;
                self.now.unix += micros;
            }
            Step::ClockJumps(unix) => self.now.unix = self.day + unix,
            Step::HoursPass => {
                self.loads.clear();
                self.commits.clear();
                self.late.clear();
                self.day += HOURS;
                self.now.monotonic += HOURS;
                self.now.unix += HOURS;
            }
            Step::Resize {
                capacity,
                dirty_memory,
            } => self.resize(*capacity, *dirty_memory),
            Step::TendJournal => {
                self.engine.recover_more(self.now).unwrap();
                let tended = self.engine.tend_journal(self.now);
                assert!(tended.is_ok() || self.files_are_refused(), "{tended:?}");
                self.refused &= self.files_are_refused();
                self.engine.sync_journal().unwrap();
                self.synced();
            }
            Step::RefuseFiles(refuse) => {
                if let Some(files) = &mut self.files {
                    files.refuse(*refuse);
                    self.refused |= refuse;
                }
            }
            Step::Restart { drained } => self.restart(*drained),
            Step::Crash {
                shards,
                death,
                with_store,
                short_lives,
            } => self.crash(*shards, death, *with_store, *short_lives),
        }
    }

    fn apply_all(&mut self, operations: &[UserOperation]) {
        let done = self.engine.apply_all(operations, self.now);
        self.answered(done.map(drop), operations);
    }

    /// A write that was refused leaves no trace.
    fn answered(&mut self, done: Result<(), WriteError>, operations: &[UserOperation]) {
        match done {
            Ok(()) => {
                self.tally.operations += operations.len();
                if self.settings.disk == Disk::Cut {
                    self.unsynced.note(operations);
                }
                self.ever.note(operations);
                for UserOperation { user, operation } in operations {
                    self.model.apply(*user, operation);
                }
            }
            Err(WriteError::Overloaded) => self.tally.refused += 1,
            Err(WriteError::JournalFailed) if self.refused => self.tally.refused += 1,
            Err(error) => panic!("a write was refused: {error:?}"),
        }
    }

    fn files_are_refused(&self) -> bool {
        self.files.as_ref().is_some_and(Files::are_refused)
    }

    /// Everything that was accepted survives a cut of the power.
    fn synced(&mut self) {
        if self.settings.disk == Disk::Cut
            && let Some(files) = &mut self.files
        {
            files.note_sync();
            self.unsynced.settle(&self.model);
        }
    }

    /// Whether it was done; if not, the commit has failed.
    fn write_ahead(&mut self, committing: &mut Committing) -> bool {
        if !committing.ahead {
            let ahead = committing.commit.write_ahead().run();
            assert!(ahead.is_ok() || self.files_are_refused(), "{ahead:?}");
            if ahead.is_err() {
                return false;
            }
            committing.ahead = true;
            self.synced();
        }
        true
    }

    fn write(&mut self, committing: &mut Committing) -> bool {
        if !self.write_ahead(committing) {
            return false;
        }
        if !mem::replace(&mut committing.written, true) {
            let batch = committing.commit.batch();
            self.store.commit(batch, COUNTERS).unwrap();
            self.late.push(batch.to_vec());
        }
        true
    }

    /// Nobody knows whether the store has it, or will have it, if it was given it.
    fn lose(&mut self, committing: &Committing) {
        if committing.ahead {
            self.late.push(committing.commit.batch().to_vec());
        }
    }

    fn resize(&self, capacity: usize, dirty_memory: usize) {
        let bounds = Resize {
            capacity: Some(capacity),
            dirty_memory: Some(dirty_memory),
            memory: None,
        };
        self.engine.resize(bounds, self.now);
    }

    /// An engine with the journal in this directory, if there is to be one, which has read it and taken up nothing yet.
    fn start(
        &self,
        directory: Option<&Path>,
        dirty_memory: usize,
    ) -> Result<(Arc<Engine>, Recovered), String> {
        let engine = self.open(directory, dirty_memory)?;
        let recovered = engine.recover(self.now);
        let recovered = recovered.map_err(|error| error.to_string())?;
        assert_eq!(recovered.lost_by_store, 0, "this store loses nothing");
        Ok((engine, recovered))
    }

    fn open(&self, directory: Option<&Path>, dirty_memory: usize) -> Result<Arc<Engine>, String> {
        let options = Options {
            segment: SEGMENT,
            most: self.settings.journal.unwrap_or_default(),
            id_width: 8,
            // Another one in each life, of which only the first counts.
            owner: 7 + self.lives,
            exact: false,
        };
        let journal = directory
            .map(|directory| Journal::open(directory, options))
            .transpose()
            .map_err(|error| error.to_string())?;
        let config = Config {
            floor: self.store.floor(),
            dirty_memory,
            ..self.config
        };
        Ok(Arc::new(Engine::with_journal(config, journal)))
    }

    /// A new life begins, with what the files and the store have.
    fn begin(&mut self) -> Recovered {
        self.lives += 1;
        let directory = self.files.as_ref().map(Files::path);
        let (engine, recovered) = self.start(directory, self.settings.dirty_memory).unwrap();
        self.engine = engine;
        self.refused = false;
        self.tally.recovered += recovered.operations as usize;
        if !self.scarred {
            let clean = Recovered {
                operations: recovered.operations,
                ..Recovered::default()
            };
            assert_eq!(recovered, clean);
        }
        self.synced();
        recovered
    }

    fn crash(
        &mut self,
        shards: usize,
        death: &Death,
        with_store: bool,
        [unread, read]: [usize; 2],
    ) {
        let found = self.die_of(death, with_store);
        self.config.shards = shards;
        for _ in 0..unread {
            let directory = self.files.as_ref().map(Files::path);
            drop(self.open(directory, usize::MAX).unwrap());
        }
        for life in 0..=read {
            let recovered = self.begin();
            if let Some(found) = &found {
                assert_eq!(recovered.operations, found.operations);
            }
            if life < read {
                self.die();
            }
        }
    }

    /// What it costs, and what is found if that may be something.
    fn die_of(&mut self, death: &Death, with_store: bool) -> Option<Recovered> {
        let Some(files) = &mut self.files else {
            self.die();
            self.reopen_store();
            let left = self.stored();
            self.ever.check(&left);
            self.leave(left);
            return None;
        };
        files.refuse(false);
        let before = files.contents();
        let mut done = self.model.clone();
        match death {
            Death::KilledDuring(operations, _) => {
                let answer = self.engine.apply_all(operations, self.now);
                if answer.is_ok() {
                    for UserOperation { user, operation } in operations {
                        done.apply(*user, operation);
                    }
                }
            }
            Death::PowerCutDuringWriteAhead(which, _) => {
                if let Some(committing) = pick(&mut self.commits, *which) {
                    committing.commit.write_ahead().run().unwrap();
                    self.lose(&committing);
                }
            }
            _ => {}
        }
        self.die();
        if with_store {
            self.reopen_store();
        }
        let files = self.files.as_mut().unwrap();
        match *death {
            Death::Killed => return None,
            Death::KilledDuring(_, seed) => files.cut_writes(&before, seed),
            Death::PowerCut(seed) | Death::PowerCutDuringWriteAhead(_, seed) => {
                files.cut_power(seed);
            }
            Death::Flipped(seed) => files.flip(seed),
            Death::Shortened(seed) => files.shorten(seed),
        }
        let is_damaged = matches!(death, Death::Flipped(_) | Death::Shortened(_));
        if is_damaged {
            // Where it is damaged it may have said of which versions they are.
            self.late.clear();
            // Of a delete that the journal has lost only the store would know, and only for a while.
            self.store.forget_deletes().unwrap();
        }
        let (recovered, left) = self.look_ahead().expect("it starts");
        let is_reported = recovered
            != Recovered {
                operations: recovered.operations,
                ..Recovered::default()
            };
        match death {
            Death::KilledDuring(..) => {
                assert!(left == self.model || left == done, "a call is cut in two");
            }
            Death::PowerCut(_) | Death::PowerCutDuringWriteAhead(..) => {
                self.unsynced.check(&left);
                let [first, last] = WITNESSES.map(|user| left.list(user, Query::default()));
                assert_eq!(first, last, "a batch is cut in two");
            }
            _ => {
                assert!(left == self.model || is_reported, "damage is not reported");
                self.ever.check(&left);
                if matches!(death, Death::Flipped(_)) {
                    self.ever.check_one_call(&self.model, &left);
                }
            }
        }
        self.scarred = true;
        self.leave(left);
        Some(recovered)
    }

    /// From now on this is what there should be.
    fn leave(&mut self, left: Model) {
        self.tally.losses += usize::from(left != self.model);
        self.model = left;
    }

    /// Nobody has the engine any more, so that its files are free.
    fn die(&mut self) {
        for committing in mem::take(&mut self.commits) {
            self.lose(&committing);
        }
        self.loads.clear();
        self.engine = Arc::new(Engine::new(self.config));
        self.tally.crashes += 1;
    }

    /// As one does that was on the same machine.
    fn reopen_store(&mut self) {
        self.late.clear();
        self.store.forget_deletes().unwrap();
    }

    /// What the next life will find, found by one that leaves no trace.
    fn look_ahead(&self) -> Result<(Recovered, Model), String> {
        let copy = self.files.as_ref().map(Files::copy);
        let (engine, recovered) = self.start(copy.as_ref().map(TempDir::path), usize::MAX)?;
        let bounds = Resize {
            capacity: Some(usize::MAX),
            ..Resize::default()
        };
        engine.resize(bounds, self.now);
        let taken_up = engine.recover_more(self.now).unwrap();
        assert_eq!(taken_up, Recovery::Done, "it has the memory");
        let mut found = Model::default();
        for user in 0..USERS + WITNESSES.len() as Id {
            engine.want(user).unwrap();
            for partition in 0..PARTITIONS {
                if let Some(loading) = begin_load(&engine, partition) {
                    loading.finish(&self.store, self.settings.page, self.now);
                }
            }
            let list = engine.list(user, Query::default(), false, self.now);
            let Found::Resident(states) = list.unwrap() else {
                panic!("who was loaded is resident until he is read");
            };
            let states = states.to_vec().into_iter();
            found
                .0
                .extend(states.map(|(channel, state)| ((user, channel), state)));
        }
        Ok((recovered, found))
    }

    /// What the store has.
    fn stored(&self) -> Model {
        let page = self.store.scan(None, usize::MAX, COUNTERS).unwrap();
        let rows = Batch::check(&page.batch).unwrap().map(Result::unwrap);
        let rows = rows.filter_map(|entry| match entry {
            Entry::Row(row) => Some(((row.user, row.channel), row.state)),
            _ => None,
        });
        Model(rows.collect())
    }

    /// Without a journal everything is committed first, or it would be lost.
    fn restart(&mut self, drained: bool) {
        let drained = drained || self.files.is_none();
        self.step(&Step::RefuseFiles(false));
        self.engine.close(true);
        let write = witnessed(vec![], 0);
        let refused = self.engine.apply_all(&write, self.now);
        assert_eq!(refused, Err(WriteError::Closed));
        if drained {
            self.drain();
        }
        self.engine.close_journal().unwrap();
        self.synced();
        self.die();
        self.scarred &= !drained;
        let recovered = self.begin();
        if drained {
            assert_eq!(recovered.operations, 0);
        }
    }

    /// Loads and commits everything, as at shutdown.
    fn drain(&mut self) {
        self.draining = true;
        self.loads.clear();
        for committing in mem::take(&mut self.commits) {
            self.lose(&committing);
        }
        let flushes: Vec<u64> = (0..PARTITIONS).map(|p| self.engine.flush(p)).collect();
        for round in 0.. {
            assert!(round < 10_000, "a flush must come to an end");
            self.engine.recover_more(self.now).unwrap();
            for partition in 0..PARTITIONS {
                self.step(&Step::BeginCommit(partition, 7));
                self.step(&Step::BeginLoad(partition));
            }
            while !self.commits.is_empty() {
                self.step(&Step::Succeed(0));
            }
            while !self.loads.is_empty() {
                self.step(&Step::FinishLoad(0));
            }
            if (0..PARTITIONS).all(|p| self.engine.is_flushed(p, flushes[p])) {
                self.draining = false;
                return;
            }
        }
    }

    /// Everything is in the store, nothing is left over in the engine or in the journal.
    pub fn end(mut self) -> Tally {
        self.step(&Step::RefuseFiles(false));
        if self.files.is_some() {
            self.crash(8, &Death::Killed, false, [0, 0]);
        }
        self.drain();
        assert_eq!(self.stored(), self.model);
        for batch in mem::take(&mut self.late) {
            self.store.commit(&batch, COUNTERS).unwrap();
        }
        assert_eq!(self.stored(), self.model, "late batches change nothing");
        let stats = self.engine.stats();
        assert_eq!((stats.dirty_users, stats.pending_operations), (0, 0));
        assert_eq!(stats.dirty_memory, 0);
        // What has no more to say is forgotten, and pins of readers who never came back expire.
        self.step(&Step::Wait(10_000_000));
        self.step(&Step::TendJournal);
        self.step(&Step::TendJournal);
        assert!(self.engine.stats().journal_size <= 4 * SEGMENT);
        self.resize(0, usize::MAX);
        self.engine.reclaim();
        // Those who only waited for a load.
        while (0..PARTITIONS).any(|p| {
            let begun = self.engine.begin_load(p, 100);
            begun.load.is_some() || begun.more
        }) {}
        let stats = self.engine.stats();
        assert_eq!((stats.users, stats.states, stats.channels), (0, 0, 0));
        self.restart(true);
        self.tally
    }
}

fn begin_load(engine: &Arc<Engine>, partition: usize) -> Option<Loading> {
    let load = engine.begin_load(partition, 3).load?;
    Some(Loading {
        load,
        cursor: None,
        read: false,
    })
}

impl Loading {
    fn read_page(&mut self, store: &Versioned<MemoryTable>, limit: usize) {
        if !self.read {
            let users = self.load.users().to_vec();
            let page = store.load(&users, self.cursor.as_deref(), limit, COUNTERS);
            let page = page.unwrap();
            self.load.add(&page.batch).unwrap();
            self.read = page.next.is_none();
            self.cursor = page.next;
        }
    }

    fn finish(mut self, store: &Versioned<MemoryTable>, limit: usize, now: Now) {
        while !self.read {
            self.read_page(store, limit);
        }
        self.load.finish(now);
    }
}
