//! The matrix product: a sum of products of dense, transposed or quantized operands, tile by tile.
//!
//! Each task computes one block of the output, at most `MC x NC`. It walks the inner dimension in steps of `KC`: the
//! block of the left operand and that of the right one are brought to f32 in the thread's scratch memory (this is where
//! a quantized weight is decoded, never more than `KC x NC` of it), then tiles of registers multiply them. An element's
//! sum is formed in one order, whatever the number of threads or the position of the element in a block:
//! chains of `KC` words, added up in order.
//!
//! Few rows are multiplied by the weight's rows instead, which are never written down: [`few_rows`] with a transposed weight, where
//! each lane of a vector is a chain as long as the inner dimension, and [`few_rows_backward`], where each element is one.
//!
//! Where the processor multiplies pairs of bf16 and the left operand is of bf16, so is the right one in the scratch memory: a
//! weight is rounded once more after it is decoded, as PyTorch's and a GPU's products have it, and sums are f32 all the same.

use super::super::Cpu;
use super::super::access::{self, Output, read_row};
use super::super::dequantize::Reader;
use super::super::simd::{Simd, Words};
use super::super::threads::{Shared, Threads};
use super::few_rows::{self, Few};
use super::few_rows_backward::{self, FewBackward};
use super::pack;
use crate::view::{DType, Tensor, TensorMut};
use half::bf16;
use std::sync::Arc;

/// Rows of the output that share one decoding of the right operand: what it costs is divided by this.
const MC: usize = 192;
/// Columns of the output in a block.
pub(super) const NC: usize = 128;
/// Inner words between two visits of the output block; `KC x NC` and `MC x KC` words fit the second-level cache.
const KC: usize = 256;
/// Rows of the scratch blocks are longer by this, so that they do not all fall into the same cache sets.
pub(super) const PAD: usize = 16;
/// Floats of scratch memory a thread.
const PER_THREAD: usize = MC * (KC + PAD) + KC * (NC + PAD) + MC * NC + pack::STRIP * (KC + PAD);
const ALIGN: usize = 64;
const _: () = assert!(few_rows_backward::OPERANDS <= MC * (KC + PAD));
const _: () = assert!(few_rows::OPERANDS <= MC * (KC + PAD) && few_rows::SUMS <= KC * (NC + PAD));

/// A stored matrix, or its transpose, as one side of a product.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    matrix: Matrix<'a>,
    transposed: bool,
}

#[derive(Clone, Copy)]
enum Matrix<'a> {
    Dense(&'a Tensor<'a>),
    Quantized(&'a Reader<'a>),
}

impl<'a> Operand<'a> {
    pub fn dense(tensor: &'a Tensor<'a>) -> Self {
        Self { matrix: Matrix::Dense(tensor), transposed: false }
    }

    pub fn quantized(reader: &'a Reader<'a>) -> Self {
        Self { matrix: Matrix::Quantized(reader), transposed: false }
    }

    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    pub(super) fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// `out` = elements of the stored matrix's row `row` from column `col` on.
    pub(super) fn read_row(&self, simd: &Simd, row: usize, col: usize, out: &mut [f32]) {
        match self.matrix {
            Matrix::Dense(tensor) => read_row(simd, tensor, row, col, out),
            Matrix::Quantized(reader) => reader.read_row(simd, row, col, out),
        }
    }

    /// The same in bf16, of a matrix that is quantized or of bf16.
    pub(super) fn read_row_bf16(&self, simd: &Simd, row: usize, col: usize, out: &mut [bf16]) {
        match self.matrix {
            Matrix::Dense(tensor) => out.copy_from_slice(access::row(tensor, row, col, out.len())),
            Matrix::Quantized(reader) => reader.read_row(simd, row, col, out),
        }
    }

    /// The quantized matrix, if it is one.
    pub(super) fn weight(&self) -> Option<&'a Reader<'a>> {
        match self.matrix {
            Matrix::Dense(_) => None,
            Matrix::Quantized(reader) => Some(reader),
        }
    }

    fn is_bf16(&self) -> bool {
        matches!(self.matrix, Matrix::Dense(tensor) if tensor.dtype() == DType::Bf16)
    }
}

/// `left[M, inner] · right[inner, N]`.
pub struct Product<'a> {
    pub left: Operand<'a>,
    pub right: Operand<'a>,
    pub inner: usize,
}

