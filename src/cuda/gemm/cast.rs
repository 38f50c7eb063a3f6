//! Matrices in 16 bits, as tensor cores take them.

use super::workspace::{Workspace, bytes};
use crate::cuda::device::Queue;
use crate::cuda::launch::{Args, Matrix};
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::cast::{CastSpec, tiles};
use crate::kernels::decode::Half;
use crate::view::{DType, Tensor, TensorMut};

/// A matrix as the sum of slices, scaled: still to be added.
#[derive(Clone, Copy)]
pub struct Slices<'a> {
    /// The first slice; the others follow without gaps.
    pub first: Tensor<'a>,
    /// How many there are.
    pub count: u64,
    /// The factor of their sum.
    pub scale: f32,
}

impl<'a> Slices<'a> {
    /// So many that lie one after the other in a matrix, which is all of them.
    pub fn stacked(matrix: TensorMut<'a>, count: u64) -> Self {
        let matrix = matrix.into_tensor();
        Self { first: matrix.first_rows(matrix.rows() / count as usize), count, scale: 1.0 }
    }
}

impl<'a> From<Tensor<'a>> for Slices<'a> {
    fn from(first: Tensor<'a>) -> Self {
        Self { first, count: 1, scale: 1.0 }
    }
}

/// A matrix as the sum of 16-bit ones. They and their rows are aligned to 16 bytes.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// Their type.
    pub half: Half,
    /// The first; the others follow without gaps.
    pub first: Tensor<'a>,
    /// How many there are.
    pub count: u32,
}

/// Whether a matrix and its rows start at multiples of 16 bytes.
pub fn aligned(matrix: &Tensor<'_>) -> bool {
    let row_bytes = matrix.row_stride() * matrix.dtype().size();
    matrix.address().is_multiple_of(16) && row_bytes.is_multiple_of(16)
}

/// Bytes of workspace for a matrix in `count` parts.
pub fn parts_bytes(rows: Option<usize>, cols: Option<usize>, count: usize) -> Option<usize> {
    bytes(rows?.checked_mul(count)?, cols?, DType::F16)
}

/// A matrix in 16-bit parts and of a shape that may be larger, by zeros, its columns an even number. As it lies if it is all of
/// that, else cast into the workspace: rounded to nearest in one part, within the square of the unit roundoff in two.
pub fn cast<'a, 'w: 'a>(
    queue: &Queue<'_>,
    source: &Slices<'a>,
    (half, count): (Half, u32),
    [rows, cols]: [usize; 2],
    workspace: &mut Workspace<'w>,
) -> Result<Parts<'a>> {
    let Slices { first: matrix, count: slices, scale } = *source;
    let same = matrix.dtype() == half.dtype() && [matrix.rows(), matrix.cols()] == [rows, cols];
    if same && (slices, scale) == (1, 1.0) && aligned(&matrix) {
        return Ok(Parts { half, first: matrix, count: 1 });
    }
    let copy = workspace.matrix(half.dtype(), count as usize * rows, cols)?;
    let (stride, sizes) = (Matrix::row_stride(&&matrix), [matrix.rows(), matrix.cols()].map(|n| n as u64));
    let args = Args::new().pointer(&matrix).number(stride).number(sizes[0]).number(sizes[1]);
    let args = args.number(slices).number(sizes[0] * stride).number(scale.to_bits().into());
    let args = args.pointer(&copy).number(rows as u64).number(cols as u64);
    let spec = CastSpec { from: matrix.dtype(), to: half, parts: count };
    queue.launch(spec.into(), tiles(rows as u64, cols as u64), args)?;
    Ok(Parts { half, first: copy.into_tensor().first_rows(rows), count })
}
