//! What a pointer points to.

use super::device::Queue;
use super::driver::check;
use crate::error::{Error, Result};
use crate::view::{Buffer, BufferMut, Extent, Tensor, TensorMut};
use cudarc::driver::sys::{self, CUpointer_attribute_enum as Attribute, CUresult};
use std::collections::BTreeMap;
use std::fmt::Display;

/// A view's address.
pub trait Address {
    /// Of its first element.
    fn address(&self) -> u64;
}

macro_rules! address {
    ($([$($generics:tt)*] $view:ty;)*) => {$(
        impl<$($generics)*> Address for $view {
            fn address(&self) -> u64 {
                self.extent().start() as u64
            }
        }
    )*};
}

address! {
    [T] Buffer<'_, T>;
    [T] BufferMut<'_, T>;
    [T] &BufferMut<'_, T>;
    [] &Tensor<'_>;
    [] &TensorMut<'_>;
}

impl Queue<'_> {
    /// Refuses memory that kernels of this device must not touch: an illegal address is the end of the whole context. Rust
    /// slices are refused even where a GPU could read them, because the call's work may outlive the borrow.
    pub fn check_memory(&self, arguments: &[&[(&str, Extent)]]) -> Result<()> {
        let mut filled = arguments.iter().copied().flatten().filter(|(_, extent)| !extent.is_empty());
        filled.try_for_each(|(name, extent)| self.check_area(name, extent))
    }

    /// The same for thousands of areas, which lie in fewer allocations: the driver is asked twice an allocation.
    pub fn check_many<'a, N: Display>(&self, areas: impl Iterator<Item = (N, &'a Extent)>) -> Result<()> {
        // Of the allocations that areas were found in, where they end, by their starts.
        let mut ends = BTreeMap::new();
        for (name, extent) in areas.filter(|(_, extent)| !extent.is_empty()) {
            let address = extent.start() as u64;
            let before = ends.range(..=address).next_back();
            if !extent.is_host() && before.is_some_and(|(_, &end)| address < end) {
                continue;
            }
            self.check_area(name, extent)?;
            ends.extend(allocation(address));
        }
        Ok(())
    }

    fn check_area(&self, name: impl Display, extent: &Extent) -> Result<()> {
        let address = extent.start() as u64;
        let refuse = |what: &str| Err(Error::invalid(format!("{name} is at {address:#x}, {what}")));
        if extent.is_host() {
            return refuse("a Rust slice; a CUDA context takes views of device memory, made by from_raw");
        }
        match pointer_attribute::<u64>(Attribute::CU_POINTER_ATTRIBUTE_DEVICE_POINTER, address) {
            Ok(Some(seen)) if seen == address => Ok(()),
            // Host memory that the driver does not know, on a device that reads all host memory.
            Ok(None) if self.cuda.reads_host_memory && owner(address).is_none() => Ok(()),
            Ok(_) => match owner(address) {
                Some(other) if other != self.cuda.device => refuse(&format!(
                    "which is memory of CUDA device {other}; the context is one of device {}",
                    self.cuda.device
                )),
                _ => refuse(
                    "which is no memory of the device; a CUDA context needs device, managed or pinned memory",
                ),
            },
            Err(result) => check(result, "cuPointerGetAttribute"),
        }
    }
}

/// Where the allocation that an address lies in begins and ends, if the driver says so. Of memory that is mapped to reserved
/// addresses this is what is mapped, where CU_POINTER_ATTRIBUTE_RANGE_SIZE would tell all that is reserved.
fn allocation(address: u64) -> Option<(u64, u64)> {
    let (mut start, mut size) = (0, 0);
    // SAFETY: the pointers are valid.
    let result = unsafe { sys::cuMemGetAddressRange_v2(&mut start, &mut size, address) };
    (result == CUresult::CUDA_SUCCESS).then_some((start, start + size as u64))
}

impl Queue<'_> {
    /// Waits for the stream.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is the context's.
        check(unsafe { sys::cuStreamSynchronize(self.stream.handle()) }, "cuStreamSynchronize")
    }

    /// Enqueues a copy from the device to host memory, which stays until the stream has passed it.
    pub fn copy_to_host(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let stream = self.stream.handle();
        // SAFETY: as many bytes on both sides, as vouched for by the view that the address comes from.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), stream) };
        check(result, "cuMemcpyDtoHAsync")
    }

    /// Enqueues a copy from host memory, which stays until the stream has passed it, to the device.
    pub fn copy_to_device(&self, to: u64, from: &[u8]) -> Result<()> {
        let stream = self.stream.handle();
        // SAFETY: as above.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream) };
        check(result, "cuMemcpyHtoDAsync")
    }
}

/// The device that an address belongs to, if the driver knows it.
fn owner(address: u64) -> Option<i32> {
    pointer_attribute(Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address).ok().flatten()
}

/// An attribute of an address, seen from the current context; `None` if the context cannot reach it.
fn pointer_attribute<T: Copy + Default>(which: Attribute, address: u64) -> Result<Option<T>, CUresult> {
    let mut value = T::default();
    // SAFETY: the attributes asked for here have the size of T (driver manual, cuPointerGetAttribute).
    match unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), which, address) } {
        CUresult::CUDA_SUCCESS => Ok(Some(value)),
        CUresult::CUDA_ERROR_INVALID_VALUE => Ok(None),
        other => Err(other),
    }
}
