//! What is done without a lock, under many schedules. See `read_states_sync` for how they are explored, and
//! `script/schedules`. The engine as a whole is in `tests/engine/schedules.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize as Plain, Ordering::SeqCst};

use read_states_sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use read_states_sync::{Effort, explore, join, pin, spawn, step};

use crate::directory::Directory;
use crate::gate::Gate;
use crate::id::Channel;
use crate::totals::{Bounds, Totals};

#[test]
fn who_waits_at_a_gate_waits_for_all_who_were_inside() {
    const ENTERING: usize = 3;
    // What each of them does inside: odd while he does it. Plain, for nobody stops to look.
    type Subject = (Gate, [Plain; ENTERING]);
    explore(Effort { schedules: 20_000 }, || {
        let subject: Arc<Subject> = Arc::default();
        let enter = |who: usize| {
            spawn(&subject, move |(gate, turns)| {
                for _ in 0..2 {
                    let inside = gate.enter();
                    turns[who].fetch_add(1, SeqCst);
                    step();
                    turns[who].fetch_add(1, SeqCst);
                    drop(inside);
                }
            })
        };
        let wait = |(gate, turns): &Subject| {
            for _ in 0..2 {
                let before = turns.each_ref().map(|turn| turn.load(SeqCst));
                gate.wait();
                for (turn, before) in turns.iter().zip(before) {
                    assert!(
                        before % 2 == 0 || turn.load(SeqCst) > before,
                        "he is still inside"
                    );
                }
            }
        };
        let waiting = [spawn(&subject, wait), spawn(&subject, wait)];
        join((0..ENTERING).map(enter).chain(waiting).collect::<Vec<_>>());
    });
}

fn bounds(dirty_memory: usize) -> Bounds {
    Bounds {
        capacity: AtomicUsize::new(0),
        memory: AtomicUsize::new(0),
        dirty_memory: AtomicUsize::new(dirty_memory),
        load_queue: 0,
    }
}

#[test]
fn what_is_reserved_never_passes_the_bound() {
    const BOUND: usize = 10;
    explore(Effort { schedules: 20_000 }, || {
        let subject = Arc::new((Totals::default(), bounds(BOUND), Plain::new(0)));
        let reserve = |bytes: usize| {
            spawn(&subject, move |(totals, bounds, held)| {
                for _ in 0..2 {
                    let Some(reservation) = totals.reserve(bounds, bytes) else {
                        continue;
                    };
                    assert!(held.fetch_add(bytes, SeqCst) + bytes <= BOUND);
                    step();
                    held.fetch_sub(bytes, SeqCst);
                    drop(reservation);
                }
            })
        };
        join([3, 6, 4].map(reserve));
        let (totals, bounds, _) = &*subject;
        assert_eq!(totals.dirty_memory.load(Relaxed), 0);
        assert!(totals.reserve(bounds, BOUND).is_some());
    });
}

#[test]
fn whoever_calls_for_attention_is_attended_to() {
    // Something to do, as the queues of the shards tell it: without a lock.
    type Subject = (Totals, AtomicBool);
    fn attend((totals, queued): &Subject) {
        totals.attend();
        queued.store(false, SeqCst);
    }
    explore(Effort { schedules: 20_000 }, || {
        let subject: Arc<Subject> = Arc::default();
        let call = |_| {
            spawn(&subject, |subject| {
                let (totals, queued) = subject;
                for _ in 0..2 {
                    queued.store(true, SeqCst);
                    totals.call_attention();
                    if totals.announce() {
                        attend(subject);
                    }
                }
            })
        };
        join([(); 3].map(call));
        let (totals, queued) = &*subject;
        assert!(!queued.load(SeqCst) || totals.announce(), "forgotten");
    });
}

/// Different ones of the same partition.
fn channels<const COUNT: usize>(directory: &Directory) -> [Channel; COUNT] {
    let channel = |id| Channel { kind: 0, id };
    let partition = |id| directory.seek(channel(id)).partition();
    let mut same = (0..).filter(|id| partition(*id) == 0).map(channel);
    [(); COUNT].map(|()| same.next().unwrap())
}

#[test]
fn a_number_means_the_same_channel_as_long_as_who_found_it_is_pinned() {
    explore(Effort { schedules: 5_000 }, || {
        let directory = Arc::new(Directory::new(1));
        let channels: [Channel; 4] = channels(&directory);
        let work = |first: usize| {
            spawn(&directory, move |directory| {
                for turn in 0..4 {
                    let channel = channels[(first + turn) % channels.len()];
                    let guard = pin();
                    let number = directory.acquire(directory.seek(channel), &guard);
                    assert_eq!(directory.channel(number), channel);
                    assert_eq!(
                        directory.find(directory.seek(channel), &guard),
                        Some(number)
                    );
                    // Somebody else's, which may lose its number at any moment.
                    let other = channels[(first + turn + 1) % channels.len()];
                    let found = directory.find(directory.seek(other), &guard);
                    directory.release(number, &guard);
                    assert_eq!(directory.channel(number), channel);
                    if let Some(found) = found {
                        assert_eq!(directory.channel(found), other);
                    }
                }
            })
        };
        join([0, 1, 2].map(work));
        assert_eq!(directory.len(), 0);
    });
}

#[test]
fn who_looks_for_a_channel_finds_it_while_the_table_grows() {
    explore(Effort { schedules: 1_000 }, || {
        let directory = Arc::new(Directory::new(1));
        let channels: [Channel; 8] = channels(&directory);
        let number = directory.acquire(directory.seek(channels[0]), &pin());
        let look = |_| {
            spawn(&directory, move |directory| {
                for _ in 0..3 {
                    let guard = pin();
                    let found = directory.find(directory.seek(channels[0]), &guard);
                    assert_eq!(found, Some(number));
                }
            })
        };
        // The first table has room for six, and is freed once it is replaced.
        let grow = spawn(&directory, move |directory| {
            for channel in &channels[1..] {
                directory.acquire(directory.seek(*channel), &pin());
            }
            (0..3).for_each(|_| pin().flush());
        });
        join([(); 2].map(look).into_iter().chain([grow]));
        assert_eq!(directory.len(), channels.len());
    });
}
