//! Double quantization of block constants, by itself: for checkpoints and for changing the encoding.

use super::context::{Context, Device};
use super::quantize::check_constants;
use super::{check_disjoint, check_workspace, workspace_extent};
use crate::cuda::memory::Address;
use crate::error::{Error, Result, ensure};
use crate::float_environment::StandardModes;
use crate::format::Constants;
use crate::format::spec::CONSTANT_BLOCK;
use crate::view::{Buffer, BufferMut, ConstantsMut, ConstantsView};
use crate::{cpu, cuda};

/// Bytes of workspace that [`double_quantize`] needs for `blocks` constants, at any alignment; 0 on a CPU context.
pub fn double_quantize_workspace_size(context: &Context, blocks: usize) -> Result<usize> {
    match &context.device {
        Device::Cpu(_) => Ok(0),
        Device::Cuda(_) => {
            let bytes =
                cuda::double_quantize::workspace_size(blocks as u64).and_then(|b| usize::try_from(b).ok());
            bytes.ok_or_else(|| Error::too_large(format!("{blocks} constants do not fit the address space")))
        }
    }
}

/// Quantizes `absmax` into nested constants of the encoding that `constants` names: the mean is subtracted, the
/// differences go to 8 bits in blocks of 256 with an f32 scale (QLoRA, section 3; [`crate::format::double_quant`]).
pub fn double_quantize<'w>(
    context: &Context,
    absmax: Buffer<'_, f32>,
    constants: &Constants,
    out: ConstantsMut<'_>,
    workspace: impl Into<BufferMut<'w, u8>>,
) -> Result<()> {
    let _modes = StandardModes::set();
    let workspace = workspace.into();
    check_constants(constants)?;
    let (mut outputs, inputs) = (out.as_view().extents(), [("absmax", absmax.extent())]);
    outputs.push(workspace_extent(&workspace));
    check_disjoint(&outputs, &inputs)?;
    let ConstantsMut::Nested { codes, scales, offset } = out else {
        ensure!(false, "out is plain f32 constants; double quantization writes codes, scales and an offset");
        return Ok(());
    };
    check_nested(constants, absmax.len(), codes.len(), scales.len(), offset.len())?;
    check_workspace(workspace.len(), double_quantize_workspace_size(context, absmax.len())?)?;
    match &context.device {
        Device::Cpu(cpu) => {
            // SAFETY: a CPU context's memory is host memory.
            let (absmax, codes, scales, offset) =
                unsafe { (absmax.as_slice(), codes.into_slice(), scales.into_slice(), offset.into_slice()) };
            offset[0] = cpu::double_quantize::quantize(cpu, absmax, constants, codes, scales);
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            queue.check_memory(&[&outputs, &inputs])?;
            let out = [codes.address(), scales.address(), offset.address()];
            cuda::double_quantize::quantize(&queue, absmax, constants, out, workspace)
        }
    }
}

/// Reads nested constants back: `value[code] · scale + offset`, product and sum each rounded to f32.
pub fn double_dequantize(
    context: &Context,
    nested: ConstantsView<'_>,
    constants: &Constants,
    absmax: BufferMut<'_, f32>,
) -> Result<()> {
    let _modes = StandardModes::set();
    check_constants(constants)?;
    let (outputs, inputs) = ([("absmax", absmax.extent())], nested.extents());
    check_disjoint(&outputs, &inputs)?;
    let ConstantsView::Nested { codes, scales, offset } = nested else {
        ensure!(false, "the constants are plain f32; there is nothing to dequantize");
        return Ok(());
    };
    check_nested(constants, absmax.len(), codes.len(), scales.len(), offset.len())?;
    match &context.device {
        Device::Cpu(cpu) => {
            // SAFETY: a CPU context's memory is host memory.
            let (codes, scales, offset, absmax) =
                unsafe { (codes.as_slice(), scales.as_slice(), offset.as_slice(), absmax.into_slice()) };
            let reader = cpu::double_quantize::NestedReader::new(constants, codes, scales, offset[0]);
            cpu::double_quantize::dequantize(cpu, &reader, absmax);
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            queue.check_memory(&[&outputs, &inputs])?;
            let nested = [codes.address(), scales.address(), offset.address()];
            cuda::double_quantize::dequantize(&queue, constants, nested, &absmax)
        }
    }
}

fn check_nested(
    constants: &Constants,
    blocks: usize,
    codes: usize,
    scales: usize,
    offset: usize,
) -> Result<()> {
    ensure!(
        *constants != Constants::F32,
        "constants is F32; double quantization needs FP8, DYNAMIC or a map"
    );
    let needed = blocks.div_ceil(CONSTANT_BLOCK as usize);
    ensure!(codes >= blocks, "absmax_codes has {codes} bytes; {blocks} constants need {blocks}");
    ensure!(scales >= needed, "absmax_scales has {scales} elements; {blocks} constants need {needed}");
    ensure!(offset >= 1, "absmax_offset is empty; it needs 1 element");
    Ok(())
}
