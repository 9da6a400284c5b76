//! The store on disk.

use crate::directory::Directory;
use crate::fjall_table::FjallTable;
use crate::versioned::Versioned;
use crate::{Instance, StoreError};
use std::path::Path;
use std::sync::Arc;

/// The store on disk, open. A commit that returned survives the death of the
/// process and of the machine.
///
/// ```
/// use read_states_engine::batch::{BatchBuilder, Entry};
/// use read_states_stores::{Local, Store};
///
/// let directory = tempfile::tempdir().unwrap();
/// let counters = ["mention_count".to_owned()];
/// let store = Local::open(directory.path(), &counters).unwrap();
/// let mut batch = BatchBuilder::new(1);
/// batch.push(&Entry::DeleteUser { user: 7, version: 3 });
/// store.commit(&batch.finish()).unwrap();
/// assert_eq!(Local::open(directory.path(), &counters).unwrap_err().reason(), "in_use");
///
/// store.close();
/// assert_eq!(Local::open(directory.path(), &counters).unwrap().floor().unwrap(), 3);
/// ```
pub type Local = Instance<FjallTable>;

impl Local {
    /// Opens the store in the directory `path`, or makes both, for rows with
    /// these counters (1 to 4).
    pub fn open(path: &Path, counters: &[String]) -> Result<Self, StoreError> {
        let directory = Directory::open(path, counters)?;
        let versioned = Versioned::new(FjallTable::open(directory, counters.len())?)?;
        // The directory was nobody's until now.
        versioned.forget_deletes()?;
        Ok(Instance::new(Arc::new(versioned), counters.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::model::{batch, entries, pages, row};
    use read_states_engine::batch::{BatchBuilder, Entry};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use tempfile::tempdir;

    fn open(path: &Path, counters: &[&str]) -> Result<Local, StoreError> {
        let counters: Vec<_> = counters.iter().map(|name| name.to_string()).collect();
        Local::open(path, &counters)
    }

    fn scan(store: &Local) -> Vec<Entry> {
        pages(1_000, |cursor| store.scan(cursor, 1_000))
    }

    #[test]
    fn a_counter_that_was_appended_reads_as_zero() {
        let root = tempdir().unwrap();
        let store = open(root.path(), &["a"]).unwrap();
        store.commit(&batch(&[row(1, 2, 3)])).unwrap();
        store.close();
        let store = open(root.path(), &["a", "b", "c"]).unwrap();
        assert_eq!(scan(&store), [row(1, 2, 3)]);
        let Entry::Row(mut with_three) = row(1, 2, 4) else {
            unreachable!()
        };
        with_three.state.counters[2] = 7;
        let mut builder = BatchBuilder::new(3);
        builder.push(&Entry::Row(with_three));
        store.commit(&builder.finish()).unwrap();
        assert_eq!(scan(&store), [Entry::Row(with_three)]);
    }

    #[test]
    fn after_close_every_call_fails_and_the_directory_is_free() {
        let root = tempdir().unwrap();
        let store = open(root.path(), &["a"]).unwrap();
        store.close();
        store.close();
        let reasons = [
            store.commit(&batch(&[])).unwrap_err(),
            store.load(&[1], None, 1).unwrap_err(),
            store.scan(None, 1).unwrap_err(),
            store.floor().unwrap_err(),
        ];
        assert!(reasons.iter().all(|error| error.reason() == "closed"));
        open(root.path(), &["a"]).unwrap();
    }

    #[test]
    fn close_waits_for_the_calls_under_way() {
        let root = tempdir().unwrap();
        let store = open(root.path(), &["a"]).unwrap();
        let rows: Vec<_> = (0..5_000).map(|n| row(1, n, n)).collect();
        let committed = std::thread::scope(|scope| {
            let commits = scope.spawn(|| {
                let mut committed = 0;
                while store.commit(&batch(&rows)).is_ok() {
                    committed += 1;
                }
                committed
            });
            while scan(&store).is_empty() {}
            store.close();
            open(root.path(), &["a"]).unwrap().close();
            commits.join().unwrap()
        });
        assert!(committed >= 1);
        assert_eq!(scan(&open(root.path(), &["a"]).unwrap()), rows);
    }

    #[test]
    fn deletes_are_forgotten_at_the_next_opening() {
        let root = tempdir().unwrap();
        let store = open(root.path(), &["a"]).unwrap();
        let user = Entry::DeleteUser {
            user: 1,
            version: 5,
        };
        store.commit(&batch(&[user, row(1, 2, 6)])).unwrap();
        assert_eq!(scan(&store), [user, row(1, 2, 6)]);
        store.close();
        let store = open(root.path(), &["a"]).unwrap();
        assert_eq!(scan(&store), [row(1, 2, 6)]);
        assert_eq!(store.floor().unwrap(), 6);
    }

    #[test]
    fn a_user_of_100_000_rows_is_read_deleted_and_stays_deleted() {
        let root = tempdir().unwrap();
        let store = open(root.path(), &["a"]).unwrap();
        let rows: Vec<_> = (0..100_000).map(|n| row(5, n, 1)).collect();
        store.commit(&batch(&rows)).unwrap();
        let read = pages(10_000, |cursor| store.load(&[5], cursor, 10_000));
        assert_eq!(read, rows);
        let user = Entry::DeleteUser {
            user: 5,
            version: 1,
        };
        store.commit(&batch(&[user, row(5, 1, 2)])).unwrap();
        store.close();
        let store = open(root.path(), &["a"]).unwrap();
        let page = store.load(&[5], None, 10).unwrap();
        assert_eq!(entries(&page.batch), [row(5, 1, 2)]);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// The files below a directory that others can reach and read or write.
    fn open_to_others(directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).unwrap();
        let loose = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| mode(path) & 0o077 != 0);
        loose
            .flat_map(|path| match path.is_dir() {
                true => open_to_others(&path),
                false => vec![path],
            })
            .collect()
    }

    #[test]
    fn nobody_else_gets_at_the_files() {
        let root = tempdir().unwrap();
        let (made, found) = (root.path().join("made"), root.path().join("found"));
        fs::create_dir(&found).unwrap();
        // As those of a home directory may be.
        for path in [root.path(), &found] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        for path in [&made, &found] {
            for life in 0..2 {
                let store = open(path, &["a"]).unwrap();
                store.commit(&batch(&[row(1, 2, life + 1)])).unwrap();
                assert_eq!(mode(&path.join("rows")), 0o700);
                let loose = open_to_others(path);
                assert!(loose.is_empty(), "{loose:?}");
                store.close();
            }
        }
        assert_eq!(mode(&made), 0o700);
        // What somebody has made stays as he wants it.
        assert_eq!(mode(&found), 0o755);
    }

    #[test]
    fn damaged_files_are_an_error_that_names_the_path() {
        let root = tempdir().unwrap();
        open(root.path(), &["a"]).unwrap().close();
        let version = root.path().join("rows/version");
        fs::write(&version, "no").unwrap();
        let error = open(root.path(), &["a"]).unwrap_err();
        assert_eq!(error.reason(), "damaged");
        assert!(error.to_string().contains(root.path().to_str().unwrap()));
    }
}
