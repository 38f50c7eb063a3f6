//! A quantized weight where the operations run.

use candle_core::Result;
use qlora_kernels::view::ConstantsView;
use qlora_kernels::{self as qk, QuantSpec, Quantized, QuantizedMatrix};

use super::{Engine, Memory};

/// Codes and constants of a frozen weight [out, in].
pub struct Weight {
    spec: QuantSpec,
    pub rows: usize,
    pub columns: usize,
    codes: Memory<'static, u8>,
    /// The constants as they are, or quantized: those of the other kind are empty.
    absmax: Memory<'static, f32>,
    absmax_codes: Memory<'static, u8>,
    absmax_scales: Memory<'static, f32>,
    absmax_offset: Memory<'static, f32>,
}

impl Weight {
    /// Puts a matrix where `engine` runs, to stay there.
    pub fn new(engine: &Engine, matrix: &QuantizedMatrix) -> Result<Self> {
        let (codes, scales, offset) = matrix.nested();
        Ok(Self {
            spec: matrix.spec().clone(),
            rows: matrix.rows(),
            columns: matrix.cols(),
            codes: engine.put(matrix.codes().to_vec())?,
            absmax: engine.put(matrix.absmax().to_vec())?,
            absmax_codes: engine.put(codes.to_vec())?,
            absmax_scales: engine.put(scales.to_vec())?,
            absmax_offset: engine.put(offset.to_vec())?,
        })
    }

    /// Lends the weight to an operation.
    pub fn with_view(&self, operation: impl FnOnce(Quantized<'_>) -> qk::Result<()>) -> qk::Result<()> {
        let (codes, absmax, absmax_codes) =
            (self.codes.read()?, self.absmax.read()?, self.absmax_codes.read()?);
        let (scales, offset) = (self.absmax_scales.read()?, self.absmax_offset.read()?);
        let constants = if self.spec.is_double_quantized() {
            let (codes, scales, offset) = (absmax_codes.buffer(), scales.buffer(), offset.buffer());
            ConstantsView::Nested { codes, scales, offset }
        } else {
            ConstantsView::F32(absmax.buffer())
        };
        operation(Quantized::new(&self.spec, self.rows, self.columns, codes.buffer(), constants)?)
    }
}
