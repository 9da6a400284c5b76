//! Writes that the operating system refuses: an error while it lasts, and nothing lost.
//!
//! A limit on the size of files stands in for the full disk. It holds for a
//! whole process, so the test runs in one of its own.
#![cfg(target_os = "linux")]

use read_states_engine::batch::{Batch, BatchBuilder, Entry, Row, Version};
use read_states_engine::id::Channel;
use read_states_engine::read_state::ReadState;
use read_states_stores::{Local, Store};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, id};

const DIRECTORY: &str = "READ_STATES_FULL_DISK";

#[test]
fn a_full_disk_is_an_error_until_there_is_room_again() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return fill(directory.as_ref());
    }
    let directory = tempfile::tempdir().unwrap();
    // The signal that comes with the error would end the process.
    let status = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ && exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_full_disk_is_an_error_until_there_is_room_again",
        ])
        .env(DIRECTORY, directory.path())
        .status()
        .unwrap();
    assert!(status.success());
}

fn fill(directory: &Path) {
    let open = || Local::open(directory, &["count".to_owned()]).unwrap();
    let store = open();
    let mut accepted = BTreeSet::new();
    let mut refused = 0;
    limit_files("500000");
    for version in 1..=12 {
        match store.commit(&batch(version)) {
            Ok(()) => assert!(accepted.insert(version)),
            Err(error) => {
                assert_eq!(error.reason(), "io", "{error}");
                refused += 1;
            }
        }
    }
    assert!(!accepted.is_empty() && refused > 5);
    assert!(versions(&store).is_superset(&accepted));

    limit_files("unlimited");
    store.commit(&batch(13)).unwrap();
    accepted.insert(13);
    assert!(versions(&store).is_superset(&accepted));
    store.close();
    assert!(versions(&open()).is_superset(&accepted));
}

fn limit_files(bytes: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &id().to_string()])
        .arg(format!("--fsize={bytes}:unlimited"))
        .status();
    assert!(status.unwrap().success());
}

/// 2,000 rows of one user, all of one version.
fn batch(version: Version) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1);
    for id in 0..2_000 {
        builder.push(&Entry::Row(Row {
            user: version,
            channel: Channel { kind: 0, id },
            version,
            writer: 1,
            state: ReadState::default(),
        }));
    }
    builder.finish()
}

/// The versions in the store, each of which has all its rows.
fn versions(store: &Local) -> BTreeSet<Version> {
    let mut versions = BTreeSet::new();
    for version in 0..20 {
        let page = store.load(&[version], None, 10_000).unwrap();
        match Batch::parse(&page.batch).unwrap().count() {
            0 => {}
            2_000 => assert!(versions.insert(version)),
            rows => panic!("{rows} rows of a batch"),
        }
    }
    versions
}
