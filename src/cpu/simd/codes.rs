//! A dynamic map as the inner loops want it.

use crate::format::Map256;
use crate::format::dynamic_rank::Lines;
use crate::format::optimizer::blocks;

/// A dynamic map: values, thresholds, and the lines that estimate codes.
#[repr(align(64))]
pub struct Coder {
    /// Byte `b` of each value, and of each midpoint: what instructions that look up bytes take.
    pub value_planes: [[u8; 256]; 4],
    pub midpoint_planes: [[u8; 256]; 4],
    pub map: Map256,
    pub lines: Lines,
}

impl Coder {
    /// The map of states with a sign, or without.
    pub fn new(signed: bool) -> Self {
        let map = blocks::map(signed);
        let planes = |values: &[f32; 256]| {
            std::array::from_fn(|byte| std::array::from_fn(|i| values[i].to_le_bytes()[byte]))
        };
        Self {
            value_planes: planes(&map.values),
            midpoint_planes: planes(&map.midpoints),
            lines: Lines::new(signed),
            map,
        }
    }
}
