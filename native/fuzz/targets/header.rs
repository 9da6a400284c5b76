//! Any bytes in the header of a segment: the journal opens with its record, or says why not, and says where the header is damaged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use read_states_fuzz::{Directory, HEADER, OPTIONS, record};
use read_states_journal::Journal;

thread_local! {
    static DIRECTORY: Directory = Directory::new();
}

/// Places, and the bytes there.
type Hits = Vec<(u8, u8)>;

fuzz_target!(|hits: Hits| {
    DIRECTORY.with(|directory| {
        let mut header = directory.header().to_vec();
        for (at, byte) in hits {
            header[usize::from(at) % HEADER] = byte;
        }
        let written = record([1, 2, 3], &[4]);
        directory.write_with_header(&header, &written);
        let journal = match Journal::open(directory.path(), OPTIONS) {
            Ok(journal) => journal,
            Err(error) => {
                // With a checksum that was found by trying.
                assert_eq!(error.reason(), "not_ours");
                return;
            }
        };
        let mut reader = journal.reader();
        let mut records = 0;
        reader.for_each(|_tag, _words| records += 1).unwrap();
        assert_eq!(records, 1);
        let damage = reader.damage();
        // What the header says of the size may make an end seem to be missing.
        let is_there = |at: usize| at < HEADER || at == OPTIONS.segment;
        assert!(damage.iter().all(|damage| is_there(damage.at)));
        if header == directory.header() {
            assert!(damage.is_empty());
            assert_eq!((journal.highest_mark(), journal.highest_stored()), (7, 5));
        }
    });
});
