//! The dynamic 8-bit maps (Dettmers, "8-Bit Approximations for Parallelism in Deep Learning", arXiv 1511.04561, and
//! 8-bit optimizers, arXiv 2110.02861): 256 values that trade exponent for fraction bits as magnitudes grow.
//! The tables have the bits of bitsandbytes' `create_dynamic_map`, so that its checkpoints decode unchanged.

use super::codebook::midpoint;
use super::{linspace, power_of_ten};

/// Any ascending table of 256 values, with the decision thresholds between neighbours.
#[derive(Clone, Debug, PartialEq)]
pub struct Map256 {
    /// The value of each code.
    pub values: [f32; 256],
    /// `midpoints[k] = (values[k] + values[k+1]) / 2` in f32; the last entry is +∞ and only rounds up the table.
    pub midpoints: [f32; 256],
}

impl Map256 {
    /// From a table of finite values in ascending order; equal neighbours are allowed (FP8 maps have them).
    pub fn new(values: &[f32; 256]) -> Result<Self, String> {
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(format!("entry {i} of the 8-bit map is {}; all 256 must be finite", values[i]));
        }
        if let Some(i) = values.windows(2).position(|w| w[0] > w[1]) {
            let (a, b) = (values[i], values[i + 1]);
            return Err(format!(
                "entries {i} and {} of the 8-bit map are {a} and {b}; the values must ascend",
                i + 1
            ));
        }
        let midpoints =
            std::array::from_fn(|k| if k < 255 { midpoint(values[k], values[k + 1]) } else { f32::INFINITY });
        Ok(Self { values: *values, midpoints })
    }

    /// The signed dynamic map: optimizer momentum, nested constants.
    pub fn dynamic_signed() -> Self {
        Self::new(&dynamic_map(true)).expect("ascends")
    }

    /// The unsigned dynamic map: optimizer second moments.
    pub fn dynamic_unsigned() -> Self {
        Self::new(&dynamic_map(false)).expect("ascends")
    }

    /// The code of a scaled value: the number of midpoints that it exceeds (ties go low, a NaN to code 0).
    pub fn encode(&self, t: f32) -> u8 {
        self.midpoints.partition_point(|&m| t > m) as u8
    }
}

/// bitsandbytes' `create_dynamic_map(signed, max_exponent_bits = 7, total_bits = 8)`.
///
/// For each of 7 decades `10^(i-6)`, the fractions are the means of neighbours in `linspace(0.1, 1, n)` with
/// `n = 2^i + 1` (signed) or `2^(i+1) + 1` (unsigned); 0 and 1 complete the table.
pub fn dynamic_map(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for i in 0..7 {
        let points = if signed { (1usize << i) + 1 } else { (2usize << i) + 1 };
        let boundaries = linspace(0.1, 1.0, points);
        for pair in boundaries.windows(2) {
            let mean = (pair[0] + pair[1]) / 2.0;
            // The peer scales an f32 tensor by a double: the product is taken in f32 after rounding the scalar.
            let value = power_of_ten(i - 6) as f32 * mean;
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    values.try_into().expect("the two maps have 256 entries by construction")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn sha256(values: &[f32; 256]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_maps_have_the_bits_of_bitsandbytes() {
        assert_eq!(
            sha256(&dynamic_map(true)),
            "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c"
        );
        assert_eq!(
            sha256(&dynamic_map(false)),
            "305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398"
        );
    }

    #[test]
    fn zero_is_code_127_signed_and_0_unsigned() {
        let signed = Map256::dynamic_signed();
        assert_eq!((signed.encode(0.0), signed.values[127]), (127, 0.0));
        assert_eq!((Map256::dynamic_unsigned().encode(0.0), signed.encode(f32::NAN)), (0, 0));
    }

    #[test]
    fn every_value_encodes_to_itself() {
        for map in [Map256::dynamic_signed(), Map256::dynamic_unsigned()] {
            for (code, &value) in map.values.iter().enumerate() {
                assert_eq!(map.encode(value), code as u8);
            }
        }
    }

    #[test]
    fn bad_maps_are_refused() {
        let mut values = dynamic_map(true);
        values[9] = 5.0;
        assert!(Map256::new(&values).unwrap_err().contains("entries 9 and 10"));
        values[9] = f32::INFINITY;
        assert!(Map256::new(&values).unwrap_err().contains("entry 9"));
    }
}
