//! Damage to any file of the store on disk: an error that names it, or the right answer, and never anything else.

use fjall::{Database, KeyspaceCreateOptions};
use read_states_engine::batch::{Batch, BatchBuilder, Entry, Row};
use read_states_engine::id::{Channel, Id};
use read_states_engine::read_state::ReadState;
use read_states_stores::{Local, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tempfile::TempDir;

const USERS: Id = 20;
/// Each of so many rows.
const COMMITS: u64 = 120;
const ROWS: u64 = 60;
/// Commits that are in the newest journal and in no table.
const MORE: u64 = 4;
/// Places that are damaged in each file.
const CASES: usize = 30;
/// Small, so that most of the rows are in tables.
const MEMTABLE: u64 = 64 << 10;

/// What was committed: the version of each channel of each user.
type Committed = BTreeMap<Id, BTreeMap<Id, u64>>;

fn open(directory: &Path) -> Result<Local, StoreError> {
    Local::open(directory, &["count".to_owned()])
}

fn row(user: Id, id: Id, version: u64) -> Entry {
    Entry::Row(Row {
        user,
        channel: Channel { kind: 0, id },
        version,
        writer: 1,
        state: ReadState {
            last_message_id: version << 32 | user << 16 | id,
            counters: [version as u32, 0, 0, 0],
        },
    })
}

/// Commits some new rows and some that replace others.
fn commit(store: &Local, committed: &mut Committed, version: u64) -> Result<(), StoreError> {
    let mut batch = BatchBuilder::new(1);
    for at in 0..ROWS {
        let (user, id) = (at % USERS, (version * ROWS + at * 7) % 311);
        batch.push(&row(user, id, version));
        committed.entry(user).or_default().insert(id, version);
    }
    store.commit(&batch.finish())
}

fn load(store: &Local, user: Id) -> Result<Vec<Entry>, StoreError> {
    let (mut entries, mut cursor) = (vec![], None);
    loop {
        let page = store.load(&[user], cursor.as_deref(), 100)?;
        entries.extend(Batch::check(&page.batch).unwrap().map(Result::unwrap));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(entries);
        }
    }
}

fn expected(committed: &Committed, user: Id) -> Vec<Entry> {
    let rows = committed[&user].iter();
    rows.map(|(id, version)| row(user, *id, *version)).collect()
}

/// A store with tables and two journals, in both of which is what is in no table.
struct Sample {
    root: TempDir,
    committed: Committed,
}

