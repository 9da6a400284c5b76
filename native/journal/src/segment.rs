//! One file of the journal, as long as it is written to.
//!
//! ```text
//! magic: 8 bytes | number: 8 | id width: 8 | owner: 8 | checksum: 8 | mark | mark | size | stored | stored | zeros to 128 | records
//! mark, size, stored     value: 8 bytes | checksum: 8
//! ```
//!
//! Room is taken by adding to one number, so those who append do not wait for each other.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use read_states_sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use read_states_sync::atomic::{AtomicBool, AtomicUsize};
use read_states_sync::{Mutex, fail_point};
use rustix::fs::{FallocateFlags, fallocate};

use crate::error::OpenError;
use crate::journal::Options;
use crate::map::Map;
use crate::record::{self, Tag, size};

/// Bytes before the first record.
pub(crate) const HEADER: usize = 128;

/// What the bytes of a file are a multiple of.
pub(crate) const UNIT: usize = 1 << 16;

/// Bytes of the header that never change, with their checksum.
const FIXED: usize = 40;

/// Where the marks are. They are written in turn, so that one is whole at any moment.
const MARKS: [usize; 2] = [40, 56];

/// Where the bytes of the file are said. Early versions of this library did not.
const SIZE: usize = 72;

/// Where it is said what the store has confirmed, as the marks are.
const STORED: [usize; 2] = [88, 104];

const MAGIC: u64 = u64::from_le_bytes(*b"RSJRNL\0\x01");

/// Of the names of files.
pub(crate) const EXTENSION: &str = "journal";

/// See the module.
#[derive(Debug)]
pub(crate) struct Segment {
    pub sequence: u64,
    path: PathBuf,
    map: Map,
    /// Where the next record goes; past the end once it is full.
    next: AtomicUsize,
    /// The first byte that was said to be written since the last sync.
    late: AtomicUsize,
    synced: Mutex<Synced>,
    marks: Mutex<Marks>,
    stored: Mutex<Marks>,
    /// Whether a mark was written since the last sync.
    marked: AtomicBool,
    /// Whether a sync is under way, or has failed, which has taken what was said to be written before it.
    syncing: AtomicBool,
    /// Whether the directory knows the file, on the disk.
    named: AtomicBool,
}

/// The highest mark, and where the next one goes, and the one after it.
#[derive(Clone, Copy, Debug)]
struct Marks {
    highest: u64,
    places: [usize; 2],
}

impl Marks {
    fn at(places: [usize; 2]) -> Self {
        Marks { highest: 0, places }
    }

    /// Writes it in the place of the one before the last, if it is higher; says whether it is.
    fn raise(&mut self, map: &Map, value: u64) -> bool {
        let is_higher = value > self.highest;
        if is_higher {
            let [next, other] = self.places;
            write_checked(map, next, value);
            *self = Marks {
                highest: value,
                places: [other, next],
            };
        }
        is_higher
    }
}

fn write_checked(map: &Map, at: usize, value: u64) {
    map.write(at, &[value, checksum(&[value])]);
}

/// Such a value at a place of the header, if it is whole.
fn read_checked(words: &[u64], at: usize) -> Option<u64> {
    match words.get(at / 8..)? {
        &[value, sum, ..] if sum == checksum(&[value]) => Some(value),
        _ => None,
    }
}

/// Two syncs ago, and one: what was taken before the older one is on the disk.
#[derive(Clone, Copy, Debug)]
struct Synced {
    earlier: usize,
    last: usize,
}

pub(crate) fn path(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("{sequence:016}.{EXTENSION}"))
}

/// What the header of a segment says, beyond what has to be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub owner: u64,
    pub mark: u64,
    pub stored: u64,
}

/// The first bytes of a file as the words of its header.
fn header_words(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes[..bytes.len().min(HEADER)].as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    words.collect()
}

/// The bytes that a file with these had, as its header says or else as any has: a multiple of [`UNIT`].
pub(crate) fn size_of_file(bytes: &[u8]) -> usize {
    let said = read_checked(&header_words(bytes), SIZE);
    let said = said.and_then(|said| usize::try_from(said).ok());
    said.unwrap_or_else(|| bytes.len().max(1).next_multiple_of(UNIT))
}

/// Reads a header. One that is damaged or was never written says nothing, and need not: the file's name has
/// the number, and the records have their checksums.
pub(crate) fn read_header(path: &Path, id_width: u8) -> Result<Option<Header>, OpenError> {
    let mut bytes = vec![];
    File::open(path)
        .and_then(|file| file.take(HEADER as u64).read_to_end(&mut bytes))
        .map_err(|error| OpenError::io(path, error))?;
    let words = header_words(&bytes);
    let [magic, _, width, owner, sum, ..] = words[..] else {
        return Ok(None);
    };
    if sum != checksum(&words[..4]) {
        return Ok(None);
    }
    let not_ours = |why| Err(OpenError::NotOurs(path.to_owned(), why));
    if magic != MAGIC {
        return not_ours(format!("its format is {magic:x}"));
    }
    if width != u64::from(id_width) {
        return not_ours(format!("its ids have {width} bytes"));
    }
    let highest = |places: [usize; 2]| {
        let marks = places.iter().filter_map(|at| read_checked(&words, *at));
        marks.max().unwrap_or_default()
    };
    Ok(Some(Header {
        owner,
        mark: highest(MARKS),
        stored: highest(STORED),
    }))
}

