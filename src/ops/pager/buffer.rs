//! Values in paged memory.

use super::Pager;
use crate::error::{Error, Result};
use crate::view::BufferMut;
use bytemuck::Zeroable;
use std::marker::PhantomData;

/// Values in memory of a pager's.
pub struct PagedBuffer<T> {
    pager: Pager,
    address: usize,
    len: usize,
    values: PhantomData<T>,
}

impl Pager {
    /// As many values, all zero, in memory of the pager's.
    pub fn buffer<T: Zeroable>(&self, len: usize) -> Result<PagedBuffer<T>> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| Error::too_large("len is too large"))?;
        let address = if bytes == 0 { align_of::<T>() } else { self.alloc(bytes as u64)? };
        Ok(PagedBuffer { pager: self.clone(), address, len, values: PhantomData })
    }
}

impl<T> PagedBuffer<T> {
    /// Lends the memory to operations.
    pub fn lend(&mut self) -> BufferMut<'_, T> {
        let ptr = std::ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: the buffer's own memory, which is borrowed with it.
        unsafe { BufferMut::from_raw(ptr, self.len) }
    }

    /// Where it is.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Drop for PagedBuffer<T> {
    fn drop(&mut self) {
        if self.len * size_of::<T>() > 0 {
            // SAFETY: the buffer's own allocation; work on it is waited for.
            let _ = unsafe { self.pager.free(self.address) };
        }
    }
}
