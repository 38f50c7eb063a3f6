//! A quantized matrix that owns its memory: the convenient form for Rust programs on the CPU.

use super::{Context, dequantize, quantize, quantize_workspace_size};
use crate::error::Result;
use crate::format::QuantSpec;
use crate::view::{self, ConstantsMut, ConstantsView, Quantized, QuantizedMut, Tensor, TensorMut};

/// Codes and constants of a matrix `[rows, cols]` in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix {
    spec: QuantSpec,
    rows: usize,
    cols: usize,
    codes: Vec<u8>,
    absmax: Vec<f32>,
    absmax_codes: Vec<u8>,
    absmax_scales: Vec<f32>,
    absmax_offset: Vec<f32>,
}

impl QuantizedMatrix {
    /// Quantizes `x`.
    pub fn quantize(context: &Context, x: Tensor<'_>, spec: &QuantSpec) -> Result<Self> {
        let sizes = view::sizes(spec, x.rows(), x.cols())?;
        let mut this = Self {
            spec: spec.clone(),
            rows: x.rows(),
            cols: x.cols(),
            codes: vec![0; sizes.code_bytes as usize],
            absmax: vec![0.0; sizes.absmax_len as usize],
            absmax_codes: vec![0; sizes.absmax_codes_len as usize],
            absmax_scales: vec![0.0; sizes.absmax_scales_len as usize],
            absmax_offset: vec![0.0; usize::from(spec.is_double_quantized())],
        };
        let mut workspace = vec![0; quantize_workspace_size(context, spec, x.rows(), x.cols())?];
        quantize(context, x, this.view_mut(), &mut workspace)?;
        Ok(this)
    }

    /// Dequantizes into `out`, which has this shape.
    pub fn dequantize(&self, context: &Context, out: TensorMut<'_>) -> Result<()> {
        dequantize(context, self.view(), out)
    }

    /// The matrix, for an operation to read.
    pub fn view(&self) -> Quantized<'_> {
        let constants = match self.spec.is_double_quantized() {
            false => ConstantsView::F32(self.absmax.as_slice().into()),
            true => ConstantsView::Nested {
                codes: self.absmax_codes.as_slice().into(),
                scales: self.absmax_scales.as_slice().into(),
                offset: self.absmax_offset.as_slice().into(),
            },
        };
        Quantized {
            spec: &self.spec,
            rows: self.rows,
            cols: self.cols,
            codes: self.codes.as_slice().into(),
            constants,
        }
    }

    /// The matrix, for an operation to write.
    pub fn view_mut(&mut self) -> QuantizedMut<'_> {
        let constants = match self.spec.is_double_quantized() {
            false => ConstantsMut::F32(self.absmax.as_mut_slice().into()),
            true => ConstantsMut::Nested {
                codes: self.absmax_codes.as_mut_slice().into(),
                scales: self.absmax_scales.as_mut_slice().into(),
                offset: self.absmax_offset.as_mut_slice().into(),
            },
        };
        let codes = self.codes.as_mut_slice().into();
        QuantizedMut { spec: &self.spec, rows: self.rows, cols: self.cols, codes, constants }
    }

    /// The format.
    pub fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The packed 4-bit codes.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The f32 constants; empty with double quantization.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// The 8-bit constants, their scales and their offset; empty without double quantization.
    pub fn nested(&self) -> (&[u8], &[f32], &[f32]) {
        (&self.absmax_codes, &self.absmax_scales, &self.absmax_offset)
    }

    /// Bytes that the codes take.
    pub fn code_bytes(&self) -> usize {
        size_of_val(self.codes.as_slice())
    }

    /// Bytes that everything else takes.
    pub fn constant_bytes(&self) -> usize {
        size_of_val(self.absmax.as_slice())
            + size_of_val(self.absmax_codes.as_slice())
            + size_of_val(self.absmax_scales.as_slice())
            + size_of_val(self.absmax_offset.as_slice())
    }
}
