//! The 16 values of a 4-bit data type, and how a number becomes a code.

use super::{nf4, power_of_two};

/// A 4-bit data type. All but [`Codebook::User`] are scaled so that the largest magnitude is 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Codebook {
    /// 4-bit NormalFloat (QLoRA, section 3). Codes ascend with the value; code 7 is zero.
    Nf4,
    /// FP4 with 2 exponent bits and 1 mantissa bit, {0, ½, 1, 1½, 2, 3, 4, 6}/6. Bit 3 is the sign, as in the OCP
    /// Microscaling specification's E2M1; code 8 (-0) is never produced.
    Fp4E2m1,
    /// FP4 with 3 exponent bits and no mantissa, {0, 2⁻⁶, 2⁻⁵ … 1}. Bit 3 is the sign; code 8 is never produced.
    Fp4E3m0,
    /// bitsandbytes' "fp4", {0, 1/16, 8, 12, 4, 6, 2, 3}/12 in the order of its codes. Bit 3 is the sign.
    Fp4Bnb,
    /// Symmetric integers -7 … 7 over 7, stored with an offset of 8. Code 0 (-8/7) is never produced.
    Int4,
    /// 16 finite, strictly ascending values; the code is the index.
    User([f32; 16]),
}

/// A data type made ready for use: values by code, and the decision thresholds between neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodebookTable {
    /// The value of each code.
    pub values: [f32; 16],
    /// `midpoints[k]` separates the value of rank `k` from that of rank `k + 1`: `(v[k] + v[k+1]) / 2` in f32.
    /// A type with 15 distinct values ends with +∞, which nothing exceeds. The 16th entry is +∞ always: it only
    /// rounds the table up to a register.
    pub midpoints: [f32; 16],
    /// The code of the value of each rank (position in ascending order).
    pub code_of_rank: [u8; 16],
    /// The code that a zero gets; it pads an odd last nibble and fills blocks whose absmax is 0.
    pub zero_code: u8,
}

impl Codebook {
    /// The thresholds and values. Fails for a user table that is not finite and strictly ascending.
    pub fn table(&self) -> Result<CodebookTable, String> {
        Ok(match self {
            Codebook::Nf4 => CodebookTable::ascending(nf4::VALUES),
            Codebook::Fp4E2m1 => {
                CodebookTable::sign_magnitude([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0].map(|v| v / 6.0))
            }
            Codebook::Fp4E3m0 => CodebookTable::sign_magnitude(std::array::from_fn(|e| match e {
                0 => 0.0,
                e => power_of_two(e as i32 - 7),
            })),
            Codebook::Fp4Bnb => CodebookTable::sign_magnitude(
                [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0].map(|v: f32| v / 12.0),
            ),
            Codebook::Int4 => {
                let values = std::array::from_fn(|code| (code as f32 - 8.0) / 7.0);
                CodebookTable::new(values, &std::array::from_fn::<u8, 15, _>(|rank| rank as u8 + 1))
            }
            Codebook::User(values) => {
                if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                    return Err(format!(
                        "entry {i} of the user codebook is {}; all 16 must be finite",
                        values[i]
                    ));
                }
                if let Some(i) = values.windows(2).position(|w| w[0] >= w[1]) {
                    let (a, b) = (values[i], values[i + 1]);
                    return Err(format!(
                        "entries {i} and {} of the user codebook are {a} and {b}; the 16 values must strictly ascend",
                        i + 1
                    ));
                }
                CodebookTable::ascending(*values)
            }
        })
    }
}

impl CodebookTable {
    /// 16 distinct values whose codes ascend with them.
    fn ascending(values: [f32; 16]) -> Self {
        Self::new(values, &std::array::from_fn::<u8, 16, _>(|rank| rank as u8))
    }

    /// Sign in bit 3, magnitude in bits 0 to 2, with magnitude code 0 a zero: 15 distinct values.
    fn sign_magnitude(magnitudes: [f32; 8]) -> Self {
        let values =
            std::array::from_fn(|code| if code < 8 { magnitudes[code] } else { -magnitudes[code - 8] });
        let mut ranks: Vec<u8> = (0..16).filter(|&code| code != 8).collect();
        ranks.sort_by(|&a, &b| f32::total_cmp(&values[a as usize], &values[b as usize]));
        Self::new(values, &ranks)
    }

