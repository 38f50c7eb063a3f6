//! The inner loops for AVX2 with FMA and F16C.

use super::codes::{self, Coder};
use super::lanes::{self, Lanes};
use super::{Simd, States, Step, Tile, decode4, few_rows, portable, quantize4};
use crate::format::dynamic_rank::Lines;
use crate::format::optimizer::stochastic::{self, Key};
use crate::format::optimizer::{Arithmetic, Numbers};
use half::{bf16, f16};
use std::arch::x86_64::*;

pub static SIMD: Simd = Simd {
    name: "avx2",
    tile_cols: 16,
    tiles: &[tile::<1> as Tile, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>],
    few_rows: few_rows::AVX2,
    decode_columns: None,
    pairs: None,
    widen_f16,
    widen_bf16,
    narrow_f16,
    narrow_bf16,
    max_abs_bits,
    quantize4: quantize4::avx2,
    decode4: decode4::AVX2,
    transpose,
    decode8,
    encode8,
    optimizer,
    optimizer8: |step, param, grad, states| codes::step_by_block(&SIMD, step, param, grad, states),
    norm_terms,
    round_at_random,
};

#[target_feature(enable = "avx2,f16c")]
pub fn widen_f16(from: &[f16], to: &mut [f32]) {
    let whole = from.len() / 8 * 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: 8 elements from i on lie within both slices.
        unsafe {
            _mm256_storeu_ps(
                to.as_mut_ptr().add(i),
                _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().add(i).cast())),
            )
        };
    }
    portable::widen_f16(&from[whole..], &mut to[whole..]);
}

#[target_feature(enable = "avx2")]
fn widen_bf16(from: &[bf16], to: &mut [f32]) {
    portable::widen_bf16(from, to);
}

#[target_feature(enable = "avx2,f16c")]
pub fn narrow_f16(from: &[f32], to: &mut [f16]) {
    let whole = from.len() / 8 * 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: as in `widen_f16`.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr().add(i)));
            _mm_storeu_si128(to.as_mut_ptr().add(i).cast(), half);
        }
    }
    portable::narrow_f16(&from[whole..], &mut to[whole..]);
}

#[target_feature(enable = "avx2")]
fn narrow_bf16(from: &[f32], to: &mut [bf16]) {
    portable::narrow_bf16(from, to);
}

#[target_feature(enable = "avx2")]
fn max_abs_bits(x: &[f32]) -> u32 {
    portable::max_abs_bits(x)
}

/// By 8 x 8 squares in registers.
///
/// # Safety
/// The matrices reach as far as the shape says.
#[target_feature(enable = "avx2")]
pub unsafe fn transpose(
    rows: usize,
    cols: usize,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    let (whole_rows, whole_cols) = (rows / 8 * 8, cols / 8 * 8);
    unsafe {
        for r in (0..whole_rows).step_by(8) {
            for c in (0..whole_cols).step_by(8) {
                transpose8(from.add(r * from_stride + c), from_stride, to.add(c * to_stride + r), to_stride);
            }
        }
        let right = (from.add(whole_cols), to.add(whole_cols * to_stride));
        portable::transpose(whole_rows, cols - whole_cols, right.0, from_stride, right.1, to_stride);
        let bottom = (from.add(whole_rows * from_stride), to.add(whole_rows));
        portable::transpose(rows - whole_rows, cols, bottom.0, from_stride, bottom.1, to_stride);
    }
}

/// # Safety
/// Both pointers start an 8 x 8 square.
#[target_feature(enable = "avx2")]
unsafe fn transpose8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    let row = |r: usize| unsafe { _mm256_loadu_ps(from.add(r * from_stride)) };
    let pair = |r: usize| {
        let (a, b) = (row(r), row(r + 1));
        (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b))
    };
    let four = |r: usize| {
        let ((a0, a1), (b0, b1)) = (pair(r), pair(r + 2));
        [
            _mm256_shuffle_ps::<0x44>(a0, b0),
            _mm256_shuffle_ps::<0xee>(a0, b0),
            _mm256_shuffle_ps::<0x44>(a1, b1),
            _mm256_shuffle_ps::<0xee>(a1, b1),
        ]
    };
    let (top, bottom) = (four(0), four(4));
    for i in 0..4 {
        let left = _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]);
        let right = _mm256_permute2f128_ps::<0x31>(top[i], bottom[i]);
        unsafe {
            _mm256_storeu_ps(to.add(i * to_stride), left);
            _mm256_storeu_ps(to.add((i + 4) * to_stride), right);
        }
    }
}

