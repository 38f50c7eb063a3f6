//! Quantization to the 4-bit block format.

use super::context::{Context, Device};
use super::{check_disjoint, check_shape, check_workspace, shape, workspace_extent};
use crate::error::{Error, Result};
use crate::float_environment::StandardModes;
use crate::format::{Constants, Map256, QuantSpec};
use crate::view::{self, BufferMut, QuantizedMut, Tensor};
use crate::{cpu, cuda};

/// Bytes of workspace that [`quantize`] needs, at any alignment: with double quantization, room for the f32 constants
/// between the two quantizations.
pub fn quantize_workspace_size(
    context: &Context,
    spec: &QuantSpec,
    rows: usize,
    cols: usize,
) -> Result<usize> {
    let sizes = view::sizes(spec, rows, cols)?;
    match context.device {
        Device::Cpu(_) if spec.is_double_quantized() => Ok(sizes.blocks as usize * 4 + align_of::<f32>()),
        Device::Cpu(_) => Ok(0),
        Device::Cuda(_) => {
            let bytes = cuda::quantize::workspace_size(sizes.blocks, spec.is_double_quantized());
            let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
            bytes.ok_or_else(|| {
                Error::too_large(format!("rows {rows} x cols {cols} do not fit the address space"))
            })
        }
    }
}

/// Quantizes `x[rows, cols]` (f32, f16 or bf16) into `out`, whose shape it has.
///
/// Codes and constants have the bits of [`crate::format`] on every device. A NaN or an infinity makes its own block
/// non-finite and changes no other.
pub fn quantize<'w>(
    context: &Context,
    x: Tensor<'_>,
    out: QuantizedMut<'_>,
    workspace: impl Into<BufferMut<'w, u8>>,
) -> Result<()> {
    let _modes = StandardModes::set();
    let workspace = workspace.into();
    check_shape("x", shape(&x), "the quantized matrix's rows x cols", [out.rows, out.cols])?;
    let table = out.spec.codebook.table().map_err(Error::invalid)?;
    check_constants(&out.spec.constants)?;
    check_workspace(workspace.len(), quantize_workspace_size(context, out.spec, out.rows, out.cols)?)?;
    let mut outputs = out.as_view()?.extents();
    outputs.push(workspace_extent(&workspace));
    let inputs = [("x", x.extent())];
    check_disjoint(&outputs, &inputs)?;
    let blocks = (out.rows * out.cols).div_ceil(out.spec.block_size as usize);
    match &context.device {
        Device::Cpu(cpu) => {
            let absmax = match out.spec.is_double_quantized() {
                // SAFETY: a CPU context's memory is host memory.
                true => &mut floats(unsafe { workspace.into_slice() })[..blocks],
                false => &mut [],
            };
            cpu::quantize::quantize(cpu, &x, &table, out, absmax);
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            queue.check_memory(&[&outputs, &inputs])?;
            drop(outputs);
            cuda::quantize::quantize(&queue, &x, &table, out, workspace)
        }
    }
}

/// Checks a caller's 8-bit map.
pub(super) fn check_constants(constants: &Constants) -> Result<()> {
    match constants {
        Constants::Map(values) => Map256::new(values).map(|_| ()).map_err(Error::invalid),
        _ => Ok(()),
    }
}

/// The aligned floats in a workspace.
fn floats(workspace: &mut [u8]) -> &mut [f32] {
    let skip = workspace.as_ptr().align_offset(align_of::<f32>()).min(workspace.len());
    let bytes = &mut workspace[skip..];
    let whole = bytes.len() / 4 * 4;
    bytemuck::cast_slice_mut(&mut bytes[..whole])
}
