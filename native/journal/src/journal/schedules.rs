//! The journal under many schedules of its threads: what a crash or a power cut at any moment leaves. See
//! `read_states_sync` for how they are explored, and `script/schedules`.
//!
//! The files are real ones. A crash is a copy of them, a power cut a copy of what was synced of them. The exchange of the
//! current segment within crossbeam-epoch is one step, and not looked into.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use read_states_sync::{Effort, explore, join, pin, spawn};
use tempfile::TempDir;

use super::{Journal, Options, segments};
use crate::reader::Reader;
use crate::record::size;
use crate::segment::{HEADER, Segment, path};

const OPTIONS: Options = Options {
    segment: 1 << 16,
    most: 8,
    id_width: 8,
    owner: 1,
    exact: true,
};

const TAG: [u8; 3] = [1, 2, 3];

/// Records of one word for which a segment has room.
const ROOM: usize = 20;

/// A directory that costs no disk, where there is one.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

/// A journal, and what is known of it: plain locks, held for no step.
struct Subject {
    journal: Journal,
    directory: TempDir,
    appended: Mutex<BTreeSet<u64>>,
    marked: Mutex<u64>,
    /// Marks up to this one were synced.
    synced_mark: Mutex<u64>,
}

impl Subject {
    fn new() -> Arc<Self> {
        let directory = directory();
        let subject = Subject {
            journal: Journal::open(&directory.path().join("live"), OPTIONS).unwrap(),
            directory,
            appended: Mutex::default(),
            marked: Mutex::default(),
            synced_mark: Mutex::default(),
        };
        narrow(subject.journal.current(&pin()));
        subject.prepare();
        Arc::new(subject)
    }

    fn append(&self, word: u64) {
        if self.journal.append(TAG, &[word], &pin()).is_ok() {
            self.appended.lock().unwrap().insert(word);
        }
    }

    /// Several records, in room that is taken before.
    fn append_all(&self, words: &[u64]) {
        let sizes = words.iter().map(|_| 1);
        if let Ok(mut reservation) = self.journal.reserve(sizes, &pin()) {
            for word in words {
                reservation.append(TAG, &[*word]);
            }
            drop(reservation);
            self.appended.lock().unwrap().extend(words);
        }
    }

    fn mark(&self, value: u64) {
        self.journal.mark(value);
        let mut marked = self.marked.lock().unwrap();
        *marked = value.max(*marked);
    }

    fn prepare(&self) {
        self.journal.prepare().unwrap();
        for spare in &self.journal.files.lock().spares {
            if spare.is_empty() {
                narrow(spare);
            }
        }
    }

    /// All that was appended and marked before is on the disk afterwards.
    fn sync(&self) {
        let appended = self.appended.lock().unwrap().clone();
        let marked = *self.marked.lock().unwrap();
        self.journal.sync().unwrap();
        let mut synced_mark = self.synced_mark.lock().unwrap();
        *synced_mark = marked.max(*synced_mark);
        drop(synced_mark);
        let (words, mark) = self.after_power_cut();
        assert!(words.is_superset(&appended), "{appended:?} in {words:?}");
        assert!(mark >= marked, "{mark} after {marked}");
    }

    /// What is read after a crash at this moment.
    fn after_crash(&self) -> (BTreeSet<u64>, u64) {
        let copy = self.directory.path().join("crash");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(self.directory.path().join("live")).unwrap() {
            let entry = entry.unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            fs::write(copy.join(entry.file_name()), without_hole(&bytes)).unwrap();
        }
        read(&copy)
    }

    /// What is read after a power cut at this moment.
    fn after_power_cut(&self) -> (BTreeSet<u64>, u64) {
        let copy = TempDir::new_in(self.directory.path()).unwrap();
        let files = self.journal.files.lock();
        let sealed = files
            .sealed
            .iter()
            .map(|sealed| Arc::clone(&sealed.segment));
        let mut segments: Vec<_> = sealed.chain(files.spares.iter().cloned()).collect();
        segments.push(Arc::clone(self.journal.current(&pin())));
        for segment in segments {
            let bytes = without_hole(&segment.on_disk());
            fs::write(path(copy.path(), segment.sequence), bytes).unwrap();
        }
        drop(files);
        read(copy.path())
    }
}

/// Room that is taken for nothing.
const HOLE: usize = OPTIONS.segment - HEADER - ROOM * size(1);

/// Leaves room for few records.
fn narrow(segment: &Segment) {
    segment.take(HOLE);
}

/// Without the hole, if there is one, which takes long to read. Where a record lies does not matter to who reads it.
fn without_hole(file: &[u8]) -> Vec<u8> {
    match file.split_at_checked(HEADER) {
        Some((header, rest)) if rest[..HOLE] == [0; HOLE] => [header, &rest[HOLE..]].concat(),
        _ => file.to_vec(),
    }
}

