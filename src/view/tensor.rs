//! Row-major matrices of floating-point numbers.

use super::buffer::{Buffer, BufferMut};
use crate::error::{Error, Result, ensure};
use half::{bf16, f16};
use std::marker::PhantomData;

/// The type of a tensor's elements; the numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DType {
    /// IEEE binary32.
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// bfloat16.
    Bf16 = 2,
}

impl DType {
    /// Bytes an element, which is also its alignment.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: Copy + Send + Sync + 'static {
    /// Its name at run time.
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}

/// Where a matrix lies: element `(r, c)` is at `data + (r · row_stride + c)` elements.
#[derive(Clone, Copy, Debug)]
struct Layout {
    dtype: DType,
    rows: usize,
    cols: usize,
    row_stride: usize,
    /// Whether it is a Rust slice.
    host: bool,
}

/// A read-only row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    data: *const u8,
    layout: Layout,
    lifetime: PhantomData<&'a [u8]>,
}

/// A writable row-major matrix.
#[derive(Debug)]
pub struct TensorMut<'a> {
    data: *mut u8,
    layout: Layout,
    lifetime: PhantomData<&'a mut [u8]>,
}

// SAFETY: these are slices by another name, of types that are Send and Sync.
unsafe impl Send for Tensor<'_> {}
unsafe impl Sync for Tensor<'_> {}
unsafe impl Send for TensorMut<'_> {}
unsafe impl Sync for TensorMut<'_> {}

impl Layout {
    fn check(data: *const u8, dtype: DType, rows: usize, cols: usize, row_stride: usize) -> Result<Self> {
        let layout = Self { dtype, rows, cols, row_stride, host: false };
        ensure!(
            row_stride >= cols || rows <= 1,
            "row_stride is {row_stride}; it must be at least cols, {cols}"
        );
        let bytes =
            layout.span().and_then(|n| n.checked_mul(dtype.size())).filter(|&b| isize::try_from(b).is_ok());
        if bytes.is_none() {
            return Err(Error::too_large(format!(
                "rows {rows} x row_stride {row_stride} {dtype:?} elements do not fit the address space"
            )));
        }
        if rows != 0 && cols != 0 {
            ensure!(!data.is_null(), "data is null; a {rows} x {cols} tensor needs memory");
            ensure!(
                data.addr().is_multiple_of(dtype.size()),
                "data is {data:p}; {dtype:?} elements must be aligned to {} bytes",
                dtype.size()
            );
        }
        Ok(layout)
    }

    /// Elements from the first to the last, None on overflow.
    fn span(&self) -> Option<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Some(0);
        }
        (self.rows - 1).checked_mul(self.row_stride)?.checked_add(self.cols)
    }

    /// The same in `len` elements, of a Rust slice or not.
    fn within(self, len: usize, host: bool) -> Result<Self> {
        let span = self.span().unwrap_or(usize::MAX);
        ensure!(
            len >= span,
            "the slice has {len} elements; rows {} x cols {} with row_stride {} need {span}",
            self.rows,
            self.cols,
            self.row_stride
        );
        Ok(Self { host, ..self })
    }
}

/// Where a matrix's bytes lie: rows of `row` bytes, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    start: usize,
    /// From the first byte to the last.
    len: usize,
    row: usize,
    stride: usize,
    host: bool,
}

impl Extent {
    /// `len` bytes from `start` on.
    pub(crate) fn of_bytes<T>(start: *const T, len: usize, host: bool) -> Self {
        Self { start: start.expose_provenance(), len, row: len, stride: len.max(1), host }
    }

    /// The first byte.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Behind the last byte.
    pub(crate) fn end(&self) -> usize {
        self.start + self.len
    }

    /// Whether it is a Rust slice, which an asynchronous call could outlive.
    pub(crate) fn is_host(&self) -> bool {
        self.host
    }

    /// Whether there is no byte.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether two matrices share a byte. Column ranges of one wider matrix do not.
    pub(crate) fn overlaps(&self, other: &Extent) -> bool {
        if self.start > other.start {
            return other.overlaps(self);
        }
        let distance = other.start - self.start;
        if self.len == 0 || other.len == 0 || distance >= self.len {
            return false;
        }
        let column = distance % self.stride;
        let side_by_side =
            self.stride == other.stride && column >= self.row && column + other.row <= self.stride;
        !side_by_side
    }
}

macro_rules! shape_accessors {
    () => {
        /// The element type.
        pub fn dtype(&self) -> DType {
            self.layout.dtype
        }

        /// Number of rows.
        pub fn rows(&self) -> usize {
            self.layout.rows
        }

        /// Number of columns.
        pub fn cols(&self) -> usize {
            self.layout.cols
        }

        /// Elements from one row's start to the next one's.
        pub fn row_stride(&self) -> usize {
            self.layout.row_stride
        }

        /// Whether there is no element.
        pub fn is_empty(&self) -> bool {
            self.layout.rows == 0 || self.layout.cols == 0
        }

        pub(crate) fn extent(&self) -> Extent {
            let Layout { dtype, cols, row_stride, host, .. } = self.layout;
            let start = self.data.addr();
            let len = self.layout.span().unwrap_or(0) * dtype.size();
            Extent { start, len, row: cols * dtype.size(), stride: row_stride * dtype.size(), host }
        }
    };
}

impl<'a> Tensor<'a> {
    /// A matrix of consecutive rows in `data`.
    pub fn new<T: Element>(data: &'a [T], rows: usize, cols: usize) -> Result<Self> {
        Self::with_row_stride(data, rows, cols, cols)
    }

