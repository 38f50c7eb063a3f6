//! Codes of numbers: [`Lines::encode`](crate::format::dynamic_rank::Lines::encode) of many at once.

use super::super::codes::Coder;
use super::super::octaves::{self, Octaves};
use super::super::portable;
use super::{AT_ONCE, ORDER, interleave, load, look_up, planes};
use std::arch::x86_64::*;

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

/// The upper halves of 64 words of 16 bits.
const UPPER_BYTES: [u8; AT_ONCE] = {
    let mut places = [0; AT_ONCE];
    let mut at = 0;
    while at < AT_ONCE {
        places[at] = 2 * at as u8 + 1;
        at += 1;
    }
    places
};

/// Codes of `x[i] · inverse`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub fn encode8(coder: &Coder, x: &[f32], inverse: f32, codes: &mut [u8]) {
    let whole = if is_plain(inverse) { x.len() / AT_ONCE * AT_ONCE } else { 0 };
    for (x, codes) in x[..whole].chunks_exact(AT_ONCE).zip(codes.chunks_exact_mut(AT_ONCE)) {
        // SAFETY: 64 numbers and 64 codes; this function is for the instruction set.
        unsafe {
            encode::<1>(coder, coder.lines.signed, x.as_ptr(), _mm512_set1_ps(inverse), codes.as_mut_ptr())
        };
    }
    portable::encode8(coder, &x[whole..], inverse, &mut codes[whole..]);
}

/// Whether all scaled numbers of the block are finite and some are not 0. A block that vanishes or has something infinite in it has
/// an inverse of 0, one with a NaN has a NaN.
pub fn is_plain(inverse: f32) -> bool {
    !inverse.is_nan() && inverse != 0.0
}

/// Codes of `N` groups of 64 finite numbers, in step. `signed` is the coder's, as a constant where it is known.
///
/// # Safety
/// The instruction set is there, the numbers, and room for the codes.
#[inline(always)]
pub unsafe fn encode<const N: usize>(
    coder: &Coder,
    signed: bool,
    x: *const f32,
    inverse: __m512,
    codes: *mut u8,
) {
    unsafe {
        let (sign, one) = (_mm512_set1_epi8(i8::MIN), _mm512_set1_epi8(1));
        let mut before = [_mm512_setzero_si512(); N];
        for (group, before) in before.iter_mut().enumerate() {
            *before = estimate(&coder.look_ups.octaves, signed, x.add(AT_ONCE * group), inverse);
        }
        let mut midpoints = [[_mm512_setzero_si512(); 4]; N];
        let planes = planes(&coder.look_ups.midpoints);
        for (midpoints, before) in midpoints.iter_mut().zip(before) {
            let in_order = _mm512_permutexvar_epi8(load(ORDER.as_ptr()), before);
            *midpoints = look_up(&planes, !signed, in_order);
            if signed {
                // Midpoints get the sign of their numbers: midpoint | (sign & number).
                midpoints[3] = _mm512_ternarylogic_epi32::<0xf8>(midpoints[3], in_order, sign);
            }
        }
        for (group, (midpoints, before)) in midpoints.into_iter().zip(before).enumerate() {
            let mut below = [0; 4];
            for (j, (below, midpoints)) in below.iter_mut().zip(interleave(midpoints)).enumerate() {
                // Scaled again: registers are too few to keep them.
                let t = _mm512_mul_ps(_mm512_loadu_ps(x.add(AT_ONCE * group + 16 * j)), inverse);
                *below = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(t, midpoints).into();
            }
            let below = _mm512_kunpackd(
                _mm512_kunpackw(below[3], below[2]).into(),
                _mm512_kunpackw(below[1], below[0]).into(),
            );
            // The code above the midpoint: 1 + distance, and from zero's on with a sign; of a negative number zero's - distance,
            // where the midpoint is one further from zero.
            let above = if signed {
                let negative = _mm512_movepi8_mask(before);
                let (above, all) = (_mm512_xor_si512(before, sign), _mm512_set1_epi8(-1));
                _mm512_mask_sub_epi8(above, negative, all, before)
            } else {
                _mm512_add_epi8(before, one)
            };
            // Saturated, since -1 has the code of what is above it, though 1 has one more.
            let code = _mm512_mask_subs_epu8(above, below, above, one);
            _mm512_storeu_si512(codes.add(AT_ONCE * group).cast(), code);
        }
    }
}

/// How many codes lie between that of zero and those of 64 scaled numbers, or one less; with the number's sign above 7 bits, if
/// there are signs.
///
/// # Safety
/// The instruction set is there, and 64 numbers.
#[inline(always)]
unsafe fn estimate(octaves: &Octaves, signed: bool, x: *const f32, inverse: __m512) -> __m512i {
    unsafe {
        let sign = _mm512_set1_epi8(i8::MIN);
        let mut distances = [_mm512_setzero_si512(); 2];
        for (half, distance) in distances.iter_mut().enumerate() {
            let mut bits = [_mm512_setzero_si512(); 2];
            for (j, bits) in bits.iter_mut().enumerate() {
                let x = _mm512_loadu_ps(x.add(32 * half + 16 * j));
                *bits = _mm512_castps_si512(_mm512_mul_ps(x, inverse));
            }
            let upper = _mm512_permutex2var_epi16(bits[0], load(UPPER_WORDS.as_ptr()), bits[1]);
            // In the unsigned map numbers below zero are the least ones.
            let magnitude = if signed { _mm512_and_si512(upper, _mm512_set1_epi16(i16::MAX)) } else { upper };
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
            // (upper & sign) | (distance & !sign), of upper bytes.
            *distance = if signed { _mm512_ternarylogic_epi32::<0xe4>(upper, least, sign) } else { least };
        }
        _mm512_permutex2var_epi8(distances[0], load(UPPER_BYTES.as_ptr()), distances[1])
    }
}
