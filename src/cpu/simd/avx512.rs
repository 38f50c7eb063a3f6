//! The inner loops for AVX-512 (F, BW, VL): the 16 values of a codebook fill exactly one register.

use super::codes::{self, Blocks, Coder};
use super::lanes::{self, Lanes};
use super::{Simd, States, Step, Tile, avx2, decode_columns, decode4, few_rows, portable, quantize4, vbmi};
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::stochastic::{self, Key};
use crate::format::optimizer::{Arithmetic, Numbers};
use half::bf16;
use std::arch::x86_64::*;

pub static SIMD: Simd = TABLE;

/// The functions, for tables that have more.
pub const TABLE: Simd = Simd {
    name: "avx512",
    tile_cols: 32,
    tiles: &[
        tile::<1> as Tile,
        tile::<2>,
        tile::<3>,
        tile::<4>,
        tile::<5>,
        tile::<6>,
        tile::<7>,
        tile::<8>,
        tile::<9>,
        tile::<10>,
        tile::<11>,
        tile::<12>,
    ],
    few_rows: few_rows::AVX512,
    decode_columns: Some(decode_columns::numbers),
    pairs: None,
    widen_f16: avx2::widen_f16,
    widen_bf16,
    narrow_f16: avx2::narrow_f16,
    narrow_bf16,
    max_abs_bits,
    quantize4: quantize4::avx512,
    decode4: decode4::AVX512,
    transpose: avx2::transpose,
    decode8,
    encode8,
    optimizer,
    optimizer8,
    norm_terms,
    round_at_random,
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn widen_bf16(from: &[bf16], to: &mut [f32]) {
    portable::widen_bf16(from, to);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn narrow_bf16(from: &[f32], to: &mut [bf16]) {
    // Not vcvtneps2bf16: it takes subnormals for zero.
    portable::narrow_bf16(from, to);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn max_abs_bits(x: &[f32]) -> u32 {
    portable::max_abs_bits(x)
}

/// 12 x 32: 24 sums, 2 registers of B and a broadcast of A fill the register file.
///
/// # Safety
/// The matrices reach as far as the shape says.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
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
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    unsafe {
        for p in 0..k {
            let b = [_mm512_loadu_ps(b.add(p * ldb)), _mm512_loadu_ps(b.add(p * ldb + 16))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*a.add(r * lda + p));
                sums[0] = _mm512_fmadd_ps(a, b[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(a, b[1], sums[1]);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                let c = c.add(r * ldc + 16 * i);
                let sum = if add { _mm512_add_ps(_mm512_loadu_ps(c), sum) } else { sum };
                _mm512_storeu_ps(c, sum);
            }
        }
    }
}

/// Ice Lake and Zen 4 have it, Skylake's servers have not. Asked once: the answer is kept.
fn has_vbmi() -> bool {
    is_x86_feature_detected!("avx512vbmi")
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn decode8(coder: &Coder, codes: &[u8], scale: f32, out: &mut [f32]) {
    if has_vbmi() {
        // SAFETY: it is there.
        return unsafe { vbmi::decode8(coder, codes, scale, out) };
    }
    portable::decode8(coder, codes, scale, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn encode8(coder: &Coder, x: &[f32], inverse: f32, codes: &mut [u8]) {
    if has_vbmi() {
        // SAFETY: it is there.
        return unsafe { vbmi::encode8(coder, x, inverse, codes) };
    }
    avx2::encode8(coder, x, inverse, codes);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn optimizer8(step: &Step, param: &mut [f32], grad: &[f32], states: &mut [Blocks<'_>]) -> usize {
    if !has_vbmi() {
        return codes::step_by_block(&SIMD, step, param, grad, states);
    }
    let whole = param.len() / BLOCK * BLOCK;
    let (param, last_param) = param.split_at_mut(whole);
    // SAFETY: the instruction set is there; these are whole blocks.
    let kept = unsafe { vbmi::optimizer8(step, param, &grad[..whole], states) };
    if last_param.is_empty() {
        return kept;
    }
    let mut last: Vec<Blocks<'_>> = states.iter_mut().map(|state| state.after(whole / BLOCK)).collect();
    kept + codes::step_by_block(&SIMD, step, last_param, &grad[whole..], &mut last)
}

/// 16 numbers. Made where the instruction set is there only, and inlined there.
#[derive(Clone, Copy)]
pub struct Vectors;

impl Arithmetic for Vectors {
    type Value = __m512;
    type Truth = __mmask16;

    #[inline(always)]
    fn add(&self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(&self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(&self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(&self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn number(&self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn sqrt(&self, a: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn greater(&self, a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn is_finite(&self, a: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(a), _mm512_set1_ps(f32::INFINITY)) }
    }
    #[inline(always)]
    fn both(&self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn select(&self, which: __mmask16, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(which, b, a) }
    }
}

impl Lanes for Vectors {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(&self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(&self, to: *mut f32, value: __m512) {
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    fn count(&self, which: __mmask16) -> usize {
        which.count_ones() as usize
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
fn optimizer(step: &Step, param: &mut [f32], grad: &[f32], mut states: States<'_>) -> usize {
    let whole = param.len() / Vectors::LANES * Vectors::LANES;
    // SAFETY: the instruction set is there; `Simd` has checked the lengths.
    unsafe {
        lanes::optimizer(Vectors, step, 0, param, grad, &mut states)
            + lanes::optimizer(Numbers, step, whole, param, grad, &mut states)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn norm_terms(step: &Step, param: &[f32], grad: &[f32], mut states: States<'_>, mut terms: [&mut [f32]; 2]) {
    let whole = param.len() / Vectors::LANES * Vectors::LANES;
    // SAFETY: as above.
    unsafe {
        lanes::norm_terms(Vectors, step, 0, param, grad, &mut states, &mut terms);
        lanes::norm_terms(Numbers, step, whole, param, grad, &mut states, &mut terms);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn round_at_random(key: &Key, first: usize, values: &mut [f32]) {
    stochastic::round_all(key, first, values);
}