/// What is in the files of a journal, and its mark.
fn read(directory: &Path) -> (BTreeSet<u64>, u64) {
    let (found, header) = segments(directory, OPTIONS.id_width).unwrap();
    let mut words = BTreeSet::new();
    let found = found.into_iter().map(|old| old.found);
    Reader::new(found.collect())
        .for_each(|tag, record| {
            assert_eq!(tag, TAG);
            assert!(words.insert(record[0]), "read twice");
        })
        .unwrap();
    (words, header.map_or(0, |header| header.mark))
}

#[test]
fn a_sync_has_all_that_was_appended_and_marked_before_it() {
    explore(Effort { schedules: 600 }, || {
        let subject = Subject::new();
        join([
            spawn(&subject, |subject| {
                (100..104).for_each(|word| subject.append(word))
            }),
            spawn(&subject, |subject| {
                subject.append_all(&[200, 201]);
                subject.append(202);
            }),
            spawn(&subject, |subject| {
                subject.mark(5);
                subject.journal.seal(&pin());
                subject.mark(7);
                subject.prepare();
            }),
            spawn(&subject, |subject| (0..3).for_each(|_| subject.sync())),
            spawn(&subject, |subject| subject.sync()),
        ]);
        subject.sync();
    });
}

#[test]
fn a_sync_has_what_was_written_long_after_its_room_was_taken() {
    explore(Effort { schedules: 2_000 }, || {
        let subject = Subject::new();
        join([
            spawn(&subject, |subject| subject.append(1)),
            spawn(&subject, |subject| subject.append_all(&[2])),
            spawn(&subject, |subject| (0..4).for_each(|_| subject.sync())),
        ]);
        subject.sync();
    });
}

#[test]
fn a_sync_waits_for_another_one_that_has_what_was_written_late() {
    explore(Effort { schedules: 4_000 }, || {
        let subject = Subject::new();
        subject.append(1);
        let late = subject.journal.reserve([1].into_iter(), &pin());
        let mut late = late.unwrap();
        subject.journal.seal(&pin());
        subject.sync();
        join([
            spawn(&subject, move |subject| {
                late.append(TAG, &[2]);
                drop(late);
                subject.appended.lock().unwrap().insert(2);
                subject.sync();
            }),
            spawn(&subject, |subject| (0..2).for_each(|_| subject.sync())),
        ]);
    });
}

#[test]
fn a_crash_leaves_all_that_was_appended() {
    explore(Effort { schedules: 600 }, || {
        let subject = Subject::new();
        join([
            spawn(&subject, |subject| {
                (100..112).for_each(|word| subject.append(word))
            }),
            spawn(&subject, |subject| {
                subject.append_all(&[200, 201, 202]);
                subject.append(203);
            }),
            spawn(&subject, |subject| {
                subject.prepare();
                subject.journal.seal(&pin());
                subject.prepare();
            }),
            spawn(&subject, |subject| {
                let appended = subject.appended.lock().unwrap().clone();
                let (words, _) = subject.after_crash();
                assert!(words.is_superset(&appended), "{appended:?} in {words:?}");
            }),
        ]);
        let appended = subject.appended.lock().unwrap();
        // There was room enough for all, and who found a segment full went on with the next, not the one after it.
        assert_eq!(appended.len(), 16);
        assert!(subject.journal.files.lock().sealed.len() <= 2);
    });
}

#[test]
fn a_mark_outlives_the_segments() {
    explore(Effort { schedules: 600 }, || {
        let subject = Subject::new();
        subject.append(1);
        join([
            spawn(&subject, |subject| {
                [3, 8]
                    .map(|value| subject.mark(value))
                    .into_iter()
                    .collect()
            }),
            spawn(&subject, |subject| {
                [5, 6]
                    .map(|value| subject.mark(value))
                    .into_iter()
                    .collect()
            }),
            spawn(&subject, |subject| {
                let journal = &subject.journal;
                for word in 2..4 {
                    journal.seal(&pin());
                    let marked = *subject.marked.lock().unwrap();
                    // In the order of who tends the journal.
                    journal.sync().unwrap();
                    *subject.synced_mark.lock().unwrap() = marked;
                    journal.forget(journal.newest_sealed().unwrap()).unwrap();
                    subject.append(word);
                    subject.prepare();
                }
            }),
            spawn(&subject, |subject| {
                let synced = *subject.synced_mark.lock().unwrap();
                let (_, mark) = subject.after_power_cut();
                assert!(mark >= synced, "{mark} after {synced}");
                let marked = *subject.marked.lock().unwrap();
                let (_, mark) = subject.after_crash();
                assert!(mark >= marked, "{mark} after {marked}");
            }),
        ]);
    });
}
