//! 4-bit blocks: quantize and dequantize, one element after another.
//!
//! A row-major matrix is flattened; `block_size` consecutive elements share one scale, and the last block may be
//! short. Two codes a byte, the earlier element in the high nibble; an odd last element leaves the low nibble at the
//! code of zero. This is bitsandbytes' storage.

use super::codebook::CodebookTable;

/// Stands for every NaN absmax, so that all backends store the same bits.
pub const NAN_ABSMAX: f32 = f32::from_bits(0x7fc0_0000);

/// The scale of a block and its reciprocal.
///
/// `absmax = max|x|`: NaN if the block holds a NaN, else infinite if it holds an infinity. An all-zero block, and one
/// so small that `1/absmax` overflows, has absmax 0.
pub fn block_scale(block: &[f32]) -> (f32, f32) {
    let mut absmax = 0f32;
    for &x in block {
        if x.is_nan() {
            return (NAN_ABSMAX, f32::NAN);
        }
        absmax = absmax.max(x.abs());
    }
    let inverse = 1.0 / absmax;
    if inverse.is_infinite() { (0.0, 0.0) } else { (absmax, inverse) }
}

/// Quantizes; returns packed codes and one absmax a block.
pub fn quantize(x: &[f32], table: &CodebookTable, block_size: usize) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![table.zero_code << 4 | table.zero_code; x.len().div_ceil(2)];
    let mut absmax = Vec::with_capacity(x.len().div_ceil(block_size));
    for (b, block) in x.chunks(block_size).enumerate() {
        let (scale, inverse) = block_scale(block);
        absmax.push(scale);
        for (i, &value) in block.iter().enumerate() {
            let code = if scale == 0.0 { table.zero_code } else { table.encode(value * inverse) };
            set_code(&mut codes, b * block_size + i, code);
        }
    }
    (codes, absmax)
}

/// The value of element `index`, in f32: `value[code] · absmax`. Other output types round this once.
pub fn dequantize_one(codes: &[u8], index: usize, table: &CodebookTable, absmax: f32) -> f32 {
    table.values[get_code(codes, index) as usize] * absmax
}

/// Dequantizes `len` elements to f32.
pub fn dequantize(
    codes: &[u8],
    absmax: &[f32],
    len: usize,
    table: &CodebookTable,
    block_size: usize,
) -> Vec<f32> {
    (0..len).map(|i| dequantize_one(codes, i, table, absmax[i / block_size])).collect()
}

/// The code of element `index`.
pub fn get_code(codes: &[u8], index: usize) -> u8 {
    if index.is_multiple_of(2) { codes[index / 2] >> 4 } else { codes[index / 2] & 15 }
}

fn set_code(codes: &mut [u8], index: usize, code: u8) {
    let byte = &mut codes[index / 2];
    *byte = if index.is_multiple_of(2) { code << 4 | *byte & 15 } else { *byte & 0xf0 | code };
}

#[cfg(test)]
mod tests {
    use super::super::Codebook;
    use super::*;

    #[test]
    fn earlier_element_is_the_high_nibble_and_odd_ends_pad_with_zero() {
        let table = Codebook::Nf4.table().unwrap();
        let (codes, absmax) = quantize(&[1.0, -1.0, 1.0], &table, 64);
        assert_eq!((codes, absmax), (vec![0xf0, 0xf7], vec![1.0]));
    }

    #[test]
    fn a_block_of_zeros_is_zero() {
        for book in [Codebook::Nf4, Codebook::Fp4Bnb, Codebook::Int4] {
            let table = book.table().unwrap();
            let (codes, absmax) = quantize(&[0.0, -0.0, 0.0], &table, 32);
            assert_eq!((codes[0], codes[1], absmax[0]), (table.zero_code * 17, table.zero_code * 17, 0.0));
            // 1/1e-39 overflows: the block is as good as zero.
            assert_eq!(quantize(&[1e-39, 0.0, 0.0], &table, 32), (codes, absmax));
        }
    }

    #[test]
    fn a_nan_spoils_its_own_block_only() {
        let table = Codebook::Nf4.table().unwrap();
        let mut x = vec![0.5f32; 96];
        (x[3], x[40]) = (f32::NAN, f32::NEG_INFINITY);
        let (codes, absmax) = quantize(&x, &table, 32);
        assert!(absmax[0].is_nan() && absmax[1] == f32::INFINITY && absmax[2] == 0.5);
        let back = dequantize(&codes, &absmax, 96, &table, 32);
        assert!(back[..32].iter().all(|v| v.is_nan()));
        assert!(back[32..64].iter().all(|v| !v.is_finite()));
        assert_eq!(back[64..], x[64..]);
    }
}
