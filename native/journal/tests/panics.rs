//! Whatever panics while a journal is written, synced and forgotten: it goes on and has what was appended and its marks, and
//! its books are right.
//!
//!     cargo test -p read_states_journal --features fail_points --test panics

#![cfg(feature = "fail_points")]

use std::fs;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};

use crossbeam_epoch::pin;
use read_states_journal::{Journal, Options};
use read_states_sync::fail_point::{MESSAGE, panic_after};
use tempfile::TempDir;

const SEGMENT: usize = 1 << 16;

const OPTIONS: Options = Options {
    segment: SEGMENT,
    most: 4,
    id_width: 8,
    owner: 1,
    exact: true,
};

const TAG: [u8; 3] = [1, 2, 3];

/// Words of a record: as many as it may have.
const WORDS: usize = 15;

#[derive(Clone, Copy, Debug)]
enum Step {
    Append,
    /// So many records, in room that was taken for all of them.
    Reserve(usize),
    AppendAgain,
    AppendAnyway,
    Mark(u64),
    MarkStored(u64),
    Seal,
    Prepare,
    Sync,
    Forget,
    Figures,
    Close,
}

struct World {
    directory: TempDir,
    journal: Journal,
    /// Of each record that was written, what it is and the segment that it is in at the earliest.
    written: Vec<(u64, u64)>,
    /// The next record.
    next: u64,
    /// From the highest mark that was written to the highest that was to be.
    mark: RangeInclusive<u64>,
    stored: RangeInclusive<u64>,
    /// Segments up to this one may be gone.
    forgotten: Option<u64>,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        let directory = directory.unwrap();
        let journal = Journal::open(directory.path(), OPTIONS).unwrap();
        World {
            directory,
            journal,
            written: vec![],
            next: 0,
            mark: 0..=0,
            stored: 0..=0,
            forgotten: None,
        }
    }

    /// Takes a step that panics after so many fail points, or not at all. Says whether it did.
    fn step(&mut self, step: Step, passed: Option<u64>) -> bool {
        panic_after(passed);
        let result = catch_unwind(AssertUnwindSafe(|| self.take(step)));
        let panicked = passed.is_some() && panic_after(None).is_none();
        match result {
            Err(cause) if !panicked => resume_unwind(cause),
            result => assert_eq!(result.is_err(), panicked),
        }
        panicked
    }

    /// Where the journal is full, or no segment is ready, nothing is written.
    fn take(&mut self, step: Step) {
        let journal = &self.journal;
        let at = journal.oldest_open(&pin());
        let first = self.next;
        match step {
            Step::Append => {
                self.next += 1;
                if journal.append(TAG, &[first; WORDS], &pin()).is_ok() {
                    self.written.push((first, at));
                }
            }
            Step::Reserve(records) => {
                self.next += records as u64;
                let words = (0..records).map(|_| WORDS);
                if let Ok(mut reservation) = journal.reserve(words, &pin()) {
                    for record in first..self.next {
                        reservation.append(TAG, &[record; WORDS]);
                        self.written.push((record, at));
                    }
                }
            }
            Step::AppendAgain => {
                self.next += 1;
                if journal.append_again(TAG, &[first; WORDS], &pin()).is_ok() {
                    self.written.push((first, at));
                }
            }
            Step::AppendAnyway => {
                self.next += 1;
                journal.append_anyway(TAG, &[first; WORDS], &pin()).unwrap();
                self.written.push((first, at));
            }
            Step::Mark(value) => {
                self.mark = *self.mark.start()..=value;
                journal.mark(value);
                self.mark = value..=value;
            }
            Step::MarkStored(value) => {
                self.stored = *self.stored.start()..=value;
                journal.mark_stored(value);
                self.stored = value..=value;
            }
            Step::Seal => journal.seal(&pin()),
            Step::Prepare => journal.prepare().unwrap(),
            Step::Sync => journal.sync().unwrap(),
            Step::Forget => {
                if let Some(sealed) = journal.newest_sealed() {
                    journal.sync().unwrap();
                    self.forgotten = Some(sealed);
                    journal.forget(sealed).unwrap();
                }
            }
            Step::Figures => {
                journal.figures();
            }
            Step::Close => journal.close(false).unwrap(),
        }
    }

    fn files(&self) -> usize {
        let files = fs::read_dir(self.directory.path()).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|file| file.extension().is_some()).count()
    }

    /// What is left goes on, and the next life finds it.
    fn check_end(mut self, is_closed: bool) {
        if !is_closed {
            self.step(Step::Prepare, None);
            self.step(Step::Forget, None);
            self.step(Step::Prepare, None);
            let written = self.written.len();
            self.step(Step::Append, None);
            assert_eq!(self.written.len(), written + 1, "there is room again");
            // Each file is known.
            assert_eq!(self.files() * SEGMENT, self.journal.figures().bytes);
        }
        drop(self.journal);
        let journal = Journal::open(self.directory.path(), OPTIONS).unwrap();
        assert!(self.mark.contains(&journal.highest_mark()));
        assert!(self.stored.contains(&journal.highest_stored()));
        let (mut reader, mut found) = (journal.reader(), vec![]);
        let read = reader.for_each(|tag, words| {
            assert_eq!((tag, words), (TAG, &[words[0]; WORDS][..]));
            found.push(words[0]);
        });
        read.unwrap();
        assert_eq!(reader.damage(), []);
        found.sort_unstable();
        assert!(found.is_sorted_by(|one, next| one < next), "{found:?}");
        assert!(found.iter().all(|record| *record < self.next));
        for (record, at) in self.written {
            let is_kept = self.forgotten.is_none_or(|forgotten| at > forgotten);
            assert!(!is_kept || found.contains(&record), "{record} is lost");
        }
        drop(journal);
        await_unmapped(&self.directory);
    }
}

/// What was replaced is given back when nobody can have it any more, here after some rounds of the epochs.
fn await_unmapped(directory: &TempDir) {
    let is_mapped = || {
        // Of Linux.
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        maps.contains(directory.path().to_str().unwrap())
    };
    for _ in 0..100 {
        if !is_mapped() {
            return;
        }
        pin().flush();
    }
    panic!("a segment stays in memory");
}

#[test]
fn each_place_on_the_way_of_a_journal_may_panic() {
    let tell = take_hook();
    // Those of fail points are not to be told.
    set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(MESSAGE) {
            tell(panic);
        }
    }));
    // A segment has room for some 500 records.
    let history = [
        Step::Mark(5),
        Step::Append,
        Step::MarkStored(3),
        Step::Seal,
        Step::Append,
        Step::Reserve(3),
        Step::Prepare,
        Step::Sync,
        Step::Reserve(700),
        Step::Mark(6),
        Step::Append,
        Step::Forget,
        Step::Prepare,
        Step::Reserve(450),
        Step::Append,
        Step::Reserve(450),
        Step::AppendAgain,
        Step::Reserve(450),
        Step::AppendAnyway,
        Step::Figures,
        Step::Seal,
        Step::Reserve(450),
        Step::Reserve(450),
        Step::AppendAnyway,
        Step::Prepare,
        Step::Sync,
        Step::Close,
    ];
    let mut panics = 0;
    for at in 0..history.len() {
        for passed in 0.. {
            let (mut world, mut panicked) = (World::new(), false);
            for (index, step) in history[..=at].iter().enumerate() {
                panicked |= world.step(*step, (index == at).then_some(passed));
            }
            world.check_end(matches!(history[at], Step::Close));
            panics += usize::from(panicked);
            if !panicked {
                break;
            }
        }
    }
    assert!(panics > 60, "there are {panics} places");
}
