//! The products of 16-bit activations and a quantized weight on tensor cores. What they do not take is for
//! [`super::gemm`]'s own kernel.

use super::device::Queue;
use super::gemm::{down_projection, low_rank, up_projection};
use super::launch::{Args, Matrix};
use super::memory::Address;
use crate::error::Result;
use crate::format::CodebookTable;
use crate::kernels::constants::ConstantsSpec;
use crate::kernels::decode::Half;
use crate::kernels::gemm_mma::{CHUNK, GemmMmaSpec, RANK};
use crate::kernels::gemm_mma_backward::{self, GemmMmaBackwardSpec};
use crate::kernels::mma_tile::tiles;
use crate::kernels::table::bits;
use crate::view::{BufferMut, ConstantsView, DType, Lora, Quantized, Tensor, TensorMut};
use ptx_asm::Target;

/// The type to compute in, if the kernel takes these arguments: 16-bit X in whole 16-byte pieces, blocks that do not end
/// inside a chunk of K, a rank in whole steps, and values that the type holds to its precision.
pub fn half(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    (w, table): (&Quantized<'_>, &CodebookTable),
    lora: Option<&Lora<'_>>,
) -> Option<Half> {
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
    let values_fit = table.values.iter().all(|v| *v == 0.0 || normal.contains(&v.abs()));
    let fits = queue.target() >= Target::Sm80
        && w.cols > 0
        && w.cols.is_multiple_of(CHUNK as usize)
        && w.spec.block_size >= CHUNK
        && whole(x.address(), 2 * x.row_stride(), 16)
        && w.codes.address().is_multiple_of(16)
        && adapter_fits
        && values_fit;
    fits.then_some(half)
}

/// Whether the backward kernel takes these arguments: bf16 dY in whole 16-byte pieces, whole chunks of N, rows of W in
/// whole spans that share a constant, a rank in whole steps. f16 is left out: it does not hold every weight.
pub fn takes_backward(
    queue: &Queue<'_>,
    dy: &Tensor<'_>,
    w: &Quantized<'_>,
    lora: Option<&Lora<'_>>,
) -> bool {
    dy.dtype() == DType::Bf16
        && queue.target() >= Target::Sm80
        && w.rows > 0
        && w.rows.is_multiple_of(gemm_mma_backward::CHUNK as usize)
        && w.cols.is_multiple_of(gemm_mma_backward::SPAN as usize)
        && w.spec.block_size >= gemm_mma_backward::SPAN
        && whole(dy.address(), 2 * dy.row_stride(), 16)
        && w.codes.address().is_multiple_of(16)
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
    (w, table): (&Quantized<'_>, &CodebookTable),
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    y: &TensorMut<'_>,
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    let (m, n) = (x.rows() as u64, w.rows as u64);
    if m == 0 || n == 0 {
        return Ok(());
    }
    let mut args = operands(x, w);
    if let Some(lora) = lora {
        let t = low_rank(&workspace, x.dtype(), x.rows(), lora.rank())?;
        down_projection(queue, x, lora, &t)?;
        args =
            args.pointer(&t).pointer(&lora.b).number(lora.b.row_stride() as u64).number(lora.rank() as u64);
    }
    let args = bias.into_iter().fold(args, |args, bias| args.pointer(bias));
    let args = args.pointer(y).number(Matrix::row_stride(&y));
    let rows = tile_rows(queue, m, n);
    let spec = GemmMmaSpec {
        half,
        rows,
        values: bits(table.values),
        block_size: w.spec.block_size,
        constants: ConstantsSpec::of(&w.spec.constants),
        out: y.dtype(),
        bias: bias.map(Tensor::dtype),
        low_rank: lora.is_some(),
    };
    queue.launch(spec.into(), tiles(m, n, rows), args)
}

/// Enqueues `dX = dY·W + U·A` with `U = s·dY·B`, rounded to bf16.
pub fn backward(
    queue: &Queue<'_>,
    dy: &Tensor<'_>,
    (w, table): (&Quantized<'_>, &CodebookTable),
    lora: Option<&Lora<'_>>,
    dx: &TensorMut<'_>,
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    let (m, k) = (dy.rows() as u64, w.cols as u64);
    if m == 0 || k == 0 {
        return Ok(());
    }
    let mut args = operands(dy, w);
    if let Some(lora) = lora {
        let u = low_rank(&workspace, DType::Bf16, dy.rows(), lora.rank())?;
        up_projection(queue, dy, lora, &u)?;
        args =
            args.pointer(&u).pointer(&lora.a).number(lora.a.row_stride() as u64).number(lora.rank() as u64);
    }
    let args = args.pointer(dx).number(Matrix::row_stride(&dx));
    let rows = tile_rows(queue, m, k).min(64);
    let spec = GemmMmaBackwardSpec {
        rows,
        values: bits(table.values),
        block_size: w.spec.block_size,
        constants: ConstantsSpec::of(&w.spec.constants),
        out: dx.dtype(),
        low_rank: lora.is_some(),
    };
    queue.launch(spec.into(), tiles(m, k, rows), args)
}

/// The activations, the weight, M, N and K.
fn operands(activations: &Tensor<'_>, w: &Quantized<'_>) -> Args {
    let args = Args::new().pointer(activations).number(Matrix::row_stride(&activations)).pointer(w.codes);
    let args = match w.constants {
        ConstantsView::F32(absmax) => args.pointer(absmax),
        ConstantsView::Nested { codes, scales, offset } => {
            args.pointer(codes).pointer(scales).pointer(offset)
        }
    };
    args.number(activations.rows() as u64).number(w.rows as u64).number(w.cols as u64)
}
