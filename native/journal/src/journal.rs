//! The segments of a directory: one that is appended to, those before it, and one ready to be next.

#[cfg(all(test, feature = "shuttle"))]
mod schedules;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_epoch::{Atomic, Guard, Owned};
use read_states_directory::{Lock, Refused, create};
use read_states_sync::atomic::Ordering::{Relaxed, SeqCst};
use read_states_sync::atomic::{AtomicBool, AtomicU64};
use read_states_sync::{Mutex, MutexGuard, fail_point, pin};
use scopeguard::ScopeGuard;

use crate::error::{OpenError, Refusal, is_full};
use crate::reader::{Found, Reader, is_blank};
use crate::record::{FILLER, MAX_WORDS, Tag, size};
use crate::segment::{EXTENSION, HEADER, Header, Segment, UNIT, path, read_header};

/// Segments that are ready to be next: while one is filled, another is made, and the last is kept while there may be none after it.
const SPARES: usize = 3;

/// How large a journal may become.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a segment, a multiple of 64 KB.
    pub segment: usize,
    /// Segments, of which two are needed at least: the one that is written to, and the next.
    pub most: usize,
    /// Width of the ids in the words, in bytes: another one's journal is refused.
    pub id_width: u8,
    /// Whose journal it is, unless it is somebody's already, see [`Journal::owner`].
    pub owner: u64,
    /// Whether who appends waits for a sync: then one has to have everything that was appended before. Else it
    /// may miss what a thread took room for long before it wrote it.
    pub exact: bool,
}

impl Options {
    /// Bytes that all files may become.
    fn bytes(&self) -> usize {
        self.most * self.segment
    }
}

/// Figures at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of all files.
    pub bytes: usize,
    /// Bytes that they may become.
    pub most: usize,
}

/// See the module. It belongs to one process, until it is dropped.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    options: Options,
    /// Never null.
    current: Atomic<Arc<Segment>>,
    wants_next: AtomicBool,
    /// Whether the room that is left in the current segment is only for what has to be appended anyway: for its sake the journal is
    /// larger than it may become, or there may be no room on the disk for a segment more.
    reserved: AtomicBool,
    /// The highest of all.
    mark: AtomicU64,
    /// Likewise.
    stored: AtomicU64,
    files: Mutex<Files>,
    /// Held while a file is made.
    making: Mutex<()>,
    /// Held while files are removed.
    forgetting: Mutex<()>,
    lock: Lock,
}

#[derive(Debug)]
struct Files {
    /// Of an earlier life, still to be kept, oldest first.
    old: Vec<Old>,
    /// Full, oldest first.
    sealed: VecDeque<Sealed>,
    spares: VecDeque<Arc<Segment>>,
    next: u64,
    closed: bool,
    /// Why there is no spare one, if that is the disk's fault.
    refusal: Option<Refusal>,
}

#[derive(Clone, Debug)]
struct Old {
    found: Found,
    /// Of the file: it may have been made when segments had another size.
    bytes: usize,
    /// Whether it is on the disk: the process that wrote it may have died before it was.
    synced: bool,
}

#[derive(Debug)]
struct Sealed {
    segment: Arc<Segment>,
    synced: bool,
}

/// What room is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Ordinary,
    /// So that others can be forgotten. It may take the journal past its bound, but not the last segment that could be made.
    Again,
    /// Without it commits could not go on, and nothing would ever be forgotten. For that the last segment is kept that could be made.
    Necessary,
}

/// Room for several records, which are written one by one.
#[derive(Debug, Default)]
pub struct Reservation {
    rooms: VecDeque<Room>,
}

#[derive(Debug)]
struct Room {
    segment: Arc<Segment>,
    start: usize,
    next: usize,
    end: usize,
}

