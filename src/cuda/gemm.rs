//! Matrix products with a quantized weight and a low-rank adapter: the same sums of products as on the CPU.
//!
//! - forward `Y[M, N] = X·Wᵀ + bias + T·Bᵀ` with `T[M, r] = s·X·Aᵀ`;
//! - backward `dX[M, K] = dY·W + U·A` with `U[M, r] = s·dY·B`.

use super::device::Queue;
use super::gemm_mma;
use super::launch::{Args, Matrix};
use super::memory::Address;
use crate::error::Result;
use crate::format::CodebookTable;
use crate::kernels::constants::ConstantsSpec;
use crate::kernels::gemm::{GemmSpec, OperandSpec, Storage, tiles};
use crate::kernels::table::bits;
use crate::view::{BufferMut, ConstantsView, DType, Lora, Quantized, Tensor, TensorMut};

/// Alignment of the low-rank matrix in the workspace.
const ALIGN: usize = 16;

/// Bytes of workspace at any alignment: T or U.
pub fn workspace_size(m: usize, rank: usize) -> Option<usize> {
    if rank == 0 { Some(0) } else { m.checked_mul(rank)?.checked_mul(size_of::<f32>())?.checked_add(ALIGN) }
}

/// One side of a product: what is stored, and whether its rows run along the inner dimension.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    matrix: Stored<'a>,
    rows_are_inner: bool,
}

#[derive(Clone, Copy)]
enum Stored<'a> {
    Dense { dtype: DType, address: u64, stride: u64 },
    Quantized(&'a Quantized<'a>, &'a CodebookTable),
}

impl<'a> Operand<'a> {
    /// A matrix whose rows run along the inner dimension: the left side as it is stored, the right side transposed.
    pub fn along(tensor: &Tensor<'_>) -> Self {
        let (address, stride) = (tensor.address(), Matrix::row_stride(&tensor));
        let matrix = Stored::Dense { dtype: tensor.dtype(), address, stride };
        Self { matrix, rows_are_inner: true }
    }

    fn quantized(weight: &'a Quantized<'a>, table: &'a CodebookTable) -> Self {
        Self { matrix: Stored::Quantized(weight, table), rows_are_inner: true }
    }

    /// The same matrix with its rows across the inner dimension.
    pub fn across(self) -> Self {
        Self { rows_are_inner: false, ..self }
    }

    fn spec(&self) -> OperandSpec {
        let storage = match self.matrix {
            Stored::Dense { dtype, .. } => Storage::Dense(dtype),
            Stored::Quantized(weight, table) => Storage::Quantized {
                values: bits(table.values),
                block_size: weight.spec.block_size,
                constants: ConstantsSpec::of(&weight.spec.constants),
            },
        };
        OperandSpec { storage, rows_are_inner: self.rows_are_inner }
    }

    fn args(&self, args: Args) -> Args {
        match self.matrix {
            Stored::Dense { address, stride, .. } => args.number(address).number(stride),
            Stored::Quantized(weight, _) => {
                let args = args.pointer(weight.codes);
                let args = match weight.constants {
                    ConstantsView::F32(absmax) => args.pointer(absmax),
                    ConstantsView::Nested { codes, scales, offset } => {
                        args.pointer(codes).pointer(scales).pointer(offset)
                    }
                };
                args.number(weight.cols as u64)
            }
        }
    }
}

/// Where a product goes: `out[M, N] = scale · Σ left·right + bias (+ out)`.
pub struct Output<'a> {
    /// The matrix.
    pub out: &'a TensorMut<'a>,
    /// A row of N elements.
    pub bias: Option<&'a Tensor<'a>>,
    /// The factor of the sum.
    pub scale: f32,
    /// Whether to add to what is there.
    pub accumulate: bool,
}

impl<'a> Output<'a> {
    /// Replaces what is there.
    pub fn new(out: &'a TensorMut<'a>) -> Self {
        Self { out, bias: None, scale: 1.0, accumulate: false }
    }
}

