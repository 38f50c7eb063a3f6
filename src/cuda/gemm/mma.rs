//! The products of 16-bit activations and a quantized weight on tensor cores.

use super::Weight;
use super::low_rank::{down_projection, up_projection};
use super::workspace::Workspace;
use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::constants::ConstantsSpec;
use crate::kernels::decode::Half;
use crate::kernels::gemm_mma::{CHUNK, GemmMmaSpec, RANK};
use crate::kernels::gemm_mma_backward::{self, GemmMmaBackwardSpec};
use crate::kernels::mma_tile::tiles;
use crate::kernels::table::bits;
use crate::view::{DType, Lora, Tensor, TensorMut};
use ptx_asm::Target;

/// The type to compute in, if the kernel takes these arguments: 16-bit X in whole 16-byte pieces, blocks that do not end
/// inside a chunk of K, a rank in whole steps, and values that the type holds to its precision.
pub fn half(queue: &Queue<'_>, x: &Tensor<'_>, w: Weight<'_>, lora: Option<&Lora<'_>>) -> Option<Half> {
    let half = match x.dtype() {
        DType::F32 => return None,
        DType::F16 => Half::F16,
        DType::Bf16 => Half::Bf16,
    };
    let adapter_fits = lora.is_none_or(|lora| {
        lora.rank().is_multiple_of(RANK)
            && lora.b.dtype() == x.dtype()
            && whole((&lora.b).address(), 2 * lora.b.row_stride(), 8)
    });
    // Neither overflowing nor subnormal: rounded within the type's unit roundoff.
    let normal = match half {
        Half::F16 => 6.103_515_6e-5..=65_504.0,
        Half::Bf16 => f32::MIN_POSITIVE..=f32::MAX / 2.0,
    };
    let values_fit = w.table.values.iter().all(|v| *v == 0.0 || normal.contains(&v.abs()));
    let fits = queue.target() >= Target::Sm80
        && w.view.cols > 0
        && w.view.cols.is_multiple_of(CHUNK as usize)
        && w.view.spec.block_size >= CHUNK
        && whole(x.address(), 2 * x.row_stride(), 16)
        && w.view.codes.address().is_multiple_of(16)
        && adapter_fits
        && values_fit;
    fits.then_some(half)
}

/// Whether the backward kernel takes these arguments: bf16 dY in whole 16-byte pieces, whole chunks of N, rows of W in
/// whole spans that share a constant, a rank in whole steps. f16 is left out: it does not hold every weight.
pub fn takes_backward(queue: &Queue<'_>, dy: &Tensor<'_>, w: Weight<'_>, lora: Option<&Lora<'_>>) -> bool {
    dy.dtype() == DType::Bf16
        && queue.target() >= Target::Sm80
        && w.view.rows > 0
        && w.view.rows.is_multiple_of(gemm_mma_backward::CHUNK as usize)
        && w.view.cols.is_multiple_of(gemm_mma_backward::SPAN as usize)
        && w.view.spec.block_size >= gemm_mma_backward::SPAN
        && whole(dy.address(), 2 * dy.row_stride(), 16)
        && w.view.codes.address().is_multiple_of(16)
        && lora.is_none_or(|lora| {
            lora.rank().is_multiple_of(gemm_mma_backward::RANK) && lora.a.dtype() == DType::Bf16
        })
}

/// Whether a matrix and its rows start at multiples of `align` bytes.
fn whole(address: u64, row_bytes: usize, align: u64) -> bool {
    address.is_multiple_of(align) && (row_bytes as u64).is_multiple_of(align)
}

/// Rows of a tile: no more than there are, and fewer where that gives the device enough tiles.
fn tile_rows(queue: &Queue<'_>, m: u64, n: u64) -> u32 {
    let enough = |rows: u32| tiles(m, n, rows) >= queue.processors();
    match m {
        ..=32 => 32,
        33..=64 => 64,
        _ if enough(128) => 128,
        _ if enough(64) => 64,
        _ => 32,
    }
}

/// Enqueues `Y = X·Wᵀ + bias + T·Bᵀ` with `T = s·X·Aᵀ`, rounded to X's type.
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
        let t = down_projection(queue, x, lora, x.dtype(), workspace)?;
        args =
            args.pointer(&t).pointer(&lora.b).number(lora.b.row_stride() as u64).number(lora.rank() as u64);
    }
    let args = bias.into_iter().fold(args, |args, bias| args.pointer(bias));
    let args = args.pointer(y).number(Matrix::row_stride(&y));
    let rows = tile_rows(queue, m, n);
    let spec = GemmMmaSpec {
        half,
        rows,
        values: bits(w.table.values),
        block_size: w.view.spec.block_size,
        constants: ConstantsSpec::of(&w.view.spec.constants),
        out: y.dtype(),
        bias: bias.map(Tensor::dtype),
        low_rank: lora.is_some(),
    };
    queue.launch(spec.into(), tiles(m, n, rows), args)
}

/// Enqueues `dX = dY·W + U·A` with `U = s·dY·B`, rounded to bf16; written or added to what is there.
pub fn backward(
    queue: &Queue<'_>,
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
        let u = up_projection(queue, dy, lora, DType::Bf16, workspace)?;
        args =
            args.pointer(&u).pointer(&lora.a).number(lora.a.row_stride() as u64).number(lora.rank() as u64);
    }
    let args = args.pointer(dx).number(Matrix::row_stride(&dx));
    let rows = tile_rows(queue, m, k).min(64);
    let spec = GemmMmaBackwardSpec {
        rows,
        values: bits(w.table.values),
        block_size: w.view.spec.block_size,
        constants: ConstantsSpec::of(&w.view.spec.constants),
        out: dx.dtype(),
        low_rank: lora.is_some(),
        accumulate,
    };
    queue.launch(spec.into(), tiles(m, k, rows), args)
}

/// The activations, the weight, M, N and K.
fn operands(activations: &Tensor<'_>, w: Weight<'_>) -> Args {
    let args = w.args(Args::new().pointer(activations).number(Matrix::row_stride(&activations)));
    args.number(activations.rows() as u64).number(w.view.rows as u64).number(w.view.cols as u64)
}
