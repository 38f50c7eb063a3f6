//! The gradients of a low-rank adapter: `dA[r, K] = Uᵀ·X` and `dB[N, r] = dYᵀ·T`, with U and T as in [`super::gemm`].

use super::device::{Cuda, Queue};
use super::gemm::low_rank::{self, TensorCores, down_projection, gradient_bytes, up_projection};
use super::gemm::simt::{Operand, Output, multiply};
use super::gemm::workspace::{self, Workspace};
use crate::error::Result;
use crate::kernels::gemm_low_rank::AdapterMatrix;
use crate::view::{BufferMut, DType, Lora, Tensor, TensorMut};

/// Bytes of workspace at any alignment; `None` if they overflow.
pub fn workspace_size(cuda: &Cuda, [m, n, k]: [usize; 3], rank: usize) -> Option<usize> {
    let a = workspace::size(&gradient_bytes(cuda, m, n, k, rank))?;
    let b = workspace::size(&gradient_bytes(cuda, m, k, n, rank))?;
    Some(a.max(b))
}

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
    if lora.rank() == 0 {
        return Ok(());
    }
    // U and dA, then T and dB in their place: kernels of a stream run one after the other.
    gradient_a(queue, x, dy, lora, da, accumulate, &mut Workspace::new(workspace.reborrow()))?;
    gradient_b(queue, x, dy, lora, db, accumulate, &mut Workspace::new(workspace))
}

fn gradient_a(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    dy: &Tensor<'_>,
    lora: &Lora<'_>,
    da: &TensorMut<'_>,
    accumulate: bool,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let Some(cores) = TensorCores::take(queue, x, DType::F32) else {
        let u = up_projection(queue, dy, lora, workspace)?;
        let product = (Operand::along(&u).across(), Operand::along(x).across(), x.rows());
        return multiply(queue, &[product], Output { accumulate, ..Output::new(da) });
    };
    let u = low_rank::u(queue, dy, lora, workspace)?;
    cores.gradient(AdapterMatrix::GradientA, x, &u, da, accumulate, workspace)
}

fn gradient_b(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    dy: &Tensor<'_>,
    lora: &Lora<'_>,
    db: &TensorMut<'_>,
    accumulate: bool,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let Some(cores) = TensorCores::take(queue, dy, DType::F32) else {
        let t = down_projection(queue, x, lora, workspace)?;
        let product = (Operand::along(dy).across(), Operand::along(&t).across(), x.rows());
        return multiply(queue, &[product], Output { accumulate, ..Output::new(db) });
    };
    let t = low_rank::t(queue, x, lora, workspace)?;
    cores.gradient(AdapterMatrix::GradientB, dy, &t, db, accumulate, workspace)
}
