//! 8-bit states with AVX-512 VBMI, whose instructions look up 128 bytes at once: two of them find a byte of one of 256 numbers
//! for 64 codes, 26 instructions find 64 numbers.
//!
//! **Cost** of 64 elements on Zen 4, in cycles of its 256-bit units: of 512 bits it begins two instructions a cycle at most, and
//! one look-up, shift, multiplication or comparison of each kind.
//!
//! | | instructions | at least | measured |
//! |---|---|---|---|
//! | decode a state | 26: look-ups 9, blends and their mask 5, interleaving 8, scaling 4 | 15 | 25 |
//! | AdamW, and the largest magnitudes | 88 + 16, with 4 divisions of 6 cycles and 4 roots of 10 | 64 | 86 |
//! | encode a state with a sign | 58: scaling 4, estimates 28, look-ups 6, interleaving 8, comparisons 7, signs and the rest 5 | 29 | 44 |
//! | encode one without | 60: 4 look-ups and 5 blends more, no signs | 30 | 46 |
//!
//! With two states that is 153 cycles at least, or 137 if the other units worked beside the divider; measured are 237 for a step
//! of three loops over each block, whose numbers stay in the first-level cache in between. One loop that decodes and steps, and
//! one that encodes a block while it steps the next, were no faster: perhaps what waits for the divider fills the queues. Memory is
//! hidden by asking for lines ahead.

use super::avx512::Vectors;
use super::codes::{Blocks, Coder};
use super::lanes::{Lanes, with_rule};
use super::octaves::{self, Octaves};
use super::{Step, portable, scale_of};
use crate::format::Map256;
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::{Arithmetic, MAX_STATES, Rule};
use std::arch::x86_64::*;

/// Elements at a time.
const AT_ONCE: usize = 64;

/// A dynamic map in tables of bytes.
#[repr(align(64))]
pub struct LookUps {
    /// Byte `b` of each value.
    values: [[u8; 256]; 4],
    /// Byte `b` of each midpoint, from the first one above zero on. Those of negative numbers are these negated.
    midpoints: [[u8; 256]; 4],
    octaves: Octaves,
}

impl LookUps {
    /// Of the map of states with a sign, or without.
    pub fn new(map: &Map256, signed: bool) -> Self {
        let zero = usize::from(map.encode(0.0));
        let planes = |of: &dyn Fn(usize) -> f32| {
            std::array::from_fn(|byte| std::array::from_fn(|i| of(i).to_le_bytes()[byte]))
        };
        Self {
            values: planes(&|i| map.values[i]),
            midpoints: planes(&|i| map.midpoints[(zero + i).min(255)]),
            octaves: Octaves::new(signed),
        }
    }
}

/// Where a code goes so that its number's bytes come out in order: the four unpackings leave byte 16·lane + 4·j + i of a
/// register in element 4·lane + i of register j.
const ORDER: [u8; AT_ONCE] = {
    let mut order = [0; AT_ONCE];
    let mut at = 0;
    while at < AT_ONCE {
        let (lane, j, i) = (at / 16, at / 4 % 4, at % 4);
        order[at] = (16 * j + 4 * lane + i) as u8;
        at += 1;
    }
    order
};

/// The upper halves of 32 words of 32 bits.
const UPPER_WORDS: [u16; 32] = {
    let mut places = [0; 32];
    let mut at = 0;
    while at < 32 {
        places[at] = 2 * at as u16 + 1;
        at += 1;
    }
    places
};

/// The upper halves of 64 words of 16 bits, as they are and in [`ORDER`].
const UPPER_BYTES: [[u8; AT_ONCE]; 2] = {
    let mut places = [[0; AT_ONCE]; 2];
    let mut at = 0;
    while at < AT_ONCE {
        places[0][at] = 2 * at as u8 + 1;
        places[1][at] = 2 * ORDER[at] + 1;
        at += 1;
    }
    places
};

/// How many elements ahead lines are asked for: stepping what is in between takes longer than memory does.
const AHEAD: usize = 512;

// The helpers are inlined into functions for the instruction set: calls would pass registers through memory. So would `map`
// over arrays of them.

