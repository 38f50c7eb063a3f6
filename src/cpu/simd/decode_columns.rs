//! Decoding 16 rows of a weight to columns, as the right side of `X·Wᵀ` needs them. It is the codes that are transposed, 8 of a row
//! at a time, a quarter or an eighth of the bytes of what they become; then each lane is a row, and has its scale.
//!
//! **Cost** of 64 elements on Zen 4, in instructions, of which it begins two a cycle: 3 to load and transpose; for f32 4 shifts,
//! look-ups, multiplications and stores each; for pairs of bf16 half as many stores, and two roundings and permutations each.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows at a time.
pub const ROWS: usize = 16;
/// Sixteen rows of a weight, from one element of each on.
pub struct Rows<'a> {
    /// The codebook's.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub values: &'a [f32; 16],
    /// Of the first row; those of each next one are `row_bytes` further.
    pub codes: &'a [u8],
    pub row_bytes: usize,
    /// Of each block that the rows reach into, all rows together.
    pub absmax: &'a [[f32; ROWS]],
    pub block_size: usize,
    /// How far into its block the first element is, a multiple of 8 like the block's size and the length.
    pub start: usize,
    /// Elements of a row.
    pub len: usize,
}

/// Words of `out[k, row]`, in rows `stride` apart.
pub type DecodeColumns = unsafe fn(rows: &Rows<'_>, out: *mut f32, stride: usize);

#[cfg(target_arch = "x86_64")]
pub use avx512::{numbers, pairs};

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::*;

    /// Codes that one shift brings to their place, for each of them: the first is in the high nibble of the first byte.
    const SHIFTS: [u32; 8] = [4, 0, 12, 8, 20, 16, 28, 24];

    /// f32.
    ///
    /// # Safety
    /// The instruction set is there, the rows, and room for the columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub unsafe fn numbers(rows: &Rows<'_>, out: *mut f32, stride: usize) {
        unsafe { decode::<false>(rows, out, stride) }
    }

    /// Pairs of bf16. Subnormals become zero, which the products would take them for.
    ///
    /// # Safety
    /// As for [`numbers`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn pairs(rows: &Rows<'_>, out: *mut f32, stride: usize) {
        unsafe { decode::<true>(rows, out, stride) }
    }

    /// Words 0 and 16, 1 and 17, and so on.
    const NEIGHBOURS: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 32 {
            places[i] = (i / 2 + 16 * (i % 2)) as u16;
            i += 1;
        }
        places
    };

    // Inlined into functions for the instruction set: calls would pass registers through memory. So would `map` over arrays of
    // them.

    /// # Safety
    /// As for [`numbers`], [`pairs`] if `PAIRS`.
    #[inline(always)]
    unsafe fn decode<const PAIRS: bool>(rows: &Rows<'_>, out: *mut f32, stride: usize) {
        unsafe {
            let values = _mm512_loadu_ps(rows.values.as_ptr());
            for first in (0..rows.len).step_by(8 * ROWS) {
                let words = ((rows.len - first) / 8).min(ROWS);
                let mut codes = [_mm512_setzero_si512(); ROWS];
                for (row, codes) in codes.iter_mut().enumerate() {
                    let from = rows.codes.as_ptr().add(row * rows.row_bytes + first / 2);
                    *codes = _mm512_maskz_loadu_epi32(((1u32 << words) - 1) as u16, from.cast());
                }
                let codes = transpose(codes);
                for (word, codes) in codes.into_iter().enumerate().take(words) {
                    let i = first + 8 * word;
                    let scale = rows.absmax.get_unchecked((rows.start + i) / rows.block_size);
                    let scale = _mm512_loadu_ps(scale.as_ptr());
                    let mut eight = [values; 8];
                    for (element, shift) in eight.iter_mut().zip(SHIFTS) {
                        let codes = _mm512_srlv_epi32(codes, _mm512_set1_epi32(shift as i32));
                        *element = _mm512_mul_ps(_mm512_permutexvar_ps(codes, values), scale);
                    }
                    if PAIRS {
                        store_pairs(&eight, out.add(i / 2 * stride), stride);
                    } else {
                        for (e, &element) in eight.iter().enumerate() {
                            _mm512_storeu_ps(out.add((i + e) * stride), element);
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`pairs`].
    #[inline(always)]
    unsafe fn store_pairs(eight: &[__m512; 8], out: *mut f32, stride: usize) {
        unsafe {
            let neighbours = _mm512_loadu_si512(NEIGHBOURS.as_ptr().cast());
            for p in 0..4 {
                let both = _mm512_cvtne2ps_pbh(eight[2 * p + 1], eight[2 * p]);
                let both =
                    _mm512_permutexvar_epi16(neighbours, std::mem::transmute::<__m512bh, __m512i>(both));
                _mm512_storeu_si512(out.add(p * stride).cast(), both);
            }
        }
    }

    /// 16 x 16 words: of pairs of rows, of pairs of those, then of quarters of registers.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
        unsafe {
            let (mut two, mut four, mut eight, mut all) = (rows, rows, rows, rows);
            for i in 0..8 {
                two[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
                two[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
            }
            for i in 0..4 {
                for h in 0..2 {
                    four[4 * i + 2 * h] = _mm512_unpacklo_epi64(two[4 * i + h], two[4 * i + 2 + h]);
                    four[4 * i + 2 * h + 1] = _mm512_unpackhi_epi64(two[4 * i + h], two[4 * i + 2 + h]);
                }
            }
            // Now quarter q of four[4·i + c] has column 4·q + c of rows 4·i..4·i + 4.
            for c in 0..4 {
                eight[c] = _mm512_shuffle_i32x4::<0x44>(four[c], four[4 + c]);
                eight[4 + c] = _mm512_shuffle_i32x4::<0xee>(four[c], four[4 + c]);
                eight[8 + c] = _mm512_shuffle_i32x4::<0x44>(four[8 + c], four[12 + c]);
                eight[12 + c] = _mm512_shuffle_i32x4::<0xee>(four[8 + c], four[12 + c]);
            }
            for c in 0..4 {
                all[c] = _mm512_shuffle_i32x4::<0x88>(eight[c], eight[8 + c]);
                all[4 + c] = _mm512_shuffle_i32x4::<0xdd>(eight[c], eight[8 + c]);
                all[8 + c] = _mm512_shuffle_i32x4::<0x88>(eight[4 + c], eight[12 + c]);
                all[12 + c] = _mm512_shuffle_i32x4::<0xdd>(eight[4 + c], eight[12 + c]);
            }
            all
        }
    }
}
