//! The gradients of a low-rank adapter.

use super::context::{Context, Device};
use super::gemm::{Lora, scratch};
use super::{check_disjoint, check_shape, not_on_cuda, shape, workspace_extent};
use crate::cpu;
use crate::error::Result;
use crate::view::{BufferMut, Tensor, TensorMut};

/// `dA[r, K] = s·(dY·B)ᵀ·X` and `dB[N, r] = s·dYᵀ·(X·Aᵀ)`, for `X[M, K]` and `dY[M, N]`; added to what is there if
/// `accumulate`. All are f32, f16 or bf16, independently; sums are f32. The workspace is that of
/// [`super::gemm_workspace_size`].
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
    let workspace = workspace.into();
    let (m, k, n, rank) = (x.rows(), x.cols(), dy.cols(), lora.a.rows());
    check_shape("dy", shape(&dy), "M x N", [m, n])?;
    let adapter = lora.check(n, k)?;
    check_shape("da", [da.rows(), da.cols()], "rank x K", [rank, k])?;
    check_shape("db", [db.rows(), db.cols()], "N x rank", [n, rank])?;
    let inputs =
        [("x", x.extent()), ("dy", dy.extent()), ("lora.a", lora.a.extent()), ("lora.b", lora.b.extent())];
    let outputs = [("db", db.extent()), ("da", da.extent()), workspace_extent(&workspace)];
    check_disjoint(&outputs, &inputs)?;
    let Device::Cpu(cpu) = &context.device else { return Err(not_on_cuda("lora_gradients")) };
    let scratch = scratch(context, [m, n, k, rank], workspace)?;
    cpu::lora_gradients::lora_gradients(cpu, &x, &dy, &adapter, [da, db], accumulate, scratch);
    Ok(())
}
