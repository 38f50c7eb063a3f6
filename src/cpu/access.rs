//! Reading tensors as f32 and writing f32 into tensors, whatever their element type and row stride.

use super::simd::Simd;
use crate::view::{DType, Element, Tensor, TensorMut};
use half::{bf16, f16};

/// `out` = the elements of row `row` from column `col` on.
pub fn read_row(simd: &Simd, tensor: &Tensor<'_>, row: usize, col: usize, out: &mut [f32]) {
    assert!(row < tensor.rows() && out.len() <= tensor.cols() - col);
    let from = tensor.at(row, col);
    // SAFETY: the elements lie inside the tensor, which the view's maker vouched for, aligned for their type.
    unsafe {
        match tensor.dtype() {
            DType::F32 => out.copy_from_slice(std::slice::from_raw_parts(from.cast::<f32>(), out.len())),
            DType::F16 => simd.widen_f16(std::slice::from_raw_parts(from.cast::<f16>(), out.len()), out),
            DType::Bf16 => simd.widen_bf16(std::slice::from_raw_parts(from.cast::<bf16>(), out.len()), out),
        }
    }
}

/// `len` elements of row `row` from column `col` on, which are `T`.
pub fn row<'a, T: Element>(tensor: &Tensor<'a>, row: usize, col: usize, len: usize) -> &'a [T] {
    assert!(tensor.dtype() == T::DTYPE && row < tensor.rows() && len <= tensor.cols() - col);
    // SAFETY: the elements lie inside the tensor, which the view's maker vouched for, aligned for their type.
    unsafe { std::slice::from_raw_parts(tensor.at(row, col).cast(), len) }
}

/// Elements `start..end` of a matrix, flattened, where they are consecutive `T` in memory.
pub fn slice<'a, T: Element>(tensor: &Tensor<'a>, start: usize, end: usize) -> Option<&'a [T]> {
    assert!(start <= end && end <= tensor.rows() * tensor.cols());
    // SAFETY: the elements lie inside the tensor, which the view's maker vouched for.
    are_consecutive::<T>(tensor)
        .then(|| unsafe { std::slice::from_raw_parts(tensor.at(0, 0).cast::<T>().add(start), end - start) })
}

/// Elements `start..end` of a matrix, flattened, as f32: where they lie, or widened into the start of `buffer`.
pub fn read<'t>(
    simd: &Simd,
    tensor: &Tensor<'t>,
    start: usize,
    end: usize,
    buffer: &'t mut [f32],
) -> &'t [f32] {
    if let Some(values) = slice(tensor, start, end) {
        return values;
    }
    for_each_row_piece(tensor.cols(), start, end, |row, col, at, len| {
        read_row(simd, tensor, row, col, &mut buffer[at..at + len]);
    });
    &buffer[..end - start]
}

/// Whether a matrix, flattened, is a run of `T` in memory.
pub fn are_consecutive<T: Element>(tensor: &Tensor<'_>) -> bool {
    let consecutive = tensor.row_stride() == tensor.cols() || tensor.rows() == 1;
    tensor.dtype() == T::DTYPE && consecutive && !tensor.is_empty()
}

/// A writable tensor that threads share, each writing its own elements.
pub struct Output<'a>(TensorMut<'a>);

impl<'a> Output<'a> {
    pub fn new(tensor: TensorMut<'a>) -> Self {
        Self(tensor)
    }

    /// The elements of row `row` from column `col` on = `values`, rounded once.
    ///
    /// # Safety
    /// No other thread uses these elements now.
    pub unsafe fn write_row(&self, simd: &Simd, row: usize, col: usize, values: &[f32]) {
        let len = values.len();
        // SAFETY: as promised.
        unsafe {
            match self.0.dtype() {
                DType::F32 => self.row(row, col, len).copy_from_slice(values),
                DType::F16 => simd.narrow_f16(values, self.row(row, col, len)),
                DType::Bf16 => simd.narrow_bf16(values, self.row(row, col, len)),
            }
        }
    }

    /// `len` elements of row `row` from column `col` on, which are `T`.
    ///
    /// # Safety
    /// No other thread uses these elements now.
    #[allow(clippy::mut_from_ref)] // as the promise allows
    pub unsafe fn row<T: Element>(&self, row: usize, col: usize, len: usize) -> &mut [T] {
        assert!(self.0.dtype() == T::DTYPE && row < self.0.rows() && len <= self.0.cols() - col);
        // SAFETY: the elements lie inside the tensor, which the view's maker vouched for, aligned for their type.
        unsafe { std::slice::from_raw_parts_mut(self.0.at(row, col).cast(), len) }
    }

    /// Elements `start..end`, flattened, where they are consecutive `T` in memory.
    ///
    /// # Safety
    /// No other thread uses these elements now.
    #[allow(clippy::mut_from_ref)] // as the promise allows
    pub unsafe fn slice<T: Element>(&self, start: usize, end: usize) -> Option<&mut [T]> {
        assert!(start <= end && end <= self.0.rows() * self.0.cols());
        // SAFETY: the elements lie inside the tensor, which the view's maker vouched for.
        are_consecutive::<T>(&self.0.as_tensor()).then(|| unsafe {
            std::slice::from_raw_parts_mut(self.0.at(0, 0).cast::<T>().add(start), end - start)
        })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// Whether elements, flattened, are a run of `T` in memory.
    pub fn are_consecutive<T: Element>(&self) -> bool {
        are_consecutive::<T>(&self.0.as_tensor())
    }

    /// Reads back what [`Self::write_row`] writes.
    ///
    /// # Safety
    /// No other thread writes to these elements now.
    pub unsafe fn read_row(&self, simd: &Simd, row: usize, col: usize, out: &mut [f32]) {
        read_row(simd, &self.0.as_tensor(), row, col, out);
    }
}

/// Calls `piece(row, col, start, len)` for the pieces of rows that elements `start..end` of a flattened matrix lie in;
/// `start` there counts from the first element of the range.
pub fn for_each_row_piece(
    cols: usize,
    start: usize,
    end: usize,
    mut piece: impl FnMut(usize, usize, usize, usize),
) {
    let mut at = start;
    while at < end {
        let (row, col) = (at / cols, at % cols);
        let len = (cols - col).min(end - at);
        piece(row, col, at - start, len);
        at += len;
    }
}
