//! A table in the files of fjall, an embedded log-structured store.

use crate::StoreError;
use crate::background::in_background;
use crate::directory::Directory;
use crate::fjall_files::{self, Batch, NUMBER};
use crate::key::Key;
use crate::record::Record;
use crate::table::{Changes, KeyRange, Table};
use crate::written::Written;
use fjall::compaction::Leveled;
use fjall::config::{FilterPolicy, PartitioningPolicy};
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
    Readable, UserValue,
};
use parking_lot::{Mutex, RwLock};
use std::any::Any;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// Blocks of files that were read.
const CACHE: u64 = 16 * MIB;
/// Writes that are in no file but the journal. Of such tables there are up to four
/// when writes come faster than they can be filed, and they are most of the memory
/// fjall takes: all in, 85 MB under constant load, and 190 MB with its default of 64.
/// Smaller ones are filed more often, and each time all reads wait while fjall syncs
/// its list of files.
const MEMTABLE: u64 = 16 * MIB;
/// On disk; the least that fjall takes.
const JOURNAL: u64 = 64 * MIB;
/// Files held open.
const FILES: usize = 128;
/// With two of them, one asks in a loop, as fast as it can, whether the other has
/// finished a merge.
const WORKERS: usize = 3;

/// Memtables that are full and in no file, at which a write waits. At four fjall lets no write end; one or two more may come of one
/// that it lets begin.
const UNFILED: usize = 2;
/// Files of the first level, which have to be merged with each other, at which a write merges first. At 30 fjall lets no write
/// end; a few more come of the memtables.
const UNMERGED: usize = 20;
/// Until a write looks again.
const PAUSE: Duration = Duration::from_millis(10);

/// Until files that were closed can be opened again: a worker holds its share of the old journal until just after the database counted it
/// as gone, and may lose its core there, to threads of a higher priority.
const LET_GO: Duration = Duration::from_millis(300);

/// A key space of fjall.
pub struct FjallTable {
    path: PathBuf,
    counters: usize,
    /// `None` after a failed write, until the files could be opened again.
    open: RwLock<Option<Open>>,
    writes: Mutex<Writes>,
    /// What fjall panicked with. Nobody knows what it has left behind, so it is not called again.
    panicked: OnceLock<String>,
    /// The file that is damaged, once it was looked for; `None` if none was found.
    damaged: OnceLock<Option<PathBuf>>,
    /// Ours until fjall has let go of its files: fields are dropped in this order.
    directory: Directory,
}

struct Open {
    keyspace: Keyspace,
    database: Database,
}

struct Writes {
    /// The number of the last one in the table.
    last: u64,
    written: Written,
}

impl FjallTable {
    /// Opens the files in `directory`, or makes them. Rows are written with
    /// `counters` counters.
    pub fn open(directory: Directory, counters: usize) -> Result<Self, StoreError> {
        let path = directory.rows(|path| Open::new(path).map(drop))?;
        let (open, last) = Open::checked(&path, &directory)
            .map_err(|error| named(error, &path, || fjall_files::damaged_table(&path)))?;
        let written = Written::open(directory.path(), last)?;
        Ok(FjallTable {
            open: RwLock::new(Some(open)),
            writes: Mutex::new(Writes { last, written }),
            panicked: OnceLock::new(),
            damaged: OnceLock::new(),
            path,
            counters,
            directory,
        })
    }

    /// Calls fjall, which panics in places when its files are damaged, unless it has done so before.
    fn contained<R>(&self, call: impl FnOnce() -> Result<R, StoreError>) -> Result<R, StoreError> {
        let damaged = |why: &String| StoreError::Damaged(self.path.clone(), why.clone());
        let result = match self.panicked.get() {
            Some(why) => Err(damaged(why)),
            None => catch_unwind(AssertUnwindSafe(call))
                .unwrap_or_else(|panic| Err(damaged(self.panicked.get_or_init(|| said(&*panic))))),
        };
        // Last, when it has let go of its locks: it may take a while.
        result.map_err(|error| self.named(error))
    }

