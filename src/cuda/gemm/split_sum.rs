//! Products whose inner dimension is split over blocks, in parts that are added by a launch of their own.

use super::cast::Slices;
use super::workspace::{self, Workspace};
use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::error::Result;
use crate::kernels::split_sum::SplitSumSpec;
use crate::view::{DType, Tensor, TensorMut};

/// Bytes of workspace that the parts of a split product take; `None` if they overflow.
pub fn bytes(splits: u64, [rows, cols]: [usize; 2]) -> Option<usize> {
    match splits {
        1 => Some(0),
        _ => workspace::bytes(rows.checked_mul(usize::try_from(splits).ok()?)?, cols, DType::F32),
    }
}

/// Enqueues a product in so many parts. `launch` makes one, given where to, the bias, and whether to add to what is there: the
/// whole, or all parts, which are f32, one after the other in rows without gaps.
pub fn in_parts(
    queue: &Queue<'_>,
    splits: u64,
    bias: Option<&Tensor<'_>>,
    out: &TensorMut<'_>,
    accumulate: bool,
    workspace: &mut Workspace<'_>,
    launch: impl FnOnce(&TensorMut<'_>, Option<&Tensor<'_>>, bool) -> Result<()>,
) -> Result<()> {
    if splits == 1 {
        return launch(out, bias, accumulate);
    }
    let parts = workspace.matrix(DType::F32, splits as usize * out.rows(), out.cols())?;
    launch(&parts, None, false)?;
    sum(queue, &Slices::stacked(parts, splits), bias, out, accumulate)
}

/// Enqueues `out = scale·Σ slices + bias`, or adds that to what is there, right after the kernel that makes the slices: they are f32,
/// their rows without gaps, of the shape of the output or of its last columns, which alone are written then.
pub fn sum(
    queue: &Queue<'_>,
    slices: &Slices<'_>,
    bias: Option<&Tensor<'_>>,
    out: &TensorMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let (rows, cols) = (out.rows() as u64, slices.first.cols() as u64);
    let first = out.cols() - slices.first.cols();
    let args = Args::new().pointer(&slices.first).number(slices.count).number(slices.scale.to_bits().into());
    let args = bias
        .into_iter()
        .fold(args.number(rows).number(cols), |args, bias| args.number(bias.at(0, first).addr() as u64));
    let args = args.number(out.at(0, first).addr() as u64).number(Matrix::row_stride(&out));
    // Rows of parts have no gaps, and a workspace's matrices start at more than a four.
    let spec = SplitSumSpec {
        out: out.dtype(),
        bias: bias.map(Tensor::dtype),
        accumulate,
        fours: cols.is_multiple_of(4)
            && is_of_fours(out.as_tensor(), first)
            && bias.is_none_or(|bias| is_of_fours(*bias, first)),
        overlaps: queue.overlaps(),
    };
    let tiles = spec.tiles(rows, cols);
    match spec.overlaps {
        true => queue.launch_overlapping(spec.into(), tiles, args),
        false => queue.launch(spec.into(), tiles, args),
    }
}

/// Whether each of a matrix's rows, from this column on, starts at a multiple of four elements' size.
fn is_of_fours(matrix: Tensor<'_>, first: usize) -> bool {
    let four = 4 * matrix.dtype().size();
    let starts_of_rows = matrix.row_stride().is_multiple_of(4) || matrix.rows() == 1;
    starts_of_rows && matrix.at(0, first).addr().is_multiple_of(four)
}
