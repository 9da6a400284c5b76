//! Engine, journal and store, driven by a seed in one thread: a seed says how the world is [made and what happens in
//! it](step), the [world](world) lets it happen and compares with a plain [model], [legal] says what a
//! loss may leave behind, and [files] is the disk, which loses power and is damaged.

pub mod files;
pub mod legal;
#[path = "../engine/model.rs"]
pub mod model;
pub mod step;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use step::{Settings, Step};
use world::{Tally, World};

/// Lets it all happen, in a new world, and checks it. What was wrong goes where a panic's message goes; what is
/// returned then is the index of the step, or the number of steps if it was found after the last one.
pub fn play(settings: Settings, steps: &[Step]) -> Result<Tally, usize> {
    let mut at = 0;
    catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(settings);
        for step in steps {
            world.step(step);
            at += 1;
        }
        world.end()
    }))
    .map_err(|_| at)
}

/// The same with what a seed says.
pub fn play_seed(seed: u64) -> Result<Tally, usize> {
    let (settings, steps) = step::draw(seed);
    play(settings, &steps)
}
