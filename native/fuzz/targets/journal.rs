//! Any bytes as a segment of a journal: what is handed out are the records in it, and all other bytes are reported.
#![no_main]

use libfuzzer_sys::fuzz_target;
use read_states_fuzz::{Directory, HEADER, MAX_WORDS, OPTIONS, read_record};
use read_states_journal::{FILLER, Journal, Reader};
use std::cell::RefCell;

thread_local! {
    static OPEN: RefCell<(Directory, Reader)> = {
        let directory = Directory::new();
        directory.write(&[1]);
        let journal = Journal::open(directory.path(), OPTIONS).unwrap();
        let reader = journal.reader();
        RefCell::new((directory, reader))
    };
}

fuzz_target!(|bytes: &[u8]| {
    OPEN.with_borrow_mut(|(directory, reader)| {
        directory.write(bytes);
        let mut records = vec![];
        reader
            .for_each(|tag, words| records.push((tag, words.to_vec())))
            .unwrap();
        // The rest of the file is zero, which may be the end of a record.
        let bytes = &[bytes, &[0; 8 + 8 * MAX_WORDS]].concat();
        let (mut expected, mut lost, mut at) = (vec![], vec![], 0);
        while at < bytes.len() {
            let next = match read_record(&bytes[at..]) {
                Some((tag, words)) => {
                    let size = 8 + 8 * words.len();
                    if tag != FILLER {
                        expected.push((tag, words));
                    }
                    size
                }
                None => {
                    let size = (bytes.len() - at).min(8);
                    lost.extend(at..at + size);
                    size
                }
            };
            at += next;
        }
        assert_eq!(records, expected);
        // Zeros at the end are room for more.
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        lost.retain(|at| *at < end);
        let damage = reader.damage().iter();
        let reported =
            damage.flat_map(|damage| damage.at - HEADER..damage.at - HEADER + damage.bytes);
        assert_eq!(reported.collect::<Vec<_>>(), lost);
    });
});
