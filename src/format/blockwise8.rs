//! 8-bit blocks: 256-value maps with one f32 scale a block (8-bit optimizers, arXiv 2110.02861). The same rules as for
//! 4 bits: `t = x · (1/absmax)`, code by counting midpoints, zero blocks store the code of zero.
//!
//! bitsandbytes' own kernels do not all keep these rules: its CPU path stores 131 for an exact zero, its GPU path 0 or
//! 255 for an all-zero block. Those faults are not copied; its tables and its layout are.

use super::blockwise4::block_scale;
use super::dynamic::Map256;

/// Quantizes; returns codes and one absmax a block.
pub fn quantize(x: &[f32], map: &Map256, block_size: usize) -> (Vec<u8>, Vec<f32>) {
    let zero = map.encode(0.0);
    let mut codes = Vec::with_capacity(x.len());
    let mut absmax = Vec::with_capacity(x.len().div_ceil(block_size));
    for block in x.chunks(block_size) {
        let (scale, inverse) = block_scale(block);
        absmax.push(scale);
        codes.extend(block.iter().map(|&v| if scale == 0.0 { zero } else { map.encode(v * inverse) }));
    }
    (codes, absmax)
}

/// Dequantizes to f32: `value[code] · absmax`.
pub fn dequantize(codes: &[u8], absmax: &[f32], map: &Map256, block_size: usize) -> Vec<f32> {
    codes.iter().enumerate().map(|(i, &c)| map.values[c as usize] * absmax[i / block_size]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_stay_zero() {
        for map in [Map256::dynamic_signed(), Map256::dynamic_unsigned()] {
            let (codes, absmax) = quantize(&[0.0, 0.0, 0.0, 2.0], &map, 3);
            assert_eq!(absmax, [0.0, 2.0]);
            assert_eq!(dequantize(&codes, &absmax, &map, 3), [0.0, 0.0, 0.0, 2.0]);
        }
    }

    #[test]
    fn error_is_below_the_widest_gap() {
        let map = Map256::dynamic_signed();
        let gap = map.values.windows(2).map(|w| w[1] - w[0]).fold(0f32, f32::max);
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let (codes, absmax) = quantize(&x, &map, 256);
        for (i, y) in dequantize(&codes, &absmax, &map, 256).into_iter().enumerate() {
            assert!((x[i] - y).abs() <= gap * 0.5001 * absmax[i / 256]);
        }
    }
}
