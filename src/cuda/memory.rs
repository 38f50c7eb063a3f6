//! What a pointer points to.

use super::device::Cuda;
use super::driver::check;
use crate::error::{Error, Result};
use crate::view::{Buffer, BufferMut, Tensor, TensorMut};
use cudarc::driver::sys::{self, CUpointer_attribute_enum as Attribute, CUresult};

/// A view's address.
pub trait Address {
    /// Of its first element.
    fn address(&self) -> u64;
}

impl<T> Address for Buffer<'_, T> {
    fn address(&self) -> u64 {
        self.extent().start() as u64
    }
}
impl<T> Address for BufferMut<'_, T> {
    fn address(&self) -> u64 {
        self.extent().start() as u64
    }
}
impl<T> Address for &Buffer<'_, T> {
    fn address(&self) -> u64 {
        self.extent().start() as u64
    }
}
impl<T> Address for &BufferMut<'_, T> {
    fn address(&self) -> u64 {
        self.extent().start() as u64
    }
}
impl Address for &Tensor<'_> {
    fn address(&self) -> u64 {
        self.extent().start() as u64
    }
}
impl Address for &TensorMut<'_> {
    fn address(&self) -> u64 {
        self.extent().start() as u64
    }
}

impl Cuda {
    /// Refuses pointers that kernels must not touch: ordinary host memory would be an illegal address, and that is the
    /// end of the whole context. The context must be current.
    pub fn check_memory(&self, views: &[(&str, crate::view::Extent)]) -> Result<()> {
        if self.reads_host_memory {
            return Ok(());
        }
        for (name, extent) in views.iter().filter(|(_, extent)| !extent.is_empty()) {
            let mut kind = 0u32;
            let address = extent.start() as u64;
            // SAFETY: the attribute is a 32-bit number.
            let result = unsafe {
                let to = (&mut kind as *mut u32).cast();
                sys::cuPointerGetAttribute(to, Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address)
            };
            if result == CUresult::CUDA_ERROR_INVALID_VALUE {
                return Err(Error::invalid(format!(
                    "{name} is at {address:#x}, which is no memory of the device; a CUDA context needs device, managed or pinned memory"
                )));
            }
            check(result, "cuPointerGetAttribute")?;
        }
        Ok(())
    }
}
