//! 8-bit states with AVX-512 VBMI, whose instructions look up 128 bytes at once: two of them find a byte of one of 256 numbers
//! for 64 codes, 26 instructions find 64 numbers.
//!
//! **Cost** of 64 elements, in instructions on 512 bits, of which Zen 4 begins at most two a cycle, one look-up, multiplication
//! or comparison each:
//!
//! | | instructions | |
//! |---|---|---|
//! | decode | 26 | bytes 1 + 8 + 4 blends, their interleaving 8, scale 4, and a mask |
//! | AdamW | 88 | and the divider: 4 divisions of 6 cycles and 4 roots of 10, so 64 cycles |
//! | absmax | 8 | |
//! | encode, signed | 57 | scale 4, upper halves 2, estimates 24 ([`super::octaves`]), bytes 2 + 4, interleaving 8, comparisons 8, the rest masks and signs |
//! | encode, unsigned | 62 | four more look-ups and blends: 256 midpoints, where the signed map has 128 on either side of zero |
//!
//! Decoding two states, stepping and the maximum run in one loop: 156 instructions, 80 cycles or so, beside the divider. Two
//! states are encoded in 60 cycles more, once the block's maximum is known.

use super::avx512::Vectors;
use super::codes::{Blocks, Coder};
use super::lanes::{Lanes, with_rule};
use super::octaves::{self, Octaves};
use super::{Step, portable, scale_of};
use crate::format::dynamic_rank::Lines;
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::{Arithmetic, MAX_STATES, Rule};
use std::arch::x86_64::*;

/// Elements at a time.
const AT_ONCE: usize = 64;

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

/// Elements between those that are stepped and those that are asked for: what is in between takes longer than memory does.
const AHEAD: usize = 768;

// The helpers are inlined into functions for the instruction set: calls would pass registers through memory. So would `map`
// over arrays of them.

/// # Safety
/// The instruction set is there, and 64 bytes.
#[inline(always)]
unsafe fn load<T>(from: *const T) -> __m512i {
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// The entries of a table by their numbers, which are in [`ORDER`]: of 128 entries, or of 256.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn look_up(planes: &[[u8; 256]; 4], wide: bool, numbers: __m512i) -> [__m512; 4] {
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
        let mut values = look_up(&coder.value_planes, true, codes);
        for value in &mut values {
            *value = _mm512_mul_ps(*value, scale);
        }
        values
    }
}

/// The codes of 64 scaled numbers, none of them a NaN: [`Lines::encode`].
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
        let distances =
            [estimate(&coder.octaves, signed, halves[0]), estimate(&coder.octaves, signed, halves[1])];
        let in_order = load(UPPER_BYTES[1].as_ptr());
        let in_order = _mm512_permutex2var_epi8(distances[0], in_order, distances[1]);
        let mut midpoints = look_up(&coder.midpoint_planes, !signed, in_order);
        let mut codes = distances;
        if signed {
            let sign = _mm512_castps_si512(_mm512_set1_ps(-0.0));
            for (midpoint, bits) in midpoints.iter_mut().zip(bits) {
                // midpoint | (bits & sign)
                let signed = _mm512_ternarylogic_epi32::<0xf8>(_mm512_castps_si512(*midpoint), bits, sign);
                *midpoint = _mm512_castsi512_ps(signed);
            }
            // Of a negative number the midpoint before it is one further from zero: -1 - distance, which is !distance.
            for (code, halves) in codes.iter_mut().zip(halves) {
                *code = _mm512_xor_si512(*code, _mm512_srai_epi16::<15>(halves));
            }
        }
        let mut before = _mm512_permutex2var_epi8(codes[0], load(UPPER_BYTES[0].as_ptr()), codes[1]);
        if signed {
            before = _mm512_add_epi8(before, _mm512_set1_epi8(Lines::ZERO as i8));
        }
        let mut greater = [0; 4];
        for j in 0..4 {
            greater[j] = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(t[j], midpoints[j]).into();
        }
        let greater = _mm512_kunpackd(
            _mm512_kunpackw(greater[3], greater[2]).into(),
            _mm512_kunpackw(greater[1], greater[0]).into(),
        );
        _mm512_mask_add_epi8(before, greater, before, _mm512_set1_epi8(1))
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
        let mut magnitude = halves;
        // In the unsigned map numbers below zero are the least ones.
        if signed {
            let lowest = _mm512_min_epu16(halves, _mm512_set1_epi16(octaves.lowest as i16));
            magnitude = _mm512_and_si512(lowest, _mm512_set1_epi16(i16::MAX));
        }
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

