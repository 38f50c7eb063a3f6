//! 8-bit codes with AVX-512 VBMI, whose instructions look up 128 bytes at once: two of them find a byte of one of 256 numbers
//! for 64 codes, 26 instructions find 64 numbers.

use super::codes::Coder;
use crate::format::dynamic_rank::Lines;
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

// The helpers are inlined into functions for the instruction set: calls would pass registers through memory. So would `map`
// over arrays of them.

/// The numbers of 64 codes, in order, from the planes of a table.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn look_up(planes: &[[u8; 256]; 4], codes: __m512i) -> [__m512; 4] {
    unsafe {
        let codes = _mm512_permutexvar_epi8(_mm512_loadu_si512(ORDER.as_ptr().cast()), codes);
        let upper = _mm512_movepi8_mask(codes);
        let mut bytes = [_mm512_setzero_si512(); 4];
        for (bytes, plane) in bytes.iter_mut().zip(planes) {
            let quarter = plane.as_ptr().cast::<__m512i>();
            let of = |q: usize| _mm512_loadu_si512(quarter.add(q));
            let low = _mm512_permutex2var_epi8(of(0), codes, of(1));
            let high = _mm512_permutex2var_epi8(of(2), codes, of(3));
            *bytes = _mm512_mask_blend_epi8(upper, low, high);
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

/// `out[i] = value[codes[i]] · scale`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub fn decode8(coder: &Coder, codes: &[u8], scale: f32, out: &mut [f32]) {
    let scale = _mm512_set1_ps(scale);
    // What is left at the end goes through these, so that there is one loop, with the tables in registers.
    let (mut few, mut few_out) = ([0; AT_ONCE], [0.0; AT_ONCE]);
    for (codes, out) in codes.chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
        let (mut from, mut to) = (codes.as_ptr(), out.as_mut_ptr());
        if codes.len() < AT_ONCE {
            few[..codes.len()].copy_from_slice(codes);
            (from, to) = (few.as_ptr(), few_out.as_mut_ptr());
        }
        // SAFETY: 64 codes and 64 numbers; this function is for the instruction set.
        unsafe {
            let numbers = look_up(&coder.value_planes, _mm512_loadu_si512(from.cast()));
            for (j, number) in numbers.into_iter().enumerate() {
                _mm512_storeu_ps(to.add(16 * j), _mm512_mul_ps(number, scale));
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
    let inverse = _mm512_set1_ps(inverse);
    let (mut few, mut few_codes) = ([0.0; AT_ONCE], [0; AT_ONCE]);
    for (x, codes) in x.chunks(AT_ONCE).zip(codes.chunks_mut(AT_ONCE)) {
        let (mut from, mut to) = (x.as_ptr(), codes.as_mut_ptr());
        if x.len() < AT_ONCE {
            few[..x.len()].copy_from_slice(x);
            (from, to) = (few.as_ptr(), few_codes.as_mut_ptr());
        }
        // SAFETY: 64 numbers and 64 codes; this function is for the instruction set.
        unsafe {
            let mut t = [_mm512_setzero_ps(); 4];
            let mut each = [_mm_setzero_si128(); 4];
            for j in 0..4 {
                t[j] = _mm512_mul_ps(_mm512_loadu_ps(from.add(16 * j)), inverse);
                each[j] = before(&coder.lines, t[j]);
            }
            let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(each[0]), each[1]);
            let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(each[2]), each[3]);
            let before = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            let midpoints = look_up(&coder.midpoint_planes, before);
            let (mut exceeds, mut numbers) = (0u64, 0u64);
            for j in 0..4 {
                exceeds |= u64::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(t[j], midpoints[j])) << (16 * j);
                numbers |= u64::from(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(t[j], t[j])) << (16 * j);
            }
            let found = _mm512_mask_add_epi8(before, exceeds, before, _mm512_set1_epi8(1));
            _mm512_storeu_si512(to.cast(), _mm512_maskz_mov_epi8(numbers, found));
        }
        if x.len() < AT_ONCE {
            codes.copy_from_slice(&few_codes[..x.len()]);
        }
    }
}

/// The code of each of 16 numbers, or the one below.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn before(lines: &Lines, t: __m512) -> __m128i {
    unsafe {
        let magnitude = if lines.signed { _mm512_abs_ps(t) } else { _mm512_max_ps(t, _mm512_setzero_ps()) };
        let mut least = _mm512_set1_ps(f32::INFINITY);
        for (&slope, &offset) in lines.slopes.iter().zip(&lines.offsets) {
            let line = _mm512_fmadd_ps(magnitude, _mm512_set1_ps(slope), _mm512_set1_ps(offset));
            least = _mm512_min_ps(line, least);
        }
        let distance = _mm512_cvttps_epi32(least);
        if !lines.signed {
            return _mm512_cvtepi32_epi8(distance);
        }
        let zero = i32::from(Lines::ZERO);
        let up = _mm512_add_epi32(distance, _mm512_set1_epi32(zero));
        let down = _mm512_sub_epi32(_mm512_set1_epi32(zero - 1), distance);
        let down = _mm512_max_epi32(down, _mm512_setzero_si512());
        let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(t, _mm512_setzero_ps());
        _mm512_cvtepi32_epi8(_mm512_mask_blend_epi32(negative, up, down))
    }
}
