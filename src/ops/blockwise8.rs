//! 8-bit blockwise quantization (8-bit optimizer states, arXiv 2110.02861).

use super::check_disjoint;
use super::context::{Context, Device};
use crate::error::{Error, Result, ensure};
use crate::float_environment::StandardModes;
use crate::format::{Map256, spec::BLOCK_SIZES};
use crate::view::{Buffer, BufferMut, Tensor, TensorMut};
use crate::{cpu, cuda};

/// Quantizes `x` (f32, f16 or bf16; flattened) to `codes`, one byte an element, and `absmax`, one f32 per `block_size`
/// elements (a power of two from 32 to 4096; bitsandbytes' optimizers use 256).
pub fn quantize_8bit(
    context: &Context,
    x: Tensor<'_>,
    map: &Map256,
    block_size: u32,
    codes: BufferMut<'_, u8>,
    absmax: BufferMut<'_, f32>,
) -> Result<()> {
    let _modes = StandardModes::set();
    check(x.rows() * x.cols(), block_size, codes.len(), absmax.len())?;
    let (outputs, inputs) = ([("codes", codes.extent()), ("absmax", absmax.extent())], [("x", x.extent())]);
    check_disjoint(&outputs, &inputs)?;
    match &context.device {
        Device::Cpu(cpu) => {
            // SAFETY: a CPU context's memory is host memory.
            let (codes, absmax) = unsafe { (codes.into_slice(), absmax.into_slice()) };
            cpu::blockwise8::quantize(cpu, &x, map, block_size as usize, codes, absmax);
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            queue.check_memory(&[&outputs, &inputs])?;
            cuda::blockwise8::quantize(&queue, &x, map, block_size, &codes, &absmax)
        }
    }
}

/// Writes `map[code] · absmax`, rounded once to `out`'s type.
pub fn dequantize_8bit(
    context: &Context,
    codes: Buffer<'_, u8>,
    absmax: Buffer<'_, f32>,
    map: &Map256,
    block_size: u32,
    out: TensorMut<'_>,
) -> Result<()> {
    let _modes = StandardModes::set();
    check(out.rows() * out.cols(), block_size, codes.len(), absmax.len())?;
    let (outputs, inputs) =
        ([("out", out.extent())], [("codes", codes.extent()), ("absmax", absmax.extent())]);
    check_disjoint(&outputs, &inputs)?;
    match &context.device {
        Device::Cpu(cpu) => {
            // SAFETY: a CPU context's memory is host memory.
            let (codes, absmax) = unsafe { (codes.as_slice(), absmax.as_slice()) };
            cpu::blockwise8::dequantize(cpu, codes, absmax, map, block_size as usize, out);
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            queue.check_memory(&[&outputs, &inputs])?;
            cuda::blockwise8::dequantize(&queue, codes, absmax, map, block_size, &out)
        }
    }
}

fn check(elements: usize, block_size: u32, codes: usize, absmax: usize) -> Result<()> {
    if !(block_size.is_power_of_two() && BLOCK_SIZES.contains(&block_size)) {
        return Err(Error::invalid(format!(
            "block_size is {block_size}; it must be a power of two from 32 to 4096"
        )));
    }
    let blocks = elements.div_ceil(block_size as usize);
    ensure!(codes >= elements, "codes has {codes} bytes; {elements} elements need as many");
    ensure!(
        absmax >= blocks,
        "absmax has {absmax} elements; {elements} elements in blocks of {block_size} need {blocks}"
    );
    Ok(())
}
