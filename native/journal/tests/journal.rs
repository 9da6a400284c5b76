//! The journal from outside.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use crossbeam_epoch::pin;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use read_states_journal::{Damage, Journal, OpenError, Options, Refusal};
use tempfile::TempDir;

const OPTIONS: Options = Options {
    segment: 1 << 16,
    most: 4,
    id_width: 8,
    owner: 1,
    exact: true,
};

const TAG: [u8; 3] = [1, 2, 3];

fn open(directory: &Path) -> Journal {
    Journal::open(directory, OPTIONS).unwrap()
}

fn append(journal: &Journal, word: u64) -> Result<(), Refusal> {
    journal.append(TAG, &[word, !word], &pin())
}

fn read(journal: &Journal) -> (Vec<u64>, Vec<Damage>) {
    let (mut words, mut reader) = (vec![], journal.reader());
    reader
        .for_each(|tag, record| {
            assert_eq!(tag, TAG);
            assert_eq!(record[1], !record[0]);
            words.push(record[0]);
        })
        .unwrap();
    (words, reader.damage().to_vec())
}

fn marks(journal: &Journal) -> (u64, u64) {
    (journal.highest_mark(), journal.highest_stored())
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lock")
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_appended_is_read_in_the_next_life_across_segments() {
    let root = TempDir::new().unwrap();
    let directory = root.path().join("a/journal");
    let journal = open(&directory);
    assert_eq!(read(&journal), (vec![], vec![]));
    for word in 0..5_000 {
        append(&journal, word).unwrap();
        journal.prepare().unwrap();
    }
    journal.sync().unwrap();
    drop(journal);
    let journal = open(&directory);
    append(&journal, 9).unwrap();
    assert_eq!(read(&journal), ((0..5_000).collect(), vec![]));
}

#[test]
fn what_several_threads_append_is_all_read_while_segments_change_under_them() {
    const WRITERS: u64 = 4;
    const EACH: u64 = 20_000;
    let (begin, done) = (Barrier::new(WRITERS as usize), AtomicU64::new(0));
    let root = TempDir::new().unwrap();
    let options = Options {
        most: 128,
        ..OPTIONS
    };
    let journal = Journal::open(root.path(), options).unwrap();
    thread::scope(|scope| {
        let (journal, begin, done) = (&journal, &begin, &done);
        for from in (0..WRITERS).map(|writer| writer * EACH) {
            scope.spawn(move || {
                begin.wait();
                for word in from..from + EACH {
                    while append(journal, word).is_err() {
                        thread::yield_now();
                    }
                }
                done.fetch_add(1, Relaxed);
            });
        }
        for _ in 0..20 {
            journal.prepare().unwrap();
            journal.sync().unwrap();
            journal.seal(&pin());
        }
        while done.load(Relaxed) < WRITERS {
            journal.prepare().unwrap();
            journal.sync().unwrap();
        }
    });
    drop(journal);
    let (mut words, damage) = read(&Journal::open(root.path(), options).unwrap());
    words.sort_unstable();
    assert!(words.into_iter().eq(0..WRITERS * EACH));
    assert_eq!(damage, []);
}

#[test]
fn it_is_full_at_its_bound_until_something_is_forgotten() {
    let root = TempDir::new().unwrap();
    let journal = open(root.path());
    let fill = || {
        let mut appended = 0;
        while append(&journal, appended).is_ok() {
            journal.prepare().unwrap();
            appended += 1;
        }
        assert_eq!(append(&journal, 0), Err(Refusal::Full));
        appended
    };
    let appended = fill();
    assert!(appended as usize > 3 * OPTIONS.segment / 24);
    let figures = journal.figures();
    assert_eq!((figures.bytes, figures.most), (4 << 16, 4 << 16));
    journal.forget(1).unwrap();
    assert_eq!(files(root.path()).len(), 2);
    assert_eq!(append(&journal, 0), Err(Refusal::Full));
    journal.prepare().unwrap();
    assert!(fill() as usize > OPTIONS.segment / 24);
}

#[test]
fn what_it_can_never_take_leaves_it_as_it_is() {
    let root = TempDir::new().unwrap();
    let journal = open(root.path());
    let before = journal.figures();
    let words = OPTIONS.most * OPTIONS.segment / 8;
    let reserved = journal.reserve(std::iter::repeat_n(1, words), &pin());
    assert_eq!(reserved.err(), Some(Refusal::Full));
    assert_eq!(journal.figures(), before);
}

#[test]
fn what_is_appended_anyway_takes_it_past_its_bound_and_lets_nobody_else() {
    let root = TempDir::new().unwrap();
    let journal = open(root.path());
    while append(&journal, 0).is_ok() {
        journal.prepare().unwrap();
    }
    for word in 0..100 {
        journal.append_anyway(TAG, &[word, !word], &pin()).unwrap();
        journal.prepare().unwrap();
        assert_eq!(append(&journal, 0), Err(Refusal::Full));
        let reserved = journal.reserve([2].into_iter(), &pin());
        assert_eq!(reserved.err(), Some(Refusal::Full));
    }
    assert_eq!(journal.figures().bytes, 5 << 16);
    // With four segments it is at its bound again, and the room that is left may be taken.
    journal.forget(0).unwrap();
    journal.prepare().unwrap();
    assert_eq!(append(&journal, 0), Ok(()));
    assert_eq!(journal.figures().bytes, 4 << 16);
}

#[test]
fn lives_that_begin_at_the_bound_and_end_take_it_no_further() {
    let root = TempDir::new().unwrap();
    let journal = open(root.path());
    while append(&journal, 0).is_ok() {
        journal.prepare().unwrap();
    }
    drop(journal);
    for _life in 0..10 {
        let journal = open(root.path());
        journal.prepare().unwrap();
        assert_eq!(append(&journal, 0), Err(Refusal::Full));
        // One more, for what has to be appended.
        assert_eq!(journal.figures().bytes, 5 << 16);
        assert_eq!(files(root.path()).len(), 5);
        journal.mark(9);
    }
    let journal = open(root.path());
    assert_eq!(journal.highest_mark(), 9);
    journal.append_anyway(TAG, &[1, !1], &pin()).unwrap();
    assert_eq!(journal.figures().bytes, 5 << 16);
    journal.forget(1).unwrap();
    journal.prepare().unwrap();
    assert_eq!(append(&journal, 0), Ok(()));
}

#[test]
fn its_size_is_that_of_its_files_also_of_those_of_another_bound() {
    let root = TempDir::new().unwrap();
    let large = Options {
        segment: 1 << 18,
        ..OPTIONS
    };
    let journal = Journal::open(root.path(), large).unwrap();
    append(&journal, 1).unwrap();
    drop(journal);
    let journal = open(root.path());
    let sizes = files(root.path()).into_iter().map(|name| {
        let file = fs::metadata(root.path().join(name)).unwrap();
        file.len() as usize
    });
    assert_eq!(journal.figures().bytes, sizes.sum::<usize>());
    // The old file alone is as large as all may become.
    assert_eq!(append(&journal, 1), Err(Refusal::Full));
    journal.forget(0).unwrap();
    journal.prepare().unwrap();
    assert_eq!(append(&journal, 1), Ok(()));
}

#[test]
fn a_reservation_is_written_in_any_order_and_leaves_no_gap() {
    let root = TempDir::new().unwrap();
    let journal = open(root.path());
    let sizes = (0..2_000).map(|at| 2 + at % 10);
    let mut reservation = journal.reserve(sizes, &pin()).unwrap();
    append(&journal, 77).unwrap();
    // Not all of it, and the large ones first.
    let mut words: Vec<usize> = (0..2_000).map(|at| 2 + at % 10).collect();
    words.sort_unstable_by(|a, b| b.cmp(a));
    for count in &words[..1_900] {
        let mut record = vec![0; *count];
        (record[0], record[1]) = (5, !5);
        reservation.append(TAG, &record);
    }
    drop(reservation);
    drop(journal);
    let (mut read, damage) = read(&open(root.path()));
    assert_eq!(damage, []);
    read.sort_unstable();
    assert_eq!(read.len(), 1_901);
    assert_eq!((read[0], read[1_899], read[1_900]), (5, 5, 77));
}

#[test]
fn a_mark_outlives_the_segments_and_only_grows() {
    let root = TempDir::new().unwrap();
    let journal = open(root.path());
    for mark in [3, 8, 5] {
        journal.mark(mark);
        journal.mark_stored(mark - 1);
    }
    append(&journal, 1).unwrap();
    journal.seal(&pin());
    journal.forget(u64::MAX).unwrap();
    drop(journal);
    let other = Options {
        owner: 2,
        ..OPTIONS
    };
    let journal = Journal::open(root.path(), other).unwrap();
    assert_eq!((marks(&journal), journal.owner()), ((8, 7), 1));
    journal.close(true).unwrap();
    let journal = open(root.path());
    assert_eq!(marks(&journal), (8, 7));
}

#[test]
fn a_mark_outlives_a_life_in_which_nothing_was_appended() {
    let root = TempDir::new().unwrap();
    append(&open(root.path()), 1).unwrap();
    let journal = open(root.path());
    journal.mark(9);
    journal.mark_stored(4);
    journal.close(false).unwrap();
    // Once more, and what is empty is forgotten on the way.
    let journal = open(root.path());
    assert_eq!(marks(&journal), (9, 4));
    let mut reader = journal.reader();
    reader.for_each(|_, _| ()).unwrap();
    journal.forget_empty(&mut reader).unwrap();
    journal.close(false).unwrap();
    assert_eq!(marks(&open(root.path())), (9, 4));
}

#[test]
fn closed_unused_it_leaves_no_more_files_than_there_were() {
    let root = TempDir::new().unwrap();
    let journal = open(root.path());
    journal.mark(9);
    append(&journal, 1).unwrap();
    drop(journal);
    let before = files(root.path());
    open(root.path()).close(false).unwrap();
    assert!(files(root.path()).len() <= before.len());
    assert_eq!(open(root.path()).highest_mark(), 9);
}

#[test]
fn closed_it_is_free_for_the_next_and_forgotten_or_not() {
    let root = TempDir::new().unwrap();
    let first = open(root.path());
    let error = Journal::open(root.path(), OPTIONS).unwrap_err();
    assert!(matches!(&error, OpenError::InUse(path) if path == root.path()));
    append(&first, 1).unwrap();
    first.close(false).unwrap();
    let second = open(root.path());
    assert_eq!(read(&second).0, [1]);
    append(&second, 2).unwrap();
    second.close(true).unwrap();
    assert_eq!(read(&open(root.path())).0, []);
}

#[test]
fn its_files_are_the_owners_alone() {
    let root = TempDir::new().unwrap();
    let directory = root.path().join("journal");
    let _journal = open(&directory);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for name in files(&directory) {
        assert_eq!(mode(&directory.join(name)), 0o600);
    }
}

#[test]
fn a_file_that_is_cut_in_its_header_is_damaged() {
    for cut in 0..=128 {
        let root = TempDir::new().unwrap();
        append(&open(root.path()), 1).unwrap();
        let path = root.path().join(&files(root.path())[0]);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(cut as u64).unwrap();
        let (words, damage) = read(&open(root.path()));
        assert_eq!(words, []);
        let missing = Damage {
            path,
            at: cut,
            bytes: OPTIONS.segment - cut,
            zero: false,
        };
        assert_eq!(damage, [missing]);
    }
}

#[test]
fn a_file_that_is_cut_at_any_place_is_damaged_and_one_that_does_not_say_its_size_at_most() {
    let large = Options {
        segment: 1 << 18,
        ..OPTIONS
    };
    for (cut, is_said, missing) in [
        (1 << 16, true, 3 << 16),
        (3 << 16, true, 1 << 16),
        ((3 << 16) - 8, true, (1 << 16) + 8),
        (3 << 16, false, 0),
        ((3 << 16) - 8, false, 8),
    ] {
        let root = TempDir::new().unwrap();
        let journal = Journal::open(root.path(), large).unwrap();
        append(&journal, 1).unwrap();
        drop(journal);
        let path = root.path().join(&files(root.path())[0]);
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(cut);
        if !is_said {
            // As early versions left it.
            bytes[72..88].fill(0);
        }
        fs::write(&path, bytes).unwrap();
        let (words, damage) = read(&open(root.path()));
        assert_eq!(words, [1]);
        let missing = (missing > 0).then_some(Damage {
            path,
            at: cut,
            bytes: missing,
            zero: false,
        });
        assert_eq!(damage, Vec::from_iter(missing));
    }
}

#[test]
fn the_journal_of_other_ids_is_refused() {
    let root = TempDir::new().unwrap();
    drop(open(root.path()));
    let wide = Options {
        id_width: 16,
        ..OPTIONS
    };
    let error = Journal::open(root.path(), wide).unwrap_err();
    assert_eq!(error.reason(), "not_ours");
    assert!(error.to_string().contains("8 bytes"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    /// Whatever is cut or overwritten: the records that it did not hit are read, no others are, and the
    /// places that it hit are named.
    #[test]
    fn damage_costs_the_records_it_hits_and_is_reported(
        hits in prop::collection::vec((0..24_123usize, any::<[u8; 5]>()), 0..8),
        cut in prop::option::of(0..30_000usize),
    ) {
        let root = TempDir::new().unwrap();
        let journal = open(root.path());
        for word in 0..1_000 {
            append(&journal, word).unwrap();
        }
        drop(journal);
        let path = root.path().join(&files(root.path())[0]);
        let before = fs::read(&path).unwrap();
        let mut bytes = before.clone();
        for (at, new) in hits {
            bytes[at..at + 5].copy_from_slice(&new);
        }
        fs::write(&path, &bytes).unwrap();
        if let Some(cut) = cut {
            File::options().write(true).open(&path).unwrap().set_len(cut as u64).unwrap();
            bytes.truncate(cut);
        }
        // Damage of the header may name another version, which is refused.
        if let Ok(journal) = Journal::open(root.path(), OPTIONS) {
            let (words, damage) = read(&journal);
            let whole = |word: &u64| {
                let at = 128 + 24 * *word as usize;
                bytes.get(at..at + 24) == Some(&before[at..at + 24])
            };
            let expected: Vec<u64> = (0..1_000).filter(whole).collect();
            prop_assert_eq!(&words, &expected);
            let (end, damage): (Vec<_>, _) = damage.iter().partition(|damage| damage.at == bytes.len());
            let end: Vec<_> = end.iter().map(|end: &&Damage| end.bytes).collect();
            let expected_end: Vec<_> = cut.map(|cut| OPTIONS.segment - cut).into_iter().collect();
            prop_assert_eq!(end, expected_end);
            let (header, damage): (Vec<&Damage>, Vec<_>) =
                damage.into_iter().partition(|damage| damage.is_of_header());
            for part in header {
                let there = part.at..part.at + part.bytes;
                prop_assert!(bytes[there.clone()] != before[there]);
            }
            let lost: usize = damage.iter().map(|damage| damage.bytes).sum();
            let hit = 24 * (1_000 - expected.len());
            let missing = (128 + 24_000usize).saturating_sub(bytes.len().max(128));
            prop_assert!(lost <= hit && lost + missing + 24 >= hit, "{lost} of {hit}, {missing} cut");
        }
    }
}

#[test]
fn where_no_more_can_be_made_the_last_segment_is_for_what_is_appended_anyway() {
    let root = TempDir::new().unwrap();
    let journal = open_far_from_bound(root.path());
    let obstacles = obstruct(root.path());
    let fill = || {
        let mut appended = 0;
        while append(&journal, appended).is_ok() {
            if journal.wants_next() {
                let _ = journal.prepare();
            }
            appended += 1;
        }
        assert_eq!(append(&journal, 0), Err(Refusal::Failed));
        appended as usize / (OPTIONS.segment / 24)
    };
    // Of four segments the last is kept.
    assert_eq!(fill(), 2);
    assert_eq!(journal.newest_sealed(), Some(1));
    for word in 0..100 {
        journal.append_anyway(TAG, &[word, !word], &pin()).unwrap();
        assert!(journal.prepare().is_err());
        assert_eq!(append(&journal, 0), Err(Refusal::Failed));
        let reserved = journal.reserve([2].into_iter(), &pin());
        assert_eq!(reserved.err(), Some(Refusal::Failed));
    }
    assert_eq!(journal.newest_sealed(), Some(2));
    // It is not full, and is not given up for one that cannot be made.
    journal.seal(&pin());
    assert_eq!(journal.newest_sealed(), Some(2));
    for path in obstacles {
        fs::remove_file(path).unwrap();
    }
    journal.prepare().unwrap();
    assert_eq!(append(&journal, 0), Ok(()));
    journal.seal(&pin());
    assert_eq!(journal.newest_sealed(), Some(3));
}

#[test]
fn the_last_segment_is_kept_too_where_nobody_has_found_out_yet_that_no_more_can_be_made() {
    let root = TempDir::new().unwrap();
    let journal = open_far_from_bound(root.path());
    obstruct(root.path());
    let again = || journal.append_again(TAG, &[0, !0], &pin());
    while append(&journal, 0).is_ok() {}
    assert!(journal.wants_next());
    while again().is_ok() {}
    for refused in [append(&journal, 0), again()] {
        assert_eq!(refused, Err(Refusal::Full));
    }
    journal.append_anyway(TAG, &[1, !1], &pin()).unwrap();
    for refused in [append(&journal, 0), again()] {
        assert_eq!(refused, Err(Refusal::Full));
    }
    assert!(journal.make_anyway().is_err());
    for refused in [append(&journal, 0), again()] {
        assert_eq!(refused, Err(Refusal::Failed));
    }
    journal.append_anyway(TAG, &[2, !2], &pin()).unwrap();
}

#[test]
fn what_is_appended_again_goes_on_where_all_segments_were_taken_for_what_is_appended_anyway() {
    let root = TempDir::new().unwrap();
    let journal = open_far_from_bound(root.path());
    while journal.newest_sealed() < Some(2) {
        journal.append_anyway(TAG, &[1, !1], &pin()).unwrap();
    }
    let again = || journal.append_again(TAG, &[0, !0], &pin());
    assert_eq!(again(), Err(Refusal::Full));
    journal.make_anyway().unwrap();
    assert_eq!(again(), Ok(()));
    // Nobody else until it is known that there is room.
    assert_eq!(append(&journal, 0), Err(Refusal::Full));
    journal.prepare().unwrap();
    assert_eq!(append(&journal, 0), Ok(()));
}

fn open_far_from_bound(directory: &Path) -> Journal {
    let options = Options {
        most: 100,
        ..OPTIONS
    };
    Journal::open(directory, options).unwrap()
}

/// So that no file can be made whose number was not used yet.
fn obstruct(directory: &Path) -> Vec<PathBuf> {
    let paths = (0..200).map(|number| directory.join(format!("{number:016}.journal")));
    let obstacles = Vec::from_iter(paths.filter(|path| !path.exists()));
    for path in &obstacles {
        std::os::unix::fs::symlink("nowhere", path).unwrap();
    }
    obstacles
}

/// The value of a header that has the byte at this place, with its checksum; the last bytes of a header have none.
fn header_part(at: usize) -> Option<std::ops::Range<usize>> {
    match at {
        0..40 => Some(0..40),
        40..120 => {
            let start = at - (at - 40) % 16;
            Some(start..start + 16)
        }
        _ => None,
    }
}

/// Records of all sizes, damaged at 10,000 places, one after the other, a tenth of them in the header.
#[test]
fn at_each_of_10_000_places_damage_costs_one_record_and_a_cut_those_after_it() {
    let root = TempDir::new().unwrap();
    let journal = open(root.path());
    let mut written = vec![];
    let mut ends = vec![];
    let mut end = 128;
    for word in 0..300u64 {
        let record: Vec<u64> = (0..1 + word % 15).map(|at| !(word << 8 | at)).collect();
        journal.append(TAG, &record, &pin()).unwrap();
        end += 8 + 8 * record.len();
        ends.push(end);
        written.push(record);
    }
    drop(journal);
    let path = root.path().join(&files(root.path())[0]);
    // Nothing but room.
    for empty in files(root.path()).iter().skip(1) {
        fs::remove_file(root.path().join(empty)).unwrap();
    }
    let journal = open(root.path());
    let mut reader = journal.reader();
    let mut read = || {
        let mut records = vec![];
        let each = |tag, words: &[u64]| {
            assert_eq!(tag, TAG);
            records.push(words.to_vec());
        };
        reader.for_each(each).unwrap();
        (records, reader.damage().to_vec())
    };
    assert_eq!(read(), (written.clone(), vec![]));

    let whole = fs::read(&path).unwrap();
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for case in 0..10_000 {
        let is_header = case % 10 == 0;
        let at = random.random_range(if is_header { 0..128 } else { 128..end });
        let hit = ends.partition_point(|end| *end <= at);
        let from = if hit == 0 { 128 } else { ends[hit - 1] };
        let (mut bytes, mut expected) = (whole.clone(), written.clone());
        let part = if case % 4 == 0 {
            // What is cut off cannot be told from what was never written, but half a record can.
            bytes.truncate(at);
            expected.truncate(hit);
            let half = bytes.get(from..).unwrap_or_default();
            let last = half.iter().rposition(|byte| *byte != 0);
            last.map(|last| from..from + last + 1)
        } else {
            bytes[at] ^= random.random_range(1..=255u8);
            if is_header {
                header_part(at)
            } else {
                expected.remove(hit);
                Some(from..ends[hit])
            }
        };
        fs::write(&path, &bytes).unwrap();
        let (records, damage) = read();
        assert!(records == expected, "at {at} of {}", bytes.len());
        let lost = part.map(|part| Damage {
            path: path.clone(),
            at: part.start,
            bytes: part.len(),
            zero: false,
        });
        let missing = (bytes.len() < whole.len()).then(|| Damage {
            path: path.clone(),
            at: bytes.len(),
            bytes: whole.len() - bytes.len(),
            zero: false,
        });
        let lost = Vec::from_iter(lost.into_iter().chain(missing));
        assert_eq!(damage, lost, "at {at}");
    }
}