/// # Safety
/// The instruction set is there, and 64 bytes.
#[inline(always)]
unsafe fn load<T>(from: *const T) -> __m512i {
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// The bytes of a table's entries by the entries' numbers: of 128 entries, or of 256.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn look_up(planes: &[[u8; 256]; 4], wide: bool, numbers: __m512i) -> [__m512i; 4] {
    unsafe {
        let mut bytes = [_mm512_setzero_si512(); 4];
        for (bytes, plane) in bytes.iter_mut().zip(planes) {
            let quarter = plane.as_ptr().cast::<__m512i>();
            *bytes = _mm512_permutex2var_epi8(load(quarter), numbers, load(quarter.add(1)));
            if wide {
                let high = _mm512_permutex2var_epi8(load(quarter.add(2)), numbers, load(quarter.add(3)));
                *bytes = _mm512_mask_blend_epi8(_mm512_movepi8_mask(numbers), *bytes, high);
            }
        }
        bytes
    }
}

/// Numbers from their bytes, which are in [`ORDER`].
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn interleave(bytes: [__m512i; 4]) -> [__m512; 4] {
    unsafe {
        let (low01, high01) =
            (_mm512_unpacklo_epi8(bytes[0], bytes[1]), _mm512_unpackhi_epi8(bytes[0], bytes[1]));
        let (low23, high23) =
            (_mm512_unpacklo_epi8(bytes[2], bytes[3]), _mm512_unpackhi_epi8(bytes[2], bytes[3]));
        [
            _mm512_castsi512_ps(_mm512_unpacklo_epi16(low01, low23)),
            _mm512_castsi512_ps(_mm512_unpackhi_epi16(low01, low23)),
            _mm512_castsi512_ps(_mm512_unpacklo_epi16(high01, high23)),
            _mm512_castsi512_ps(_mm512_unpackhi_epi16(high01, high23)),
        ]
    }
}

/// The values of 64 codes.
///
/// # Safety
/// The instruction set is there, and 64 codes.
#[inline(always)]
unsafe fn decode(coder: &Coder, codes: *const u8, scale: __m512) -> [__m512; 4] {
    unsafe {
        let codes = _mm512_permutexvar_epi8(load(ORDER.as_ptr()), load(codes));
        let mut values = interleave(look_up(&coder.look_ups.values, true, codes));
        for value in &mut values {
            *value = _mm512_mul_ps(*value, scale);
        }
        values
    }
}

/// The codes of 64 scaled numbers, none of them a NaN: [`Lines::encode`](crate::format::dynamic_rank::Lines::encode).
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn encode(coder: &Coder, signed: bool, t: [__m512; 4]) -> __m512i {
    unsafe {
        let mut bits = [_mm512_setzero_si512(); 4];
        for (bits, t) in bits.iter_mut().zip(t) {
            *bits = _mm512_castps_si512(t);
        }
        let pick = load(UPPER_WORDS.as_ptr());
        let halves = [
            _mm512_permutex2var_epi16(bits[0], pick, bits[1]),
            _mm512_permutex2var_epi16(bits[2], pick, bits[3]),
        ];
        let (mut distances, sign) = (halves, _mm512_set1_epi8(i8::MIN));
        for (distance, half) in distances.iter_mut().zip(halves) {
            *distance = estimate(&coder.look_ups.octaves, signed, half);
            if signed {
                // The distance, which has 7 bits, with the sign above it: (half & sign) | (distance & !sign), of upper bytes.
                *distance = _mm512_ternarylogic_epi32::<0xe4>(half, *distance, sign);
            }
        }
        let [before, in_order] = [
            _mm512_permutex2var_epi8(distances[0], load(UPPER_BYTES[0].as_ptr()), distances[1]),
            _mm512_permutex2var_epi8(distances[0], load(UPPER_BYTES[1].as_ptr()), distances[1]),
        ];
        let mut midpoints = look_up(&coder.look_ups.midpoints, !signed, in_order);
        if signed {
            // Midpoints get the sign of their numbers: midpoint | (sign & number).
            midpoints[3] = _mm512_ternarylogic_epi32::<0xf8>(midpoints[3], in_order, sign);
        }
        let (midpoints, mut below) = (interleave(midpoints), [0; 4]);
        for j in 0..4 {
            below[j] = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(t[j], midpoints[j]).into();
        }
        let below = _mm512_kunpackd(
            _mm512_kunpackw(below[3], below[2]).into(),
            _mm512_kunpackw(below[1], below[0]).into(),
        );
        // The code above the midpoint: 1 + distance, and from zero's on with a sign; of a negative number zero's - distance, where
        // the midpoint is one further from zero.
        let one = _mm512_set1_epi8(1);
        let above = if signed {
            let negative = _mm512_movepi8_mask(before);
            let (above, all) = (_mm512_xor_si512(before, sign), _mm512_set1_epi8(-1));
            _mm512_mask_sub_epi8(above, negative, all, before)
        } else {
            _mm512_add_epi8(before, one)
        };
        // Saturated, since -1 has the code of what is above it, though 1 has one more.
        _mm512_mask_subs_epu8(above, below, above, one)
    }
}

