//! A packed block: up to 512 read states of one user, in one allocation with what its owner keeps in
//! front of them.
//!
//! ```text
//! head | length, room, … | for room for `c` states with `n` counters each:
//!
//! | dirty bits | in-flight bits | tags | rows of 11 + 4n bytes, ascending by channel number            |
//! | ⌈c/8⌉      | ⌈c/8⌉          | c    | c × (rest of the number: 3, last message: 8, counters: 4 each) |
//! ```
//!
//! The tag of a state is the highest byte of its channel's number. The directory takes that byte from
//! the channel's hash, so tags tell almost all states of a user apart, and they are evenly spread, so
//! that one knows about where a state is before the block is read. The search reads the tags, which are
//! in the lines of the head or next to them, and one row: three lines of the cache, of the 14 that a user with 50
//! states takes. A state with one counter takes 16 bytes and 2 bits.
//!
//! A state is *dirty* when it changed since its last snapshot, and *in flight* while a commit of such a
//! snapshot is under way; it can be both, and then stays dirty when the commit is done.
//!
//! The pointer to a block says in the bits that are 0 in every address how many cache lines it
//! takes, so that those that are needed can be fetched all at once, before its length is known.

use std::alloc::{Layout, handle_alloc_error};
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use memchr::memchr;

use crate::id::Id;
use crate::prefetch::prefetch;
use crate::read_state::{MAX_COUNTERS, ReadState};
use crate::slabs::{LARGEST, LINE, Slabs};

/// Most states a block holds. Bounds what one insertion moves: 8 KB with one counter.
pub const MAX_BLOCK: usize = 512;

/// Lines of a block that are fetched ahead, all of them or the first.
const FETCHED: usize = 20;

/// Lines that are fetched around the place where a state is expected.
const AROUND: usize = 4;

/// Bits of a channel number that are in the row; the others are the tag.
const REST_BITS: u32 = 24;

/// Bytes of them.
const REST: usize = REST_BITS as usize / 8;

/// Where the counters begin in a row.
const COUNTERS_AT: usize = REST + size_of::<Id>();

/// See the module.
pub struct Block<H = ()> {
    /// With the number of lines in the low bits, at most `LINE - 1`.
    tagged: NonNull<Inner<H>>,
}

/// What is at the address of a block; bits, tags and rows follow.
#[repr(C, align(8))]
struct Inner<H> {
    head: H,
    len: u16,
    room: u16,
    /// Where the rows begin in the data.
    rows_at: u16,
    row_size: u8,
    counters: u8,
}

// SAFETY: a block owns its memory, which nothing else points to, like a box of its head and bytes.
unsafe impl<H: Send> Send for Block<H> {}
// SAFETY: as above; through a shared block nothing changes but what the head lets change.
unsafe impl<H: Sync> Sync for Block<H> {}

/// Bytes that one bit for each state takes.
const fn bit_bytes(room: usize) -> usize {
    room.div_ceil(8)
}

/// Where the tags begin.
const fn tags_at(room: usize) -> usize {
    2 * bit_bytes(room)
}

/// Where the rows begin.
const fn rows_at(room: usize) -> usize {
    tags_at(room) + room
}

/// Bytes of a row.
const fn row_size(counters: usize) -> usize {
    COUNTERS_AT + 4 * counters
}

/// Bytes of everything after the head.
const fn data_size(room: usize, counters: usize) -> usize {
    rows_at(room) + room * row_size(counters)
}

/// Where the data begins.
const fn data_at<H>() -> usize {
    let largest = size_of::<Inner<H>>() + data_size(MAX_BLOCK, MAX_COUNTERS);
    assert!(align_of::<Inner<H>>() <= LINE && largest <= LARGEST);
    size_of::<Inner<H>>()
}

fn layout<H>(room: usize, counters: usize) -> Layout {
    let bytes = Slabs::size(data_at::<H>() + data_size(room, counters));
    Layout::from_size_align(bytes, LINE).expect("the size is bounded, see `data_at`")
}

/// The tag of a channel number.
#[inline]
fn tag(number: u32) -> u8 {
    (number >> REST_BITS) as u8
}

/// The number in bytes, of which the first three are in the row.
#[inline]
fn rest(number: u32) -> [u8; REST] {
    let [first, second, third, _tag] = number.to_le_bytes();
    [first, second, third]
}

