//! The AdamW step with f32 states.

use super::device::Queue;
use super::launch::{Args, Matrix};
use crate::error::Result;
use crate::format::adamw::AdamWScalars;
use crate::kernels::adamw::AdamWSpec;
use crate::kernels::tensor::Layout;
use crate::kernels::tile::THREADS;
use crate::view::{BufferMut, Tensor, TensorMut};

/// Enqueues the update of `param`, `m` and `v` in place.
pub fn adamw_step(
    queue: &Queue<'_>,
    scalars: &AdamWScalars,
    param: &TensorMut<'_>,
    grad: &Tensor<'_>,
    m: &BufferMut<'_, f32>,
    v: &BufferMut<'_, f32>,
) -> Result<()> {
    let (n, cols) = ((param.rows() * param.cols()) as u64, param.cols() as u64);
    if n == 0 {
        return Ok(());
    }
    let contiguous = Matrix::is_contiguous(&param) && Matrix::is_contiguous(&grad);
    let layout = if contiguous { Layout::Elements } else { Layout::Strided };
    let spec = AdamWSpec { dtypes: [param.dtype(), grad.dtype()], layout };
    let args = Args::new().number(cols);
    let args = args.pointer(param).number(Matrix::row_stride(&param));
    let args = args.pointer(grad).number(Matrix::row_stride(&grad));
    let args = args.pointer(m).pointer(v).number(n);
    let args = scalars.all().into_iter().fold(args, |args, scalar| args.number(scalar.to_bits().into()));
    queue.launch(spec.into(), n.div_ceil(THREADS.into()), args)
}
