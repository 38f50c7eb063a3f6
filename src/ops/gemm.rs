//! Matrix products with a quantized weight, a low-rank adapter fused.

use super::context::{Context, Device};
use super::quantize::check_constants;
use super::{check_disjoint, check_shape, check_workspace, shape, workspace_extent};
use crate::cpu::Cpu;
use crate::cpu::dequantize::Reader;
use crate::cpu::gemm::{self, engine::Scratch};
use crate::cuda::gemm::Weight;
use crate::cuda::{self, Cuda, device::Queue};
use crate::error::{Error, Result, ensure};
use crate::float_environment::StandardModes;
use crate::format::CodebookTable;
use crate::view::{BufferMut, Extent, Lora, Quantized, Tensor, TensorMut};

/// Checks that an adapter fits a weight `[n, k]`.
pub(super) fn check_lora(lora: &Lora<'_>, n: usize, k: usize) -> Result<()> {
    let rank = lora.rank();
    check_shape("lora.a", shape(&lora.a), "rank x K", [rank, k])?;
    check_shape("lora.b", shape(&lora.b), "N x rank", [n, rank])?;
    ensure!(lora.scale.is_finite(), "lora.scale is {}; it must be finite", lora.scale);
    Ok(())
}

/// Bytes of workspace that [`gemm_forward`], [`gemm_backward`] and [`super::lora_gradients`] need, at any alignment,
/// for `m` rows of input, a weight `[n, k]` and an adapter of rank `rank` (0 without). It depends on the context:
/// its number of threads, or its device.
pub fn gemm_workspace_size(context: &Context, m: usize, n: usize, k: usize, rank: usize) -> Result<usize> {
    let too_large =
        || Error::too_large(format!("m {m}, n {n}, k {k} with rank {rank} do not fit the address space"));
    for (rows, cols) in [(m, n), (m, k), (n, k), (m, rank), (n, rank), (k, rank)] {
        rows.checked_mul(cols).and_then(|n| n.checked_mul(4)).ok_or_else(too_large)?;
    }
    match &context.device {
        Device::Cpu(cpu) => gemm::workspace_size(cpu.threads().count(), m, rank).ok_or_else(too_large),
        Device::Cuda(cuda) => cuda::gemm::workspace_size(cuda, [m, n, k], rank).ok_or_else(too_large),
    }
}

/// `Y[M, N] = X[M, K]·W[N, K]ᵀ + bias[1, N] + s·(X·Aᵀ)·Bᵀ`.
///
/// X, Y, bias, A and B are f32, f16 or bf16, independently. Products and sums are f32, from W's dequantized f32 values;
/// Y is rounded once. The weight is decoded in pieces that stay in the cache: it is never written out.
///
/// On a GPU, tensor cores multiply 16-bit X: W's values, `s·X·Aᵀ`, and B if it is of another type, are first rounded to X's
/// type, as automatic mixed precision does; f16 ends at 65504. Of W it is the codebook's values that are rounded, and the
/// constants stay in f32; but on Hopper with more than 64 rows it is the dequantized weight: in f16, weights beyond 65504
/// become infinite and those below 2⁻¹⁴ lose precision.
///
/// On a CPU with AVX512-BF16, the dequantized W is rounded to bf16 beside X in bf16, an adapter is not; beside bf16, numbers and
/// sums below 2⁻¹²⁶ may be taken for zero.
pub fn gemm_forward<'w>(
    context: &Context,
    x: Tensor<'_>,
    w: Quantized<'_>,
    bias: Option<Tensor<'_>>,
    lora: Option<Lora<'_>>,
    y: TensorMut<'_>,
    workspace: impl Into<BufferMut<'w, u8>>,
) -> Result<()> {
    let _modes = StandardModes::set();
    let (m, n, k) = (x.rows(), w.rows, w.cols);
    check_shape("x", shape(&x), "M x K", [m, k])?;
    check_shape("y", [y.rows(), y.cols()], "M x N", [m, n])?;
    if let Some(bias) = &bias {
        check_shape("bias", shape(bias), "1 x N", [1, n])?;
    }
    let mut inputs = vec![("x", x.extent())];
    inputs.extend(bias.iter().map(|bias| ("bias", bias.extent())));
    let call = Call::check(&w, lora.as_ref(), workspace.into(), ("y", y.extent()), inputs)?;
    match &context.device {
        Device::Cpu(cpu) => {
            let (table, scratch) = (call.table, scratch(cpu, m, call.rank, call.workspace)?);
            if m != 0 && n != 0 {
                gemm::forward(cpu, &x, &Reader::new(&w, &table), bias.as_ref(), lora.as_ref(), y, scratch);
            }
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            let (table, workspace) = (call.table, call.for_queue(cuda, &queue, [m, n, k])?);
            let (w, bias, lora) = (Weight { view: &w, table: &table }, bias.as_ref(), lora.as_ref());
            cuda::gemm::forward(&queue, &x, w, bias, lora, &y, workspace)
        }
    }
}

