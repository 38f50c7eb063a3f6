//! The low-rank matrices of an adapter, `T[M, r] = s·X·Aᵀ` and `U[M, r] = s·dY·B`; the term of a fused product that they are
//! part of, `T·Bᵀ` or `U·A`; and the adapter's gradients, which are products of them. On tensor cores where the long matrix,
//! X or dY, allows it.

use super::cast::{Parts, Slices, cast, parts_bytes};
use super::mma::half;
use super::residence::Residence;
use super::simt::{Operand, Output, multiply};
use super::split_sum::sum;
use super::workspace::{Workspace, bytes};
use crate::cuda::device::{Cuda, Queue};
use crate::cuda::launch::{Args, Matrix};
use crate::error::Result;
use crate::kernels::decode::Half;
use crate::kernels::gemm_low_rank::{self as kernel, AdapterMatrix, GemmLowRankSpec};
use crate::kernels::product;
use crate::view::{DType, Lora, Tensor, TensorMut};
use ptx_asm::Target;

/// Fused kernels take whole steps of this many ranks.
const RANK: usize = product::RANK as usize;

/// Bytes of workspace that a [`Term`] takes at most: T of `m` rows from sums of `inner` terms, B with `other` rows; or U and A.
pub fn term_bytes(cuda: &Cuda, m: usize, inner: usize, other: usize, rank: usize) -> [Option<usize>; 4] {
    let [parts, sums] = low_bytes(cuda, m, inner, rank);
    let padded = rank.checked_next_multiple_of(RANK);
    [parts, sums, parts_bytes(Some(m), padded, 1), parts_bytes(Some(other), padded, 1)]
}

/// Bytes of workspace for the gradient of an adapter's matrix that has `long` columns or rows: by U or T, as there.
pub fn gradient_bytes(cuda: &Cuda, m: usize, inner: usize, long: usize, rank: usize) -> [Option<usize>; 4] {
    let [parts, sums] = low_bytes(cuda, m, inner, rank);
    let padded = rank.checked_next_multiple_of(RANK);
    [parts, sums, parts_bytes(Some(m), padded, 2), slices_bytes(cuda, long, m, rank)]
}

/// Of T or U: the adapter's matrix in parts, and the slices.
fn low_bytes(cuda: &Cuda, m: usize, inner: usize, rank: usize) -> [Option<usize>; 2] {
    let padded = rank.checked_next_multiple_of(RANK);
    [parts_bytes(Some(inner), padded, 2), slices_bytes(cuda, m, inner, rank)]
}

fn slices_bytes(cuda: &Cuda, outer: usize, inner: usize, rank: usize) -> Option<usize> {
    // Of either number of blocks on an SM, which depends on the types.
    let sizes = [outer, inner, rank].map(|size| size as u64);
    let cuts = [1, 2].map(|blocks| kernel::Slices::new(sizes, cuda.processors.into(), blocks).count);
    bytes(outer.checked_mul(usize::try_from(cuts[0].max(cuts[1])).ok()?)?, rank, DType::F32)
}

/// Two blocks on an SM that bring two chunks ahead, or one. Turing, whose ring goes through registers, brings one ahead.
fn residence(queue: &Queue<'_>, rank: u64, parts: u32) -> Residence {
    let turing = Residence { blocks: 1, stages: 2 };
    let bytes = |stages| stages * kernel::slot_bytes(rank, parts);
    let found = Residence::new(queue.capacity(), 2, 3..=4, bytes);
    found.filter(|_| queue.target() >= Target::Sm80).unwrap_or(turing)
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
        let (rank, rows) = (lora.rank().next_multiple_of(RANK), lora.b.rows());
        let t = t(queue, x, lora, workspace)?;
        Self::of(queue, t, (lora.b, [rows, rank]), half, rank, workspace)
    }

    /// Enqueues what `U·A` needs.
    pub fn backward<'w: 'a>(
        queue: &Queue<'_>,
        dy: &Tensor<'_>,
        lora: &Lora<'a>,
        half: Half,
        workspace: &mut Workspace<'w>,
    ) -> Result<Self> {
        let (rank, cols) = (lora.rank().next_multiple_of(RANK), lora.a.cols());
        let u = u(queue, dy, lora, workspace)?;
        Self::of(queue, u, (lora.a, [rank, cols]), half, rank, workspace)
    }

    fn of<'w: 'a>(
        queue: &Queue<'_>,
        low: Slices<'a>,
        (matrix, shape): (Tensor<'a>, [usize; 2]),
        half: Half,
        rank: usize,
        workspace: &mut Workspace<'w>,
    ) -> Result<Self> {
        let low_shape = [low.first.rows(), rank];
        Ok(Self {
            low: cast(queue, &low, (half, 1), low_shape, workspace)?.first,
            matrix: cast(queue, &matrix.into(), (half, 1), shape, workspace)?.first,
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

/// Enqueues `T = s·X·Aᵀ`, but for the sum of its slices, on tensor cores if they take it.
pub fn t<'w>(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    lora: &Lora<'_>,
    workspace: &mut Workspace<'w>,
) -> Result<Slices<'w>> {
    match TensorCores::take(queue, x, lora.a.dtype()) {
        Some(cores) => cores.t(x, lora, workspace),
        None => down_projection(queue, x, lora, workspace).map(Slices::from),
    }
}

/// Enqueues `U = s·dY·B` likewise.
pub fn u<'w>(
    queue: &Queue<'_>,
    dy: &Tensor<'_>,
    lora: &Lora<'_>,
    workspace: &mut Workspace<'w>,
) -> Result<Slices<'w>> {
    match TensorCores::take(queue, dy, lora.b.dtype()) {
        Some(cores) => cores.u(dy, lora, workspace),
        None => up_projection(queue, dy, lora, workspace).map(Slices::from),
    }
}