    fn with<R>(
        &self,
        call: impl FnOnce(&Open) -> Result<R, fjall::Error>,
    ) -> Result<R, StoreError> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(fjall::Error::Poisoned);
        open.and_then(call).map_err(|error| self.error(error))
    }

    /// After a failed write, for example to a full disk, fjall refuses all
    /// others, for it does not know what of it is in the files. Reading them
    /// anew, it does.
    fn reopen(&self, writes: &mut Writes) -> Result<(), StoreError> {
        let mut open = self.open.write();
        if open.take().is_some() {
            sleep(LET_GO);
        }
        let (new, last) = Open::checked(&self.path, &self.directory)?;
        *open = Some(new);
        writes.last = last;
        Ok(())
    }

    fn error(&self, error: fjall::Error) -> StoreError {
        StoreError::fjall(&self.path, error)
    }

    /// The error with the file that is damaged, for which all of them are read, once.
    fn named(&self, error: StoreError) -> StoreError {
        named(error, &self.path, || {
            let damaged = || fjall_files::damaged_table(&self.path);
            self.damaged.get_or_init(damaged).clone()
        })
    }

    fn unknown(&self, what: &[u8]) -> StoreError {
        StoreError::Damaged(self.path.clone(), format!("unknown entry {what:?}"))
    }
}

impl Open {
    /// Opens files that are there: all that was said to be on the disk has to be in them. Also the number of
    /// the last write in them.
    fn checked(path: &Path, directory: &Directory) -> Result<(Self, u64), StoreError> {
        let written = Written::read(directory.path())?.unwrap_or(0);
        let first = fjall_files::check(path, written)?;
        let open = Open::new(path)?;
        let last = contained(path, || open.last(first))?;
        if last < written {
            let why = format!("the last write in it is {last}, but {written} were made");
            return Err(StoreError::Damaged(path.to_owned(), why));
        }
        Ok((open, last))
    }

    /// The number of the last write, if none is missing between the tables and the first batch of the journals.
    fn last(&self, first: Option<Batch>) -> Result<u64, fjall::Error> {
        let number = |bytes: UserValue| {
            let bytes = bytes.first_chunk().ok_or(fjall::Error::Unrecoverable)?;
            Ok::<_, fjall::Error>(u64::from_le_bytes(*bytes))
        };
        let tree = &self.keyspace.tree;
        if let Some(Batch {
            order,
            number: Some(first),
        }) = first
            && tree
                .get_highest_persisted_seqno()
                .is_none_or(|persisted| persisted < order)
        {
            let before = tree.get(NUMBER, order)?.map_or(Ok(0), number)?;
            if before + 1 != first {
                let why = fjall::JournalRecoveryError::InsufficientLength;
                return Err(fjall::Error::JournalRecovery(why));
            }
        }
        self.keyspace.get(NUMBER)?.map_or(Ok(0), number)
    }

    fn new(path: &Path) -> Result<Self, StoreError> {
        Self::with_options(path, options)
    }

    fn with_options(
        path: &Path,
        options: impl FnOnce() -> KeyspaceCreateOptions,
    ) -> Result<Self, StoreError> {
        contained(path, || {
            let builder = Database::builder(path)
                .cache_size(CACHE)
                .max_journaling_size(JOURNAL)
                .max_cached_files(Some(FILES))
                .worker_threads(WORKERS);
            // Where all cores are taken, those who file and merge would take turns with callers.
            let database = in_background(|| builder.open())??;
            let keyspace = database.keyspace("records", options)?;
            Ok(Open { keyspace, database })
        })
    }

    /// Waits until so much of what was written is filed and merged that fjall lets one more write end. It would wait for that
    /// by itself, and in two cases for ever:
    ///
    /// - A worker that cannot file a memtable, for example on a full disk, does nothing any more.
    /// - Its workers look for files to merge when one was written, and where somebody is at it already, they find that there is
    ///   nothing to do. If 30 files come during one merge, nobody looks any more.
    fn catch_up(&self) -> Result<(), fjall::Error> {
        let tree = &self.keyspace.tree;
        loop {
            // An error if a worker has failed.
            self.database.persist(PersistMode::Buffer)?;
            if tree.l0_run_count() >= UNMERGED {
                let oldest_snapshot = &self.database.supervisor.snapshot_tracker;
                tree.compact(
                    Arc::new(Leveled::default()),
                    oldest_snapshot.get_seqno_safe_to_gc(),
                )?;
            } else if tree.sealed_memtable_count() < UNFILED {
                return Ok(());
            }
            sleep(PAUSE);
        }
    }

