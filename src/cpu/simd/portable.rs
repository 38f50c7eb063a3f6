//! The inner loops in plain Rust, for any machine. The elementwise bodies are inlined into the other tables, where the
//! compiler vectorizes them for those targets: Rust never fuses or reorders floating point, so the bits stay.

use super::codes::{self, Coder};
use super::{Simd, States, Step, Tile, decode4, few_rows, lanes, quantize4};
use crate::format::optimizer::Numbers;
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::stochastic;
use half::{bf16, f16};

pub static SIMD: Simd = Simd {
    name: "portable",
    tile_cols: 8,
    tiles: &[tile::<1> as Tile, tile::<2>, tile::<3>, tile::<4>],
    few_rows: few_rows::PORTABLE,
    decode_columns: None,
    pairs: None,
    widen_f16,
    widen_bf16,
    narrow_f16,
    narrow_bf16,
    max_abs_bits,
    quantize4: quantize4::any,
    decode4: decode4::PORTABLE,
    transpose,
    decode8,
    encode8,
    optimizer,
    optimizer8: |step, param, grad, states| codes::step_by_block(&SIMD, step, param, grad, states),
    norm_terms,
    round_at_random: stochastic::round_all,
};

pub fn widen_f16(from: &[f16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f32();
    }
}

#[inline(always)]
pub fn widen_bf16(from: &[bf16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f32();
    }
}

pub fn narrow_f16(from: &[f32], to: &mut [f16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f16::from_f32(*from);
    }
}

#[inline(always)]
pub fn narrow_bf16(from: &[f32], to: &mut [bf16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = bf16::from_f32(*from);
    }
}

#[inline(always)]
pub fn max_abs_bits(x: &[f32]) -> u32 {
    x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff))
}

/// # Safety
/// The matrices reach as far as the shape says.
pub unsafe fn transpose(
    rows: usize,
    cols: usize,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    for r in 0..rows {
        for c in 0..cols {
            unsafe { *to.add(c * to_stride + r) = *from.add(r * from_stride + c) };
        }
    }
}

/// # Safety
/// The matrices reach as far as the shape says.
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
    const COLS: usize = 8;
    let mut sums = [[0f32; COLS]; ROWS];
    for p in 0..k {
        let b: &[f32; COLS] = unsafe { &*b.add(p * ldb).cast() };
        for (r, sums) in sums.iter_mut().enumerate() {
            let a = unsafe { *a.add(r * lda + p) };
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let c: &mut [f32; COLS] = unsafe { &mut *c.add(r * ldc).cast() };
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = if add { *c + sum } else { *sum };
        }
    }
}

#[inline(always)]
pub fn decode8(coder: &Coder, codes: &[u8], scale: f32, out: &mut [f32]) {
    for (value, &code) in out.iter_mut().zip(codes) {
        *value = coder.map.values[usize::from(code)] * scale;
    }
}

/// [`Map256::encode`](crate::format::Map256::encode) as [`crate::format::dynamic_rank`] does it: the estimates first, which the
/// compiler vectorizes, then a look-up each.
#[inline(always)]
pub fn encode8(coder: &Coder, x: &[f32], inverse: f32, codes: &mut [u8]) {
    for (x, codes) in x.chunks(BLOCK).zip(codes.chunks_mut(BLOCK)) {
        for (code, x) in codes.iter_mut().zip(x) {
            *code = coder.lines.before(x * inverse, |a, b, c| a * b + c) as u8;
        }
        for (code, x) in codes.iter_mut().zip(x) {
            let t = x * inverse;
            let exceeds = t > coder.map.midpoints[usize::from(*code)];
            *code = if t.is_nan() { 0 } else { *code + u8::from(exceeds) };
        }
    }
}

pub fn optimizer(step: &Step, param: &mut [f32], grad: &[f32], mut states: States<'_>) -> usize {
    // SAFETY: numbers need no instruction set; `Simd` has checked the lengths.
    unsafe { lanes::optimizer(Numbers, step, 0, param, grad, &mut states) }
}

pub fn norm_terms(
    step: &Step,
    param: &[f32],
    grad: &[f32],
    mut states: States<'_>,
    mut terms: [&mut [f32]; 2],
) {
    // SAFETY: as above.
    unsafe { lanes::norm_terms(Numbers, step, 0, param, grad, &mut states, &mut terms) }
}
