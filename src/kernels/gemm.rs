//! Matrix products of any shape, dtype, stride and alignment, in f32: a sum of products of dense or quantized operands,
//! as in the CPU's engine. It is the kernel for what the tensor cores cannot take, and the one to hold others to.
//!
//! A block of 256 threads makes tiles of 64 x 64 elements, 4 x 4 a thread. It walks the inner dimension in steps of 16:
//! both operands' pieces are brought to f32 in shared memory (this is where a quantized weight is decoded, element by
//! element), then multiplied. An element's sum is one chain of fused multiply-adds in order of the inner dimension,
//! whatever the grid: results repeat bit for bit.

use super::constants::{ConstantsParam, ConstantsSpec};
use super::dense::Dense;
use super::table;
use super::tile::THREADS;
use super::{Spec, Written, module};
use crate::view::DType;
use ptx_asm::{Array, B32, B64, Error, F32, Global, Kernel, Pred, Ptr, Reg, Target, U8};

/// Rows and columns of a tile.
const TILE: u32 = 64;
/// Inner elements of a step.
const STEP: u32 = 16;
/// Rows and columns of a thread.
const EACH: u32 = 4;
/// Elements between the rows of a piece in shared memory: a multiple of 4 for vector loads, and not of 32.
const STRIDE: u32 = TILE + 4;
/// Elements of a piece that a thread brings.
const BRINGS: u32 = TILE * STEP / THREADS;

/// A stored matrix as one side of a product.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OperandSpec {
    /// What is stored.
    pub storage: Storage,
    /// Whether the stored rows run along the inner dimension (X in `X·Wᵀ`, and W), or across it.
    pub rows_are_inner: bool,
}

/// The elements of a stored matrix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Floating-point numbers.
    Dense(DType),
    /// 4-bit blocks.
    Quantized {
        /// The bits of each code's value.
        values: [u32; 16],
        /// A power of two from 32 to 4096.
        block_size: u32,
        /// How the constants are stored.
        constants: ConstantsSpec,
    },
}

/// Which kernel: `C[M, N] = scale · Σ left·right + bias (+ C)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmSpec {
    /// Left and right sides, one or two products.
    pub products: Vec<[OperandSpec; 2]>,
    /// The type of C.
    pub out: DType,
    /// The type of the bias, a row of N elements, if there is one.
    pub bias: Option<DType>,
    /// Whether C is added to.
    pub accumulate: bool,
}

impl Spec for GemmSpec {
    /// Parameters: for each product its left and its right side and its inner length (u64), where a dense matrix is base
    /// and row stride (u64), a quantized one codes, constants and columns (u64); then M, N (u64), scale (f32), the bias if
    /// there is one, C and its row stride. Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "gemm", THREADS, |k| self.body(k))
    }
}

impl GemmSpec {
    fn body(&self, k: &Kernel) {
        let products: Vec<_> = (0..)
            .zip(&self.products)
            .map(|(i, [left, right])| {
                let left = Operand::new(k, &format!("left{i}"), left);
                let right = Operand::new(k, &format!("right{i}"), right);
                (left, right, k.param_u64(&format!("inner{i}")))
            })
            .collect();
        let [m, n] = ["m", "n"].map(|name| k.param_u64(name));
        let scale = k.param_f32("scale");
        let bias = self.bias.map(|dtype| Dense { dtype, base: k.param_ptr("bias"), stride: k.mov(0) });
        let out = Dense { dtype: self.out, base: k.param_ptr("out"), stride: k.param_u64("out_stride") };
        let [left_piece, right_piece] =
            ["left_piece", "right_piece"].map(|name| k.shared::<F32>(name, (STEP * STRIDE) as usize));
        k.bar_sync(0);

        k.section("this block's tiles, column after column");
        let tid = k.tid_x();
        let (x, y) = (k.and_b32(tid, TILE / EACH - 1), k.shr_u32(tid, (TILE / EACH).trailing_zeros()));
        let tiles = |len| k.shr_u64(k.add_u64(len, u64::from(TILE - 1)), TILE.trailing_zeros());
        let (down, total) = (tiles(m), k.mul_lo_u64(tiles(m), tiles(n)));
        let tile = k.cvt_u64_u32(k.ctaid_x());
        k.while_(
            || k.setp_lt_u64(tile, total),
            || {
                let column = k.div_u64(tile, down);
                let row = k.sub_u64(tile, k.mul_lo_u64(column, down));
                let [row0, col0] = [row, column].map(|at| k.shl_b64(at, TILE.trailing_zeros()));
                let sums: Vec<_> = (0..EACH * EACH).map(|_| k.var_f32(0.0)).collect();
                for (left, right, inner) in &products {
                    k.section("a product");
                    let at = k.mov::<B64>(0);
                    k.while_(
                        || k.setp_lt_u64(at, *inner),
                        || {
                            left.bring(k, left_piece, tid, [row0, m], [at, *inner]);
                            right.bring(k, right_piece, tid, [col0, n], [at, *inner]);
                            k.bar_sync(0);
                            multiply_add(k, left_piece, right_piece, [x, y], &sums);
                            k.bar_sync(0);
                            k.to(at).add_u64(at, u64::from(STEP));
                        },
                    );
                }
                k.section("store");
                for (i, sum) in (0..).zip(&sums) {
                    let row = k.add_u64(row0, k.cvt_u64_u32(k.mad_lo_u32(y, EACH, i / EACH)));
                    let col = k.add_u64(col0, k.cvt_u64_u32(k.mad_lo_u32(x, EACH, i % EACH)));
                    let inside = k.and_pred(k.setp_lt_u64(row, m), k.setp_lt_u64(col, n));
                    k.if_then(inside, || {
                        let scaled = k.mul_rn_f32(*sum, scale);
                        let biased = match &bias {
                            Some(bias) => k.add_rn_f32(scaled, bias.load(k, row, col, None)),
                            None => scaled,
                        };
                        let value = match self.accumulate {
                            true => k.add_rn_f32(biased, out.load(k, row, col, None)),
                            false => biased,
                        };
                        out.store(k, row, col, value);
                    });
                }
                k.to(tile).add_u64(tile, k.cvt_u64_u32(k.nctaid_x()));
            },
        );
    }
}

