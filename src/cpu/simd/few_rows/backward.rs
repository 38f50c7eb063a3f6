//! The other product of few rows, `dY[M, N]·W`: each row of W, decoded in registers, is added to the sums as often as dY says.
//! Several rows of W at a time, so that a sum is loaded and stored once for all of them.

use super::super::prefetch;
use super::Rows;
use super::registers::Registers;

/// How many rows of W are asked for ahead: nobody else foresees where they lie, since only a few of their columns are read.
const AHEAD: usize = 16;

/// Registers whose elements and sums are both f32.
pub trait Numbers: Registers {
    unsafe fn all(self, number: f32) -> Self::Elements;
}

/// `R` rows of W at a time with `M` of dY.
///
/// # Safety
/// The instruction set is there; see [`super::Backward::multiply_add`].
#[inline(always)]
pub unsafe fn multiply_add<G: Numbers, const R: usize, const M: usize>(
    registers: G,
    w: &Rows<'_>,
    (dy, dy_stride): (*const f32, usize),
    (sums, sums_stride): (*mut f32, usize),
) {
    let whole = w.count / R * R;
    unsafe {
        for row in (0..whole).step_by(R) {
            some_rows::<G, R, M>(registers, w, row, (dy, dy_stride), (sums, sums_stride));
        }
        for row in whole..w.count {
            some_rows::<G, 1, M>(registers, w, row, (dy, dy_stride), (sums, sums_stride));
        }
    }
}

/// # Safety
/// The instruction set is there, and rows `row..row + R`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // several arrays by one index
unsafe fn some_rows<G: Numbers, const R: usize, const M: usize>(
    registers: G,
    w: &Rows<'_>,
    row: usize,
    (dy, dy_stride): (*const f32, usize),
    (sums, sums_stride): (*mut f32, usize),
) {
    unsafe {
        let blocks = w.len / w.block_size;
        let (codes, absmax) =
            (w.codes.as_ptr().add(row * w.row_bytes), w.absmax.as_ptr().add(row * w.absmax_stride));
        let mut times = [[registers.all(*dy.add(row)); M]; R];
        for r in 0..R {
            for m in 0..M {
                times[r][m] = registers.all(*dy.add(m * dy_stride + row + r));
            }
            for line in (0..w.len / 2).step_by(64) {
                prefetch(codes.wrapping_add((r + AHEAD) * w.row_bytes + line));
            }
        }
        for block in 0..blocks {
            let mut numbers = [registers.numbers(w.values.as_ptr(), *absmax.add(block)); R];
            for r in 1..R {
                numbers[r] = registers.numbers(w.values.as_ptr(), *absmax.add(r * w.absmax_stride + block));
            }
            for i in (block * w.block_size..(block + 1) * w.block_size).step_by(G::GROUP) {
                let mut codes_of = [registers.codes(codes.add(i / 2)); R];
                for r in 1..R {
                    codes_of[r] = registers.codes(codes.add(r * w.row_bytes + i / 2));
                }
                // The odd elements, then the even ones, whose sums come first.
                for at in [i + G::HALF, i] {
                    let mut elements = [registers.look_up(numbers[0], codes_of[0]); R];
                    for r in 1..R {
                        elements[r] = registers.look_up(numbers[r], codes_of[r]);
                    }
                    for r in 0..R {
                        codes_of[r] = registers.even(codes_of[r]);
                    }
                    for m in 0..M {
                        let place = sums.add(m * sums_stride + at);
                        let mut sum = registers.load(place);
                        for r in 0..R {
                            sum = registers.add_products(sum, elements[r], times[r][m]);
                        }
                        registers.store(place, sum);
                    }
                }
            }
        }
    }
}

/// `multiply_add` for an instruction set.
macro_rules! backward {
    ($features:literal) => {
        /// # Safety
        /// See [`super::Backward::multiply_add`].
        #[target_feature(enable = $features)]
        pub unsafe fn backward<const R: usize, const M: usize>(
            w: &Rows<'_>,
            dy: (*const f32, usize),
            sums: (*mut f32, usize),
        ) {
            unsafe { multiply_add::<Vectors, R, M>(Vectors, w, dy, sums) }
        }
    };
}

pub(super) use backward;
