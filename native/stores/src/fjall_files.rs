//! What fjall does not check of its own files, checked before it opens them.
//!
//! ```text
//! N.jnl                    journals: batches, each written and synced by one commit; the newest is appended to
//! keyspaces/K/current      names the newest list of the tables of a key space, and has a checksum of it
//! keyspaces/K/vN           such a list, with a checksum of each table
//! keyspaces/K/tables/N     a table: blocks with checksums, which fjall does check when it reads them
//! version                  without which fjall would begin anew
//! ```
//!
//! fjall believes a list without looking at its checksum, and removes the tables that are not in it. In a journal it
//! takes the first byte that it does not understand for the place where the process died, and cuts off the rest, though
//! this may be years of commits; and a batch says in bytes that no checksum covers which other batches it is newer than.
//! So here a list has to have its checksum. Each batch has a number, one more than the batch before, and may end early only
//! behind the number of the last write that is known to be on the disk ([`Written`](crate::written::Written)).
//!
//! One thing escapes: damage in the 8 bytes by which fjall orders the first batch of the oldest journal.

use crate::StoreError;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64, xxh3_128};

/// The key under which each batch has its number. It is after all keys of [`crate::key`].
pub const NUMBER: [u8; 1] = [3];

/// The key space in which fjall describes the others, and ours.
const KEYSPACES: [&str; 2] = ["0", "1"];

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const END_MAGIC: [u8; 4] = *b"FJL\x03";
const UNCOMPRESSED: u8 = 0;

/// Checks the files below `rows`, of which it is known that the write with the number `written` is in them.
/// Cuts off what a writer that died has left at the end of a journal. Returns the first batch of the
/// oldest one: all before it has to be in tables.
pub fn check(rows: &Path, written: u64) -> Result<Option<Batch>, StoreError> {
    read(&rows.join("version"))?;
    for keyspace in KEYSPACES {
        tables(&rows.join("keyspaces").join(keyspace))?;
    }
    check_journals(rows, written)
}

/// The first table whose bytes are not those that were written.
pub fn damaged_table(rows: &Path) -> Option<PathBuf> {
    KEYSPACES.iter().find_map(|keyspace| {
        let keyspace = rows.join("keyspaces").join(keyspace);
        let mut tables = tables(&keyspace).ok()?.into_iter();
        tables.find_map(|(id, sum)| {
            let path = keyspace.join("tables").join(id.to_string());
            let is_damaged = checksum(&path).is_ok_and(|found| found != sum)
                || path.try_exists().is_ok_and(|exists| !exists);
            is_damaged.then_some(path)
        })
    })
}

/// The numbers of the tables of a key space, and their checksums.
fn tables(keyspace: &Path) -> Result<Vec<(u64, u128)>, StoreError> {
    let path = keyspace.join("current");
    let damaged = |path: &Path, why: &str| Err(damaged(path, why));
    let current = read(&path)?;
    let mut rest = &current[..];
    let (Some(id), Some(sum), Some([0]), []) =
        (array(&mut rest), array(&mut rest), array(&mut rest), rest)
    else {
        return damaged(&path, "it has another form");
    };
    let path = keyspace.join(format!("v{}", u64::from_le_bytes(id)));
    let list = read(&path)?;
    if xxh3_128(&list) != u128::from_le_bytes(sum) {
        return damaged(&path, "its checksum, in the file `current`, is another");
    }
    let toc = sfa::Reader::from_reader(&mut io::Cursor::new(&list));
    let section = toc.ok().and_then(|reader| {
        let section = reader.toc().section(b"tables")?;
        let from = usize::try_from(section.pos()).ok()?;
        list.get(from..from.checked_add(usize::try_from(section.len()).ok()?)?)
    });
    match section.and_then(listed) {
        Some(tables) => Ok(tables),
        None => damaged(&path, "it has another form"),
    }
}

/// Levels of runs of tables.
fn listed(mut rest: &[u8]) -> Option<Vec<(u64, u128)>> {
    let mut tables = vec![];
    let [levels] = array(&mut rest)?;
    for _ in 0..levels {
        let [runs] = array(&mut rest)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(array(&mut rest)?) {
                let id = u64::from_le_bytes(array(&mut rest)?);
                let [_kind_of_checksum] = array(&mut rest)?;
                tables.push((id, u128::from_le_bytes(array(&mut rest)?)));
                let _order: [u8; 8] = array(&mut rest)?;
            }
        }
    }
    rest.is_empty().then_some(tables)
}