/// How many codes lie between that of zero and those of 32 numbers, or one less: from the upper halves of the numbers, in those
/// of the words.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn estimate(octaves: &Octaves, signed: bool, halves: __m512i) -> __m512i {
    unsafe {
        // In the unsigned map numbers below zero are the least ones.
        let magnitude = if signed { _mm512_and_si512(halves, _mm512_set1_epi16(i16::MAX)) } else { halves };
        let magnitude = _mm512_max_epi16(magnitude, _mm512_set1_epi16(octaves::LEAST as i16));
        // Look-ups take 5 bits.
        let octave = _mm512_srli_epi16::<{ octaves::FRACTION }>(magnitude);
        let mut least = _mm512_set1_epi16(-1);
        for (slopes, offsets) in octaves.slopes.iter().zip(&octaves.offsets) {
            let slope = _mm512_permutexvar_epi16(octave, load(slopes.as_ptr()));
            let offset = _mm512_permutexvar_epi16(octave, load(offsets.as_ptr()));
            let line = _mm512_add_epi16(_mm512_mullo_epi16(magnitude, slope), offset);
            least = _mm512_min_epu16(least, line);
        }
        least
    }
}

/// `out[i] = value[codes[i]] · scale`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub fn decode8(coder: &Coder, codes: &[u8], scale: f32, out: &mut [f32]) {
    let scale = _mm512_set1_ps(scale);
    // What is left at the end goes through these, so that there is one loop.
    let (mut few, mut few_out) = ([0; AT_ONCE], [0.0; AT_ONCE]);
    for (codes, out) in codes.chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
        let (mut from, mut to) = (codes.as_ptr(), out.as_mut_ptr());
        if codes.len() < AT_ONCE {
            few[..codes.len()].copy_from_slice(codes);
            (from, to) = (few.as_ptr(), few_out.as_mut_ptr());
        }
        // SAFETY: 64 codes and 64 numbers; this function is for the instruction set.
        unsafe {
            for (j, value) in decode(coder, from, scale).into_iter().enumerate() {
                _mm512_storeu_ps(to.add(16 * j), value);
            }
        }
        if codes.len() < AT_ONCE {
            out.copy_from_slice(&few_out[..codes.len()]);
        }
    }
}

/// Codes of `x[i] · inverse`: [`Lines::encode`](crate::format::dynamic_rank::Lines::encode).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub fn encode8(coder: &Coder, x: &[f32], inverse: f32, codes: &mut [u8]) {
    let whole = x.len() / AT_ONCE * AT_ONCE;
    // SAFETY: this function is for the instruction set.
    unsafe { encode_all(coder, coder.lines.signed, &x[..whole], inverse, &mut codes[..whole]) };
    portable::encode8(coder, &x[whole..], inverse, &mut codes[whole..]);
}

