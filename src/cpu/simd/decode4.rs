//! Decoding 4-bit blocks. All elements of a block are among 16 numbers, value · absmax: these are computed and rounded to the
//! type of the output once a block, and an element is a look-up. The bits are the format's, which rounds each product by itself.
//!
//! **Cost** of 64 elements on Zen 4, in cycles: storing takes the longest, one for 32 bytes; the look-ups of AVX-512 are three
//! instructions (bytes spread to elements, high nibbles shifted down, the look-up) for 64 bytes. The rest is what a block takes:
//! its numbers and two loops.
//!
//! | from the cache, blocks of 64 | at least | measured by AVX-512 | by AVX2 |
//! |---|---|---|---|
//! | f32 | 8 | 14 | 23 |
//! | f16 | 4 | 11 | 19 |
//! | bf16 | 4 | 13 | 23 |
//!
//! Measured in ns, at 3.7 GHz. From memory, more than the last cache holds, f32 elements take what memory does. Stores past the
//! caches gained nothing sure there on two threads, and cost a third (16 bits) to more than twice (f32) where the output fits them.

use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// `out[i] = values[code i] · absmax[i / block_size]`, rounded once; the first code is in the high nibble of the first byte. The
/// block size is even; the last block may be a piece of any length.
pub type Decode<T> =
    unsafe fn(values: &[f32; 16], codes: &[u8], absmax: &[f32], block_size: usize, out: &mut [T]);

/// The functions of one instruction set.
pub struct Decoders {
    pub f32: Decode<f32>,
    pub f16: Decode<f16>,
    pub bf16: Decode<bf16>,
}

/// A type of elements that blocks are decoded to.
pub trait Decoded: Copy + Default {
    /// The function for it.
    fn of(decoders: &Decoders) -> Decode<Self>;
}
impl Decoded for f32 {
    fn of(decoders: &Decoders) -> Decode<f32> {
        decoders.f32
    }
}
impl Decoded for f16 {
    fn of(decoders: &Decoders) -> Decode<f16> {
        decoders.f16
    }
}
impl Decoded for bf16 {
    fn of(decoders: &Decoders) -> Decode<bf16> {
        decoders.bf16
    }
}

pub const PORTABLE: Decoders = Decoders {
    f32: |values, codes, absmax, block_size, out| {
        for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
            look_up(&values.map(|value| value * scale), codes, out);
        }
    },
    f16: |values, codes, absmax, block_size, out| {
        for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
            look_up(&values.map(|value| f16::from_f32(value * scale)), codes, out);
        }
    },
    bf16: |values, codes, absmax, block_size, out| {
        for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
            look_up(&values.map(|value| bf16::from_f32(value * scale)), codes, out);
        }
    },
};

#[cfg(target_arch = "x86_64")]
pub const AVX2: Decoders = Decoders { f32: avx2::to_f32, f16: avx2::to_f16, bf16: avx2::to_bf16 };
#[cfg(target_arch = "x86_64")]
pub const AVX512: Decoders = Decoders { f32: avx512::to_f32, f16: avx512::to_f16, bf16: avx512::to_bf16 };

/// The codes, absmax and elements of each block.
#[inline(always)]
fn blocks<'a, T>(
    codes: &'a [u8],
    absmax: &'a [f32],
    block_size: usize,
    out: &'a mut [T],
) -> impl Iterator<Item = (&'a [u8], f32, &'a mut [T])> {
    let blocks = out.chunks_mut(block_size).zip(codes.chunks(block_size / 2)).zip(absmax);
    blocks.map(|((out, codes), &scale)| (codes, scale, out))
}

#[inline(always)]
fn look_up<T: Copy>(numbers: &[T; 16], codes: &[u8], out: &mut [T]) {
    for (pair, code) in out.chunks_mut(2).zip(codes) {
        pair[0] = numbers[usize::from(code >> 4)];
        if let Some(second) = pair.get_mut(1) {
            *second = numbers[usize::from(code & 15)];
        }
    }
}