/// Enqueues `T = s·X·Aᵀ` of any kind, into the workspace, in f32.
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

/// Enqueues `U = s·dY·B` of any kind, into the workspace, in f32.
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

/// The products of a long matrix on tensor cores.
pub struct TensorCores<'q, 'd> {
    queue: &'q Queue<'d>,
    /// The type of the long matrix.
    long: Half,
}

impl<'q, 'd> TensorCores<'q, 'd> {
    /// Whether they take a long matrix, multiplied by a narrow one of a type: 16 bits in whole 16-byte pieces. Turing has f16
    /// only, and no parts of anything else.
    pub fn take(queue: &'q Queue<'d>, long: &Tensor<'_>, narrow: DType) -> Option<Self> {
        let fits = !long.is_empty() && long.cols().is_multiple_of(8);
        let narrow_fits = queue.target() >= Target::Sm80 || narrow == DType::F16;
        let long = half(queue, long).filter(|_| fits && narrow_fits)?;
        Some(Self { queue, long })
    }

    fn t<'w>(&self, x: &Tensor<'_>, lora: &Lora<'_>, workspace: &mut Workspace<'w>) -> Result<Slices<'w>> {
        let a = self.narrow(&lora.a.into(), [lora.a.rows(), lora.a.cols()], workspace)?;
        let sums = self.product(AdapterMatrix::T, x, &a, lora.rank(), workspace)?;
        Ok(Slices { scale: lora.scale, ..sums })
    }

    fn u<'w>(&self, dy: &Tensor<'_>, lora: &Lora<'_>, workspace: &mut Workspace<'w>) -> Result<Slices<'w>> {
        let b = self.narrow(&lora.b.into(), [lora.b.rows(), lora.rank().next_multiple_of(8)], workspace)?;
        let sums = self.product(AdapterMatrix::U, dy, &b, lora.rank(), workspace)?;
        Ok(Slices { scale: lora.scale, ..sums })
    }

    /// Enqueues `dA = Uᵀ·X` or `dB = dYᵀ·T`.
    pub fn gradient(
        &self,
        matrix: AdapterMatrix,
        long: &Tensor<'_>,
        low: &Slices<'_>,
        out: &TensorMut<'_>,
        accumulate: bool,
        workspace: &mut Workspace<'_>,
    ) -> Result<()> {
        let rank = low.first.cols();
        let low = self.narrow(low, [low.first.rows(), rank.next_multiple_of(8)], workspace)?;
        let sums = self.product(matrix, long, &low, rank, workspace)?;
        sum(self.queue, &sums, None, out, accumulate)
    }

    /// A narrow matrix in as many parts as it needs to be multiplied by the long one.
    fn narrow<'a, 'w: 'a>(
        &self,
        matrix: &Slices<'a>,
        shape: [usize; 2],
        workspace: &mut Workspace<'w>,
    ) -> Result<Parts<'a>> {
        let dtype = matrix.first.dtype();
        let half = if dtype == self.long.dtype() { self.long } else { Half::Bf16 };
        let count = if dtype == half.dtype() { 1 } else { 2 };
        cast(self.queue, matrix, (half, count), shape, workspace)
    }

    /// Enqueues a product, but for the sum of its slices.
    fn product<'w>(
        &self,
        matrix: AdapterMatrix,
        long: &Tensor<'_>,
        narrow: &Parts<'_>,
        rank: usize,
        workspace: &mut Workspace<'w>,
    ) -> Result<Slices<'w>> {
        let (outer, inner) =
            if matrix.is_along() { (long.rows(), long.cols()) } else { (long.cols(), long.rows()) };
        let [rows, cols] = if matrix == AdapterMatrix::GradientA { [rank, outer] } else { [outer, rank] };
        let sizes = [outer, inner, rank].map(|size| size as u64);
        let Residence { blocks, stages } = residence(self.queue, sizes[2], narrow.count);
        let slices = kernel::Slices::new(sizes, self.queue.processors(), blocks);
        let out = workspace.matrix(DType::F32, slices.count as usize * rows, cols)?;
        let args = Args::new().pointer(long).number(Matrix::row_stride(&long));
        let stride = Matrix::row_stride(&&narrow.first);
        let args = args.pointer(&narrow.first).number(stride);
        let args = match narrow.count {
            1 => args,
            _ => args.number(narrow.first.rows() as u64 * stride),
        };
        let args = sizes.into_iter().fold(args, Args::number);
        let args = args.number(slices.count).number(slices.each).pointer(&out);
        let spec = GemmLowRankSpec::new(matrix, [self.long, narrow.half], narrow.count, sizes[2]);
        let spec = GemmLowRankSpec { blocks, stages, ..spec };
        self.queue.launch(spec.into(), slices.blocks, args)?;
        Ok(Slices::stacked(out, slices.count))
    }
}
