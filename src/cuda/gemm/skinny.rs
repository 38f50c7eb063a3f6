//! Products of few rows of 16-bit activations and a quantized weight, at the pace of reading the weight.

use super::low_rank::Term;
use super::residence::Residence;
use super::skinny_plan::{Plan, Product, plan};
use super::split_sum::{self, in_parts};
use super::workspace::Workspace;
use super::{Weight, mma, product};
use crate::cuda::device::{Cuda, Queue};
use crate::cuda::launch::Matrix;
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::decode::Half;
use crate::kernels::gemm_skinny::GemmSkinnySpec;
use crate::kernels::gemm_skinny_backward::GemmSkinnyBackwardSpec;
use crate::view::{ConstantsView, Lora, Tensor, TensorMut};
use ptx_asm::Target;

/// Bytes of workspace that the parts of a split product take; `None` if they overflow.
pub fn bytes(cuda: &Cuda, product: Product, shape: [usize; 3]) -> Option<usize> {
    let [m, n, k] = shape;
    let cols = if product == Product::Forward { n } else { k };
    match plan(cuda.capacity(), product, shape.map(|size| size as u64)) {
        Some(plan) => split_sum::bytes(plan.splits, [m, cols]),
        None => Some(0),
    }
}

/// The type to compute in and the cut, if the forward kernel takes these arguments.
pub fn takes(queue: &Queue<'_>, x: &Tensor<'_>, w: Weight<'_>) -> Option<(Half, Plan)> {
    let half = mma::takes(queue, x, w)?;
    let fits = takes_weight(queue, w) && w.view.cols < 1 << 31;
    Some((half, cut(queue, Product::Forward, x, w).filter(|_| fits)?))
}

/// The cut, if the backward kernel takes these arguments, which are bf16.
pub fn takes_backward(queue: &Queue<'_>, dy: &Tensor<'_>, w: Weight<'_>) -> Option<Plan> {
    let half = mma::takes_units(queue, dy, w)?;
    let fits = half == Half::Bf16
        && takes_weight(queue, w)
        && w.view.cols < 1 << 23
        && w.view.rows.checked_mul(w.view.cols / 64).is_some_and(|blocks| blocks < 1 << 31);
    cut(queue, Product::Backward, dy, w).filter(|_| fits)
}

/// Whether constants can be copied as they are stored.
fn takes_weight(queue: &Queue<'_>, w: Weight<'_>) -> bool {
    queue.target() >= Target::Sm80
        && match &w.view.constants {
            ConstantsView::F32(_) => true,
            ConstantsView::Nested { codes, .. } => codes.address().is_multiple_of(4),
        }
}

fn cut(queue: &Queue<'_>, product: Product, activations: &Tensor<'_>, w: Weight<'_>) -> Option<Plan> {
    plan(queue.capacity(), product, [activations.rows(), w.view.rows, w.view.cols].map(|size| size as u64))
}

/// Enqueues `Y = X·Wᵀ + bias + T·Bᵀ` with `T = s·X·Aᵀ` rounded to X's type.
pub fn forward(
    queue: &Queue<'_>,
    (half, plan): (Half, Plan),
    x: &Tensor<'_>,
    w: Weight<'_>,
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    y: &TensorMut<'_>,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let mut args = mma::operands(x, w);
    if let Some(lora) = lora {
        args = Term::forward(queue, x, lora, half, workspace)?.args(args);
    }
    let Plan { fragments, down, residence: Residence { blocks, stages }, splits, per_split, items } = plan;
    in_parts(queue, splits, bias, y, false, workspace, |out, bias, accumulate| {
        let product = product(half, w, out, bias, lora, accumulate);
        let args = bias.into_iter().fold(args, |args, bias| args.pointer(bias));
        let args = args.pointer(out).number(Matrix::row_stride(&out)).number(splits).number(per_split);
        queue.launch(GemmSkinnySpec { fragments, down, blocks, stages, product }.into(), items, args)
    })
}

/// Enqueues `dX = dY·W + U·A` with `U = s·dY·B` rounded to dY's type; written or added to what is there.
pub fn backward(
    queue: &Queue<'_>,
    plan: Plan,
    dy: &Tensor<'_>,
    w: Weight<'_>,
    lora: Option<&Lora<'_>>,
    dx: &TensorMut<'_>,
    accumulate: bool,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let mut args = mma::operands(dy, w);
    if let Some(lora) = lora {
        args = Term::backward(queue, dy, lora, Half::Bf16, workspace)?.args(args);
    }
    let Plan { fragments, down, residence: Residence { blocks, stages }, splits, per_split, items } = plan;
    in_parts(queue, splits, None, dx, accumulate, workspace, |out, bias, accumulate| {
        let product = product(Half::Bf16, w, out, bias, lora, accumulate);
        let args = args.pointer(out).number(Matrix::row_stride(&out)).number(splits).number(per_split);
        queue.launch(GemmSkinnyBackwardSpec { fragments, down, blocks, stages, product }.into(), items, args)
    })
}
