//! Matrices in the 4-bit block format.

use super::Extent;
use super::buffer::{Buffer, BufferMut};
use crate::error::{Error, Result, ensure};
use crate::format::{QuantSpec, Sizes};

/// The constants of a quantized matrix.
#[derive(Clone, Copy, Debug)]
pub enum ConstantsView<'a> {
    /// One f32 absmax a block.
    F32(Buffer<'a, f32>),
    /// Double quantization: `absmax = value[code] · scale + offset`.
    Nested {
        /// One 8-bit code a block.
        codes: Buffer<'a, u8>,
        /// One scale per 256 codes.
        scales: Buffer<'a, f32>,
        /// One value: the mean absmax.
        offset: Buffer<'a, f32>,
    },
}

/// The constants of a quantized matrix, to be written.
#[derive(Debug)]
pub enum ConstantsMut<'a> {
    /// One f32 absmax a block.
    F32(BufferMut<'a, f32>),
    /// Double quantization.
    Nested {
        /// One 8-bit code a block.
        codes: BufferMut<'a, u8>,
        /// One scale per 256 codes.
        scales: BufferMut<'a, f32>,
        /// One value: the mean absmax.
        offset: BufferMut<'a, f32>,
    },
}

impl ConstantsView<'_> {
    /// Where its parts lie, by name.
    pub(crate) fn extents(&self) -> Vec<(&'static str, Extent)> {
        match self {
            ConstantsView::F32(absmax) => vec![("absmax", absmax.extent())],
            ConstantsView::Nested { codes, scales, offset } => vec![
                ("absmax_codes", codes.extent()),
                ("absmax_scales", scales.extent()),
                ("absmax_offset", offset.extent()),
            ],
        }
    }
}

impl ConstantsMut<'_> {
    /// The same memory, for reading.
    pub fn as_view(&self) -> ConstantsView<'_> {
        match self {
            ConstantsMut::F32(absmax) => ConstantsView::F32(absmax.as_buffer()),
            ConstantsMut::Nested { codes, scales, offset } => ConstantsView::Nested {
                codes: codes.as_buffer(),
                scales: scales.as_buffer(),
                offset: offset.as_buffer(),
            },
        }
    }
}

/// A read-only quantized matrix `[rows, cols]`; a weight is `[N, K]` = `[out_features, in_features]`.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    pub(crate) spec: &'a QuantSpec,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) codes: Buffer<'a, u8>,
    pub(crate) constants: ConstantsView<'a>,
}

/// A quantized matrix `[rows, cols]`, to be written.
#[derive(Debug)]
pub struct QuantizedMut<'a> {
    pub(crate) spec: &'a QuantSpec,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) codes: BufferMut<'a, u8>,
    pub(crate) constants: ConstantsMut<'a>,
}

/// The sizes of a `[rows, cols]` matrix, which must fit the address space.
pub(crate) fn sizes(spec: &QuantSpec, rows: usize, cols: usize) -> Result<Sizes> {
    spec.check_block_size().map_err(Error::invalid)?;
    spec.codebook.table().map_err(Error::invalid)?;
    let sizes = spec.sizes(rows as u64, cols as u64).map_err(Error::too_large)?;
    // The largest thing made from it is the f32 matrix.
    if sizes.elements.checked_mul(4).and_then(|bytes| isize::try_from(bytes).ok()).is_none() {
        return Err(Error::too_large(format!("rows {rows} x cols {cols} do not fit the address space")));
    }
    Ok(sizes)
}

fn check_len(name: &str, len: usize, needed: u64) -> Result<()> {
    ensure!(len as u64 >= needed, "{name} has {len} elements; this matrix needs {needed}");
    Ok(())
}

impl<'a> Quantized<'a> {
    /// A view of codes and constants that match `spec` and the shape (see [`QuantSpec::sizes`]).
    pub fn new(
        spec: &'a QuantSpec,
        rows: usize,
        cols: usize,
        codes: Buffer<'a, u8>,
        constants: ConstantsView<'a>,
    ) -> Result<Self> {
        let sizes = sizes(spec, rows, cols)?;
        check_len("codes", codes.len(), sizes.code_bytes)?;
        match &constants {
            ConstantsView::F32(absmax) => {
                ensure!(!spec.is_double_quantized(), "absmax is f32; the spec asks for {:?}", spec.constants);
                check_len("absmax", absmax.len(), sizes.absmax_len)?;
            }
            ConstantsView::Nested { codes, scales, offset } => {
                ensure!(
                    spec.is_double_quantized(),
                    "absmax is double-quantized; the spec asks for f32 constants"
                );
                check_len("absmax_codes", codes.len(), sizes.absmax_codes_len)?;
                check_len("absmax_scales", scales.len(), sizes.absmax_scales_len)?;
                check_len("absmax_offset", offset.len(), 1)?;
            }
        }
        Ok(Self { spec, rows, cols, codes, constants })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format.
    pub fn spec(&self) -> &'a QuantSpec {
        self.spec
    }

    /// Where its parts lie, by name.
    pub(crate) fn extents(&self) -> Vec<(&'static str, Extent)> {
        let mut parts = self.constants.extents();
        parts.push(("codes", self.codes.extent()));
        parts
    }
}

impl<'a> QuantizedMut<'a> {
    /// A view of memory for codes and constants that match `spec` and the shape (see [`QuantSpec::sizes`]).
    pub fn new(
        spec: &'a QuantSpec,
        rows: usize,
        cols: usize,
        codes: BufferMut<'a, u8>,
        constants: ConstantsMut<'a>,
    ) -> Result<Self> {
        let this = Self { spec, rows, cols, codes, constants };
        this.as_view()?;
        Ok(this)
    }

    /// The same memory, for reading.
    pub fn as_view(&self) -> Result<Quantized<'_>> {
        Quantized::new(self.spec, self.rows, self.cols, self.codes.as_buffer(), self.constants.as_view())
    }
}
