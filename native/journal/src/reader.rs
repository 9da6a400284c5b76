//! Reading a journal that nobody writes to any more.

use std::fs::{self, File};
use std::io::{self, Read};
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::record::{self, FILLER, Tag, size};
use crate::segment::{HEADER, damaged_header, size_of_file};

/// Bytes that are no record, before or between records, or instead of any; or that are missing at the end of a file; or what of
/// its header is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub at: usize,
    /// How many.
    pub bytes: usize,
    /// Whether all of them are zero: room that was taken when the process died, or pages that did not reach the disk.
    pub zero: bool,
}

impl Damage {
    /// Whether it is in the header, which has the marks: then the highest may be lost.
    pub fn is_of_header(&self) -> bool {
        self.at < HEADER
    }
}

/// The number and the file of a segment.
pub(crate) type Found = (u64, PathBuf);

/// The records of the segments of a journal, oldest first.
#[derive(Debug)]
pub struct Reader {
    segments: Vec<Found>,
    empty: Vec<Found>,
    damage: Vec<Damage>,
    /// What the next file is read into, as large as the largest was. To take memory from the system for each, and to give it back,
    /// takes as long as to read it.
    bytes: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(segments: Vec<Found>) -> Self {
        Reader {
            segments,
            empty: vec![],
            damage: vec![],
            bytes: vec![],
        }
    }

    /// The number of the oldest segment, if there is one.
    pub fn oldest(&self) -> u64 {
        self.segments.first().map_or(0, |(sequence, _)| *sequence)
    }

    /// Segments there are.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Hands out every whole record, each segment's in the order in which their room was taken.
    pub fn for_each(&mut self, each: impl FnMut(Tag, &[u64])) -> io::Result<()> {
        self.damage.clear();
        self.empty.clear();
        self.for_each_of(0..self.len(), each)
    }

    /// The same with some of the segments. One that cannot be read hands out nothing.
    pub fn for_each_of(
        &mut self,
        some: Range<usize>,
        mut each: impl FnMut(Tag, &[u64]),
    ) -> io::Result<()> {
        for found in &self.segments[some] {
            let (sequence, path) = found;
            let bytes = &mut self.bytes;
            bytes.clear();
            File::open(path)?.read_to_end(bytes)?;
            // Should it have been read before.
            self.damage.retain(|damage| damage.path != *path);
            let (mut records, damaged) = (0, self.damage.len());
            let mut each = |tag, words: &[u64]| {
                records += 1;
                each(tag, words);
            };
            read_segment(*sequence, path, bytes, &mut self.damage, &mut each);
            if records == 0 && self.damage.len() == damaged {
                self.empty.push(found.clone());
            }
        }
        Ok(())
    }

    /// Segments in which the last reading found nothing, and no damage. They are not read again.
    pub(crate) fn pass_over_empty(&mut self) -> Vec<Found> {
        self.segments.retain(|found| !self.empty.contains(found));
        mem::take(&mut self.empty)
    }

    /// What the last reading could not read.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }
}

/// Whether a segment has nothing but its header, which is whole.
pub(crate) fn is_blank(path: &Path) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    let is_whole = bytes.len() == size_of_file(&bytes) && damaged_header(&bytes).is_empty();
    Ok(is_whole && bytes[HEADER..].iter().all(|byte| *byte == 0))
}

fn read_segment(
    sequence: u64,
    path: &Path,
    bytes: &[u8],
    damage: &mut Vec<Damage>,
    each: &mut impl FnMut(Tag, &[u64]),
) {
    let mut at = HEADER.min(bytes.len());
    let mut gap = at;
    let mut passed = |from: usize, to: usize| {
        let zero = bytes[from..to].iter().all(|byte| *byte == 0);
        if from < to {
            let (path, bytes) = (path.to_owned(), to - from);
            damage.push(Damage {
                path,
                at: from,
                bytes,
                zero,
            });
        }
    };
    for part in damaged_header(bytes) {
        passed(part.start, part.end);
    }
    while at < bytes.len() {
        let Some((tag, count, words)) = record::read(sequence, &bytes[at..]) else {
            at += size(0);
            continue;
        };
        passed(gap, at);
        if tag != FILLER {
            each(tag, &words[..count]);
        }
        at += size(count);
        gap = at;
    }
    // Zeros at the end are room for more.
    let last = bytes[gap..].iter().rposition(|byte| *byte != 0);
    passed(gap, last.map_or(gap, |last| gap + last + 1));
    let missing = size_of_file(bytes).saturating_sub(bytes.len());
    if missing > 0 {
        damage.push(Damage {
            path: path.to_owned(),
            at: bytes.len(),
            bytes: missing,
            zero: false,
        });
    }
}