impl Journal {
    /// Opens the journal in a directory, which is made if it is not there, and begins a new segment. What
    /// was appended in an earlier life is kept until [`Journal::forget`], and read by [`Journal::reader`].
    ///
    /// # Panics
    ///
    /// If the options are not possible.
    pub fn open(directory: &Path, mut options: Options) -> Result<Self, OpenError> {
        assert!(options.segment.is_multiple_of(UNIT) && options.most >= 2);
        let refused = |refused| match refused {
            Refused::InUse => OpenError::InUse(directory.to_owned()),
            Refused::NotOurs(why) => OpenError::NotOurs(directory.to_owned(), why),
            Refused::NotWritable(error) => OpenError::io(directory, error),
            Refused::Io(path, error) => OpenError::io(&path, error),
        };
        create(directory).map_err(refused)?;
        let lock = Lock::take(directory).map_err(refused)?;
        let io = |error| OpenError::io(directory, error);
        let (mut old, header) = segments(directory, options.id_width)?;
        if let Some(header) = header {
            options.owner = header.owner;
        }
        let mark = header.map_or(0, |header| header.mark);
        let stored = header.map_or(0, |header| header.stored);
        let next = old.last().map_or(0, |old| old.found.0 + 1);
        let first = Segment::create(directory, next, &options).map_err(io)?;
        let first = Arc::new(first);
        first.mark(mark);
        first.mark_stored(stored);
        // Lives that end before anything is appended leave no more files, however many they are.
        let mut synced = false;
        while let Some(Old { found, .. }) = old.last()
            && is_blank(&found.1).map_err(io)?
        {
            // What its header has that counts is in the new one.
            if !mem::replace(&mut synced, true) {
                first.sync(true).map_err(io)?;
            }
            fs::remove_file(&found.1).map_err(io)?;
            old.pop();
        }
        let files = Files {
            old,
            sealed: VecDeque::new(),
            spares: VecDeque::new(),
            next: next + 1,
            closed: false,
            refusal: None,
        };
        // Then it is only for what has to be appended, or each life would take the journal further past its bound.
        let is_past = files.bytes(&options) > options.bytes();
        let journal = Journal {
            directory: directory.to_owned(),
            options,
            current: Atomic::new(first),
            wants_next: AtomicBool::new(false),
            reserved: AtomicBool::new(is_past),
            mark: AtomicU64::new(mark),
            stored: AtomicU64::new(stored),
            files: Mutex::new(files),
            making: Mutex::new(()),
            forgetting: Mutex::new(()),
            lock,
        };
        // If there is no room for it now, that is said when it is needed.
        let _ = journal.prepare();
        Ok(journal)
    }

    /// Whose journal it is: of the options with which it was opened when it was empty.
    pub fn owner(&self) -> u64 {
        self.options.owner
    }

    /// Writes down a number that outlives all segments, if it is higher than all before.
    pub fn mark(&self, value: u64) {
        let value = self.mark.fetch_max(value, SeqCst).max(value);
        self.write_mark(|segment| segment.mark(value));
    }

    /// The same with a number that says how much the store has confirmed. It survives the death of the process, and
    /// may be lost with the power.
    pub fn mark_stored(&self, value: u64) {
        let value = self.stored.fetch_max(value, SeqCst).max(value);
        self.write_mark(|segment| segment.mark_stored(value));
    }

    /// Writes the highest of both into the current segment.
    fn mark_again(&self) {
        self.mark(0);
        self.mark_stored(0);
    }

    fn write_mark(&self, write: impl Fn(&Segment)) {
        let guard = pin();
        loop {
            let segment = self.current(&guard);
            write(segment);
            // Who replaces it reads the number after that, so one of the two writes it to the next.
            if Arc::ptr_eq(segment, self.current(&guard)) {
                return;
            }
        }
    }

    /// The highest of those numbers, 0 if none.
    pub fn highest_stored(&self) -> u64 {
        self.stored.load(SeqCst)
    }

    /// The highest number that was ever marked, 0 if none.
    pub fn highest_mark(&self) -> u64 {
        self.mark.load(SeqCst)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        let files = self.files.lock();
        fail_point!();
        files
    }

