//! The end of a product whose inner dimension was split over blocks: its slices are added.

use super::cast::Slices;
use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::error::Result;
use crate::kernels::split_sum::{SplitSumSpec, tiles};
use crate::view::{Tensor, TensorMut};

/// Enqueues `out = scale·Σ slices + bias`, or adds that to what is there. The slices are f32, of the output's shape, their rows
/// without gaps.
pub fn sum(
    queue: &Queue<'_>,
    slices: &Slices<'_>,
    bias: Option<&Tensor<'_>>,
    out: &TensorMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let (rows, cols) = (out.rows() as u64, out.cols() as u64);
    let args = Args::new().pointer(&slices.first).number(slices.count).number(slices.scale.to_bits().into());
    let args = bias.into_iter().fold(args.number(rows).number(cols), |args, bias| args.pointer(bias));
    let args = args.pointer(out).number(Matrix::row_stride(&out));
    let spec = SplitSumSpec { out: out.dtype(), bias: bias.map(Tensor::dtype), accumulate };
    queue.launch(spec.into(), tiles(rows, cols), args)
}