    fn write(
        &self,
        changes: &Changes,
        number: u64,
        counters: usize,
        durable: bool,
    ) -> Result<(), fjall::Error> {
        let mode = if durable {
            PersistMode::SyncData
        } else {
            PersistMode::Buffer
        };
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), changes.len() + 1)
            .durability(Some(mode));
        batch.insert(&self.keyspace, NUMBER, number.to_le_bytes());
        for (key, record) in changes {
            match record {
                Some(record) => {
                    batch.insert(&self.keyspace, key.to_bytes(), record.to_bytes(counters));
                }
                None => batch.remove(&self.keyspace, key.to_bytes()),
            }
        }
        batch.commit()
    }
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE)
        // Almost every read is of a range, which has no use for filters.
        .filter_policy(FilterPolicy::disabled())
        // In the first two levels the index of a file stays in memory. Below them it is half a megabyte
        // a file, of which by default a read needs all.
        .index_block_partitioning_policy(PartitioningPolicy::new([false, false, true]))
}

/// Calls fjall, which panics in places when its files below `path` are damaged, while they are opened.
/// Which file it is, is for the caller to find, when it holds no lock.
fn contained<R>(
    path: &Path,
    call: impl FnOnce() -> Result<R, fjall::Error>,
) -> Result<R, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| StoreError::fjall(path, error)),
        Err(panic) => Err(StoreError::Damaged(path.to_owned(), said(&*panic))),
    }
}

