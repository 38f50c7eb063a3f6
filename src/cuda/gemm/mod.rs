//! Matrix products with a quantized weight and a low-rank adapter: the same sums of products as on the CPU.
//!
//! - forward `Y[M, N] = X·Wᵀ + bias + T·Bᵀ` with `T[M, r] = s·X·Aᵀ`;
//! - backward `dX[M, K] = dY·W + U·A` with `U[M, r] = s·dY·B`.
//!
//! A product is made by the first of these kernels that takes it; all take W's constants plain or double-quantized:
//!
//! | kernel | device | activations | M | weight |
//! |---|---|---|---|---|
//! | [`skinny`] | sm_80 and up | 16 bits; backward bf16 | to 64 | K a multiple of 64, blocks of 64 or more; backward N of 8 |
//! | [`wgmma`] | sm_90 | 16 bits | from 65 | the same K and blocks; rows of X or dY at steps of 16 bytes |
//! | [`mma`] | sm_80 and up; f16 sm_75 | 16 bits | any | the same K and blocks; backward N of 64 |
//! | [`simt`] | any | any | any | any |
//!
//! What else they ask for, alignment above all, their `takes` say; an adapter may have any type and rank. Which tiles they
//! use and how they split sums depends on the shape and the device alone, so that results repeat bit for bit.
//!
//! | file | what |
//! |---|---|
//! | [`wgmma`] | 16-bit activations on Hopper, more than few rows |
//! | [`wgmma_plan`] | how those are cut |
//! | [`mma`] | 16-bit activations on tensor cores |
//! | [`skinny`] | the same for few rows |
//! | [`skinny_plan`] | how these are cut for a device |
//! | [`simt`] | any dtype, shape and alignment |
//! | [`low_rank`] | T and U, and the adapter as the fused kernels take it |
//! | [`cast`] | matrices in 16 bits |
//! | [`residence`] | how many blocks an SM holds, with which rings |
//! | [`split_sum`] | products in parts, which are added |
//! | [`workspace`] | the caller's workspace, cut into matrices |

pub mod cast;
pub mod low_rank;
pub mod mma;
pub mod residence;
pub mod simt;
pub mod skinny;
pub mod skinny_plan;
pub mod split_sum;
pub mod wgmma;
pub mod wgmma_plan;
pub mod workspace;

use super::device::{Cuda, Queue};
use super::launch::Args;
use super::lora_gradients;
use crate::error::Result;
use crate::format::CodebookTable;
use crate::kernels::constants::ConstantsSpec;
use crate::kernels::decode::Half;
use crate::kernels::product::ProductSpec;
use crate::kernels::table::bits;
use crate::view::{BufferMut, ConstantsView, Lora, Quantized, Tensor, TensorMut};
use skinny_plan::Product;
use workspace::Workspace;

/// A quantized weight and its values.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    /// The matrix.
    pub view: &'a Quantized<'a>,
    /// Its codebook.
    pub table: &'a CodebookTable,
}

impl Weight<'_> {
    /// Codes and constants, as the kernels take them.
    fn args(&self, args: Args) -> Args {
        let args = args.pointer(self.view.codes);
        match self.view.constants {
            ConstantsView::F32(absmax) => args.pointer(absmax),
            ConstantsView::Nested { codes, scales, offset } => {
                args.pointer(codes).pointer(scales).pointer(offset)
            }
        }
    }
}

/// What a kernel on tensor cores depends on.
fn product(
    half: Half,
    w: Weight<'_>,
    out: &TensorMut<'_>,
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    accumulate: bool,
) -> ProductSpec {
    ProductSpec {
        half,
        values: bits(w.table.values),
        block_size: w.view.spec.block_size,
        constants: ConstantsSpec::of(&w.view.spec.constants),
        out: out.dtype(),
        bias: bias.map(Tensor::dtype),
        low_rank: lora.is_some(),
        accumulate,
    }
}

/// Bytes of workspace at any alignment for products with a weight `[n, k]`, whatever their dtypes; `None` if they overflow.
pub fn workspace_size(cuda: &Cuda, shape: [usize; 3], rank: usize) -> Option<usize> {
    let [m, n, k] = shape;
    let size = |product, inner, outer| {
        // A product is one kernel's, which may split its sum.
        let parts = skinny::bytes(cuda, product, shape)?.max(wgmma::bytes(cuda, shape)?);
        workspace::size(&[&low_rank::term_bytes(cuda, m, inner, outer, rank)[..], &[Some(parts)]].concat())
    };
    let (forward, backward) = (size(Product::Forward, k, n)?, size(Product::Backward, n, k)?);
    Some(forward.max(backward).max(lora_gradients::workspace_size(cuda, shape, rank)?))
}

/// Enqueues `Y = X·Wᵀ + bias + s·(X·Aᵀ)·Bᵀ`.
pub fn forward(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    w: Weight<'_>,
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    y: &TensorMut<'_>,
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    if y.rows() == 0 || y.cols() == 0 {
        return Ok(());
    }
    let workspace = &mut Workspace::new(workspace);
    let lora = lora.filter(|lora| lora.rank() > 0);
    if let Some(how) = skinny::takes(queue, x, w) {
        return skinny::forward(queue, how, x, w, bias, lora, y, workspace);
    }
    if let Some(half) = wgmma::takes(queue, x, w) {
        return wgmma::forward(queue, half, x, w, bias, lora, y, workspace);
    }
    match mma::takes(queue, x, w) {
        Some(half) => mma::forward(queue, half, x, w, bias, lora, y, workspace),
        None => simt::forward(queue, x, w, bias, lora, y, workspace),
    }
}

/// Enqueues `dX = dY·W + s·(dY·B)·A`, written or added to what is there.
pub fn backward(
    queue: &Queue<'_>,
    dy: &Tensor<'_>,
    w: Weight<'_>,
    lora: Option<&Lora<'_>>,
    dx: &TensorMut<'_>,
    accumulate: bool,
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    if dx.rows() == 0 || dx.cols() == 0 {
        return Ok(());
    }
    let workspace = &mut Workspace::new(workspace);
    let lora = lora.filter(|lora| lora.rank() > 0);
    if let Some(plan) = skinny::takes_backward(queue, dy, w) {
        return skinny::backward(queue, plan, dy, w, lora, dx, accumulate, workspace);
    }
    if let Some(half) = wgmma::takes(queue, dy, w) {
        return wgmma::backward(queue, half, dy, w, lora, dx, accumulate, workspace);
    }
    match mma::takes_backward(queue, dy, w) {
        Some(half) => mma::backward(queue, half, dy, w, lora, dx, accumulate, workspace),
        None => simt::backward(queue, dy, w, lora, dx, accumulate, workspace),
    }
}