impl Product<'_> {
    /// What is multiplied.
    fn words(&self, simd: &Simd) -> Words {
        let right = self.right.weight().is_some() || self.right.is_bf16();
        if simd.has_pairs() && self.left.is_bf16() && !self.left.transposed && right {
            Words::Pairs
        } else {
            Words::Numbers
        }
    }

    /// If it has few rows, of `m`, and a weight that is not transposed.
    fn few_rows_backward(&self, simd: &'static Simd, m: usize) -> Option<FewBackward<'_>> {
        let weight = self.right.weight().filter(|_| !self.right.transposed && !self.left.transposed)?;
        FewBackward::new(simd, self.words(simd), m, &self.left, weight, self.inner)
    }

    /// If it has few rows, of `m`, and a transposed weight.
    fn few_rows(&self, simd: &'static Simd, m: usize) -> Option<Few<'_>> {
        let weight = self.right.weight().filter(|_| self.right.transposed && !self.left.transposed)?;
        Few::new(simd, self.words(simd), m, &self.left, weight)
    }
}

/// What happens to the sums on their way out: `out = scale · sum + bias (+ out)`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    pub scale: f32,
    /// A row of N values.
    pub bias: Option<&'a Tensor<'a>>,
    pub accumulate: bool,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { scale: 1.0, bias: None, accumulate: false }
    }
}

/// Workspace memory of the caller, and the threads that it was measured for.
pub struct Scratch<'a> {
    threads: Arc<Threads>,
    memory: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    /// Bytes for the engine alone, at any alignment.
    pub fn bytes(threads: usize) -> Option<usize> {
        threads.checked_mul(PER_THREAD)?.checked_mul(size_of::<f32>())?.checked_add(ALIGN)
    }

    /// From bytes of any alignment, at least as many as `workspace_size` says for these threads.
    pub fn new(threads: Arc<Threads>, workspace: &'a mut [u8]) -> Self {
        let skip = workspace.as_ptr().align_offset(ALIGN).min(workspace.len());
        let workspace = &mut workspace[skip..];
        let whole = workspace.len() / size_of::<f32>() * size_of::<f32>();
        Self { threads, memory: bytemuck::cast_slice_mut(&mut workspace[..whole]) }
    }

    /// Takes `len` floats off the end.
    pub fn take(&mut self, len: usize) -> &'a mut [f32] {
        let memory = std::mem::take(&mut self.memory);
        let (rest, taken) = memory.split_at_mut(memory.len() - len);
        self.memory = rest;
        taken
    }

    /// The same memory for a shorter time.
    pub fn reborrow(&mut self) -> Scratch<'_> {
        Scratch { threads: self.threads.clone(), memory: self.memory }
    }
}