#[inline]
fn number(tag: u8, row: &[u8]) -> u32 {
    let bytes = row[..4].try_into();
    // The last one of them is of the message.
    let rest = u32::from_le_bytes(bytes.expect("a row is longer")) & ((1 << REST_BITS) - 1);
    u32::from(tag) << REST_BITS | rest
}

#[inline]
fn message(row: &[u8]) -> Id {
    let bytes = row[REST..COUNTERS_AT].try_into();
    Id::from_ne_bytes(bytes.expect("as many as an id has"))
}

#[inline]
fn counter(row: &[u8], counter: usize) -> u32 {
    let at = COUNTERS_AT + 4 * counter;
    let bytes = row[at..at + 4].try_into();
    u32::from_ne_bytes(bytes.expect("as many as a counter has"))
}

#[inline]
fn state(row: &[u8]) -> ReadState {
    // Element by element: an array that is filled in a loop goes through memory.
    let other = |at| match row.len() > COUNTERS_AT + 4 * at {
        true => counter(row, at),
        false => 0,
    };
    ReadState {
        last_message_id: message(row),
        counters: [counter(row, 0), other(1), other(2), other(3)],
    }
}

#[inline]
fn set_state(row: &mut [u8], state: &ReadState) {
    row[REST..COUNTERS_AT].copy_from_slice(&state.last_message_id.to_ne_bytes());
    let counters = row[COUNTERS_AT..].as_chunks_mut().0;
    for (bytes, counter) in counters.iter_mut().zip(state.counters) {
        *bytes = counter.to_ne_bytes();
    }
}

impl<H> Block<H> {
    #[inline]
    fn at(&self) -> NonNull<Inner<H>> {
        let address = |tagged: usize| tagged & !(LINE - 1);
        // SAFETY: the tag is less than a line, and no memory lies in the first one.
        unsafe { NonNull::new_unchecked(self.tagged.as_ptr().map_addr(address)) }
    }

    #[inline]
    fn inner(&self) -> &Inner<H> {
        // SAFETY: the block owns it, from `with_room` until it is dropped.
        unsafe { self.at().as_ref() }
    }

    #[inline]
    fn inner_mut(&mut self) -> &mut Inner<H> {
        // SAFETY: as in `inner`, and nobody else has the block.
        unsafe { self.at().as_mut() }
    }

    /// How many lines of the cache it takes; of a large block so many as the pointer can say.
    #[inline]
    fn lines(&self) -> usize {
        self.tagged.addr().get() % LINE
    }
}

impl<H: Default> Block<H> {
    /// Bytes a block with this room takes.
    fn bytes_for(room: usize, counters: usize) -> usize {
        layout::<H>(room, counters).size()
    }

    /// Room to take for `len` states: what the memory has that they take.
    fn room_for(len: usize, counters: usize) -> usize {
        let bytes = Self::bytes_for(len, counters) - data_at::<H>();
        // A state takes its tag and its row, and two bits.
        let mut room = (bytes / (1 + row_size(counters))).min(MAX_BLOCK);
        while data_size(room, counters) > bytes {
            room -= 1;
        }
        room
    }

    /// An empty block with room for `len` states, and perhaps some more.
    pub fn with_room(len: usize, counters: usize, head: H) -> Self {
        assert!(len <= MAX_BLOCK && (1..=MAX_COUNTERS).contains(&counters));
        let room = Self::room_for(len, counters);
        let layout = layout::<H>(room, counters);
        let Ok(memory) = Slabs.allocate(layout) else {
            handle_alloc_error(layout);
        };
        let at: NonNull<Inner<H>> = memory.cast();
        // SAFETY: the memory is new, and large and aligned enough for the head, and after
        // it for the data, which is 0 from then on.
        unsafe {
            at.write(Inner {
                head,
                len: 0,
                room: room as u16,
                rows_at: rows_at(room) as u16,
                row_size: row_size(counters) as u8,
                counters: counters as u8,
            });
            let data = at.cast::<u8>().add(data_at::<H>());
            data.write_bytes(0, data_size(room, counters));
        }
        let lines = (layout.size() / LINE).min(LINE - 1);
        // Memory of the slabs is aligned to a line.
        let tagged = at.map_addr(|address| address | lines);
        Block { tagged }
    }