// The helpers below are inlined into functions for the instruction set: calls would pass registers through memory.

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;

    #[target_feature(enable = "avx2")]
    pub fn to_f32(values: &[f32; 16], codes: &[u8], absmax: &[f32], block_size: usize, out: &mut [f32]) {
        // Of an index the least 3 bits are looked up; the fourth is made its sign.
        let shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
        for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
            // SAFETY: this function is for the instruction set.
            let [low, high] = unsafe { scaled(values, scale) };
            let whole = out.len() / 8 * 8;
            for (codes, out) in codes.chunks_exact(4).zip(out.chunks_exact_mut(8)) {
                let codes = _mm256_set1_epi32(i32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]));
                let codes = _mm256_srlv_epi32(codes, shifts);
                let upper_half = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                let (low, high) =
                    (_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes));
                // SAFETY: 8 elements.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_blendv_ps(low, high, upper_half)) };
            }
            if whole < out.len() {
                look_up(&values.map(|value| value * scale), &codes[whole / 2..], &mut out[whole..]);
            }
        }
    }

    #[target_feature(enable = "avx2,f16c")]
    pub fn to_f16(values: &[f32; 16], codes: &[u8], absmax: &[f32], block_size: usize, out: &mut [f16]) {
        for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
            // SAFETY: this function is for the instruction set.
            unsafe {
                let [low, high] = scaled(values, scale);
                let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low);
                look_up16([low, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high)], codes, out);
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn to_bf16(values: &[f32; 16], codes: &[u8], absmax: &[f32], block_size: usize, out: &mut [bf16]) {
        for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
            // SAFETY: this function is for the instruction set.
            unsafe {
                let [low, high] = scaled(values, scale);
                // Packing takes 4 words of each; the permutation puts the second four of the first before the third.
                let rounded = _mm256_packus_epi32(round_to_bf16(low), round_to_bf16(high));
                let rounded = _mm256_permute4x64_epi64::<0b11_01_10_00>(rounded);
                let halves = [_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded)];
                look_up16(halves, codes, out);
            }
        }
    }

    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn scaled(values: &[f32; 16], scale: f32) -> [__m256; 2] {
        unsafe {
            let (values, scale) = (values.as_ptr(), _mm256_set1_ps(scale));
            [
                _mm256_mul_ps(_mm256_loadu_ps(values), scale),
                _mm256_mul_ps(_mm256_loadu_ps(values.add(8)), scale),
            ]
        }
    }

    /// The rounded numbers in the low halves of the words, as `half` rounds: to nearest even, NaNs quiet.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn round_to_bf16(x: __m256) -> __m256i {
        unsafe {
            let bits = _mm256_castps_si256(x);
            let upper = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, up));
            let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            _mm256_blendv_epi8(rounded, quiet, nan)
        }
    }

    /// Elements of 2 bytes, looked up a byte at a time.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn look_up16<T: Copy + Default>(numbers: [__m128i; 2], codes: &[u8], out: &mut [T]) {
        const { assert!(size_of::<T>() == 2) };
        // SAFETY: 16 bytes and 32 elements of 2 bytes, 16 numbers of 2 bytes.
        unsafe {
            let [first, last] = numbers;
            let low_byte = _mm_set1_epi16(255);
            let low = _mm_packus_epi16(_mm_and_si128(first, low_byte), _mm_and_si128(last, low_byte));
            let high = _mm_packus_epi16(_mm_srli_epi16::<8>(first), _mm_srli_epi16::<8>(last));
            let (low, high) = (_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high));
            // Each byte twice, in the order in which interleaving within 128 bits leaves the elements in order.
            let spread = _mm256_setr_epi8(
                0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11, //
                4, 4, 5, 5, 6, 6, 7, 7, 12, 12, 13, 13, 14, 14, 15, 15,
            );
            let (earlier, later) = (_mm256_set1_epi16(0x000f), _mm256_set1_epi16(0x0f00));
            let whole = out.len() / 32 * 32;
            for (codes, out) in codes.chunks_exact(16).zip(out.chunks_exact_mut(32)) {
                let bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(codes.as_ptr().cast()));
                let bytes = _mm256_shuffle_epi8(bytes, spread);
                let codes = _mm256_or_si256(
                    _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), earlier),
                    _mm256_and_si256(bytes, later),
                );
                let (low, high) = (_mm256_shuffle_epi8(low, codes), _mm256_shuffle_epi8(high, codes));
                let out = out.as_mut_ptr().cast::<__m256i>();
                _mm256_storeu_si256(out, _mm256_unpacklo_epi8(low, high));
                _mm256_storeu_si256(out.add(1), _mm256_unpackhi_epi8(low, high));
            }
            if whole < out.len() {
                let mut table = [T::default(); 16];
                _mm_storeu_si128(table.as_mut_ptr().cast(), first);
                _mm_storeu_si128(table.as_mut_ptr().add(8).cast(), last);
                look_up(&table, &codes[whole / 2..], &mut out[whole..]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn to_f32(values: &[f32; 16], codes: &[u8], absmax: &[f32], block_size: usize, out: &mut [f32]) {
        // SAFETY: 8 bytes and 16 elements, 16 values; what is masked is not touched. This function is for the instruction set.
        unsafe {
            let values = _mm512_loadu_ps(values.as_ptr());
            for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
                let numbers = _mm512_mul_ps(values, _mm512_set1_ps(scale));
                for (codes, out) in codes.chunks_exact(8).zip(out.chunks_exact_mut(16)) {
                    let codes = _mm_loadl_epi64(codes.as_ptr().cast());
                    _mm512_storeu_ps(out.as_mut_ptr(), look_up32(numbers, codes));
                }
                let whole = out.len() / 16 * 16;
                if whole < out.len() {
                    let (codes, out) = (&codes[whole / 2..], &mut out[whole..]);
                    let codes = _mm_maskz_loadu_epi8(first(codes.len().min(8)) as u16, codes.as_ptr().cast());
                    let mask = first(out.len()) as u16;
                    _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, look_up32(numbers, codes));
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn to_f16(values: &[f32; 16], codes: &[u8], absmax: &[f32], block_size: usize, out: &mut [f16]) {
        // SAFETY: 16 values; this function is for the instruction set.
        unsafe {
            let values = _mm512_loadu_ps(values.as_ptr());
            for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
                let numbers = _mm512_mul_ps(values, _mm512_set1_ps(scale));
                decode16(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(numbers), codes, out);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn to_bf16(values: &[f32; 16], codes: &[u8], absmax: &[f32], block_size: usize, out: &mut [bf16]) {
        // SAFETY: 16 values; this function is for the instruction set.
        unsafe {
            let values = _mm512_loadu_ps(values.as_ptr());
            for (codes, scale, out) in blocks(codes, absmax, block_size, out) {
                decode16(round_to_bf16(_mm512_mul_ps(values, _mm512_set1_ps(scale))), codes, out);
            }
        }
    }

    /// Byte i/2 to element i.
    const BYTE_OF_ELEMENT: [u16; 32] = {
        let mut bytes = [0; 32];
        let mut i = 0;
        while i < 32 {
            bytes[i] = i as u16 / 2;
            i += 1;
        }
        bytes
    };

    /// The first `n` of a mask's bits.
    fn first(n: usize) -> u32 {
        (1 << n) - 1
    }

    /// As `half` rounds: to nearest even, NaNs quiet. Not by vcvtneps2bf16, which takes subnormals for zero.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn round_to_bf16(x: __m512) -> __m256i {
        unsafe {
            let bits = _mm512_castps_si512(x);
            let upper = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, up));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)))
        }
    }

    /// 16 elements of 4 bytes by the codes in 8 bytes.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn look_up32(numbers: __m512, codes: __m128i) -> __m512 {
        unsafe {
            // Byte i/2 to element i; of that the least 4 bits are looked up.
            let spread = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            let codes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(codes), spread);
            _mm512_permutexvar_ps(_mm512_srlv_epi32(codes, _mm512_set1_epi64(4)), numbers)
        }
    }

    /// 32 elements of 2 bytes by the codes in 16 bytes.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn look_up16(numbers: __m512i, codes: __m128i) -> __m512i {
        unsafe {
            // Byte i/2 to element i; of that the least 5 bits are looked up, and the numbers are there twice.
            let spread = _mm512_loadu_si512(BYTE_OF_ELEMENT.as_ptr().cast());
            let codes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(codes), spread);
            _mm512_permutexvar_epi16(_mm512_srlv_epi16(codes, _mm512_set1_epi32(4)), numbers)
        }
    }

    /// A block of elements of 2 bytes.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn decode16<T>(numbers: __m256i, codes: &[u8], out: &mut [T]) {
        const { assert!(size_of::<T>() == 2) };
        // SAFETY: 16 bytes and 32 elements of 2 bytes; what is masked is not touched.
        unsafe {
            let numbers = _mm512_broadcast_i64x4(numbers);
            for (codes, out) in codes.chunks_exact(16).zip(out.chunks_exact_mut(32)) {
                let codes = _mm_loadu_si128(codes.as_ptr().cast());
                _mm512_storeu_si512(out.as_mut_ptr().cast(), look_up16(numbers, codes));
            }
            let whole = out.len() / 32 * 32;
            if whole < out.len() {
                let (codes, out) = (&codes[whole / 2..], &mut out[whole..]);
                let codes = _mm_maskz_loadu_epi8(first(codes.len().min(16)) as u16, codes.as_ptr().cast());
                _mm512_mask_storeu_epi16(
                    out.as_mut_ptr().cast(),
                    first(out.len()),
                    look_up16(numbers, codes),
                );
            }
        }
    }
}
