//! Double quantization: the block constants of the first quantization are the input of a second one (QLoRA, section
//! 3). Constants are positive, so their mean is subtracted first and the differences quantize symmetrically.
//!
//! `offset` = mean of the absmax vector; the differences are quantized in blocks of 256 to 8 bits with an f32 scale.
//! A constant is read back as `value[code] · scale + offset`, product and sum each rounded to f32 (no fma).

use super::dynamic::Map256;
use super::spec::CONSTANT_BLOCK;
use super::{blockwise4, fp8, sum};

/// The second quantization's 8-bit data type.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoding {
    /// FP8 E4M3: `scale = absmax2 / 448`, round to nearest even, saturating. A non-finite constant becomes the NaN
    /// code, so that it stays non-finite and spoils nothing else.
    Fp8,
    /// An ascending 8-bit map: `scale = absmax2`, the 8-bit blockwise rule. A map has no NaN, so one non-finite
    /// constant makes the scale of its block of 256 NaN: it must not vanish.
    Map(Box<Map256>),
}

/// Double-quantized constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    /// One 8-bit code a constant.
    pub codes: Vec<u8>,
    /// One scale per 256 codes.
    pub scales: Vec<f32>,
    /// The mean that was subtracted.
    pub offset: f32,
}

impl Encoding {
    /// The value of each code, before the scale.
    pub fn values(&self) -> [f32; 256] {
        match self {
            Encoding::Fp8 => fp8::values(),
            Encoding::Map(map) => map.values,
        }
    }

    /// The codes and the scale of one block of at most 256 differences.
    pub fn quantize_block(&self, differences: &[f32], codes: &mut [u8]) -> f32 {
        match self {
            Encoding::Fp8 => {
                let finite = differences.iter().filter(|d| d.is_finite());
                let scale = finite.fold(0f32, |m, d| m.max(d.abs())) / fp8::MAX;
                for (code, &d) in codes.iter_mut().zip(differences) {
                    *code = match d {
                        d if !d.is_finite() => fp8::NAN_CODE,
                        _ if scale == 0.0 => 0,
                        d => fp8::encode(d / scale),
                    };
                }
                scale
            }
            Encoding::Map(map) => {
                let (scale, inverse) = blockwise4::block_scale(differences);
                let zero = map.encode(0.0);
                for (code, &d) in codes.iter_mut().zip(differences) {
                    *code = if scale == 0.0 { zero } else { map.encode(d * inverse) };
                }
                if scale.is_finite() { scale } else { blockwise4::NAN_ABSMAX }
            }
        }
    }
}

/// The mean of the finite constants: their [`sum::tree_sum`], the others counted as 0, over their number. 0 where
/// there is none, or where the sum overflows.
pub fn offset(absmax: &[f32]) -> f32 {
    let finite: Vec<f32> = absmax.iter().map(|&a| if a.is_finite() { a } else { 0.0 }).collect();
    let count = absmax.iter().filter(|a| a.is_finite()).count();
    offset_from(sum::tree_sum(&finite), count as u64)
}

/// [`offset`] from the tree sum and the number of finite constants.
pub fn offset_from(sum: f32, count: u64) -> f32 {
    if count == 0 || !sum.is_finite() { 0.0 } else { sum / count as f32 }
}

/// Quantizes the constants.
pub fn quantize(absmax: &[f32], encoding: &Encoding) -> Nested {
    let offset = offset(absmax);
    let mut codes = vec![0; absmax.len()];
    let mut scales = Vec::new();
    let block = CONSTANT_BLOCK as usize;
    for (constants, codes) in absmax.chunks(block).zip(codes.chunks_mut(block)) {
        let differences: Vec<f32> = constants.iter().map(|a| a - offset).collect();
        scales.push(encoding.quantize_block(&differences, codes));
    }
    Nested { codes, scales, offset }
}

/// Reads one constant back.
pub fn dequantize_one(code: u8, scale: f32, offset: f32, values: &[f32; 256]) -> f32 {
    values[code as usize] * scale + offset
}

/// Reads the constants back.
pub fn dequantize(nested: &Nested, encoding: &Encoding) -> Vec<f32> {
    let values = encoding.values();
    let scale = |i: usize| nested.scales[i / CONSTANT_BLOCK as usize];
    nested
        .codes
        .iter()
        .enumerate()
        .map(|(i, &c)| dequantize_one(c, scale(i), nested.offset, &values))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encodings() -> [Encoding; 2] {
        [Encoding::Fp8, Encoding::Map(Box::new(Map256::dynamic_signed()))]
    }

    #[test]
    fn constants_come_back_within_the_types_precision() {
        let absmax: Vec<f32> = (0..1000).map(|i| 0.05 + 0.02 * (i as f32 * 0.61).sin()).collect();
        for encoding in encodings() {
            let nested = quantize(&absmax, &encoding);
            assert!((nested.offset - 0.05).abs() < 1e-3);
            for (i, back) in dequantize(&nested, &encoding).into_iter().enumerate() {
                // Half a step of E4M3 is 2^-4 of the value; the dynamic map's widest gap is 1/64·0.9.
                let difference = (absmax[i] - nested.offset).abs();
                assert!((back - absmax[i]).abs() <= difference / 16.0 + 0.02 / 448.0, "{encoding:?} {i}");
            }
        }
    }

    #[test]
    fn equal_constants_are_exact() {
        for encoding in encodings() {
            let nested = quantize(&[0.25; 600], &encoding);
            assert_eq!((nested.offset, nested.scales.as_slice()), (0.25, &[0.0; 3][..]));
            assert!(dequantize(&nested, &encoding).iter().all(|&a| a == 0.25));
        }
    }

    #[test]
    fn non_finite_constants_stay_non_finite() {
        let mut absmax = vec![0.1f32; 600];
        (absmax[7], absmax[8], absmax[300]) = (f32::NAN, f32::INFINITY, 0.2);
        let nested = quantize(&absmax, &Encoding::Fp8);
        let back = dequantize(&nested, &Encoding::Fp8);
        assert!(back.iter().enumerate().all(|(i, b)| b.is_finite() == (i != 7 && i != 8)));
        let [_, map] = encodings();
        let back = dequantize(&quantize(&absmax, &map), &map);
        assert!(back.iter().enumerate().all(|(i, b)| b.is_finite() == (i >= 256)));
    }

    #[test]
    fn an_overflowing_sum_leaves_the_offset_at_zero() {
        assert_eq!(offset(&[f32::MAX; 4]), 0.0);
        assert_eq!((offset(&[]), offset(&[f32::NAN])), (0.0, 0.0));
    }
}
