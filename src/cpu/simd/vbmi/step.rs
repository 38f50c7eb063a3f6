//! Steps of blocks of 8-bit states: decoded, stepped, encoded, a few blocks at a time.

use super::super::avx512::Vectors;
use super::super::codes::Blocks;
use super::super::lanes::{Lanes, with_rule};
use super::super::{Step, portable, scale_of};
use super::encode::{encode, is_plain};
use super::{AT_ONCE, decode, planes};
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::{Arithmetic, MAX_STATES, Rule};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Blocks whose states are numbers at a time, in the first-level cache: 8 KB of two states, beside as much of what is stepped.
const BLOCKS: usize = 4;
const TILE: usize = BLOCKS * BLOCK;

/// How many elements ahead lines are asked for, from memory into the second-level cache: two tiles, that is some 6,000 cycles. Each
/// phase asks for its share. All at once, those 160 lines of a tile would fill the 24 places for lines on their way several times
/// over, and the core would wait. What was widened lies in the cache already: asking for what follows it does nothing.
const AHEAD: usize = 2 * TILE;

/// The states of a tile, in numbers.
#[repr(align(64))]
struct Values([[MaybeUninit<f32>; TILE]; MAX_STATES]);

/// Steps whole blocks; how many elements were kept.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,popcnt")]
pub fn optimizer8(step: &Step, param: &mut [f32], grad: &[f32], states: &mut [Blocks<'_>]) -> usize {
    // SAFETY: this function is for the instruction set; `Simd` has checked the lengths.
    with_rule!(step.rule, RULE => unsafe { step_tiles(RULE, step, param, grad, states) })
}

/// # Safety
/// The instruction set is there. The slices are of whole blocks, all of one length, and there are as many states as the rule has.
#[inline(always)]
unsafe fn step_tiles(
    rule: Rule,
    step: &Step,
    param: &mut [f32],
    grad: &[f32],
    states: &mut [Blocks<'_>],
) -> usize {
    let signs = rule.states();
    let mut values = Values([[const { MaybeUninit::uninit() }; TILE]; MAX_STATES]);
    let values = values.0.each_mut().map(|values| values.as_mut_ptr().cast::<f32>());
    let mut kept = 0;
    for (tile, (param, grad)) in param.chunks_mut(TILE).zip(grad.chunks(TILE)).enumerate() {
        let (first, count) = (tile * BLOCKS, param.len() / BLOCK);
        let (param, grad) = (param.as_mut_ptr(), grad.as_ptr());
        let mut inverses = [[0.0; MAX_STATES]; BLOCKS];
        unsafe {
            for (values, state) in values.into_iter().zip(&*states) {
                decode_blocks(state, first..first + count, values);
            }
            for (block, inverses) in inverses.iter_mut().enumerate().take(count) {
                let at = block * BLOCK;
                let values = values.map(|values| values.wrapping_add(at));
                let (largest, not_taken) = step_block(rule, step, param.add(at), grad.add(at), values);
                for s in 0..signs.len() {
                    (*states[s].absmax.get_unchecked_mut(first + block), inverses[s]) = scale_of(largest[s]);
                }
                kept += not_taken;
            }
            for s in 0..signs.len() {
                for (block, inverses) in inverses.iter().enumerate().take(count) {
                    // The states ask for the parameter's lines in turns.
                    for line in (s..BLOCK / 16).step_by(signs.len()) {
                        prefetch(param.wrapping_add(AHEAD + block * BLOCK + 16 * line));
                    }
                    let values = values[s].add(block * BLOCK);
                    encode_block(&mut states[s], signs[s], first + block, inverses[s], values);
                }
            }
        }
    }
    kept
}

/// # Safety
/// The instruction set is there, the blocks, and room for their values.
#[inline(always)]
unsafe fn decode_blocks(state: &Blocks<'_>, blocks: std::ops::Range<usize>, values: *mut f32) {
    unsafe {
        let planes = planes(&state.coder.look_ups.values);
        let codes = state.codes.as_ptr().add(blocks.start * BLOCK);
        for (block, &absmax) in state.absmax.get_unchecked(blocks).iter().enumerate() {
            let scale = _mm512_set1_ps(absmax);
            for at in (block * BLOCK..(block + 1) * BLOCK).step_by(AT_ONCE) {
                prefetch(codes.wrapping_add(AHEAD + at));
                decode(&planes, codes.add(at), scale, values.add(at));
            }
        }
    }
}

/// The bits of the states' largest magnitudes, and how many elements were kept.
///
/// # Safety
/// The instruction set is there, a block of each, and of the states that the rule has.
#[inline(always)]
unsafe fn step_block(
    rule: Rule,
    step: &Step,
    param: *mut f32,
    grad: *const f32,
    values: [*mut f32; MAX_STATES],
) -> ([u32; MAX_STATES], usize) {
    let states = rule.states().len();
    let (scalars, trust) = (step.scalars.map(|scalar| Vectors.number(scalar)), Vectors.number(step.trust));
    let mut kept = 0;
    unsafe {
        let mut largest = [_mm512_setzero_si512(); MAX_STATES];
        for at in (0..BLOCK).step_by(AT_ONCE) {
            let (param, grad) = (param.add(at), grad.add(at));
            let values = values.map(|values| values.wrapping_add(at));
            let mut moved = [_mm512_setzero_ps(); AT_ONCE / 16];
            let mut next = [[_mm512_setzero_ps(); AT_ONCE / 16]; MAX_STATES];
            let mut most = [_mm512_setzero_si512(); MAX_STATES];
            for j in 0..AT_ONCE / 16 {
                prefetch(grad.wrapping_add(AHEAD + 16 * j));
                let (p, g) = (Vectors.load(param.add(16 * j)), Vectors.load(grad.add(16 * j)));
                let before = load_states(states, values, 16 * j);
                let after;
                (moved[j], after) = rule.attempt(&Vectors, &scalars, trust, p, g, before);
                for s in 0..states {
                    next[s][j] = after[s];
                    most[s] = larger(most[s], after[s], rule.states()[s]);
                }
            }
            if all_finite(&most[..states]) {
                for j in 0..AT_ONCE / 16 {
                    Vectors.store(param.add(16 * j), moved[j]);
                    for s in 0..states {
                        Vectors.store(values[s].add(16 * j), next[s][j]);
                    }
                }
            } else {
                most = [_mm512_setzero_si512(); MAX_STATES];
                kept += step_carefully(rule, step, param, grad, values, &mut most);
            }
            for s in 0..states {
                largest[s] = _mm512_max_epu32(largest[s], most[s]);
            }
        }
        let mut bits = [0; MAX_STATES];
        for s in 0..states {
            bits[s] = _mm512_reduce_max_epu32(largest[s]);
        }
        (bits, kept)
    }
}

/// 64 elements, some of which are kept as they are.
///
/// # Safety
/// As for [`step_block`].
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,popcnt")]
unsafe fn step_carefully(
    rule: Rule,
    step: &Step,
    param: *mut f32,
    grad: *const f32,
    values: [*mut f32; MAX_STATES],
    most: &mut [__m512i; MAX_STATES],
) -> usize {
    let states = rule.states().len();
    let (scalars, trust) = (step.scalars.map(|scalar| Vectors.number(scalar)), Vectors.number(step.trust));
    let mut kept = 0;
    for at in (0..AT_ONCE).step_by(Vectors::LANES) {
        unsafe {
            let (p, g) = (Vectors.load(param.add(at)), Vectors.load(grad.add(at)));
            let before = load_states(states, values, at);
            let (p, after, taken) = rule.step(&Vectors, &scalars, trust, p, g, before);
            Vectors.store(param.add(at), p);
            for s in 0..states {
                Vectors.store(values[s].add(at), after[s]);
                most[s] = larger(most[s], after[s], true);
            }
            kept += Vectors::LANES - Vectors.count(taken);
        }
    }
    kept
}

/// # Safety
/// The instruction set is there, and 16 numbers of each state.
#[inline(always)]
unsafe fn load_states(states: usize, values: [*mut f32; MAX_STATES], at: usize) -> [__m512; MAX_STATES] {
    let mut loaded = [unsafe { _mm512_setzero_ps() }; MAX_STATES];
    for (loaded, values) in loaded.iter_mut().zip(values).take(states) {
        *loaded = unsafe { Vectors.load(values.add(at)) };
    }
    loaded
}

/// The larger bits, of magnitudes where numbers may have a sign.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn larger(most: __m512i, values: __m512, signed: bool) -> __m512i {
    unsafe {
        let bits = _mm512_castps_si512(values);
        let bits = if signed { _mm512_and_si512(bits, _mm512_set1_epi32(i32::MAX)) } else { bits };
        _mm512_max_epu32(most, bits)
    }
}

/// Whether what has these largest bits is finite; no number below zero is, if its sign was left there.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn all_finite(most: &[__m512i]) -> bool {
    unsafe {
        let mut all = most[0];
        for &most in &most[1..] {
            all = _mm512_max_epu32(all, most);
        }
        _mm512_cmpge_epu32_mask(all, _mm512_set1_epi32(f32::INFINITY.to_bits() as i32)) == 0
    }
}

/// # Safety
/// The instruction set is there, the block, and its values.
#[inline(always)]
unsafe fn encode_block(state: &mut Blocks<'_>, signed: bool, block: usize, inverse: f32, values: *const f32) {
    unsafe {
        let codes = state.codes.get_unchecked_mut(block * BLOCK..(block + 1) * BLOCK);
        if is_plain(inverse) {
            encode::<{ BLOCK / AT_ONCE }>(
                state.coder,
                signed,
                values,
                _mm512_set1_ps(inverse),
                codes.as_mut_ptr(),
            );
        } else {
            portable::encode8(state.coder, std::slice::from_raw_parts(values, BLOCK), inverse, codes);
        }
    }
}

/// Asks for a line; no matter where it is.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn prefetch<T>(at: *const T) {
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}
