//! Any bytes as a key and a record of a table: those they are of, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use read_states_stores::key::{Key, Place};
use read_states_stores::record::Record;

fuzz_target!(|pair: (&[u8], &[u8])| {
    let keys = [pair.0, pair.1].map(|bytes| (bytes, Key::from_bytes(bytes)));
    for (bytes, key) in keys {
        if let Some(key) = key {
            assert_eq!(key.to_bytes(), bytes);
        }
        if let Some(place) = Place::from_bytes(bytes) {
            assert_eq!(place.to_bytes(), bytes);
        }
        if let Some(record) = Record::from_bytes(bytes) {
            // A delete has 8 bytes, a row 24 and its counters.
            assert_eq!(record.to_bytes(bytes.len().saturating_sub(24) / 4), bytes);
        }
    }
    if let [(one, Some(a)), (other, Some(b))] = keys {
        assert_eq!(a.cmp(&b), one.cmp(other));
    }
});
