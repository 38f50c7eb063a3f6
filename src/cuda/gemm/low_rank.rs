//! The low-rank matrices of an adapter: `T[M, r] = s·X·Aᵀ` and `U[M, r] = s·dY·B`; and the term of a fused product that
//! they are part of, `T·Bᵀ` or `U·A`.

use super::simt::{Operand, Output, multiply};
use super::workspace::{self, Workspace};
use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::cast::{CastSpec, tiles};
use crate::kernels::decode::Half;
use crate::kernels::product;
use crate::view::{DType, Lora, Tensor};

/// Fused kernels take whole steps of this many ranks.
const RANK_STEP: usize = product::RANK as usize;

/// Alignment of the matrices of a [`Term`] and of their rows, in bytes: what tensor maps and the widest copies ask for.
const ALIGN: u64 = 16;

/// Bytes of workspace that a [`Term`] of a weight `[n, k]` takes at most, or T or U alone.
pub fn bytes([m, n, k]: [usize; 3], rank: usize) -> [Option<usize>; 3] {
    let half = |rows: usize| rows.checked_mul(rank.checked_next_multiple_of(RANK_STEP)?)?.checked_mul(2);
    [workspace::f32_bytes(m, rank), half(m), half(n.max(k))]
}

/// The low-rank term of a fused product, in the type that its kernel multiplies, the rank in whole steps of 16: beyond the
/// adapter's own rank there are zeros. Matrices and rows are aligned to 16 bytes.
pub struct Term<'a> {
    /// `T[M, rank]` or `U[M, rank]`, rows without gaps.
    pub low: Tensor<'a>,
    /// `B[N, rank]` or `A[rank, K]`.
    pub matrix: Tensor<'a>,
}

impl<'a> Term<'a> {
    /// Enqueues what `T·Bᵀ` needs.
    pub fn forward<'w: 'a>(
        queue: &Queue<'_>,
        x: &Tensor<'_>,
        lora: &Lora<'a>,
        half: Half,
        workspace: &mut Workspace<'w>,
    ) -> Result<Self> {
        let rank = lora.rank().next_multiple_of(RANK_STEP);
        let t = down_projection(queue, x, lora, workspace)?;
        Ok(Self {
            low: in_half(queue, &t, half, [x.rows(), rank], workspace)?,
            matrix: in_half(queue, &lora.b, half, [lora.b.rows(), rank], workspace)?,
        })
    }

    /// Enqueues what `U·A` needs.
    pub fn backward<'w: 'a>(
        queue: &Queue<'_>,
        dy: &Tensor<'_>,
        lora: &Lora<'a>,
        half: Half,
        workspace: &mut Workspace<'w>,
    ) -> Result<Self> {
        let rank = lora.rank().next_multiple_of(RANK_STEP);
        let u = up_projection(queue, dy, lora, workspace)?;
        Ok(Self {
            low: in_half(queue, &u, half, [dy.rows(), rank], workspace)?,
            matrix: in_half(queue, &lora.a, half, [rank, lora.a.cols()], workspace)?,
        })
    }

    /// The rank, a multiple of 16.
    pub fn rank(&self) -> usize {
        self.low.cols()
    }

    /// The arguments of a kernel: T or U, B or A and its row stride, the rank.
    pub fn args(&self, args: Args) -> Args {
        let args = args.pointer(&self.low).pointer(&self.matrix);
        args.number(Matrix::row_stride(&&self.matrix)).number(self.rank() as u64)
    }
}

/// A matrix in a 16-bit type and of a shape that may be larger, by zeros; aligned. As it lies if it is all of that, else a
/// copy in the workspace, rounded to nearest: beyond f16's range that is infinite.
fn in_half<'a, 'w: 'a>(
    queue: &Queue<'_>,
    matrix: &Tensor<'a>,
    half: Half,
    [rows, cols]: [usize; 2],
    workspace: &mut Workspace<'w>,
) -> Result<Tensor<'a>> {
    let row_bytes = (matrix.row_stride() * matrix.dtype().size()) as u64;
    let aligned = matrix.address().is_multiple_of(ALIGN) && row_bytes.is_multiple_of(ALIGN);
    if matrix.dtype() == half.dtype() && [matrix.rows(), matrix.cols()] == [rows, cols] && aligned {
        return Ok(*matrix);
    }
    let copy = workspace.matrix(half.dtype(), rows, cols)?;
    let sizes = [matrix.rows(), matrix.cols()].map(|size| size as u64);
    let args = Args::new().pointer(matrix).number(Matrix::row_stride(&matrix));
    let args = args.number(sizes[0]).number(sizes[1]);
    let args = args.pointer(&copy).number(rows as u64).number(cols as u64);
    let spec = CastSpec { from: matrix.dtype(), to: half };
    queue.launch(spec.into(), tiles(rows as u64, cols as u64), args)?;
    Ok(copy.into_tensor())
}

/// Enqueues `T = s·X·Aᵀ`, into the workspace, in f32.
pub fn down_projection<'w>(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    lora: &Lora<'_>,
    workspace: &mut Workspace<'w>,
) -> Result<Tensor<'w>> {
    let t = workspace.matrix(DType::F32, x.rows(), lora.rank())?;
    let product = (Operand::along(x), Operand::along(&lora.a), x.cols());
    multiply(queue, &[product], Output { scale: lora.scale, ..Output::new(&t) })?;
    Ok(t.into_tensor())
}

/// Enqueues `U = s·dY·B`, into the workspace, in f32.
pub fn up_projection<'w>(
    queue: &Queue<'_>,
    dy: &Tensor<'_>,
    lora: &Lora<'_>,
    workspace: &mut Workspace<'w>,
) -> Result<Tensor<'w>> {
    let u = workspace.matrix(DType::F32, dy.rows(), lora.rank())?;
    let product = (Operand::along(dy), Operand::along(&lora.b).across(), dy.cols());
    multiply(queue, &[product], Output { scale: lora.scale, ..Output::new(&u) })?;
    Ok(u.into_tensor())
}