/// `out = epilogue(Σ left·right)`.
pub fn multiply(
    cpu: &Cpu,
    products: &[Product<'_>],
    epilogue: Epilogue<'_>,
    out: TensorMut<'_>,
    scratch: &mut Scratch<'_>,
) {
    let (simd, threads) = (cpu.simd(), &*scratch.threads);
    let (m, n) = (out.rows(), out.cols());
    let (mc, nc) = block_shape(simd, threads.count(), m, n);
    let (row_blocks, col_blocks) = (m.div_ceil(mc), n.div_ceil(nc));
    assert!(scratch.memory.len() >= threads.count() * PER_THREAD, "workspace was checked by ops");
    let memory = Shared::new(scratch.memory);
    let out = Output::new(out);
    threads.for_each(row_blocks * col_blocks, |worker, task| {
        // SAFETY: workers have different numbers.
        let scratch = unsafe { memory.slice(worker * PER_THREAD, (worker + 1) * PER_THREAD) };
        // Neighbouring tasks share the columns, whose decoding is the dearer side to miss in the cache.
        let (i0, j0) = (task % row_blocks * mc, task / row_blocks * nc);
        let block = Block { m, i0, j0, rows: mc.min(m - i0), cols: nc.min(n - j0) };
        let sums = block.compute(simd, products, scratch);
        // SAFETY: blocks are disjoint.
        unsafe { block.store(simd, sums, &epilogue, &out) };
    });
}

/// A block of the output.
struct Block {
    /// The output's rows.
    m: usize,
    i0: usize,
    j0: usize,
    rows: usize,
    cols: usize,
}

impl Block {
    /// The block's sums, rows `NC` apart.
    fn compute<'s>(
        &self,
        simd: &'static Simd,
        products: &[Product<'_>],
        scratch: &'s mut [f32],
    ) -> &'s mut [f32] {
        let (a, scratch) = scratch.split_at_mut(MC * (KC + PAD));
        let (b, scratch) = scratch.split_at_mut(KC * (NC + PAD));
        let (c, strip) = scratch.split_at_mut(MC * NC);
        let mut started = false;
        for product in products {
            // By the output's rows, not the block's, which depend on the number of threads. The weight's product comes first.
            if !started && let Some(few) = product.few_rows(simd, self.m) {
                few.multiply(simd, [self.i0, self.j0], [self.rows, self.cols], (a, b), c);
                started = true;
                continue;
            }
            if !started && let Some(few) = product.few_rows_backward(simd, self.m) {
                few.multiply(simd, [self.i0, self.j0], [self.rows, self.cols], a, c);
                started = true;
                continue;
            }
            let words = product.words(simd);
            let (left, right, step) = (&product.left, &product.right, KC * words.elements());
            for k0 in (0..product.inner).step_by(step) {
                let kc = step.min(product.inner - k0);
                pack::left(simd, words, left, [self.i0, k0], [self.rows, kc], (a, KC + PAD), strip);
                pack::right(simd, words, right, [k0, self.j0], [kc, self.cols], (b, NC + PAD), strip);
                self.multiply_add(simd, words, kc.div_ceil(words.elements()), a, b, c, started);
                started = true;
            }
        }
        if !started {
            c[..self.rows * NC].fill(0.0);
        }
        c
    }

    fn multiply_add(
        &self,
        simd: &Simd,
        words: Words,
        kc: usize,
        a: &[f32],
        b: &mut [f32],
        c: &mut [f32],
        add: bool,
    ) {
        let width = simd.tile_cols;
        let whole = self.cols.next_multiple_of(width);
        if whole != self.cols {
            (0..kc).for_each(|k| b[k * (NC + PAD)..][self.cols..whole].fill(0.0));
        }
        // Tiles of one height: a low one at the end would have too few sums to hide how long each takes.
        let height = self.rows.div_ceil(self.rows.div_ceil(simd.tile_rows()));
        for j in (0..whole).step_by(width) {
            for i in (0..self.rows).step_by(height) {
                let rows = height.min(self.rows - i);
                let (a, b) = ((&a[i * (KC + PAD)..], KC + PAD), (&b[j..], NC + PAD));
                simd.tile(words, [rows, kc], a, b, (&mut c[i * NC + j..], NC), add);
            }
        }
    }

    /// # Safety
    /// No other thread uses the output's elements under this block.
    unsafe fn store(&self, simd: &Simd, sums: &mut [f32], epilogue: &Epilogue<'_>, out: &Output<'_>) {
        let mut extra = [0f32; NC];
        let extra = &mut extra[..self.cols];
        if let Some(bias) = epilogue.bias {
            read_row(simd, bias, 0, self.j0, extra);
        }
        let mut old = [0f32; NC];
        let old = &mut old[..self.cols];
        for i in 0..self.rows {
            let sums = &mut sums[i * NC..][..self.cols];
            if epilogue.scale != 1.0 {
                sums.iter_mut().for_each(|s| *s *= epilogue.scale);
            }
            if epilogue.bias.is_some() {
                sums.iter_mut().zip(&*extra).for_each(|(s, b)| *s += b);
            }
            // SAFETY: as promised by the caller.
            unsafe {
                if epilogue.accumulate {
                    out.read_row(simd, self.i0 + i, self.j0, old);
                    sums.iter_mut().zip(&*old).for_each(|(s, o)| *s += o);
                }
                out.write_row(simd, self.i0 + i, self.j0, sums);
            }
        }
    }
}

/// The rows and columns of a block: as large as the scratch memory allows, but small enough that every thread gets
/// work.
fn block_shape(simd: &Simd, threads: usize, m: usize, n: usize) -> (usize, usize) {
    let mut mc = m.div_ceil(m.div_ceil(MC).max(1)).max(1);
    let mut nc = NC.min(n.next_multiple_of(simd.tile_cols)).max(simd.tile_cols);
    let enough = |mc: usize, nc: usize| m.div_ceil(mc) * n.div_ceil(nc) >= 2 * threads || threads == 1;
    while !enough(mc, nc) && nc > 2 * simd.tile_cols {
        nc = (nc / 2).next_multiple_of(simd.tile_cols);
    }
    while !enough(mc, nc) && mc > 2 * simd.tile_rows() {
        mc = (mc / 2).next_multiple_of(simd.tile_rows());
    }
    (mc, nc)
}
