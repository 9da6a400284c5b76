//! What all pictures have in common.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::comparison::is_ours;

pub const TEXT: RGBColor = RGBColor(33, 37, 41);
pub const FAINT: RGBColor = RGBColor(108, 117, 125);
pub const LINES: RGBColor = RGBColor(222, 226, 230);

/// Ours, and after it those of others; they can be told apart by who sees colours differently.
const OUR_COLOR: RGBColor = RGBColor(213, 94, 0);
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(150, 120, 20),
    RGBColor(120, 120, 120),
];

/// The color of a subject among those of its picture, by their names. What follows a comma is how the
/// subject did it: that has the color of the subject.
pub fn color(subject: &str, subjects: &[&str]) -> RGBColor {
    let who = |subject: &str| subject.split(',').next().map(str::to_owned);
    let mut others = Vec::from_iter(subjects.iter().map(|other| who(other)));
    others.retain(|other| !other.as_deref().is_some_and(is_ours));
    others.sort();
    others.dedup();
    let place = others.iter().position(|other| *other == who(subject));
    place.map_or(OUR_COLOR, |place| COLORS[place % COLORS.len()])
}

/// Text of a size in pixels.
pub fn text(size: u32, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color)
}

/// Text that ends, starts or has its middle where it is drawn, and is in the middle of it vertically.
pub fn anchored(style: TextStyle<'static>, horizontal: HPos) -> TextStyle<'static> {
    style.pos(Pos::new(horizontal, VPos::Center))
}

/// A name as that of a file.
pub fn file_name(parts: &[&str]) -> String {
    let name = parts.join("-").replace('/', "-per-").to_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    Vec::from_iter(words.filter(|word| !word.is_empty())).join("-") + ".svg"
}
