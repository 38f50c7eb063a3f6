//! The gradients of a low-rank adapter: `dA[r, K] = Uᵀ·X` and `dB[N, r] = dYᵀ·T`, with U and T as in [`super::gemm`].

use super::device::Queue;
use super::gemm::{Operand, Output, down_projection, low_rank, multiply, up_projection};
use crate::error::Result;
use crate::view::{BufferMut, DType, Lora, Tensor, TensorMut};

/// Enqueues both gradients, written or added to what is there.
pub fn lora_gradients(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    dy: &Tensor<'_>,
    lora: &Lora<'_>,
    [da, db]: [&TensorMut<'_>; 2],
    accumulate: bool,
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    let (tokens, rank) = (x.rows(), lora.rank());
    if rank == 0 {
        return Ok(());
    }
    // U, then T in its place: kernels of a stream run one after the other.
    let low = low_rank(&workspace, DType::F32, tokens, rank)?;
    let gradient = |left: &Tensor<'_>, right: &Tensor<'_>, out: &TensorMut<'_>| {
        let product = (Operand::along(left).across(), Operand::along(right).across(), tokens);
        multiply(queue, &[product], Output { accumulate, ..Output::new(out) })
    };
    up_projection(queue, dy, lora, &low)?;
    gradient(&low.as_tensor(), x, da)?;
    down_projection(queue, x, lora, &low)?;
    gradient(dy, &low.as_tensor(), db)
}
