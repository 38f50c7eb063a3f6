//! 8-bit states with AVX-512 VBMI, whose instructions look up 128 bytes at once: two of them find a byte of one of 256 numbers
//! for 64 codes, 26 instructions find 64 numbers.
//!
//! | file | what |
//! |---|---|
//! | this | look-ups, and decoding by them |
//! | [`encode`] | codes of numbers |
//! | [`step`] | steps of blocks, from codes to codes |
//!
//! **Cost** of 64 elements on Zen 4, in cycles. It begins at most two instructions of 512 bits a cycle: look-ups on one pair of
//! its four 256-bit units, multiplications and comparisons on another pair, which shares one with that; logic on all.
//!
//! | | instructions | at least | measured |
//! |---|---|---|---|
//! | decode a state | 26: look-ups 9, blends and their mask 5, interleaving 8, scaling 4 | 13 | 17 |
//! | AdamW, and the largest magnitudes | 80, with 4 divisions of 6 cycles and 4 roots of 10 | 64 | 70 |
//! | encode a state with a sign | 62: scaling 8, estimates 30, look-ups 6, interleaving 8, comparisons 7, signs and the rest 3 | 31 | 34 |
//! | encode one without | 64: 4 look-ups and 5 blends more, no signs | 32 | 37 |
//!
//! What feeds the units: tables stay in registers over many blocks, and four groups of 64 are encoded side by side, since one
//! alone is a chain of some 60 cycles. The divider leaves other units idle; filling them with the decoding of the next block,
//! before, after or between the step's instructions, was no faster.

mod encode;
mod step;

pub use encode::encode8;
pub use step::optimizer8;

use super::codes::Coder;
use super::octaves::Octaves;
use crate::format::Map256;
use std::arch::x86_64::*;

/// Elements at a time.
const AT_ONCE: usize = 64;

/// A table's bytes: byte `b` of entries `64·q..` in `[b][q]`.
type Planes = [[__m512i; 4]; 4];

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

// The helpers are inlined into functions for the instruction set: calls would pass registers through memory. So would `map`
// over arrays of them.

/// # Safety
/// The instruction set is there, and 64 bytes.
#[inline(always)]
unsafe fn load<T>(from: *const T) -> __m512i {
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn planes(table: &[[u8; 256]; 4]) -> Planes {
    let mut planes = [[unsafe { _mm512_setzero_si512() }; 4]; 4];
    for (plane, bytes) in planes.iter_mut().zip(table) {
        for (quarter, bytes) in plane.iter_mut().zip(bytes.chunks_exact(64)) {
            *quarter = unsafe { load(bytes.as_ptr()) };
        }
    }
    planes
}

/// The bytes of a table's entries by the entries' numbers: of 128 entries, or of 256.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn look_up(planes: &Planes, wide: bool, numbers: __m512i) -> [__m512i; 4] {
    unsafe {
        let mut bytes = [_mm512_setzero_si512(); 4];
        for (bytes, quarters) in bytes.iter_mut().zip(planes) {
            *bytes = _mm512_permutex2var_epi8(quarters[0], numbers, quarters[1]);
            if wide {
                let high = _mm512_permutex2var_epi8(quarters[2], numbers, quarters[3]);
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
/// The instruction set is there, 64 codes, and room for 64 values.
#[inline(always)]
unsafe fn decode(values: &Planes, codes: *const u8, scale: __m512, out: *mut f32) {
    unsafe {
        let codes = _mm512_permutexvar_epi8(load(ORDER.as_ptr()), load(codes));
        for (j, value) in interleave(look_up(values, true, codes)).into_iter().enumerate() {
            _mm512_storeu_ps(out.add(16 * j), _mm512_mul_ps(value, scale));
        }
    }
}

/// `out[i] = value[codes[i]] · scale`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub fn decode8(coder: &Coder, codes: &[u8], scale: f32, out: &mut [f32]) {
    let scale = _mm512_set1_ps(scale);
    // SAFETY: this function is for the instruction set.
    let values = unsafe { planes(&coder.look_ups.values) };
    // What is left at the end goes through these, so that there is one loop.
    let (mut few, mut few_out) = ([0; AT_ONCE], [0.0; AT_ONCE]);
    for (codes, out) in codes.chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
        let (mut from, mut to) = (codes.as_ptr(), out.as_mut_ptr());
        if codes.len() < AT_ONCE {
            few[..codes.len()].copy_from_slice(codes);
            (from, to) = (few.as_ptr(), few_out.as_mut_ptr());
        }
        // SAFETY: 64 codes and 64 numbers; this function is for the instruction set.
        unsafe { decode(&values, from, scale, to) };
        if codes.len() < AT_ONCE {
            out.copy_from_slice(&few_out[..codes.len()]);
        }
    }
}
