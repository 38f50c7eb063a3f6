//! Eight f32 at a time; 16 numbers are two registers.

use super::Rows;
use super::backward::{Numbers, backward, multiply_add};
use super::registers::{Registers, multiply, rows};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Vectors;

impl Registers for Vectors {
    const GROUP: usize = 16;
    const HALF: usize = 8;
    const LANES: usize = 8;
    /// The lower and the upper half.
    type Numbers = [__m256; 2];
    type Codes = __m256i;
    type Elements = __m256;
    type Sum = __m256;

    #[inline(always)]
    unsafe fn zero(self) -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, sum: __m256) {
        unsafe { _mm256_storeu_ps(to, sum) }
    }
    #[inline(always)]
    unsafe fn numbers(self, values: *const f32, absmax: f32) -> [__m256; 2] {
        unsafe {
            let absmax = _mm256_set1_ps(absmax);
            let half = |at| _mm256_mul_ps(_mm256_loadu_ps(values.add(at)), absmax);
            [half(0), half(8)]
        }
    }
    #[inline(always)]
    unsafe fn codes(self, from: *const u8) -> __m256i {
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn even(self, codes: __m256i) -> __m256i {
        unsafe { _mm256_srli_epi32::<4>(codes) }
    }
    /// The least 3 bits are looked up; the fourth is made the sign, which chooses the half.
    #[inline(always)]
    unsafe fn look_up(self, [low, high]: [__m256; 2], codes: __m256i) -> __m256 {
        unsafe {
            let upper_half = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
            let (low, high) = (_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes));
            _mm256_blendv_ps(low, high, upper_half)
        }
    }
    #[inline(always)]
    unsafe fn load_x(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn add_products(self, sum: __m256, w: __m256, x: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(w, x, sum) }
    }
}

impl Numbers for Vectors {
    #[inline(always)]
    unsafe fn all(self, number: f32) -> __m256 {
        unsafe { _mm256_set1_ps(number) }
    }
}

/// Of 16 numbers the even ones, then the odd ones.
#[target_feature(enable = "avx2")]
pub fn deal(x: &mut [f32]) {
    for x in x.chunks_exact_mut(16) {
        let mut dealt = [0f32; 16];
        for i in 0..8 {
            (dealt[i], dealt[8 + i]) = (x[2 * i], x[2 * i + 1]);
        }
        x.copy_from_slice(&dealt);
    }
}

rows!("avx2,fma");
backward!("avx2,fma");