    /// What was appended in an earlier life.
    pub fn reader(&self) -> Reader {
        let files = self.files();
        let old = files.old.iter().map(|old| old.found.clone());
        Reader::new(old.collect())
    }

    #[inline]
    fn current<'g>(&self, guard: &'g Guard) -> &'g Arc<Segment> {
        #[cfg(feature = "shuttle")]
        read_states_sync::step();
        let current = self.current.load(SeqCst, guard);
        // SAFETY: it is never null, and a segment that was replaced is dropped only after everybody
        // who was pinned then has unpinned.
        unsafe { current.deref() }
    }

    /// Appends a record. When this returns, it survives the death of the process.
    #[inline]
    pub fn append(&self, tag: Tag, words: &[u64], guard: &Guard) -> Result<(), Refusal> {
        let (segment, at) = self.take(Which::Ordinary, size(words.len()), guard)?;
        segment.write(at, tag, words);
        if self.options.exact {
            segment.written(at);
        }
        Ok(())
    }

    /// Takes room, in the next segment if there is not enough in this one, and if what is left is not for others.
    #[inline]
    fn take<'g>(
        &self,
        which: Which,
        bytes: usize,
        guard: &'g Guard,
    ) -> Result<(&'g Arc<Segment>, usize), Refusal> {
        loop {
            let segment = self.current(guard);
            // After that: whoever sees the segment that is reserved sees this too.
            if which != Which::Necessary && self.reserved.load(Relaxed) {
                let files = self.files();
                if which == Which::Ordinary || files.may_be_last(0, &self.options) {
                    return Err(files.refused());
                }
            }
            if let Some(at) = segment.take(bytes) {
                return Ok((segment, at));
            }
            self.go_on(segment.sequence, which, guard)?;
        }
    }

    /// Whether [`Journal::prepare`] has something to do.
    #[inline]
    pub fn wants_next(&self) -> bool {
        self.wants_next.load(Relaxed)
    }

    /// Takes room for records with so many words each, which may be written in any order: all of it or none.
    pub fn reserve(
        &self,
        words: impl Iterator<Item = usize>,
        guard: &Guard,
    ) -> Result<Reservation, Refusal> {
        // In another order something may be left at the end of each room.
        const LEFT: usize = size(MAX_WORDS);
        // A segment has room for a share of a very large one.
        let most = (self.options.segment - HEADER) / 4;
        let (mut rooms, mut wanted) = (vec![], LEFT);
        for words in words {
            if wanted + size(words) > most {
                rooms.push(wanted);
                wanted = LEFT;
            }
            wanted += size(words);
        }
        if rooms.len() > 4 * (self.options.most - 1) {
            // Nor if there was nothing else in it.
            return Err(Refusal::Full);
        }
        if !rooms.is_empty() {
            // So large that the caller may wait, and should not take in vain what others could use.
            self.prepare_segments(rooms.len().div_ceil(4) + SPARES)
                .map_err(|error| refusal(&error))?;
            let files = self.files();
            if rooms.len() > 4 * files.spares.len() {
                return Err(files.refused());
            }
        }
        rooms.push(wanted);
        let mut reservation = Reservation::default();
        for bytes in rooms {
            // What was taken says that there is nothing in it, when it is given up.
            fail_point!();
            reservation.rooms.push_back(self.room(bytes, guard)?);
        }
        Ok(reservation)
    }

    fn room(&self, bytes: usize, guard: &Guard) -> Result<Room, Refusal> {
        let (segment, start) = self.take(Which::Ordinary, bytes, guard)?;
        Ok(Room {
            segment: Arc::clone(segment),
            start,
            next: start,
            end: start + bytes,
        })
    }

    /// The next segment takes the place of one that is full.
    #[cold]
    fn go_on(&self, full: u64, which: Which, guard: &Guard) -> Result<(), Refusal> {
        let mut files = self.files();
        let segment = self.current(guard);
        if segment.sequence != full {
            return Ok(());
        }
        let next = files.take_next(which, &self.options)?;
        self.wants_next.store(true, Relaxed);
        files.sealed.push_back(Sealed {
            segment: Arc::clone(segment),
            synced: false,
        });
        if files.may_be_last(0, &self.options) {
            self.reserved.store(true, Relaxed);
        }
        let replaced = self.current.swap(Owned::new(next), SeqCst, guard);
        // SAFETY: nobody finds it any more, and who has it is pinned.
        unsafe { guard.defer_destroy(replaced) };
        // After the swap: who marks looks at the current segment last, see there.
        self.mark_again();
        // Else it may wait for more to do, and the segment's memory with it.
        guard.flush();
        Ok(())
    }

    /// Goes on with the next segment, so that this one can be forgotten some time. Does nothing if there
    /// is nothing in it, or no next one. While no more can be made, the last is taken only if this one is full.
    pub fn seal(&self, guard: &Guard) {
        let which = match self.is_full(guard) {
            true => Which::Necessary,
            false => Which::Ordinary,
        };
        self.seal_for(which, guard);
    }

    /// Whether somebody has found no room in the current segment.
    pub fn is_full(&self, guard: &Guard) -> bool {
        self.current(guard).is_full()
    }

    fn seal_for(&self, which: Which, guard: &Guard) {
        let segment = self.current(guard);
        if !segment.is_empty() {
            let sequence = segment.sequence;
            // Whoever has it may go on writing to it, as if it was full.
            let _ = self.go_on(sequence, which, guard);
        }
    }

    /// The number of the newest segment that nothing is appended to any more, except into room that was taken.
    pub fn newest_sealed(&self) -> Option<u64> {
        let files = self.files();
        let sealed = files.sealed.back().map(|sealed| sealed.segment.sequence);
        sealed.or(files.old.last().map(|old| old.found.0))
    }

    /// Makes the segments that will be next, if there are none and the bound allows it. May take some
    /// milliseconds for each.
    pub fn prepare(&self) -> io::Result<()> {
        self.prepare_segments(SPARES)
    }

    fn prepare_segments(&self, wanted: usize) -> io::Result<()> {
        let _making = self.making.lock();
        loop {
            let mut files = self.files();
            // Whatever comes of it, who appends need not ask for it again.
            self.wants_next.store(false, Relaxed);
            let is_at_bound = files.is_at_bound(&self.options);
            if is_at_bound || files.spares.len() >= SPARES {
                files.refusal = None;
            }
            let is_past = files.bytes(&self.options) > self.options.bytes();
            let is_within = !is_past && files.refusal.is_none();
            if is_within && (is_at_bound || !files.spares.is_empty()) {
                self.reserved.store(false, Relaxed);
            }
            if files.closed || files.spares.len() >= wanted || is_at_bound {
                return Ok(());
            }
            drop(files);
            self.make()?;
        }
    }

    /// Makes a spare segment. For who holds `making`.
    fn make(&self) -> io::Result<()> {
        let sequence = {
            let mut files = self.files();
            files.next += 1;
            files.next - 1
        };
        let made = Segment::create(&self.directory, sequence, &self.options);
        // Should it not come to be known, nobody would remove its file in this life.
        let made = scopeguard::guard(made, |made| {
            if let Ok(made) = made {
                let _ = fs::remove_file(made.file().1);
            }
        });
        let mut files = self.files();
        match ScopeGuard::into_inner(made) {
            Ok(made) => {
                files.spares.push_back(Arc::new(made));
                files.refusal = None;
                Ok(())
            }
            Err(error) => {
                files.refusal = Some(refusal(&error));
                if files.spares.is_empty() {
                    self.reserved.store(true, Relaxed);
                }
                Err(error)
            }
        }
    }

    /// Waits until everything that was appended before is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        // Who was to write them may have panicked, and after this the segments that have them may go.
        self.mark_again();
        self.sync_old()?;
        let (sealed, current): (Vec<_>, _) = {
            // Together, for another one may become current between the two.
            let mut files = self.files();
            let sealed = files.sealed.iter_mut();
            let left = sealed.filter(|sealed| !sealed.synced || sealed.segment.is_changed());
            let left = left.map(|sealed| {
                // Until that is done, another sync has to wait for it too.
                sealed.synced = false;
                Arc::clone(&sealed.segment)
            });
            let left = left.collect();
            (left, Arc::clone(self.current(&pin())))
        };
        let mut done = vec![];
        for segment in &sealed {
            if !segment.sync(false)? {
                done.push(segment.sequence);
            }
        }
        current.sync(true)?;
        for sealed in &mut self.files().sealed {
            sealed.synced |= done.contains(&sealed.segment.sequence);
        }
        Ok(())
    }

    /// What an earlier life left, before anything that is made of it gets elsewhere.
    fn sync_old(&self) -> io::Result<()> {
        let left: Vec<_> = {
            let files = self.files();
            let left = files.old.iter().filter(|old| !old.synced);
            left.map(|old| old.found.clone()).collect()
        };
        for (sequence, path) in left {
            sync_file(&path)?;
            for old in &mut self.files().old {
                old.synced |= old.found.0 == sequence;
            }
        }
        Ok(())
    }

    /// The number of the oldest segment that room can be taken in now.
    pub fn oldest_open(&self, guard: &Guard) -> u64 {
        self.current(guard).sequence
    }

    /// Syncs, and lets go of the directory, for whoever opens it next. If `forget`, no record is left in it. Nothing
    /// may be appended any more: it would be lost.
    pub fn close(&self, forget: bool) -> io::Result<()> {
        let forgotten = if forget { self.forget_all() } else { Ok(()) };
        let synced = self.sync();
        // Who makes a segment now has made it, and nobody begins another.
        let _making = self.making.lock();
        let mut left = {
            let mut files = self.files();
            files.closed = true;
            mem::take(&mut files.spares)
        };
        let current = Arc::clone(self.current(&pin()));
        if current.is_empty() && self.is_marked_before() {
            // There are others, which have all that counts.
            left.push_back(current);
        }
        let removed = left.iter().map(|segment| fs::remove_file(segment.file().1));
        let removed = removed.fold(Ok(()), Result::and);
        let released = self.lock.release();
        forgotten.and(synced).and(removed).and(released)
    }

    /// Whether a segment of an earlier life has the highest marks as well.
    fn is_marked_before(&self) -> bool {
        let old = self.files().old.clone();
        let headers = old.iter();
        let mut headers =
            headers.filter_map(|old| read_header(&old.found.1, self.options.id_width).ok()?);
        let (mark, stored) = (self.highest_mark(), self.highest_stored());
        headers.any(|header| header.mark >= mark && header.stored >= stored)
    }

    fn forget_all(&self) -> io::Result<()> {
        // As in `sync`.
        self.mark_again();
        let guard = pin();
        for _ in 0..2 {
            if let Some(sealed) = self.newest_sealed() {
                // What the header has that counts is in a later one, and has to be on the disk.
                self.sync()?;
                self.forget(sealed)?;
            }
            // Now there is room for another one.
            self.prepare_segments(1)?;
            self.seal_for(Which::Necessary, &guard);
        }
        Ok(())
    }

    /// Appends a record even if that takes the journal past its bound, and waits for the disk if it must. The next sync has it.
    pub fn append_anyway(&self, tag: Tag, words: &[u64], guard: &Guard) -> io::Result<()> {
        while self
            .append_for(Which::Necessary, tag, words, guard)
            .is_err()
        {
            self.make_for(Which::Necessary)?;
        }
        Ok(())
    }

    /// Appends a record again that the journal has already, so that the segment with the first can be forgotten. The next sync
    /// has it. Also past the bound, but it makes no file: where it is [`Refusal::Full`] that is [`Journal::make_anyway`]'s.
    pub fn append_again(&self, tag: Tag, words: &[u64], guard: &Guard) -> Result<(), Refusal> {
        self.append_for(Which::Again, tag, words, guard)
    }

    fn append_for(
        &self,
        which: Which,
        tag: Tag,
        words: &[u64],
        guard: &Guard,
    ) -> Result<(), Refusal> {
        let (segment, at) = self.take(which, size(words.len()), guard)?;
        segment.write(at, tag, words);
        segment.written(at);
        Ok(())
    }

    /// Makes a segment for what is appended again, if none is ready, even if that takes the journal past its bound.
    pub fn make_anyway(&self) -> io::Result<()> {
        self.make_for(Which::Again)
    }

    fn make_for(&self, which: Which) -> io::Result<()> {
        let _making = self.making.lock();
        let files = self.files();
        if files.has_next(which, &self.options) {
            return Ok(());
        }
        if files.is_at_bound(&self.options) {
            // Before it is there: else each of these would let others in, for a whole segment.
            self.reserved.store(true, Relaxed);
        }
        drop(files);
        self.make()
    }

    /// Removes segments of an earlier life, which the reader found to have no records.
    pub fn forget_empty(&self, reader: &mut Reader) -> io::Result<()> {
        // What their headers have that counts is in the current one.
        self.sync()?;
        for (sequence, path) in reader.pass_over_empty() {
            remove(&path)?;
            self.files().old.retain(|old| old.found.0 != sequence);
        }
        Ok(())
    }

    /// Removes the segments up to this one, which must be sealed.
    pub fn forget(&self, sequence: u64) -> io::Result<()> {
        let _forgetting = self.forgetting.lock();
        loop {
            let oldest = self.files().oldest();
            let Some((_, path)) = oldest.filter(|(number, _)| *number <= sequence) else {
                return Ok(());
            };
            // Without the lock, which those need who append: it may take a while.
            remove(&path)?;
            let mut files = self.files();
            let gone = if files.old.is_empty() {
                files.sealed.pop_front()
            } else {
                files.old.remove(0);
                None
            };
            drop(files);
            // Its memory is given back here.
            drop(gone);
        }
    }

    /// Figures at a glance.
    pub fn figures(&self) -> Figures {
        Figures {
            bytes: self.files().bytes(&self.options),
            most: self.options.bytes(),
        }
    }
}

