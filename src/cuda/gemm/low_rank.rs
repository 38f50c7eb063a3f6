//! The low-rank matrices of an adapter: `T[M, r] = s·X·Aᵀ` and `U[M, r] = s·dY·B`.

use super::simt::{Operand, Output, multiply};
use super::workspace::{Workspace, f32_bytes};
use crate::cuda::device::Queue;
use crate::error::Result;
use crate::view::{DType, Lora, Tensor, TensorMut};

/// Bytes of workspace that T or U takes at most.
pub fn bytes(m: usize, rank: usize) -> Option<usize> {
    f32_bytes(m, rank)
}

/// Enqueues `T = s·X·Aᵀ`, into the workspace.
pub fn down_projection<'w>(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    lora: &Lora<'_>,
    dtype: DType,
    workspace: &mut Workspace<'w>,
) -> Result<TensorMut<'w>> {
    let t = workspace.matrix(dtype, x.rows(), lora.rank())?;
    let product = (Operand::along(x), Operand::along(&lora.a), x.cols());
    multiply(queue, &[product], Output { scale: lora.scale, ..Output::new(&t) })?;
    Ok(t)
}

/// Enqueues `U = s·dY·B`, into the workspace.
pub fn up_projection<'w>(
    queue: &Queue<'_>,
    dy: &Tensor<'_>,
    lora: &Lora<'_>,
    dtype: DType,
    workspace: &mut Workspace<'w>,
) -> Result<TensorMut<'w>> {
    let u = workspace.matrix(dtype, dy.rows(), lora.rank())?;
    let product = (Operand::along(dy), Operand::along(&lora.b).across(), dy.cols());
    multiply(queue, &[product], Output { scale: lora.scale, ..Output::new(&u) })?;
    Ok(u)
}