    /// So many bytes from `start` on of what follows the head.
    #[inline]
    fn data(&self, start: usize, len: usize) -> &[u8] {
        debug_assert!(start + len <= data_size(self.room(), self.counters()));
        // SAFETY: these are bytes that there is room for. The callers see to it, with assertions that stay in a release:
        // `row`, `rows_from`, `columns` and `set_dirty` on what is below the length or the room; tags and bits are as many as
        // those, and the length is never above the room. All of it is written, since `with_room`.
        unsafe {
            let at = self.at().cast::<u8>().add(data_at::<H>() + start);
            std::slice::from_raw_parts(at.as_ptr(), len)
        }
    }

    #[inline]
    fn data_mut(&mut self, start: usize, len: usize) -> &mut [u8] {
        debug_assert!(start + len <= data_size(self.room(), self.counters()));
        // SAFETY: as in `data`, and nobody else has the block.
        unsafe {
            let at = self.at().cast::<u8>().add(data_at::<H>() + start);
            std::slice::from_raw_parts_mut(at.as_ptr(), len)
        }
    }

    /// The tags of the states.
    #[inline]
    fn tags(&self) -> &[u8] {
        let at = self.rows_at() - self.room();
        self.data(at, self.len())
    }

    #[inline]
    fn rows_at(&self) -> usize {
        usize::from(self.inner().rows_at)
    }

    #[inline]
    fn row_size(&self) -> usize {
        usize::from(self.inner().row_size)
    }

    /// The rows of the states from `start` on.
    fn rows_from(&self, start: usize) -> &[u8] {
        assert!(start <= self.len());
        let (at, size) = (self.rows_at(), self.row_size());
        self.data(at + start * size, (self.len() - start) * size)
    }

    #[inline]
    fn row(&self, index: usize) -> &[u8] {
        assert!(index < self.len());
        let (at, size) = (self.rows_at(), self.row_size());
        self.data(at + index * size, size)
    }

    #[inline]
    fn row_mut(&mut self, index: usize) -> &mut [u8] {
        assert!(index < self.len());
        let (at, size) = (self.rows_at(), self.row_size());
        self.data_mut(at + index * size, size)
    }

