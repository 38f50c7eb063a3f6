//! A length of memory of one type.

use super::Extent;
use half::{bf16, f16};
use std::marker::PhantomData;

/// A read-only run of `len` values, which may lie in device memory.
#[derive(Debug)]
pub struct Buffer<'a, T> {
    ptr: *const T,
    len: usize,
    /// Whether it is a Rust slice.
    host: bool,
    lifetime: PhantomData<&'a [T]>,
}

/// A writable run of `len` values, which may lie in device memory.
#[derive(Debug)]
pub struct BufferMut<'a, T> {
    ptr: *mut T,
    len: usize,
    /// Whether it is a Rust slice.
    host: bool,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: these are slices by another name.
unsafe impl<T: Sync> Send for Buffer<'_, T> {}
unsafe impl<T: Sync> Sync for Buffer<'_, T> {}
unsafe impl<T: Send> Send for BufferMut<'_, T> {}
unsafe impl<T: Sync> Sync for BufferMut<'_, T> {}

impl<T> Clone for Buffer<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Buffer<'_, T> {}

impl<'a, T> Buffer<'a, T> {
    /// From a pointer.
    ///
    /// # Safety
    /// `ptr` is aligned and valid for reads of `len` values for `'a`, on the device of the context that it is used
    /// with, and nothing writes to it meanwhile. It may be null when `len` is 0.
    pub unsafe fn from_raw(ptr: *const T, len: usize) -> Self {
        Self { ptr, len, host: false, lifetime: PhantomData }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first value's address.
    pub(super) fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// Where the values lie.
    pub(crate) fn extent(&self) -> Extent {
        Extent::of_bytes(self.ptr, self.len * size_of::<T>(), self.host)
    }

    /// The values.
    ///
    /// # Safety
    /// The memory is host memory.
    pub(crate) unsafe fn as_slice(&self) -> &'a [T] {
        if self.len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(self.ptr, self.len) } }
    }
}

impl<'a, T> BufferMut<'a, T> {
    /// From a pointer.
    ///
    /// # Safety
    /// `ptr` is aligned and valid for reads and writes of `len` values for `'a`, on the device of the context that it
    /// is used with, and nothing else uses it meanwhile. It may be null when `len` is 0.
    pub unsafe fn from_raw(ptr: *mut T, len: usize) -> Self {
        Self { ptr, len, host: false, lifetime: PhantomData }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first value's address.
    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }

    /// Where the values lie.
    pub(crate) fn extent(&self) -> Extent {
        Extent::of_bytes(self.ptr, self.len * size_of::<T>(), self.host)
    }

    /// The values.
    ///
    /// # Safety
    /// The memory is host memory.
    pub(crate) unsafe fn into_slice(self) -> &'a mut [T] {
        if self.len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) } }
    }

    /// The same memory, for reading.
    pub fn as_buffer(&self) -> Buffer<'_, T> {
        Buffer { ptr: self.ptr, len: self.len, host: self.host, lifetime: PhantomData }
    }

    /// The first `mid` values, and the rest.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        assert!(mid <= self.len, "mid is {mid}; there are {} values", self.len);
        let part = |ptr, len| Self { ptr, len, host: self.host, lifetime: PhantomData };
        (part(self.ptr, mid), part(self.ptr.wrapping_add(mid), self.len - mid))
    }

    /// The same memory for a shorter time.
    pub fn reborrow(&mut self) -> BufferMut<'_, T> {
        BufferMut { ptr: self.ptr, len: self.len, host: self.host, lifetime: PhantomData }
    }
}

impl<'a, T> From<&'a [T]> for Buffer<'a, T> {
    fn from(slice: &'a [T]) -> Self {
        Self { ptr: slice.as_ptr(), len: slice.len(), host: true, lifetime: PhantomData }
    }
}

impl<'a, T> From<&'a mut [T]> for BufferMut<'a, T> {
    fn from(slice: &'a mut [T]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len(), host: true, lifetime: PhantomData }
    }
}

impl<'a, T> From<&'a Vec<T>> for Buffer<'a, T> {
    fn from(vec: &'a Vec<T>) -> Self {
        vec.as_slice().into()
    }
}

impl<'a, T> From<&'a mut Vec<T>> for BufferMut<'a, T> {
    fn from(vec: &'a mut Vec<T>) -> Self {
        vec.as_mut_slice().into()
    }
}

/// 16-bit numbers by their bits: for owners of memory that have no such types.
macro_rules! from_bits {
    ($($float:ty)*) => {$(
        impl<'a> From<Buffer<'a, u16>> for Buffer<'a, $float> {
            fn from(bits: Buffer<'a, u16>) -> Self {
                Self { ptr: bits.ptr.cast(), len: bits.len, host: bits.host, lifetime: PhantomData }
            }
        }

        impl<'a> From<BufferMut<'a, u16>> for BufferMut<'a, $float> {
            fn from(bits: BufferMut<'a, u16>) -> Self {
                Self { ptr: bits.ptr.cast(), len: bits.len, host: bits.host, lifetime: PhantomData }
            }
        }
    )*};
}
from_bits!(f16 bf16);