/// # Safety
/// The matrices reach as far as the shape says.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const ROWS: usize>(
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    unsafe {
        for p in 0..k {
            let b = [_mm256_loadu_ps(b.add(p * ldb)), _mm256_loadu_ps(b.add(p * ldb + 8))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_broadcast_ss(&*a.add(r * lda + p));
                sums[0] = _mm256_fmadd_ps(a, b[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(a, b[1], sums[1]);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                let c = c.add(r * ldc + 8 * i);
                let sum = if add { _mm256_add_ps(_mm256_loadu_ps(c), sum) } else { sum };
                _mm256_storeu_ps(c, sum);
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn decode8(coder: &Coder, codes: &[u8], scale: f32, out: &mut [f32]) {
    portable::decode8(coder, codes, scale, out);
}

/// [`Lines::encode`], whose midpoints are gathered.
#[target_feature(enable = "avx2,fma")]
pub fn encode8(coder: &Coder, x: &[f32], inverse: f32, codes: &mut [u8]) {
    let (lines, zero) = (&coder.lines, _mm256_setzero_ps());
    let code_of_zero = if lines.signed { i32::from(Lines::ZERO) } else { 0 };
    let whole = x.len() / 8 * 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: 8 elements from i on are inside x and codes; numbers of midpoints are below 256.
        unsafe {
            let scaled = _mm256_mul_ps(_mm256_loadu_ps(x.as_ptr().add(i)), _mm256_set1_ps(inverse));
            // A NaN goes as a zero, and gets its code in the end.
            let number = _mm256_cmp_ps::<_CMP_ORD_Q>(scaled, scaled);
            let t = _mm256_and_ps(scaled, number);
            let negative = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(t, zero));
            let below_zero = if lines.signed { _mm256_sub_ps(zero, t) } else { zero };
            let magnitude = _mm256_max_ps(t, below_zero);
            let mut least = _mm256_set1_ps(f32::INFINITY);
            for (&slope, &offset) in lines.slopes.iter().zip(&lines.offsets) {
                let line = _mm256_fmadd_ps(magnitude, _mm256_set1_ps(slope), _mm256_set1_ps(offset));
                least = _mm256_min_ps(least, line);
            }
            let distance = _mm256_cvttps_epi32(least);
            // Of a negative number -1 - distance, which is !distance, but no less than the first midpoint's.
            let from_zero = if lines.signed { _mm256_xor_si256(distance, negative) } else { distance };
            let before = _mm256_add_epi32(_mm256_set1_epi32(code_of_zero), from_zero);
            let before = _mm256_max_epi32(before, _mm256_setzero_si256());
            let before = _mm256_min_epi32(before, _mm256_set1_epi32(255));
            let midpoints = _mm256_i32gather_ps::<4>(coder.map.midpoints.as_ptr(), before);
            // A mask is -1.
            let exceeds = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(t, midpoints));
            let code = _mm256_and_si256(_mm256_sub_epi32(before, exceeds), _mm256_castps_si256(number));
            let words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256::<1>(code));
            _mm_storel_epi64(codes.as_mut_ptr().add(i).cast(), _mm_packus_epi16(words, words));
        }
    }
    portable::encode8(coder, &x[whole..], inverse, &mut codes[whole..]);
}

/// 8 numbers. Made where the instruction set is there only, and inlined there.
#[derive(Clone, Copy)]
struct Vectors;

impl Arithmetic for Vectors {
    type Value = __m256;
    type Truth = __m256;

    #[inline(always)]
    fn add(&self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(&self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(&self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(&self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn number(&self, value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    fn sqrt(&self, a: __m256) -> __m256 {
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn greater(&self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn is_finite(&self, a: __m256) -> __m256 {
        unsafe {
            let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
            _mm256_cmp_ps::<_CMP_LT_OQ>(magnitude, _mm256_set1_ps(f32::INFINITY))
        }
    }
    #[inline(always)]
    fn both(&self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_and_ps(a, b) }
    }
    #[inline(always)]
    fn select(&self, which: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(b, a, which) }
    }
}

impl Lanes for Vectors {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(&self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(&self, to: *mut f32, value: __m256) {
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    fn count(&self, which: __m256) -> usize {
        unsafe { _mm256_movemask_ps(which) }.count_ones() as usize
    }
}

#[target_feature(enable = "avx2,popcnt")]
fn optimizer(step: &Step, param: &mut [f32], grad: &[f32], mut states: States<'_>) -> usize {
    let whole = param.len() / Vectors::LANES * Vectors::LANES;
    // SAFETY: the instruction set is there; `Simd` has checked the lengths.
    unsafe {
        lanes::optimizer(Vectors, step, 0, param, grad, &mut states)
            + lanes::optimizer(Numbers, step, whole, param, grad, &mut states)
    }
}

#[target_feature(enable = "avx2")]
fn norm_terms(step: &Step, param: &[f32], grad: &[f32], mut states: States<'_>, mut terms: [&mut [f32]; 2]) {
    let whole = param.len() / Vectors::LANES * Vectors::LANES;
    // SAFETY: as above.
    unsafe {
        lanes::norm_terms(Vectors, step, 0, param, grad, &mut states, &mut terms);
        lanes::norm_terms(Numbers, step, whole, param, grad, &mut states, &mut terms);
    }
}

#[target_feature(enable = "avx2")]
fn round_at_random(key: &Key, first: usize, values: &mut [f32]) {
    stochastic::round_all(key, first, values);
}
