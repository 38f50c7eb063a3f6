//! Dequantization of a whole matrix.

use super::context::{Context, Device};
use super::quantize::check_constants;
use super::{check_disjoint, check_shape};
use crate::error::{Error, Result};
use crate::float_environment::StandardModes;
use crate::view::{Quantized, TensorMut};
use crate::{cpu, cuda};

/// Writes `value[code] · absmax`, rounded once to `out`'s type (f32, f16 or bf16); `out` has the matrix's shape.
pub fn dequantize(context: &Context, matrix: Quantized<'_>, out: TensorMut<'_>) -> Result<()> {
    let _modes = StandardModes::set();
    check_shape(
        "out",
        [out.rows(), out.cols()],
        "the quantized matrix's rows x cols",
        [matrix.rows, matrix.cols],
    )?;
    let (outputs, inputs) = ([("out", out.extent())], matrix.extents());
    check_disjoint(&outputs, &inputs)?;
    check_constants(&matrix.spec.constants)?;
    let table = matrix.spec.codebook.table().map_err(Error::invalid)?;
    if out.is_empty() {
        return Ok(());
    }
    match &context.device {
        Device::Cpu(cpu) => {
            cpu::dequantize::dequantize(cpu, &matrix, &table, out);
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            queue.check_memory(&[&outputs, &inputs])?;
            cuda::dequantize::dequantize(&queue, &matrix, &table, &out)
        }
    }
}