    /// `ranks` lists the codes that quantization may produce, by ascending value.
    fn new(values: [f32; 16], ranks: &[u8]) -> Self {
        let mut table = Self { values, midpoints: [f32::INFINITY; 16], code_of_rank: [0; 16], zero_code: 0 };
        table.code_of_rank[..ranks.len()].copy_from_slice(ranks);
        for (k, pair) in ranks.windows(2).enumerate() {
            table.midpoints[k] = midpoint(values[pair[0] as usize], values[pair[1] as usize]);
        }
        table.zero_code = table.encode(0.0);
        table
    }

    /// The code of a scaled value: its rank is the number of midpoints that it exceeds, so a tie goes to the lower
    /// value and a NaN (which exceeds nothing) to the lowest.
    pub fn encode(&self, t: f32) -> u8 {
        self.code_of_rank[self.midpoints.iter().filter(|&&m| t > m).count()]
    }
}

/// `(a + b) / 2` in f32; halved first where the sum would overflow.
pub fn midpoint(a: f32, b: f32) -> f32 {
    let sum = a + b;
    if sum.is_finite() { sum / 2.0 } else { a / 2.0 + b / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nf4_midpoints_are_the_f32_means() {
        // The four places where bitsandbytes' CUDA literals are one ulp off the f32 mean of the neighbours.
        let m = Codebook::Nf4.table().unwrap().midpoints;
        for (k, bits) in [(0, 0xbf59_1cd8_u32), (8, 0x3df6_4862), (12, 0x3f00_6d04), (14, 0x3f5c_89da)] {
            assert_eq!(m[k].to_bits(), bits, "midpoint {k}");
        }
    }

    #[test]
    fn bitsandbytes_fp4_has_its_bits() {
        let expected =
            [0u32, 0x3baa_aaab, 0x3f2a_aaab, 0x3f80_0000, 0x3eaa_aaab, 0x3f00_0000, 0x3e2a_aaab, 0x3e80_0000];
        let values = Codebook::Fp4Bnb.table().unwrap().values;
        for (code, bits) in expected.into_iter().enumerate() {
            assert_eq!(values[code].to_bits(), bits);
            assert_eq!(values[code + 8].to_bits(), bits | 0x8000_0000);
        }
    }

    #[test]
    fn every_value_quantizes_to_its_own_code() {
        let user = Codebook::User(std::array::from_fn(|i| (i as f32 - 5.0).powi(3)));
        for book in
            [Codebook::Nf4, Codebook::Fp4E2m1, Codebook::Fp4E3m0, Codebook::Fp4Bnb, Codebook::Int4, user]
        {
            let table = book.table().unwrap();
            for (code, &value) in table.values.iter().enumerate() {
                let unused = match book {
                    Codebook::Int4 => code == 0,
                    Codebook::Nf4 | Codebook::User(_) => false,
                    _ => code == 8,
                };
                assert_eq!(table.encode(value) == code as u8, !unused, "{book:?} code {code} value {value}");
            }
            assert_eq!(table.values[table.zero_code as usize], 0.0, "{book:?}");
            assert!(table.midpoints.windows(2).all(|w| w[0] <= w[1]));
        }
    }

    #[test]
    fn codes_are_nearest_and_ties_go_low() {
        for book in [Codebook::Nf4, Codebook::Fp4E2m1, Codebook::Fp4E3m0, Codebook::Fp4Bnb, Codebook::Int4] {
            let table = book.table().unwrap();
            for i in -20_000..=20_000 {
                let t = i as f32 / 20_000.0;
                let error = |code: u8| (f64::from(table.values[code as usize]) - f64::from(t)).abs();
                let chosen = table.encode(t);
                let best = (0..16).map(error).fold(f64::INFINITY, f64::min);
                // A midpoint is rounded to f32, so next to it either neighbour may be taken.
                assert!(error(chosen) <= best + f64::from(f32::EPSILON), "{book:?} {t}");
            }
            for k in 0..15 {
                if table.midpoints[k].is_finite() {
                    assert_eq!(table.encode(table.midpoints[k]), table.code_of_rank[k]);
                }
            }
        }
    }

    #[test]
    fn a_bad_user_table_is_refused_with_its_place() {
        let mut values: [f32; 16] = std::array::from_fn(|i| i as f32);
        values[3] = 4.0;
        assert!(Codebook::User(values).table().unwrap_err().contains("entries 3 and 4"));
        values[3] = f32::NAN;
        assert!(Codebook::User(values).table().unwrap_err().contains("entry 3"));
    }

    #[test]
    fn midpoints_of_huge_user_values_do_not_overflow() {
        assert_eq!(midpoint(f32::MAX, f32::MAX), f32::MAX);
        assert_eq!(midpoint(-f32::MAX, f32::MAX), 0.0);
    }
}
