//! Products of few rows with the transposed weight: `X[M, K]·Wᵀ`, by [`simd::few_rows`](super::super::simd::few_rows).

use super::super::dequantize::Reader;
use super::super::simd::few_rows::{self, FewRows, MOST, MOST_LANES, Rows};
use super::super::simd::{Simd, Words};
use super::engine::{NC, Operand, PAD};
use super::pack;

/// Words of the rows of X that are multiplied at a time, between two visits of a row of W: so many stay in the first-level cache
/// while rows of W pass.
const AT_ONCE: usize = 8192;
/// Words of the shortest block, 32 f32 or 64 bf16, and of the longest one that this is for.
const SHORTEST: usize = 32;
const LONGEST: usize = AT_ONCE / few_rows::AT_ONCE;

/// Words of scratch memory: X, dealt, and the absmax of each block of W beside it; of the longest pieces, those of one row, or of
/// the most rows.
pub const OPERANDS: usize = {
    let alone = AT_ONCE + NC * (AT_ONCE / SHORTEST);
    let most = MOST * LONGEST + NC * (LONGEST / SHORTEST);
    MOST * PAD + if alone > most { alone } else { most }
};
/// Sums in lanes.
pub const SUMS: usize = NC * MOST * MOST_LANES;

/// A product that this is for.
pub struct Few<'a> {
    functions: &'static FewRows,
    words: Words,
    x: &'a Operand<'a>,
    w: &'a Reader<'a>,
}

impl<'a> Few<'a> {
    /// Of `m` rows in all. Rows of W must start with blocks, which must not be shorter than a group of X's elements.
    pub fn new(
        simd: &'static Simd,
        words: Words,
        m: usize,
        x: &'a Operand<'a>,
        w: &'a Reader<'a>,
    ) -> Option<Self> {
        let functions = simd.few_rows(words);
        let block = w.block_size();
        let fits = block.is_multiple_of(functions.group) && block / words.elements() <= LONGEST;
        // Without elements nothing would be stored.
        let fits = fits && w.cols() > 0;
        (m <= functions.most && fits && w.has_whole_rows()).then_some(Self { functions, words, x, w })
    }

    /// `sums[i, j]` = element `(i0 + i, j0 + j)` of the product, for `[m, cols]` of them; rows of `sums` are `NC` apart.
    pub fn multiply(
        &self,
        simd: &Simd,
        [i0, j0]: [usize; 2],
        [m, cols]: [usize; 2],
        (operands, lanes): (&mut [f32], &mut [f32]),
        sums: &mut [f32],
    ) {
        let (w, inner, per_word) = (self.w, self.w.cols(), self.words.elements());
        let functions = self.functions;
        let step = AT_ONCE * per_word / m.min(few_rows::AT_ONCE) / w.block_size() * w.block_size();
        // Rows of X that are powers of two apart would fall into the same cache sets.
        let x_stride = step / per_word + PAD;
        let (x, absmax) = operands.split_at_mut(m * x_stride);
        for k0 in (0..inner).step_by(step) {
            let len = step.min(inner - k0);
            let (words, blocks) = (len / per_word, len / w.block_size());
            for (i, x) in x.chunks_mut(x_stride).take(m).enumerate() {
                pack::read_row(simd, self.words, self.x, i0 + i, k0, len, x);
                functions.deal(&mut x[..words]);
            }
            for (row, absmax) in absmax.chunks_mut(blocks).take(cols).enumerate() {
                w.read_absmax((j0 + row) * inner + k0, absmax);
            }
            let rows = Rows {
                values: w.values(),
                codes: w.codes_from(j0 * inner + k0),
                row_bytes: inner / 2,
                absmax,
                absmax_stride: blocks,
                block_size: w.block_size(),
                count: cols,
                len,
            };
            for (count, first) in passes(m) {
                let (x, lanes) = (&x[first * x_stride..], &mut lanes[first * cols * functions.lanes..]);
                functions.multiply(&rows, (x, x_stride), count, lanes, k0 > 0);
            }
        }
        for (count, first) in passes(m) {
            let lanes = lanes[first * cols * functions.lanes..].chunks(count * functions.lanes);
            for (j, lanes) in lanes.take(cols).enumerate() {
                let column = &mut [0f32; few_rows::AT_ONCE][..count];
                functions.add_up(lanes, column);
                for (sums, &sum) in sums[first * NC..].chunks_mut(NC).zip(&*column) {
                    sums[j] = sum;
                }
            }
        }
    }
}

/// How many rows of X are multiplied at a time, and which is the first of them.
pub(super) fn passes(m: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..m).step_by(few_rows::AT_ONCE).map(move |first| (few_rows::AT_ONCE.min(m - first), first))
}
