//! The caller's workspace, cut into matrices.

use crate::cuda::memory::Address;
use crate::error::{Error, Result, Status};
use crate::view::{BufferMut, DType, TensorMut};

/// Alignment of each matrix, enough for every kind of copy.
const ALIGN: usize = 128;

/// Bytes of workspace, at any alignment, that hold matrices of these sizes; `None` if they overflow.
pub fn size(matrices: &[Option<usize>]) -> Option<usize> {
    let sum = matrices
        .iter()
        .try_fold(0usize, |sum, bytes| sum.checked_add((*bytes)?.checked_next_multiple_of(ALIGN)?))?;
    if sum == 0 { Some(0) } else { sum.checked_add(ALIGN) }
}

/// Bytes of a matrix; `None` if they overflow.
pub fn bytes(rows: usize, cols: usize, dtype: DType) -> Option<usize> {
    rows.checked_mul(cols)?.checked_mul(dtype.size())
}

/// What is left of a workspace. Kernels of one stream use it one after the other.
pub struct Workspace<'a> {
    buffer: BufferMut<'a, u8>,
    next: usize,
}

impl<'a> Workspace<'a> {
    /// All of it.
    pub fn new(buffer: BufferMut<'a, u8>) -> Self {
        let next = (buffer.address() as usize).next_multiple_of(ALIGN);
        Self { buffer, next }
    }

    /// The next matrix, rows without gaps. The workspace has the [`size`] for all that is taken from it.
    pub fn matrix(&mut self, dtype: DType, rows: usize, cols: usize) -> Result<TensorMut<'a>> {
        let (start, bytes) = (self.next, rows * cols * dtype.size());
        self.next = (start + bytes).next_multiple_of(ALIGN);
        let end = self.buffer.address() as usize + self.buffer.len();
        if bytes > 0 && start + bytes > end {
            let message = format!("a workspace of {} bytes, checked, is too small", self.buffer.len());
            return Err(Error::new(Status::Internal, message));
        }
        // SAFETY: it lies in the workspace, which nothing else uses; parts do not overlap.
        unsafe { TensorMut::from_raw(std::ptr::without_provenance_mut(start), dtype, rows, cols, cols) }
    }
}
