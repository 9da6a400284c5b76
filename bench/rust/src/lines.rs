//! What this machine takes for a line of memory that is in no cache: the floor under every structure
//! that is larger than the caches.

use std::hint::black_box;
use std::time::Instant;

use memmap2::MmapMut;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::world::random;

const LINE: usize = 64;
/// As much memory as ten million read states take.
const LINES: usize = (256 << 20) / LINE;
const FETCHED: usize = 2_000_000;
const RUNS: usize = 7;

/// How the lines are fetched, and what one takes that way, in ns: the median of several runs.
pub fn measure() -> [(&'static str, f64); 3] {
    let mut memory = one_cycle();
    let mut random = random(11);
    let drawn = Vec::from_iter((0..FETCHED).map(|_| random.random_range(0..LINES)));
    let one_after_another = median(|| {
        let mut at = 0;
        for _ in 0..FETCHED {
            at = next(&memory, at);
        }
        black_box(at);
    });
    let at_the_same_time = median(|| {
        let sum = drawn.iter().map(|&line| next(&memory, line));
        black_box(sum.fold(0, usize::wrapping_add));
    });
    let changed = median(|| {
        for &line in &drawn {
            memory[line * LINE + 4] ^= 1;
        }
        black_box(&memory);
    });
    [
        ("lines read one after another", one_after_another),
        ("lines read at the same time", at_the_same_time),
        ("lines changed at the same time", changed),
    ]
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

fn next(memory: &[u8], line: usize) -> usize {
    let [a, b, c, d, ..] = memory[line * LINE..] else {
        unreachable!("a line has more bytes");
    };
    u32::from_le_bytes([a, b, c, d]) as usize
}

fn median(mut fetch: impl FnMut()) -> f64 {
    let mut runs = Vec::from_iter((0..RUNS).map(|_| {
        let start = Instant::now();
        fetch();
        start.elapsed().as_nanos() as f64 / FETCHED as f64
    }));
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}