impl Files {
    fn oldest(&self) -> Option<Found> {
        let sealed = || self.sealed.front().map(|sealed| sealed.segment.file());
        let old = self.old.first().map(|old| old.found.clone());
        old.or_else(sealed)
    }

    fn bytes(&self, options: &Options) -> usize {
        let old: usize = self.old.iter().map(|old| old.bytes).sum();
        old + (self.sealed.len() + self.spares.len() + 1) * options.segment
    }

    /// Whether the current segment (0), or the next (1), is the last there is, and there may be no room on the disk for another.
    fn may_be_last(&self, spares: usize, options: &Options) -> bool {
        self.spares.len() == spares && (self.refusal.is_some() || !self.is_at_bound(options))
    }

    /// Whether a spare segment may be taken for this.
    fn has_next(&self, which: Which, options: &Options) -> bool {
        let is_kept = which != Which::Necessary && self.may_be_last(1, options);
        !self.spares.is_empty() && !is_kept
    }

    fn take_next(&mut self, which: Which, options: &Options) -> Result<Arc<Segment>, Refusal> {
        let next = self
            .has_next(which, options)
            .then(|| self.spares.pop_front());
        next.flatten().ok_or(self.refused())
    }

    /// Why nothing can be appended.
    fn refused(&self) -> Refusal {
        self.refusal.unwrap_or(Refusal::Full)
    }

