//! The estimate of [`crate::format::dynamic_rank`] in 16 bits, so that a register holds twice as many.
//!
//! The upper 16 bits of an f32 are its octave and 7 bits of where in it the number lies; within an octave they are linear in
//! the magnitude. No octave has more than two of the decades' lines. So two lines an octave suffice, found by the octave, and
//! a multiplication of 16 bits: nothing that the upper bits say of the octave needs to be taken off, since it only adds a
//! constant, modulo 2¹⁶. Results have 8 bits of fraction.

use crate::format::dynamic_rank::{DECADES, line};
use crate::format::power_of_two;

/// Octaves from `2^-31` on. What is less than that has the code of zero, like the numbers of the first eight.
pub const OCTAVES: usize = 32;
/// The upper bits of the least number.
pub const LEAST: u16 = 96 << FRACTION;
/// Bits of fraction among an f32's upper 16.
pub const FRACTION: u32 = 7;

/// How far the estimate stays below the lines: a fifth of a code for their corners, and an eighth for what a rounded slope
/// strays by within an octave. Bits of the number that are cut off cost it up to 0.56 of a code more: together about the one
/// that it may miss, which the test holds it to.
const MARGIN: f64 = 0.3;

/// Two lines an octave, the lesser of which counts.
pub struct Octaves {
    pub slopes: [[u16; OCTAVES]; 2],
    pub offsets: [[u16; OCTAVES]; 2],
}

impl Octaves {
    /// For the codes with a sign, or without.
    pub fn new(signed: bool) -> Self {
        let lines: [(f64, f64); DECADES] = std::array::from_fn(|i| line(signed, i));
        let least_at = |t: f64| {
            let at = |&(slope, offset): &(f64, f64)| slope * t + offset;
            *lines.iter().min_by(|a, b| at(a).total_cmp(&at(b))).expect("there are lines")
        };
        let mut octaves = Self { slopes: [[0; OCTAVES]; 2], offsets: [[0; OCTAVES]; 2] };
        let steps = f64::from(1 << FRACTION);
        for octave in 0..OCTAVES {
            let start = f64::from(power_of_two(octave as i32 + 1 - OCTAVES as i32));
            for (which, end) in [start, 2.0 * start].into_iter().enumerate() {
                let (slope, offset) = least_at(end);
                // A step is a unit of the upper bits. The last octave is 1 and nothing else.
                let exact = if start < 1.0 { slope * start / steps * 256.0 } else { 0.0 };
                let slope_of_step = exact.round();
                // The rounded slope strays as far one way at the octave's start as the other way at its end.
                let stray = (slope_of_step - exact) * steps / 2.0;
                let at_start = ((slope * start + offset - MARGIN) * 256.0 - stray).round();
                let upper = f64::from(LEAST) + octave as f64 * steps;
                octaves.slopes[which][octave] = slope_of_step as u16;
                octaves.offsets[which][octave] = (at_start - slope_of_step * upper) as i64 as u16;
            }
        }
        octaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::optimizer::blocks;

    /// All upper halves, each with the first and the last number that has it: codes ascend in between. At a midpoint the
    /// estimate is the midpoint's own number at least, as negative numbers need, whose codes change there and not behind it.
    #[test]
    fn the_estimate_is_the_code_or_one_less() {
        for signed in [true, false] {
            let (octaves, map) = (Octaves::new(signed), blocks::map(signed));
            let zero = usize::from(map.encode(0.0));
            for upper in LEAST..=127 << FRACTION {
                let octave = usize::from((upper - LEAST) >> FRACTION);
                let line = |which: usize| {
                    upper
                        .wrapping_mul(octaves.slopes[which][octave])
                        .wrapping_add(octaves.offsets[which][octave])
                };
                let estimate = usize::from(line(0).min(line(1)) >> 8);
                let first = f32::from_bits(u32::from(upper) << 16);
                // 1 has none behind it but those that a rounding makes.
                let last = if first == 1.0 {
                    1.0 + 4.0 * f32::EPSILON
                } else {
                    f32::from_bits(first.to_bits() | 0xffff)
                };
                let below = usize::from(map.encode(first)) - zero;
                let reached = map.midpoints[zero..255].iter().filter(|&&m| m <= last).count();
                assert!((reached.saturating_sub(1)..=below).contains(&estimate), "{first}: {estimate}");
                assert!(map.midpoints[zero + estimate].is_finite(), "{first}: nothing is above {estimate}");
            }
            let least = f32::from_bits(u32::from(LEAST) << 16);
            assert_eq!(usize::from(map.encode(least)), zero);
        }
    }
}