/// `dX[M, K] = dY[M, N]·W[N, K] + s·(dY·B)·A`: the gradient of [`gemm_forward`] in its input; added to what is there if
/// `accumulate`, in f32, and rounded once. Types as there.
///
/// On a GPU, tensor cores multiply 16-bit dY: W, dequantized, `s·dY·B`, and A if it is of another type, are first rounded to
/// dY's type; with up to 64 rows of bf16 W's codebook is, and dY times W's constants. In f16, W is kept inside the type's
/// range by powers of two, and rounded to within 2⁻²⁵ of the largest constant around; but not on Hopper with more than
/// 64 rows, where weights beyond 65504 become infinite. On a CPU as there, beside dY in bf16 of more than
/// six rows.
pub fn gemm_backward<'w>(
    context: &Context,
    dy: Tensor<'_>,
    w: Quantized<'_>,
    lora: Option<Lora<'_>>,
    dx: TensorMut<'_>,
    accumulate: bool,
    workspace: impl Into<BufferMut<'w, u8>>,
) -> Result<()> {
    let _modes = StandardModes::set();
    let (m, n, k) = (dy.rows(), w.rows, w.cols);
    check_shape("dy", shape(&dy), "M x N", [m, n])?;
    check_shape("dx", [dx.rows(), dx.cols()], "M x K", [m, k])?;
    let inputs = vec![("dy", dy.extent())];
    let call = Call::check(&w, lora.as_ref(), workspace.into(), ("dx", dx.extent()), inputs)?;
    match &context.device {
        Device::Cpu(cpu) => {
            let (table, scratch) = (call.table, scratch(cpu, m, call.rank, call.workspace)?);
            if m != 0 && k != 0 {
                gemm::backward(cpu, &dy, &Reader::new(&w, &table), lora.as_ref(), dx, accumulate, scratch);
            }
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            let (table, workspace) = (call.table, call.for_queue(cuda, &queue, [m, n, k])?);
            let w = Weight { view: &w, table: &table };
            cuda::gemm::backward(&queue, &dy, w, lora.as_ref(), &dx, accumulate, workspace)
        }
    }
}

/// What both directions need, checked.
struct Call<'a> {
    table: CodebookTable,
    rank: usize,
    workspace: BufferMut<'a, u8>,
    memory: Vec<(&'static str, Extent)>,
}

impl<'a> Call<'a> {
    fn check(
        w: &Quantized<'_>,
        lora: Option<&Lora<'_>>,
        workspace: BufferMut<'a, u8>,
        out: (&'static str, Extent),
        mut inputs: Vec<(&'static str, Extent)>,
    ) -> Result<Self> {
        inputs.extend(w.extents());
        if let Some(lora) = lora {
            check_lora(lora, w.rows, w.cols)?;
            inputs.extend([("lora.a", lora.a.extent()), ("lora.b", lora.b.extent())]);
        }
        check_disjoint(&[out, workspace_extent(&workspace)], &inputs)?;
        check_constants(&w.spec.constants)?;
        let table = w.spec.codebook.table().map_err(Error::invalid)?;
        inputs.push(out);
        Ok(Self { table, rank: lora.map_or(0, Lora::rank), workspace, memory: inputs })
    }

    /// The workspace, where a GPU can do the work.
    fn for_queue(self, cuda: &Cuda, queue: &Queue<'_>, shape: [usize; 3]) -> Result<BufferMut<'a, u8>> {
        check_cuda_workspace(cuda, &self.workspace, shape, self.rank)?;
        queue.check_memory(&[&self.memory, &[workspace_extent(&self.workspace)]])?;
        Ok(self.workspace)
    }
}

/// Checks a GPU's workspace against [`gemm_workspace_size`].
pub(super) fn check_cuda_workspace(
    cuda: &Cuda,
    workspace: &BufferMut<'_, u8>,
    shape: [usize; 3],
    rank: usize,
) -> Result<()> {
    check_workspace(workspace.len(), cuda::gemm::workspace_size(cuda, shape, rank).unwrap_or(usize::MAX))
}

/// The workspace as the CPU's engine uses it, checked against [`gemm_workspace_size`] for the threads in use now.
pub(super) fn scratch<'a>(
    cpu: &Cpu,
    m: usize,
    rank: usize,
    workspace: BufferMut<'a, u8>,
) -> Result<Scratch<'a>> {
    let threads = cpu.threads();
    let needed = gemm::workspace_size(threads.count(), m, rank).unwrap_or(usize::MAX);
    check_workspace(workspace.len(), needed)?;
    // SAFETY: a CPU context's memory is host memory.
    Ok(Scratch::new(threads, unsafe { workspace.into_slice() }))
}
