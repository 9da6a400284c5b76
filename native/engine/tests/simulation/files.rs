//! The directory of a journal, and what becomes of its files when the power is cut or the disk goes bad.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use tempfile::TempDir;

/// What a disk writes whole.
const PAGE: usize = 4_096;

/// What the files have in them, by name.
type Contents = BTreeMap<String, Vec<u8>>;

/// See the module.
#[derive(Debug)]
pub struct Files {
    directory: TempDir,
    /// What is on the disk whatever happens: the files at the last sync.
    synced: Contents,
    /// Files that stand where the journal will want to make one.
    obstacles: Vec<PathBuf>,
}

/// In memory if the system has such a place, for this is not about the disk.
fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn is_segment(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "journal")
}

impl Files {
    /// An empty directory.
    pub fn new() -> Self {
        Files {
            directory: temporary(),
            synced: Contents::new(),
            obstacles: vec![],
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A copy of it, elsewhere.
    pub fn copy(&self) -> TempDir {
        let copy = temporary();
        for (name, bytes) in self.contents() {
            fs::write(copy.path().join(name), bytes).unwrap();
        }
        copy
    }

    /// What is in the files now.
    pub fn contents(&self) -> Contents {
        let entries = fs::read_dir(self.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let segments = paths.filter(|path| is_segment(path) && !self.obstacles.contains(path));
        segments
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read(path).unwrap())
            })
            .collect()
    }

    /// Makes the files these.
    pub fn restore(&self, contents: &Contents) {
        for name in self.contents().keys() {
            fs::remove_file(self.path().join(name)).unwrap();
        }
        for (name, bytes) in contents {
            fs::write(self.path().join(name), bytes).unwrap();
        }
    }

    /// All that is written is on the disk now.
    pub fn note_sync(&mut self) {
        self.synced = self.contents();
    }

    /// The power is cut: of what was done since the last sync each page is on the disk or not, and so is each new
    /// file. Of the files that were removed, the last few are there still: names go in their order.
    pub fn cut_power(&mut self, seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let mut left = Contents::new();
        let mut is_back = false;
        let now = self.contents();
        for (name, bytes) in &self.synced {
            is_back |= rng.bool();
            match now.get(name) {
                Some(now) => drop(left.insert(name.clone(), blend(rng, bytes, now))),
                None if is_back => drop(left.insert(name.clone(), bytes.clone())),
                None => {}
            }
        }
        for (name, bytes) in now {
            if !self.synced.contains_key(&name) && rng.bool() {
                let zeros = vec![0; bytes.len()];
                left.insert(name, blend(rng, &zeros, &bytes));
            }
        }
        self.restore(&left);
        self.synced = left;
    }

    /// Of the words that differ from those of `before`, only some were written.
    pub fn cut_writes(&self, before: &Contents, seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let written = match rng.bool() {
            true => 0.5,
            false => 0.98,
        };
        let mut left = self.contents();
        for (name, bytes) in &mut left {
            let zeros = vec![0; bytes.len()];
            let before = before.get(name).unwrap_or(&zeros);
            let words = bytes.chunks_exact_mut(8).zip(before.chunks_exact(8));
            for (now, before) in words.filter(|(now, before)| now != before) {
                if rng.f64() > written {
                    now.copy_from_slice(before);
                }
            }
        }
        self.restore(&left);
    }

    /// Makes a byte of a file another, one that is not zero, unless all are.
    pub fn flip(&self, seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        self.damage(rng, |rng, bytes| {
            let end = bytes.iter().rposition(|byte| *byte != 0);
            if let Some(end) = end {
                bytes[rng.usize(0..=end)] ^= rng.u8(1..);
            }
        });
    }

    /// Cuts a file off at some place.
    pub fn shorten(&self, seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        self.damage(rng, |rng, bytes| {
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            bytes.truncate(rng.usize(0..=end));
        });
    }

    fn damage(&self, rng: &mut Rng, damage: impl FnOnce(&mut Rng, &mut Vec<u8>)) {
        let mut contents = self.contents();
        if let Some(name) = rng.choice(contents.keys().cloned()) {
            let bytes = contents.get_mut(&name).unwrap();
            damage(rng, bytes);
            fs::write(self.path().join(name), bytes).unwrap();
        }
    }

    /// Whether no file can be made.
    pub fn are_refused(&self) -> bool {
        !self.obstacles.is_empty()
    }

    /// Sees to it that no further file can be made, or that it can again.
    pub fn refuse(&mut self, refuse: bool) {
        for path in self.obstacles.drain(..) {
            fs::remove_file(path).unwrap();
        }
        if refuse {
            let names = self.contents();
            let last = names.keys().next_back().unwrap();
            let last: u64 = last.trim_end_matches(".journal").parse().unwrap();
            // More than will be tried. A link that leads nowhere costs the least.
            let paths =
                (last + 1..last + 200).map(|n| self.path().join(format!("{n:016}.journal")));
            let paths = paths.filter(|path| std::os::unix::fs::symlink("nowhere", path).is_ok());
            self.obstacles = paths.collect();
        }
    }
}

/// Each page is of the one or of the other.
fn blend(rng: &mut Rng, old: &[u8], new: &[u8]) -> Vec<u8> {
    let pages = old.chunks(PAGE).zip(new.chunks(PAGE));
    pages
        .flat_map(|(old, new)| if rng.bool() { old } else { new })
        .copied()
        .collect()
}