/// Where the header in a file's bytes is not as it was written. One that nobody had the time to write is none, and what is missing of
/// it is missing of the file. A mark that was being written when the process died is not told from one that is damaged.
pub(crate) fn damaged_header(bytes: &[u8]) -> Vec<Range<usize>> {
    let words = header_words(bytes);
    let mut damaged = vec![];
    if let Some((fixed, _)) = words.split_at_checked(FIXED / 8)
        && fixed[4] != checksum(&fixed[..4])
        && bytes[FIXED..].iter().any(|byte| *byte != 0)
    {
        damaged.push(0..FIXED);
    }
    for at in MARKS.into_iter().chain([SIZE]).chain(STORED) {
        if let Some([value, sum]) = words.get(at / 8..at / 8 + 2)
            && (*value, *sum) != (0, 0)
            && *sum != checksum(&[*value])
        {
            damaged.push(at..at + 16);
        }
    }
    damaged
}

fn checksum(words: &[u64]) -> u64 {
    record::head(0, [0; 3], words)
}

impl Segment {
    /// Makes the file, for its owner only, with all the room it will need.
    pub fn create(directory: &Path, sequence: u64, options: &Options) -> io::Result<Self> {
        let path = path(directory, sequence);
        let make = || {
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            // So that a write to memory never finds the disk full.
            fallocate(
                file.as_fd(),
                FallocateFlags::empty(),
                0,
                options.segment as u64,
            )?;
            let map = Map::new(&file, options.segment)?;
            let header = [MAGIC, sequence, u64::from(options.id_width), options.owner];
            map.write(0, &header);
            map.write(8 * header.len(), &[checksum(&header)]);
            write_checked(&map, SIZE, options.segment as u64);
            map.populate()?;
            Ok(map)
        };
        let map = make().inspect_err(|error: &io::Error| {
            if error.kind() != io::ErrorKind::AlreadyExists {
                // Some file systems leave a part of it.
                let _ = fs::remove_file(&path);
            }
        })?;
        Ok(Segment {
            sequence,
            path,
            map,
            next: AtomicUsize::new(HEADER),
            late: AtomicUsize::new(usize::MAX),
            marks: Mutex::new(Marks::at(MARKS)),
            stored: Mutex::new(Marks::at(STORED)),
            // The header.
            marked: AtomicBool::new(true),
            syncing: AtomicBool::new(false),
            named: AtomicBool::new(false),
            synced: Mutex::new(Synced {
                earlier: HEADER,
                last: HEADER,
            }),
        })
    }

    /// Whether nothing was ever taken.
    pub fn is_empty(&self) -> bool {
        self.next.load(Relaxed) == HEADER
    }

    /// Whether somebody has found no room.
    pub fn is_full(&self) -> bool {
        self.next.load(Relaxed) > self.map.bytes()
    }

    /// Takes room, or `None` if there is not enough.
    #[inline]
    pub fn take(&self, bytes: usize) -> Option<usize> {
        let at = self.next.fetch_add(bytes, Relaxed);
        (at + bytes <= self.map.bytes()).then_some(at)
    }

    /// Writes a record into room that was taken for it.
    #[inline]
    pub fn write(&self, at: usize, tag: Tag, words: &[u64]) {
        self.map.write(at + size(0), words);
        // Last, so that it is rare that a record is cut by a crash, though it would be noticed.
        self.map
            .write(at, &[record::head(self.sequence, tag, words)]);
    }

    /// Writes a mark, if it is higher than those before.
    pub fn mark(&self, value: u64) {
        let mut marks = self.marks.lock();
        fail_point!();
        if marks.raise(&self.map, value) {
            self.marked.store(true, Release);
        }
    }

    /// Writes what the store has confirmed, likewise. No sync need wait for it.
    pub fn mark_stored(&self, value: u64) {
        let mut stored = self.stored.lock();
        fail_point!();
        stored.raise(&self.map, value);
    }

    /// Says that something from `from` on was written now, perhaps long after its room was taken.
    pub fn written(&self, from: usize) {
        self.late.fetch_min(from, Release);
    }

    /// Whether something that says so was written since the last sync that is done.
    pub fn is_changed(&self) -> bool {
        // `syncing` last: a sync sets it before it takes the other two, so who misses those finds it, unless the sync is done.
        self.late.load(Acquire) < usize::MAX
            || self.marked.load(Acquire)
            || self.syncing.load(Acquire)
    }

