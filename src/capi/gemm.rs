//! Matrix products with a quantized weight, and the gradients of its adapter.

use super::convert::*;
use super::guard::guard;
use super::types::*;
use crate::error::ensure;
use crate::ops;
use std::ffi::c_void;

/// Writes to `*size` how many bytes of workspace qlk_gemm_forward, qlk_gemm_backward and qlk_lora_gradients need, at any
/// alignment, for `m` rows of input, a weight [n, k] and an adapter of rank `rank` (0 without). It depends on the
/// context: its number of threads, or its device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_gemm_workspace_size(
    context: *const qlk_context,
    m: u64,
    n: u64,
    k: u64,
    rank: u64,
    size: *mut u64,
) -> qlk_status {
    guard(|| {
        let (context, out) = unsafe { (super::convert::context(context)?, out(size, "size")?) };
        let size = super::convert::size;
        let (m, n, k, rank) = (size(m, "m")?, size(n, "n")?, size(k, "k")?, size(rank, "rank")?);
        *out = ops::gemm_workspace_size(context, m, n, k, rank)? as u64;
        Ok(())
    })
}

/// y[M, N] = x[M, K] * w[N, K]^T + bias[1, N] + s * (x * A^T) * B^T.
///
/// `bias` and `lora` may be null. x, y, bias, A and B are f32, f16 or bf16, independently; products and sums are f32,
/// from w's dequantized f32 values; y is rounded once. The weight is never written out dequantized. y must not overlap
/// an input. `workspace` holds qlk_gemm_workspace_size bytes, for one call at a time. `stream` is ignored on a CPU
/// context.
///
/// On a GPU, tensor cores multiply 16-bit x: w's values, s * x * A^T, and B if it is of another type, are first rounded
/// to x's type, as automatic mixed precision does; f16 ends at 65504. Of w it is the codebook's values that are rounded,
/// and the constants stay in f32; but on Hopper with more than 64 rows it is the dequantized weight: in f16, weights beyond
/// 65504 become infinite and those below 2^-14 lose precision.
///
/// On a CPU with AVX512-BF16, the dequantized w is rounded to bf16 beside x in bf16, an adapter is not; beside bf16, numbers and
/// sums below 2^-126 may be taken for zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_gemm_forward(
    context: *const qlk_context,
    x: *const qlk_tensor,
    w: *const qlk_quantized,
    bias: *const qlk_tensor,
    lora: *const qlk_lora,
    y: *const qlk_tensor,
    workspace: *mut c_void,
    workspace_size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let context = context_on_stream(context, stream)?;
        let (x, w, bias) = (tensor(x, "x")?, QuantizedArg::read(w, "w")?, optional_tensor(bias, "bias")?);
        let lora = if lora.is_null() { None } else { Some(super::convert::lora(lora)?) };
        let (y, workspace) = (tensor_mut(y, "y")?, super::convert::workspace(workspace, workspace_size)?);
        ops::gemm_forward(&context, x, w.view()?, bias, lora, y, workspace)
    })
}

/// dx[M, K] = dy[M, N] * w[N, K] + s * (dy * B) * A: the gradient of qlk_gemm_forward in x. `lora` may be null. With
/// `accumulate` 1 it is added to dx, in f32 before the one rounding, with 0 it replaces it. Types, workspace and the rest
/// as there.
///
/// On a GPU, tensor cores multiply 16-bit dy: w, dequantized, s * dy * B, and A if it is of another type, are first rounded
/// to dy's type; with up to 64 rows of bf16 w's codebook is, and dy times w's constants. In f16, w is kept inside the
/// type's range by powers of two, and rounded to within 2^-25 of the largest constant around; but not on Hopper with
/// more than 64 rows, where weights beyond 65504 become infinite. On a CPU as there, beside dy in bf16 of more than
/// six rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_gemm_backward(
    context: *const qlk_context,
    dy: *const qlk_tensor,
    w: *const qlk_quantized,
    lora: *const qlk_lora,
    dx: *const qlk_tensor,
    accumulate: u32,
    workspace: *mut c_void,
    workspace_size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        check_accumulate(accumulate)?;
        let context = context_on_stream(context, stream)?;
        let (dy, w) = (tensor(dy, "dy")?, QuantizedArg::read(w, "w")?);
        let lora = if lora.is_null() { None } else { Some(super::convert::lora(lora)?) };
        let (dx, workspace) = (tensor_mut(dx, "dx")?, super::convert::workspace(workspace, workspace_size)?);
        ops::gemm_backward(&context, dy, w.view()?, lora, dx, accumulate == 1, workspace)
    })
}

/// da[rank, K] = s * (dy * B)^T * x and db[N, rank] = s * dy^T * (x * A^T), for x[M, K] and dy[M, N]: the gradients of
/// qlk_gemm_forward in A and B. With `accumulate` 1 they are added to da and db, with 0 they replace them. Types,
/// workspace and the rest as there.
///
/// On a GPU, tensor cores multiply 16-bit x and dy: what is f32 beside them, s * dy * B and s * x * A^T included, is
/// taken as the sum of two bf16 numbers, which leaves each product within 2^-15; infinities among them become NaN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_lora_gradients(
    context: *const qlk_context,
    x: *const qlk_tensor,
    dy: *const qlk_tensor,
    lora: *const qlk_lora,
    da: *const qlk_tensor,
    db: *const qlk_tensor,
    accumulate: u32,
    workspace: *mut c_void,
    workspace_size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        check_accumulate(accumulate)?;
        let context = context_on_stream(context, stream)?;
        let (x, dy, lora) = (tensor(x, "x")?, tensor(dy, "dy")?, super::convert::lora(lora)?);
        let (da, db) = (tensor_mut(da, "da")?, tensor_mut(db, "db")?);
        let workspace = super::convert::workspace(workspace, workspace_size)?;
        ops::lora_gradients(&context, x, dy, lora, da, db, accumulate == 1, workspace)
    })
}

fn check_accumulate(accumulate: u32) -> crate::error::Result<()> {
    ensure!(accumulate <= 1, "accumulate is {accumulate}; it must be 0 or 1");
    Ok(())
}
