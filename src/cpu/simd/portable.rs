//! The inner loops in plain Rust, for any machine. The elementwise bodies are inlined into the other tables, where the
//! compiler vectorizes them for those targets: Rust never fuses or reorders floating point, so the bits stay.

use super::{Simd, States, Step, Tile};
use crate::format::optimizer::stochastic;
use crate::format::optimizer::{Numbers, Rule};
use crate::format::{CodebookTable, Map256};
use half::{bf16, f16};

pub static SIMD: Simd = Simd {
    name: "portable",
    tile_cols: 8,
    tiles: &[tile::<1> as Tile, tile::<2>, tile::<3>, tile::<4>],
    widen_f16,
    widen_bf16,
    narrow_f16,
    narrow_bf16,
    max_abs_bits,
    encode4,
    decode4,
    transpose,
    decode8,
    encode8,
    optimizer,
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

pub fn encode4(table: &CodebookTable, x: &[f32], inverse: f32, codes: &mut [u8]) {
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

pub fn decode4(values: &[f32; 16], codes: &[u8], scale: f32, out: &mut [f32]) {
    for (pair, code) in out.chunks_mut(2).zip(codes) {
        pair[0] = values[usize::from(code >> 4)] * scale;
        if let Some(second) = pair.get_mut(1) {
            *second = values[usize::from(code & 15)] * scale;
        }
    }
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
pub fn decode8(values: &[f32; 256], codes: &[u8], scale: f32, out: &mut [f32]) {
    for (value, &code) in out.iter_mut().zip(codes) {
        *value = values[usize::from(code)] * scale;
    }
}

/// [`Map256::encode`] by bisection.
#[inline(always)]
pub fn encode8(map: &Map256, x: &[f32], inverse: f32, codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        let t = x * inverse;
        let mut rank = 0;
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            // Arithmetic and no branch: the outcome is a coin toss. The index stays below 256: a mask says so.
            rank += usize::from(t > map.midpoints[(rank + step - 1) & 255]) * step;
        }
        *code = rank as u8;
    }
}

#[inline(always)]
pub fn optimizer(step: &Step, param: &mut [f32], grad: &[f32], states: States<'_>) -> usize {
    // A loop for each rule, whose constant rule leaves its arithmetic without a branch.
    macro_rules! of {
        ($($rule:ident)*) => {
            match step.rule {
                $(Rule::$rule => optimizer_of(Rule::$rule, step, param, grad, states),)*
            }
        };
    }
    of!(Adam AdamW AdEmaMix Lion Sgd Nesterov RmsProp Adagrad Lamb Lars)
}

#[inline(always)]
fn optimizer_of(
    rule: Rule,
    step: &Step,
    param: &mut [f32],
    grad: &[f32],
    [first, second, third]: States<'_>,
) -> usize {
    let mut kept = 0u32;
    let mut one = |p: &mut f32, g: f32, before| {
        let (next, after, taken) = rule.step(&Numbers, &step.scalars, step.trust, *p, g, before);
        *p = next;
        kept += u32::from(!taken);
        after
    };
    let pairs = param.iter_mut().zip(grad);
    match rule.states().len() {
        1 => pairs.zip(first).for_each(|((p, &g), a)| [*a, _, _] = one(p, g, [*a, 0.0, 0.0])),
        2 => pairs
            .zip(first.iter_mut().zip(second))
            .for_each(|((p, &g), (a, b))| [*a, *b, _] = one(p, g, [*a, *b, 0.0])),
        _ => pairs
            .zip(first.iter_mut().zip(second).zip(third))
            .for_each(|((p, &g), ((a, b), c))| [*a, *b, *c] = one(p, g, [*a, *b, *c])),
    }
    kept as usize
}

#[inline(always)]
pub fn norm_terms(step: &Step, param: &[f32], grad: &[f32], states: States<'_>, terms: [&mut [f32]; 2]) {
    match step.rule {
        Rule::Lars => norm_terms_of(Rule::Lars, step, param, grad, states, terms),
        _ => norm_terms_of(Rule::Lamb, step, param, grad, states, terms),
    }
}

#[inline(always)]
fn norm_terms_of(
    rule: Rule,
    step: &Step,
    param: &[f32],
    grad: &[f32],
    [first, second, _]: States<'_>,
    [terms, others]: [&mut [f32]; 2],
) {
    let inputs = param.iter().zip(grad);
    let outputs = terms.iter_mut().zip(others);
    let one = |(p, g): (&f32, &f32), (term, other): (&mut f32, &mut f32), before| {
        [*term, *other] = rule.norm_terms(&Numbers, &step.scalars, *p, *g, before);
    };
    match rule.states().len() {
        1 => inputs.zip(outputs).zip(first).for_each(|((i, o), a)| one(i, o, [*a, 0.0, 0.0])),
        _ => inputs
            .zip(outputs)
            .zip(first.iter().zip(second))
            .for_each(|((i, o), (a, b))| one(i, o, [*a, *b, 0.0])),
    }
}