    /// Waits until all records that were written before are on the disk. Says whether there can be more.
    pub fn sync(&self, is_current: bool) -> io::Result<bool> {
        let mut synced = self.synced.lock();
        fail_point!();
        self.syncing.store(true, Relaxed);
        let late = self.late.swap(usize::MAX, AcqRel);
        let marked = self.marked.swap(false, AcqRel);
        let to = self.next.load(Acquire).min(self.map.bytes());
        let from = synced.earlier.min(late);
        let header = if marked { HEADER } else { 0 };
        if let Err(error) = self.map.sync(0, header).and(self.map.sync(from, to)) {
            // The system takes what it could not write for written, and would say so the next time. Which pages those are it
            // does not say, and it may be one that was taken meanwhile, so all of them are to be written again.
            self.map.touch(self.next.load(Acquire));
            self.written(0);
            self.marked.store(true, Release);
            return Err(error);
        }
        if !self.named.load(Acquire)
            && let Some(directory) = self.path.parent()
        {
            read_states_directory::sync(directory)?;
            self.named.store(true, Release);
        }
        // A record may have been taken before the last sync and written after it.
        let more = is_current || synced.last < to || late < usize::MAX;
        *synced = Synced {
            earlier: synced.last,
            last: to,
        };
        self.syncing.store(false, Release);
        Ok(more)
    }

    /// What a power cut leaves of it.
    #[cfg(all(test, feature = "shuttle"))]
    pub fn on_disk(&self) -> Vec<u8> {
        self.map.on_disk()
    }

    /// Its number and its file.
    pub fn file(&self) -> (u64, PathBuf) {
        (self.sequence, self.path.clone())
    }
}

#[cfg(all(test, not(feature = "shuttle"), target_os = "linux"))]
mod tests {
    use std::ptr::null_mut;

    use read_states_sync::pin;
    use rustix::fs::statfs;
    use rustix::mm::{MapFlags, ProtFlags, mmap};

    use super::*;
    use crate::journal::Journal;

    const OPTIONS: Options = Options {
        segment: 1 << 18,
        most: 2,
        id_width: 8,
        owner: 1,
        exact: true,
    };

    /// Kilobytes of the file's only mapping that the system would write to the disk.
    fn dirty(path: &Path) -> usize {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let map = maps.split_once(path.to_str().unwrap()).unwrap().1;
        let shared = map.lines().find(|line| line.starts_with("Shared_Dirty:"));
        let private = map.lines().find(|line| line.starts_with("Private_Dirty:"));
        let kilobytes = |line: Option<&str>| {
            let number = line.unwrap().split_whitespace().nth(1);
            number.unwrap().parse::<usize>().unwrap()
        };
        kilobytes(shared) + kilobytes(private)
    }

    /// Beside the test itself, which is on a disk more often than what is temporary.
    fn on_disk() -> tempfile::TempDir {
        let test = std::env::current_exe().unwrap();
        tempfile::tempdir_in(test.parent().unwrap()).unwrap()
    }

    /// Whether no disk has the file: then all of it is always dirty.
    fn is_in_memory(path: &Path) -> bool {
        const TMPFS: i64 = 0x0102_1994;
        statfs(path).unwrap().f_type as i64 == TMPFS
    }

    #[test]
    fn what_a_failed_sync_leaves_as_written_is_written_by_the_next() {
        let directory = on_disk();
        let segment = Segment::create(directory.path(), 1, &OPTIONS).unwrap();
        let (_, path) = segment.file();
        let append = |words: &[u64]| {
            let at = segment.take(size(words.len())).unwrap();
            segment.write(at, [1; 3], words);
        };
        (0..1_000).for_each(|word| append(&[word; 15]));
        segment.sync(true).unwrap();
        segment.sync(true).unwrap();
        let before = dirty(&path);
        append(&[1]);
        segment.map.fails.store(true, Relaxed);
        segment.sync(true).unwrap_err();
        // All that was written, for nobody knows which of it is meant.
        assert!(dirty(&path) >= before + 1_000 * size(15) / 1_024 || is_in_memory(&path));
        assert!(segment.is_changed());
        segment.sync(true).unwrap();
        assert!(dirty(&path) <= before);
        assert!(!segment.is_changed());
    }

    #[test]
    fn the_first_sync_has_what_an_earlier_life_did_not_come_to_sync() {
        let directory = on_disk();
        let open = || Journal::open(directory.path(), OPTIONS).unwrap();
        let journal = open();
        for word in 0..1_000 {
            journal.append([1; 3], &[word; 15], &pin()).unwrap();
        }
        drop(journal);
        open().sync().unwrap();
        let path = path(directory.path(), 0);
        let file = File::open(&path).unwrap();
        // SAFETY: a new mapping, at an address of the system's choice, which nobody refers to.
        unsafe {
            let flags = MapFlags::SHARED | MapFlags::POPULATE;
            mmap(
                null_mut(),
                OPTIONS.segment,
                ProtFlags::READ,
                flags,
                &file,
                0,
            )
            .unwrap();
        }
        assert!(dirty(&path) == 0 || is_in_memory(&path));
    }
}
