//! Products of bf16 by AVX512-BF16 (Zen 4, Cooper Lake and later), twice as many a cycle as of f32: `vdpbf16ps` adds to each of
//! 16 sums two products, of numbers that are neighbours along the inner dimension. Products are exact in f32; the sums are
//! rounded to nearest. It takes subnormals for zero, in and out.

use super::{Pairs, PieceOfRow, Simd, Tile, avx512, decode_columns, few_rows};
use half::bf16;
use std::arch::x86_64::*;

pub static SIMD: Simd = Simd { name: "avx512_bf16", pairs: Some(PAIRS), ..avx512::TABLE };

/// Both kinds of tiles are cut from the same blocks.
const _: () = assert!(PAIRS.tiles.len() == avx512::TABLE.tiles.len() && avx512::TABLE.tile_cols == 32);

const PAIRS: Pairs = Pairs {
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
    few_rows: few_rows::AVX512_BF16,
    decode_columns: decode_columns::pairs,
    interleave,
    interleave4,
};

/// 12 x 32, as that of f32; a word is a pair.
///
/// # Safety
/// The matrices reach as far as the shape says.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
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
            let b = [pairs(b.add(p * ldb)), pairs(b.add(p * ldb + 16))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let a: __m512bh = std::mem::transmute(_mm512_set1_ps(*a.add(r * lda + p)));
                sums[0] = _mm512_dpbf16_ps(sums[0], a, b[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], a, b[1]);
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

/// 16 pairs.
///
/// # Safety
/// The instruction set is there, and they.
#[inline(always)]
unsafe fn pairs(from: *const f32) -> __m512bh {
    unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn interleave(first: &[bf16], second: &[bf16], out: &mut [f32]) {
    for ((first, second), out) in first.iter().zip(second).zip(out) {
        *out = f32::from_bits(u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16);
    }
}

/// Rows of codes, 16 columns at a time. A register holds both rows' numbers of a block, 16 each, and one look-up by words finds
/// a pair of each lane. Subnormals become zero, which the products would take them for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn interleave4(
    values: &[f32; 16],
    rows: [PieceOfRow<'_>; 2],
    block_size: usize,
    start: usize,
    out: &mut [f32],
) {
    // SAFETY: `Simd` has checked the lengths; this function is for the instruction set.
    unsafe {
        let values = _mm512_loadu_ps(values.as_ptr());
        // Byte i/2 of the first row to the low half of lane i, of the second row to the high half.
        let spread = _mm512_loadu_si512(SPREAD.as_ptr().cast());
        let mut at = 0;
        while at < out.len() {
            let block = (start + at) / block_size;
            let end = out.len().min((block + 1) * block_size - start);
            let [first, second] = rows.map(|row| {
                let absmax: &f32 = row.absmax.get_unchecked(block);
                *absmax
            });
            let [first, second] =
                [_mm512_mul_ps(values, _mm512_set1_ps(first)), _mm512_mul_ps(values, _mm512_set1_ps(second))];
            let numbers: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            for i in (at..end).step_by(16) {
                let codes = rows.map(|row| row.codes.as_ptr().add(i / 2).cast::<__m128i>());
                let codes = _mm_unpacklo_epi64(_mm_loadl_epi64(codes[0]), _mm_loadl_epi64(codes[1]));
                let codes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(codes), spread);
                let codes = _mm512_srlv_epi32(codes, _mm512_set1_epi64(4));
                // (codes & 15) | 16 of the second row.
                let (nibbles, upper) = (_mm512_set1_epi32(0x000f_000f), _mm512_set1_epi32(0x0010_0000));
                let codes = _mm512_ternarylogic_epi32::<0xea>(codes, nibbles, upper);
                let pairs = _mm512_permutexvar_epi16(codes, numbers);
                _mm512_storeu_si512(out.as_mut_ptr().add(i).cast(), pairs);
            }
            at = end;
        }
    }
}

/// Bytes of 8 of the first row and 8 of the second one, in each quarter of a register: lane i has byte i/2 of both.
const SPREAD: [u8; 64] = {
    let mut places = [0x80; 64];
    let mut lane = 0;
    while lane < 16 {
        places[4 * lane] = lane as u8 / 2;
        places[4 * lane + 2] = 8 + lane as u8 / 2;
        lane += 1;
    }
    places
};
