//! Quantization to the 4-bit block format.

use super::context::{Context, Device};
use super::{check_disjoint, check_shape, check_workspace, shape, workspace_extent};
use crate::cpu;
use crate::error::{Error, Result};
use crate::format::{Constants, Map256, QuantSpec};
use crate::view::{self, QuantizedMut, Tensor};

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
    }
}

/// Quantizes `x[rows, cols]` (f32, f16 or bf16) into `out`, whose shape it has.
///
/// Codes and constants have the bits of [`crate::format`] on every device. A NaN or an infinity makes its own block
/// non-finite and changes no other.
pub fn quantize(context: &Context, x: Tensor<'_>, out: QuantizedMut<'_>, workspace: &mut [u8]) -> Result<()> {
    check_shape("x", shape(&x), "the quantized matrix's rows x cols", [out.rows, out.cols])?;
    let table = out.spec.codebook.table().map_err(Error::invalid)?;
    check_constants(&out.spec.constants)?;
    check_workspace(workspace.len(), quantize_workspace_size(context, out.spec, out.rows, out.cols)?)?;
    let mut outputs = out.as_view()?.extents();
    outputs.push(workspace_extent(workspace));
    check_disjoint(&outputs, &[("x", x.extent())])?;
    let blocks = (out.rows * out.cols).div_ceil(out.spec.block_size as usize);
    match &context.device {
        Device::Cpu(cpu) => {
            let absmax = match out.spec.is_double_quantized() {
                true => &mut floats(workspace)[..blocks],
                false => &mut [],
            };
            cpu::quantize::quantize(cpu, &x, &table, out, absmax);
        }
    }
    Ok(())
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