fn check_journals(rows: &Path, written: u64) -> Result<Option<Batch>, StoreError> {
    let journals = journals(rows).map_err(|error| StoreError::io(rows, error))?;
    let (mut first, mut last): (_, Option<Batch>) = (None, None);
    let mut torn: Vec<(&Path, usize)> = vec![];
    let unknown = |torn: &[(&Path, usize)]| {
        let (path, at) = torn.last()?;
        let why = format!("what is at byte {at} cannot be understood");
        Some(damaged(path, why))
    };
    for path in &journals {
        let bytes = read(path)?;
        let mut rest = &bytes[..];
        let mut next = rest;
        while let Some(batch) = Batch::read(&mut next) {
            if last.is_some_and(|last| !last.is_followed_by(&batch)) {
                let at = bytes.len() - rest.len();
                let why = format!("what is at byte {at} does not belong there");
                // Something between the two is missing, most likely where something could not be read.
                return Err(unknown(&torn).unwrap_or_else(|| damaged(path, why)));
            }
            first = first.or(Some(batch));
            last = Some(batch);
            rest = next;
        }
        // Else it is room that was taken for more.
        if rest.iter().any(|byte| *byte != 0) {
            // Whoever wrote it died or failed in the middle, and then fjall may even have begun the next journal. If the
            // next batch goes on with the number, or there is none that is known to be written, nothing is missing.
            torn.push((path, bytes.len() - rest.len()));
        }
    }
    let number = last.and_then(|last| last.number);
    if number.unwrap_or(0) < written
        && let Some(unknown) = unknown(&torn)
    {
        return Err(unknown);
    }
    if let (Some(number), Some(path)) = (number, journals.last())
        && number < written
    {
        let why = format!("it ends with the write {number}, but {written} were made");
        return Err(damaged(path, why));
    }
    // Last, when nothing else is found to be wrong.
    for (path, whole) in torn {
        let cut = File::options().write(true).open(path);
        cut.and_then(|file| file.set_len(whole as u64).and_then(|()| file.sync_all()))
            .map_err(|error| StoreError::io(path, error))?;
    }
    Ok(first)
}

/// Oldest first.
fn journals(rows: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = vec![];
    for entry in fs::read_dir(rows)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let name = path.file_stem().and_then(|name| name.to_str());
            let number: Option<u64> = name.and_then(|name| name.parse().ok());
            journals.push((number, path));
        }
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// What is needed of a batch in a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// By which fjall knows what is newer.
    pub order: u64,
    /// What an early version of this library wrote has none.
    pub number: Option<u64>,
}

impl Batch {
    /// Takes a whole batch from the start of `rest`; if there is none, an unknown part of it.
    fn read(rest: &mut &[u8]) -> Option<Batch> {
        let [START] = array(rest)? else { return None };
        let items = u32::from_le_bytes(array(rest)?);
        let order = u64::from_le_bytes(array(rest)?);
        let (covered, mut number) = (*rest, None);
        for _ in 0..items {
            let (key, value) = item(rest)?;
            if key == NUMBER {
                number = Some(u64::from_le_bytes(value.try_into().ok()?));
            }
        }
        let covered = &covered[..covered.len() - rest.len()];
        let [END] = array(rest)? else { return None };
        let sum = u64::from_le_bytes(array(rest)?);
        let is_whole = array(rest)? == END_MAGIC && sum == xxh3_64(covered);
        is_whole.then_some(Batch { order, number })
    }

    fn is_followed_by(&self, next: &Batch) -> bool {
        let are_numbered = self.number.zip(next.number);
        self.order < next.order
            && are_numbered.is_none_or(|(number, next)| number.checked_add(1) == Some(next))
    }
}

/// Takes the key and the value of an item.
fn item<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let [ITEM, _kind, UNCOMPRESSED] = array(rest)? else {
        return None;
    };
    let _keyspace: [u8; 8] = array(rest)?;
    let key = u16::from_le_bytes(array(rest)?);
    let _uncompressed: [u8; 4] = array(rest)?;
    let value = u32::from_le_bytes(array(rest)?);
    let key = rest.split_off(..usize::from(key))?;
    Some((key, rest.split_off(..usize::try_from(value).ok()?)?))
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    rest.split_off(..N)?.try_into().ok()
}

/// All of a file that has to be there.
fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => StoreError::io(path, error),
    })
}

fn damaged(path: &Path, why: impl Into<String>) -> StoreError {
    StoreError::Damaged(path.to_owned(), why.into())
}

fn checksum(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let (mut sum, mut bytes) = (Xxh3Default::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(sum.digest128()),
            read => sum.update(&bytes[..read]),
        }
    }
}