impl Sample {
    fn new() -> Self {
        let sample = Sample {
            root: TempDir::new().unwrap(),
            committed: Committed::new(),
        };
        open(sample.path()).unwrap().close();
        // fjall keeps the size of its tables in memory, as they were configured first.
        let rows = sample.path().join("rows");
        fs::remove_dir_all(&rows).unwrap();
        let database = Database::builder(&rows).open().unwrap();
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE);
        drop(database.keyspace("records", options).unwrap());
        drop(database);
        sample.filled()
    }

    fn filled(mut self) -> Self {
        self.commit(1..=COMMITS);
        let journals = [0, 1].map(|n| self.path().join(format!("rows/{n}.jnl")));
        // The rest is room for more.
        let bytes = fs::read(&journals[0]).unwrap();
        let sealed = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        self.commit(COMMITS + 1..=COMMITS + MORE);
        // Two journals, as fjall makes of them at 64 MB.
        let bytes = fs::read(&journals[0]).unwrap();
        fs::write(&journals[0], &bytes[..sealed]).unwrap();
        fs::write(&journals[1], &bytes[sealed..]).unwrap();
        let tables = self.path().join("rows/keyspaces/1/tables");
        assert!(fs::read_dir(tables).unwrap().count() > 0);
        // An older list may be left, which matters to nobody.
        for file in self.files() {
            let path = self.path().join(file);
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with('v') && name != "version" {
                let current = fs::read(path.with_file_name("current")).unwrap();
                let newest = u64::from_le_bytes(current[..8].try_into().unwrap());
                if name != format!("v{newest}") {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        self
    }

    fn commit(&mut self, versions: RangeInclusive<u64>) {
        let store = open(self.path()).unwrap();
        for version in versions {
            commit(&store, &mut self.committed, version).unwrap();
        }
        store.close();
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    /// Its files, without the locks, which have nothing in them.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![];
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(self.path().join(&directory)).unwrap() {
                let entry = entry.unwrap();
                let path = directory.join(entry.file_name());
                match entry.file_type().unwrap().is_dir() {
                    true => directories.push(path),
                    false if entry.file_name() == "lock" => {}
                    false => files.push(path),
                }
            }
        }
        files.sort();
        files
    }

    fn copy(&self) -> TempDir {
        let copy = TempDir::new().unwrap();
        for path in self.files() {
            let to = copy.path().join(&path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(self.path().join(&path), to).unwrap();
        }
        File::create_new(copy.path().join("rows/lock")).unwrap();
        copy
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[derive(Debug)]
enum Damage {
    Flip(usize, u8),
    Zeros(usize),
    Cut(usize),
    Missing,
}

impl Damage {
    fn random(random: &mut Random, bytes: usize) -> Self {
        match random.below(10) {
            0 => Damage::Missing,
            1 | 2 => Damage::Cut(random.below(bytes)),
            3 => Damage::Zeros(random.below(bytes)),
            // The ends of files are where they are opened.
            4 | 5 => Damage::Flip(
                bytes - 1 - random.below(bytes.min(64)),
                1 << random.below(8),
            ),
            _ => Damage::Flip(random.below(bytes), 1 << random.below(8)),
        }
    }

    fn hit(&self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        match *self {
            Damage::Flip(at, bit) => bytes[at] ^= bit,
            Damage::Zeros(at) => bytes
                .iter_mut()
                .skip(at)
                .take(512)
                .for_each(|byte| *byte = 0),
            Damage::Cut(at) => bytes.truncate(at),
            Damage::Missing => return fs::remove_file(path).unwrap(),
        }
        fs::write(path, bytes).unwrap();
    }
}

/// Whether all was right, or the error.
fn check(directory: &Path, committed: &Committed) -> Result<(), StoreError> {
    let store = open(directory)?;
    let mut errors = vec![];
    for user in 0..USERS {
        match load(&store, user) {
            Ok(entries) => assert_eq!(entries, expected(committed, user), "user {user}"),
            Err(error) => errors.push(error),
        }
    }
    let mut after = committed.clone();
    match commit(&store, &mut after, COMMITS + 100) {
        Ok(()) => {
            for user in 0..USERS {
                match load(&store, user) {
                    Ok(entries) => assert_eq!(entries, expected(&after, user), "user {user}"),
                    Err(error) => errors.push(error),
                }
            }
        }
        Err(error) => errors.push(error),
    }
    store.close();
    errors.pop().map_or(Ok(()), Err)
}

/// Damages a file of a copy, and returns it if that was noticed.
fn damage(sample: &Sample, file: &Path, seed: u64) -> Option<PathBuf> {
    let copy = sample.copy();
    let path = copy.path().join(file);
    let mut random = Random(seed);
    let damage = Damage::random(&mut random, fs::metadata(&path).unwrap().len() as usize);
    damage.hit(&path);
    let checked = catch_unwind(|| check(copy.path(), &sample.committed));
    let error = checked
        .unwrap_or_else(|_| panic!("{file:?}, {damage:?}"))
        .err()?;
    // A list and what names it are told apart by nothing, and of what is missing, the directory has to do.
    let named = if file.ends_with("current") || matches!(damage, Damage::Missing) {
        path.parent().unwrap()
    } else if file.ends_with("read_states.json") {
        copy.path()
    } else {
        &path
    };
    let text = error.to_string();
    assert!(
        text.contains(named.to_str().unwrap()),
        "{file:?}, {damage:?}: {text}"
    );
    Some(file.to_owned())
}

#[test]
fn whatever_is_damaged_the_answer_is_right_or_an_error_that_names_it() {
    let sample = Sample::new();
    check(sample.copy().path(), &sample.committed).unwrap();
    let files = sample.files();
    let next = AtomicUsize::new(0);
    let cases = || {
        let seeds = std::iter::repeat_with(|| next.fetch_add(1, Relaxed));
        let seeds = seeds.take_while(|seed| *seed < CASES * files.len());
        let found =
            seeds.filter_map(|seed| damage(&sample, &files[seed % files.len()], seed as u64));
        found.collect::<BTreeSet<_>>()
    };
    let found: BTreeSet<_> = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(cases));
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    // Each file matters.
    assert_eq!(found, BTreeSet::from_iter(files));
}

#[test]
fn a_commit_that_was_cut_by_a_crash_is_not_there_and_all_others_are() {
    let mut sample = Sample::new();
    let written = sample.path().join("written");
    let journal = sample.path().join("rows/1.jnl");
    let (noted, whole) = (fs::read(&written).unwrap(), fs::read(&journal).unwrap());
    let before = sample.committed.clone();
    sample.commit(COMMITS + 50..=COMMITS + 50);
    let bytes = fs::read(&journal).unwrap();
    assert_eq!(bytes[..whole.len()], whole);
    // The process died before it could say that the commit was on the disk.
    fs::write(&written, noted).unwrap();
    let mut random = Random(1);
    for case in 0..40 {
        let cut = whole.len() + random.below(bytes.len() - whole.len());
        let mut torn = bytes[..cut].to_vec();
        match case % 4 {
            0 => torn.resize(bytes.len(), 0),
            1 => torn.resize(1 << 20, 0),
            // The disk had a later page of it, and this one not yet.
            2 => {
                torn.resize(cut + 16, 0);
                torn.extend(bytes.get(cut + 16..).unwrap_or(&[]));
                torn[cut] = !bytes[cut];
            }
            _ => {}
        }
        let copy = sample.copy();
        fs::write(copy.path().join("rows/1.jnl"), torn).unwrap();
        if case % 8 > 3 {
            // fjall began the next journal after the write had failed, on a full disk.
            fs::write(copy.path().join("rows/2.jnl"), [0; 4_096]).unwrap();
        }
        check(copy.path(), &before).unwrap_or_else(|error| panic!("{case}, at {cut}: {error}"));
    }
}
