//! Codes of the dynamic maps by arithmetic: an estimate, and one comparison.
//!
//! A dynamic map is linear within each decade and each decade has twice the codes of the one below: over magnitudes the code
//! is nearly a piecewise linear function, whose slopes fall by 5 from decade to decade. Such a function is the least of its
//! lines, so that no search finds the decade. The estimate is the code or one less; whether the midpoint behind it is exceeded
//! decides.

use super::power_of_ten;

/// The lines of a map, and where its codes start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lines {
    /// Of each decade.
    pub slopes: [f32; DECADES],
    /// Of each decade.
    pub offsets: [f32; DECADES],
    /// Whether codes below [`Self::ZERO`] are those of negative numbers.
    pub signed: bool,
}

/// Decades of a dynamic map.
pub const DECADES: usize = 7;

/// How far the estimate stays below the lines, for their corners.
const MARGIN: f64 = 0.25;

/// Slope and offset of a decade's line, which gains 1 at each midpoint within the decade. At the end of a decade the midpoint
/// lies a fifth of a code beyond the lines' corner.
pub fn line(signed: bool, decade: usize) -> (f64, f64) {
    // Decade i has codes from `first` on, as many as that: over magnitudes of 10^(i-7) to 10^(i-6). Unsigned codes have one
    // less: there is no other zero.
    let first = (if signed { 1u32 } else { 2 } << decade) as f64;
    let slope = first / 0.9 * power_of_ten(6 - decade as i32);
    let offset = first - slope * power_of_ten(decade as i32 - 7);
    (slope, if signed { offset } else { offset - 1.0 })
}

impl Lines {
    /// The code of zero in the signed map.
    pub const ZERO: u8 = 127;

    /// The lines of [`super::dynamic::dynamic_map`].
    pub fn new(signed: bool) -> Self {
        Self {
            slopes: std::array::from_fn(|i| line(signed, i).0 as f32),
            offsets: std::array::from_fn(|i| (line(signed, i).1 - MARGIN) as f32),
            signed,
        }
    }

    /// The estimate: how many codes lie between that of zero and that of `t`, or one less; a whole number when its fraction
    /// is cut off. `mul_add` may round once or twice.
    #[inline(always)]
    pub fn estimate(&self, t: f32, mul_add: impl Fn(f32, f32, f32) -> f32) -> f32 {
        let magnitude = if self.signed { t.abs() } else { t.max(0.0) };
        let mut least = mul_add(magnitude, self.slopes[0], self.offsets[0]);
        for i in 1..DECADES {
            let line = mul_add(magnitude, self.slopes[i], self.offsets[i]);
            least = if line < least { line } else { least };
        }
        least
    }

    /// The code of `t`, no larger than 1 by more than a rounding. A NaN has code 0.
    pub fn encode(&self, midpoints: &[f32; 256], t: f32) -> u8 {
        let before = self.before(t, f32::mul_add);
        if t.is_nan() { 0 } else { before as u8 + u8::from(t > midpoints[before as usize]) }
    }

    /// The code of `t`, or the one below: the number of the midpoint that decides.
    #[inline(always)]
    pub fn before(&self, t: f32, mul_add: impl Fn(f32, f32, f32) -> f32) -> i32 {
        let distance = self.estimate(t, mul_add) as i32;
        // Of a negative number the midpoint is at least the first that there is.
        match (self.signed, t < 0.0) {
            (false, _) => distance,
            (true, false) => i32::from(Self::ZERO) + distance,
            (true, true) => (i32::from(Self::ZERO) - 1 - distance).max(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Map256;
    use super::*;

    /// Estimates grow with the magnitude, however products and sums are rounded: what holds at both ends of a code's numbers
    /// holds in between, so that this is a proof for all numbers.
    #[test]
    fn the_estimate_is_the_code_or_one_less() {
        for (map, signed) in [(Map256::dynamic_signed(), true), (Map256::dynamic_unsigned(), false)] {
            let lines = Lines::new(signed);
            let zero = if signed { 127 } else { 0 };
            for fused in [true, false] {
                let mul_add = |a: f32, b: f32, c: f32| if fused { a.mul_add(b, c) } else { a * b + c };
                for code in zero..256usize {
                    let first = if code == zero { 0.0 } else { map.midpoints[code - 1].next_up() };
                    let last = if code == 255 { 1.0 } else { map.midpoints[code] };
                    for t in [first, last] {
                        let estimate = lines.estimate(t, mul_add) as i32;
                        let distance = (code - zero) as i32;
                        assert!(estimate == distance || estimate == distance - 1, "{t} {code}: {estimate}");
                    }
                }
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_search() {
        for (map, signed) in [(Map256::dynamic_signed(), true), (Map256::dynamic_unsigned(), false)] {
            let lines = Lines::new(signed);
            let around = |x: f32| [x.next_down(), x, x.next_up()];
            let numbers = map.midpoints[..255].iter().chain(&map.values).flat_map(|&x| around(x));
            let specials = [0.0, -0.0, 1.0, -1.0, 0.7, -0.7, f32::MIN_POSITIVE, 1e-45, -1e-45, f32::NAN];
            for t in numbers.chain(specials) {
                assert_eq!(lines.encode(&map.midpoints, t), map.encode(t), "{t:e}");
            }
        }
    }
}
