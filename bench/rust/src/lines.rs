//! What this machine takes for a line of memory that is in no cache: the floor under every structure
//! that is larger than the caches.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use memmap2::MmapMut;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::world::random;

const LINE: usize = 64;
/// As much memory as ten million read states take.
const LINES: usize = (256 << 20) / LINE;
const FETCHED: usize = 2_000_000;
/// Lines that are asked for at once. Where it was measured, one takes twice as long with 32 of them.
const AHEAD: usize = 512;
const RUNS: usize = 7;

/// How lines are fetched, by how many threads at once, and what one takes that way, in ns: the median of several runs.
pub fn measure() -> Vec<(&'static str, usize, f64)> {
    let memory = one_cycle();
    let mut random = random(11);
    let mut draw = || Vec::from_iter((0..FETCHED).map(|_| random.random_range(0..LINES)));
    let drawn = [draw(), draw()];
    // So that none follows in what the other has just fetched.
    let starts = [0, follow(&memory, 0, LINES / 2)];
    let hot = AtomicU64::new(0);
    let mut results = vec![];
    for threads in 1..=2 {
        let mut add =
            |work, fetch: &mut dyn FnMut()| results.push((work, threads, median(threads, fetch)));
        let read: &[u8] = &memory;
        add("lines read one after another", &mut || {
            together(starts[..threads].iter().map(|&start| {
                move || {
                    black_box(follow(read, start, FETCHED));
                }
            }));
        });
        add("lines fetched ahead", &mut || {
            together(drawn[..threads].iter().map(|drawn| {
                move || {
                    let sums = drawn.chunks(AHEAD).map(|lines| sum(read, lines));
                    black_box(sums.fold(0, usize::wrapping_add));
                }
            }));
        });
        add("one line that all change", &mut || {
            together((0..threads).map(|_| {
                || {
                    for _ in 0..FETCHED {
                        hot.fetch_add(1, Relaxed);
                    }
                }
            }));
        });
    }
    results
}

/// Does each on a thread of its own, all at once.
fn together<F: FnOnce() + Send>(works: impl Iterator<Item = F>) {
    thread::scope(|scope| {
        for work in works {
            scope.spawn(work);
        }
    });
}

/// Lines that lead to each other in an order nothing can foresee, through all of them; on huge
/// pages where there are any, as the engine's.
fn one_cycle() -> MmapMut {
    let mut memory = MmapMut::map_anon(LINES * LINE).expect("there is memory");
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    let mut order = Vec::from_iter(0..LINES);
    order.shuffle(&mut random(7));
    for (at, &line) in order.iter().enumerate() {
        let next = order[(at + 1) % LINES] as u32;
        memory[line * LINE..][..4].copy_from_slice(&next.to_le_bytes());
    }
    memory
}

/// The line that is so many further in the cycle.
fn follow(memory: &[u8], start: usize, lines: usize) -> usize {
    (0..lines).fold(start, |at, _| next(memory, at))
}

/// Of what is in some lines, which are asked for before the first of them is read.
fn sum(memory: &[u8], lines: &[usize]) -> usize {
    lines.iter().for_each(|line| prefetch(&memory[line * LINE]));
    let contents = lines.iter().map(|&line| next(memory, line));
    contents.fold(0, usize::wrapping_add)
}

/// Starts fetching the line of a byte.
fn prefetch(byte: &u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint to the processor, which neither reads nor faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *byte).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = byte;
}

fn next(memory: &[u8], line: usize) -> usize {
    let [a, b, c, d, ..] = memory[line * LINE..] else {
        unreachable!("a line has more bytes");
    };
    u32::from_le_bytes([a, b, c, d]) as usize
}

fn median(threads: usize, fetch: &mut dyn FnMut()) -> f64 {
    let mut runs = Vec::from_iter((0..RUNS).map(|_| {
        let start = Instant::now();
        fetch();
        start.elapsed().as_nanos() as f64 / (threads * FETCHED) as f64
    }));
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}