/// Adds the product of two pieces to a thread's sums.
fn multiply_add(k: &Kernel, left: Array<F32>, right: Array<F32>, [x, y]: [Reg<B32>; 2], sums: &[Reg<F32>]) {
    k.section("multiply");
    let rows = k.element(left.ptr(k), y, 4 * EACH);
    let cols = k.element(right.ptr(k), x, 4 * EACH);
    for step in 0..STEP {
        let at = (4 * STRIDE * step) as i32;
        let a = k.ld_shared::<[F32; 4]>(rows.at(at));
        let b = k.ld_shared::<[F32; 4]>(cols.at(at));
        for (i, &sum) in sums.iter().enumerate() {
            k.to(sum).fma_rn_f32(a[i / EACH as usize], b[i % EACH as usize], sum);
        }
    }
}

/// One side of a product, its parameters declared.
struct Operand {
    stored: Stored,
    rows_are_inner: bool,
}

enum Stored {
    Dense(Dense),
    Quantized(Quantized),
}

impl Operand {
    fn new(k: &Kernel, name: &str, spec: &OperandSpec) -> Self {
        let stored = match &spec.storage {
            Storage::Dense(dtype) => {
                let base = k.param_ptr(name);
                Stored::Dense(Dense { dtype: *dtype, base, stride: k.param_u64(&format!("{name}_stride")) })
            }
            Storage::Quantized { values, block_size, constants } => {
                let codes = k.param_ptr(name);
                let constants = ConstantsParam::new(k, constants);
                let cols = k.param_u64(&format!("{name}_cols"));
                let values = table::share(k, "values", values, THREADS);
                Stored::Quantized(Quantized { codes, constants, cols, values, block_size: *block_size })
            }
        };
        Self { stored, rows_are_inner: spec.rows_are_inner }
    }

    /// Brings the piece at `outer0`, `inner0` to shared memory as f32, inner dimension after inner dimension; what lies
    /// outside the matrix is 0. Neighbouring threads read neighbouring elements of a stored row.
    fn bring(
        &self,
        k: &Kernel,
        piece: Array<F32>,
        tid: Reg<B32>,
        [outer0, outers]: [Reg<B64>; 2],
        [inner0, inners]: [Reg<B64>; 2],
    ) {
        k.section("bring a piece");
        let along = if self.rows_are_inner { STEP } else { TILE };
        let (fast, slow) = (k.and_b32(tid, along - 1), k.shr_u32(tid, along.trailing_zeros()));
        for i in 0..BRINGS {
            let slow = k.add_u32(slow, i * THREADS / along);
            let (outer, inner) = if self.rows_are_inner { (slow, fast) } else { (fast, slow) };
            let to = k.element(piece.ptr(k), k.mad_lo_u32(inner, STRIDE, outer), 4);
            let outer = k.add_u64(outer0, k.cvt_u64_u32(outer));
            let inner = k.add_u64(inner0, k.cvt_u64_u32(inner));
            let inside = k.and_pred(k.setp_lt_u64(outer, outers), k.setp_lt_u64(inner, inners));
            let (row, col) = if self.rows_are_inner { (outer, inner) } else { (inner, outer) };
            let value = match &self.stored {
                Stored::Dense(dense) => dense.load(k, row, col, Some(inside)),
                Stored::Quantized(quantized) => quantized.load(k, row, col, inside),
            };
            k.st_shared::<F32>(to, value);
        }
    }
}

/// A quantized matrix.
struct Quantized {
    codes: Ptr<Global>,
    constants: ConstantsParam,
    cols: Reg<B64>,
    values: Array<F32>,
    block_size: u32,
}

impl Quantized {
    /// An element; 0 where the guard does not hold.
    fn load(&self, k: &Kernel, row: Reg<B64>, col: Reg<B64>, guard: Reg<Pred>) -> Reg<F32> {
        let element = k.mad_lo_u64(row, self.cols, col);
        let value = k.var_f32(0.0);
        k.if_then(guard, || {
            let pair = k.ld_global_nc::<U8>(k.offset(self.codes, k.shr_u64(element, 1)));
            let low = k.and_b32(k.cvt_u32_u64(element), 1);
            // The earlier element is in the high nibble.
            let code = k.and_b32(k.shr_u32(pair, k.sub_u32(4, k.shl_b32(low, 2))), 15);
            let absmax = self.constants.load(k, k.shr_u64(element, self.block_size.trailing_zeros()));
            k.to(value).mul_rn_f32(k.ld_shared::<F32>(self.values.element(k, code)), absmax);
        });
        value
    }
}

/// Tiles of an `[m, n]` matrix.
pub fn tiles(m: u64, n: u64) -> u64 {
    m.div_ceil(TILE.into()).saturating_mul(n.div_ceil(TILE.into()))
}
