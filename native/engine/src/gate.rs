//! Waiting until all who are inside now have left, without keeping anybody out.

use std::time::Duration;

use read_states_sync::atomic::{AtomicUsize, Ordering::SeqCst};
use read_states_sync::{Mutex, fail_point, thread};

/// Those who are inside are counted by the round in which they came; who waits begins the next round.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    round: AtomicUsize,
    inside: [AtomicUsize; 2],
    waiting: Mutex<()>,
}

/// Somebody who is inside, until it is dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a AtomicUsize);

impl Gate {
    pub fn enter(&self) -> Inside<'_> {
        loop {
            let round = self.round.load(SeqCst);
            let inside = &self.inside[round % 2];
            inside.fetch_add(1, SeqCst);
            if self.round.load(SeqCst) == round {
                return Inside(inside);
            }
            // Whoever began the next round may have looked already.
            inside.fetch_sub(1, SeqCst);
        }
    }

    /// Whether nobody is inside who had entered before.
    pub fn is_empty(&self) -> bool {
        self.inside.iter().all(|inside| inside.load(SeqCst) == 0)
    }

    /// Returns when all who had entered before have left.
    pub fn wait(&self) {
        let _waiting = self.waiting.lock();
        // Not behind the next line: nobody would wait for those who are inside.
        fail_point!();
        let round = self.round.fetch_add(1, SeqCst);
        while self.inside[round % 2].load(SeqCst) > 0 {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use read_states_sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn who_waits_waits_for_those_who_came_before_and_not_for_later_ones() {
        let gate = Gate::default();
        let before = gate.enter();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                gate.wait();
                done.store(true, SeqCst);
            });
            while gate.round.load(SeqCst) == 0 {
                thread::yield_now();
            }
            let later = gate.enter();
            assert!(!done.load(SeqCst));
            drop(before);
            while !done.load(SeqCst) {
                thread::yield_now();
            }
            drop(later);
        });
    }
}