/// The error with the file that is damaged instead of the directory with all of them.
fn named(error: StoreError, rows: &Path, find: impl FnOnce() -> Option<PathBuf>) -> StoreError {
    match error {
        StoreError::Damaged(path, why) if path == rows => {
            StoreError::Damaged(find().unwrap_or(path), why)
        }
        error => error,
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
    said.unwrap_or("fjall panicked").to_owned()
}

impl Table for FjallTable {
    fn get(&self, key: Key) -> Result<Option<Record>, StoreError> {
        self.contained(|| {
            let value = self.with(|open| open.keyspace.get(key.to_bytes()))?;
            let record =
                |value: UserValue| Record::from_bytes(&value).ok_or_else(|| self.unknown(&value));
            value.map(record).transpose()
        })
    }

    fn visit(
        &self,
        ranges: &mut dyn Iterator<Item = KeyRange>,
        each: &mut dyn FnMut(Key, Record) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.contained(|| {
            let open = self.open.read();
            let open = open
                .as_ref()
                .ok_or_else(|| self.error(fjall::Error::Poisoned))?;
            let snapshot = open.database.snapshot();
            for (start, end) in ranges {
                let range = (start.map(Key::to_bytes), end.map(Key::to_bytes));
                for guard in snapshot.range(&open.keyspace, range) {
                    let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
                    let entry = Key::from_bytes(&key).zip(Record::from_bytes(&value));
                    let (key, record) = entry.ok_or_else(|| self.unknown(&key))?;
                    if each(key, record).is_break() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    fn write(&self, changes: Changes, durable: bool) -> Result<(), StoreError> {
        self.contained(|| {
            let mut writes = self.writes.lock();
            let ready = self.open.read().as_ref().map(Open::catch_up);
            if let Some(Err(error)) = ready
                && !matches!(error, fjall::Error::Poisoned)
            {
                // Files that a merge has begun are removed when the others are opened.
                self.reopen(&mut writes)?;
                return Err(self.error(error));
            }
            let write =
                |open: &Open, last: u64| open.write(&changes, last + 1, self.counters, durable);
            let attempt = self
                .open
                .read()
                .as_ref()
                .map(|open| write(open, writes.last));
            match attempt {
                None | Some(Err(fjall::Error::Poisoned)) => {
                    self.reopen(&mut writes)?;
                    self.with(|open| {
                        open.catch_up()?;
                        write(open, writes.last)
                    })?;
                }
                Some(result) => result.map_err(|error| self.error(error))?,
            }
            writes.last += 1;
            if durable {
                writes.written.note(writes.last);
            }
            Ok(())
        })
    }
}

impl Drop for FjallTable {
    fn drop(&mut self) {
        let open = self.open.get_mut().take();
        // A panic of fjall while it closes damaged files is as good as a close: what was committed is synced.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(open)));
    }
}

impl fmt::Debug for FjallTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FjallTable").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Place;
    use std::fs::File;
    use std::ops::Bound;
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn the_damaged_file_is_looked_for_when_the_call_has_let_go_of_everything() {
        let root = tempfile::tempdir().unwrap();
        let counters = ["count".to_owned()];
        let table = FjallTable::open(Directory::open(root.path(), &counters).unwrap(), 1).unwrap();
        let mut looked_for = None;
        let result: Result<(), _> = table.contained(|| {
            let error = table.error(fjall::Error::Unrecoverable);
            looked_for = Some(table.damaged.get().is_some());
            Err(error)
        });
        assert_eq!(result.unwrap_err().reason(), "damaged");
        assert_eq!(looked_for, Some(false), "not while it may hold something");
        assert_eq!(table.damaged.get(), Some(&None), "no file has other bytes");
    }

    #[test]
    fn the_damaged_file_is_looked_for_once_however_often_the_files_cannot_be_opened_again() {
        let root = tempfile::tempdir().unwrap();
        let counters = ["count".to_owned()];
        let table = FjallTable::open(Directory::open(root.path(), &counters).unwrap(), 1).unwrap();
        let floor = || Changes::from([(Key::Floor, Some(Record::deleted(5)))]);
        table.write(floor(), true).unwrap();
        let filed = table.with(|open| open.keyspace.rotate_memtable_and_wait());
        filed.unwrap();
        // As after a failed write, which has closed them.
        drop(table.open.write().take());
        sleep(LET_GO);
        let tables = table.path.join("keyspaces/1/tables");
        let file = std::fs::read_dir(&tables).unwrap().next().unwrap();
        let file = file.unwrap().path();
        std::fs::write(&file, "").unwrap();

        // With the locks of those who read and write, it is not.
        let error = table.reopen(&mut table.writes.lock()).unwrap_err();
        assert!(matches!(&error, StoreError::Damaged(path, _) if *path == table.path));
        let error = table.write(floor(), true).unwrap_err();
        assert!(matches!(&error, StoreError::Damaged(path, _) if *path == file));
        // Who is named from now on was found before.
        std::fs::rename(&file, root.path().join("elsewhere")).unwrap();
        assert_eq!(table.damaged.get(), Some(&Some(file)));
    }

    /// The niceness of all of fjall's workers, of this test and of those beside it.
    #[cfg(target_os = "linux")]
    fn workers() -> Vec<i32> {
        use rustix::process::{Pid, getpriority_process};
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let workers = tasks.filter_map(|task| {
            let task = task.unwrap();
            // Unless it has ended meanwhile.
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let id = task.file_name().to_str()?.parse().ok()?;
            let niceness = || getpriority_process(Pid::from_raw(id)).ok();
            (name.trim_end() == "fjall:worker").then(niceness)?
        });
        workers.collect()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_files_and_merges_makes_room_for_callers() {
        let root = tempfile::tempdir().unwrap();
        let _open = Open::new(&root.path().join("rows")).unwrap();
        let ours = rustix::process::getpriority_process(None).unwrap();
        let began = std::time::Instant::now();
        // A thread has its name a little later than it is there.
        let workers = loop {
            let workers = workers();
            if workers.len() >= WORKERS || began.elapsed() > LONG {
                break workers;
            }
            thread::yield_now();
        };
        assert!(workers.len() >= WORKERS);
        assert!(workers.iter().all(|niceness| *niceness > ours.min(18)));
    }

    /// Carries out writes on another thread, until one fails; the results come one by one.
    fn write_on(open: Arc<Open>, count: u64) -> mpsc::Receiver<Result<(), fjall::Error>> {
        let (done, results) = mpsc::channel();
        thread::spawn(move || {
            for number in 1..=count {
                let record = |user| {
                    let key = Key::Record(Place::first(user * count + number));
                    (key, Some(Record::deleted(number)))
                };
                let changes = (0..200).map(record).collect();
                let result = open
                    .catch_up()
                    .and_then(|()| open.write(&changes, number, 1, false));
                let failed = result.is_err();
                done.send(result).unwrap();
                if failed {
                    break;
                }
            }
        });
        results
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn writes_go_on_where_nobody_else_merges_what_they_leave() {
        let root = tempfile::tempdir().unwrap();
        // A file for each few writes, and workers who find that there is nothing to merge yet, as they do while somebody merges.
        let options = || {
            options()
                .max_memtable_size(4_096)
                .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(200)))
        };
        let open = Open::with_options(&root.path().join("rows"), options).unwrap();
        let results = write_on(Arc::new(open), 200);
        for _ in 0..200 {
            let result = results.recv_timeout(LONG);
            result.expect("a write ends within a minute").unwrap();
        }
    }

    #[test]
    fn a_write_is_an_error_when_what_was_written_before_cannot_be_filed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("rows");
        let open = Arc::new(Open::new(&path).unwrap());
        // As on a slow disk, or after a start with a full journal: as many memtables as there may be.
        let filing = open.keyspace.tree.get_flush_lock();
        for _ in 0..4 {
            open.keyspace.insert(NUMBER, 0_u64.to_le_bytes()).unwrap();
            open.keyspace.rotate_memtable().unwrap();
        }
        let results = write_on(open.clone(), 1);
        let waits = results.recv_timeout(Duration::from_millis(100));
        assert!(waits.is_err(), "there is no room for it");
        std::fs::remove_dir_all(path.join("keyspaces/1/tables")).unwrap();
        drop(filing);
        let result = results.recv_timeout(LONG);
        let result = result.expect("a write ends within a minute");
        assert!(matches!(result, Err(fjall::Error::Poisoned)), "{result:?}");
    }

    #[test]
    fn a_merge_that_fails_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let counters = ["count".to_owned()];
        let directory = Directory::open(root.path(), &counters).unwrap();
        // Options stay those with which the files were made.
        let options =
            || options().compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(200)));
        let made = directory.rows(|path| Open::with_options(path, options).map(drop));
        made.unwrap();
        let table = FjallTable::open(directory, 1).unwrap();
        let changes = |number| {
            let record = |user| {
                let key = Key::Record(Place::first(user));
                (key, Some(Record::deleted(number)))
            };
            (0..10_000).map(record).collect::<Changes>()
        };
        let unmerged = || {
            table
                .with(|open| Ok(open.keyspace.tree.l0_run_count()))
                .unwrap()
        };
        while unmerged() < UNMERGED {
            table.write(changes(1), true).unwrap();
            let filed = table.with(|open| open.keyspace.rotate_memtable_and_wait());
            filed.unwrap();
        }
        let tables = table.path.join("keyspaces/1/tables");
        let files = || {
            std::fs::read_dir(&tables)
                .unwrap()
                .map(|file| file.unwrap().path())
        };
        let mut all: Vec<_> = files().collect();
        all.sort();
        // Damage in the middle: a merge has written something by then.
        let file = File::options().write(true).open(&all[0]).unwrap();
        let middle = file.metadata().unwrap().len() / 2;
        file.write_all_at(&[0xFF; 64], middle).unwrap();
        for _ in 0..3 {
            let error = table.write(changes(100), true).unwrap_err();
            assert_eq!(error.reason(), "damaged");
            assert!(files().count() <= all.len() + 1, "{:?}", files().count());
        }
    }

    #[test]
    fn after_a_panic_in_a_call_every_call_is_the_same_error() {
        let root = tempfile::tempdir().unwrap();
        let counters = ["count".to_owned()];
        let open = || FjallTable::open(Directory::open(root.path(), &counters).unwrap(), 1);
        let table = open().unwrap();
        let floor = || Changes::from([(Key::Floor, Some(Record::deleted(5)))]);
        table.write(floor(), true).unwrap();

        // As deep inside of fjall's reading as one of ours can be.
        let all = (Bound::Unbounded, Bound::Included(Key::Floor));
        let visit = |each: &mut dyn FnMut(Key, Record) -> ControlFlow<()>| {
            table.visit(&mut std::iter::once(all), each)
        };
        let calls = [
            visit(&mut |_, _| panic!("what fjall says")),
            visit(&mut |_, _| unreachable!()),
            table.get(Key::Floor).map(drop),
            table.write(floor(), true),
        ];
        for call in calls {
            let error = call.unwrap_err();
            assert_eq!(error.reason(), "damaged");
            assert!(error.to_string().ends_with("what fjall says"), "{error}");
        }
        drop(table);
        assert_eq!(open().unwrap().get(Key::Floor).unwrap().unwrap().version, 5);
    }
}
