//! Products of few rows of 16-bit activations and a quantized weight, at the pace of reading the weight.

use super::low_rank::Term;
use super::skinny_plan::{self, Device, Plan};
use super::workspace::{Workspace, f32_bytes};
use super::{Weight, mma};
use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::decode::Half;
use crate::kernels::gemm_skinny::GemmSkinnySpec;
use crate::kernels::split_sum::{self, SplitSumSpec};
use crate::view::{ConstantsView, DType, Lora, Tensor, TensorMut};
use ptx_asm::Target;

/// Bytes of workspace that the parts of a split product take; `None` if they overflow.
pub fn bytes(device: Device, shape: [usize; 3]) -> Option<usize> {
    let [m, n, _] = shape;
    let plan = skinny_plan::forward(device, shape.map(|size| size as u64));
    plan.filter(|plan| plan.splits > 1)
        .map_or(Some(0), |plan| f32_bytes(m.checked_mul(plan.splits as usize)?, n))
}

/// The type to compute in and the cut, if the forward kernel takes these arguments.
pub fn takes(queue: &Queue<'_>, x: &Tensor<'_>, w: Weight<'_>) -> Option<(Half, Plan)> {
    let half = mma::takes(queue, x, w)?;
    let codes_aligned = match &w.view.constants {
        ConstantsView::F32(_) => true,
        ConstantsView::Nested { codes, .. } => codes.address().is_multiple_of(4),
    };
    let fits = queue.target() >= Target::Sm80 && codes_aligned && w.view.cols < 1 << 31;
    let plan = skinny_plan::forward(queue.device(), [x.rows(), w.view.rows, w.view.cols].map(|n| n as u64));
    plan.filter(|_| fits).map(|plan| (half, plan))
}

/// Enqueues `Y = X·Wᵀ + bias + T·Bᵀ` with `T = s·X·Aᵀ`, rounded to X's type.
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
    let Plan { fragments, down, stages, splits, per_split, items } = plan;
    let product = |out: &TensorMut<'_>, bias| mma::product(half, w, out, bias, lora, false);
    let launch = |args: Args, out: &TensorMut<'_>, product| {
        let args = args.pointer(out).number(Matrix::row_stride(&out)).number(splits).number(per_split);
        queue.launch(GemmSkinnySpec { fragments, down, stages, product }.into(), items, args)
    };
    if splits == 1 {
        let args = bias.into_iter().fold(args, |args, bias| args.pointer(bias));
        return launch(args, y, product(y, bias));
    }
    let parts = workspace.matrix(DType::F32, splits as usize * y.rows(), y.cols())?;
    launch(args, &parts, product(&parts, None))?;
    sum(queue, &parts, splits, bias, y, false)
}

/// Enqueues `out = Σ_s parts[s] + bias`, or added to what is there.
fn sum(
    queue: &Queue<'_>,
    parts: &TensorMut<'_>,
    splits: u64,
    bias: Option<&Tensor<'_>>,
    out: &TensorMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let (rows, cols) = (out.rows() as u64, out.cols() as u64);
    let args = Args::new().pointer(parts).number(splits).number(1f32.to_bits().into());
    let args = bias.into_iter().fold(args.number(rows).number(cols), |args, bias| args.pointer(bias));
    let args = args.pointer(out).number(Matrix::row_stride(&out));
    let spec = SplitSumSpec { out: out.dtype(), bias: bias.map(Tensor::dtype), accumulate };
    queue.launch(spec.into(), split_sum::tiles(rows, cols), args)
}