    /// States in the block.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.inner().len)
    }

    #[inline]
    fn room(&self) -> usize {
        usize::from(self.inner().room)
    }

    /// Counters of a state.
    #[inline]
    pub fn counters(&self) -> usize {
        usize::from(self.inner().counters)
    }

    /// Whether nothing more fits, whatever the room.
    pub fn is_full(&self) -> bool {
        self.len() == MAX_BLOCK
    }

    /// Bytes of the allocation.
    pub fn bytes(&self) -> usize {
        Self::bytes_for(self.room(), self.counters())
    }

    /// Bytes by which the allocation grows when one more state is inserted.
    pub fn growth(&self) -> usize {
        if self.len() < self.room() {
            0
        } else {
            Self::bytes_for(self.len() + 1, self.counters()) - self.bytes()
        }
    }

    /// Bytes by which the allocation grows when there is no room left.
    pub fn next_growth(&self) -> usize {
        let room = (self.room() + 1).min(MAX_BLOCK);
        Self::bytes_for(room, self.counters()) - self.bytes()
    }

    #[inline]
    fn prefetch_lines(&self, lines: Range<usize>) {
        let [mut at, end] =
            [lines.start, lines.end].map(|line| self.at().as_ptr().wrapping_byte_add(line * LINE));
        while at < end {
            prefetch(at);
            at = at.wrapping_byte_add(LINE);
        }
    }

    /// Lines of the head, the bits and the tags.
    #[inline]
    fn front(&self) -> usize {
        // With one counter they are a thirteenth of the data, and the head.
        (self.lines() + 21) / 13
    }

    /// Has the processor fetch all that is read of a state whose channel number has this highest byte: its lines
    /// at once, not one after the other as the search comes to need them.
    #[inline]
    pub fn prefetch_about(&self, tag: u8) {
        let (lines, front) = (self.lines(), self.front());
        self.prefetch_lines(0..front);
        if lines == LINE - 1 {
            // Nobody knows where its rows end.
            return;
        }
        // Tags are evenly spread, so that is the middle of where it can be.
        let expected = front + (lines - front.min(lines)) * usize::from(tag) / 256;
        let first = expected.saturating_sub(AROUND / 2).max(front);
        self.prefetch_lines(first..(first + AROUND).min(lines));
    }

    /// The same with the tags alone.
    #[inline]
    pub fn prefetch_tags(&self) {
        self.prefetch_lines(0..self.front());
    }

    /// Has the processor fetch the block, if it is not large.
    #[inline]
    pub fn prefetch(&self) {
        self.prefetch_lines(0..self.lines().min(FETCHED));
    }

    /// Where `number` probably is, if it is, by what the tags say. Has the processor fetch the row there.
    #[inline]
    pub fn guess(&self, number: u32) -> Option<usize> {
        let index = memchr(tag(number), self.tags())?;
        let row = self.row(index);
        prefetch(row.as_ptr());
        // It may lie in two lines.
        prefetch(row.as_ptr().wrapping_add(row.len() - 1));
        Some(index)
    }

    /// The number of the channel of a state.
    #[inline]
    pub fn number(&self, index: usize) -> u32 {
        number(self.tags()[index], self.row(index))
    }

    /// Whether the first state's number is at most this one; false for a block without states.
    #[inline]
    pub fn begins_by(&self, number: u32) -> bool {
        match self.tags().first() {
            None => false,
            // The row is another line.
            Some(first) if *first != tag(number) => *first < tag(number),
            Some(_) => self.number(0) <= number,
        }
    }

    /// The channel numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..self.len()).map(|index| self.number(index))
    }

    /// Where `number` is, if it is.
    #[inline]
    pub fn find(&self, number: u32) -> Option<usize> {
        let first = memchr(tag(number), self.tags())?;
        // Mostly no other has that tag.
        if self::number(tag(number), self.row(first)) == number {
            return Some(first);
        }
        self.find_from(first, number)
    }

    /// Where `number` is, or where it belongs.
    pub fn search(&self, number: u32) -> Result<usize, usize> {
        let first = self.tags().partition_point(|other| *other < tag(number));
        self.search_from(first, number)
    }

    #[cold]
    fn find_from(&self, first: usize, number: u32) -> Option<usize> {
        self.search_from(first, number).ok()
    }

    /// Among those with the same tag, of which the first one is given.
    fn search_from(&self, first: usize, number: u32) -> Result<usize, usize> {
        let same = self.tags()[first..].partition_point(|other| *other == tag(number));
        let (mut low, mut high) = (first, first + same);
        while low < high {
            let middle = (low + high) / 2;
            match self.number(middle).cmp(&number) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Sum of the values of one counter.
    pub fn total(&self, counter: usize) -> u64 {
        assert!(counter < self.counters());
        let rows = self.rows_from(0).chunks_exact(self.row_size());
        rows.map(|row| u64::from(self::counter(row, counter))).sum()
    }

    /// The state at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> ReadState {
        assert!(index < self.len());
        state(self.row(index))
    }

    /// The states from `start` on, with their channel numbers.
    pub fn states_from(&self, start: usize) -> impl Iterator<Item = (u32, ReadState)> {
        let rows = self.rows_from(start).chunks_exact(self.row_size());
        let tags = self.tags()[start..].iter();
        rows.zip(tags)
            .map(|(row, tag)| (number(*tag, row), state(row)))
    }

    /// Replaces the values at `index`; says nothing about dirty.
    #[inline]
    pub fn set(&mut self, index: usize, state: &ReadState) {
        set_state(self.row_mut(index), state);
    }

    /// Replaces the state at `index` by what is made of it, if anything is, and marks it as changed.
    #[inline(always)]
    pub fn revise<E>(
        &mut self,
        index: usize,
        make: impl FnOnce(ReadState) -> Result<Option<ReadState>, E>,
    ) -> Result<(), E> {
        let row = self.row_mut(index);
        if let Some(after) = make(state(row))? {
            set_state(row, &after);
            self.set_dirty(index);
        }
        Ok(())
    }

    /// Inserts a clean state at the place [`Block::search`] named. The block must not be full.
    pub fn insert(&mut self, index: usize, number: u32, state: &ReadState) {
        let len = self.len();
        assert!(index <= len && !self.is_full());
        if len == self.room() {
            self.resize(len + 1);
        }
        let (dirty, in_flight) = self.bits_mut();
        open_bit(dirty, index);
        open_bit(in_flight, index);
        let (tags, rows, size) = self.columns(index..len + 1);
        // The last one is empty so far.
        tags.copy_within(..len - index, 1);
        rows.copy_within(..(len - index) * size, size);
        tags[0] = tag(number);
        rows[..REST].copy_from_slice(&rest(number));
        self.inner_mut().len += 1;
        self.set(index, state);
    }

    /// Removes the state at `index`.
    pub fn remove(&mut self, index: usize) {
        let len = self.len();
        assert!(index < len);
        let (dirty, in_flight) = self.bits_mut();
        close_bit(dirty, index);
        close_bit(in_flight, index);
        let (tags, rows, size) = self.columns(index..len);
        tags.copy_within(1.., 0);
        rows.copy_within(size.., 0);
        self.inner_mut().len -= 1;
    }

    /// Tags and rows of some states, or of room for more, and the size of a row.
    fn columns(&mut self, states: Range<usize>) -> (&mut [u8], &mut [u8], usize) {
        let (room, at, size) = (self.room(), self.rows_at(), self.row_size());
        assert!(states.start <= states.end && states.end <= room);
        let data = self.data_mut(at - room, room + room * size);
        let (tags, rows) = data.split_at_mut(room);
        let rows = &mut rows[states.start * size..states.end * size];
        (&mut tags[states], rows, size)
    }

    /// Shrinks a block that is mostly empty.
    pub fn shrink(&mut self) {
        let len = self.len();
        if len * 2 < self.room() && Self::bytes_for(len, self.counters()) < self.bytes() {
            self.resize(len);
        }
    }

    /// Bytes of the allocation of the largest block with these counters.
    pub fn most_bytes(&self) -> usize {
        Self::bytes_for(MAX_BLOCK, self.counters())
    }

    /// Moves the upper half to a new block.
    pub fn split(&mut self) -> Self {
        let upper = self.part(self.len() / 2..self.len());
        let mut lower = self.part(0..self.len() / 2);
        std::mem::swap(&mut lower.inner_mut().head, &mut self.inner_mut().head);
        *self = lower;
        upper
    }

    /// The states in `range` as a block of their own, with nothing in front of them.
    pub fn part(&self, range: Range<usize>) -> Self {
        let mut part = Block::with_room(range.len(), self.counters(), H::default());
        part.copy_states(self, range);
        part
    }

    /// Moves every state of `upper`, whose numbers are all higher, to the end of this one.
    pub fn append(&mut self, upper: &Self) {
        self.reserve(upper.len());
        self.copy_states(upper, 0..upper.len());
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        let len = self.len() + more;
        assert!(len <= MAX_BLOCK);
        if len > self.room() {
            self.resize(len);
        }
    }

    /// Takes the memory that `len` states need, which are as many as there are at least.
    fn resize(&mut self, len: usize) {
        let mut resized = Block::with_room(len, self.counters(), H::default());
        resized.copy_states(self, 0..self.len());
        std::mem::swap(&mut resized.inner_mut().head, &mut self.inner_mut().head);
        *self = resized;
    }

    fn copy_states(&mut self, from: &Self, range: Range<usize>) {
        debug_assert!(
            self.len() == 0
                || range.is_empty()
                || self.number(self.len() - 1) < from.number(range.start)
        );
        assert!(range.end <= from.len());
        let at = self.len();
        let (tags, rows, _size) = self.columns(at..at + range.len());
        tags.copy_from_slice(&from.tags()[range.clone()]);
        let size = from.row_size();
        rows.copy_from_slice(&from.rows_from(range.start)[..range.len() * size]);
        self.inner_mut().len += range.len() as u16;
        for (offset, index) in range.enumerate() {
            if from.is_dirty(index) {
                self.set_dirty(at + offset);
            }
            if from.is_in_flight(index) {
                let (_, in_flight) = self.bits_mut();
                in_flight[(at + offset) / 8] |= 1 << ((at + offset) % 8);
            }
        }
    }

    /// The dirty bits, and the in-flight bits after them.
    #[inline]
    fn bits(&self) -> (&[u8], &[u8]) {
        let bytes = bit_bytes(self.room());
        self.data(0, 2 * bytes).split_at(bytes)
    }

    #[inline]
    fn bits_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        let bytes = bit_bytes(self.room());
        self.data_mut(0, 2 * bytes).split_at_mut(bytes)
    }

    /// Whether the state changed since its last snapshot.
    pub fn is_dirty(&self, index: usize) -> bool {
        bit(self.bits().0, index)
    }

    /// Whether a snapshot of the state is being committed.
    pub fn is_in_flight(&self, index: usize) -> bool {
        bit(self.bits().1, index)
    }

    /// Marks the state as changed.
    #[inline]
    pub fn set_dirty(&mut self, index: usize) {
        assert!(index < self.len());
        self.data_mut(index / 8, 1)[0] |= 1 << (index % 8);
    }

    /// Takes the snapshot of up to `limit` states that are dirty and not in flight: they are no
    /// longer dirty, but in flight. More can be taken into the same snapshot later.
    pub fn snapshot(&mut self, limit: usize, mut take: impl FnMut(u32, ReadState)) -> usize {
        let mut taken = 0;
        for byte in 0..bit_bytes(self.len()) {
            let (dirty, in_flight) = self.bits();
            let mut bits = dirty[byte] & !in_flight[byte];
            while bits != 0 && taken < limit {
                let lowest = bits & bits.wrapping_neg();
                let index = 8 * byte + bits.trailing_zeros() as usize;
                bits ^= lowest;
                let (dirty, in_flight) = self.bits_mut();
                dirty[byte] ^= lowest;
                in_flight[byte] |= lowest;
                take(self.number(index), self.get(index));
                taken += 1;
            }
        }
        taken
    }

    /// Nothing is in flight any more: what was is clean if the commit was `done` and nothing
    /// changed since, else dirty.
    pub fn settle(&mut self, done: bool) {
        let (dirty, in_flight) = self.bits_mut();
        for (dirty, in_flight) in dirty.iter_mut().zip(in_flight) {
            if !done {
                *dirty |= *in_flight;
            }
            *in_flight = 0;
        }
    }

    /// States that are dirty.
    pub fn dirty(&self) -> usize {
        let (dirty, _) = self.bits();
        dirty.iter().map(|byte| byte.count_ones() as usize).sum()
    }
}

