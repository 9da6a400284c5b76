//! The time, as it comes into the engine.

/// Microseconds.
pub type Micros = u64;

/// One reading of the clocks. The engine never reads a clock itself, so a
/// simulation can drive it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Never goes back, starts anywhere: what deadlines are counted in.
    pub monotonic: Micros,
    /// Since 1970, may jump: what versions are made of, because they outlive the process.
    pub unix: Micros,
}