    /// A matrix whose rows start `row_stride` elements apart.
    pub fn with_row_stride<T: Element>(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self> {
        Self::from_buffer(data.into(), rows, cols, row_stride)
    }

    /// A matrix in a buffer, which may lie in device memory; its rows start `row_stride` elements apart.
    pub fn from_buffer<T: Element>(
        data: Buffer<'a, T>,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self> {
        let layout = Layout::check(data.as_ptr().cast(), T::DTYPE, rows, cols, row_stride)?;
        let layout = layout.within(data.len(), data.extent().is_host())?;
        Ok(Self { data: data.as_ptr().cast(), layout, lifetime: PhantomData })
    }

    /// From a pointer. Fails if it is null or misaligned, or the size does not fit the address space.
    ///
    /// # Safety
    /// Every element is valid for reads for `'a`, on the device of the context that it is used with, and nothing
    /// writes to it meanwhile. With a CUDA context that lasts until the work enqueued with it is done.
    pub unsafe fn from_raw(
        data: *const u8,
        dtype: DType,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self> {
        Ok(Self { data, layout: Layout::check(data, dtype, rows, cols, row_stride)?, lifetime: PhantomData })
    }

    shape_accessors!();

    /// The rows before `rows`.
    pub(crate) fn first_rows(self, rows: usize) -> Self {
        debug_assert!(rows <= self.layout.rows);
        Self { layout: Layout { rows, ..self.layout }, ..self }
    }

    /// Row `row` from column `col` on: a pointer to at least `cols - col` elements.
    pub(crate) fn at(&self, row: usize, col: usize) -> *const u8 {
        debug_assert!(row < self.layout.rows && col <= self.layout.cols);
        self.data.wrapping_add((row * self.layout.row_stride + col) * self.layout.dtype.size())
    }
}

impl<'a> TensorMut<'a> {
    /// A matrix of consecutive rows in `data`.
    pub fn new<T: Element>(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self> {
        Self::with_row_stride(data, rows, cols, cols)
    }

    /// A matrix whose rows start `row_stride` elements apart; the elements between rows are left alone.
    pub fn with_row_stride<T: Element>(
        data: &'a mut [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self> {
        Self::from_buffer(data.into(), rows, cols, row_stride)
    }

    /// A matrix in a buffer, which may lie in device memory; its rows start `row_stride` elements apart.
    pub fn from_buffer<T: Element>(
        mut data: BufferMut<'a, T>,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self> {
        let layout = Layout::check(data.as_mut_ptr().cast(), T::DTYPE, rows, cols, row_stride)?;
        let layout = layout.within(data.len(), data.extent().is_host())?;
        Ok(Self { data: data.as_mut_ptr().cast(), layout, lifetime: PhantomData })
    }

    /// From a pointer. Fails if it is null or misaligned, or the size does not fit the address space.
    ///
    /// # Safety
    /// Every element is valid for reads and writes for `'a`, on the device of the context that it is used with, and
    /// nothing else uses it meanwhile. With a CUDA context that lasts until the work enqueued with it is done.
    pub unsafe fn from_raw(
        data: *mut u8,
        dtype: DType,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self> {
        Ok(Self { data, layout: Layout::check(data, dtype, rows, cols, row_stride)?, lifetime: PhantomData })
    }

    shape_accessors!();

    /// Row `row` from column `col` on: a pointer to at least `cols - col` elements. Threads may write to different
    /// elements at once through it.
    pub(crate) fn at(&self, row: usize, col: usize) -> *mut u8 {
        debug_assert!(row < self.layout.rows && col <= self.layout.cols);
        self.data.wrapping_add((row * self.layout.row_stride + col) * self.layout.dtype.size())
    }

    /// The same memory for a shorter time.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { data: self.data, layout: self.layout, lifetime: PhantomData }
    }

    /// The same memory, for reading.
    pub fn as_tensor(&self) -> Tensor<'_> {
        Tensor { data: self.data, layout: self.layout, lifetime: PhantomData }
    }

    /// The same memory, for reading from now on.
    pub fn into_tensor(self) -> Tensor<'a> {
        Tensor { data: self.data, layout: self.layout, lifetime: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_by_the_byte() {
        let data = [0f32; 60];
        let at = |offset: usize, rows, cols, stride| {
            Tensor::with_row_stride(&data[offset..], rows, cols, stride).unwrap().extent()
        };
        assert!(at(0, 2, 10, 10).overlaps(&at(19, 1, 1, 1)));
        assert!(!at(0, 2, 10, 10).overlaps(&at(20, 1, 1, 1)));
        // Columns 0..4 and 4..10 of a 6 x 10 matrix are disjoint; 0..5 and 4..10 are not.
        assert!(!at(0, 6, 4, 10).overlaps(&at(4, 5, 6, 10)));
        assert!(at(0, 6, 5, 10).overlaps(&at(4, 5, 6, 10)));
        assert!(at(4, 5, 6, 10).overlaps(&at(0, 6, 5, 10)));
        assert!(!at(0, 0, 5, 10).overlaps(&at(0, 6, 5, 10)));
    }

    #[test]
    fn bad_views_are_refused() {
        assert!(Tensor::new(&[0f32; 5], 2, 3).unwrap_err().message().contains("need 6"));
        assert!(Tensor::with_row_stride(&[0f32; 9], 2, 3, 2).is_err());
        assert!(Tensor::new(&[0f32; 1], usize::MAX, 2).is_err());
        let misaligned = std::ptr::without_provenance::<u8>(0x1002);
        // SAFETY: nothing is read.
        let refused = unsafe { Tensor::from_raw(misaligned, DType::F32, 1, 1, 1) };
        assert!(refused.unwrap_err().message().contains("aligned to 4"));
        let refused = unsafe { Tensor::from_raw(std::ptr::null(), DType::F16, 1, 1, 1) };
        assert!(refused.unwrap_err().message().contains("null"));
    }
}
