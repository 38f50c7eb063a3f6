//! Blocks of numbers to 4-bit codes and scales: [`crate::format::blockwise4`].
//!
//! All scales come first, then all codes: within one block each instruction waits for the last, from the largest magnitude over
//! its reciprocal to the four steps of a bisection, and only several blocks side by side keep a core busy.

#[cfg(target_arch = "x86_64")]
pub use x86::{avx2, avx512};

use super::{portable, scale_of};
use crate::format::CodebookTable;

/// Scales and packed codes of consecutive numbers, by blocks of a size, the last of which may be shorter.
pub type Quantize = unsafe fn(&CodebookTable, &[f32], usize, &mut [f32], &mut [u8]);

/// For any machine.
pub fn any(table: &CodebookTable, x: &[f32], block_size: usize, absmax: &mut [f32], codes: &mut [u8]) {
    scales(x, block_size, absmax);
    for_each_block(x, block_size, absmax, codes, |x, inverse, codes| encode(table, x, inverse, codes));
}

#[inline(always)]
fn scales(x: &[f32], block_size: usize, absmax: &mut [f32]) {
    for (x, absmax) in x.chunks(block_size).zip(absmax) {
        (*absmax, _) = scale_of(portable::max_abs_bits(x));
    }
}

/// Calls `encode` with a block, the reciprocal of its scale, and its codes. What vanishes is multiplied by 0: the code of zero.
#[inline(always)]
fn for_each_block(
    x: &[f32],
    block_size: usize,
    absmax: &[f32],
    codes: &mut [u8],
    encode: impl Fn(&[f32], f32, &mut [u8]),
) {
    for ((x, absmax), codes) in x.chunks(block_size).zip(absmax).zip(codes.chunks_mut(block_size / 2)) {
        encode(x, if *absmax == 0.0 { 0.0 } else { 1.0 / absmax }, codes);
    }
}

/// Codes of `x[i] · inverse`; an odd end pads with the code of zero.
fn encode(table: &CodebookTable, x: &[f32], inverse: f32, codes: &mut [u8]) {
    for (code, pair) in codes.iter_mut().zip(x.chunks(2)) {
        let low = if pair.len() == 2 { rank(table, pair[1] * inverse) } else { table.zero_code };
        *code = rank(table, pair[0] * inverse) << 4 | low;
    }
}