impl<H> Deref for Block<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.inner().head
    }
}

impl<H> DerefMut for Block<H> {
    fn deref_mut(&mut self) -> &mut H {
        &mut self.inner_mut().head
    }
}

impl<H> Drop for Block<H> {
    fn drop(&mut self) {
        let Inner { room, counters, .. } = *self.inner();
        let layout = layout::<H>(usize::from(room), usize::from(counters));
        // SAFETY: the block owns its memory, which came with this layout, and its head, which
        // was written once; neither is used again.
        unsafe {
            self.at().drop_in_place();
            Slabs.deallocate(self.at().cast(), layout);
        }
    }
}

impl<H: Default> fmt::Debug for Block<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries((0..self.len()).map(|index| (self.number(index), self.get(index))))
            .finish()
    }
}

#[inline]
fn bit(bytes: &[u8], index: usize) -> bool {
    bytes[index / 8] & 1 << (index % 8) != 0
}

/// Moves the bits from `index` on one up and puts a 0 at `index`. The top bit must be 0.
fn open_bit(bytes: &mut [u8], index: usize) {
    let (first, below) = (index / 8, (1u8 << (index % 8)) - 1);
    for byte in (first + 1..bytes.len()).rev() {
        bytes[byte] = bytes[byte] << 1 | bytes[byte - 1] >> 7;
    }
    bytes[first] = bytes[first] & below | (bytes[first] & !below) << 1;
}

