//! The products of 16-bit activations and a quantized weight on tensor cores.

use super::cast::aligned;
use super::low_rank::Term;
use super::workspace::Workspace;
use super::{Weight, product};
use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::decode::Half;
use crate::kernels::gemm_mma::{CHUNK, GemmMmaSpec};
use crate::kernels::gemm_mma_backward::{self, GemmMmaBackwardSpec};
use crate::kernels::mma_tile::tiles;
use crate::view::{DType, Lora, Tensor, TensorMut};
use ptx_asm::Target;

/// The type to compute in, if tensor cores take these activations: 16 bits, in whole 16-byte pieces. Turing has none for bf16.
pub fn half(queue: &Queue<'_>, activations: &Tensor<'_>) -> Option<Half> {
    let half = match activations.dtype() {
        DType::F16 => Half::F16,
        DType::Bf16 if queue.target() >= Target::Sm80 => Half::Bf16,
        DType::F32 | DType::Bf16 => return None,
    };
    aligned(activations).then_some(half)
}

/// Whether the type holds the codebook's values to its precision: none overflows or is subnormal.
fn holds(half: Half, w: Weight<'_>) -> bool {
    let normal = match half {
        Half::F16 => 6.103_515_6e-5..=65_504.0,
        Half::Bf16 => f32::MIN_POSITIVE..=f32::MAX / 2.0,
    };
    w.table.values.iter().all(|v| *v == 0.0 || normal.contains(&v.abs()))
}

/// The type to compute in, if the forward kernel takes these arguments: blocks that do not end inside a chunk of K.
pub fn takes(queue: &Queue<'_>, x: &Tensor<'_>, w: Weight<'_>) -> Option<Half> {
    let fits = w.view.cols > 0
        && w.view.cols.is_multiple_of(CHUNK as usize)
        && w.view.spec.block_size >= CHUNK
        && w.view.codes.address().is_multiple_of(16);
    half(queue, x).filter(|&half| fits && holds(half, w))
}

/// The same for the backward kernel: whole chunks of N.
pub fn takes_backward(queue: &Queue<'_>, dy: &Tensor<'_>, w: Weight<'_>) -> Option<Half> {
    takes_units(queue, dy, w).filter(|_| w.view.rows.is_multiple_of(gemm_mma_backward::CHUNK as usize))
}

/// The type to compute in, if a backward kernel takes all but the length of the sum: dY in whole units of 8 columns, rows of W
/// in whole spans that share a constant.
pub(super) fn takes_units(queue: &Queue<'_>, dy: &Tensor<'_>, w: Weight<'_>) -> Option<Half> {
    let fits = w.view.rows > 0
        && w.view.rows.is_multiple_of(8)
        && w.view.cols.is_multiple_of(gemm_mma_backward::SPAN as usize)
        && w.view.spec.block_size >= gemm_mma_backward::SPAN
        && w.view.codes.address().is_multiple_of(16);
    half(queue, dy).filter(|&half| fits && holds(half, w))
}

/// Rows of a tile: no more than there are, and fewer where that gives the device enough tiles.
fn tile_rows(queue: &Queue<'_>, m: u64, n: u64) -> u32 {
    let enough = |rows: u32| tiles(m, n, rows) >= queue.processors();
    match m {
        ..=32 => 32,
        33..=64 => 64,
        _ if queue.target() < Target::Sm80 => 64,
        _ if enough(128) => 128,
        _ if enough(64) => 64,
        _ => 32,
    }
}

/// Enqueues `Y = X·Wᵀ + bias + T·Bᵀ` with `T = s·X·Aᵀ` rounded to X's type.
pub fn forward(
    queue: &Queue<'_>,
    half: Half,
    x: &Tensor<'_>,
    w: Weight<'_>,
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    y: &TensorMut<'_>,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let (m, n) = (x.rows() as u64, w.view.rows as u64);
    let mut args = operands(x, w);
    if let Some(lora) = lora {
        args = Term::forward(queue, x, lora, half, workspace)?.args(args);
    }
    let args = bias.into_iter().fold(args, |args, bias| args.pointer(bias));
    let args = args.pointer(y).number(Matrix::row_stride(&y));
    let rows = tile_rows(queue, m, n);
    let product = product(half, w, y, bias, lora, false);
    queue.launch(GemmMmaSpec { rows, product }.into(), tiles(m, n, rows), args)
}

/// Enqueues `dX = dY·W + U·A` with `U = s·dY·B` rounded to dY's type; written or added to what is there.
pub fn backward(
    queue: &Queue<'_>,
    half: Half,
    dy: &Tensor<'_>,
    w: Weight<'_>,
    lora: Option<&Lora<'_>>,
    dx: &TensorMut<'_>,
    accumulate: bool,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let (m, k) = (dy.rows() as u64, w.view.cols as u64);
    let mut args = operands(dy, w);
    if let Some(lora) = lora {
        args = Term::backward(queue, dy, lora, half, workspace)?.args(args);
    }
    let args = args.pointer(dx).number(Matrix::row_stride(&dx));
    let rows = tile_rows(queue, m, k);
    let product = product(half, w, dx, None, lora, accumulate);
    queue.launch(GemmMmaBackwardSpec { rows, product }.into(), tiles(m, k, rows), args)
}

/// The activations, the weight, M, N and K.
pub(super) fn operands(activations: &Tensor<'_>, w: Weight<'_>) -> Args {
    let args = w.args(Args::new().pointer(activations).number(Matrix::row_stride(&activations)));
    args.number(activations.rows() as u64).number(w.view.rows as u64).number(w.view.cols as u64)
}
