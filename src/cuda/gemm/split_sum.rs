//! The sum of a product's parts.

use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::error::Result;
use crate::kernels::split_sum::{SplitSumSpec, tiles};
use crate::view::{Tensor, TensorMut};

/// Enqueues `out = Σ_s parts[s] + bias`, or added to what is there. The parts follow each other, each as many rows as `out` has.
pub fn sum(
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
    queue.launch(spec.into(), tiles(rows, cols), args)
}
