//! The loop, over registers of any kind.

use super::super::prefetch;
use super::Rows;

/// One instruction set's registers. Made where it is there only, and inlined there: calls would pass registers through memory.
pub trait Registers: Copy {
    /// Elements that are dealt together, half of them even.
    const GROUP: usize;
    /// Words of X that half a group is.
    const HALF: usize;
    /// [`super::FewRows::lanes`].
    const LANES: usize;
    /// The 16 numbers of a block.
    type Numbers: Copy;
    /// A group's codes: odd ones in the lowest bits of each lane, even ones above.
    type Codes: Copy;
    /// Half a group of elements.
    type Elements: Copy;
    type Sum: Copy;

    unsafe fn zero(self) -> Self::Sum;
    unsafe fn load(self, from: *const f32) -> Self::Sum;
    unsafe fn store(self, to: *mut f32, sum: Self::Sum);
    /// The codebook's times absmax.
    unsafe fn numbers(self, values: *const f32, absmax: f32) -> Self::Numbers;
    unsafe fn codes(self, from: *const u8) -> Self::Codes;
    /// Those of even elements to the lowest bits.
    unsafe fn even(self, codes: Self::Codes) -> Self::Codes;
    unsafe fn look_up(self, numbers: Self::Numbers, codes: Self::Codes) -> Self::Elements;
    unsafe fn load_x(self, from: *const f32) -> Self::Elements;
    unsafe fn add_products(self, sum: Self::Sum, w: Self::Elements, x: Self::Elements) -> Self::Sum;
}

/// `R` rows of W at a time with `M` of X.
///
/// # Safety
/// The instruction set is there; see [`super::FewRows::multiply`].
#[inline(always)]
pub unsafe fn multiply<G: Registers, const R: usize, const M: usize>(
    registers: G,
    w: &Rows<'_>,
    x: *const f32,
    x_stride: usize,
    sums: *mut f32,
    add: bool,
) {
    let whole = w.count / R * R;
    unsafe {
        for row in (0..whole).step_by(R) {
            some_rows::<G, R, M>(registers, w, row, x, x_stride, sums, add);
        }
        for row in whole..w.count {
            some_rows::<G, 1, M>(registers, w, row, x, x_stride, sums, add);
        }
    }
}

/// # Safety
/// The instruction set is there, and rows `row..row + R`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // several arrays by one index
unsafe fn some_rows<G: Registers, const R: usize, const M: usize>(
    registers: G,
    w: &Rows<'_>,
    row: usize,
    x: *const f32,
    x_stride: usize,
    sums: *mut f32,
    add: bool,
) {
    unsafe {
        let blocks = w.len / w.block_size;
        let (codes, absmax) =
            (w.codes.as_ptr().add(row * w.row_bytes), w.absmax.as_ptr().add(row * w.absmax_stride));
        let mut sum = [[registers.zero(); M]; R];
        let at = |r: usize, m: usize| sums.add(((row + r) * M + m) * G::LANES);
        if add {
            for r in 0..R {
                for m in 0..M {
                    sum[r][m] = registers.load(at(r, m));
                }
            }
        }
        for block in 0..blocks {
            let mut numbers = [registers.numbers(w.values.as_ptr(), *absmax.add(block)); R];
            for r in 1..R {
                numbers[r] = registers.numbers(w.values.as_ptr(), *absmax.add(r * w.absmax_stride + block));
            }
            for i in (block * w.block_size..(block + 1) * w.block_size).step_by(G::GROUP) {
                let mut codes_of = [registers.codes(codes.add(i / 2)); R];
                for r in 0..R {
                    let codes = codes.add(r * w.row_bytes + i / 2);
                    prefetch(codes.wrapping_add(R * w.row_bytes));
                    codes_of[r] = registers.codes(codes);
                }
                // The odd elements, then the even ones: registers are too few for both.
                let x = x.add(i / G::GROUP * 2 * G::HALF);
                for x in [x.add(G::HALF), x] {
                    let mut elements = [registers.look_up(numbers[0], codes_of[0]); R];
                    for r in 1..R {
                        elements[r] = registers.look_up(numbers[r], codes_of[r]);
                    }
                    for r in 0..R {
                        codes_of[r] = registers.even(codes_of[r]);
                    }
                    for m in 0..M {
                        let x = registers.load_x(x.add(m * x_stride));
                        for r in 0..R {
                            sum[r][m] = registers.add_products(sum[r][m], elements[r], x);
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for m in 0..M {
                registers.store(at(r, m), sum[r][m]);
            }
        }
    }
}

/// `multiply` for an instruction set.
macro_rules! rows {
    ($features:literal) => {
        /// # Safety
        /// See [`super::FewRows::multiply`].
        #[target_feature(enable = $features)]
        pub unsafe fn rows<const R: usize, const M: usize>(
            w: &Rows<'_>,
            x: *const f32,
            x_stride: usize,
            sums: *mut f32,
            add: bool,
        ) {
            unsafe { multiply::<Vectors, R, M>(Vectors, w, x, x_stride, sums, add) }
        }
    };
}

pub(super) use rows;
