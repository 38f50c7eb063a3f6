//! Sixteen f32 at a time.

use super::Rows;
use super::backward::{Numbers, backward, multiply_add};
use super::registers::{Registers, multiply, rows};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Vectors;

impl Registers for Vectors {
    const GROUP: usize = 32;
    const HALF: usize = 16;
    const LANES: usize = 16;
    type Numbers = __m512;
    type Codes = __m512i;
    type Elements = __m512;
    type Sum = __m512;

    #[inline(always)]
    unsafe fn zero(self) -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, sum: __m512) {
        unsafe { _mm512_storeu_ps(to, sum) }
    }
    #[inline(always)]
    unsafe fn numbers(self, values: *const f32, absmax: f32) -> __m512 {
        unsafe { _mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(absmax)) }
    }
    #[inline(always)]
    unsafe fn codes(self, from: *const u8) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn even(self, codes: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi32::<4>(codes) }
    }
    /// The least 4 bits are looked up.
    #[inline(always)]
    unsafe fn look_up(self, numbers: __m512, codes: __m512i) -> __m512 {
        unsafe { _mm512_permutexvar_ps(codes, numbers) }
    }
    #[inline(always)]
    unsafe fn load_x(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn add_products(self, sum: __m512, w: __m512, x: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(w, x, sum) }
    }
}

impl Numbers for Vectors {
    #[inline(always)]
    unsafe fn all(self, number: f32) -> __m512 {
        unsafe { _mm512_set1_ps(number) }
    }
}

/// Of 32 numbers the even ones, then the odd ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub fn deal(x: &mut [f32]) {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for x in x.chunks_exact_mut(32) {
        // SAFETY: 32 numbers.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
            _mm512_storeu_ps(x.as_mut_ptr(), _mm512_permutex2var_ps(low, even, high));
            _mm512_storeu_ps(x.as_mut_ptr().add(16), _mm512_permutex2var_ps(low, odd, high));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub fn add_up(sums: &[f32], out: &mut [f32]) {
    for (sum, out) in sums.chunks_exact(16).zip(out) {
        // SAFETY: 16 numbers.
        *out = _mm512_reduce_add_ps(unsafe { _mm512_loadu_ps(sum.as_ptr()) });
    }
}

rows!("avx512f,avx512bw,avx512vl");
backward!("avx512f,avx512bw,avx512vl");
