//! Products of any shape, dtype and alignment, and sums of such products: what the faster kernels do not take.

use super::Weight;
use super::low_rank::{down_projection, up_projection};
use super::workspace::Workspace;
use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::constants::ConstantsSpec;
use crate::kernels::gemm::{GemmSpec, OperandSpec, Storage, tiles};
use crate::kernels::table::bits;
use crate::view::{DType, Lora, Tensor, TensorMut};

/// One side of a product: what is stored, and whether its rows run along the inner dimension.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    matrix: Stored<'a>,
    rows_are_inner: bool,
}

#[derive(Clone, Copy)]
enum Stored<'a> {
    Dense { dtype: DType, address: u64, stride: u64 },
    Quantized(Weight<'a>),
}

impl<'a> Operand<'a> {
    /// A matrix whose rows run along the inner dimension: the left side as it is stored, the right side transposed.
    pub fn along(tensor: &Tensor<'_>) -> Self {
        let (address, stride) = (tensor.address(), Matrix::row_stride(&tensor));
        let matrix = Stored::Dense { dtype: tensor.dtype(), address, stride };
        Self { matrix, rows_are_inner: true }
    }

    fn quantized(weight: Weight<'a>) -> Self {
        Self { matrix: Stored::Quantized(weight), rows_are_inner: true }
    }

    /// The same matrix with its rows across the inner dimension.
    pub fn across(self) -> Self {
        Self { rows_are_inner: false, ..self }
    }

    fn spec(&self) -> OperandSpec {
        let storage = match self.matrix {
            Stored::Dense { dtype, .. } => Storage::Dense(dtype),
            Stored::Quantized(weight) => Storage::Quantized {
                values: bits(weight.table.values),
                block_size: weight.view.spec.block_size,
                constants: ConstantsSpec::of(&weight.view.spec.constants),
            },
        };
        OperandSpec { storage, rows_are_inner: self.rows_are_inner }
    }

    fn args(&self, args: Args) -> Args {
        match self.matrix {
            Stored::Dense { address, stride, .. } => args.number(address).number(stride),
            Stored::Quantized(weight) => weight.args(args).number(weight.view.cols as u64),
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

/// Enqueues `Y = X·Wᵀ + bias + s·(X·Aᵀ)·Bᵀ`.
pub fn forward(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    w: Weight<'_>,
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    y: &TensorMut<'_>,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let base = (Operand::along(x), Operand::quantized(w), x.cols());
    let to = Output { bias, ..Output::new(y) };
    let Some(lora) = lora else {
        return multiply(queue, &[base], to);
    };
    let t = down_projection(queue, x, lora, workspace)?;
    let adapter = (Operand::along(&t), Operand::along(&lora.b), lora.rank());
    multiply(queue, &[base, adapter], to)
}

/// Enqueues `dX = dY·W + s·(dY·B)·A`, written or added to what is there.
pub fn backward(
    queue: &Queue<'_>,
    dy: &Tensor<'_>,
    w: Weight<'_>,
    lora: Option<&Lora<'_>>,
    dx: &TensorMut<'_>,
    accumulate: bool,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let base = (Operand::along(dy), Operand::quantized(w).across(), dy.cols());
    let to = Output { accumulate, ..Output::new(dx) };
    let Some(lora) = lora else {
        return multiply(queue, &[base], to);
    };
    let u = up_projection(queue, dy, lora, workspace)?;
    let adapter = (Operand::along(&u), Operand::along(&lora.a).across(), lora.rank());
    multiply(queue, &[base, adapter], to)
}
