//! The gradients of a low-rank adapter: `dA[r, K] = Uᵀ·X` and `dB[N, r] = dYᵀ·T`, with U and T as in [`super::gemm`].

use super::device::Queue;
use super::gemm::low_rank::{down_projection, up_projection};
use super::gemm::simt::{Operand, Output, multiply};
use super::gemm::workspace::Workspace;
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
    mut workspace: BufferMut<'_, u8>,
) -> Result<()> {
    let tokens = x.rows();
    if lora.rank() == 0 {
        return Ok(());
    }
    let gradient = |left: &Tensor<'_>, right: &Tensor<'_>, out: &TensorMut<'_>| {
        let product = (Operand::along(left).across(), Operand::along(right).across(), tokens);
        multiply(queue, &[product], Output { accumulate, ..Output::new(out) })
    };
    // U, then T in its place: kernels of a stream run one after the other.
    let u = up_projection(queue, dy, lora, DType::F32, &mut Workspace::new(workspace.reborrow()))?;
    gradient(&u.as_tensor(), x, da)?;
    let t = down_projection(queue, x, lora, DType::F32, &mut Workspace::new(workspace))?;
    gradient(dy, &t.as_tensor(), db)
}