/// Codes of `x[i] · inverse`: [`Lines::encode`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub fn encode8(coder: &Coder, x: &[f32], inverse: f32, codes: &mut [u8]) {
    let whole = x.len() / AT_ONCE * AT_ONCE;
    // SAFETY: 64 numbers and 64 codes each; this function is for the instruction set.
    unsafe {
        if coder.lines.signed {
            encode_all(coder, true, &x[..whole], inverse, &mut codes[..whole]);
        } else {
            encode_all(coder, false, &x[..whole], inverse, &mut codes[..whole]);
        }
    }
    portable::encode8(coder, &x[whole..], inverse, &mut codes[whole..]);
}

/// Codes of whole groups of 64.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn encode_all(coder: &Coder, signed: bool, x: &[f32], inverse: f32, codes: &mut [u8]) {
    // A block that vanishes or has something infinite in it has an inverse of 0, one with a NaN a NaN.
    if !(inverse > 0.0) {
        return portable::encode8(coder, x, inverse, codes);
    }
    for (x, codes) in x.chunks_exact(AT_ONCE).zip(codes.chunks_exact_mut(AT_ONCE)) {
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

/// Stepped states, before they are encoded.
#[repr(align(64))]
struct Stepped([[f32; BLOCK]; MAX_STATES]);

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
    let mut stepped = Stepped([[0.0; BLOCK]; MAX_STATES]);
    let mut kept = 0;
    for block in 0..param.len() / BLOCK {
        unsafe {
            let (zero, magnitude) = (_mm512_setzero_si512(), _mm512_set1_epi32(i32::MAX));
            let mut largest = [zero; MAX_STATES];
            for at in (0..BLOCK).step_by(AT_ONCE) {
                let first = block * BLOCK + at;
                let (param, grad) = (param.as_mut_ptr().add(first), grad.as_ptr().add(first));
                let mut before = [[_mm512_setzero_ps(); 4]; MAX_STATES];
                for s in 0..signs.len() {
                    let Blocks { codes, absmax, coder } = &states[s];
                    prefetch(codes.as_ptr().wrapping_add(first + AHEAD));
                    let scale = _mm512_set1_ps(*absmax.get_unchecked(block));
                    before[s] = decode(coder, codes.as_ptr().add(first), scale);
                }
                for j in 0..4 {
                    prefetch(param.wrapping_add(AHEAD + 16 * j));
                    prefetch(grad.wrapping_add(AHEAD + 16 * j));
                    let (p, g) = (Vectors.load(param.add(16 * j)), Vectors.load(grad.add(16 * j)));
                    let mut now = [_mm512_setzero_ps(); MAX_STATES];
                    for s in 0..signs.len() {
                        now[s] = before[s][j];
                    }
                    let (p, after, taken) = rule.step(&Vectors, &scalars, trust, p, g, now);
                    Vectors.store(param.add(16 * j), p);
                    for s in 0..signs.len() {
                        Vectors.store(stepped.0[s].as_mut_ptr().add(at + 16 * j), after[s]);
                        let bits = _mm512_and_si512(_mm512_castps_si512(after[s]), magnitude);
                        largest[s] = _mm512_max_epu32(largest[s], bits);
                    }
                    kept += Vectors::LANES - Vectors.count(taken);
                }
            }
            for s in 0..signs.len() {
                let Blocks { codes, absmax, coder } = &mut states[s];
                let inverse;
                (absmax[block], inverse) = scale_of(_mm512_reduce_max_epu32(largest[s]));
                let codes = codes.get_unchecked_mut(block * BLOCK..(block + 1) * BLOCK);
                encode_all(coder, signs[s], &stepped.0[s], inverse, codes);
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