/// [`CodebookTable::encode`] by bisection: the midpoints ascend, so counting those exceeded is a search.
fn rank(table: &CodebookTable, t: f32) -> u8 {
    let mut rank = 0;
    for step in [8, 4, 2, 1] {
        // Arithmetic and no branch: the outcome is a coin toss.
        rank += usize::from(t > table.midpoints[rank + step - 1]) * step;
    }
    table.code_of_rank[rank]
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2")]
    pub fn avx2(table: &CodebookTable, x: &[f32], block_size: usize, absmax: &mut [f32], codes: &mut [u8]) {
        scales(x, block_size, absmax);
        let m = &table.midpoints;
        let bisection = Bisection8 {
            eighth: _mm256_set1_ps(m[7]),
            fourth: _mm256_set1_ps(m[3]),
            twelfth: _mm256_set1_ps(m[11]),
            twos: _mm256_setr_ps(m[1], m[5], m[9], m[13], 0.0, 0.0, 0.0, 0.0),
            ones: _mm256_setr_ps(m[0], m[2], m[4], m[6], m[8], m[10], m[12], m[14]),
        };
        // SAFETY: the table has 16 bytes.
        let code_of_rank = unsafe { _mm_loadu_si128(table.code_of_rank.as_ptr().cast()) };
        for_each_block(x, block_size, absmax, codes, |x, inverse, codes| {
            let scale = _mm256_set1_ps(inverse);
            let whole = x.len() / 16 * 16;
            for i in (0..whole).step_by(16) {
                // SAFETY: 16 elements from i on are inside x, and their 8 bytes inside codes.
                unsafe {
                    let at = x.as_ptr().add(i);
                    let low = ranks8(_mm256_mul_ps(_mm256_loadu_ps(at), scale), &bisection);
                    let high = ranks8(_mm256_mul_ps(_mm256_loadu_ps(at.add(8)), scale), &bisection);
                    // 16 ranks as 16-bit numbers in order: packing interleaves the 128-bit lanes, the permutation undoes it.
                    let ranks = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
                    let ranks =
                        _mm_packus_epi16(_mm256_castsi256_si128(ranks), _mm256_extracti128_si256::<1>(ranks));
                    let codes16 = _mm_shuffle_epi8(code_of_rank, ranks);
                    _mm_storel_epi64(codes.as_mut_ptr().add(i / 2).cast(), pack_nibbles(codes16));
                }
            }
            encode(table, &x[whole..], inverse, &mut codes[whole / 2..]);
        });
    }

    /// The midpoints in the order in which a bisection of 16 ranks meets them.
    struct Bisection8 {
        eighth: __m256,
        fourth: __m256,
        twelfth: __m256,
        /// Midpoints 1, 5, 9, 13, by the upper two bits of the rank.
        twos: __m256,
        /// Midpoints 0, 2, … 14, by the upper three bits.
        ones: __m256,
    }

    /// Ranks of eight scaled values. A comparison with NaN is false, as in the reference.
    #[target_feature(enable = "avx2")]
    fn ranks8(t: __m256, m: &Bisection8) -> __m256i {
        let above = |m: __m256| _mm256_cmp_ps::<_CMP_GT_OQ>(t, m);
        // A mask is -1: subtracting it appends a 1 to the rank's bits.
        let append =
            |rank, mask: __m256| _mm256_sub_epi32(_mm256_add_epi32(rank, rank), _mm256_castps_si256(mask));
        let first = above(m.eighth);
        let rank = append(_mm256_setzero_si256(), first);
        let rank = append(rank, above(_mm256_blendv_ps(m.fourth, m.twelfth, first)));
        let rank = append(rank, above(_mm256_permutevar8x32_ps(m.twos, rank)));
        append(rank, above(_mm256_permutevar8x32_ps(m.ones, rank)))
    }

    /// 16 codes, one a byte, to 8 bytes in the low half: earlier code · 16 + later code.
    #[target_feature(enable = "avx2")]
    fn pack_nibbles(codes: __m128i) -> __m128i {
        let pairs = _mm_maddubs_epi16(codes, _mm_set1_epi16(0x0110));
        _mm_packus_epi16(pairs, pairs)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn avx512(table: &CodebookTable, x: &[f32], block_size: usize, absmax: &mut [f32], codes: &mut [u8]) {
        scales(x, block_size, absmax);
        let mut steps = [[0f32; 16]; 4];
        for (steps, step) in steps.iter_mut().zip([8, 4, 2, 1]) {
            for rank in (0..16).step_by(2 * step) {
                steps[rank] = table.midpoints[rank + step - 1];
            }
        }
        // SAFETY: these are 16 numbers, and the table has 16 bytes.
        let (bisection, code_of_rank) = unsafe {
            (
                Bisection16 {
                    eighth: _mm512_set1_ps(steps[0][0]),
                    fours: _mm512_loadu_ps(steps[1].as_ptr()),
                    twos: _mm512_loadu_ps(steps[2].as_ptr()),
                    ones: _mm512_loadu_ps(steps[3].as_ptr()),
                },
                _mm_loadu_si128(table.code_of_rank.as_ptr().cast()),
            )
        };
        let all_codes = _mm512_broadcast_i32x4(code_of_rank);
        // Packing leaves four ranks of each of the registers in each 128-bit lane.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        for_each_block(x, block_size, absmax, codes, |x, inverse, codes| {
            let scale = _mm512_set1_ps(inverse);
            let mut i = 0;
            while i + 64 <= x.len() {
                // SAFETY: 64 elements from i on are inside x, and their 32 bytes inside codes.
                unsafe {
                    let at = x.as_ptr().add(i);
                    let mut ranks = [_mm512_setzero_si512(); 4];
                    for (j, ranks) in ranks.iter_mut().enumerate() {
                        *ranks = ranks16(_mm512_mul_ps(_mm512_loadu_ps(at.add(16 * j)), scale), &bisection);
                    }
                    let low = _mm512_packs_epi32(ranks[0], ranks[1]);
                    let high = _mm512_packs_epi32(ranks[2], ranks[3]);
                    let ranks = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
                    let pairs = _mm512_maddubs_epi16(
                        _mm512_shuffle_epi8(all_codes, ranks),
                        _mm512_set1_epi16(0x0110),
                    );
                    _mm256_storeu_si256(codes.as_mut_ptr().add(i / 2).cast(), _mm512_cvtepi16_epi8(pairs));
                }
                i += 64;
            }
            while i + 16 <= x.len() {
                // SAFETY: 16 elements from i on are inside x, and their 8 bytes inside codes.
                unsafe {
                    let t = _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr().add(i)), scale);
                    let ranks = _mm512_cvtepi32_epi8(ranks16(t, &bisection));
                    let codes16 = _mm_shuffle_epi8(code_of_rank, ranks);
                    _mm_storel_epi64(codes.as_mut_ptr().add(i / 2).cast(), pack_nibbles(codes16));
                }
                i += 16;
            }
            encode(table, &x[i..], inverse, &mut codes[i / 2..]);
        });
    }

    /// The midpoints that each step of a bisection of 16 ranks may meet, in the place of the rank so far.
    struct Bisection16 {
        eighth: __m512,
        fours: __m512,
        twos: __m512,
        ones: __m512,
    }

    /// Ranks of 16 scaled values. A comparison with NaN is false, as in the reference.
    #[target_feature(enable = "avx512f")]
    fn ranks16(t: __m512, m: &Bisection16) -> __m512i {
        let above = |m: __m512| _mm512_cmp_ps_mask::<_CMP_GT_OQ>(t, m);
        let add = |rank, mask, step| _mm512_mask_add_epi32(rank, mask, rank, _mm512_set1_epi32(step));
        let rank = _mm512_maskz_set1_epi32(above(m.eighth), 8);
        let rank = add(rank, above(_mm512_permutexvar_ps(rank, m.fours)), 4);
        let rank = add(rank, above(_mm512_permutexvar_ps(rank, m.twos)), 2);
        add(rank, above(_mm512_permutexvar_ps(rank, m.ones)), 1)
    }
}