    /// Whether the bound lets no segment more be made.
    fn is_at_bound(&self, options: &Options) -> bool {
        self.bytes(options) + options.segment > options.bytes()
    }
}

impl Reservation {
    /// Writes the next record. It must have as many words as room was taken for.
    ///
    /// # Panics
    ///
    /// If there is no room left.
    pub fn append(&mut self, tag: Tag, words: &[u64]) {
        let bytes = size(words.len());
        while let Some(room) = self.rooms.front_mut() {
            if room.next + bytes <= room.end {
                room.segment.write(room.next, tag, words);
                room.next += bytes;
                return;
            }
            self.leave();
        }
        panic!("a record that no room was taken for");
    }

    fn leave(&mut self) {
        if let Some(room) = self.rooms.pop_front() {
            let mut at = room.next;
            // So that what stays empty does not look like something that was lost.
            while at < room.end {
                let words = ((room.end - at) / 8 - 1).min(MAX_WORDS);
                room.segment.write(at, FILLER, &[0; MAX_WORDS][..words]);
                at += size(words);
            }
            room.segment.written(room.start);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        while !self.rooms.is_empty() {
            self.leave();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let current = mem::replace(&mut self.current, Atomic::null());
        // SAFETY: `&mut self` means that nobody else has it, and it was put there by `Atomic::new` or
        // `Owned::new`.
        drop(unsafe { current.try_into_owned() });
    }
}

/// Waits until a file that nobody writes to is on the disk. If it is gone, nobody needs it any more.
fn sync_file(path: &Path) -> io::Result<()> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    file.sync_data().inspect_err(|_| {
        // As where a segment's sync fails: what could not be written is to be written again.
        let _ = fs::read(path).and_then(|bytes| file.write_all_at(&bytes, 0));
    })
}

/// Removes a file. If it is gone, whoever removed it got no further.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn refusal(error: &io::Error) -> Refusal {
    if is_full(error) {
        Refusal::NoSpace
    } else {
        Refusal::Failed
    }
}