/// Codes of whole groups of 64. `signed` is the coder's, as a constant where it is known.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn encode_all(coder: &Coder, signed: bool, x: &[f32], inverse: f32, codes: &mut [u8]) {
    // A block that vanishes or has something infinite in it has an inverse of 0, one with a NaN a NaN: others are finite.
    if inverse.is_nan() || inverse == 0.0 {
        return portable::encode8(coder, x, inverse, codes);
    }
    for (x, codes) in x.chunks_exact(AT_ONCE).zip(codes.chunks_exact_mut(AT_ONCE)) {
        // SAFETY: 64 numbers and 64 codes.
        unsafe {
            let mut t = [_mm512_setzero_ps(); 4];
            for (j, t) in t.iter_mut().enumerate() {
                *t = _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr().add(16 * j)), _mm512_set1_ps(inverse));
            }
            _mm512_storeu_si512(codes.as_mut_ptr().cast(), encode(coder, signed, t));
        }
    }
}

/// Steps whole blocks; how many elements were kept.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,popcnt")]
pub fn optimizer8(step: &Step, param: &mut [f32], grad: &[f32], states: &mut [Blocks<'_>]) -> usize {
    // SAFETY: this function is for the instruction set; `Simd` has checked the lengths.
    with_rule!(step.rule, RULE => unsafe { step_blocks(RULE, step, param, grad, states) })
}

/// The states of a block, in numbers.
#[repr(align(64))]
struct Values([[f32; BLOCK]; MAX_STATES]);

/// Each block: decoded, stepped, encoded.
///
/// # Safety
/// The instruction set is there. The slices are of whole blocks, all of one length, and there are as many states as the rule has.
#[inline(always)]
unsafe fn step_blocks(
    rule: Rule,
    step: &Step,
    param: &mut [f32],
    grad: &[f32],
    states: &mut [Blocks<'_>],
) -> usize {
    let signs = rule.states();
    let (scalars, trust) = (step.scalars.map(|scalar| Vectors.number(scalar)), Vectors.number(step.trust));
    let mut values = Values([[0.0; BLOCK]; MAX_STATES]);
    let mut kept = 0;
    for block in 0..param.len() / BLOCK {
        unsafe {
            for (values, Blocks { codes, absmax, coder }) in values.0.iter_mut().zip(&*states) {
                let scale = _mm512_set1_ps(*absmax.get_unchecked(block));
                for at in (0..BLOCK).step_by(AT_ONCE) {
                    let codes = codes.as_ptr().add(block * BLOCK + at);
                    prefetch(codes.wrapping_add(AHEAD));
                    for (j, value) in decode(coder, codes, scale).into_iter().enumerate() {
                        Vectors.store(values.as_mut_ptr().add(at + 16 * j), value);
                    }
                }
            }
            let magnitude = _mm512_set1_epi32(i32::MAX);
            let mut largest = [_mm512_setzero_si512(); MAX_STATES];
            let (param, grad) = (param.as_mut_ptr().add(block * BLOCK), grad.as_ptr().add(block * BLOCK));
            for at in (0..BLOCK).step_by(Vectors::LANES) {
                prefetch(param.wrapping_add(AHEAD + at));
                prefetch(grad.wrapping_add(AHEAD + at));
                let (p, g) = (Vectors.load(param.add(at)), Vectors.load(grad.add(at)));
                let mut before = [_mm512_setzero_ps(); MAX_STATES];
                for (before, values) in before.iter_mut().zip(&values.0).take(signs.len()) {
                    *before = Vectors.load(values.as_ptr().add(at));
                }
                let (p, after, taken) = rule.step(&Vectors, &scalars, trust, p, g, before);
                Vectors.store(param.add(at), p);
                for s in 0..signs.len() {
                    Vectors.store(values.0[s].as_mut_ptr().add(at), after[s]);
                    let bits = _mm512_and_si512(_mm512_castps_si512(after[s]), magnitude);
                    largest[s] = _mm512_max_epu32(largest[s], bits);
                }
                kept += Vectors::LANES - Vectors.count(taken);
            }
            for s in 0..signs.len() {
                let Blocks { codes, absmax, coder } = &mut states[s];
                let inverse;
                (absmax[block], inverse) = scale_of(_mm512_reduce_max_epu32(largest[s]));
                let codes = codes.get_unchecked_mut(block * BLOCK..(block + 1) * BLOCK);
                encode_all(coder, signs[s], &values.0[s], inverse, codes);
            }
        }
    }
    kept
}

/// Asks for a line; no matter where it is.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn prefetch<T>(at: *const T) {
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}
