//! The gradients of a low-rank adapter.

use super::context::{Context, Device};
use super::gemm::{Lora, scratch};
use super::{check_disjoint, check_shape, shape};
use crate::cpu;
use crate::error::Result;
use crate::view::{Tensor, TensorMut};

/// `dA[r, K] = s·(dY·B)ᵀ·X` and `dB[N, r] = s·dYᵀ·(X·Aᵀ)`, for `X[M, K]` and `dY[M, N]`; added to what is there if
/// `accumulate`. All are f32, f16 or bf16, independently; sums are f32. The workspace is that of
/// [`super::gemm_workspace_size`].
pub fn lora_gradients(
    context: &Context,
    x: Tensor<'_>,
    dy: Tensor<'_>,
    lora: Lora<'_>,
    da: TensorMut<'_>,
    db: TensorMut<'_>,
    accumulate: bool,
    workspace: &mut [u8],
) -> Result<()> {
    let (m, k, n, rank) = (x.rows(), x.cols(), dy.cols(), lora.a.rows());
    check_shape("dy", shape(&dy), "M x N", [m, n])?;
    let adapter = lora.check(n, k)?;
    check_shape("da", [da.rows(), da.cols()], "rank x K", [rank, k])?;
    check_shape("db", [db.rows(), db.cols()], "N x rank", [n, rank])?;
    let inputs = [x.extent(), dy.extent(), lora.a.extent(), lora.b.extent()];
    let inputs = ["x", "dy", "lora.a", "lora.b"].into_iter().zip(inputs).collect::<Vec<_>>();
    check_disjoint("da", da.extent(), &inputs)?;
    check_disjoint("db", db.extent(), &inputs)?;
    check_disjoint("da", da.extent(), &[("db", db.extent())])?;
    let scratch = scratch(context, [m, n, k, rank], workspace)?;
    match &context.device {
        Device::Cpu(cpu) => {
            cpu::lora_gradients::lora_gradients(cpu, &x, &dy, &adapter, [da, db], accumulate, scratch);
        }
    }
    Ok(())
}
