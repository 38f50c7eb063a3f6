//! 32 bf16 at a time, two products a lane.

use super::Rows;
use super::registers::{Registers, multiply, rows};
use std::arch::x86_64::*;
use std::mem::transmute;

#[derive(Clone, Copy)]
struct Vectors;

impl Registers for Vectors {
    const GROUP: usize = 64;
    const HALF: usize = 16;
    const LANES: usize = 16;
    /// All 16 twice, as 5 bits of a code are looked up.
    type Numbers = __m512i;
    type Codes = __m512i;
    type Elements = __m512i;
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
    /// Subnormals become zero, which the products would take them for.
    #[inline(always)]
    unsafe fn numbers(self, values: *const f32, absmax: f32) -> __m512i {
        unsafe {
            let exact = _mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(absmax));
            transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(exact, exact))
        }
    }
    #[inline(always)]
    unsafe fn codes(self, from: *const u8) -> __m512i {
        unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn even(self, codes: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi16::<4>(codes) }
    }
    #[inline(always)]
    unsafe fn look_up(self, numbers: __m512i, codes: __m512i) -> __m512i {
        unsafe { _mm512_permutexvar_epi16(codes, numbers) }
    }
    #[inline(always)]
    unsafe fn load_x(self, from: *const f32) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add_products(self, sum: __m512, w: __m512i, x: __m512i) -> __m512 {
        unsafe {
            let (w, x) = (transmute::<__m512i, __m512bh>(w), transmute::<__m512i, __m512bh>(x));
            _mm512_dpbf16_ps(sum, w, x)
        }
    }
}

/// Of 64 numbers the even ones, then the odd ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub fn deal(x: &mut [f32]) {
    // SAFETY: 32 places, 32 words.
    unsafe {
        let even = _mm512_loadu_si512(EVEN.as_ptr().cast());
        let odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
        for x in x.chunks_exact_mut(32) {
            let x: *mut __m512i = x.as_mut_ptr().cast();
            let (low, high) = (_mm512_loadu_si512(x), _mm512_loadu_si512(x.add(1)));
            _mm512_storeu_si512(x, _mm512_permutex2var_epi16(low, even, high));
            _mm512_storeu_si512(x.add(1), _mm512_permutex2var_epi16(low, odd, high));
        }
    }
}

/// The even ones of 64 elements.
const EVEN: [u16; 32] = {
    let mut places = [0; 32];
    let mut i = 0;
    while i < 32 {
        places[i] = 2 * i as u16;
        i += 1;
    }
    places
};

rows!("avx512f,avx512bw,avx512vl,avx512bf16");