/// The segments in a directory, oldest first, and what their headers say: the owner, and the highest marks.
fn segments(directory: &Path, id_width: u8) -> Result<(Vec<Old>, Option<Header>), OpenError> {
    let io = |error| OpenError::io(directory, error);
    let (mut found, mut said) = (vec![], None::<Header>);
    for entry in fs::read_dir(directory).map_err(io)? {
        let file = PathBuf::from(entry.map_err(io)?.file_name());
        let number = file
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        let Some(number) = number.filter(|_| file.extension().is_some_and(|it| it == EXTENSION))
        else {
            continue;
        };
        let path = path(directory, number);
        if let Some(header) = read_header(&path, id_width)? {
            let before = said.unwrap_or(header);
            said = Some(Header {
                owner: header.owner,
                mark: before.mark.max(header.mark),
                stored: before.stored.max(header.stored),
            });
        }
        let bytes = fs::metadata(&path).map_err(|error| OpenError::io(&path, error))?;
        found.push(Old {
            bytes: bytes.len() as usize,
            found: (number, path),
            synced: false,
        });
    }
    found.sort_unstable_by_key(|old| old.found.0);
    Ok((found, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = [1, 2, 3];

    const OPTIONS: Options = Options {
        segment: UNIT,
        most: 100,
        id_width: 8,
        owner: 1,
        exact: true,
    };

    #[test]
    fn who_may_take_the_last_segment_makes_none_and_who_may_not_makes_one() {
        let root = tempfile::TempDir::new().unwrap();
        let journal = Journal::open(root.path(), OPTIONS).unwrap();
        while journal.files().spares.len() > 1 {
            journal.append_anyway(TAG, &[0], &pin()).unwrap();
        }
        let spares = || journal.files().spares.len();
        let again = || journal.append_again(TAG, &[0], &pin());
        while again().is_ok() {}
        journal.make_for(Which::Necessary).unwrap();
        assert_eq!((spares(), again()), (1, Err(Refusal::Full)));
        journal.make_for(Which::Again).unwrap();
        assert_eq!((spares(), again()), (2, Ok(())));
    }
}
