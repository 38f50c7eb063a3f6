//! Products of few rows with the weight as it is stored: `dY[M, N]·W`, by [`simd::few_rows`](super::super::simd::few_rows).

use super::super::dequantize::Reader;
use super::super::simd::few_rows::{Backward, MOST, Rows};
use super::super::simd::{Simd, Words};
use super::engine::{NC, Operand, PAD};
use super::few_rows::passes;

/// Rows of W between two visits of dY: the lines of them that a block of the output takes stay in the second-level cache while
/// dY's rows pass, a few at a time.
const AT_ONCE: usize = 1024;
/// The shortest run of columns of a block, a group.
const SHORTEST: usize = 16;

/// Words of scratch memory: dY, and the absmax of each block of W.
pub const OPERANDS: usize = MOST * (AT_ONCE + PAD) + AT_ONCE * (NC / SHORTEST);

/// A product that this is for.
pub struct FewBackward<'a> {
    functions: &'static Backward,
    dy: &'a Operand<'a>,
    w: &'a Reader<'a>,
    /// Rows of W.
    inner: usize,
}

impl<'a> FewBackward<'a> {
    /// Of `m` rows in all. Rows of W must start with blocks, which must not be shorter than a group of columns.
    pub fn new(
        simd: &'static Simd,
        words: Words,
        m: usize,
        dy: &'a Operand<'a>,
        w: &'a Reader<'a>,
        inner: usize,
    ) -> Option<Self> {
        let functions = simd.few_rows(Words::Numbers).backward.as_ref()?;
        let most = match words {
            Words::Numbers => functions.most,
            Words::Pairs => functions.most_beside_pairs,
        };
        // Blocks of the output have a multiple of `tile_cols` columns, but for the last, which ends with a block of W.
        let whole =
            simd.tile_cols.is_multiple_of(functions.group) && w.block_size().is_multiple_of(functions.group);
        (m <= most && whole && w.has_whole_rows()).then_some(Self { functions, dy, w, inner })
    }

    /// `sums[i, j]` = element `(i0 + i, j0 + j)` of the product, for `[m, cols]` of them; rows of `sums` are `NC` apart.
    pub fn multiply(
        &self,
        simd: &Simd,
        [i0, j0]: [usize; 2],
        [m, cols]: [usize; 2],
        operands: &mut [f32],
        sums: &mut [f32],
    ) {
        let (w, functions) = (self.w, self.functions);
        // A block of the output has whole blocks of W's columns or lies in one: it has a power of two of them, or all.
        let run = w.block_size().min(cols);
        assert!(j0.is_multiple_of(run) && cols.is_multiple_of(run));
        sums.chunks_mut(NC).take(m).for_each(|sums| sums[..cols].fill(0.0));
        let (dy, absmax) = operands.split_at_mut(MOST * (AT_ONCE + PAD));
        for n0 in (0..self.inner).step_by(AT_ONCE) {
            let count = AT_ONCE.min(self.inner - n0);
            for (i, dy) in dy.chunks_mut(AT_ONCE + PAD).take(m).enumerate() {
                self.dy.read_row(simd, i0 + i, n0, &mut dy[..count]);
            }
            let (absmax, absmax_stride) = self.absmax([n0, j0], [count, cols / run], absmax);
            let rows = Rows {
                values: w.values(),
                codes: w.codes_from(n0 * w.cols() + j0),
                row_bytes: w.cols() / 2,
                absmax,
                absmax_stride,
                block_size: run,
                count,
                len: cols,
            };
            for (rows_of_dy, first) in passes(m) {
                let dy = (&dy[first * (AT_ONCE + PAD)..], AT_ONCE + PAD);
                functions.multiply_add(&rows, rows_of_dy, dy, (&mut sums[first * NC..], NC));
            }
        }
        sums.chunks_mut(NC).take(m).for_each(|sums| functions.order(&mut sums[..cols]));
    }

    /// The absmax of each run of columns of some rows of W, and how far apart rows are: where they lie, or in `buffer`.
    fn absmax<'b>(
        &self,
        [n0, j0]: [usize; 2],
        [count, runs]: [usize; 2],
        buffer: &'b mut [f32],
    ) -> (&'b [f32], usize)
    where
        'a: 'b,
    {
        let w = self.w;
        let start = n0 * w.cols() + j0;
        if let Some(absmax) = w.plain_absmax_from(start) {
            return (absmax, w.cols() / w.block_size());
        }
        for (row, absmax) in buffer.chunks_mut(runs).take(count).enumerate() {
            w.read_absmax(start + row * w.cols(), absmax);
        }
        (buffer, runs)
    }
}
