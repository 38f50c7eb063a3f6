//! Matrix products with a quantized weight, a low-rank adapter fused.

use super::context::{Context, Device};
use super::quantize::check_constants;
use super::{check_disjoint, check_shape, check_workspace, not_on_cuda, shape, workspace_extent};
use crate::cpu::dequantize::Reader;
use crate::cpu::gemm::engine::Scratch;
use crate::cpu::gemm::{self, Adapter};
use crate::error::{Error, Result, ensure};
use crate::view::{BufferMut, Extent, Quantized, Tensor, TensorMut};

/// A low-rank adapter (LoRA, arXiv 2106.09685) of a weight `W[N, K]`: it adds `scale · B·A` to it.
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// `[r, K]`, the down-projection.
    pub a: Tensor<'a>,
    /// `[N, r]`, the up-projection.
    pub b: Tensor<'a>,
    /// `s`, usually alpha / r.
    pub scale: f32,
}

impl<'a> Lora<'a> {
    /// The adapter, checked to fit a weight `[n, k]`.
    pub(super) fn check(&self, n: usize, k: usize) -> Result<Adapter<'a>> {
        let rank = self.a.rows();
        check_shape("lora.a", shape(&self.a), "rank x K", [rank, k])?;
        check_shape("lora.b", shape(&self.b), "N x rank", [n, rank])?;
        ensure!(self.scale.is_finite(), "lora.scale is {}; it must be finite", self.scale);
        Ok(Adapter { a: self.a, b: self.b, scale: self.scale })
    }
}

/// Bytes of workspace that [`gemm_forward`], [`gemm_backward`] and [`super::lora_gradients`] need, at any alignment,
/// for `m` rows of input, a weight `[n, k]` and an adapter of rank `rank` (0 without). It depends on the context's
/// number of threads.
pub fn gemm_workspace_size(context: &Context, m: usize, n: usize, k: usize, rank: usize) -> Result<usize> {
    let too_large =
        || Error::too_large(format!("m {m}, n {n}, k {k} with rank {rank} do not fit the address space"));
    for (rows, cols) in [(m, n), (m, k), (n, k), (m, rank), (n, rank), (k, rank)] {
        rows.checked_mul(cols).and_then(|n| n.checked_mul(4)).ok_or_else(too_large)?;
    }
    match &context.device {
        Device::Cpu(cpu) => gemm::workspace_size(cpu.threads().count(), m, rank).ok_or_else(too_large),
        Device::Cuda(_) => Err(not_on_cuda("gemm")),
    }
}

/// `Y[M, N] = X[M, K]·W[N, K]ᵀ + bias[1, N] + s·(X·Aᵀ)·Bᵀ`.
///
/// X, Y, bias, A and B are f32, f16 or bf16, independently. Products and sums are f32, from W's dequantized f32 values;
/// Y is rounded once. The weight is decoded in pieces that stay in the cache: it is never written out.
pub fn gemm_forward<'w>(
    context: &Context,
    x: Tensor<'_>,
    w: Quantized<'_>,
    bias: Option<Tensor<'_>>,
    lora: Option<Lora<'_>>,
    y: TensorMut<'_>,
    workspace: impl Into<BufferMut<'w, u8>>,
) -> Result<()> {
    let (m, n, k) = (x.rows(), w.rows, w.cols);
    check_shape("x", shape(&x), "M x K", [m, k])?;
    check_shape("y", [y.rows(), y.cols()], "M x N", [m, n])?;
    if let Some(bias) = &bias {
        check_shape("bias", shape(bias), "1 x N", [1, n])?;
    }
    let mut inputs = vec![("x", x.extent())];
    inputs.extend(bias.iter().map(|bias| ("bias", bias.extent())));
    let call = Call::check(context, m, &w, lora, workspace.into(), ("y", y.extent()), inputs)?;
    match &context.device {
        Device::Cpu(cpu) if m != 0 && n != 0 => {
            gemm::forward(cpu, &x, &call.reader, bias.as_ref(), call.adapter.as_ref(), y, call.scratch);
        }
        Device::Cpu(_) => {}
        Device::Cuda(_) => return Err(not_on_cuda("gemm")),
    }
    Ok(())
}

/// `dX[M, K] = dY[M, N]·W[N, K] + s·(dY·B)·A`: the gradient of [`gemm_forward`] in its input. Types as there.
pub fn gemm_backward<'w>(
    context: &Context,
    dy: Tensor<'_>,
    w: Quantized<'_>,
    lora: Option<Lora<'_>>,
    dx: TensorMut<'_>,
    workspace: impl Into<BufferMut<'w, u8>>,
) -> Result<()> {
    let (m, n, k) = (dy.rows(), w.rows, w.cols);
    check_shape("dy", shape(&dy), "M x N", [m, n])?;
    check_shape("dx", [dx.rows(), dx.cols()], "M x K", [m, k])?;
    let inputs = vec![("dy", dy.extent())];
    let call = Call::check(context, m, &w, lora, workspace.into(), ("dx", dx.extent()), inputs)?;
    match &context.device {
        Device::Cpu(cpu) if m != 0 && k != 0 => {
            gemm::backward(cpu, &dy, &call.reader, call.adapter.as_ref(), dx, call.scratch);
        }
        Device::Cpu(_) => {}
        Device::Cuda(_) => return Err(not_on_cuda("gemm")),
    }
    Ok(())
}

/// What both directions need, checked.
struct Call<'a> {
    reader: Reader<'a>,
    adapter: Option<Adapter<'a>>,
    scratch: Scratch<'a>,
}

impl<'a> Call<'a> {
    fn check(
        context: &Context,
        m: usize,
        w: &Quantized<'a>,
        lora: Option<Lora<'a>>,
        workspace: BufferMut<'a, u8>,
        out: (&str, Extent),
        mut inputs: Vec<(&'static str, Extent)>,
    ) -> Result<Self> {
        let adapter = lora.map(|lora| lora.check(w.rows, w.cols)).transpose()?;
        inputs.extend(w.extents());
        if let Some(adapter) = &adapter {
            inputs.extend([("lora.a", adapter.a.extent()), ("lora.b", adapter.b.extent())]);
        }
        check_disjoint(&[out, workspace_extent(&workspace)], &inputs)?;
        check_constants(&w.spec.constants)?;
        let table = w.spec.codebook.table().map_err(Error::invalid)?;
        let rank = adapter.as_ref().map_or(0, |a| a.a.rows());
        let scratch = scratch(context, [m, w.rows, w.cols, rank], workspace)?;
        Ok(Self { reader: Reader::new(w, &table), adapter, scratch })
    }
}

/// The workspace, checked against [`gemm_workspace_size`] for the threads in use now.
pub(super) fn scratch<'a>(
    context: &Context,
    [m, n, k, rank]: [usize; 4],
    workspace: BufferMut<'a, u8>,
) -> Result<Scratch<'a>> {
    gemm_workspace_size(context, m, n, k, rank)?;
    match &context.device {
        Device::Cpu(cpu) => {
            let threads = cpu.threads();
            let needed = gemm::workspace_size(threads.count(), m, rank).expect("checked above");
            check_workspace(workspace.len(), needed)?;
            // SAFETY: a CPU context's memory is host memory.
            Ok(Scratch::new(threads, unsafe { workspace.into_slice() }))
        }
        Device::Cuda(_) => Err(not_on_cuda("gemm")),
    }
}