/// Moves the bits above `index` one down.
fn close_bit(bytes: &mut [u8], index: usize) {
    let (first, below) = (index / 8, (1u8 << (index % 8)) - 1);
    bytes[first] = bytes[first] & below | bytes[first] >> 1 & !below;
    for byte in first + 1..bytes.len() {
        bytes[byte - 1] |= bytes[byte] << 7;
        bytes[byte] >>= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::MutexGuard;

    use super::*;
    use proptest::prelude::*;
    use static_assertions::{assert_impl_all, assert_not_impl_any};

    // A block goes from thread to thread, and is shared by them, if what its owner keeps in it may. This does not
    // compile with bounds that are less than what the SAFETY comments argue from, nor with more.
    assert_impl_all!(Block<u8>: Send, Sync);
    assert_impl_all!(Block<Cell<u8>>: Send);
    assert_not_impl_any!(Block<Cell<u8>>: Sync);
    assert_impl_all!(Block<MutexGuard<'static, u8>>: Sync);
    assert_not_impl_any!(Block<MutexGuard<'static, u8>>: Send);
    assert_not_impl_any!(Block<Rc<u8>>: Send, Sync);

    fn state(seed: u64, counters: usize) -> ReadState {
        let last_message_id = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let all = [
            seed as u32,
            !seed as u32,
            (seed >> 32) as u32,
            seed as u32 ^ 1,
        ];
        ReadState {
            last_message_id,
            counters: std::array::from_fn(|at| if at < counters { all[at] } else { 0 }),
        }
    }

    /// A row of the model: number, values, dirty, in flight.
    type Row = (u32, ReadState, bool, bool);

    fn rows(block: &Block) -> Vec<Row> {
        (0..block.len())
            .map(|i| {
                let (dirty, in_flight) = (block.is_dirty(i), block.is_in_flight(i));
                (block.number(i), block.get(i), dirty, in_flight)
            })
            .collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, u64),
        Remove(u32),
        Touch(u32, u64),
        Snapshot(usize),
        Settle(bool),
        SplitAndAppend,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Of few tags, many of which have several states.
        let number = (0..700u32).prop_map(|number| ((number % 20) << REST_BITS) | number);
        prop_oneof![
            12 => (number.clone(), any::<u64>()).prop_map(|(n, s)| Step::Insert(n, s)),
            4 => number.clone().prop_map(Step::Remove),
            6 => (number, any::<u64>()).prop_map(|(n, s)| Step::Touch(n, s)),
            1 => (0..40usize).prop_map(Step::Snapshot),
            1 => any::<bool>().prop_map(Step::Settle),
            1 => Just(Step::SplitAndAppend),
        ]
    }

    proptest! {
        #[test]
        fn a_block_equals_a_sorted_list_of_rows(
            counters in 1..=MAX_COUNTERS,
            steps in prop::collection::vec(step(), 0..1500),
        ) {
            let state = |seed| state(seed, counters);
            let mut block = Block::with_room(0, counters, ());
            let mut model: Vec<Row> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(number, seed) => {
                        let found = block.search(number);
                        prop_assert_eq!(found, model.binary_search_by_key(&number, |row| row.0));
                        prop_assert_eq!(block.find(number), found.ok());
                        // It looks at the tag alone.
                        let same = model.iter().position(|row| tag(row.0) == tag(number));
                        prop_assert_eq!(block.guess(number), same);
                        if let (Err(index), false) = (found, block.is_full()) {
                            let bytes = block.bytes() + block.growth();
                            block.insert(index, number, &state(seed));
                            prop_assert_eq!(block.bytes(), bytes);
                            model.insert(index, (number, state(seed), false, false));
                        }
                    }
                    Step::Remove(number) => {
                        if let Ok(index) = block.search(number) {
                            block.remove(index);
                            model.remove(index);
                        }
                    }
                    Step::Touch(number, seed) => {
                        if let Ok(index) = block.search(number) {
                            block.set(index, &state(seed));
                            block.set_dirty(index);
                            (model[index].1, model[index].2) = (state(seed), true);
                        }
                    }
                    Step::Snapshot(limit) => {
                        let mut taken = Vec::new();
                        block.snapshot(limit, |number, state| taken.push((number, state)));
                        let dirty = model.iter_mut().filter(|row| row.2 && !row.3).take(limit);
                        let expected: Vec<_> = dirty
                            .map(|row| {
                                (row.2, row.3) = (false, true);
                                (row.0, row.1)
                            })
                            .collect();
                        prop_assert_eq!(taken, expected);
                    }
                    Step::Settle(done) => {
                        block.settle(done);
                        for row in &mut model {
                            (row.2, row.3) = (row.2 || row.3 && !done, false);
                        }
                    }
                    Step::SplitAndAppend => {
                        let upper = block.split();
                        prop_assert_eq!(block.len(), model.len() / 2);
                        block.append(&upper);
                    }
                }
                prop_assert_eq!(block.dirty(), model.iter().filter(|row| row.2).count());
            }
            prop_assert_eq!(rows(&block), model.clone());
            for counter in 0..counters {
                let values = model.iter().map(|row| u64::from(row.1.counters[counter]));
                prop_assert_eq!(block.total(counter), values.sum::<u64>());
            }
            prop_assert!(block.numbers().eq(model.iter().map(|row| row.0)));
        }
    }

    #[test]
    fn fifty_states_take_at_most_eighteen_bytes_each() {
        let mut block = Block::with_room(0, 1, ());
        for number in 0..50 {
            block.insert(number as usize, number, &ReadState::default());
        }
        assert!(block.bytes() <= 50 * 18, "{} bytes", block.bytes());
    }
}