/// Enqueues a sum of products, each with its inner length. The context must be current.
pub fn multiply(
    queue: &Queue<'_>,
    products: &[(Operand<'_>, Operand<'_>, usize)],
    to: Output<'_>,
) -> Result<()> {
    let (m, n) = (to.out.rows() as u64, to.out.cols() as u64);
    if m == 0 || n == 0 {
        return Ok(());
    }
    let spec = GemmSpec {
        products: products.iter().map(|(left, right, _)| [left.spec(), right.spec()]).collect(),
        out: to.out.dtype(),
        bias: to.bias.map(Tensor::dtype),
        accumulate: to.accumulate,
    };
    let args = products
        .iter()
        .fold(Args::new(), |args, (left, right, inner)| right.args(left.args(args)).number(*inner as u64));
    let args = args.number(m).number(n).number(to.scale.to_bits().into());
    let args = to.bias.into_iter().fold(args, |args, bias| args.pointer(bias));
    let args = args.pointer(to.out).number(Matrix::row_stride(&to.out));
    queue.launch(spec.into(), tiles(m, n), args)
}

/// A low-rank matrix `[m, rank]`, f32 or narrower, in the workspace, which has [`workspace_size`] bytes.
pub fn low_rank<'a>(
    workspace: &'a BufferMut<'_, u8>,
    dtype: DType,
    m: usize,
    rank: usize,
) -> Result<TensorMut<'a>> {
    let start = (workspace.address() as usize).next_multiple_of(ALIGN);
    // SAFETY: it lies in the workspace, as its size query says; kernels of one stream use it one after the other.
    unsafe { TensorMut::from_raw(std::ptr::without_provenance_mut(start), dtype, m, rank, rank) }
}

/// Enqueues `T = s·X·Aᵀ`.
pub fn down_projection(queue: &Queue<'_>, x: &Tensor<'_>, lora: &Lora<'_>, t: &TensorMut<'_>) -> Result<()> {
    let product = (Operand::along(x), Operand::along(&lora.a), x.cols());
    multiply(queue, &[product], Output { scale: lora.scale, ..Output::new(t) })
}

/// Enqueues `U = s·dY·B`.
pub fn up_projection(queue: &Queue<'_>, dy: &Tensor<'_>, lora: &Lora<'_>, u: &TensorMut<'_>) -> Result<()> {
    let product = (Operand::along(dy), Operand::along(&lora.b).across(), dy.cols());
    multiply(queue, &[product], Output { scale: lora.scale, ..Output::new(u) })
}

/// Enqueues `Y = X·Wᵀ + bias + s·(X·Aᵀ)·Bᵀ`, on tensor cores where they can do it.
pub fn forward(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    (w, table): (&Quantized<'_>, &CodebookTable),
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    y: &TensorMut<'_>,
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    let lora = lora.filter(|lora| lora.rank() > 0);
    if let Some(half) = gemm_mma::half(queue, x, (w, table), lora) {
        return gemm_mma::forward(queue, half, x, (w, table), bias, lora, y, workspace);
    }
    let base = (Operand::along(x), Operand::quantized(w, table), x.cols());
    let to = Output { bias, ..Output::new(y) };
    let Some(lora) = lora else {
        return multiply(queue, &[base], to);
    };
    let t = low_rank(&workspace, DType::F32, x.rows(), lora.rank())?;
    down_projection(queue, x, lora, &t)?;
    let adapter = (Operand::along(&t.as_tensor()), Operand::along(&lora.b), lora.rank());
    multiply(queue, &[base, adapter], to)
}

/// Enqueues `dX = dY·W + s·(dY·B)·A`, on tensor cores where they can do it.
pub fn backward(
    queue: &Queue<'_>,
    dy: &Tensor<'_>,
    (w, table): (&Quantized<'_>, &CodebookTable),
    lora: Option<&Lora<'_>>,
    dx: &TensorMut<'_>,
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    let lora = lora.filter(|lora| lora.rank() > 0);
    if gemm_mma::takes_backward(queue, dy, w, lora) {
        return gemm_mma::backward(queue, dy, (w, table), lora, dx, workspace);
    }
    let base = (Operand::along(dy), Operand::quantized(w, table).across(), dy.cols());
    let Some(lora) = lora else {
        return multiply(queue, &[base], Output::new(dx));
    };
    let u = low_rank(&workspace, DType::F32, dy.rows(), lora.rank())?;
    up_projection(queue, dy, lora, &u)?;
    let adapter = (Operand::along(&u.as_tensor()), Operand::along(&lora.a).across(), lora.rank());
    multiply(queue, &[base, adapter], Output::new(dx))
}
