//! The gradients of a low-rank adapter.

use super::context::{Context, Device};
use super::gemm::{check_cuda_workspace, check_lora, scratch};
use super::{check_disjoint, check_shape, shape, workspace_extent};
use crate::error::Result;
use crate::float_environment::StandardModes;
use crate::view::{BufferMut, Lora, Tensor, TensorMut};
use crate::{cpu, cuda};

/// `dA[r, K] = s·(dY·B)ᵀ·X` and `dB[N, r] = s·dYᵀ·(X·Aᵀ)`, for `X[M, K]` and `dY[M, N]`; added to what is there if
/// `accumulate`. All are f32, f16 or bf16, independently; sums are f32. The workspace is that of
/// [`super::gemm_workspace_size`].
///
/// On a GPU, tensor cores multiply 16-bit X and dY: what is f32 beside them, `s·dY·B` and `s·X·Aᵀ` included, is taken as the
/// sum of two bf16 numbers, which leaves each product within 2⁻¹⁵; infinities among them become NaN.
pub fn lora_gradients<'w>(
    context: &Context,
    x: Tensor<'_>,
    dy: Tensor<'_>,
    lora: Lora<'_>,
    da: TensorMut<'_>,
    db: TensorMut<'_>,
    accumulate: bool,
    workspace: impl Into<BufferMut<'w, u8>>,
) -> Result<()> {
    let _modes = StandardModes::set();
    let workspace = workspace.into();
    let (m, k, n, rank) = (x.rows(), x.cols(), dy.cols(), lora.rank());
    check_shape("dy", shape(&dy), "M x N", [m, n])?;
    check_lora(&lora, n, k)?;
    check_shape("da", [da.rows(), da.cols()], "rank x K", [rank, k])?;
    check_shape("db", [db.rows(), db.cols()], "N x rank", [n, rank])?;
    let inputs =
        [("x", x.extent()), ("dy", dy.extent()), ("lora.a", lora.a.extent()), ("lora.b", lora.b.extent())];
    let outputs = [("db", db.extent()), ("da", da.extent()), workspace_extent(&workspace)];
    check_disjoint(&outputs, &inputs)?;
    match &context.device {
        Device::Cpu(cpu) => {
            let scratch = scratch(cpu, m, rank, workspace)?;
            cpu::lora_gradients::lora_gradients(cpu, &x, &dy, &lora, [da, db], accumulate, scratch);
            Ok(())
        }
        Device::Cuda(cuda) => {
            check_cuda_workspace(cuda, &workspace, [m, n, k], rank)?;
            let queue = cuda.queue(context.stream)?;
            queue.check_memory(&[&outputs, &inputs])?;
            let out = [&da, &db];
            cuda::lora_gradients::lora_gradients(&queue, &x, &dy, &lora, out, accumulate, workspace)
        }
    }
}
